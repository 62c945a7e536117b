"""Feature merging: density peaks clustering on K nearest neighbours (Eqs. 2-3), then a mean over each cluster.

    P patches (tiles)   V features a patch   C clusters   D dimension

Density and distance enter the choice of centres as log rho + log delta: the ranking of rho x delta, without the
underflow of Eq. 2 on high-dimensional features. Distances are taken between mean-centred features, because an offset
that all features share would otherwise eat the digits. Of two features of equal density the one with the lower index
counts as the denser; so of a group of equal features only the first has a positive delta, and the others become centres
only where nothing else is left.
"""

import dataclasses

import torch
from torch import Tensor

from harness.tofc import density_peaks

_CHUNK_ELEMENTS = 1 << 24
"""Bound on the elements of one chunk's (P, V, V) distances: 64 MiB in float32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """Merged features ``y_PCD``, the cluster of each feature ``labels_PV``, and the centres' indices ``centres_PC``.

    Clusters are numbered by the position of their centre in the patch, so a row of ``centres_PC`` ascends.
    """

    y_PCD: Tensor
    labels_PV: Tensor
    centres_PC: Tensor


def merge(x_PVD: Tensor, n_clusters: int, k: int = 5) -> Merged:
    """Merge the V features of every patch into ``n_clusters`` means by DPC-KNN (Eqs. 2-3).

    ``x_PVD`` is floating point and finite; ``y_PCD`` has its dtype and device, and is differentiable in it (the choice
    of clusters is not). Deterministic. Raises ValueError unless ``x_PVD`` has three axes, 1 <= n_clusters <= V and
    1 <= k < V.
    """
    if x_PVD.ndim != 3 or not x_PVD.is_floating_point():
        raise ValueError(
            f"features of shape {tuple(x_PVD.shape)} and {x_PVD.dtype} are not (P, V, D) in floating point"
        )
    n_features = x_PVD.shape[1]
    if not 1 <= n_clusters <= n_features:
        raise ValueError(f"n_clusters is {n_clusters}; it must lie between 1 and the {n_features} features of a patch")
    if not 1 <= k < n_features:
        raise ValueError(f"k is {k}; a feature has between 1 and {n_features - 1} neighbours in its patch")
    with torch.no_grad():
        wide_PVD = x_PVD.detach().to(torch.promote_types(x_PVD.dtype, torch.float32))
        cluster = density_peaks.cluster if x_PVD.device.type == "cpu" else cluster_on_accelerator
        centres_PC, labels_PV = cluster(wide_PVD, n_clusters, k)
    return Merged(_pool(x_PVD, labels_PV, n_clusters), labels_PV, centres_PC)


def cluster_on_accelerator(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """Centres (P, C), ascending, and labels (P, V), both int64, by batched torch operations on any device.

    Raises ValueError for values that are not finite.
    """
    if not torch.isfinite(x_PVD).all():
        raise ValueError("the features hold infinite or undefined values; features must be finite")
    n_features = x_PVD.shape[1]
    chunk = max(1, _CHUNK_ELEMENTS // n_features**2)
    parts = [_cluster_chunk(part_PVD, n_clusters, k) for part_PVD in torch.split(x_PVD, chunk)]
    return torch.cat([centres_PC for centres_PC, _ in parts]), torch.cat([labels_PV for _, labels_PV in parts])


def _cluster_chunk(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    x_PVD = x_PVD - x_PVD.mean(1, keepdim=True)
    n_features = x_PVD.shape[1]
    index_V = torch.arange(n_features, device=x_PVD.device)
    # Differences, not a Gram matrix: equal features must be at distance zero exactly.
    distance_PVV = torch.cdist(x_PVD, x_PVD, compute_mode="donot_use_mm_for_euclid_dist")
    others_PVV = distance_PVV.masked_fill(index_V[:, None] == index_V, torch.inf)
    nearest_PVK = others_PVV.topk(k, largest=False).values.double()
    log_rho_PV = -nearest_PVK.square().sum(-1) / k

    own_PV1, other_P1V = log_rho_PV[:, :, None], log_rho_PV[:, None, :]
    denser_PVV = (other_P1V > own_PV1) | ((other_P1V == own_PV1) & (index_V < index_V[:, None]))
    delta_PV = distance_PVV.masked_fill(~denser_PVV, torch.inf).amin(-1)
    delta_PV = torch.where(delta_PV.isinf(), distance_PVV.amax(-1), delta_PV)

    score_PV = log_rho_PV + delta_PV.double().log()
    order_PV = score_PV.argsort(dim=-1, descending=True, stable=True)
    centres_PC = order_PV[:, :n_clusters].sort(-1).values
    to_centre_PVC = distance_PVV.gather(2, centres_PC[:, None, :].expand(-1, n_features, -1))
    labels_PV = to_centre_PVC.argmin(-1)
    numbers_PC = torch.arange(n_clusters, device=x_PVD.device).expand_as(centres_PC)
    return centres_PC, labels_PV.scatter(1, centres_PC, numbers_PC)


def _pool(x_PVD: Tensor, labels_PV: Tensor, n_clusters: int) -> Tensor:
    n_patches, _, dimension = x_PVD.shape
    bag_PV = labels_PV + n_clusters * torch.arange(n_patches, device=labels_PV.device)[:, None]
    order = bag_PV.flatten().argsort(stable=True)
    size = bag_PV.flatten().bincount(minlength=n_patches * n_clusters)
    wide = torch.promote_types(x_PVD.dtype, torch.float32)
    sums = torch.nn.functional.embedding_bag(order, x_PVD.flatten(0, 1).to(wide), size.cumsum(0) - size, mode="sum")
    return (sums / size[:, None]).to(x_PVD.dtype).view(n_patches, n_clusters, dimension)
