"""The number of patches of a picture, computed without torch, against the tilings."""

import json
import subprocess
import sys
from pathlib import Path

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from harness.errors import CheckpointError, UnavailableError
from harness.models.checkpoint import read_config
from harness.models.gemma3 import Gemma3
from harness.models.internvl import InternVL
from harness.models.llava15 import Llava15
from harness.models.onevision import OneVision
from harness.models.patches import (
    closest_grid,
    feature_dim_of,
    features_of,
    grids_up_to,
    patches_of,
    patches_of_all,
)
from harness.models.tiling import StretchedTiling, Tiling

SIZES = st.integers(1, 5000)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIZES)
def test_patches_are_those_of_the_tiling(width: int, height: int) -> None:
    """The miniature's and the full model's counts are those of their tilings; LLaVA-1.5 has one patch."""
    for backbone, weights, side in (("mini-onevision", None, 192), ("llava-onevision-7b", "random", 384)):
        tiling = Tiling(patch=side, grids=grids_up_to(6))
        wanted = tiling.n_patches(*tiling.grid(height, width))
        assert patches_of(width, height, backbone, weights) == wanted
    for backbone, weights in (("mini-llava15", None), ("llava-1.5-7b", "random"), ("gemma-3-4b", "random")):
        assert patches_of(width, height, backbone, weights) == 1
    stretched = StretchedTiling(patch=448, mean=(0, 0, 0), std=(1, 1, 1))
    wanted = stretched.n_patches(*stretched.grid(height, width))
    assert patches_of(width, height, "internvl3-8b", "random") == wanted <= stretched.max_patches(width * height)


def test_patches_of_a_questions_pictures_add_up() -> None:
    """A question with several pictures has the patches of all of them."""
    sizes = [(100, 100), (400, 200)]
    assert patches_of_all(sizes, "mini-onevision") == sum(patches_of(w, h, "mini-onevision") for w, h in sizes)


@pytest.mark.parametrize(
    ("backbone", "weights", "n_features", "dim"),
    [
        ("mini-onevision", None, 144, 160),
        ("mini-llava15", None, 324, 160),
        ("llava-onevision-7b", "random", 729, 1152),
        ("llava-1.5-7b", "random", 576, 1024),
        ("internvl3-8b", "random", 256, 4096),
        ("gemma-3-12b", "random", 256, 1152),
    ],
)
def test_features_of_a_patch_are_the_towers(backbone, weights, n_features, dim):
    """V and D of the miniatures' files, and of the published models where they are not on this machine."""
    assert (features_of(backbone, weights), feature_dim_of(backbone, weights)) == (n_features, dim)


def test_a_config_is_read_as_its_family_writes_it(tmp_path):
    """InternVL's sides are a height and a width, and half of Gemma's squares make four times as many features."""
    vision = {"image_size": [224, 224], "patch_size": [14, 14], "hidden_size": 64}
    for folder, config in (
        ("internvl", {"model_type": "internvl", "vision_config": vision, "downsample_ratio": 0.5}),
        (
            "gemma3",
            {
                "model_type": "gemma3",
                "vision_config": {"image_size": 448, "patch_size": 14},
                "mm_tokens_per_image": 1024,
            },
        ),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    at = str(tmp_path / "internvl")
    assert (features_of("internvl3-8b", at), feature_dim_of("internvl3-8b", at)) == (64, 256)
    assert patches_of(448, 224, "internvl3-8b", at) == 3
    assert features_of("gemma-3-4b", str(tmp_path / "gemma3")) == 1024


@pytest.mark.parametrize("left_out", ["", "image_size", "patch_size", "hidden_size", "model_type", "vision_config"])
@pytest.mark.parametrize(
    ("name", "family", "vision"),
    [
        ("llava-1.5-7b", Llava15.is_of, {"image_size": 448, "patch_size": 28, "hidden_size": 64}),
        ("llava-onevision-7b", OneVision.is_of, {"image_size": 384, "patch_size": 12, "hidden_size": 96}),
        ("internvl3-8b", InternVL.is_of, {"image_size": [224, 224], "patch_size": [28, 28], "hidden_size": 64}),
        ("gemma-3-4b", Gemma3.is_of, {"image_size": 448, "patch_size": 14, "hidden_size": 128}),
    ],
)
def test_what_a_config_leaves_out_is_what_the_model_has(tmp_path: Path, name, family, vision, left_out: str) -> None:
    """V and D without torch are those of the model that is built, where config.json says less than everything."""
    config = {"model_type": family.config_class.model_type, "vision_config": dict(vision, num_attention_heads=4)}
    config["vision_config"]["model_type"] = family.config_class().vision_config.model_type
    config["mm_tokens_per_image"] = 4
    config.pop(left_out, None) if left_out == "vision_config" else config["vision_config"].pop(left_out, None)
    if "384" not in str(config.get("vision_config", "384")):
        config["image_grid_pinpoints"] = [[224, 224]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        cut = family.cut(read_config(tmp_path, family.config_class))
    except CheckpointError:
        with pytest.raises(CheckpointError):
            features_of(name, str(tmp_path))
        return
    assert (features_of(name, str(tmp_path)), feature_dim_of(name, str(tmp_path))) == (cut.n_features, cut.feature_dim)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, st.sampled_from([32, 448]), st.sampled_from([(1, 12), (1, 6), (2, 9), (1, 1)]))
def test_the_closest_grid_is_the_processors(width, height, patch, tiles):
    """Any size has the grid that transformers' processor for InternVL chooses."""
    columns, rows = get_optimal_tiled_canvas((height, width), (patch, patch), *tiles)
    assert closest_grid(height, width, patch, *tiles) == (rows, columns)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"model_type": "llava_onevision", "vision_config": {"image_size": 0}}, "image_size is 0"),
        ({"model_type": "llava_onevision", "image_grid_pinpoints": [[100, 384]]}, "image_grid_pinpoints are"),
        ({"model_type": "internvl", "vision_config": {"image_size": [448, 224]}}, r"image_size is \[448, 224\]"),
        ({"model_type": "internvl", "downsample_ratio": 0}, "downsample_ratio is 0; 0.5 or another 1 / n"),
        ({"model_type": "internvl", "downsample_ratio": 0.2}, "n a divisor of the 32 positions"),
        ({"model_type": "gemma3", "mm_tokens_per_image": 250}, "mm_tokens_per_image is 250; a square number"),
        ({"model_type": "gemma3", "mm_tokens_per_image": 9}, "whose root divides the 14 positions"),
        ({"model_type": "gemma3", "mm_tokens_per_image": True}, "mm_tokens_per_image is True"),
    ],
)
def test_a_wrong_config_is_reported(tmp_path: Path, config, message: str) -> None:
    """A config.json that describes no tiling is one sentence with its path."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as raised:
        patches_of(100, 100, "llava-onevision-7b", str(tmp_path))
    assert str(tmp_path / "config.json") in str(raised.value)


def test_a_model_that_is_not_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its config.json a model's patches are not guessed, unless its weights are random."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(UnavailableError, match=r"llava-1\.5-7b"):
        patches_of(100, 100, "llava-1.5-7b", None)


@pytest.mark.slow
def test_torch_is_not_imported() -> None:
    """Counting patches imports no torch."""
    code = (
        "import sys, harness.models.patches as p; p.patches_of(9, 9, 'mini-onevision'); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"
