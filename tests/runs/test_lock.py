"""Only one process writes a run, if its file system has locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from harness.errors import ResultsError
from harness.runs.lock import Lock
from tests.forked import forked


def test_a_run_that_is_being_written_names_its_writer(tmp_path: Path) -> None:
    """The second is refused with the first's process, and admitted when that has finished."""
    with Lock(tmp_path / "run"), pytest.raises(ResultsError, match=f"process {os.getpid()} is writing this run"):
        Lock(tmp_path / "run")
    Lock(tmp_path / "run").release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """No process is writing: the file system has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResultsError, match=f"does not support locks .{os.strerror(code)}.* --results"):
        Lock(tmp_path / "run")


def _ended_at(folder: Path, place: str) -> None:
    """Ends as code does that calls ``os._exit``: nothing is released."""
    lock = Lock(folder)
    lock.tell("another place, with a much longer name than the last")
    lock.tell(place)
    os._exit(3)


@pytest.mark.parametrize("place", ["mine at levels=8, sample ü/4", "x" * 2000, ""])
def test_where_a_process_was_ended_is_known_to_the_next(tmp_path: Path, place: str) -> None:
    """Its beginning if it is long; and to none after that, which releases the lock."""
    process = forked(_ended_at, tmp_path / "run", place)
    process.join()
    assert process.exitcode == 3
    with Lock(tmp_path / "run") as lock:
        assert lock.left_at == place[: len(lock.left_at)]
        assert len(lock.left_at) >= min(len(place), 400)
    with Lock(tmp_path / "run") as lock:
        assert lock.left_at == ""
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_learns_where_the_first_is(tmp_path: Path) -> None:
    """While it is there; after the lock is released nothing is written."""
    lock = Lock(tmp_path / "run")
    lock.tell("jpeg at quality=5, sample 3")
    with pytest.raises(ResultsError, match="is writing this run and is at jpeg at quality=5, sample 3; wait for it"):
        Lock(tmp_path / "run")
    lock.tell("")
    with pytest.raises(ResultsError, match="is writing this run; wait for it"):
        Lock(tmp_path / "run")
    lock.release()
    lock.tell("nowhere")
