"""h_s in integer arithmetic, so that device and server derive the same scales and means, whatever they compute on.

    E entropy models   N merged features   Z channels of z   D dimension   I inputs, O outputs of a layer

Weights and activations are integers; a layer is a float64 matrix product of them, whose sums stay far below 2**53 and
are therefore exact in any order, on any machine, in any batch; then a division by a power of two, rounded. A float h_s
would be a little different on each, and one scale that differs makes the rest of a stream unreadable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.tofc import laplacian
from harness.tofc.entropy_model import StackedLinear

FRACTION_BITS = 12
"""Activations, means and log2 scales are multiples of 2**-12."""

WEIGHT_BITS = 14
ACTIVATION_LIMIT = float(2**20 - 1)
"""Hidden activations are clamped to 0..2**20 - 1, that is below 256."""

_ONE = 2**FRACTION_BITS
_EXACT = 2**53


class IntegerSynthesis(nn.Module):
    """The integer twin of the E networks h_s: int16 weights, int64 biases and one power of two for each layer."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], shifts: Sequence[int]) -> None:
        super().__init__()
        self.n_layers = len(weights)
        self.shifts = tuple(shifts)
        for layer, (weight_EOI, bias_EO, shift) in enumerate(zip(weights, biases, shifts, strict=True)):
            largest = 2**WEIGHT_BITS * (ACTIVATION_LIMIT + 1) * weight_EOI.shape[-1] + bias_EO.abs().max().item()
            if int(weight_EOI.abs().max()) > 2**WEIGHT_BITS or not 0 <= shift <= 30 or largest * 2 >= _EXACT:
                raise ValueError(f"layer {layer} of the integer h_s can exceed the range in which float64 is exact")
            self.register_buffer(f"weight_{layer}", weight_EOI)
            self.register_buffer(f"bias_{layer}", bias_EO)

    @classmethod
    @torch.no_grad()
    def from_float(cls, h_s: nn.Sequential) -> "IntegerSynthesis":
        """Round a trained h_s: each layer's weights get the power of two that brings the largest just under 2**14."""
        weights, biases, shifts = [], [], []
        for layer in h_s:
            if isinstance(layer, StackedLinear):
                weight_EOI, bias_EO = layer.weight_EOI.double().cpu(), layer.bias_EO.double().cpu()
                _, exponent = torch.frexp(weight_EOI.abs().max())
                shift = min(max(WEIGHT_BITS - int(exponent), 0), 24)
                weights.append((weight_EOI * 2**shift).round().to(torch.int16))
                biases.append((bias_EO * 2 ** (shift + FRACTION_BITS)).round().to(torch.int64))
                shifts.append(shift)
        return cls(weights, biases, shifts)

    @torch.no_grad()
    def forward(self, z_NZ: Tensor, expert_N: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of each element in units of 2**-12 (float64, whole numbers) and its scale's level (uint8), (N, D).

        ``z_NZ`` holds the quantised hyperprior in units of 2**-12, ``expert_N`` the model of each feature.
        """
        final_NO = torch.empty(len(z_NZ), self.get_buffer(f"weight_{self.n_layers - 1}").shape[1], dtype=torch.float64)
        final_NO = final_NO.to(z_NZ.device)
        for expert in torch.unique(expert_N).tolist():
            rows = expert_N == expert
            final_NO[rows] = self._run(z_NZ[rows].double(), expert)
        mu_ND, log2_b_ND = final_NO.chunk(2, -1)
        offset = round(laplacian.LOG2_B_MIN * laplacian.LEVELS_PER_OCTAVE * _ONE)
        level_ND = ((log2_b_ND * laplacian.LEVELS_PER_OCTAVE - offset) / _ONE + 0.5).floor()
        return mu_ND, level_ND.clamp(0, laplacian.LEVELS - 1).to(torch.uint8)

    def _run(self, hidden: Tensor, expert: int) -> Tensor:
        for layer, shift in enumerate(self.shifts):
            weight_OI = self.get_buffer(f"weight_{layer}")[expert].double()
            bias_O = self.get_buffer(f"bias_{layer}")[expert].double()
            hidden = ((hidden @ weight_OI.T + bias_O) * 2.0**-shift + 0.5).floor()
            if layer < self.n_layers - 1:
                hidden = hidden.clamp(0.0, ACTIVATION_LIMIT)
        return hidden
