"""How many patches a picture is cut into, known without torch, against the tilings that cut it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CheckpointError, UnavailableError
from harness.models.patches import features_of, grids_up_to, patches_of, patches_of_all
from harness.models.tiling import Tiling

SIZES = st.integers(1, 5000)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIZES)
def test_patches_are_those_of_the_tiling(width: int, height: int) -> None:
    """The miniature's and the full model's count is the one that their tiling cuts; LLaVA-1.5 has one patch."""
    for backbone, weights, side in (("mini-onevision", None, 192), ("llava-onevision-7b", "random", 384)):
        tiling = Tiling(patch=side, grids=grids_up_to(6))
        wanted = tiling.n_patches(*tiling.grid(height, width))
        assert patches_of(width, height, backbone, weights) == wanted
    assert patches_of(width, height, "mini-llava15") == patches_of(width, height, "llava-1.5-7b", "random") == 1


def test_pictures_of_a_question_add_up() -> None:
    """A question with several pictures has the patches of all of them."""
    sizes = [(100, 100), (400, 200)]
    assert patches_of_all(sizes, "mini-onevision") == sum(patches_of(w, h, "mini-onevision") for w, h in sizes)


@pytest.mark.parametrize(
    ("backbone", "weights", "n_features"),
    [
        ("mini-onevision", None, 144),
        ("mini-llava15", None, 324),
        ("llava-onevision-7b", "random", 729),
        ("llava-1.5-7b", "random", 576),
    ],
)
def test_features_of_a_patch_are_the_towers(backbone, weights, n_features: int) -> None:
    """V of the miniatures' files, and of the published models where they are not on this machine."""
    assert features_of(backbone, weights) == n_features


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"model_type": "llava_onevision", "vision_config": {"image_size": 0}}, "image_size is 0"),
        ({"model_type": "llava_onevision", "image_grid_pinpoints": [[100, 384]]}, "image_grid_pinpoints are"),
    ],
)
def test_a_wrong_config_is_said(tmp_path: Path, config, message: str) -> None:
    """A config.json that describes no tiling is one sentence with its path."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as raised:
        patches_of(100, 100, "llava-onevision-7b", str(tmp_path))
    assert str(tmp_path / "config.json") in str(raised.value)


def test_a_model_that_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its config.json a model's patches are not guessed, unless its weights are random."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(UnavailableError, match=r"llava-1\.5-7b"):
        patches_of(100, 100, "llava-1.5-7b", None)


def test_torch_is_not_imported() -> None:
    """Counting patches imports no torch."""
    code = (
        "import sys, harness.models.patches as p; p.patches_of(9, 9, 'mini-onevision'); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"
