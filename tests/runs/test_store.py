"""A run's folder: nothing finished is lost, nothing unfinished is seen, nothing else is touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from study_rows import units

from harness.errors import ResultsError
from harness.records import SCHEMA_VERSION
from harness.runs import disk
from harness.runs.provenance import Manifest
from harness.runs.store import Record, Run

KINDS = ("stages", "outcomes", "requests")


def work(folder: Path, manifest: Manifest, units: list, **options: bool) -> list[str]:
    """Does what a study does: every unit that is not done, then the end; returns the units worked."""
    worked = []
    with Run.open_or_create(folder, manifest, **options) as run:
        for name, stages, outcomes, requests in units:
            if not run.done(name):
                run.add(name, stages=stages, outcomes=outcomes, requests=requests)
                worked.append(name)
        run.finish()
    return worked


def same_rows(a: Record, b: Record) -> bool:
    """Whether two runs hold the same rows in the same order."""
    return all(getattr(a, kind).equals(getattr(b, kind)) for kind in KINDS)


def test_reads_what_was_added(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """Every row that went in comes out, sorted by its keys, and only the tables and the manifest remain."""
    folder = tmp_path / "runs" / "tonight"
    work(folder, manifest(), study_units)
    run = Run.read(folder)
    assert run.outcomes.num_rows == 6
    assert run.stages.num_rows == 12
    assert run.requests.num_rows == 6
    assert run.outcomes["pipeline"].to_pylist() == ["jpeg"] * 3 + ["webp"] * 3
    assert run.stages["stage"].to_pylist()[:3] == ["preprocess", "encode", "decode"], "the order in which they happened"
    assert (run.manifest.status, run.manifest.validity) == ("complete", "VALID")
    wanted = {"manifest.json", "stages.parquet", "outcomes.parquet", "requests.parquet"}
    assert {path.name for path in folder.iterdir()} == wanted
    assert [path.name for path in folder.parent.iterdir()] == ["tonight"], "neither lock nor leftovers"


def test_order_of_work_does_not_matter(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """The consolidated files are the same, byte for byte, whatever the order in which the units were worked."""
    work(tmp_path / "a", manifest(), study_units)
    work(tmp_path / "b", manifest(), random.Random(5).sample(study_units, len(study_units)))
    for kind in KINDS:
        assert (tmp_path / "a" / f"{kind}.parquet").read_bytes() == (tmp_path / "b" / f"{kind}.parquet").read_bytes()


def test_takes_up_an_unfinished_run(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """A run that was given up goes on with the units that are missing, and both sessions are on record."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        for name, stages, outcomes, requests in study_units[:4]:
            run.add(name, stages=stages, outcomes=outcomes, requests=requests)
        so_far = run.table("outcomes")
    assert so_far.num_rows == 4
    elsewhere = {"id": "89abcdef", "name": "another processor", "cores": 64}
    assert work(folder, manifest(machine=elsewhere), study_units) == [unit[0] for unit in study_units[4:]]
    assert Run.read(folder).manifest.machines == ("a processor, 2 cores", "another processor")
    work(tmp_path / "whole", manifest(), study_units)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "whole"))


class _CrashError(BaseException):
    """The process is gone; a BaseException, so that nothing on the way handles it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_survives_a_crash_at_every_rename(
    tmp_path: Path,
    manifest: Callable[..., Manifest],
    study_units: list,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    """Dying right before or right after any one rename, and running again, gives the uninterrupted run's rows."""
    work(tmp_path / "whole", manifest(), study_units)
    whole = Run.read(tmp_path / "whole")
    rename = disk._rename
    crash_at, crashed = 0, True
    while crashed:
        folder, renames, crashed = tmp_path / f"run{crash_at}", 0, False

        def crashing(old: Path, new: Path, crash_at: int = crash_at) -> None:
            nonlocal renames
            renames += 1
            if renames - 1 != crash_at:
                return rename(old, new)
            if after:
                rename(old, new)
            raise _CrashError

        monkeypatch.setattr(disk, "_rename", crashing)
        try:
            work(folder, manifest(), study_units)
        except _CrashError:
            crashed = True
        monkeypatch.setattr(disk, "_rename", rename)
        if (folder / "manifest.json").exists() and "complete" in (folder / "manifest.json").read_text():
            assert same_rows(Run.read(folder), whole)
        else:
            work(folder, manifest(), study_units)
            assert same_rows(Run.read(folder), whole)
            assert not list(folder.glob(".*")), "leftovers are swept"
        crash_at += 1
    # A manifest at the start, one part a unit, three tables, a manifest and the parts' going at the end.
    assert crash_at == len(study_units) + 6 + 1


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from study_rows import units
from harness.runs.provenance import begin
from harness.runs.store import Run
manifest = begin(name="tonight", scenario={{}}, scenario_hash="h", resolved={{}}, stand_ins={{}}, seed=0, command=[],
                 machine={{"id": "0", "name": "m"}})
with Run.open_or_create(Path({folder!r}), manifest) as run:
    print("open", flush=True)
    for name, stages, outcomes, requests in units(samples=40):
        if not run.done(name):
            run.add(name, stages=stages, outcomes=outcomes, requests=requests)
    run.finish()
print("finished", flush=True)
"""


def test_survives_being_killed(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """A process killed with SIGKILL at random moments, again and again, ends with the rows of one left in peace."""
    code = _KILLED.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "killed"))
    rng, kills, units_seen = random.Random(11), 0, [0]
    while True:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        if kills < 5:
            time.sleep(rng.uniform(0.0, 0.06))
            child.kill()
        status, output = child.wait(), child.stdout.read()
        child.stdout.close()
        if output == "finished\n":
            break
        assert status == -signal.SIGKILL
        kills += 1
        units_seen.append(len([p for p in (tmp_path / "killed" / "parts").glob("*") if not p.name.startswith(".")]))
    assert kills >= 2
    assert units_seen == sorted(units_seen), "nothing that was finished is lost"
    work(tmp_path / "peace", manifest(), list(units(samples=40)))
    assert same_rows(Run.read(tmp_path / "killed"), Run.read(tmp_path / "peace"))


def test_two_processes_cannot_write_one_run(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """The second one is told which process holds the run; the lock goes with its holder, even one that is killed."""
    folder = tmp_path / "tonight"
    code = _KILLED.format(tests=str(Path(__file__).parents[1]), folder=str(folder)).replace(
        "run.finish()", "time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(ResultsError, match=f"process {child.pid} is writing this run"):
            Run.open_or_create(folder, manifest(scenario_hash="h"))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    same = {"scenario_hash": "h", "resolved": {}, "stand_ins": {}, "seed": 0}
    with (
        Run.open_or_create(folder, manifest(**same)),
        pytest.raises(ResultsError, match=f"process {os.getpid()} is writing"),
    ):
        Run.open_or_create(folder, manifest(**same))


def test_does_not_mix_runs(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """A folder of another scenario, seed or stand-in, or a complete run, is left alone, with a word on what to do."""
    folder = tmp_path / "tonight"
    Run.open_or_create(folder, manifest()).close()
    with pytest.raises(ResultsError, match=r"another scenario \(hash abc123, this one's is zzz\); choose another name"):
        Run.open_or_create(folder, manifest(scenario_hash="zzz"))
    with pytest.raises(ResultsError, match="begun with seed 7, and now would be 8"):
        Run.open_or_create(folder, manifest(seed=8))
    with pytest.raises(ResultsError, match=r"begun with resolved names .*mini-onevision"):
        Run.open_or_create(folder, manifest(resolved={"backbone": "llava-onevision-7b"}))
    work(folder, manifest(), study_units)
    with pytest.raises(ResultsError, match=r"is complete .* --fresh"):
        Run.open_or_create(folder, manifest())


def test_fresh_discards_a_run_and_nothing_else(
    tmp_path: Path, manifest: Callable[..., Manifest], study_units: list
) -> None:
    """``fresh`` begins again where a run was, complete or damaged, and refuses a folder that is not a run."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    assert len(work(folder, manifest(scenario_hash="zzz"), study_units, fresh=True)) == len(study_units)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match="is not JSON"):
        Run.open_or_create(folder, manifest())
    assert work(folder, manifest(), study_units[:1], fresh=True) == [study_units[0][0]]
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("dear")
    with pytest.raises(ResultsError, match=r"holds 'dear.txt' and no manifest.json"):
        Run.open_or_create(letters, manifest(), fresh=True)
    assert (letters / "dear.txt").read_text() == "dear"


def test_a_unit_lands_once(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """A unit is added once, and a request that two units hold is refused rather than counted twice."""
    name, stages, outcomes, requests = study_units[0]
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        run.add(name, stages=stages, outcomes=outcomes, requests=requests)
        with pytest.raises(ValueError, match="is done"):
            run.add(name, outcomes=outcomes)
        run.add("the same under another name", outcomes=outcomes)
        with pytest.raises(ResultsError, match="sample s000 are in two units"):
            run.finish()


@pytest.mark.parametrize("unit", ["../escape", "a/b", ".hidden", "..", "100 % é", "quality=10,merge=0.044"])
def test_any_name_is_a_unit(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list, unit: str) -> None:
    """A unit's name may hold what a path may not; it stays inside the run, and is known again after a restart."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.add(unit, outcomes=study_units[0][2])
    with Run.open_or_create(folder, manifest()) as run:
        assert run.done(unit)
        assert run.table("outcomes").num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tonight"]


def test_refuses_rows_that_break_the_schema(
    tmp_path: Path, manifest: Callable[..., Manifest], study_units: list
) -> None:
    """What could not be read back is refused when it is added, and nothing of its unit lands."""
    table = pa.Table.from_pylist([{"pipeline": "jpeg"}])
    good = study_units[6][1]
    broken = [{**{f: getattr(good[0], f) for f in type(good[0]).__dataclass_fields__}, "seconds": float("nan")}]
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        with pytest.raises(ResultsError, match="the column 'run' is missing"):
            run.add("a", outcomes=table)
        with pytest.raises(ResultsError, match="seconds is nan in row 0; it must be a finite number"):
            run.add("a", outcomes=study_units[0][2], stages=pa.Table.from_pylist(broken))
        assert not run.done("a")
        assert run.table("outcomes").num_rows == 0


def _edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _with(name: str, value: object, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array([value, *table[name].to_pylist()[1:]], kind)
        return table.set_column(table.column_names.index(name), pa.field(name, kind), column)

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "stages.parquet").unlink(), r"stages\.parquet: no such file"),
        (lambda f: (f / "stages.parquet").write_bytes(b"PAR1 not quite"), r"stages\.parquet: is damaged"),
        (lambda f: os.truncate(f / "outcomes.parquet", 300), r"outcomes\.parquet: is damaged"),
        (lambda f: _edit(f / "outcomes.parquet", lambda t: t.drop_columns("truth")), "the column 'truth' is missing"),
        (
            lambda f: _edit(f / "stages.parquet", lambda t: t.append_column("colour", t["stage"])),
            "unknown column 'colour'",
        ),
        (lambda f: _edit(f / "stages.parquet", _with("stage", None, pa.string())), "stage"),
        (lambda f: _edit(f / "stages.parquet", _with("seconds", -1.0, pa.float64())), "seconds is -1.0 in row 0"),
        (
            lambda f: _edit(f / "stages.parquet", _with("source", "guessed", pa.string())),
            "source is 'guessed' in row 0",
        ),
        (lambda f: _edit(f / "outcomes.parquet", _with("payload_bytes", 1.5, pa.float64())), "payload_bytes"),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: no such file"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
            ),
            "schema_version is 99 and this harness reads",
        ),
    ],
)
def test_refuses_a_damaged_run(
    tmp_path: Path,
    manifest: Callable[..., Manifest],
    study_units: list,
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    """Reading a run that somebody or something has changed says in one sentence which file is wrong, and how."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    damage(folder)
    with pytest.raises(ResultsError, match=sentence) as refusal:
        Run.read(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refuses_what_is_not_a_finished_run(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """A folder that is absent, a file in its place, and a run still going on are each said to be that."""
    with pytest.raises(ResultsError, match="no such folder"):
        Run.read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="is a file"):
        Run.open_or_create(tmp_path / "file", manifest())
    Run.open_or_create(tmp_path / "tonight", manifest()).close()
    with pytest.raises(ResultsError, match="is unfinished"):
        Run.read(tmp_path / "tonight")


def test_a_damaged_part_is_named(tmp_path: Path, manifest: Callable[..., Manifest], study_units: list) -> None:
    """A part that the disk has spoilt is named, with what to do, rather than dropped."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.add("answers", outcomes=study_units[0][2])
        os.truncate(folder / "parts" / "answers" / "outcomes.parquet", 100)
        with pytest.raises(ResultsError, match=r"is damaged.*remove the folder .*parts/answers"):
            run.table("outcomes")


def test_keeps_which_picture_a_sample_shows(
    tmp_path: Path, manifest: Callable[..., Manifest], study_units: list
) -> None:
    """The pictures recorded with a run are read back with it; a run without them has none."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.record_images({"s000": "street 1", "s001": "street 1"})
        run.finish(["too few questions"])
    run = Run.read(folder)
    assert run.images == {"s000": "street 1", "s001": "street 1"}
    assert run.benchmarks == {"s000": "StreetsQA", "s001": "StreetsQA"}
    assert (run.manifest.validity, run.manifest.reasons) == ("INVALID", ("too few questions",))
    assert json.loads((folder / "manifest.json").read_text())["reasons"] == ["too few questions"]
