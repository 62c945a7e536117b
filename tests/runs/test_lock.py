"""Only one process writes a run, if its file system has locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from harness.errors import ResultsError
from harness.runs.lock import Lock


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
