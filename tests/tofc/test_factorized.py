"""The factorized density of z against compressai's, its own integral and its median."""

from types import ModuleType

import pytest
import torch

from harness.tofc.factorized import LIMIT, FactorizedDensity


@pytest.fixture
def density() -> FactorizedDensity:
    """Three models of four channels with every parameter away from its start."""
    torch.manual_seed(3)
    density = FactorizedDensity(3, 4)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return density


@pytest.mark.slow
def test_bits_are_those_of_compressai(compressai: ModuleType, density: FactorizedDensity) -> None:
    """With the same parameters compressai's EntropyBottleneck, the paper's [56], gives the same likelihoods."""
    from compressai.entropy_models import EntropyBottleneck

    peer = EntropyBottleneck(12, filters=(3, 3, 3))
    with torch.no_grad():
        for layer in range(4):
            peer.matrices[layer].copy_(density.matrices[layer])
            peer.biases[layer].copy_(density.biases[layer])
            if layer < 3:
                peer.factors[layer].copy_(density.factors[layer])
    z_ENZ = torch.randn(3, 50, 4) * 5
    likelihood, _, _ = peer._likelihood(z_ENZ.transpose(1, 2).reshape(12, 1, 50))
    expected = -likelihood.clamp(min=1e-9).log2().view(3, 4, 50).transpose(1, 2)
    assert torch.allclose(density.bits(z_ENZ), expected, rtol=1e-4, atol=1e-4)


def test_half_of_the_mass_lies_below_the_median(density: FactorizedDensity) -> None:
    """The medians are where the cumulative distribution crosses one half."""
    logits = density._logits(density.medians().reshape(12, 1))
    assert logits.abs().max() < 1e-2


def test_masses_sum_to_one_and_agree_with_the_bits(density: FactorizedDensity) -> None:
    """The tables' masses are the density's own, with the tails counted to the ends."""
    medians_EZ = density.medians()
    masses_EZA = density.masses(medians_EZ)
    assert torch.allclose(masses_EZA.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    offsets_A = torch.arange(-LIMIT, LIMIT + 1.0)
    z_EAZ = medians_EZ[:, None] + offsets_A[:, None]
    inner = torch.exp2(-density.bits(z_EAZ)).transpose(1, 2)[..., 1:-1]
    assert torch.allclose(masses_EZA[..., 1:-1].float(), inner, atol=1e-5)


def test_a_symbol_right_at_the_median_has_its_mass() -> None:
    """Where the two logits cancel exactly, the mass is the limit from both sides."""
    density = FactorizedDensity(1, 1)
    with torch.no_grad():
        for bias in density.biases:
            bias.zero_()
    at, beside = (density.bits(torch.full((1, 1, 1), place)) for place in (0.0, 1e-3))
    assert at.item() == pytest.approx(beside.item(), abs=1e-4)


def test_the_escape_has_the_mass_outside(density: FactorizedDensity) -> None:
    """All sum to one, and only the ends differ from the table without an escape."""
    medians_EZ = density.medians() + 25
    with_escape, without = density.masses_and_escape(medians_EZ), density.masses(medians_EZ)
    assert torch.allclose(with_escape.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    assert torch.allclose(with_escape[..., 1:-2], without[..., 1:-1])
    assert (with_escape[..., -1] > 1e-6).any()
