"""Runs whose processes die: nothing finished is lost, nothing unfinished is visible."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from harness import files
from harness.errors import ResultsError
from harness.runs import disk, provenance
from harness.runs.provenance import Manifest
from harness.runs.store import Run
from harness.runs.tables import ROWS
from tests.forked import forked
from tests.study_rows import Work, parts, same_rows, units, work, work_on

KINDS = tuple(ROWS)
Made = Callable[..., Manifest]


class _CrashError(BaseException):
    """The process has died; a BaseException, so that no code in between handles it."""


@pytest.mark.slow
# Right after a rename the folder is as right before the next one, without that one's unfinished file: once is enough.
@pytest.mark.parametrize(("begun", "after"), [("new", False), ("new", True), ("smaller", False), ("larger", False)])
def test_survives_a_crash_at_every_rename(
    tmp_path: Path, manifest: Made, monkeypatch: pytest.MonkeyPatch, begun: str, after: bool
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
    assert crash_at > len(KINDS) + 3, "a manifest, the tables, the replay's part, a manifest, the removal of the parts"


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
    """The second one fails and names the process that holds the run; the lock ends with it, even if it is killed."""
    folder, same = tmp_path / "tonight", manifest()
    with (
        _running(folder, same, patience_s=60) as (child, _),
        pytest.raises(ResultsError, match=f"process {child.pid} is writing this run"),
    ):
        Run.open_or_create(folder, same)
    with Run.open_or_create(folder, same), pytest.raises(ResultsError, match=f"process {os.getpid()} is writing"):
        Run.open_or_create(folder, same)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """If it cannot be written, the earlier folder is unchanged, with nothing beside it."""
    disk.write_folder(tmp_path / "a", {"one": b"1"})
    with pytest.raises(ResultsError, match="a: cannot be written"):
        disk.write_folder(tmp_path / "a", {"two": b"2", "x" * 300: b"3"}, replace=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["a", "a/one"]
    disk.write_folder(tmp_path / "a", {"links/two": b"2"}, replace=True)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a", "links", "two"]
