"""The router (Eqs. 14 and 17-19): which entropy model suits a merged feature.

N merged features   D dimension   E entropy models
"""

import torch
from torch import Tensor, nn

HOT, COLD = 10.0, 0.1
"""The softmax temperature at the start and at the end of training (V-A2)."""


class Router(nn.Module):
    """A score for each entropy model from one merged feature; its hidden width, D/4, is ours (Fig. 5 gives none).

    It sees y after a fixed normalisation, not in units of the quantiser's step: while the step is being learned, a
    feature's model should not change under it.
    """

    centre_D: Tensor
    scale_D: Tensor

    def __init__(self, dim: int, n_experts: int) -> None:
        super().__init__()
        width = max(n_experts, dim // 4)
        self.register_buffer("centre_D", torch.zeros(dim))
        self.register_buffer("scale_D", torch.ones(dim))
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, n_experts))

    @torch.no_grad()
    def fit_scale(self, y_ND: Tensor) -> None:
        """Set the normalisation to these features' mean and standard deviation."""
        self.centre_D.copy_(y_ND.mean(0))
        self.scale_D.copy_(1 / y_ND.std(0).clamp(min=1e-6))

    def forward(self, y_ND: Tensor) -> Tensor:
        """s_NE of Eq. 14."""
        scores_NE: Tensor = self.layers((y_ND - self.centre_D) * self.scale_D)
        return scores_NE

    def weights(self, y_ND: Tensor, temperature: float) -> Tensor:
        """w_NE of Eq. 17: a softmax of the scores over ``temperature`` > 0; rows sum to 1."""
        return torch.softmax(self.forward(y_ND) / temperature, -1)

    @torch.no_grad()
    def choose(self, y_ND: Tensor) -> Tensor:
        """The model with the highest score for each feature (Eq. 19), int64."""
        return self.forward(y_ND).argmax(-1)


def imbalance(w_NE: Tensor) -> Tensor:
    """Eq. 18 without its weight alpha: the squared distance of the models' mean weights from uniform."""
    return (w_NE.mean(0) - 1 / w_NE.shape[1]).square().sum()


def temperature_at(progress: float, hot: float = HOT, cold: float = COLD) -> float:
    """The temperature after a share ``progress`` in 0..1 of the training: exponentially from ``hot`` to ``cold``."""
    return hot * float((cold / hot) ** min(max(progress, 0.0), 1.0))
