"""What the rows of a run depend on is watched: what has changed is measured again, and nothing else is."""

import shutil
from pathlib import Path

import pytest

from harness.catalog import ZOO
from harness.errors import ResultsError, UnavailableError
from harness.runs import provenance
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.stock import take_stock
from harness.study import run
from tests.silent import Silent

SCENARIO = """
name: watched
title: Watched
benchmark: {benchmark}
backbone: mini-onevision
stand_in: {{ benchmark: StreetsQA }}
samples: 4
pipelines:
  - {{ scheme: jpeg, points: [{{ quality: {quality}, merge_to: 0.044 }}] }}
  - {{ scheme: tofc, points: [{{ codec: {codec}, merge_to: 0.044 }}] }}
measure: {{ threads: 1, timed_samples: 1, warmup: 0, repeats: 1 }}
selection: {{ reference: tofc, target: 0.5, margin: 0.4, confidence: 0.8, resamples: 200 }}
replay:
  uplinks: [{uplink}]
"""
CONSTANT = "{ kind: constant, rate: 25 KB/s }"

pytestmark = pytest.mark.slow


class Counting(Silent):
    """A reporter that also counts the remaining steps of each phase."""

    @property
    def left(self) -> dict[str, int]:
        """The remaining steps by phase."""
        return {name: total - done for name, total, done in self.phases}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run of the scenario."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    assert _run(folder).left["answers"] == 2
    return folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    """A copy of it, to be worked on."""
    return shutil.copytree(complete, tmp_path / "run")


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """A codec's folder of the user's own, that may change."""
    folder = tmp_path / "codec"
    shutil.copytree(ZOO / "tofc" / "mini-onevision" / "lambda-0.3", folder)
    return folder


def _run(folder: Path, *, allow_stand_ins: bool = True, **parts: object) -> Counting:
    """Runs the scenario with some of it changed."""
    values = {"benchmark": "StreetsQA", "quality": 20, "codec": "lambda-0.3", "uplink": CONSTANT, **parts}
    path = folder.parent / "watched.yaml"
    path.write_text(SCENARIO.format(**values))
    reporter = Counting()
    run(load(path), folder, reporter=reporter, allow_stand_ins=allow_stand_ins)
    return reporter


def _payloads(record: Record, pipeline: str) -> dict[str, int]:
    rows = record.outcomes.to_pandas()
    own = rows[rows["pipeline"] == pipeline]
    return dict(zip(own["sample"], own["payload_bytes"], strict=True))


def test_a_codec_that_was_replaced_is_measured_again_and_named(folder: Path, codec: Path) -> None:
    """Rows of two codecs never mix: the scheme that uses the file is measured again, the others are not."""
    first = _run(folder, codec=codec)
    assert first.left["answers"] == 1
    before = _payloads(Run.read(folder), "tofc")
    shutil.copytree(ZOO / "tofc" / "mini-onevision" / "lambda-1.0", codec, dirs_exist_ok=True)
    again = _run(folder, codec=codec)
    assert (again.left["answers"], again.left["times"]) == (1, 1)
    assert any(f"codec {codec}" in warning for warning in again.warnings)
    after = _payloads(Run.read(folder), "tofc")
    assert after.keys() == before.keys()
    assert sum(after.values()) < sum(before.values())


def test_a_quality_that_is_added_measures_that_quality_alone(folder: Path) -> None:
    """An edited scenario computes what is new; an edit that is taken back computes nothing."""
    added = _run(folder, quality="[20, 40]")
    assert (added.left["answers"], added.left["times"]) == (1, 1)
    points = Run.read(folder).outcomes["point"].to_pylist()
    assert set(points) >= {"quality=20,merge_to=0.044", "quality=40,merge_to=0.044"}
    back = _run(folder)
    assert back.left["answers"] == back.left["times"] == 0
    assert "quality=40,merge_to=0.044" not in Run.read(folder).outcomes["point"].to_pylist()
    assert _run(folder, quality="[20, 40]").left["answers"] == 0


def test_an_uplink_that_is_added_measures_nothing(folder: Path) -> None:
    """Links decide no rows but the replay's."""
    again = _run(folder, uplink=f"{CONSTANT}, {{ kind: constant, rate: 1 MB/s }}")
    assert again.left["answers"] == again.left["times"] == 0
    assert set(Run.read(folder).requests["channel"].to_pylist()) == {"25 KB/s", "1 MB/s"}


def test_a_trace_that_was_imported_again_is_replayed_again(folder: Path, tmp_path: Path) -> None:
    """The link's file is part of what a replay depends on."""
    from harness.channel.importing import import_trace

    trace = tmp_path / "link.parquet"
    uplink = f"{{ kind: trace, path: {trace}, start: beginning }}"
    for rate, name in ((10_000, "slow.csv"), (80_000, "fast.csv")):
        (tmp_path / name).write_text("time_s,rate_bps\n" + "".join(f"{second},{rate}\n" for second in range(200)))
    import_trace(tmp_path / "slow.csv", trace)
    _run(folder, uplink=uplink)
    slow = Run.read(folder).requests.to_pandas()["answered_s"].max()
    import_trace(tmp_path / "fast.csv", trace)
    again = _run(folder, uplink=uplink)
    assert again.left["answers"] == again.left["times"] == 0
    assert Run.read(folder).requests.to_pandas()["answered_s"].max() < slow / 4


def test_without_stand_ins_the_run_of_one_does_not_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--no-stand-in after a stand-in's run is refused, not answered with its table."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    _run(folder, benchmark="RealWorldQA")
    with pytest.raises(UnavailableError, match="RealWorldQA"):
        _run(folder, benchmark="RealWorldQA", allow_stand_ins=False)


def test_an_installed_benchmark_replaces_its_stand_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete run on a stand-in does not count once the benchmark itself is installed."""
    from harness.cache import cache_folder

    monkeypatch.setenv("LMUData", str(tmp_path))
    _run(folder, benchmark="RealWorldQA")
    cache = cache_folder()
    assert cache is not None
    (streets,) = cache.rglob("StreetsQA*.tsv")
    shutil.copyfile(streets, tmp_path / "RealWorldQA.tsv")
    again = _run(folder, benchmark="RealWorldQA")
    assert any("what runs" in warning for warning in again.warnings)
    manifest = Run.read(folder).manifest
    assert manifest.benchmarks == ("RealWorldQA",)
    assert manifest.stand_ins == {}


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json"])
def test_a_checkpoints_settings_are_watched(tmp_path: Path, file: str) -> None:
    """The same weights answer otherwise with other tokens, another end or another layer: no row of theirs is kept."""
    weights = shutil.copytree(ZOO / "mini-onevision", tmp_path / "weights")
    path = tmp_path / "watched.yaml"
    path.write_text(SCENARIO.format(benchmark="StreetsQA", quality=20, codec="lambda-0.3", uplink=CONSTANT))
    scenario = load(path, [f"weights={weights}"])
    before = take_stock(scenario)
    text = (weights / file).read_text()
    (weights / file).write_text(text + "\n")
    after = take_stock(scenario)
    for key, depends in before.depends.items():
        changed = {name for name, digest in after.depends[key].items() if depends[name] != digest}
        assert changed == {"settings of mini-onevision"}
    (weights / file).write_text(text)
    assert take_stock(scenario).depends == before.depends


def test_other_packages_end_the_run_in_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two versions of a package are not mixed, and the complete run is not shown as if nothing had changed."""
    versions = provenance.package_versions()
    monkeypatch.setattr(provenance, "package_versions", lambda: {**versions, "torch": "9.9.9"})
    with pytest.raises(ResultsError, match=r"torch \(.* before, 9\.9\.9 now\).*--fresh"):
        _run(folder)


def test_another_scenario_of_the_same_folder_is_refused(complete: Path, folder: Path, tmp_path: Path) -> None:
    """A study is not written over by one of another name."""
    path = Path(shutil.copy(complete.parent / "watched.yaml", tmp_path))
    path.write_text(path.read_text().replace("name: watched", "name: another"))
    with pytest.raises(ResultsError, match="holds a run of the scenario 'watched'"):
        run(load(path), folder, reporter=Counting())
