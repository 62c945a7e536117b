"""Cached features are those of the pictures and of the tower that a training has now."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.models import prompts
from harness.models.onevision import load
from harness.training.conversations import Conversations
from harness.training.features import merged_features
from harness.training.reading import Reader


def merged(weights: Path, file: Path, images: Path, cache: Path | None) -> tuple[Any, int]:
    """The features of two pictures, and how many of these were encoded for them."""
    backbone = load("mini-onevision", weights=weights).vision()
    told = Conversations.Config(kind="conversations", file=str(file), images=str(images))
    data: Any = Conversations(told, prompts.ONEVISION)
    encoded: list[int] = []
    reader = Reader(data, backbone, 16, pictures=False)
    found = merged_features(backbone, reader, [0, 1], [2], cache, lambda: encoded.append(1))
    return torch.cat([found[index][2] for index in (0, 1)]), len(encoded)


@pytest.mark.slow
def test_what_features_follow_from_decides_whether_they_are_cached(
    tmp_path: Path, conversations: Path, onevision_folder: Path
) -> None:
    """Other pictures under the same names, another cut of the same tower, other tiles: none is read from the cache."""
    images, cache = conversations.parent / "images", tmp_path / "cache"
    first, encoded = merged(onevision_folder, conversations, images, cache)
    assert encoded == 2
    again, encoded = merged(onevision_folder, conversations, images, cache)
    assert encoded == 0
    assert torch.equal(again, first)

    others = tmp_path / "others"
    (others / "some").mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.full((24, 40, 3), 30 * number, np.uint8)).save(others / "some" / f"{number}.png")
    cases = [(onevision_folder, others)]
    for key, value in (("vision_feature_layer", -2), ("image_grid_pinpoints", [[32, 32]])):
        cases.append((shutil.copytree(onevision_folder, tmp_path / key), images))
        config = json.loads((tmp_path / key / "config.json").read_text())
        (tmp_path / key / "config.json").write_text(json.dumps({**config, key: value}))
    for weights, shown in cases:
        found, encoded = merged(weights, conversations, shown, cache)
        assert encoded == 2
        assert torch.equal(found, merged(weights, conversations, shown, None)[0])
