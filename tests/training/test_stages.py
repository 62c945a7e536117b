"""The two stages of a training: the codec alone, from a folder of pictures; merging and its rivals without a codec."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from baselines.ablations.schemes import Factorized, Heuristic, QFormerQueries, Single, VisionZipDominant
from harness.data import pictures
from harness.data.sample import Question, Sample
from harness.errors import CheckpointError, DataError, ScenarioError, UnavailableError
from harness.models.contract import Models, Untimed
from harness.models.llava15 import load as load_llava15
from harness.models.onevision import load as load_onevision
from harness.scenario.load import load as load_scenario
from harness.schemes.envelope import receive, send
from harness.schemes.tofc import FeaturePoint, Tofc, TofcPoint
from harness.stock import missing, take_stock
from harness.tofc.trained import ADAPTER, CODECS, trained_n_c
from harness.training.load import load
from harness.training.loop import Training
from harness.training.pictures import Pictures
from tests.small_models import make_gemma3, make_internvl, save

Train = Callable[..., Any]
Write = Callable[..., Path]

FITTED = {"steps": 4, "pictures": 4, "batch": 2, "distortion": "features", "lambda": 0.05}


def answered(scheme: Any, models: Models, point: FeaturePoint, picture: Path) -> Any:
    """The answer of a scheme's two halves to a question about a picture."""
    device, server = scheme.device_half(models, point), scheme.server_half(models, point)
    question = Question(text="Is it bright?", kind="yes_no")
    sample = Sample(id="0", image_bytes=picture.read_bytes(), question=question, truth="Yes", category="", group="0")
    data = send(device, sample, Untimed())
    assert isinstance(data, bytes)
    (answer,) = receive(server, data, [question], Untimed(), kind=scheme.kind)
    return answer


@pytest.fixture
def of_pictures(write_config: Write, conversations: Path) -> Path:
    """A configuration that fits a codec alone to a folder of pictures."""
    return write_config(data={"kind": "pictures", "folder": str(conversations.parent / "images")}, prefit=FITTED)


@pytest.mark.slow
def test_a_codec_alone_is_fitted_to_a_folder_of_pictures(
    of_pictures: Path, train: Train, tmp_path: Path, onevision_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower alone is loaded; T falls over the fit; the scheme runs on the files, labelled *codec only*."""
    monkeypatch.setattr("harness.models.loading.LlavaModels.whole", lambda _: pytest.fail("the whole model was read"))
    train(of_pictures, stage="codec")
    folder = tmp_path / "out_codec"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["stage"], manifest["steps"]) == ("codec", {"prefit": 4, "joint": 0})
    assert [row["distortion"] for row in manifest["held_out"]["rows"]] == [None, None]
    assert all(row["bytes_per_image"] > 0 for row in manifest["held_out"]["rows"])
    card = (folder / "card.md").read_text()
    assert "codec only: the backbone is as it was published" in card
    assert "pictures without questions" in card
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["T"] for entry in log] == pytest.approx([1, 0], abs=1e-3)
    assert not (folder / "adapter").exists()

    point = TofcPoint(codec=str(folder), n_c=3)
    models = load_onevision("mini-onevision", weights=onevision_folder)
    assert answered(Tofc, models, point, tmp_path / "images" / "some" / "1.png").visual_tokens > 0
    assert Tofc.is_codec_only("mini-onevision", point)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "name"), [(make_internvl, "internvl3-8b"), (make_gemma3, "gemma-3-4b")])
def test_other_families_have_a_codec_alone(
    build: Callable[[], Any], name: str, write_config: Write, conversations: Path, train: Train, tmp_path: Path
) -> None:
    """A codec is fitted to features of any family; trainings that need questions are refused before any is read."""
    weights = str(save(build(), tmp_path))
    data = {"kind": "pictures", "folder": str(conversations.parent / "images")}
    train(write_config(data=data, prefit=FITTED, backbone=name, weights=weights), stage="codec")
    manifest = json.loads((tmp_path / "out_codec" / "manifest.json").read_text())
    assert all(row["bytes_per_image"] > 0 for row in manifest["held_out"]["rows"])
    with pytest.raises(UnavailableError, match=f"{name}: training packs questions for LLaVA-OneVision"):
        train(write_config(backbone=name, weights=weights))


@pytest.mark.slow
def test_a_training_is_of_its_data(of_pictures: Path, train: Train, conversations: Path) -> None:
    """One more picture in the folder makes it another training, which is neither complete nor resumed."""
    train(of_pictures, stage="codec")
    assert Training(load(of_pictures, stage="codec"), machine={}).is_complete
    one = next((conversations.parent / "images").rglob("*.png"))
    shutil.copy(one, one.with_name("another.png"))
    with pytest.raises(ScenarioError, match="the result of another configuration, other weights or other data"):
        assert Training(load(of_pictures, stage="codec"), machine={}).is_complete


@pytest.mark.slow
def test_a_run_labels_a_codec_that_was_trained_alone(
    of_pictures: Path, train: Train, tmp_path: Path, onevision_folder: Path
) -> None:
    """Like a stand-in, wherever numbers are shown; refused without stand-ins, or with a stray adapter."""
    train(of_pictures, stage="codec")
    path = tmp_path / "of_codec.yaml"
    given = {
        "name": "of_codec",
        "title": "A codec alone",
        "benchmark": "StreetsQA",
        "backbone": "mini-onevision",
        "weights": str(onevision_folder),
        "samples": 4,
        "seed": 0,
        "pipelines": [
            {"scheme": "server_only"},
            {"scheme": "tofc", "points": [{"codec": str(tmp_path / "out_codec"), "n_c": 3}]},
        ],
        "measure": {"threads": 1, "timed_samples": 1, "warmup": 1, "repeats": 1},
        "selection": {"reference": "server_only", "target": 0.92, "margin": 0.05, "confidence": 0.95},
        "replay": {"uplinks": [{"kind": "constant", "rate": "25 KB/s"}]},
    }
    path.write_text(yaml.safe_dump(given))
    scenario = load_scenario(path)
    stock = take_stock(scenario)
    assert dict(stock.stand_ins) == {"tofc": "codec only (backbone not tuned)"}
    manifest = stock.manifest("of_codec", {"id": "here", "name": "here"}, [])
    assert manifest.label == "stand-ins: codec only (backbone not tuned) for tofc"
    (sentence,) = missing(scenario, allow_stand_ins=False)
    assert "the codec was fitted alone, to features of a backbone that was not tuned" in sentence
    with pytest.raises(UnavailableError, match="the codec was fitted alone"):
        take_stock(scenario, allow_stand_ins=False)
    shutil.copytree(CODECS / "mini-onevision" / "lambda-0.3" / ADAPTER, tmp_path / "out_codec" / ADAPTER)
    with pytest.raises(CheckpointError, match="has an adapter, and its manifest"):
        take_stock(scenario)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        (Single, ("codec.experts=1",)),
        (Factorized, ("codec.scheme=tofc_factorized",)),
        (Heuristic, ("codec.scheme=tofc_heuristic", "codec.bits=4", "prefit.steps=1")),
    ],
)
def test_an_ablation_of_the_entropy_coding_is_fitted_alike(
    of_pictures: Path, train: Train, tmp_path: Path, onevision_folder: Path, scheme: Any, settings: tuple[str, ...]
) -> None:
    """Its scheme answers with the folder; TOFC itself refuses another kind of codec, and the card names it."""
    train(of_pictures, *settings, stage="codec")
    folder = tmp_path / "out_codec"
    models = load_onevision("mini-onevision", weights=onevision_folder)
    point = FeaturePoint(codec=str(folder), n_c=3)
    assert answered(scheme, models, point, tmp_path / "images" / "some" / "1.png").visual_tokens > 0
    assert scheme.is_codec_only("mini-onevision", point)
    if scheme is not Single:
        assert f"the entropy coding of `{scheme.kind}`" in (folder / "card.md").read_text()
        with pytest.raises(CheckpointError, match="its format is"):
            Tofc.device_half(models, TofcPoint(codec=str(folder), n_c=3))


@pytest.mark.slow
def test_cached_features_are_made_once_and_in_pieces(
    of_pictures: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that was stopped meanwhile is resumed with the missing picture; the codec is the same."""
    monkeypatch.setattr("harness.training.features._PICTURES_A_FILE", 1)
    train(of_pictures, f"out={tmp_path / 'whole'}", stage="codec")
    cache = tmp_path / "cache"
    settings = (f"out={tmp_path / 'again'}", f"prefit.cache={cache}")
    with pytest.MonkeyPatch.context() as patch:
        seen = 0

        def decode(file: bytes, plain: Any = pictures.decode) -> Any:
            nonlocal seen
            seen += 1
            if seen > 2:
                raise KeyboardInterrupt
            return plain(file)

        patch.setattr(pictures, "decode", decode)
        with pytest.raises(KeyboardInterrupt):
            train(of_pictures, *settings, stage="codec")
    assert len(list(cache.iterdir())) == 2
    train(of_pictures, *settings, stage="codec")
    assert len(list(cache.iterdir())) == 4
    first, second = (load_file(tmp_path / name / "codec.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "scheme"), [("tofc_single", Single), ("visionzip", VisionZipDominant), ("qformer", QFormerQueries)]
)
def test_a_reduction_is_trained_without_a_codec(
    write_config: Write, train: Train, tmp_path: Path, onevision_folder: Path, method: str, scheme: Any
) -> None:
    """Adapter, projector and queries move by D alone; its own scheme answers with it, another refuses it."""
    given = f"scheme={method}"
    train(write_config(clusters=[4], epochs=1, steps=None), given, stage="merging")
    folder = tmp_path / "out_merging"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stage"] == "merging"
    assert "codec_hash" not in manifest
    (row,) = manifest["held_out"]["rows"]
    assert row["distortion"] != row["untuned_distortion"]
    assert not (folder / "codec.safetensors").exists()
    assert (folder / "reducer.safetensors").exists() == (method == "qformer")
    moved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(t.abs().max() > 0 for name, t in moved.items() if "lora_B" in name)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {(entry["R"], entry["balance"]) for entry in log} == {(0.0, 0.0)}

    models = load_onevision("mini-onevision", weights=onevision_folder)
    point = FeaturePoint(codec=str(folder), n_c=4)
    assert answered(scheme, models, point, tmp_path / "images" / "some" / "1.png").visual_tokens > 0
    assert set(scheme.files("mini-onevision", point).values()) >= set(folder.glob("adapter/*"))
    other = QFormerQueries if method != "qformer" else VisionZipDominant
    with pytest.raises(CheckpointError, match=f"was trained with the reduction of {method}; {other.kind} needs"):
        other.device_half(models, point)
    assert trained_n_c(folder) == (4,)
    with pytest.raises(UnavailableError, match=r"out_merging: has no codec\.safetensors"):
        Tofc.device_half(models, TofcPoint(codec=str(folder), n_c=4))


@pytest.mark.slow
def test_any_backbone_has_the_rows_of_table_1(
    write_config: Write, train: Train, tmp_path: Path, llava15_folder: Path
) -> None:
    """VisionZip has LLaVA-1.5's class token; a Q-Former that was stopped and resumed ends with the same weights."""
    how = {"backbone": "llava-1.5-7b", "weights": str(llava15_folder), "clusters": [4]}
    config = write_config(**how)
    train(config, "scheme=visionzip", f"out={tmp_path / 'zip'}", stage="merging")
    models = load_llava15("llava-1.5-7b", weights=llava15_folder)
    point = FeaturePoint(codec=str(tmp_path / "zip"), n_c=4)
    assert answered(VisionZipDominant, models, point, tmp_path / "images" / "some" / "1.png").visual_tokens == 4
    for name, stop in (("whole", None), ("stopped", 3)):
        settings = ("scheme=qformer", f"out={tmp_path / name}")
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                train(config, *settings, stage="merging", stop_after=stop)
        train(config, *settings, stage="merging")
    files = ("reducer.safetensors", "adapter/adapter_model.safetensors")
    for file in files:
        first, second = (load_file(tmp_path / name / file) for name in ("whole", "stopped"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_picture_that_was_edited_makes_other_data(tmp_path: Path) -> None:
    """Also at equal size; the same content elsewhere is the same data."""
    for place in ("here", "there"):
        (tmp_path / place / "photos").mkdir(parents=True)
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "here" / "photos" / "a.bmp")
    shutil.copy(tmp_path / "here" / "photos" / "a.bmp", tmp_path / "there" / "photos" / "a.bmp")

    def identity(place: str) -> str:
        return Pictures(Pictures.Config(kind="pictures", folder=str(tmp_path / place / "photos"))).identity

    before = identity("here")
    assert identity("there") == before
    image.putpixel((0, 0), (9, 9, 9))
    image.save(tmp_path / "here" / "photos" / "a.bmp")
    assert identity("here") != before
    assert identity("here").split()[:5] == before.split()[:5]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, "photos: there is no such folder"),
        (b"no", "photos: is a file; a folder of pictures is expected"),
        ({"readme.txt": b"no"}, "photos: holds no picture"),
        ({"a.png": b"\x89PNG no"}, r"photos/a\.png: cannot be read as a picture: "),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_named(
    tmp_path: Path, files: dict[str, bytes] | bytes | None, sentence: str
) -> None:
    """Before anything is computed."""
    folder = tmp_path / "photos"
    if isinstance(files, bytes):
        folder.write_bytes(files)
    elif files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        Pictures(Pictures.Config(kind="pictures", folder=str(folder)))
