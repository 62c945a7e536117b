"""What turns the features of a patch into fewer: the paper's merging, or what its ablations put in its place.

P patches   V features a patch   C features that are kept   D dimension
"""

from typing import Protocol

from torch import Tensor

from harness.models.contract import Attention
from harness.tofc.merging import merge


class Reducer(Protocol):
    """Makes C features of the V of each patch; ``attended`` says whether it must be shown the tower's attention."""

    attended: bool

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:
        """The C features of each patch, y (P, C, D), at the dtype of ``x_PVD`` and differentiable in it.

        Raises ValueError for a number of features that it cannot make.
        """
        ...


class Merging:
    """The paper's FMM: density peaks on K nearest neighbours, and the mean of each cluster (Eqs. 2-3)."""

    attended = False

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = neighbours

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:  # noqa: ARG002
        """:func:`harness.tofc.merging.merge`'s ``y_PCD``."""
        return merge(x_PVD, n_clusters, self.neighbours).y_PCD
