"""A shared folder is made by one worker of the test runner."""

import time
from pathlib import Path

import pytest

from tests.forked import forked
from tests.made_once import made_once


def test_one_worker_makes_it_and_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two at once one makes it, whole before the other reads it; after a failure the next makes it again."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    told = tmp_path / "told"

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        with told.open("a") as file:
            file.write("made\n")
        time.sleep(0.05)
        (folder / "whole").touch()

    def work(base: Path) -> None:
        assert (made_once(base, "it", make) / "whole").exists()

    def fail(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        made_once(tmp_path / "gw0", "it", fail)
    workers = [forked(work, tmp_path / name) for name in ("gw0", "gw1")]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert told.read_text() == "made\n"
