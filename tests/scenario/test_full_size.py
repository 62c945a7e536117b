"""The shipped scenarios where their own backbones are installed, in the layout of the hub's repositories.

The models are small and random, under the names of transformers before 5.0 and after; their features are as wide as the
miniatures', whose codecs serve as theirs.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baselines.neural_codec import bundled
from harness import catalog
from harness.errors import HarnessError
from harness.models import adapter, files, llava15, onevision
from harness.runs.store import Run
from harness.scenario.load import load
from harness.scenario.model import Scenario
from harness.stock import missing, take_stock
from harness.study import run
from harness.tofc import trained
from tests.silent import Silent
from tests.small_models import make_config, make_config15, make_model, make_tokenizer, on_hub

SCENARIOS = Path(__file__).parents[2] / "scenarios"
AT_FULL_SIZE = sorted(path.stem for path in SCENARIOS.glob("*.yaml") if path.stem not in ("smoke", "paper_projection"))
WIDTH = 160
Cache = Callable[[str], Path]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The hub's cache with the three backbones of the shipped scenarios, under old names and under new ones."""
    wide = {"width": WIDTH, "patch": 8}
    built = {
        "llava-onevision-7b": onevision.OneVision("7b", make_model(make_config(tile=48, **wide)), make_tokenizer()),
        "llava-onevision-0.5b": onevision.OneVision(
            "0.5b", make_model(make_config(tile=48, tie_word_embeddings=True, **wide)), make_tokenizer()
        ),
        "llava-1.5-7b": llava15.Llava15("1.5", make_model(make_config15(tile=64, **wide)), make_tokenizer()),
    }
    found = {}
    for style in ("old", "new"):
        found[style] = tmp_path_factory.mktemp(style)
        for name, backbone in built.items():
            on_hub(found[style], str(files.SOURCES[name]), backbone, old=style == "old")
    return found


@pytest.fixture
def installed(caches: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cache:
    """Uses a folder as the hub's cache; the working folder and that of the benchmarks are empty."""

    def install(style: str) -> Path:
        monkeypatch.setenv("HF_HUB_CACHE", str(caches[style]))
        (tmp_path / "benchmarks").mkdir(exist_ok=True)
        monkeypatch.setenv("LMUData", str(tmp_path / "benchmarks"))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return install


def named(scenario: Scenario, *keys: str) -> set[tuple[str, str]]:
    """The pipelines of a scenario with the codecs and networks that their full-size points name; an adapter once."""
    found: dict[tuple[str, str], str] = {}
    for spec in scenario.pipelines:
        for point in spec.operating_points():
            for key in keys or ("codec", "weights", "adapter"):
                if isinstance(name := getattr(point, key, None), str):
                    found.setdefault(("adapter" if key == "adapter" else spec.name, name), spec.name)
    return {(pipeline, name) for (_, name), pipeline in found.items()}


def provide(folder: Path, scenario: Scenario) -> None:
    """Everything that the full-size points name, in the working folder."""
    for _, tuned in named(scenario, "adapter"):
        backbone = catalog.load("backbone", scenario.backbone, catalog.BACKBONES)(scenario.backbone).backbone()
        place = folder / "codecs" / scenario.backbone / tuned / trained.ADAPTER
        adapter.save(adapter.attach(backbone, 2, 4, 0.0), place, scenario.backbone)
    codec = next(trained.CODECS.glob("mini-onevision/*/codec.safetensors"))
    for pipeline, name in named(scenario, "codec", "weights"):
        path = folder / (name if "/" in name else f"codecs/{scenario.backbone}/{name}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(codec if pipeline == "tofc" else bundled(pipeline)[0.0018], path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "style"), list(zip(AT_FULL_SIZE, itertools.cycle(["old", "new"]), strict=False)))
def test_check_finds_everything_that_a_full_size_run_lacks(installed: Cache, name: str, style: str) -> None:
    """Each codec and network once, by pipeline and name, and nothing else: the backbones themselves are found."""
    folder = installed(style)
    scenario = load(SCENARIOS / f"{name}.yaml")
    told, wanted = missing(scenario), named(scenario)
    assert all(any(text.startswith(f"{spec} at ") and what in text for text in told) for spec, what in wanted), told
    assert len(told) == len(wanted)
    if name == "realworldqa_lowrate":
        with pytest.raises(HarnessError) as refusal:
            take_stock(scenario)
        assert len(str(refusal.value).splitlines()) == len(wanted)
    if not name.startswith("ablation"):
        provide(folder, scenario)
        assert missing(scenario) == []


@pytest.mark.slow
@pytest.mark.parametrize("style", ["old", "new"])
def test_the_parts_are_those_of_the_repository(installed: Cache, style: str) -> None:
    """Under old names and new ones a part has one fingerprint, read or not, and a tied head is the embedding."""
    installed(style)
    for name, load_models in (("llava-onevision-0.5b", onevision.load), ("llava-1.5-7b", llava15.load)):
        models = load_models(name)
        whole = models.backbone()
        assert {part: models.fingerprint(part) for part in files.PARTS} == whole.fingerprints()
        language: Any = models._module("language")
        is_tied = name == "llava-onevision-0.5b"
        assert (language.lm_head.weight is language.model.embed_tokens.weight) == is_tied
        assert (whole.model.lm_head.weight is whole.model.get_input_embeddings().weight) == is_tied


@pytest.mark.slow
def test_a_full_size_run_completes(installed: Cache) -> None:
    """Every scheme of the paper answers, is timed and replayed; of the stand-ins, the benchmark's alone runs."""
    folder = installed("old")
    few = {
        "tofc": "{codec: lambda-0.01, n_c: 8}",
        "jpeg": "{quality: 5, n_c: 16, adapter: merging}",
        "webp": "{quality: 5, n_c: 16, adapter: merging}",
        "hyperprior": "{weights: weights/hyperprior-1.safetensors, n_c: 16}",
        "elic": "{weights: weights/elic-0004.safetensors, n_c: 16}",
    }
    short = ("samples=8", "measure.timed_samples=1", "measure.warmup=0", "measure.repeats=1", "selection.resamples=100")
    points = (f"pipelines.{name}.points=[{point}]" for name, point in few.items())
    scenario = load(SCENARIOS / "realworldqa_lowrate.yaml", (*short, *points))
    provide(folder, scenario)
    assert take_stock(scenario).stand_ins == {"RealWorldQA": "StreetsQA"}
    run(scenario, folder / "run", reporter=Silent())
    found = Run.read(folder / "run")
    labels = {(spec.name, point.label) for spec in scenario.pipelines for point in spec.operating_points()}
    for table in (found.outcomes, found.stages, found.requests):
        assert set(zip(table["pipeline"].to_pylist(), table["point"].to_pylist(), strict=True)) == labels
    assert found.manifest.backbone == scenario.backbone
