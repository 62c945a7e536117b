"""Image codecs whose pictures are answered by a model that was tuned for merged features: a point's adapter (V-A3)."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from baselines.pillow_codecs import Jpeg, JpegPoint
from harness.analysis import Analysis
from harness.data.sample import Question
from harness.errors import CheckpointError, ScenarioError, UnavailableError
from harness.models import adapter, files
from harness.models.contract import Untimed
from harness.models.loading import LlavaModels
from harness.models.onevision import OneVision, load
from harness.report import table
from harness.report.figures import sheet
from harness.scenario.load import load as load_scenario
from harness.schemes.contract import Payload
from harness.schemes.image_codec import PictureDevice, PictureServer
from harness.schemes.steps import tokens_of_image
from harness.stock import missing, take_stock
from harness.tofc import trained
from tests.made_up_run import make
from tests.small_models import make_backbone, save

QUESTION = Question(text="Which?", kind="choice", options={"A": "one", "B": "two", "C": "three"})
NAME = "mini-onevision"


def base() -> OneVision:
    """A backbone whose weights are exact in half precision, in which an adapter stores its projector."""
    backbone = make_backbone()
    for parameter in backbone.model.parameters():
        parameter.data = parameter.data.half().float()
    return backbone


def tuned(folder: Path, scale: float) -> OneVision:
    """The backbone with a random adapter, or with one that is zero, as saved in ``folder``."""
    backbone = base()
    peft = adapter.attach(backbone, 4, 8, 0.0)
    torch.manual_seed(3)
    for parameter in adapter.trainable(peft).values():
        parameter.data += scale * torch.randn_like(parameter)
    peft.eval()
    adapter.halve(peft)
    adapter.save(peft, folder, NAME)
    return backbone


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> LlavaModels:
    """The backbone's parts without an adapter."""
    return load(NAME, weights=save(base(), tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> tuple[OneVision, Path]:
    """A whole model with a random adapter, by peft, and the adapter's folder."""
    folder = tmp_path_factory.mktemp("random")
    return tuned(folder, 0.05), folder


def picture(seed: int) -> Image.Image:
    """A picture of noise."""
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8).numpy())


def point(**more: Any) -> JpegPoint:
    """A point that merges."""
    return JpegPoint(quality=90, n_c=4, **more)


def server_of(models: LlavaModels, chosen: JpegPoint) -> PictureServer:
    """The server half at a point."""
    half = Jpeg.server_half(models, chosen)
    assert isinstance(half, PictureServer)
    return half


def logits(side: Any, half: Any, image: Image.Image, chosen: JpegPoint) -> torch.Tensor:
    """The logits of an answer's first token, by the server half ``half``, or by the whole model ``side``."""
    vision, language = (half.vision, half.language) if half else (side, side)
    tokens_TH = tokens_of_image(vision, language, image, chosen, Untimed())
    with torch.inference_mode():
        part = language._engine.language
        return part.lm_head(part.model(inputs_embeds=language.prompt([tokens_TH], QUESTION)[None])[0])[0, -1]


@pytest.mark.slow
def test_the_decoded_picture_is_answered_by_the_adapted_model(
    models: LlavaModels, random: tuple[OneVision, Path]
) -> None:
    """Tower, merging, projector and language model as peft computes them, unlike those without the adapter."""
    whole, folder = random
    chosen = point(adapter=str(folder))
    half, plain = server_of(models, chosen), server_of(models, point())
    image = half.codec.decode(half.codec.encode(picture(0)))
    found = logits(None, half, image, chosen)
    torch.testing.assert_close(found, logits(whole, None, image, chosen), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(None, plain, image, chosen), atol=1e-2)
    device, other = (Jpeg.device_half(models, of) for of in (chosen, point()))
    assert isinstance(device, PictureDevice)
    assert isinstance(other, PictureDevice)
    assert device.codec.encode(image) == other.codec.encode(image)


@pytest.mark.slow
def test_an_adapter_of_zeros_answers_as_the_backbone_does(models: LlavaModels, tmp_path: Path) -> None:
    """Answers and logits are the same, to the bit."""
    tuned(tmp_path, 0.0)
    halves = [server_of(models, chosen) for chosen in (point(adapter=str(tmp_path)), point())]
    for seed in range(3):
        body = halves[0].codec.encode(picture(seed))
        with_it, without = (half(Payload("jpeg", (body,)), [QUESTION], Untimed()) for half in halves)
        assert with_it == without
        a, b = (logits(None, half, picture(seed), point()) for half in halves)
        assert torch.equal(a, b)


def test_a_point_without_an_adapter_is_unchanged(random: tuple[OneVision, Path]) -> None:
    """Its label and parameters have no adapter; one with an adapter has it in both, and needs merged features."""
    assert point().label == "quality=90,n_c=4"
    assert "adapter" not in point().model_dump(mode="json")
    assert JpegPoint.model_validate(point().model_dump()) == point()
    named = point(adapter="merging")
    assert named.label == "quality=90,n_c=4,adapter=merging"
    assert named.model_dump(mode="json")["adapter"] == "merging"
    assert JpegPoint.model_validate(named.model_dump()) == named
    with pytest.raises(ValueError, match="adapter merging needs a merge_to or an n_c"):
        JpegPoint(quality=90, adapter="merging")


SCENARIO = """
name: tuned
title: Tuned
benchmark: StreetsQA
backbone: mini-onevision
samples: 2
pipelines:
  - scheme: server_only
  - {{ scheme: jpeg, points: [{{ quality: 40, n_c: 6, adapter: {adapter} }}] }}
  - {{ scheme: webp, points: [{{ quality: 40, n_c: 6 }}] }}
  - {{ scheme: hyperprior, points: [{{ weights: 0.006, n_c: 6, adapter: {adapter} }}] }}
replay:
  uplinks: [{{ kind: constant, rate: 25 KB/s }}]
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A scenario in an empty working folder whose codecs have an adapter of this name."""
    monkeypatch.chdir(tmp_path)

    def written(name: str) -> Any:
        path = tmp_path / "tuned.yaml"
        path.write_text(SCENARIO.format(adapter=name))
        return load_scenario(path)

    return written


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "./own"])
def test_an_adapter_is_found_and_rows_depend_on_its_files(
    scenario: Callable[[str], Any], random: tuple[OneVision, Path], name: str, tmp_path: Path
) -> None:
    """By its name or its path, before anything is computed; one that is changed changes the digests of its points."""
    wanted = scenario(name)
    told = missing(wanted)
    assert len(told) == 1
    assert "unknown adapter of mini-onevision 'own'" in told[0] or f"{name}: there is no such folder" in told[0]
    place = tmp_path / {"own": "codecs/mini-onevision/own/adapter", "./own": "own"}[name]
    shutil.copytree(random[1], place)
    assert missing(wanted) == []
    before = take_stock(wanted).depends
    config = place / files.ADAPTER_CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 9}))
    after = take_stock(wanted).depends
    changed = {pipeline for (pipeline, label), depends in before.items() if depends != after[pipeline, label]}
    assert changed == {"jpeg", "hyperprior"}
    assert f"adapter {name}, {files.ADAPTER_WEIGHTS}" in before["jpeg", f"quality=40,n_c=6,adapter={name}"]
    whole, text = (place / files.ADAPTER_WEIGHTS).read_bytes(), config.read_text()
    (place / files.ADAPTER_WEIGHTS).write_bytes(whole[:-100])
    assert f"{files.ADAPTER_WEIGHTS}: is damaged, or is not safetensors" in missing(wanted)[0]
    (place / files.ADAPTER_WEIGHTS).write_bytes(whole)
    config.write_text(text[:-9])
    assert f"{files.ADAPTER_CONFIG}: is not JSON" in missing(wanted)[0]
    config.write_text(text)
    (place / files.ADAPTER_WEIGHTS).unlink()
    (reason,) = missing(wanted)
    assert files.ADAPTER_WEIGHTS in reason


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"codec": {"experts": 16}},
            "its adapter was trained together with a codec; 'adapter' needs one",
        ),
        ({"codec": None, "scheme": "visionzip"}, "its adapter was trained for the reduction of visionzip; 'adapter'"),
        ({"codec": None, "scheme": "tofc_single"}, None),
        ({"codec": None}, None),
    ],
)
def test_an_adapter_that_was_not_tuned_for_merging_alone_is_refused(
    random: tuple[OneVision, Path], tmp_path: Path, config: dict[str, Any], sentence: str | None
) -> None:
    """By the manifest of its training, whose own scheme alone may use it; each name of merging is merging."""
    shutil.copytree(random[1], tmp_path / "training" / trained.ADAPTER)
    prints = dict.fromkeys(files.PARTS, "0" * 16)
    given = {"backbone": NAME, "fingerprints": prints, "config": config}
    (tmp_path / "training" / trained.MANIFEST).write_text(json.dumps(given))
    chosen = point(adapter=str(tmp_path / "training"))
    if sentence is None:
        assert len(Jpeg.files(NAME, chosen)) == 2
    else:
        with pytest.raises(CheckpointError, match=f"training: {sentence}"):
            Jpeg.files(NAME, chosen)


def test_an_adapter_of_another_model_is_refused(
    models: LlavaModels, random: tuple[OneVision, Path], tmp_path: Path
) -> None:
    """By the weights that it was trained around, where a training says so, and by its shapes."""
    shutil.copytree(random[1], tmp_path / "training" / trained.ADAPTER)
    prints = {part: models.fingerprint(part) for part in files.PARTS}
    manifest = tmp_path / "training" / trained.MANIFEST
    manifest.write_text(json.dumps({"fingerprints": prints}))
    chosen = point(adapter=str(tmp_path / "training"))
    Jpeg.server_half(models, chosen)
    manifest.write_text(json.dumps({"fingerprints": {**prints, "language": "0" * 16}}))
    with pytest.raises(CheckpointError, match=r"training: was trained with weights 0{16} of the language of mini-"):
        Jpeg.server_half(models, chosen)
    manifest.write_text(json.dumps({"backbone": "mini-llava15", "fingerprints": prints}))
    with pytest.raises(CheckpointError, match="training: was trained for 'mini-llava15', and mini-onevision needs a"):
        Jpeg.server_half(models, chosen)
    with pytest.raises(CheckpointError, match="training: was trained for 'mini-llava15', and mini-onevision needs a"):
        Jpeg.files("mini-onevision", chosen)
    other = load(NAME, weights=save(make_backbone(width=48), tmp_path / "wide"))
    with pytest.raises(CheckpointError, match="it was trained with another model"):
        Jpeg.server_half(other, point(adapter=str(random[1])))


@pytest.mark.slow
def test_tables_and_figures_say_which_codecs_are_not_tuned(tmp_path: Path) -> None:
    """Those that send pictures and merge without an adapter; with one, or without merging, there is no label."""
    found = Analysis(make(tmp_path / "run")).record
    parameters = {"quality": 5, "max_side": None, "merge_to": None, "n_c": 4, "neighbours": 5}

    def run(**changes: Any) -> Analysis:
        points = {name: {label: {**parameters, **changes} for label in of} for name, of in manifest.points.items()}
        points = {name: of if name in ("jpeg", "webp") else manifest.points[name] for name, of in points.items()}
        return Analysis(dataclasses.replace(found, manifest=manifest.model_copy(update={"points": points})))

    manifest = found.manifest
    console = Console(width=100, record=True)
    console.print(table.table(run()))
    assert "\nnot tuned for merging: " in console.export_text()
    assert sorted(run().manifest.untuned.removeprefix("not tuned for merging: ").split(", ")) == ["jpeg", "webp"]
    assert sheet.of(run(), "x").untuned == run().manifest.untuned
    for told in (run(adapter="merging"), run(n_c=None)):
        assert told.manifest.untuned == sheet.of(told, "x").untuned == ""


def test_a_scenario_with_an_adapter_and_nothing_merged_is_refused(scenario: Callable[[str], Any]) -> None:
    """With its line, as every mistake."""
    path = Path("tuned.yaml")
    path.write_text(SCENARIO.format(adapter="merging").replace("quality: 40, n_c: 6, adapter", "quality: 40, adapter"))
    with pytest.raises(ScenarioError, match=r"tuned\.yaml:\d+: pipelines\.1\.points\.0.*adapter merging needs a"):
        load_scenario(path)


def test_an_adapter_that_was_copied_is_known_by_what_lies_in_it(tmp_path: Path) -> None:
    """By the codec beside it, and by the backbone that peft recorded; suggested names are accepted."""
    zoo = trained.CODECS / NAME / "lambda-0.3"
    shutil.copytree(zoo, tmp_path / "joint")
    (tmp_path / "joint" / trained.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="holds a codec"):
        trained.adapter_files(NAME, str(tmp_path / "joint"))
    shutil.copytree(trained.CODECS / "mini-llava15" / "merging" / trained.ADAPTER, tmp_path / "other")
    with pytest.raises(CheckpointError, match=f"is an adapter of mini-llava15, and {NAME} needs"):
        trained.adapter_files(NAME, str(tmp_path / "other"))
    with pytest.raises(UnavailableError, match="known: merging;"):
        trained.adapter_files(NAME, "nosuch")
