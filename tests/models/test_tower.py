"""The tower's attention, against transformers' own eager attention."""

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from harness.models import tower
from harness.models.contract import Layout, Tiles

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def _towers(kind, config_class):
    torch.manual_seed(0)
    fused = kind._from_config(config_class(**SIZES), attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.mul_(3.0)
    eager = kind._from_config(config_class(**SIZES), attn_implementation="eager").eval()
    eager.load_state_dict(fused.state_dict())
    return fused, eager


@pytest.mark.parametrize(("layer", "chunk"), [(-1, 1 << 24), (-2, 1)])
@pytest.mark.parametrize(
    ("kind", "config_class", "has_cls"),
    [(SiglipVisionModel, SiglipVisionConfig, False), (CLIPVisionModel, CLIPVisionConfig, True)],
)
@torch.inference_mode()
def test_attention_is_that_of_the_eager_tower(
    kind: str, config_class, has_cls, layer, chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Received from the class token, or the mean over queries; of the layer that gives the features, in one pass."""
    monkeypatch.setattr(tower, "_CHUNK_ELEMENTS", chunk)
    fused, eager = _towers(kind, config_class)
    pixels_PCHW = torch.randn(3, 3, 32, 32)
    x_PVD, attention = tower.attended_features(fused, pixels_PCHW, layer, drop_cls=has_cls)
    assert torch.equal(x_PVD, tower.features(fused, pixels_PCHW, layer, drop_cls=has_cls))
    weights_PASS = eager(pixels_PCHW, output_attentions=True).attentions[layer]
    mean_PSS = weights_PASS.mean(1)
    expected_PV = mean_PSS[:, 0, 1:] if has_cls else mean_PSS.mean(1)
    assert attention.received_PV.shape == (3, 16)
    torch.testing.assert_close(attention.received_PV, expected_PV)
    assert attention.keys_PVK.shape == (3, 16, 8)
    total = attention.received_PV.sum(1)
    assert (total < 1).all() if has_cls else torch.allclose(total, torch.ones(3))


def test_keys_are_the_layers_averaged_over_heads(tiny) -> None:
    """The key projection of the last layer, of what that layer's norm gives it."""
    tiles = Tiles(torch.randn(2, 3, 32, 32), Layout((1, 1), (32, 32)))
    x_PVD, attention = tiny.encode_attended(tiles)
    assert torch.equal(x_PVD, tiny.encode(tiles))
    vision = tiny.model.model.vision_tower
    last = getattr(vision, "vision_model", vision).encoder.layers[-1]
    with torch.inference_mode():
        before_PVD = tower.features(vision, tiles.pixels_PCHW, -2)
        keys_PVD = last.self_attn.k_proj(last.layer_norm1(before_PVD))
    torch.testing.assert_close(attention.keys_PVK, keys_PVD.unflatten(-1, (2, -1)).mean(2))


def test_no_hook_stays_behind(tiny) -> None:
    """A pass that returns attention does not change the tower."""

    def hooks():
        return [len(module._forward_hooks) for module in tiny.model.modules()]

    before = hooks()
    tiny.encode_attended(Tiles(torch.randn(1, 3, 32, 32), Layout((1, 1), (32, 32))))
    assert hooks() == before
