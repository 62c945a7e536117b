"""Replacements of merging in Table I without parameters: only the cluster centres, and VisionZip.

VisionZip is Yang et al., "VisionZip: Longer is better but not necessary in vision language models". Of the C features a
patch, the *dominant* ones are those that receive most attention in the tower; where the tower has a class token, that
is one of them, as in the method's own code. Of the R others, some at a uniform stride are *targets*; each of the rest
is assigned to the target whose key is most similar, and a *contextual* feature is a target plus the mean of the
features assigned to it.

    P patches   V features a patch   C features that are kept   D dimension   R features that are not dominant
    T targets   K dimension of a key
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from harness.errors import FeaturesError
from harness.models.contract import Attention
from harness.tofc.merging import merge


class Centres:
    """FMM without merging: keeps the cluster centres of Eqs. 2-3 unchanged, and discards all other features."""

    attended = False

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:  # noqa: ARG002
        """The features at ``centres_PC`` of :func:`harness.tofc.merging.merge`, exactly."""
        return _at(x_PVD, merge(x_PVD.detach(), n_clusters).centres_PC)


class VisionZip:
    """Keeps one feature in ``one_in`` for its attention and merges the others; None merges all.

    The paper's VisionZip is 4 dominant of 16, its VisionZip merging none.
    """

    attended = True

    def __init__(self, one_in: int | None = 4) -> None:
        self.one_in = one_in

    def n_dominant(self, n_clusters: int) -> int:
        """How many of ``n_clusters`` features are dominant: the nearest whole number, halves upwards."""
        return 0 if self.one_in is None else (n_clusters + self.one_in // 2) // self.one_in

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:
        """The class token where it is kept, the dominant features by their places, the contextual ones by theirs.

        Raises FeaturesError unless 1 <= n_clusters <= V, ValueError without the tower's attention.
        """
        n_features = x_PVD.shape[1]
        if not 1 <= n_clusters <= n_features:
            raise FeaturesError(f"{n_clusters} features of a patch cannot be kept; it has {n_features}")
        if attention is None:
            raise ValueError("VisionZip needs the attention that features receive, and their keys")
        n_dominant = self.n_dominant(n_clusters)
        kept = [] if attention.class_PD is None or not n_dominant else [attention.class_PD[:, None].to(x_PVD)]
        n_attended = n_dominant - len(kept)
        # With equal attention the lower index comes first.
        order_PV = attention.received_PV.argsort(dim=-1, descending=True, stable=True)
        dominant_PC = order_PV[:, :n_attended].sort(-1).values
        others_PR = order_PV[:, n_attended:].sort(-1).values
        rest_PRD = _at(x_PVD, others_PR)
        keys_PRK = normalize(_at(attention.keys_PVK, others_PR).float(), dim=-1)

        n_targets = n_clusters - n_dominant
        n_rest = n_features - n_attended
        is_target_R = torch.zeros(n_rest, dtype=torch.bool, device=x_PVD.device)
        is_target_R[:: max(1, n_rest // n_targets)][:n_targets] = True
        similarity_PRT = keys_PRK[:, ~is_target_R] @ keys_PRK[:, is_target_R].mT
        went_PTR = one_hot(similarity_PRT.argmax(-1), n_targets).mT.to(torch.promote_types(x_PVD.dtype, torch.float32))
        mean_PTR = went_PTR / went_PTR.sum(-1, keepdim=True).clamp(min=1)
        mean_PTD = (mean_PTR @ rest_PRD[:, ~is_target_R].to(mean_PTR)).to(x_PVD.dtype)
        contextual_PTD = rest_PRD[:, is_target_R] + mean_PTD
        return torch.cat([*kept, _at(x_PVD, dominant_PC), contextual_PTD], 1)


def _at(x_PVD: Tensor, places_PC: Tensor) -> Tensor:
    return x_PVD.gather(1, places_PC[:, :, None].expand(-1, -1, x_PVD.shape[2]))
