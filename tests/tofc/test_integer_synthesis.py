"""The integer h_s: exact, the same in any batch and on any number of threads, close to the float one."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.tofc import laplacian
from harness.tofc.entropy_model import EntropyModels
from harness.tofc.integer_synthesis import ACTIVATION_LIMIT, FRACTION_BITS, IntegerSynthesis


@pytest.fixture
def models() -> EntropyModels:
    """Four models of 64 dimensions whose scales spread over many levels."""
    torch.manual_seed(5)
    models = EntropyModels(4, 64, (64, 32))
    with torch.no_grad():
        models.h_s[-1].weight_EOI.mul_(8)  # type: ignore[operator]
    return models


@pytest.fixture
def hyperprior() -> tuple[Tensor, Tensor]:
    """Hyperpriors in units of 2**-12 and the models of 300 features."""
    generator = torch.Generator().manual_seed(6)
    z_NZ = torch.randint(-8 << FRACTION_BITS, 8 << FRACTION_BITS, (300, 4), generator=generator)
    return z_NZ, torch.randint(0, 4, (300,), generator=generator)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for torch, and the former number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_rows_batches_and_orders_agree_to_the_last_bit(
    models: EntropyModels, hyperprior: tuple[Tensor, Tensor], two_threads: None
) -> None:
    """Each feature alone, in any order, on one thread or two: the same means and levels."""
    synthesis = IntegerSynthesis.from_float(models.h_s)
    z_NZ, expert_N = hyperprior
    mu_ND, level_ND = synthesis(z_NZ, expert_N)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(7))
    mu_shuffled, level_shuffled = synthesis(z_NZ[order], expert_N[order])
    assert torch.equal(mu_shuffled, mu_ND[order])
    assert torch.equal(level_shuffled, level_ND[order])
    torch.set_num_threads(1)
    rows = [synthesis(z_NZ[n : n + 1], expert_N[n : n + 1]) for n in range(300)]
    assert torch.equal(torch.cat([mu for mu, _ in rows]), mu_ND)
    assert torch.equal(torch.cat([level for _, level in rows]), level_ND)
    assert len(level_ND.unique()) > 10


def test_products_are_those_of_unbounded_integers(models: EntropyModels, hyperprior: tuple[Tensor, Tensor]) -> None:
    """Python's own integers, which cannot round, give the same result."""
    synthesis = IntegerSynthesis.from_float(models.h_s)
    z_NZ, expert_N = hyperprior
    mu_ND, _ = synthesis(z_NZ, expert_N)
    for n in range(5):
        hidden = z_NZ[n].numpy().astype(object)
        for layer, shift in enumerate(synthesis.shifts):
            weight = synthesis.get_buffer(f"weight_{layer}")[expert_N[n]].numpy().astype(object)
            bias = synthesis.get_buffer(f"bias_{layer}")[expert_N[n]].numpy().astype(object)
            hidden = (2 * (weight @ hidden + bias) + 2**shift) // (2 * 2**shift)
            if layer < 2:
                hidden = np.clip(hidden, 0, int(ACTIVATION_LIMIT))
        assert hidden[:64].tolist() == mu_ND[n].to(torch.int64).tolist()


def test_means_and_scales_stay_close_to_the_float_network(
    models: EntropyModels, hyperprior: tuple[Tensor, Tensor]
) -> None:
    """Rounding the weights moves a mean by less than a hundredth of a step, a scale by at most one level."""
    z_NZ, expert_N = hyperprior
    mu_ND, level_ND = IntegerSynthesis.from_float(models.h_s)(z_NZ, expert_N)
    final = models.h_s((z_NZ / 2**FRACTION_BITS).expand(4, -1, -1))[expert_N, torch.arange(300)]
    mu_float, log2_b = final.chunk(2, -1)
    assert (mu_ND / 2**FRACTION_BITS - mu_float).abs().max() < 0.01
    level = ((log2_b - laplacian.LOG2_B_MIN) * laplacian.LEVELS_PER_OCTAVE).clamp(0, laplacian.LEVELS - 1)
    assert (level_ND - level).abs().max() < 0.6


def test_weights_beyond_the_exact_range_are_refused() -> None:
    """A bias that could push a sum past 2**53 is an error, not a silent rounding."""
    weight_EOI = torch.ones(1, 2, 4, dtype=torch.int16)
    with pytest.raises(ValueError, match="exact"):
        IntegerSynthesis([weight_EOI], [torch.full((1, 2), 2**53)], [0])
