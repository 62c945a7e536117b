"""Convolutions whose results are the same on every machine.

The decoder must use exactly the table with which each symbol was encoded, and in floating point a different order of
summation may choose its neighbour. Here weights and activations are whole numbers held in float64, where every sum
below 2^53 is exact in any order, and what a layer returns is rounded to a multiple of 2^-10.

    B batch   C channels   H, W height and width
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

STEP = 2.0**-10
"""Activations are multiples of this; a Gaussian's narrowest scale is 0.11."""
LIMIT = 2**21 - 1
"""The largest activation, in steps: its magnitude stays below 2048, and float32 holds it exactly."""
WEIGHT_BITS = 15
_EXACT = 2**53


class ExactConvolution(nn.Module):
    """A convolution or transposed convolution of float32 x_BCHW, computed in whole numbers; only for inference.

    Weights are rounded to WEIGHT_BITS bits below the power of two that bounds the largest.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = layer.weight.detach().double()
        if isinstance(mask := getattr(layer, "mask", None), Tensor):
            weight = weight * mask
        fan_in = weight[0].numel() if isinstance(layer, nn.Conv2d) else weight[:, 0].numel()
        assert (fan_in + 1) * 2**WEIGHT_BITS * LIMIT < _EXACT
        largest = float(weight.abs().max())
        self._unit = 2.0 ** ((math.frexp(largest)[1] if largest > 0 else 0) - WEIGHT_BITS)
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        bias_steps = (bias.double() / STEP).round().clamp(-LIMIT, LIMIT)
        self.register_buffer("weight", (weight / self._unit).round())
        self.register_buffer("bias", bias_steps.reshape(-1, 1, 1))
        self._convolve: Any = conv2d if isinstance(layer, nn.Conv2d) else conv_transpose2d
        self._geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        if isinstance(layer, nn.ConvTranspose2d):
            self._geometry["output_padding"] = layer.output_padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The layer's response, float32, a multiple of STEP."""
        x_steps = (x_BCHW.double() / STEP).round().clamp(-LIMIT, LIMIT)
        sums = self._convolve(x_steps, self.weight, **self._geometry) * self._unit
        y_steps: Tensor = (sums.round() + self.bias).clamp(-LIMIT, LIMIT)
        return (y_steps * STEP).float()


def make_exact(network: nn.Module) -> None:
    """Replace every convolution inside ``network`` by its exact form; what stands between them must act elementwise."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            setattr(network, name, ExactConvolution(child))
        else:
            make_exact(child)
