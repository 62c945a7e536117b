"""The router (Eqs. 14 and 17-19): which entropy model suits a merged feature.

N merged features   D dimension   E entropy models
"""

import torch
from torch import Tensor, nn

HOT, COLD = 10.0, 0.1
"""The softmax temperature at the start and at the end of training (V-A2)."""


class Router(nn.Module):
    """A score for each entropy model from one merged feature; its hidden width, D/4, is ours (Fig. 5 gives none)."""

    def __init__(self, dim: int, n_experts: int) -> None:
        super().__init__()
        width = max(n_experts, dim // 4)
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, n_experts))

    def forward(self, u_ND: Tensor) -> Tensor:
        """s_NE of Eq. 14."""
        scores_NE: Tensor = self.layers(u_ND)
        return scores_NE

    def weights(self, u_ND: Tensor, temperature: float) -> Tensor:
        """w_NE of Eq. 17: a softmax of the scores over ``temperature`` > 0; rows sum to 1."""
        return torch.softmax(self.forward(u_ND) / temperature, -1)

    @torch.no_grad()
    def choose(self, u_ND: Tensor) -> Tensor:
        """The model with the highest score for each feature (Eq. 19), int64."""
        return self.forward(u_ND).argmax(-1)


def imbalance(w_NE: Tensor) -> Tensor:
    """Eq. 18 without its weight alpha: the squared distance of the models' mean weights from uniform."""
    return (w_NE.mean(0) - 1 / w_NE.shape[1]).square().sum()


def temperature_at(progress: float) -> float:
    """The temperature after a share ``progress`` in 0..1 of the training: exponentially from 10 to 0.1."""
    return HOT * float((COLD / HOT) ** min(max(progress, 0.0), 1.0))
