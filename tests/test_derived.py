"""Runs made of other runs' rows: what is against those is against these."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import study
from harness.analysis import Analysis
from harness.apart import measure_half
from harness.derived import _against, _not_replaced, join, replay
from harness.errors import ResultsError, ScenarioError
from harness.records import Side
from harness.runs.recorded import RecordedTimes
from harness.runs.store import Run, Unit
from harness.scenario.load import load
from tests.made_up_run import make, small
from tests.silent import Silent

OTHER = """
name: other
title: Over another link
benchmark: StreetsQA
backbone: mini-onevision
pipelines: [{scheme: server_only}]
replay: {uplinks: [{kind: constant, rate: 1 MB/s}]}
"""
HOT = "throttled: GPU at 95 C"
UNFINISHED: dict[str, Any] = {
    "status": "running", "validity": None, "reasons": (), "finished_utc": None, "tables": {},
}  # fmt: skip


@pytest.mark.slow
def test_a_replay_of_an_invalid_run_is_invalid(made_up: Analysis, tmp_path: Path) -> None:
    """For the reasons of that run, whether its rows show them or not, and as often as it is replayed again."""
    (tmp_path / "other.yaml").write_text(OTHER)
    wanted, source = load(tmp_path / "other.yaml"), made_up.record.folder
    for name in ("once", "twice"):
        replay(source, wanted, tmp_path / name, reporter=Silent(), command=(), fresh=False)
        found, source = Analysis.read(tmp_path / name), tmp_path / name
        assert f"in the replayed run: {HOT}" in found.reasons
        assert sum(HOT in reason for reason in found.reasons) == 1


@pytest.mark.slow
def test_rows_are_judged_as_they_were_timed(tmp_path: Path) -> None:
    """A loaded machine is a reason in the words of the run that timed on it, but for what a profile timed elsewhere."""
    loaded = make(tmp_path / "loaded", load=0.5)
    (tmp_path / "orin.csv").write_text("stage,seconds\nvision_encode,0.1\nprefill,0.2\n")
    profile = "profile: [{path: orin.csv, pipeline: server_only, side: server, machine: AGX Orin, samples: any}]\n"
    found = {}
    for name, more in (("plain", ""), ("elsewhere", profile)):
        (tmp_path / "other.yaml").write_text(OTHER + more)
        replay(
            loaded.folder, load(tmp_path / "other.yaml"), tmp_path / name, reporter=Silent(), command=(), fresh=False
        )
        reasons = Analysis.read(tmp_path / name).reasons
        found[name] = [reason for reason in reasons if "disturbed" in reason or "machines" in reason]
    assert found["plain"] == list(Analysis(loaded).reasons)
    assert [reason.split(" timed")[0] for of in found.values() for reason in of] == ["864 of 864", "828 of 828"]


def test_what_a_run_was_made_with_is_against_its_replay_too(made_up: Analysis) -> None:
    """A scenario that was edited since has another hash than its replay's, which cannot show it any more."""
    record = made_up.record
    edited = record.manifest.model_copy(update={"scenario_hash": "0123456789abcdef"})
    found = _against(dataclasses.replace(record, manifest=edited))
    assert found[0] == HOT
    assert "the run was made with 0123456789abcdef" in found[1]


def test_the_recordings_that_remain_are_named(made_up: Analysis) -> None:
    """A profile replaces a run's own recordings, all points of a scheme or some; the others stay in its scenario."""
    entry = {"path": "a.csv", "pipeline": "jpeg", "side": "device", "point": None, "machine": "m", "samples": "any"}
    entries = [entry, {**entry, "side": "server"}, {**entry, "pipeline": "server_only", "point": "-"}]
    manifest = made_up.manifest.model_copy(update={"scenario": {**made_up.manifest.scenario, "profile": entries}})
    first, *others = manifest.points["jpeg"]
    profiles: Mapping[tuple[str, str, Side], RecordedTimes] = {
        ("jpeg", first, "device"): _times(),
        ("server_only", "-", "device"): _times(),
    }
    left = _not_replaced(manifest, profiles)
    assert list(left) == [*({**entry, "point": point} for point in others), entries[1]]


def test_a_stage_that_no_server_has_is_refused_before_anything_is_written(made_up: Analysis, tmp_path: Path) -> None:
    """A replay of a scheme of one's own may batch its stages, and no others."""
    text = OTHER.replace("{scheme: server_only}", "{scheme: server_only}, {scheme: 'harness.schemes.fake:Fake'}")
    batching = "batching: {max_batch: 2, marginal: 0.5, together: [banana]}"
    (tmp_path / "other.yaml").write_text(text.replace("replay: {", f"replay: {{{batching}, "))
    wanted, source = load(tmp_path / "other.yaml"), made_up.record.folder
    with pytest.raises(ScenarioError, match=r"replay\.batching\.together: unknown server stage 'banana'; known: "):
        replay(source, wanted, tmp_path / "no", reporter=Silent(), command=(), fresh=False)
    assert not (tmp_path / "no").exists()


def _times() -> RecordedTimes:
    requests = {"": [[("see", 0.1, None)]]}
    return RecordedTimes(where=Path("a.csv"), digest="", machine="m", source="recorded", requests=requests)


@pytest.mark.slow
def test_measured_rows_are_not_replaced_by_a_replay(made_up: Analysis, tmp_path: Path) -> None:
    """An unfinished run, and one that is complete, are there as before; a replay's own unfinished attempt is redone."""
    (tmp_path / "other.yaml").write_text(OTHER)
    wanted, folder = load(tmp_path / "other.yaml"), tmp_path / "other"
    source = Run.read(made_up.record.folder)
    with Run.open_or_create(folder, source.manifest.model_copy(update=UNFINISHED)) as ongoing:
        ongoing.add(Unit("answers"), outcomes=source.outcomes.slice(0, 3))
        ongoing.add(Unit("times"), stages=source.stages.slice(0, 3))
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    how: dict[str, Any] = {"reporter": Silent(), "command": ()}
    with pytest.raises(ResultsError, match="holds an unfinished run, of which 2 units are measured; choose another"):
        replay(source.folder, wanted, folder, fresh=False, **how)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    replay(source.folder, wanted, folder, fresh=True, **how)
    with Run.open_or_create(tmp_path / "again", source.manifest.model_copy(update=UNFINISHED)) as ongoing:
        ongoing.add(Unit("rows of it"), outcomes=source.outcomes.slice(0, 3), stages=source.stages.slice(0, 3))
    replay(source.folder, wanted, tmp_path / "again", fresh=False, **how)
    assert Run.read(tmp_path / "again").requests == Run.read(folder).requests


@pytest.mark.slow
def test_nothing_is_measured_into_a_run_of_other_rows(made_up: Analysis, tmp_path: Path) -> None:
    """A replay is not taken for a measurement of its scenario, neither complete nor unfinished."""
    folder = tmp_path / "other"
    (tmp_path / "other.yaml").write_text(OTHER)
    replay(made_up.record.folder, load(tmp_path / "other.yaml"), folder, reporter=Silent(), command=(), fresh=False)
    begun = Run.read(folder).manifest.model_copy(update=UNFINISHED)
    for refuses in (lambda: Run.open_or_create(folder, begun), lambda: Run.refuse_derived(folder)):
        with pytest.raises(ResultsError, match="other: holds a run whose rows 'harness replay', 'harness join' or an"):
            refuses()


@pytest.mark.slow
def test_a_run_does_not_take_the_place_of_what_it_is_made_of(tmp_path: Path) -> None:
    """Not even with ``--fresh``: its rows would no longer be called measured."""
    (tmp_path / "other.yaml").write_text(OTHER)
    record = small(tmp_path / "run")
    given: dict[str, Any] = {"reporter": Silent(), "fresh": True}
    with pytest.raises(ResultsError, match="is what the new run would be made of, and would be lost; choose another"):
        replay(record.folder, load(tmp_path / "other.yaml"), tmp_path / "x" / ".." / "run", command=(), **given)
    with pytest.raises(ResultsError, match="is what the new run would be made of"):
        join(tmp_path / "half", record.folder, record.folder, links=tmp_path, **given)
    with pytest.raises(ResultsError, match="is what the new run would be made of"):
        measure_half(load(tmp_path / "other.yaml"), record.folder, "server", payloads=record.folder, **given)
    profile = "profile: [{path: run, pipeline: server_only, side: server, machine: AGX Orin}]\n"
    (tmp_path / "recorded.yaml").write_text(OTHER + profile)
    with pytest.raises(ResultsError, match="is what the new run would be made of"):
        study.run(load(tmp_path / "recorded.yaml"), record.folder, **given)
    assert "measured" in Run.read(record.folder).stages["source"].to_pylist()
