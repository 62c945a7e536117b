"""``harness compare`` and ``harness reference``: what the statuses mean, and what is written."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.analysis import Analysis
from harness.cli import compare
from harness.profiling.machine import this_machine
from harness.reference import HISTORY, as_reference
from harness.report.regressions import Found
from harness.runs import disk
from harness.runs.store import Record, Run
from harness.scenario.load import as_given, load
from tests.made_up_run import make, small

Harness = Callable[..., tuple[int, str, str]]


def written(record: Record, folder: Path) -> None:
    """A run as stored in its reference."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    disk.write_folder(folder, as_reference(record, Path("scenarios")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``reference``, and three candidates: the ``same``, one with a ``byte`` more, and a ``foreign`` one."""
    folder = tmp_path_factory.mktemp("runs")
    record = small(folder / "made" / "tonight")
    (session,) = record.manifest.sessions
    here = session.model_copy(update={"machine": this_machine()})
    record = dataclasses.replace(record, manifest=record.manifest.model_copy(update={"sessions": (here,)}))
    written(record, folder / "reference" / "tonight")
    written(record, folder / "same" / "tonight")
    table = record.outcomes
    place = table.schema.get_field_index("payload_bytes")
    one = pa.array([1] + [0] * (table.num_rows - 1))
    grown = table.set_column(place, table.schema.field(place), pc.add(table["payload_bytes"], one))
    written(dataclasses.replace(record, outcomes=grown), folder / "byte" / "tonight")
    foreign = record.manifest.model_copy(update={"benchmarks": ("MME",)})
    written(dataclasses.replace(record, manifest=foreign), folder / "foreign" / "tonight")
    return folder


@pytest.mark.slow
def test_the_status_is_the_verdict(harness: Harness, runs: Path) -> None:
    """0 where nothing regressed, 1 for one byte, 2 for a run that cannot be compared, each with its sentence."""
    status, out, _ = harness("compare", runs / "reference", runs / "same")
    assert (status, out.splitlines()[-1]) == (0, "no regression in 1 run")
    status, out, _ = harness("compare", runs / "reference", runs / "byte")
    assert status == 1
    assert "1 differ, first in question" in " ".join(out.split())
    assert out.splitlines()[-1] == "REGRESSION: tonight (bytes)"
    status, out, _ = harness("compare", runs / "reference" / "tonight", runs / "foreign" / "tonight")
    assert status == 2
    assert "their benchmarks are MME and StreetsQA" in " ".join(out.split())


@pytest.mark.slow
def test_a_run_without_its_pair_is_noted(harness: Harness, runs: Path) -> None:
    """On either side, also where others are compared."""
    shutil.copytree(runs / "same" / "tonight", runs / "more" / "tonight")
    shutil.copytree(runs / "same" / "tonight", runs / "more" / "tomorrow")
    status, out, _ = harness("compare", runs / "reference", runs / "more", "--format", "json")
    note = f"{runs / 'reference'}: there is no run of this name; not compared: tomorrow"
    assert (status, json.loads(out)["notes"]) == (0, [note])
    status, out, _ = harness("compare", runs / "more", runs / "reference", "--format", "json")
    note = f"{runs / 'more' / 'tomorrow'}: there is no run of this name in {runs / 'reference'}; it is not compared"
    assert (status, json.loads(out)["notes"]) == (0, [note])


@pytest.mark.slow
def test_the_working_folder_has_its_name(harness: Harness, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is given as ``.`` is paired with that of its name, on either side."""
    monkeypatch.chdir(runs / "same" / "tonight")
    assert harness("compare", runs / "reference", ".")[0] == 0
    assert harness("compare", ".", runs / "reference")[0] == 0


@pytest.mark.slow
def test_an_invalid_run_is_noted(harness: Harness, runs: Path) -> None:
    """With its first reason and the number of the others, in every form; the status is that of what is compared."""
    record = Run.read(runs / "same" / "tonight")
    reasons = ("throttled: GPU at 95 C", "throttled: GPU at 96 C")
    manifest = record.manifest.model_copy(update={"validity": "INVALID", "reasons": reasons})
    written(dataclasses.replace(record, manifest=manifest), runs / "hot" / "tonight")
    count = len(Analysis.read(runs / "hot" / "tonight").reasons)
    said = f"the candidate is INVALID: throttled: GPU at 95 C (the first of {count} reasons)"
    status, out, _ = harness("compare", runs / "reference", runs / "hot")
    assert (status, said in " ".join(out.split())) == (0, True)
    status, out, _ = harness("compare", runs / "reference", runs / "hot", "--format", "json")
    assert (status, said in json.loads(out)["runs"][0]["notes"]) == (0, True)


@pytest.mark.slow
def test_a_limit_lets_a_byte_pass(harness: Harness, runs: Path) -> None:
    """``bytes>1%`` is a limit of means; a limit of a time is not accepted here."""
    assert harness("compare", runs / "reference", runs / "byte", "--fail-if", "bytes>1%")[0] == 0
    status, _, error = harness("compare", runs / "reference", runs / "byte", "--fail-if", "device>10%")
    assert status == 2
    assert "times are compared with --against" in " ".join(error.replace("│", "").split())
    assert harness("compare", runs / "reference", runs / "byte", "--fail-if", "byte>1%,answers>0")[0] == 2
    status, _, error = harness("compare", __file__, "--against", "HEAD", "--fail-if", "bytes>0")
    assert (status, "'bytes' is not compared with --against" in " ".join(error.replace("│", "").split())) == (2, True)


@pytest.mark.slow
def test_markdown_and_json_agree(harness: Harness, runs: Path) -> None:
    """A file of each, written whole; the JSON has every check with its numbers."""
    status, out, _ = harness("compare", runs / "reference", runs / "byte", "--format", "json")
    data = json.loads(out)
    assert (status, data["exit_code"]) == (1, 1)
    checks = {check["quantity"]: check for check in data["runs"][0]["checks"]}
    assert (checks["bytes"]["differing"], checks["bytes"]["fails"], checks["replay"]["status"]) == (1, True, "same")
    status, out, _ = harness("compare", runs / "reference", runs / "byte", "--out", "night.md")
    assert (status, out) == (1, "night.md: REGRESSION: tonight (bytes)\n")
    text = Path("night.md").read_text(encoding="utf-8")
    assert text.startswith("## REGRESSION: tonight (bytes)\n")
    assert "| tonight | bytes | 1,440 | 1 | differs: FAILS |" in text


@pytest.mark.slow
def test_what_is_not_a_run_is_reported(harness: Harness, runs: Path) -> None:
    """A folder without runs, a name that the reference lacks, one argument of two."""
    assert harness("compare", runs / "made", runs)[0] == 2
    status, _, error = harness("compare", runs / "nowhere", runs / "same")
    assert (status, "nowhere: there is no such folder; a run or a folder of runs" in error) == (2, True)
    assert harness("compare", runs / "reference")[0] == 2


@pytest.mark.slow
def test_reference_lists_why_each_was_made(harness: Harness, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the latest update, and a note for a run that is not in the history."""
    monkeypatch.setenv("COLUMNS", "120")  # The name of a machine may be long.
    shown = harness("reference", "--folder", runs / "reference")[1]
    assert "not in the" in shown
    assert "history" in shown
    line = {"scenario": "tonight", "reason": "made up", "date": "2026-11-26T00:00:00+00:00", "commit": "c"}
    (runs / "reference" / HISTORY).write_text(json.dumps(line) + "\n")
    status, out, _ = harness("reference", "--folder", runs / "reference")
    assert (status, "made up" in out) == (0, True)
    (runs / "reference" / HISTORY).write_text("{}\n")
    status, _, error = harness("reference", "--folder", runs / "reference")
    assert (status, f"{HISTORY}, line 1: is not an update" in error) == (2, True)


def test_a_reference_needs_a_reason_and_a_commit(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is run for an empty reason, or from code that is not committed."""
    assert harness("reference", "update", "--reason", " ", __file__)[0] == 2
    monkeypatch.setattr("harness.runs.provenance.checkout", lambda _: ("0" * 40, False))
    monkeypatch.setattr("harness.runs.provenance.uncommitted", lambda *_: ["scenarios/smoke.yaml", "constraints.txt"])
    scenario = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
    status, _, error = harness("reference", "update", "--reason", "why", scenario, "--work", tmp_path / "work")
    assert (status, "scenarios/smoke.yaml and 1 more differs from it" in error) == (2, True)
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_an_update_is_made_once_and_explained_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Repeating the command does nothing; after one that died before its line was written, only that is written."""
    scenario = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
    given = as_given(load(scenario))

    def ran(_: object, folder: Path, **how: object) -> None:
        if not folder.exists():
            make(folder, name="smoke", replay=given["replay"])

    monkeypatch.setattr("harness.study.run", ran)
    monkeypatch.setattr("harness.runs.provenance.checkout", lambda _: ("c" * 40, False))
    monkeypatch.setattr("harness.runs.provenance.uncommitted", lambda *_: [])
    command = ("reference", "update", "--reason", "a first one", scenario, "--folder", "kept", "--work", "work")
    assert harness(*command)[1].endswith("kept/smoke: made\n")
    assert harness(*command)[1].endswith("kept/smoke: is up to date\n")
    (line,) = (tmp_path / "kept" / HISTORY).read_text().splitlines()
    assert json.loads(line).items() >= {"scenario": "smoke", "reason": "a first one", "commit": "c" * 40}.items()
    (tmp_path / "kept" / HISTORY).unlink()
    before = (tmp_path / "kept" / "smoke" / "manifest.json").stat().st_ino
    assert harness(*command)[0] == 0
    assert len((tmp_path / "kept" / HISTORY).read_text().splitlines()) == 1
    assert (tmp_path / "kept" / "smoke" / "manifest.json").stat().st_ino == before


@pytest.mark.slow
def test_an_update_replaces_what_this_harness_cannot_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Manifests of an older schema, where a reference is and where runs are made, and a damaged table.

    Why the new run is INVALID is printed.
    """
    scenarios = tmp_path / "scenarios"
    scenarios.mkdir()
    shutil.copy(Path(__file__).parents[2] / "scenarios" / "smoke.yaml", scenarios)
    given, fresh_starts = as_given(load(scenarios / "smoke.yaml")), []

    def ran(_: object, folder: Path, *, fresh: bool, **how: object) -> None:
        fresh_starts.append(fresh)
        if fresh or not folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, name="smoke", replay=given["replay"], reasons=("throttled: GPU at 95 C",))

    monkeypatch.setattr("harness.study.run", ran)
    monkeypatch.setattr("harness.runs.provenance.checkout", lambda _: ("c" * 40, False))
    monkeypatch.setattr("harness.runs.provenance.uncommitted", lambda *_: [])
    monkeypatch.setattr("harness.runs.provenance.software_changes", lambda *_: [])
    command = ("reference", "update", "--reason", "why", "--folder", "kept", "--work", "work")
    made = "kept/smoke: made\nINVALID: throttled: GPU at 95 C\n"
    assert harness(*command, "scenarios/smoke.yaml")[1].endswith(made)
    for folder in ("kept", "work"):
        manifest = tmp_path / folder / "smoke" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"schema_version": ', '"schema_version": 9'))
    assert harness(*command)[1].endswith(made)
    (tmp_path / "kept" / "smoke" / "stages.parquet").write_bytes(b"")
    assert harness(*command)[1].endswith(made)
    assert harness(*command)[1].endswith(made.replace("made", "is up to date"))
    assert fresh_starts == [False, True, False, False]


def test_an_update_that_would_fail_at_its_end_is_refused_at_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For a link outside the scenario's folder, two scenarios of one name, a measured run, a history that is none."""
    monkeypatch.setattr("harness.study.run", lambda *_, **__: pytest.fail("nothing is run"))
    monkeypatch.setattr("harness.runs.provenance.checkout", lambda _: ("c" * 40, False))
    monkeypatch.setattr("harness.runs.provenance.uncommitted", lambda *_: [])
    (tmp_path / "mine").mkdir()
    (tmp_path / "kept").mkdir()
    smoke = (Path(__file__).parents[2] / "scenarios" / "smoke.yaml").read_text()
    command = ("reference", "update", "--reason", "why", "--folder", "kept", "--work", "work", "mine/a.yaml")
    (tmp_path / "mine" / "a.yaml").write_text(
        smoke.replace("kind: constant, rate: 25 KB/s", "kind: trace, path: ../l.csv")
    )
    status, _, error = harness(*command)
    assert (status, "l.csv: is outside mine, and a reference run has its links beside it" in error) == (2, True)
    (tmp_path / "mine" / "a.yaml").write_text(smoke)
    (tmp_path / "mine" / "b.yaml").write_text(smoke)
    status, _, error = harness(*command, "mine/b.yaml")
    assert (status, "mine/a.yaml and mine/b.yaml: have one name, smoke, and would have one" in error) == (2, True)
    assert not (tmp_path / "work").exists()
    small(tmp_path / "work" / "smoke")
    for work in ("elsewhere", "work"):
        status, _, error = harness(*command[:4], "--folder", "work", "--work", work, "mine/a.yaml")
        assert (status, "work/smoke: holds a run that is no reference run, and would be lost" in error) == (2, True)
    (tmp_path / "kept" / HISTORY).write_text("{}\n")
    status, _, error = harness(*command)
    assert (status, f"{HISTORY}, line 1: is not an update" in error) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("limits", ["device>10%,bytes>0", "bytes>0,prefill>10%"])
def test_limits_of_both_forms_are_each_judged_where_they_can_be(harness: Harness, runs: Path, limits: str) -> None:
    """Two runs are judged by their bytes, and the time is named as left to ``--against``."""
    time = next(term.partition(">")[0] for term in limits.split(",") if "10%" in term)
    for candidate, wanted in (("same", 0), ("byte", 1)):
        status, out, _ = harness("compare", runs / "reference", runs / candidate, "--fail-if", limits)
        assert status == wanted
        assert f"--fail-if: not compared here: {time}; times are compared with --against COMMIT" in " ".join(
            out.split()
        )


def test_a_timed_comparison_leaves_bytes_to_two_runs(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the limit of the time decides, and the note names the rest."""
    asked = []

    def commits(*given: Any) -> Found:
        asked.append(given[3])
        return Found()

    monkeypatch.setattr(compare, "_commits", commits)
    status, out, _ = harness("compare", __file__, "--against", "HEAD", "--fail-if", "device>10%,bytes>0")
    assert (status, asked) == (0, [{"device": 0.1}])
    assert "--fail-if: not compared here: bytes; these are compared between two runs" in " ".join(out.split())
