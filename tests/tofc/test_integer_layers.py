"""Networks in integers: exact at the extremes of their bounds, the same in any batch, however they are summed."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.tofc import integer_layers
from harness.tofc.entropy_model import EntropyModels, StackedLinear
from harness.tofc.integer_dot import BLOCK, products
from harness.tofc.integer_layers import ACTIVATION_BITS, ACTIVATION_LIMIT, OUTPUT_LIMIT, IntegerLayers, quantised


def one_layer(weight_EOI: Tensor, multiplier: int = 1 << 24, bias: int = 0) -> IntegerLayers:
    """A single layer; with these defaults its outputs are its sums."""
    multiplier_EO = torch.full(weight_EOI.shape[:2], multiplier, dtype=torch.int32)
    bias_EO = torch.full(weight_EOI.shape[:2], bias, dtype=torch.int64)
    return IntegerLayers({"weight_0": weight_EOI.to(torch.int8), "multiplier_0": multiplier_EO, "bias_0": bias_EO})


@pytest.fixture
def stack() -> tuple[nn.Sequential, IntegerLayers]:
    """Four random networks of widths that are no multiples of a block, and their integers in units of 2**-12."""
    torch.manual_seed(5)
    h_s = EntropyModels(4, 80, (80, 40)).h_s
    unit_EO = torch.full((4, 160), 4096.0)
    return h_s, IntegerLayers(quantised(h_s, unit_EO, torch.zeros_like(unit_EO)))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    """Inputs of 300 features, the largest possible among them, and their networks."""
    generator = torch.Generator().manual_seed(6)
    x_NI = torch.randint(-8 << ACTIVATION_BITS, 8 << ACTIVATION_BITS, (300, 5), generator=generator)
    x_NI[::50] = ACTIVATION_LIMIT * x_NI[::50].sign()
    return x_NI, torch.randint(0, 4, (300,), generator=generator)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for torch, and the former number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_rows_batches_orders_and_threads_agree(
    stack: tuple[nn.Sequential, IntegerLayers], inputs: tuple[Tensor, Tensor], two_threads: None
) -> None:
    """Each feature alone, in any order, on one thread or two, by dots of integers or by float64 products: the same."""
    layers, (x_NI, expert_N) = stack[1], inputs
    out_NO = layers(x_NI, expert_N)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(7))
    assert torch.equal(layers(x_NI[order], expert_N[order]), out_NO[order])
    assert torch.equal(layers.by_matrix_products(x_NI[order], expert_N[order]), out_NO[order])
    torch.set_num_threads(1)
    assert torch.equal(torch.cat([layers(x_NI[n : n + 1], expert_N[n : n + 1]) for n in range(300)]), out_NO)
    assert torch.equal(layers.by_matrix_products(x_NI, expert_N), out_NO)


def test_outputs_are_those_of_unbounded_integers(
    stack: tuple[nn.Sequential, IntegerLayers], inputs: tuple[Tensor, Tensor]
) -> None:
    """Python's own integers, which cannot overflow, give the same result."""
    layers, (x_NI, expert_N) = stack[1], inputs
    out_NO = layers(x_NI, expert_N)
    for n in (0, 1, 2, 50):
        hidden = x_NI[n].numpy().astype(object)
        for weight_EOI, multiplier_EO, bias_EO in zip(layers.weights, layers.multipliers, layers.biases, strict=True):
            weight, multiplier, bias = (
                t[expert_N[n]].numpy().astype(object) for t in (weight_EOI, multiplier_EO, bias_EO)
            )
            whole = (multiplier * (weight[:, : len(hidden)] @ hidden) + bias + 2**23) // 2**24
            hidden = np.clip(whole, 0, ACTIVATION_LIMIT)
        assert whole.tolist() == out_NO[n].tolist()


def test_outputs_stay_close_to_the_float_network(
    stack: tuple[nn.Sequential, IntegerLayers], inputs: tuple[Tensor, Tensor]
) -> None:
    """Eight bits a weight move an output by less than two hundredths of the outputs' deviation, on average."""
    (h_s, layers), (x_NI, expert_N) = stack, inputs
    usual = x_NI.abs().amax(1) < ACTIVATION_LIMIT
    real_ENI = (x_NI / 2**ACTIVATION_BITS).expand(4, -1, -1)
    float_NO = h_s(real_ENI)[expert_N, torch.arange(300)]
    error_NO = layers(x_NI, expert_N) / 4096 - float_NO
    assert error_NO[usual].square().mean().sqrt() < 0.02 * float_NO[usual].std()


@pytest.mark.slow
@pytest.mark.parametrize("n_inputs", [517, 2048, 4096])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact(n_inputs: int, sign: int) -> None:
    """Rows at the limit of sum |w| = 2**16, every activation at its limit, all signs equal: 2**31 - 2**16."""
    weight = torch.full((n_inputs,), 2**16 // n_inputs)
    weight[: 2**16 % n_inputs] += 1
    weight_EOI = (sign * weight).expand(1, 3, -1)
    x_NI = torch.full((15, n_inputs), ACTIVATION_LIMIT)
    padded = np.zeros((3, n_inputs + -n_inputs % BLOCK), np.int8)
    padded[:, :n_inputs] = weight_EOI[0].numpy()
    activations = np.zeros((15, padded.shape[1]), np.int16)
    activations[:, :n_inputs] = ACTIVATION_LIMIT
    sums = np.empty((15, 3), np.int32)
    products(padded, activations, sums)
    assert (sums == sign * 2**16 * ACTIVATION_LIMIT).all()
    # Halved, the sum is still within the range of the last layer.
    layer, expert_N = one_layer(weight_EOI, multiplier=1 << 22), torch.zeros(15, dtype=torch.int64)
    assert (layer(x_NI, expert_N) == sign * 2**14 * ACTIVATION_LIMIT).all()
    assert torch.equal(layer.by_matrix_products(x_NI, expert_N), layer(x_NI, expert_N))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_multiplier_and_bias_do_not_overflow(sign: int) -> None:
    """The largest sum, multiplier and bias at once stay within 64 bits, and the output is clamped."""
    weight_EOI = torch.full((1, 1, 2**16 // 127), 127 * sign)
    layer = one_layer(weight_EOI, multiplier=2**31 - 1, bias=sign * (2**61 - 1))
    x_NI = torch.full((1, weight_EOI.shape[2]), ACTIVATION_LIMIT)
    expert_N = torch.zeros(1, dtype=torch.int64)
    assert layer(x_NI, expert_N).item() == sign * OUTPUT_LIMIT
    assert layer.by_matrix_products(x_NI, expert_N).item() == sign * OUTPUT_LIMIT
    largest = (2**31 - 1) * 2**16 * ACTIVATION_LIMIT + 2**61 + 2**23
    assert largest < 2**63


@pytest.mark.parametrize("kind", ["normal", "flat", "single", "zero"])
def test_any_weights_are_brought_within_the_bounds(kind: str) -> None:
    """Rows of equal weights, of one weight, of none: within the bounds, and as close as eight bits allow."""
    torch.manual_seed(0)
    layer = StackedLinear(1, 4096, 3, 1.0)
    with torch.no_grad():
        weight = torch.zeros_like(layer.weight_EOI)
        layer.weight_EOI.copy_(
            {"normal": layer.weight_EOI, "flat": weight + 0.01, "single": weight, "zero": weight}[kind]
        )
        if kind == "single":
            layer.weight_EOI[:, :, 7] = 300.0
    unit_EO = torch.ones(1, 3)
    layers = IntegerLayers(quantised([layer], unit_EO, torch.zeros(1, 3)))
    x_NI = torch.full((1, 4096), 3 << ACTIVATION_BITS)
    expected = layer.weight_EOI.detach().sum(2)[0] * 3
    assert (
        layers(x_NI, torch.zeros(1, dtype=torch.int64))[0] - expected
    ).abs().max() <= 0.5 + 0.01 * expected.abs().max()


@pytest.mark.parametrize(
    ("weight_EOI", "bias", "sentence"),
    [
        (torch.full((1, 2, 520), 127), 0, "exact"),
        (torch.full((1, 2, 4), -128), 0, "exact"),
        (torch.ones(1, 2, 4), 2**61, "exact"),
    ],
)
def test_integers_beyond_the_exact_range_are_refused(weight_EOI: Tensor, bias: int, sentence: str) -> None:
    """A row or a bias that could overflow a sum is an error, not a silent wrap."""
    with pytest.raises(ValueError, match=sentence):
        one_layer(weight_EOI, bias=bias)


def test_tensors_of_other_kinds_are_refused() -> None:
    """Weights of another type or shape are not accepted."""
    tensors = {"weight_0": torch.ones(1, 2, 4), "multiplier_0": torch.ones(1, 2), "bias_0": torch.ones(1, 2)}
    with pytest.raises(ValueError, match="int8 weights"):
        IntegerLayers(tensors)
    with pytest.raises(KeyError):
        IntegerLayers({"weight_0": torch.ones(1, 2, 4, dtype=torch.int8)})


def test_weights_too_large_for_their_multiplier_are_refused() -> None:
    """Weights in the thousands of a last layer in fine units raise, and so do undefined ones."""
    layer = StackedLinear(1, 4, 2, 1.0)
    for value in (1e5, torch.nan):
        with torch.no_grad():
            layer.weight_EOI.fill_(value)
        with pytest.raises(ValueError, match="too large"):
            quantised([layer], torch.full((1, 2), 4096.0), torch.zeros(1, 2))


def test_the_bounds_of_the_proof() -> None:
    """The constants are those with which the sums fit: 2**16 x (2**15 - 1) < 2**31."""
    assert integer_layers.ROW_LIMIT * ACTIVATION_LIMIT < 2**31
