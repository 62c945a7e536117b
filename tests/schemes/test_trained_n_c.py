"""Labels of points at an n_c that their weights were not trained for, or whose training is not known."""

import functools
import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baselines.ablations.schemes import Selective
from baselines.pillow_codecs import Jpeg, JpegPoint
from harness.errors import CheckpointError, UnavailableError
from harness.model_probe import ModelProbe
from harness.runs import provenance
from harness.scenario.load import load
from harness.schemes.tofc import FeaturePoint, Tofc, TofcPoint
from harness.stock import missing, running_points, take_stock
from harness.tofc import trained
from harness.tofc.manifest import read

NAME = "mini-onevision"
ZOO = trained.CODECS / NAME
SCENARIO = """
name: n_c
title: n_c
benchmark: StreetsQA
backbone: mini-onevision
samples: 8
seed: 0
pipelines:
  - scheme: server_only
  - scheme: tofc
    points: [{{ codec: {codec}, n_c: [2, 6] }}]
  - scheme: jpeg
    points: [{{ quality: 5, n_c: 6, adapter: merging }}, {{ quality: 5, n_c: 3, adapter: merging }}, {{ quality: 9 }}]
replay: {{ uplinks: [{{ kind: constant, rate: 25 KB/s }}] }}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Any:
    """Makes a scenario of a codec with points at n_c that it was and was not trained for."""

    def written(codec: str = "lambda-0.3") -> Any:
        path = tmp_path / "n_c.yaml"
        path.write_text(SCENARIO.format(codec=codec))
        return load(path)

    return written


@pytest.mark.slow
def test_points_at_another_n_c_are_named_before_and_in_a_run(scenario: Any) -> None:
    """By check, by the run's manifest, and so by all tables and figures; it is no stand-in, and nothing is refused."""
    said = ["n_c not trained for: tofc (1 of 2 points), jpeg (1 of 3 points)"]
    assert running_points(scenario(), allow_stand_ins=False) == (6, said)
    stock = take_stock(scenario(), allow_stand_ins=False)
    manifest = stock.manifest("run", {"id": "here", "name": "here"}, [])
    assert manifest.untuned == said[0]
    assert manifest.label == ""
    assert manifest.untrained is not None
    assert list(manifest.untrained["tofc"].values()) == [[3, 6]]
    assert [label.partition("n_c=")[2][0] for label in manifest.untrained["jpeg"]] == ["3"]


def test_a_codec_without_its_folder_is_of_unknown_training(scenario: Any, tmp_path: Path) -> None:
    """Files beside it are neither its adapter nor its manifest."""
    for place in (tmp_path / "alone", tmp_path / "beside"):
        if place.name == "beside":
            shutil.copytree(ZOO / "lambda-0.1", place)
        place.mkdir(exist_ok=True)
        codec = place / "flat.safetensors"
        shutil.copy(ZOO / "lambda-0.3" / trained.CODEC, codec)
        assert running_points(scenario(str(codec)))[1] == [
            "n_c not trained for: jpeg (1 of 3 points)", "training not known: tofc"
        ]  # fmt: skip
        point = TofcPoint(codec=str(codec), n_c=6)
        assert list(Tofc.files(NAME, point).values()) == [codec]
        assert not Tofc.is_codec_only(NAME, point)


def test_a_codec_with_its_adapter_and_without_its_manifest_is_refused(tmp_path: Path) -> None:
    """It would run without the adapter that it was trained with."""
    shutil.copytree(ZOO / "lambda-0.3", tmp_path / "copy")
    (tmp_path / "copy" / trained.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"copy: has a codec with an adapter, and no manifest\.json"):
        Tofc.files(NAME, TofcPoint(codec=str(tmp_path / "copy"), n_c=6))


def _copied(codec: str, to: Path, **changes: Any) -> Path:
    """A copy of a bundled training's folder, whose manifest has other facts; one that is None is left out."""
    shutil.copytree(ZOO / codec, to)
    facts = json.loads((to / trained.MANIFEST).read_text()) | changes
    (to / trained.MANIFEST).write_text(json.dumps({name: fact for name, fact in facts.items() if fact is not None}))
    return to


def _with_another_codec(folder: Path) -> None:
    shutil.copy(ZOO / "lambda-0.1" / trained.CODEC, folder)


def _without_lora(folder: Path) -> None:
    facts = json.loads((folder / trained.MANIFEST).read_text())
    facts["config"]["lora"]["rank"] = 0
    (folder / trained.MANIFEST).write_text(json.dumps(facts))


def _with_adapter_of(other: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copytree(
        trained.CODECS / other / trained.ADAPTER, folder / trained.ADAPTER, dirs_exist_ok=True
    )


def _with_another_reducer(folder: Path) -> None:
    facts = json.loads((folder / trained.MANIFEST).read_text()) | {"reducer_hash": "0123456789abcdef"}
    (folder / trained.MANIFEST).write_text(json.dumps(facts))
    shutil.copy(folder / trained.CODEC, folder / trained.REDUCER)


MIXED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another codec": ("lambda-0.3", _with_another_codec, "another training than the manifest.json beside it: its hash"),
    "a codec": ("merging", _with_another_codec, "has a codec.safetensors, and its manifest"),
    "another adapter": ("lambda-0.3", _with_adapter_of(f"{NAME}/lambda-0.1"), "adapter: is of another training than"),
    "another backbone's adapter": (
        "lambda-0.3",
        _with_adapter_of("mini-llava15/lambda-0.1"),
        "adapter: is of another training than the manifest",
    ),
    "another reducer": ("lambda-0.3", _with_another_reducer, "reducer_hash is '0123456789abcdef'"),
    "no adapter": ("lambda-0.3", lambda folder: shutil.rmtree(folder / trained.ADAPTER), "has no adapter, and"),
    "an adapter": ("lambda-0.3", _without_lora, "has an adapter, and its manifest"),
}


@pytest.mark.parametrize("name", MIXED)
def test_files_of_several_trainings_are_refused(scenario: Any, tmp_path: Path, name: str) -> None:
    """By check, in one sentence, and where the parts of a model are loaded: the manifest labels what it is not of."""
    codec, mix, sentence = MIXED[name]
    folder = _copied(codec, tmp_path / "mixed")
    mix(folder)
    (told,) = missing(scenario(str(folder)))
    assert told.startswith(f"tofc at codec={folder}")
    assert sentence in told
    with pytest.raises(CheckpointError, match=sentence):
        trained.adapter_beside(folder / trained.CODEC, ModelProbe(NAME, None, 10**6), ("tower",))
    with pytest.raises(CheckpointError, match=sentence):
        Selective.files(NAME, FeaturePoint(codec=str(folder), n_c=6))


def test_a_codec_that_was_lost_is_not_coded_without(tmp_path: Path) -> None:
    """An ablation whose training had a codec does not send its features as half-precision numbers instead."""
    folder = _copied("lambda-0.3", tmp_path / "lost")
    (folder / trained.CODEC).unlink()
    with pytest.raises(CheckpointError, match="lost: has no codec"):
        Selective.files(NAME, FeaturePoint(codec=str(folder), n_c=6))


def test_bundled_trainings_and_those_of_an_earlier_code_are_whole(scenario: Any, tmp_path: Path) -> None:
    """Each bundled file has the hash of its manifest; where an older manifest has none, the training is not known."""
    for path in trained.CODECS.rglob(trained.MANIFEST):
        trained.refuse_other_files(path.parent)
        assert trained.trained_n_c(path.parent), path
    for key in ("codec_hash", "adapter_hash"):
        folder = _copied("lambda-0.3", tmp_path / key, **{key: None})
        assert Tofc.files(NAME, TofcPoint(codec=str(folder), n_c=6))
        assert Tofc.trained_n_c(NAME, TofcPoint(codec=str(folder), n_c=6)) is None
    assert running_points(scenario(str(folder)))[1][1] == "training not known: tofc"


def test_an_adapter_of_another_training_tunes_no_image_codec(tmp_path: Path) -> None:
    """By the folder of a training for merging, whose adapter was replaced."""
    folder = _copied("merging", tmp_path / "tuned")
    point = JpegPoint(quality=5, n_c=6, adapter=str(folder))
    assert Jpeg.files(NAME, point)
    _with_adapter_of(f"{NAME}/lambda-0.1")(folder)
    with pytest.raises(CheckpointError, match="adapter: is of another training than the manifest"):
        Jpeg.files(NAME, point)


WRONG: dict[str, tuple[Any, str]] = {
    "config.lora": (None, "None is not right: input should be a valid dictionary"),
    "config.lora.rank": ("eight", "'eight' is not right: input should be a valid integer"),
    "config.lora.rank ": (-1, "-1 is not right: input should be greater than or equal to 0"),
    "config.lora.rank  ": (True, "True is not right: input should be a valid integer"),
    "config.clusters": ([], "[] is not right: list should have at least 1 item"),
    "config.clusters.1": (-1, "-1 is not right: input should be greater than or equal to 1"),
    "config.clusters ": ("3", "'3' is not right: input should be a valid list"),
    "config.codec": ("tofc", "'tofc' is not right: input should be a valid dictionary"),
    "config.data.first_book": ("none", "'none' is not right: input should be a valid integer"),
    "config": ([], "[] is not right: input should be a valid dictionary"),
    "stage": (7, "7 is not right: input should be 'whole', 'codec' or 'merging'"),
    "backbone": (None, "None is not right: input should be a valid string"),
    "fingerprints.tower": (5, "5 is not right: input should be a valid string"),
    "codec_hash": (1.5, "1.5 is not right: input should be a valid string"),
    "held_out.rows.0.z_share": (None, "None is not right: input should be a valid number"),
    "held_out.rows.0.n_clusters": ("six", "'six' is not right: input should be a valid integer"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_value_of_another_type_in_a_manifest_is_refused(tmp_path: Path, place: str) -> None:
    """With the file, the key, the value and what is expected."""
    path = _copied("lambda-0.3", tmp_path / "wrong") / trained.MANIFEST
    facts = json.loads(path.read_text())
    *above, last = [int(key) if key.isdigit() else key for key in place.strip().split(".")]
    inner = functools.reduce(operator.getitem, above, facts)
    inner[last] = WRONG[place][0]
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError) as caught:
        Tofc.files(NAME, TofcPoint(codec=str(path.parent), n_c=6))
    assert str(caught.value).startswith(f"{path}: {place.strip()}: {WRONG[place][1]}")


def test_a_manifest_without_most_keys_is_read(tmp_path: Path) -> None:
    """An absent key is no value of another type; only the fingerprints must be there."""
    folder = _copied("lambda-0.3", tmp_path / "bare")
    fingerprints = read(folder / trained.MANIFEST)["fingerprints"]
    (folder / trained.MANIFEST).write_text(json.dumps({"fingerprints": fingerprints}))
    assert trained.trained_n_c(folder) is None
    assert Tofc.files(NAME, TofcPoint(codec=str(folder), n_c=6))


def test_a_path_without_a_codec_is_not_called_unknown(tmp_path: Path) -> None:
    """The folder that was given is there: it is said what it lacks."""
    for scheme in (Tofc, Selective):
        with pytest.raises(UnavailableError, match=f"^{tmp_path}: has no"):
            scheme.files(NAME, TofcPoint(codec=str(tmp_path), n_c=6))
        with pytest.raises(UnavailableError, match="none: there is no such"):
            scheme.files(NAME, TofcPoint(codec=str(tmp_path / "none"), n_c=6))


def test_an_adapter_as_peft_saves_it_is_of_unknown_training(tmp_path: Path) -> None:
    """Of a training's adapter the n_c are known, and a picture without one has none."""
    shutil.copytree(ZOO / "merging" / trained.ADAPTER, tmp_path / "own")
    point = JpegPoint(quality=5, n_c=6, adapter="merging")
    assert Jpeg.trained_n_c(NAME, point) == (6,)
    assert Jpeg.trained_n_c(NAME, point.model_copy(update={"adapter": str(tmp_path / "own")})) is None
    assert Jpeg.trained_n_c(NAME, JpegPoint(quality=5, n_c=6)) == ()
    assert Selective.trained_n_c(NAME, FeaturePoint(codec="lambda-0.2", n_c=6)) == (6, 3)


@pytest.mark.slow
def test_an_older_manifest_has_no_trained_n_c(scenario: Any, tmp_path: Path) -> None:
    """Its seal covers what it has; a newer one's also covers what a point was trained for."""
    manifest = take_stock(scenario()).manifest("run", {"id": "here", "name": "here"}, [])
    older = manifest.model_copy(update={"untrained": None})
    path = tmp_path / provenance.MANIFEST
    path.write_text(provenance.to_json(older))
    assert "untrained" not in json.loads(path.read_text())
    assert provenance.read(path) == older
    assert older.untuned == ""
    path.write_text(provenance.to_json(manifest))
    assert provenance.read(path) == manifest
