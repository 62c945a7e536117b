"""The Laplacian convolved with a uniform against its closed form and its own tables."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.tofc import laplacian


@given(symbol=st.integers(-60, 60), log2_b=st.floats(-3, laplacian.LOG2_B_MAX))
def test_bits_are_those_of_the_cumulative_distribution(symbol: int, log2_b: float) -> None:
    """Eq. 5 is the mass that scipy's Laplacian puts into the unit interval around a symbol."""
    b = 2.0**log2_b
    x = abs(symbol)
    mass = stats.laplace.sf(x - 0.5, scale=b) - stats.laplace.sf(x + 0.5, scale=b)
    ours = laplacian.bits(torch.tensor(float(symbol)), torch.tensor(log2_b))
    assert ours.item() == pytest.approx(-np.log2(mass), rel=2e-4, abs=1e-5)


def test_tails_grow_linearly_in_float32() -> None:
    """Far out, where the mass itself is 0 in float32, the bits and their gradient stay finite and linear."""
    symbol = torch.tensor([1e3, 2e3, 1e6], requires_grad=True)
    bits = laplacian.bits(symbol, torch.tensor(-4.0))
    bits.sum().backward()
    rate = 2.0**4 / np.log(2)
    assert bits[1].item() - bits[0].item() == pytest.approx(1e3 * rate, rel=1e-5)
    assert symbol.grad is not None
    assert torch.allclose(symbol.grad, torch.tensor(rate, dtype=torch.float32))


def test_gradients_are_finite_everywhere() -> None:
    """No element of a wide grid of symbols and scales, clamped ones included, has an undefined gradient."""
    symbol = torch.arange(-40.0, 41.0)[:, None].requires_grad_()
    log2_b = torch.linspace(-12, 12, 49).requires_grad_()
    laplacian.bits(symbol, log2_b).sum().backward()
    assert symbol.grad is not None
    assert log2_b.grad is not None
    assert symbol.grad.isfinite().all()
    assert log2_b.grad.isfinite().all()


@pytest.mark.parametrize("level", [0, 1, 40, 90, laplacian.LEVELS - 1])
def test_tables_follow_the_density(level: int) -> None:
    """A table sums to 2**24, has no zero, is symmetric beside its largest entry, and costs what Eq. 5 says."""
    table = laplacian.table(level)
    reach = laplacian.reach(level)
    assert table.sum() == laplacian.TABLE_TOTAL
    assert table.min() >= 1
    assert np.array_equal(table[:reach], table[reach + 1 : -1][::-1])
    log2_b = torch.tensor(laplacian.LOG2_B_MIN + level / laplacian.LEVELS_PER_OCTAVE, dtype=torch.float64)
    bits = laplacian.bits(torch.arange(-reach, reach + 1, dtype=torch.float64), log2_b).numpy()
    mass = 2.0**-bits
    assert (mass * -np.log2(table[:-1] / laplacian.TABLE_TOTAL)).sum() == pytest.approx((mass * bits).sum(), abs=2e-4)


@pytest.mark.slow
@given(st.lists(st.floats(0, 1), min_size=2, max_size=50).filter(lambda values: sum(values) > 0))
def test_frequencies_are_positive_and_sum_to_the_total(mass: list[float]) -> None:
    """Whatever the masses, zeros among them, the integers are positive and sum to 2**24."""
    counts = laplacian.frequencies(np.array(mass))
    assert counts.min() >= 1
    assert counts.sum() == laplacian.TABLE_TOTAL
