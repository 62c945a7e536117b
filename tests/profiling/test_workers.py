"""Work spread over processes: the same results, errors where they belong, and no process left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from harness.profiling.workers import spread, workers_for


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_task_is_done_once_and_what_the_work_holds_is_inherited(workers) -> None:
    """Results come with their tasks, whatever the order; a closure needs no pickling."""
    table = {n: n * n for n in range(20)}
    done = dict(spread(lambda n: (table[n], os.getpid()), range(20), workers))
    assert {n: square for n, (square, _) in done.items()} == table
    processes = {process for _, process in done.values()}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_task_is_raised_to_the_caller(workers) -> None:
    """With its type and text."""
    with pytest.raises(ZeroDivisionError, match="division"):
        list(spread(lambda n: 1 // n, [1, 0, 2], workers))


def test_a_parent_that_shows_its_progress_from_a_thread_spreads_work() -> None:
    """Python 3.12 and later warn of a fork beside any thread; who runs the harness is not shown that."""
    finished = threading.Event()
    display = threading.Thread(target=finished.wait)
    display.start()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            assert dict(spread(lambda n: n + 1, range(4), 2)) == {0: 1, 1: 2, 2: 3, 3: 4}
    finally:
        finished.set()
        display.join()
    assert [str(warning.message) for warning in warned] == []


def test_an_accelerator_and_a_threaded_computation_get_one_process() -> None:
    """Neither can be forked safely."""
    assert workers_for("cuda", 1) == workers_for("cpu", 2) == 1
    if sys.platform == "linux":
        assert workers_for("cpu", 1) == len(os.sched_getaffinity(0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel can be asked for this")
def test_a_killed_parent_takes_its_workers_with_it() -> None:
    """No orphan goes on computing after kill -9."""
    script = (
        "import os, time\n"
        "from harness.profiling.workers import spread\n"
        'def work(n):\n    os.write(1, f"{os.getpid()}\\n".encode())\n    time.sleep(60)\n'
        "list(spread(work, [1, 2], 2))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(child) for child in children)


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
