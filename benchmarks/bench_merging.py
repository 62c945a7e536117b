"""Feature merging beside the product it needs and beside the same equations in plain torch operations."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.timing import interleaved_s, place
from harness.data import streetsqa
from harness.models.contract import Untimed
from harness.models.onevision import load
from harness.tofc import density_peaks
from harness.tofc.merging import merge


def plain(x_PVD: Tensor, n_clusters: int, k: int = 5) -> Tensor:
    """Eqs. 2-3 as cdist, topk and a masked minimum (with log scores, or Eq. 2 would be 0 throughout), and means."""
    distance_PVV = torch.cdist(x_PVD, x_PVD)
    log_rho_PV = -distance_PVV.topk(k + 1, largest=False).values[..., 1:].square().mean(-1)
    denser_PVV = log_rho_PV[:, None, :] > log_rho_PV[:, :, None]
    delta_PV = torch.where(denser_PVV, distance_PVV, torch.inf).amin(-1)
    delta_PV = torch.where(delta_PV.isinf(), distance_PVV.amax(-1), delta_PV)
    centres_PC = (log_rho_PV + delta_PV.log()).topk(n_clusters).indices
    labels_PV = distance_PVV.gather(2, centres_PC[:, None].expand(-1, x_PVD.shape[1], -1)).argmin(-1)
    sums_PCD = torch.zeros(*centres_PC.shape, x_PVD.shape[2])
    sums_PCD.scatter_add_(1, labels_PV[..., None].expand_as(x_PVD), x_PVD)
    sizes_PC = torch.zeros(centres_PC.shape).scatter_add_(1, labels_PV, torch.ones(labels_PV.shape))
    return sums_PCD / sizes_PC[..., None]


def product(x_PVD: Tensor) -> list[NDArray[np.float32]]:
    """Compute the symmetric product alone: numpy recognises x @ x.T and computes half of it (BLAS syrk)."""
    return [x_VD @ x_VD.T for x_VD in x_PVD.numpy()]


def own_product(x_PVD: Tensor) -> None:
    """Compute the lower triangles as the merging does, and nothing else."""
    triangle_VV = np.empty((x_PVD.shape[1], x_PVD.shape[1]), np.float32)
    for x_VD in x_PVD.numpy():
        density_peaks.inner_products(x_VD, triangle_VV)


def miniature() -> Tensor:
    """Features of the miniature's tower, of StreetsQA's first pictures."""
    vision = load("mini-onevision").vision()
    return torch.cat([vision.see(page.scene().image, Untimed()).x_PVD for page in streetsqa.book("test", 0)[:8]])


def main() -> None:
    """Print one row for each shape and kind: times, and how far from the product and from the plain form.

    An offset that outweighs the features has to be taken off first; where all but one have a near-duplicate, float32
    decides none, and each patch is clustered on differences.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)
    print(place())
    generator = torch.Generator().manual_seed(0)
    ordinary, small = torch.randn(5, 729, 1152, generator=generator), torch.randn(5, 144, 128, generator=generator)
    half = ordinary[:, :365]
    near = torch.cat([half, half + 1e-4 * torch.randn(half.shape, generator=generator)], 1)[:, :729]
    mini = miniature()
    print("         features           shape   n_c   merge ms   syrk ms   own product ms   plain ms", end="")
    print("   merge/syrk   merge/own   plain/merge")
    for kind, x_PVD, n_clusters in (
        ("ordinary", ordinary, 8),
        ("ordinary", ordinary, 16),
        ("ordinary", ordinary, 32),
        ("with an offset", ordinary + 3, 16),
        ("near-duplicates", near, 16),
        ("ordinary", small, 4),
        ("the miniature's", mini, 3),
        ("the miniature's", mini, 6),
    ):
        seconds = interleaved_s(
            {
                "merge": functools.partial(merge, x_PVD, n_clusters),
                "syrk": functools.partial(product, x_PVD),
                "own": functools.partial(own_product, x_PVD),
                "plain": functools.partial(plain, x_PVD, n_clusters),
            }
        )
        merged, syrk, own, torch_form = (1e3 * seconds[name] for name in ("merge", "syrk", "own", "plain"))
        print(
            f"{kind:>17}{tuple(x_PVD.shape)!s:>16}{n_clusters:>6}{merged:>11.2f}{syrk:>10.2f}{own:>17.2f}"
            f"{torch_form:>11.2f}{merged / syrk:>13.2f}{merged / own:>12.2f}{torch_form / merged:>14.2f}"
        )


if __name__ == "__main__":
    main()
