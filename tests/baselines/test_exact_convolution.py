"""Convolutions in integers: equal to the float ones to within rounding, and the same in any order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines.networks.exact_convolution import LIMIT, STEP, WEIGHT_BITS, ExactConvolution, make_exact

Convolution = nn.Conv2d | nn.ConvTranspose2d


def _layer(kind: type[Convolution], n_in: int, n_out: int, stride: int) -> Convolution:
    if kind is nn.ConvTranspose2d:
        return nn.ConvTranspose2d(n_in, n_out, kernel_size=5, stride=stride, padding=2, output_padding=stride - 1)
    return nn.Conv2d(n_in, n_out, kernel_size=5, stride=stride, padding=2)


@pytest.mark.slow
@given(
    kind=st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]),
    n_in=st.integers(1, 6),
    n_out=st.integers(1, 6),
    stride=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_it_is_the_float_convolution_to_within_its_steps(
    kind: type[Convolution], n_in: int, n_out: int, stride: int, seed: int
) -> None:
    """Rounded inputs and weights move a sum by at most half a step each, rounding it and the bias by half a step."""
    torch.manual_seed(seed)
    layer = _layer(kind, n_in, n_out, stride)
    x_BCHW = 4 * torch.randn(1, n_in, 6, 8)
    with torch.no_grad():
        expected_BCHW = layer(x_BCHW)
        found_BCHW = ExactConvolution(layer)(x_BCHW)
    fan_in, largest = 25 * n_in, float(layer.weight.detach().abs().max())
    bound = fan_in * (largest * STEP / 2 + float(x_BCHW.abs().max()) * 2 * largest * 2.0**-WEIGHT_BITS) + 2 * STEP
    assert found_BCHW.shape == expected_BCHW.shape
    assert float((found_BCHW - expected_BCHW).abs().max()) <= bound


def test_it_is_integer_arithmetic() -> None:
    """A 1 x 1 convolution equals the same sums in Python's own integers, bit for bit."""
    torch.manual_seed(3)
    layer = nn.Conv2d(300, 4, 1)
    x_BCHW = 100 * torch.randn(1, 300, 3, 3)
    exact = ExactConvolution(layer)
    weights = exact.weight[:, :, 0, 0].numpy().astype(int).astype(object)
    steps = (x_BCHW[0].double() / STEP).round().numpy().reshape(300, 9).astype(int).astype(object)
    sums = (weights @ steps).astype(np.float64) * exact._unit
    expected = (np.round(sums) + exact.bias.numpy().reshape(4, 1)) * STEP
    with torch.no_grad():
        assert np.array_equal(exact(x_BCHW).numpy().reshape(4, 9), expected.astype(np.float32))


@pytest.mark.slow
@given(seed=st.integers(0, 99))
def test_the_order_of_summation_does_not_matter(seed: int) -> None:
    """Shuffled input channels give the same bits."""
    torch.manual_seed(seed)
    layer, shuffled = nn.Conv2d(64, 3, 5), nn.Conv2d(64, 3, 5)
    assert layer.bias is not None
    assert shuffled.bias is not None
    order = torch.randperm(64)
    with torch.no_grad():
        shuffled.weight.copy_(layer.weight[:, order])
        shuffled.bias.copy_(layer.bias)
        x_BCHW = 10 * torch.randn(1, 64, 9, 9)
        assert torch.equal(ExactConvolution(layer)(x_BCHW), ExactConvolution(shuffled)(x_BCHW[:, order]))


def test_what_is_beyond_the_range_is_held_at_its_end() -> None:
    """The largest magnitude is below 2048, whatever comes in, and no sum leaves the integers that float64 holds."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    with torch.no_grad():
        found_BCHW = ExactConvolution(layer)(torch.tensor([1e30, -1e30, 1.0]).reshape(1, 1, 1, 3))
    assert found_BCHW.flatten().tolist() == [LIMIT * STEP, -LIMIT * STEP, 3.0]


def test_a_layer_too_wide_to_be_exact_is_refused() -> None:
    """A fan-in whose sums could pass 2^53 has no exact form."""
    with pytest.raises(AssertionError):
        ExactConvolution(nn.Conv2d(131_072, 1, 1))


def test_every_convolution_of_a_network_is_replaced() -> None:
    """Nested ones included; what acts elementwise stays."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Sequential(nn.ConvTranspose2d(2, 2, 1)))
    make_exact(network)
    kinds = [type(module) for module in network.modules() if not list(module.children())]
    assert kinds == [ExactConvolution, nn.ReLU, ExactConvolution]
