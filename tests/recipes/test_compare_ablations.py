"""The comparison of ablations: which points it takes, and what its tables say of seeds."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from baselines.ablations.schemes import DISTORTION, TABLE_1_CLUSTERS
from harness.catalog import ZOO
from harness.errors import CheckpointError
from recipes import compare_ablations as comparison


def point(weights: Path, seed: int | None, around: str | None = None) -> Path:
    """A folder of weights with a single point of Fig. 12 that says this of its training."""
    folder = weights / "mini-onevision" / "tofc_single" / "lambda-0.2"
    folder.mkdir(parents=True)
    model = ZOO / "mini-onevision" / "model.safetensors"
    facts = {"backbone": around or hashlib.sha256(model.read_bytes()).hexdigest()}
    if seed is not None:
        facts["how"] = json.dumps({"seed": seed})
    save_file({"a": np.zeros(1, np.float32)}, folder / "projector.safetensors", facts)
    return weights


def test_a_points_seed_is_the_one_that_it_says(tmp_path: Path) -> None:
    """Whatever the order of the folders."""
    folders = [point(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 2))]
    assert [one.seed for one in comparison.points_of(folders)] == [7, 2]


def test_folders_that_cannot_be_compared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None or without points, one too deep, copies, other weights, no seed, unfinished: before a model is loaded."""
    monkeypatch.setattr(comparison, "load", lambda *_: pytest.fail("a model was loaded"))
    good = point(tmp_path / "good", 0)
    (unfinished := point(tmp_path / "unfinished", 0)).joinpath(
        "mini-onevision/tofc_single/lambda-0.2/projector.safetensors"
    ).unlink()
    wrong = [
        ([tmp_path / "none"], "none: there is no such folder; a folder with points in mini-onevision/SCHEME"),
        ([Path(__file__)], r"test_compare_ablations.py: is a file; a folder with points in"),
        ([tmp_path], "has no points; .*/mini-onevision/tofc_selective/lambda-0.05 would be one$"),
        ([good / "mini-onevision"], "--weights is the one above"),
        ([good, good], "is of seed 0, as is"),
        ([good, point(tmp_path / "copy", 0)], "copy.*: is of seed 0, as is .*good"),
        ([point(tmp_path / "other", 0, "abc")], "other.*: was trained around the weights abc of mini-onevision"),
        ([point(tmp_path / "silent", None)], "does not say its seed"),
        ([unfinished], "is incomplete"),
    ]
    for folders, sentence in wrong:
        with pytest.raises(CheckpointError, match=sentence):
            comparison.main(["--weights", *map(str, folders)])


def test_more_pages_than_the_books_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With their number."""
    with pytest.raises(SystemExit):
        comparison.main(["--pages", "777"])
    assert "--pages 777: the books 310000 to 310007 have 776 pages" in capsys.readouterr().err


def test_points_without_a_common_seed_are_not_compared() -> None:
    """The table says so, for Table I and for Fig. 12."""

    def row(scheme: str, name: str, n_c: int, seed: int) -> comparison.Row:
        return comparison.Row(scheme, name, n_c, seed, ((9, 0.5), (8, 0.3)), (72, 32))

    text = comparison.report(
        [
            row("tofc_selective", "lambda-0.2", 3, 0),
            row("tofc_single", "lambda-0.2", 3, 1),
            row("tofc_single", DISTORTION, TABLE_1_CLUSTERS, 0),
            row("qformer", DISTORTION, TABLE_1_CLUSTERS, 1),
            row("visionzip", DISTORTION, TABLE_1_CLUSTERS, 0),
        ]
    ).splitlines()
    assert "| tofc_single | lambda-0.2 | 3 | no seed in common | - | 0 |" in text
    assert "| qformer | 4 | 0.4000 | no seed in common | - | 0 |" in text
    assert "| visionzip | 4 | 0.4000 | +0.0000 | +0.0000 to +0.0000, over pages alone | 1 |" in text
