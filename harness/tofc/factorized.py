"""The learned factorized density of the hyperprior z, one for each channel of each entropy model.

    E entropy models   Z channels of z   N features

The cumulative distribution is the monotone network of Balle et al., "Variational image compression with a scale
hyperprior" (the paper's [24]), appendix 6.1.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

LIMIT = 31
"""Symbols of z are clamped to -LIMIT..LIMIT around the median: z is side information, so a clamp costs rate, not y."""

_WIDTHS = (1, 3, 3, 3, 1)
_MEDIAN_RANGE = 128


class FactorizedDensity(nn.Module):
    """p(z) of Eq. 6 for E x Z independent channels; ``spread`` is about the width of the initial densities."""

    def __init__(self, n_experts: int, n_channels: int, spread: float = 10.0) -> None:
        super().__init__()
        self.shape = (n_experts, n_channels)
        channels = n_experts * n_channels
        gain = spread ** (-1 / (len(_WIDTHS) - 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for inputs, outputs in pairwise(_WIDTHS):
            start = torch.tensor(gain / outputs).expm1().log()
            self.matrices.append(nn.Parameter(start.repeat(channels, outputs, inputs)))
            self.biases.append(nn.Parameter(torch.rand(channels, outputs, 1) - 0.5))
            if outputs > 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))

    def _logits(self, z_QN: Tensor) -> Tensor:
        """The logit of the cumulative distribution of each of the Q = E x Z channels."""
        hidden = z_QN[:, None]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, functional.softplus(matrix), hidden)
            if layer < len(self.factors):
                hidden = hidden + torch.tanh(self.factors[layer]) * torch.tanh(hidden)
        return hidden[:, 0]

    def bits(self, z_ENZ: Tensor) -> Tensor:
        """-log2 of Eq. 6 at each value, (E, N, Z)."""
        n_experts, n_features, n_channels = z_ENZ.shape
        z_QN = z_ENZ.transpose(1, 2).reshape(n_experts * n_channels, n_features)
        return (-self._mass(z_QN).clamp(min=1e-9).log2()).view(n_experts, n_channels, n_features).transpose(1, 2)

    def _mass(self, z_QN: Tensor) -> Tensor:
        lower, upper = self._logits(z_QN - 0.5), self._logits(z_QN + 0.5)
        # Both logits are moved to the side where the sigmoids are small, or their difference would cancel. At the
        # median they cancel exactly: then either side is right, but a sign of zero would make the mass vanish.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    @torch.no_grad()
    def medians(self) -> Tensor:
        """mu_1/2 of Eq. 8, (E, Z): where the cumulative distribution is one half, within 1e-3."""
        device = self.biases[0].device
        coarse_G = torch.arange(-_MEDIAN_RANGE, _MEDIAN_RANGE + 1.0, device=device)
        channels = self.biases[0].shape[0]
        low_Q1 = coarse_G[(self._logits(coarse_G.expand(channels, -1)) < 0).sum(-1, keepdim=True).clamp(1, 256) - 1]
        fine_G = torch.linspace(0, 1, 65, device=device)
        logits_QG = self._logits(low_Q1 + fine_G)
        right_Q1 = (logits_QG < 0).sum(-1, keepdim=True).clamp(1, 64)
        before, after = logits_QG.gather(1, right_Q1 - 1), logits_QG.gather(1, right_Q1)
        share = (-before / (after - before).clamp(min=1e-9)).clamp(0, 1)
        return (low_Q1 + (right_Q1 - 1 + share) / 64).view(self.shape)

    @torch.no_grad()
    def masses(self, medians_EZ: Tensor) -> Tensor:
        """The probability of each symbol -LIMIT..LIMIT, (E, Z, 2 LIMIT + 1); what lies outside counts to the ends."""
        edges_A = torch.arange(-LIMIT, LIMIT, device=medians_EZ.device) + 0.5
        cumulative_QA = self._cumulative(medians_EZ, edges_A)
        zero, one = torch.zeros_like(cumulative_QA[:, :1]), torch.ones_like(cumulative_QA[:, :1])
        return torch.cat([zero, cumulative_QA, one], 1).diff(dim=1).clamp(min=0).view(*self.shape, -1)

    @torch.no_grad()
    def masses_and_escape(self, medians_EZ: Tensor) -> Tensor:
        """The probability of each symbol -LIMIT..LIMIT and, last, of all that lie outside: (E, Z, 2 LIMIT + 2)."""
        edges_A = torch.arange(-LIMIT, LIMIT + 2, device=medians_EZ.device) - 0.5
        inside_QA = self._cumulative(medians_EZ, edges_A).diff(dim=1).clamp(min=0)
        outside_Q1 = (1 - inside_QA.sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([inside_QA, outside_Q1], 1).view(*self.shape, -1)

    def _cumulative(self, medians_EZ: Tensor, edges_A: Tensor) -> Tensor:
        return torch.sigmoid(self._logits(medians_EZ.reshape(-1, 1) + edges_A).double())
