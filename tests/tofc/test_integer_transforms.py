"""h_a and h_s in integers: close to the networks that were trained."""

import pytest
import torch
from torch import Tensor

from harness.tofc import laplacian
from harness.tofc.entropy_model import EntropyModels
from harness.tofc.factorized import LIMIT
from harness.tofc.integer_transforms import FRACTION_BITS, IntegerAnalysis, IntegerSynthesis


@pytest.fixture
def models() -> EntropyModels:
    """Four models of 64 dimensions whose scales spread over many levels."""
    torch.manual_seed(5)
    models = EntropyModels(4, 64, (64, 32))
    with torch.no_grad():
        models.h_s[-1].weight_EOI.mul_(4)  # type: ignore[operator]
    return models


@pytest.fixture
def chosen() -> Tensor:
    """The models of 300 features."""
    return torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(6))


def test_means_and_levels_follow_the_float_network(models: EntropyModels, chosen: Tensor) -> None:
    """Means are within a few hundredths of a step and levels within one, of those of h_s on z plus its median."""
    z_NZ = torch.randint(-8, 9, (300, 4), generator=torch.Generator().manual_seed(7))
    mu_ND, level_ND = IntegerSynthesis(IntegerSynthesis.derive(models))(z_NZ, chosen)
    final_ENO = models.h_s(z_NZ + models.density.medians()[:, None])
    mu_float, log2_b = final_ENO[chosen, torch.arange(300)].chunk(2, -1)
    error_ND = mu_ND / 2**FRACTION_BITS - mu_float
    assert error_ND.square().mean().sqrt() < 0.01 * mu_float.std()
    level = ((log2_b - laplacian.LOG2_B_MIN) * laplacian.LEVELS_PER_OCTAVE).clamp(0, laplacian.LEVELS - 1)
    assert (level_ND - level).square().mean().sqrt() < 0.5
    assert len(level_ND.unique()) > 10


def test_symbols_of_z_follow_the_float_network(models: EntropyModels, chosen: Tensor) -> None:
    """Nearly all symbols of z are h_a's, rounded around the median; the others are their neighbours."""
    u_ND = 2 * torch.randn(300, 64, generator=torch.Generator().manual_seed(8))
    u_ND[0] *= 1e6
    z_ENZ = (models.h_a(u_ND.expand(4, -1, -1)) - models.density.medians()[:, None]).round().clamp(-LIMIT, LIMIT)
    symbols_NZ = IntegerAnalysis(IntegerAnalysis.derive(models))(u_ND, chosen)
    difference_NZ = (symbols_NZ - z_ENZ[chosen, torch.arange(300)])[1:]
    assert difference_NZ.abs().max() <= 1
    assert (difference_NZ != 0).float().mean() < 0.05
