"""A run's folder: nothing finished is lost, nothing unfinished is visible, nothing else is changed."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import files
from harness.errors import ResultsError
from harness.records import SCHEMA_VERSION
from harness.runs import disk, provenance, tables
from harness.runs.provenance import Manifest
from harness.runs.store import MEASURED, Record, Run, Unit
from harness.runs.tables import ROWS, Kind
from tests.forked import forked
from tests.study_rows import Work, samples, units, work_on

KINDS = tuple(ROWS)
WORKED = ("stages", "outcomes", "requests")
Made = Callable[..., Manifest]


def work(folder: Path, manifest: Manifest, study: Sequence[Work], *, fresh: bool = False) -> list[str]:
    """Does what a study does: every unit that is not done, then the end; returns the names of the units worked."""
    with Run.open_or_create(folder, manifest, fresh=fresh) as run:
        worked = work_on(run, study)
        run.finish()
    return worked


def same_rows(a: Record, b: Record) -> bool:
    """Whether two runs hold the same rows in the same order."""
    return all(getattr(a, kind).equals(getattr(b, kind)) for kind in KINDS)


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power failure is tested: written data is there without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def parts(folder: Path) -> list[Path]:
    """The parts in a run's folder."""
    return [p for p in (folder / "parts").glob("*") if not p.name.startswith(".")]


def test_reads_what_was_added(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """Every row that was added is read, sorted by its keys, and only the tables and the manifest remain."""
    folder = tmp_path / "runs" / "tonight"
    work(folder, manifest(), study_units)
    run = Run.read(folder)
    assert [getattr(run, kind).num_rows for kind in ("samples", *WORKED)] == [3, 12, 6, 6]
    assert run.outcomes["pipeline"].to_pylist() == ["jpeg"] * 3 + ["webp"] * 3
    assert run.stages["stage"].to_pylist()[:3] == ["preprocess", "encode", "decode"], "the order in which they happened"
    assert (run.manifest.status, run.manifest.validity) == ("complete", "VALID")
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(f"{kind}.parquet" for kind in KINDS)}
    assert set(run.manifest.tables) == set(KINDS)
    assert [path.name for path in folder.parent.iterdir()] == ["tonight"], "neither lock nor leftovers"


@pytest.mark.slow
def test_order_of_work_does_not_matter(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """The consolidated files are the same, byte for byte, whatever the order in which the units were worked."""
    work(tmp_path / "a", manifest(), study_units)
    work(tmp_path / "b", manifest(), random.Random(5).sample(study_units, len(study_units)))
    for kind in KINDS:
        assert (tmp_path / "a" / f"{kind}.parquet").read_bytes() == (tmp_path / "b" / f"{kind}.parquet").read_bytes()


@pytest.mark.slow
def test_resumes_an_unfinished_run(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """An interrupted run is resumed with the missing units, and both sessions are recorded."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        work_on(run, study_units[:4])
        assert run.start == 0
        assert run.table("outcomes").num_rows == 4
    elsewhere = {"id": "89abcdef", "name": "another processor", "cores": 64}
    assert work(folder, manifest(machine=elsewhere), study_units) == [unit.name for unit, *_ in study_units[4:]]
    assert Run.read(folder).manifest.machines == ("a processor, 2 cores", "another processor")
    work(tmp_path / "whole", manifest(), study_units)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "whole"))


@pytest.mark.slow
def test_what_a_unit_depends_on_decides_whether_it_is_worked_again(tmp_path: Path, manifest: Made) -> None:
    """After one codec's file changed its pipeline's units are worked again, and the replay; the other's are not."""
    folder = tmp_path / "tonight"
    first = list(units(depends={"webp": "1" * 16, "jpeg": "2" * 16}))
    assert len(work(folder, manifest(), first)) == len(first)
    second = list(units(depends={"webp": "3" * 16, "jpeg": "2" * 16}))
    worked = work(folder, manifest(digests={"codec": "3" * 16}), second)
    assert worked == [unit.name for unit, *_ in second if "jpeg" not in unit.name]
    work(tmp_path / "whole", manifest(), second)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "whole")), "no row of the old codec is in the tables"
    back = work(folder, manifest(), first)
    assert back == ["replay 25 KB/s"], "rows that were not asked for for a while are there again, replays are not"
    work(tmp_path / "before", manifest(), first)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "before"))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True], ids=["complete", "unfinished"])
def test_an_edited_scenario_measures_only_what_is_new(tmp_path: Path, manifest: Made, interrupted: bool) -> None:
    """A pipeline more, or one less, and back: rows of units that are still wanted, or wanted again, are not lost."""
    folder = tmp_path / "tonight"
    one, both = list(units(("webp",))), list(units(("webp", "jpeg")))
    if interrupted:
        with Run.open_or_create(folder, manifest()) as run:
            work_on(run, one)
    else:
        work(folder, manifest(), one)
    measured = [unit.name for unit, *_ in both if "jpeg" in unit.name]
    assert [name for name in work(folder, manifest(scenario_hash="b"), both) if "replay" not in name] == measured
    whole = Run.read(folder)
    assert set(whole.outcomes["pipeline"].to_pylist()) == {"webp", "jpeg"}
    fewer = [name for name in work(folder, manifest(scenario_hash="c"), one) if "replay" not in name]
    assert fewer == []
    assert set(Run.read(folder).outcomes["pipeline"].to_pylist()) == {"webp"}
    again = [name for name in work(folder, manifest(scenario_hash="b"), both) if "replay" not in name]
    assert again == []
    assert all(getattr(Run.read(folder), kind).equals(getattr(whole, kind)) for kind in MEASURED)


class _CrashError(BaseException):
    """The process has died; a BaseException, so that no code in between handles it."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("begun", ["new", "smaller", "larger"])
def test_survives_a_crash_at_every_rename(
    tmp_path: Path, manifest: Made, monkeypatch: pytest.MonkeyPatch, after: bool, begun: str
) -> None:
    """Dying right before or right after any one rename, and running again, gives the uninterrupted run's rows.

    So it does in a new run and in one that is complete with another scenario, with fewer or more units. Rows
    that were not wanted are there when they are wanted again.
    """
    fewer, study, more = (
        list(units(pipelines, samples=1, repeats=1))
        for pipelines in (("webp",), ("webp", "jpeg"), ("webp", "jpeg", "tofc"))
    )
    earlier = {"new": [], "smaller": fewer, "larger": more}[begun]
    work(tmp_path / "whole", manifest(), study)
    whole = Run.read(tmp_path / "whole")
    if earlier:
        work(tmp_path / "earlier", manifest(scenario_hash="a"), earlier)
    rename = files.rename
    for crash_at in itertools.count():
        folder, renames, crashed = tmp_path / f"run{crash_at}", 0, False
        if earlier:
            shutil.copytree(tmp_path / "earlier", folder)

        def crashing(old: Path, new: Path, crash_at: int = crash_at) -> None:
            nonlocal renames
            renames += 1
            if renames - 1 != crash_at:
                return rename(old, new)
            if after:
                rename(old, new)
            raise _CrashError

        monkeypatch.setattr(files, "rename", crashing)
        try:
            work(folder, manifest(), study)
        except _CrashError:
            crashed = True
        monkeypatch.setattr(files, "rename", rename)
        work(folder, manifest(), study)
        assert same_rows(Run.read(folder), whole)
        if begun == "larger":
            assert [name for name in work(folder, manifest(scenario_hash="a"), more) if "replay" not in name] == []
        assert not (folder / "parts").exists()
        if not crashed:
            break
    assert crash_at > len(KINDS) + 3, "a manifest, the tables, the replay's part, a manifest, the parts' going"


@pytest.mark.slow
def test_parts_left_by_a_kill_are_removed_later(
    tmp_path: Path, manifest: Made, study_units: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is complete and can be read; the next process that opens it removes the parts."""
    folder = tmp_path / "tonight"

    def killed(run: Run) -> None:
        raise _CrashError

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_remove_parts", killed)
        with pytest.raises(_CrashError):
            work(folder, manifest(), study_units)
    assert len(parts(folder)) == len(study_units)
    complete = Run.read(folder)
    worked = work(folder, manifest(), study_units)
    assert [name for name in worked if not name.startswith("replay")] == []
    assert not (folder / "parts").exists()
    assert same_rows(Run.read(folder), complete)


def _run(folder: Path, manifest: Manifest, told: Connection, patience_s: float = 0.0) -> None:
    """A process that runs a study, and prints when it holds the run and when it has finished."""
    with Run.open_or_create(folder, manifest) as run:
        told.send("open")
        work_on(run, list(units(samples=40)))
        time.sleep(patience_s)
        run.finish()
    told.send("finished")


@contextmanager
def _running(folder: Path, manifest: Manifest, patience_s: float = 0.0) -> Iterator[tuple[ForkProcess, Connection]]:
    """Such a process, which holds the run, and its output; it is killed when the context ends."""
    here, there = multiprocessing.Pipe()
    with here:
        with there:
            child = forked(_run, folder, manifest, there, patience_s)
        try:
            assert here.recv() == "open"
            yield child, here
        finally:
            child.kill()
            child.join()


@pytest.mark.slow
def test_survives_being_killed(tmp_path: Path, manifest: Made) -> None:
    """A process killed repeatedly with SIGKILL at random moments ends with the rows of an uninterrupted one."""
    rng, kills, units_seen, same = random.Random(11), 0, [0], manifest()
    while True:
        with _running(tmp_path / "killed", same) as (child, said):
            if kills < 5:
                time.sleep(rng.uniform(0.0, 0.06))
                child.kill()
            child.join()
            if said.poll() and _said(said) == "finished":
                break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        if provenance.read(tmp_path / "killed" / "manifest.json").status == "running":
            units_seen.append(len(parts(tmp_path / "killed")))
    assert kills >= 2
    assert units_seen == sorted(units_seen), "nothing that was finished is lost"
    work(tmp_path / "peace", manifest(), list(units(samples=40)))
    assert same_rows(Run.read(tmp_path / "killed"), Run.read(tmp_path / "peace"))


def _said(connection: Connection) -> str:
    """What a process printed, or nothing if it ended without output."""
    try:
        return str(connection.recv())
    except EOFError:
        return ""


@pytest.mark.slow
def test_two_processes_cannot_write_one_run(tmp_path: Path, manifest: Made) -> None:
    """The second one is told which process holds the run; the lock goes with its holder, even one that is killed."""
    folder, same = tmp_path / "tonight", manifest()
    with (
        _running(folder, same, patience_s=60) as (child, _),
        pytest.raises(ResultsError, match=f"process {child.pid} is writing this run"),
    ):
        Run.open_or_create(folder, same)
    with Run.open_or_create(folder, same), pytest.raises(ResultsError, match=f"process {os.getpid()} is writing"):
        Run.open_or_create(folder, same)


@pytest.mark.slow
def test_does_not_mix_runs(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A folder of another scenario, or of other code or packages, is not changed, and the error says what to do."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    with pytest.raises(ResultsError, match=r"the scenario 'study', and this one is 'other'; choose another name"):
        Run.open_or_create(folder, manifest(scenario={"name": "other"}))
    session = manifest().sessions[0]
    for change, said in (
        ({"code": "0" * 16}, "the harness's own code changed"),
        ({"packages": {**session.packages, "numpy": "0.1"}}, r"numpy \(.* before, 0\.1 now\) changed"),
    ):
        other = manifest().model_copy(update={"sessions": (session.model_copy(update=change),)})
        with pytest.raises(ResultsError, match=f"rows of two versions are not mixed: {said}; .* --fresh"):
            Run.open_or_create(folder, other)
    assert Run.read(folder).outcomes.num_rows == 6, "nothing of it was touched"


@pytest.mark.slow
def test_fresh_discards_a_run_and_nothing_else(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """``fresh`` begins again where a run was, complete or damaged, and refuses a folder that is not a run."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    assert len(work(folder, manifest(scenario_hash="zzz"), study_units, fresh=True)) == len(study_units)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match="is not JSON"):
        Run.open_or_create(folder, manifest())
    assert work(folder, manifest(), study_units[:1], fresh=True) == [study_units[0][0].name]
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("dear")
    with pytest.raises(ResultsError, match=r"holds 'dear.txt' and no manifest.json"):
        Run.open_or_create(letters, manifest(), fresh=True)
    assert (letters / "dear.txt").read_text() == "dear"


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_a_link_to_a_run_is_not_written_through(
    tmp_path: Path, manifest: Made, study_units: list[Work], fresh: bool
) -> None:
    """Neither the link nor its target is changed, dangling or not; the sentence says what to name instead."""
    folder, link = tmp_path / "tonight", tmp_path / "link"
    work(folder, manifest(), study_units)
    for target in (folder, tmp_path / "nowhere"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(ResultsError, match="is a symbolic link; give the folder that it points to"):
            Run.open_or_create(link, manifest(), fresh=fresh)
        assert link.is_symlink()
    assert Run.read(folder).outcomes.num_rows == 6
    assert {path.name for path in tmp_path.iterdir()} == {"tonight", "link"}, "no lock is left either"


def test_a_unit_is_committed_once(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A unit is added once, and a request that two units hold is refused rather than counted twice."""
    unit, _, outcomes, _ = study_units[0]
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        run.add(unit, outcomes=outcomes)
        with pytest.raises(ValueError, match="is done"):
            run.add(unit, outcomes=outcomes)
        other = Unit("the same under another name")
        run.add(other, outcomes=[dataclasses.replace(outcomes[0], unit=other.key)])
        with pytest.raises(ResultsError, match="sample s000 are in two units"):
            run.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["../escape", "a/b", ".hidden", "..", "100 % é", "quality=10,merge=0.044", "n" * 5000, "\u0000"]
)
def test_any_name_is_a_unit(tmp_path: Path, manifest: Made, study_units: list[Work], name: str) -> None:
    """A unit's name may have characters that a path may not, at any length; it is recognised after a restart."""
    folder, unit = tmp_path / "tonight", Unit(name, {"file " + name: "0" * 16})
    row = dataclasses.replace(study_units[0][2][0], unit=unit.key)
    with Run.open_or_create(folder, manifest()) as run:
        assert run.expect([unit]) == [unit]
        run.add(unit, outcomes=[row])
    with Run.open_or_create(folder, manifest()) as run:
        assert run.expect([unit]) == []
        assert run.table("outcomes").num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tonight"]


def test_refuses_rows_that_break_the_schema(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """What could not be read back is refused when it is added, and nothing of its unit is committed."""
    table = pa.Table.from_pylist([{"pipeline": "jpeg"}])
    good = study_units[6][1]
    broken = [{**{f: getattr(good[0], f) for f in type(good[0]).__dataclass_fields__}, "seconds": float("nan")}]
    unit = Unit("a")
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        with pytest.raises(ResultsError, match="the column 'run' is missing"):
            run.add(unit, outcomes=table)
        with pytest.raises(ResultsError, match="seconds is nan in row 0; it must be a finite number"):
            run.add(unit, outcomes=study_units[0][2], stages=pa.Table.from_pylist(broken))
        assert run.expect([unit]) == [unit]
        assert run.table("outcomes").num_rows == 0
        with pytest.raises(ResultsError, match="sample 's000' is there twice"):
            run.record_samples([*samples(), *samples(1)])


def _edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _with(name: str, value: object, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array([value, *table[name].to_pylist()[1:]], kind)
        return table.set_column(table.column_names.index(name), pa.field(name, kind), column)

    return change


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(tmp_path: Path, manifest: Made, study_units: list[Work], kind: str) -> None:
    """One bit anywhere in a table or a part is refused, naming the file; many of them would be readable."""
    folder, same = tmp_path / "tonight", manifest()
    work(folder, same, study_units)
    path, rng = folder / f"{kind}.parquet", random.Random(3)
    whole = path.read_bytes()
    for place in (rng.randrange(len(whole)) for _ in range(25)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ResultsError, match="is damaged or was edited") as refusal:
            Run.read(folder)
        assert str(refusal.value).startswith(f"{path}: ")
        if kind in MEASURED:
            with pytest.raises(ResultsError, match="is damaged or was edited"):
                Run.open_or_create(folder, same)
    path.write_bytes(whole)
    assert Run.read(folder).manifest.tables[kind]


def test_a_damaged_part_is_found_when_the_run_is_resumed(tmp_path: Path, manifest: Made) -> None:
    """Before anything is computed; of its units there are the number and the first three."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.add([Unit(f"picture {n}") for n in range(40)])
    (part,) = (folder / "parts").iterdir()
    facts = json.loads((part / "units.json").read_text())
    (part / "outcomes.parquet").write_bytes(b"flipped")
    (part / "units.json").write_text(json.dumps({**facts, "tables": {"outcomes": "0" * 16}}))
    with pytest.raises(ResultsError, match=r"outcomes\.parquet: is damaged or was edited") as refusal:
        Run.open_or_create(folder, manifest())
    assert str(refusal.value).endswith("its 40 units are computed again: picture 0, picture 1, picture 2, ...")
    (part / "outcomes.parquet").unlink()
    with pytest.raises(ResultsError, match=r"outcomes\.parquet: cannot be read: No such file"):
        Run.open_or_create(folder, manifest())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("outcomes", lambda t: t.drop_columns("truth"), "the column 'truth' is missing"),
        ("stages", lambda t: t.append_column("colour", t["stage"]), "unknown column 'colour'"),
        ("stages", lambda t: _with("stage", None, pa.string())(t), "stage"),
        ("stages", lambda t: _with("seconds", -1.0, pa.float64())(t), "seconds is -1.0 in row 0"),
        ("stages", lambda t: _with("source", "guessed", pa.string())(t), "source is 'guessed' in row 0"),
        ("outcomes", lambda t: _with("payload_bytes", 1.5, pa.float64())(t), "payload_bytes"),
        ("samples", lambda t: _with("sample", "s001", pa.string())(t), "sample 's001' is there twice"),
    ],
)
def test_refuses_a_table_that_is_not_one(
    tmp_path: Path,
    manifest: Made,
    study_units: list[Work],
    kind: Kind,
    change: Callable[[pa.Table], pa.Table],
    sentence: str,
) -> None:
    """Tables with valid digests are still checked."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    _edit(folder / f"{kind}.parquet", change)
    with pytest.raises(ResultsError, match=sentence):
        tables.read(kind, folder / f"{kind}.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "stages.parquet").unlink(), r"stages\.parquet: no such file"),
        (lambda f: (f / "stages.parquet").write_bytes(b"PAR1 not quite"), r"stages\.parquet: is damaged"),
        (lambda f: os.truncate(f / "outcomes.parquet", 300), r"outcomes\.parquet: is damaged"),
        (
            lambda f: _edit(f / "stages.parquet", _with("seconds", 1e-9, pa.float64())),
            r"stages\.parquet: is damaged or was edited: its digest is .* and the run wrote",
        ),
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
    manifest: Made,
    study_units: list[Work],
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    """Reading a run that was changed from outside says in one sentence which file is wrong, and how."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    damage(folder)
    with pytest.raises(ResultsError, match=sentence) as refusal:
        Run.read(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refuses_what_is_not_a_finished_run(tmp_path: Path, manifest: Made) -> None:
    """An absent folder, a file in its place, and an ongoing run are each named as such."""
    with pytest.raises(ResultsError, match="no such folder"):
        Run.read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="is a file"):
        Run.open_or_create(tmp_path / "file", manifest())
    Run.open_or_create(tmp_path / "tonight", manifest()).close()
    with pytest.raises(ResultsError, match="is unfinished"):
        Run.read(tmp_path / "tonight")


@pytest.mark.slow
def test_a_damaged_part_is_named(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A damaged part is not dropped: it is named, with what to do and which units are lost."""
    folder, unit = tmp_path / "tonight", study_units[0][0]
    with Run.open_or_create(folder, manifest()) as run:
        work_on(run, study_units[:2])
        path = folder / "parts" / unit.key / "outcomes.parquet"
        flipped = bytearray(path.read_bytes())
        flipped[len(flipped) // 2] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(ResultsError, match=f"is damaged.*remove the folder .*{unit.key}.* again: {unit.name}$"):
            run.table("outcomes")
    disk.discard(path.parent)
    assert work(folder, manifest(), study_units) == [unit.name, *(w[0].name for w in study_units[2:])]


def test_reasons_make_a_run_invalid(tmp_path: Path, manifest: Made) -> None:
    """The samples of an ongoing run are read with it; the reasons at its end are in its manifest."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.record_samples(samples())
        assert run.so_far().samples.to_pylist() == [
            {name: getattr(row, name) for name in row.__slots__} for row in samples()
        ]
        run.finish(["too few questions"])
    assert (Run.read(folder).manifest.validity, Run.read(folder).manifest.reasons) == (
        "INVALID",
        ("too few questions",),
    )
    assert json.loads((folder / "manifest.json").read_text())["reasons"] == ["too few questions"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """If it cannot be written, the earlier folder is unchanged, with nothing beside it."""
    disk.write_folder(tmp_path / "a", {"one": b"1"})
    with pytest.raises(ResultsError, match="a: cannot be written"):
        disk.write_folder(tmp_path / "a", {"two": b"2", "x" * 300: b"3"}, replace=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["a", "a/one"]
    disk.write_folder(tmp_path / "a", {"links/two": b"2"}, replace=True)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a", "links", "two"]
