"""The bundled pages as training data, and codecs by their names in the zoo, on the miniature itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UnavailableError
from harness.models.onevision import load as load_onevision
from harness.models.prompts import ONEVISION
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc import trained
from harness.training.bundled import Bundled
from tests.one_request import answers_from_its_stream

SMOKE = Path(__file__).parents[2] / "training" / "mini_smoke.yaml"


@pytest.mark.slow
def test_bundled_pages_have_new_questions_in_every_pass() -> None:
    """The same picture with other questions; a repeated draw gives the same ones."""
    data = Bundled(Bundled.Config(kind="bundled", first_book=7, pages=3), ONEVISION)
    first, again, later = data.example(1, 0), data.example(1, 0), data.example(1, 1)
    assert (len(data), first.id) == (3, later.id)
    assert first.dialogues == again.dialogues != later.dialogues
    assert all(len(dialogue) == 1 for dialogue in first.dialogues)
    assert first.image is not None
    assert later.image is not None
    assert first.image().tobytes() == later.image().tobytes()


@pytest.mark.slow
def test_a_codec_of_the_zoo_is_a_point_of_the_scheme(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained on bundled pages; every stage is timed on its side, and damage to the stream is a BitstreamError."""
    few = ("data.pages=5", "prefit.steps=2", "prefit.pictures=2", "prefit.batch=1", "batch=1", "steps=1", "held_out=1")
    folder = tmp_path / "mini-onevision" / "lambda-0.3"
    train(SMOKE, *few, f"out={folder}")
    monkeypatch.setattr(trained, "CODECS", tmp_path)
    models = load_onevision("mini-onevision")
    point = TofcPoint(codec="lambda-0.3", merge_to=0.021)
    answers_from_its_stream(Tofc, models, point, n_clusters=3)
    for half in (Tofc.device_half, Tofc.server_half):
        with pytest.raises(UnavailableError, match=r"unknown codec of mini-onevision 'huge'; known: lambda-0.3; train"):
            half(models, TofcPoint(codec="huge", merge_to=0.044))
