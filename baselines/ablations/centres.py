"""FMM without merging (Table I): the centres that density peaks choose, and none of the features around them.

P patches   V features a patch   C features that are kept   D dimension
"""

from torch import Tensor

from harness.models.contract import Attention
from harness.tofc.merging import merge


class Centres:
    """Keeps the cluster centres of Eqs. 2-3 as they are, and discards all other features."""

    attended = False

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:  # noqa: ARG002
        """The features at ``centres_PC`` of :func:`harness.tofc.merging.merge`, exactly."""
        centres_PC = merge(x_PVD.detach(), n_clusters).centres_PC
        return x_PVD.gather(1, centres_PC[:, :, None].expand(-1, -1, x_PVD.shape[2]))
