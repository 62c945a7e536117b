"""The learnable entropy models (Figs. 3 and 5): E of them side by side, each h_a, a density of z, and h_s.

    E entropy models   N merged features   D dimension   Z = D / 16 channels of z

The layer sizes of Fig. 3 are not in the paper's text. Here h_a is D - D - D/2 - Z and h_s is Z - D/2 - D - 2D with ReLU
between: 5.40 M parameters a model at D = 1152, where the paper's total of some 300 M trainable parameters leaves about
5.5 M for each of 16 (an inference).
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.tofc import laplacian
from harness.tofc.factorized import LIMIT, FactorizedDensity

Z_RATIO = 16


def round_straight_through(x: Tensor) -> Tensor:
    """STE of Eqs. 7-8: rounds, and passes the gradient as if it had not."""
    return x + (x.round() - x).detach()


class StackedLinear(nn.Module):
    """E fully connected layers applied at once: (E, N, I) to (E, N, O)."""

    def __init__(self, n_experts: int, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.weight_EOI = nn.Parameter(torch.randn(n_experts, outputs, inputs) * gain * inputs**-0.5)
        self.bias_EO = nn.Parameter(torch.zeros(n_experts, outputs))

    def forward(self, x_ENI: Tensor) -> Tensor:
        """W x + b under each of the E models."""
        return torch.baddbmm(self.bias_EO[:, None], x_ENI, self.weight_EOI.mT)


def _stack(n_experts: int, widths: tuple[int, ...], last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [StackedLinear(n_experts, inputs, outputs, 2**0.5), nn.ReLU()]
    return nn.Sequential(*layers, StackedLinear(n_experts, widths[-2], widths[-1], last_gain))


class Quantised(NamedTuple):
    """What every entropy model makes of every feature: its values ``u_END``, and the bits of y and z, both (E, N)."""

    u_END: Tensor
    y_bits_EN: Tensor
    z_bits_EN: Tensor


class EntropyModels(nn.Module):
    """n_e entropy models over features in units of the quantiser's step."""

    def __init__(self, n_experts: int, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.dim = dim
        n_channels = dim // Z_RATIO
        self.h_a = _stack(n_experts, (dim, *hidden, n_channels), 1.0)
        self.h_s = _stack(n_experts, (n_channels, *reversed(hidden), 2 * dim), 0.1)
        self.density = FactorizedDensity(n_experts, n_channels)

    def forward(self, u_ND: Tensor) -> Quantised:
        """Quantise each feature by each model (Eqs. 4-8), with straight-through gradients and noise-free rates."""
        return self._quantise(u_ND.expand(self.n_experts, -1, -1))

    def chosen(self, u_ND: Tensor, expert_N: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise each feature by its own model only: its values (N, D) and its bits, z's included (N,)."""
        order_N = expert_N.argsort(stable=True)
        expert_N = expert_N[order_N]
        sizes_E = torch.bincount(expert_N, minlength=self.n_experts)
        slot_N = torch.arange(len(expert_N), device=u_ND.device) - (sizes_E.cumsum(0) - sizes_E)[expert_N]
        # One batch for all models, padded to the most used: 16 small products in a row would cost more.
        padded_EMD = u_ND.new_zeros(self.n_experts, int(sizes_E.max()), u_ND.shape[1])
        each = self._quantise(padded_EMD.index_put((expert_N, slot_N), u_ND[order_N]))
        back_N = order_N.argsort()
        expert_N, slot_N = expert_N[back_N], slot_N[back_N]
        return each.u_END[expert_N, slot_N], (each.y_bits_EN + each.z_bits_EN)[expert_N, slot_N]

    def _quantise(self, u_END: Tensor) -> Quantised:
        z_ENZ = self.h_a(u_END)
        median_E1Z = self.density.medians()[:, None]
        z_ENZ = round_straight_through(z_ENZ - median_E1Z).clamp(-LIMIT, LIMIT) + median_E1Z
        mu_END, log2_b_END = self.h_s(z_ENZ).chunk(2, -1)
        symbol_END = round_straight_through(u_END - mu_END)
        return Quantised(
            symbol_END + mu_END,
            laplacian.bits(symbol_END, log2_b_END).sum(-1),
            self.density.bits(z_ENZ).sum(-1),
        )
