"""LoRA on a tiny OneVision: put on, saved, and taken up again, in a copy or beside shared weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import CheckpointError
from harness.models import adapter
from harness.models.contract import Tiles
from harness.models.onevision import OneVision

TILES = Tiles(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), (1, 1), (32, 32))


@pytest.fixture
def trained(build, tmp_path: Path) -> tuple[OneVision, Path]:
    """A backbone with an adapter that is not zero, and the folder in which it was saved."""
    backbone = build()
    model = adapter.attach(backbone, 4, 8, 0.0)
    torch.manual_seed(2)
    for parameter in adapter.trainable(model).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval()
    adapter.halve(model)
    adapter.save(model, tmp_path / "adapter", "mini-onevision")
    return backbone, tmp_path / "adapter"


def test_lora_is_where_the_paper_has_it(build) -> None:
    """Every linear map of tower and language model, the projector whole, nothing else; as it begins nothing changes."""
    backbone, plain = build(), build()
    names = adapter.trainable(adapter.attach(backbone, 4, 8, 0.0))
    assert sum(p.numel() for p in names.values()) == adapter.size(plain, 4)
    assert len(names) == 2 * (6 * 2 + 7 * 2) + 4
    assert {adapter.part_of(name) for name in names} == {"vision", "language", "projector"}
    assert torch.equal(backbone.encode_image(TILES), plain.encode_image(TILES))
    assert torch.equal(backbone.project(plain.encode_image(TILES)), plain.project(plain.encode_image(TILES)))


@pytest.mark.parametrize("small", [True, False], ids=["merged copy", "shared weights"])
def test_a_trained_adapter_is_taken_up_and_leaves_the_backbone_as_it_was(
    build, trained: tuple[OneVision, Path], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either way the features and tokens are the trained ones, and the backbone's own stay its own."""
    if not small:
        monkeypatch.setattr(adapter, "_COPIED_BELOW_BYTES", 0)
    tuned, folder = trained
    backbone, plain = build(), build()
    used, again = adapter.adapted(backbone, folder), adapter.adapted(backbone, folder)
    x_PVD = plain.encode_image(TILES)
    for one in (used, again):
        torch.testing.assert_close(one.encode_image(TILES), tuned.encode_image(TILES), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.project(x_PVD), tuned.project(x_PVD), rtol=1e-4, atol=1e-5)
        assert (one.name, one.n_features, one.device) == (backbone.name, backbone.n_features, backbone.device)
        assert not torch.allclose(one.encode_image(TILES), x_PVD, atol=1e-3)
        assert torch.equal(backbone.encode_image(TILES), x_PVD)
        assert torch.equal(backbone.project(x_PVD), plain.project(x_PVD))


def test_an_adapter_of_another_model_is_refused(build, trained: tuple[OneVision, Path]) -> None:
    """The first weight that does not fit is named with both shapes."""
    with pytest.raises(CheckpointError, match=r"has shape .* in the adapter and .* in tiny; it was"):
        adapter.adapted(build(width=48), trained[1])


def test_damaged_and_pickled_adapters_are_refused(build, trained: tuple[OneVision, Path]) -> None:
    """Only safetensors are read; a file that is cut off is not."""
    weights = trained[1] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="holds no readable adapter"):
        adapter.adapted(build(), trained[1])
    torch.save(load_file_from(whole, weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds no readable adapter"):
        adapter.adapted(build(), trained[1])


def load_file_from(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file's bytes."""
    path.write_bytes(content)
    return load_file(path)


def test_a_weight_that_is_missing_is_named(build, trained: tuple[OneVision, Path]) -> None:
    """An adapter without one of its tensors is not taken up half."""
    weights = trained[1] / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="lacks"):
        adapter.adapted(build(), trained[1])
