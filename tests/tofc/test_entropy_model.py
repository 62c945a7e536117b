"""The entropy models: straight-through rounding, side-by-side models, the layer budget."""

import torch

from harness.tofc.entropy_model import EntropyModels, round_straight_through


def test_rounding_passes_the_gradient() -> None:
    """STE rounds forwards and is the identity backwards."""
    x = torch.tensor([-1.4, 0.2, 2.7], requires_grad=True)
    y = round_straight_through(x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert y.tolist() == [-1, 0, 3]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 2, 3]


def test_a_model_at_full_size_has_the_papers_budget() -> None:
    """At D = 1152 one entropy model has about 5.5 M parameters."""
    with torch.device("meta"):
        models = EntropyModels(1, 1152, (1152, 576))
    n_parameters = sum(parameter.numel() for parameter in models.parameters())
    assert 5.3e6 < n_parameters < 5.6e6


def test_quantised_features_are_a_rounding_away_and_means_apart_by_integers() -> None:
    """By Eq. 7 every model returns a value within half a step of its input."""
    torch.manual_seed(0)
    models, u_ND = EntropyModels(3, 32, (32, 16)), torch.randn(20, 32) * 3
    quantised = models(u_ND)
    assert quantised.u_END.shape == (3, 20, 32)
    assert (quantised.u_END - u_ND).abs().max() <= 0.5 + 1e-5
    assert quantised.y_bits_EN.shape == quantised.z_bits_EN.shape == (3, 20)
    assert quantised.y_bits_EN.min() > 0
    assert quantised.z_bits_EN.min() > 0


def test_models_side_by_side_are_the_models_one_by_one() -> None:
    """Each feature under its own model, in one padded batch, is what the pass over all models gives it."""
    torch.manual_seed(1)
    models, u_ND = EntropyModels(4, 32, (32, 16)), torch.randn(40, 32) * 3
    expert_N = torch.arange(40) % 3
    each = models(u_ND)
    own = expert_N, torch.arange(40)
    u_bar_ND, bits_N = models.chosen(u_ND, expert_N)
    assert torch.allclose(u_bar_ND, each.u_END[own], atol=1e-4)
    assert torch.allclose(bits_N, (each.y_bits_EN + each.z_bits_EN)[own], rtol=1e-4)
