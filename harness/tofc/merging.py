"""Feature merging: density peaks clustering on K nearest neighbours (Eqs. 2-3), then a mean over each cluster.

    P patches (tiles)   V features a patch   C clusters   D dimension

Density and distance enter the choice of centres as log rho + log delta: the ranking of rho x delta, without the
underflow of Eq. 2 on high-dimensional features. Distances are differences, or products of features less an offset that
they share and that would cost precision; the choice is that of float64 on any device. Of two features of equal density
the one with the lower index counts as the denser; so of a group of equal features only the first has a positive delta,
and the others become centres only where nothing else is left.
"""

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from harness.errors import FeaturesError
from harness.models.contract import Attention
from harness.tofc import density_peaks

_CHUNK_ELEMENTS = 1 << 24
"""Bound on the elements of one chunk's (P, V, V) distances: 64 MiB in float32."""

_RIVALS = 64
"""The number of features whose distances to all centres are computed again at a time, in float64."""


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """Merged features ``y_PCD``, the cluster of each feature ``labels_PV``, and the centres' indices ``centres_PC``.

    Clusters are numbered by the position of their centre in the patch, so a row of ``centres_PC`` ascends.
    """

    y_PCD: Tensor
    labels_PV: Tensor
    centres_PC: Tensor


class Reducer(Protocol):
    """Makes C features of the V of each patch: the paper's merging, or what its ablations put in its place.

    ``attended`` says whether it needs the tower's attention.
    """

    attended: bool

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:
        """The C features of each patch, y (P, C, D), at the dtype of ``x_PVD`` and differentiable in it.

        Raises FeaturesError for a number of features that it cannot make, and for features that are not finite.
        """
        ...


class Merging:
    """The paper's FMM: density peaks on K nearest neighbours, and the mean of each cluster (Eqs. 2-3)."""

    attended = False

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = neighbours

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:  # noqa: ARG002
        """:func:`merge`'s ``y_PCD``."""
        return merge(x_PVD, n_clusters, self.neighbours).y_PCD


def merge(x_PVD: Tensor, n_clusters: int, k: int = 5) -> Merged:
    """Merge the V features of every patch into ``n_clusters`` means by DPC-KNN (Eqs. 2-3).

    ``x_PVD`` is floating point and finite; ``y_PCD`` has its dtype and device, and is differentiable in it (the choice
    of clusters is not). Deterministic. Raises ValueError unless ``x_PVD`` has three axes; FeaturesError, which is one,
    unless 1 <= n_clusters <= V and 1 <= k < V, and for values that are not finite.
    """
    if x_PVD.ndim != 3 or not x_PVD.is_floating_point():
        raise ValueError(
            f"features of shape {tuple(x_PVD.shape)} and {x_PVD.dtype} are not (P, V, D) in floating point"
        )
    n_features = x_PVD.shape[1]
    if not 1 <= n_clusters <= n_features:
        raise FeaturesError(
            f"n_clusters is {n_clusters}; it must lie between 1 and the {n_features} features of a patch"
        )
    if not 1 <= k < n_features:
        raise FeaturesError(f"k is {k}; a feature has between 1 and {n_features - 1} neighbours in its patch")
    with torch.no_grad():
        wide_PVD = x_PVD.detach().to(torch.promote_types(x_PVD.dtype, torch.float32))
        cluster = density_peaks.cluster if x_PVD.device.type == "cpu" else cluster_on_accelerator
        centres_PC, labels_PV = cluster(wide_PVD, n_clusters, k)
    return Merged(_pool(x_PVD, labels_PV, n_clusters), labels_PV, centres_PC)


def cluster_on_accelerator(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """Centres (P, C), ascending, and labels (P, V), both int64, by batched torch operations on any device.

    Patches whose centres the rounding of float32 leaves in doubt are clustered on the CPU. Raises FeaturesError for
    values that are not finite.
    """
    if not torch.isfinite(x_PVD).all():
        raise FeaturesError("the features hold infinite or undefined values; features must be finite")
    density_peaks.prepare()
    chunk = max(1, _CHUNK_ELEMENTS // x_PVD.shape[1] ** 2)
    parts = [_cluster_chunk(part_PVD, n_clusters, k) for part_PVD in torch.split(x_PVD, chunk)]
    centres_PC, labels_PV, sure_P = (torch.cat(part) for part in zip(*parts, strict=True))
    if not sure_P.all():
        exact = density_peaks.cluster(x_PVD[~sure_P].cpu(), n_clusters, k)
        centres_PC[~sure_P], labels_PV[~sure_P] = (found.to(x_PVD.device) for found in exact)
    return centres_PC, labels_PV


def _cluster_chunk(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, labels, and whether the centres are beyond doubt (P,)."""
    # Differences, not a Gram matrix: an offset takes no digits, and the error is relative to the distance itself.
    distance_PVV = torch.cdist(x_PVD, x_PVD, compute_mode="donot_use_mm_for_euclid_dist")
    error = density_peaks.rounding(x_PVD.shape[2], torch.finfo(x_PVD.dtype).eps)
    least, most = (square**0.5 for square in density_peaks.RANGE[x_PVD.dtype.itemsize])
    is_told_PVV = ((distance_PVV == 0) | (distance_PVV > least)) & (distance_PVV < most)

    index_V = torch.arange(x_PVD.shape[1], device=x_PVD.device)
    first_PV = (distance_PVV == 0).to(torch.uint8).argmax(-1)
    is_twin_PV = first_PV < index_V
    is_equal_PV = (x_PVD == x_PVD.gather(1, first_PV[..., None].expand_as(x_PVD))).all(-1)
    low_PV, high_PV = _scores(distance_PVV, is_twin_PV, k, error)

    order_PV = low_PV.argsort(dim=-1, descending=True, stable=True)
    centres_PC = order_PV[:, :n_clusters].sort(-1).values
    is_centre_PV = torch.zeros_like(is_twin_PV).scatter(1, centres_PC, True)
    threshold_P1 = low_PV.gather(1, order_PV[:, n_clusters - 1 : n_clusters])
    # Where equal features have to serve as centres, all others must be known to come before them.
    is_doubtful_PV = torch.where(
        threshold_P1 > -torch.inf, (high_PV >= threshold_P1) & ~is_centre_PV, low_PV.isneginf() & ~is_twin_PV
    )
    sure_P = is_told_PVV.flatten(1).all(-1) & (is_equal_PV & ~is_doubtful_PV).all(-1)

    to_centre_PVC = distance_PVV.gather(2, centres_PC[:, None, :].expand(-1, len(index_V), -1))
    labels_PV = to_centre_PVC.argmin(-1)
    has_rivals_PV = (to_centre_PVC <= to_centre_PVC.amin(-1, keepdim=True) * (1 + error)).sum(-1) > 1
    for found in torch.split(has_rivals_PV.nonzero(), _RIVALS):
        patch, feature = found.T
        x_M1D, x_MCD = x_PVD[patch, feature][:, None].double(), x_PVD[patch[:, None], centres_PC[patch]].double()
        labels_PV[patch, feature] = (x_M1D - x_MCD).square().sum(-1).argmin(-1)
    numbers_PC = torch.arange(n_clusters, device=x_PVD.device).expand_as(centres_PC)
    return centres_PC, labels_PV.scatter(1, centres_PC, numbers_PC), sure_P


def _scores(distance_PVV: Tensor, is_twin_PV: Tensor, k: int, error: float) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds on log rho + log delta (Eqs. 2-3), as density_peaks has them: none for twins."""
    index_V = torch.arange(distance_PVV.shape[1], device=distance_PVV.device)
    others_PVV = distance_PVV.masked_fill(index_V[:, None] == index_V, torch.inf)
    mean_PV = others_PVV.topk(k, largest=False).values.double().square().mean(-1)
    least_PV = (-mean_PV * (1 + error)).masked_fill(is_twin_PV, -torch.inf)
    most_PV = (-mean_PV * (1 - error)).masked_fill(is_twin_PV, -torch.inf)
    sure_PV, maybe_PV = (
        torch.where(_is_denser(other_PV, own_PV, index_V), others_PVV, torch.inf).amin(-1)
        for other_PV, own_PV in ((least_PV, most_PV), (most_PV, least_PV))
    )
    sure_PV = torch.where(sure_PV.isinf(), distance_PVV.amax(-1), sure_PV)
    low_PV = least_PV + torch.minimum(maybe_PV, sure_PV).double().log() - error
    return low_PV, most_PV + sure_PV.double().log() + error


def _is_denser(other_PV: Tensor, own_PV: Tensor, index_V: Tensor) -> Tensor:
    """Whether feature j is denser than i, (P, i, j): of two equals the lower index is."""
    other_P1V, own_PV1 = other_PV[:, None, :], own_PV[:, :, None]
    return (other_P1V > own_PV1) | ((other_P1V == own_PV1) & (index_V < index_V[:, None]))


def _pool(x_PVD: Tensor, labels_PV: Tensor, n_clusters: int) -> Tensor:
    n_patches, _, dimension = x_PVD.shape
    bag_PV = labels_PV + n_clusters * torch.arange(n_patches, device=labels_PV.device)[:, None]
    order = bag_PV.flatten().argsort(stable=True)
    size = bag_PV.flatten().bincount(minlength=n_patches * n_clusters)
    wide = torch.promote_types(x_PVD.dtype, torch.float32)
    sums = torch.nn.functional.embedding_bag(order, x_PVD.flatten(0, 1).to(wide), size.cumsum(0) - size, mode="sum")
    return (sums / size[:, None]).to(x_PVD.dtype).view(n_patches, n_clusters, dimension)
