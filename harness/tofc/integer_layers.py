"""The networks of the entropy models in integers: 8-bit weights, 15-bit activations, sums that cannot round.

    E entropy models   N merged features   I inputs, O outputs of a layer

Layer by layer, for the row o of a model's weights,

    x' = floor((m_o sum_i w_oi x_i + c_o) / 2**24 + 1/2)

with w int8, m (the row's scale) int32, c int64, and x int16 in units of 2**-7; hidden x' are clamped to 0..2**15 - 1,
which is also the ReLU. Why this is exact, on any machine, in any batch and in any order:

- |x| < 2**15, and every row has sum_i |w_oi| <= 2**16. So every partial sum stays below 2**31: it fits an int32, and
  is a whole number that a float64 holds (2**53), whichever of the two a machine sums with;
- |m| < 2**31 and |c| < 2**61, so m sum + c + 2**23 stays below 2**63: it fits an int64;
- the division by 2**24 is a shift.

A float network would be a little different on each machine, and one scale of y that differs makes the rest of a stream
unreadable. Eight bits a weight also make a codec fast at inference: with few features for each model, its time is that
of reading the weights.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.kernels import kernel, warm_up
from harness.tofc.entropy_model import StackedLinear
from harness.tofc.integer_dot import BLOCK, products

ACTIVATION_BITS = 7
"""Activations are multiples of 2**-7."""

ACTIVATION_LIMIT = 2**15 - 1
"""In those units: activations stay below 256."""

WEIGHT_LIMIT = 127
ROW_LIMIT = 2**16
"""Of sum_i |w_oi|."""

OUTPUT_LIMIT = 2**30 - 1
"""What the last layer gives is clamped to this magnitude."""

_SHIFT = 24
_HALF = 1 << (_SHIFT - 1)
_BIAS_LIMIT = 2**61

Array = NDArray[Any]


class IntegerLayers:
    """E stacks of layers with ReLU between; ``tensors`` are weight_L, multiplier_L and bias_L of each layer L.

    ``shape`` is (E, inputs, outputs). Raises ValueError where a weight, a row's sum, a multiplier or a bias is beyond
    what is exact; KeyError where a tensor is absent.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
        n_layers = sum(name.startswith("weight_") for name in tensors)
        self.weights, self.multipliers, self.biases = (
            [tensors[f"{kind}_{layer}"].to(device).contiguous() for layer in range(n_layers)]
            for kind in ("weight", "multiplier", "bias")
        )
        for layer in range(n_layers):
            _check(layer, self.weights[layer], self.multipliers[layer], self.biases[layer])
            if layer and self.weights[layer].shape[::2] != self.weights[layer - 1].shape[:2]:
                raise ValueError(f"layer {layer} of an integer network does not take what the one before it gives")
        self.shape = (len(self.weights[0]), self.weights[0].shape[2], self.weights[-1].shape[1])
        if torch.device(device).type == "cpu":
            # Padded here, not in the checkpoint: the format does not depend on the width of vectors.
            self.weights = [nn.functional.pad(w_EOI, (0, -w_EOI.shape[2] % BLOCK)) for w_EOI in self.weights]
            self._arrays = tuple(
                tuple(tensor.numpy() for tensor in kind) for kind in (self.weights, self.multipliers, self.biases)
            )

    @torch.no_grad()
    def __call__(self, x_NI: Tensor, expert_N: Tensor) -> Tensor:
        """The last layer's outputs (N, O), int32, of inputs (N, I) that are whole numbers in units of 2**-7.

        Inputs are clamped to the range of activations, either sign. ``expert_N`` (int64) says whose layers.
        """
        x_NI = x_NI.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        if x_NI.device.type != "cpu":
            return self.by_matrix_products(x_NI, expert_N)
        out_NO = np.empty((len(x_NI), self.shape[2]), np.int32)
        model_N = expert_N.numpy()
        order_N = np.argsort(model_N, kind="stable")  # Here: numba takes a second to compile a sort.
        _run(x_NI.to(torch.int16).numpy(), model_N, order_N, *self._arrays, out_NO)  # type: ignore[call-arg, arg-type]
        return torch.from_numpy(out_NO)

    def by_matrix_products(self, x_NI: Tensor, expert_N: Tensor) -> Tensor:
        """The same by float64 matrix products, on any device."""
        out_NO = torch.empty(len(x_NI), self.shape[2], dtype=torch.int32, device=x_NI.device)
        for expert in torch.unique(expert_N).tolist():
            rows = expert_N == expert
            hidden = x_NI[rows].double()
            for weight_EOI, multiplier_EO, bias_EO in zip(self.weights, self.multipliers, self.biases, strict=True):
                sums = hidden @ weight_EOI[expert, :, : hidden.shape[1]].double().T
                whole = (sums.to(torch.int64) * multiplier_EO[expert] + bias_EO[expert] + _HALF) >> _SHIFT
                hidden = whole.clamp(0, ACTIVATION_LIMIT).double()
            out_NO[rows] = whole.clamp(-OUTPUT_LIMIT, OUTPUT_LIMIT).to(torch.int32)
        return out_NO


@torch.no_grad()
def quantised(
    stack: Iterable[nn.Module], unit_EO: Tensor, offset_EO: Tensor, shift_EI: Tensor | None = None
) -> dict[str, Tensor]:
    """The tensors of :class:`IntegerLayers` for a trained stack, with what precedes and follows it folded in.

    An input x stands for x + shift; an output v becomes (v + offset) unit, rounded. A row's largest weight becomes 127,
    or its sum of magnitudes 2**16 where that comes first; its multiplier fits the rounded weights to the true ones.
    Raises ValueError for weights too large for their multiplier.
    """
    layers = [layer for layer in stack if isinstance(layer, StackedLinear)]
    tensors = {}
    for number, layer in enumerate(layers):
        weight_EOI, bias_EO = layer.weight_EOI.double().cpu(), layer.bias_EO.double().cpu()
        if number == 0 and shift_EI is not None:
            bias_EO = bias_EO + torch.einsum("eoi,ei->eo", weight_EOI, shift_EI.double().cpu())
        unit = torch.full_like(bias_EO, 2.0**ACTIVATION_BITS)
        if number == len(layers) - 1:
            unit, bias_EO = unit_EO.double().cpu(), bias_EO + offset_EO.double().cpu()
        magnitude_EOI = weight_EOI.abs()
        # Rounding adds at most one half to each magnitude.
        row_limit = ROW_LIMIT - weight_EOI.shape[2] / 2
        scale_EO = torch.maximum(magnitude_EOI.amax(2) / WEIGHT_LIMIT, magnitude_EOI.sum(2) / row_limit)
        rounded_EOI = (weight_EOI / scale_EO.clamp(min=1e-30)[..., None]).round()
        scale_EO = (weight_EOI * rounded_EOI).sum(2) / rounded_EOI.square().sum(2).clamp(min=1.0)
        multiplier_EO = (scale_EO * unit * 2.0 ** (_SHIFT - ACTIVATION_BITS)).round()
        shifted_EO = (bias_EO * unit * 2.0**_SHIFT).round()
        if not multiplier_EO.max() < 2**31 or not shifted_EO.abs().max() < _BIAS_LIMIT:
            raise ValueError(f"layer {number} has weights or biases too large, or undefined, for integer arithmetic")
        tensors[f"weight_{number}"] = rounded_EOI.to(torch.int8)
        tensors[f"multiplier_{number}"] = multiplier_EO.to(torch.int32)
        tensors[f"bias_{number}"] = shifted_EO.to(torch.int64)
    return tensors


def _check(layer: int, weight_EOI: Tensor, multiplier_EO: Tensor, bias_EO: Tensor) -> None:
    kinds = (weight_EOI.dtype, multiplier_EO.dtype, bias_EO.dtype) == (torch.int8, torch.int32, torch.int64)
    if not kinds or not weight_EOI.shape[:2] == multiplier_EO.shape == bias_EO.shape:
        raise ValueError(f"layer {layer} of an integer network is not int8 weights, int32 multipliers, int64 biases")
    largest_row = weight_EOI.abs().sum(2, dtype=torch.int64).max()
    # abs() leaves -128 as it is.
    if weight_EOI.min() < -WEIGHT_LIMIT or largest_row > ROW_LIMIT or bias_EO.abs().max() >= _BIAS_LIMIT:
        raise ValueError(f"layer {layer} of an integer network can exceed the range in which its sums are exact")


@kernel
def _run(
    x_NI: NDArray[np.int16],
    expert_N: NDArray[np.int64],
    order_N: NDArray[np.int64],
    weights: tuple[Array, ...],
    multipliers: tuple[Array, ...],
    biases: tuple[Array, ...],
    out_NO: NDArray[np.int32],
) -> None:
    """Run each model over its own features, which ``order_N`` puts together, so that its weights are read once."""
    start = 0
    while start < len(order_N):
        expert = expert_N[order_N[start]]
        end = start + 1
        while end < len(order_N) and expert_N[order_N[end]] == expert:
            end += 1
        rows = order_N[start:end]
        hidden = np.zeros((len(rows), weights[0].shape[2]), np.int16)
        for n in range(len(rows)):
            for i in range(x_NI.shape[1]):
                hidden[n, i] = x_NI[rows[n], i]
        for layer in range(len(weights)):
            weight_OI, multiplier_O, bias_O = weights[layer][expert], multipliers[layer][expert], biases[layer][expert]
            n_outputs = weight_OI.shape[0]
            sum_NO = np.empty((len(rows), n_outputs), np.int32)
            products(weight_OI, hidden, sum_NO)
            if layer == len(weights) - 1:
                for n in range(len(rows)):
                    for o in range(n_outputs):
                        whole = (np.int64(sum_NO[n, o]) * multiplier_O[o] + bias_O[o] + _HALF) >> _SHIFT
                        out_NO[rows[n], o] = min(max(whole, -OUTPUT_LIMIT), OUTPUT_LIMIT)
            else:
                hidden = np.zeros((len(rows), weights[layer + 1].shape[2]), np.int16)
                for n in range(len(rows)):
                    for o in range(n_outputs):
                        whole = (np.int64(sum_NO[n, o]) * multiplier_O[o] + bias_O[o] + _HALF) >> _SHIFT
                        hidden[n, o] = min(max(whole, 0), ACTIVATION_LIMIT)
        start = end


@warm_up
def prepare() -> None:
    """Compile the kernel of networks of three layers, which those of the paper's size have."""
    one, row = torch.ones(1, 1, 1, dtype=torch.int8), torch.ones(1, 1, dtype=torch.int32)
    tensors = {f"weight_{layer}": one for layer in range(3)} | {f"multiplier_{layer}": row for layer in range(3)}
    tensors |= {f"bias_{layer}": row.long() for layer in range(3)}
    IntegerLayers(tensors)(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
