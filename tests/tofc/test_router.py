"""The router's weights, its balance loss and its temperature against their closed forms."""

import pytest
import torch

from harness.tofc.router import Router, imbalance, temperature_at


def test_weights_sum_to_one_and_sharpen_as_the_temperature_falls() -> None:
    """Eq. 17 is a softmax: near-uniform when hot, the arg max of Eq. 19 when cold."""
    torch.manual_seed(0)
    router, u_ND = Router(32, 4), torch.randn(50, 32)
    hot, cold = router.weights(u_ND, 1e4), router.weights(u_ND, 1e-6)
    assert torch.allclose(hot, torch.full((50, 4), 0.25), atol=1e-3)
    assert torch.equal(cold.argmax(-1), router.choose(u_ND))
    assert torch.allclose(cold.sum(-1), torch.ones(50))
    assert cold.max(-1).values.min() > 0.999


def test_imbalance_is_zero_when_uniform_and_largest_when_collapsed() -> None:
    """Eq. 18 over alpha: 0 for uniform mean weights, 1 - 1 / n_e when one model takes all."""
    assert imbalance(torch.eye(4)).item() == pytest.approx(0)
    assert imbalance(torch.eye(4)[[1, 1, 1]]).item() == pytest.approx(1 - 1 / 4)


def test_temperature_falls_exponentially_from_10_to_a_tenth() -> None:
    """Halfway through the training the temperature is the geometric mean of its ends."""
    assert temperature_at(0) == pytest.approx(10)
    assert temperature_at(0.5) == pytest.approx(1)
    assert temperature_at(1) == pytest.approx(0.1)
