"""Work spread over processes: the same results whoever dies, errors raised to the caller, and no process left."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError, UnavailableError, placed, telling
from harness.workers import (
    Died,
    Finished,
    Processes,
    Ready,
    Reply,
    hand_out,
    may_fork,
    processors,
    spread,
    workers_for,
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_task_is_done_once_and_what_the_work_holds_is_inherited(workers: int) -> None:
    """Results come with their tasks, whatever the order; a closure needs no pickling."""
    table = {n: n * n for n in range(20)}
    done = dict(spread(lambda n: (table[n], os.getpid()), range(20), workers))
    assert {n: square for n, (square, _) in done.items()} == table
    processes = {process for _, process in done.values()}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_task_is_raised_to_the_caller(workers: int) -> None:
    """With its type and text."""
    with pytest.raises(ZeroDivisionError, match="division"):
        list(spread(lambda n: 1 // n, [1, 0, 2], workers))


class Simulated:
    """A pool whose workers reply and die as scripted; it refuses calls that no pool gets."""

    def __init__(self, draw: Callable[[int], int], mortality: int) -> None:
        self._draw, self._mortality = draw, mortality
        self._doing: dict[int, int | None] = {}
        self._idle: set[int] = set()
        self.deaths = 0
        self.stopped = False

    def start(self, place: int) -> None:
        assert place not in self._doing
        assert place not in self._idle
        self._doing[place] = None

    def give(self, place: int, task: int) -> None:
        self._idle.remove(place)
        self._doing[place] = task

    def wait(self) -> tuple[int, Reply]:
        assert self._doing, "no worker has a task"
        living = sorted([*self._doing, *self._idle])
        place = living[self._draw(len(living))]
        dies = self._draw(100) < self._mortality
        if dies or place in self._idle:
            place = place if dies else min(self._doing)
        if dies:
            self._idle.discard(place)
            self._doing.pop(place, None)
            self.deaths += 1
            return place, Died("killed by SIGKILL")
        task = self._doing.pop(place)
        self._idle.add(place)
        return place, Ready() if task is None else Finished(task * task)

    def stop(self) -> None:
        self._doing.clear()
        self._idle.clear()
        self.stopped = True


@pytest.mark.slow
@given(st.data(), st.integers(0, 30), st.integers(1, 5), st.sampled_from([0, 10, 40]))
def test_every_task_is_done_once_whichever_worker_dies(
    data: st.DataObject, n_tasks: int, workers: int, mortality: int
) -> None:
    """In any order of replies and deaths: all tasks once, or an error after three deaths at one; no worker is left."""
    pool = Simulated(lambda n: data.draw(st.integers(0, n - 1)), mortality)
    done: list[tuple[int, int]] = []
    lost: list[str] = []
    try:
        for pair in hand_out(range(n_tasks), pool, workers, lost=lost.append):
            done.append(pair)  # noqa: PERF402 - what was done before it gave up counts
        assert sorted(done) == [(n, n * n) for n in range(n_tasks)]
    except UnavailableError as error:
        assert "3 worker processes ended" in str(error)  # noqa: PT017
        assert pool.deaths >= 3
        assert len(set(done)) == len(done) < n_tasks
    assert len(lost) <= pool.deaths
    assert pool.stopped


def _killed_at(tasks: set[int], folder: Path, n: int) -> int:
    """The square; the first process that is given one of these tasks is killed, as by the system."""
    mark = folder / str(n)
    if n in tasks and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_four_workers_of_which_two_are_killed_do_what_one_does(tmp_path: Path) -> None:
    """SIGKILL while they have a task: another does it, and a new process replaces the killed one."""
    lost: list[str] = []
    work = functools.partial(_killed_at, {1, 5}, tmp_path)
    done = dict(spread(work, range(12), 4, lost=lost.append))
    assert done == {n: n * n for n in range(12)}
    assert lost == ["killed by SIGKILL"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_a_task_that_kills_every_worker_ends_in_a_sentence() -> None:
    """After three, with the task's name; the tasks done before have been yielded, and no process is left."""
    done: dict[int, int] = {}

    def work(n: int) -> int:
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    with pytest.raises(UnavailableError, match=r"3 worker processes ended at task 3, the last killed by SIGKILL"):
        done.update(pair for pair in spread(work, range(4), 2, named=lambda n: f"task {n}"))
    assert done.keys() == {0, 1, 2}
    assert not any(_runs(process) for process in done.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_code_that_ends_its_process_is_named_with_its_place() -> None:
    """The parent tells where its workers are, and says where one ended; there is no advice on memory."""
    told: list[str] = []

    def work(n: int) -> int:
        with placed("mine at levels=8", str(n)):
            if n == 3:
                os._exit(3)
        return n

    with (
        telling(told.append),
        pytest.raises(UnavailableError, match="the last with exit status 3 at mine at levels=8, sample 3; ") as ended,
    ):
        list(spread(work, range(4), 2))
    assert "correct the code that ends its process" in str(ended.value)
    assert "memory" not in str(ended.value)
    assert {"mine at levels=8, sample 3", ""} <= set(told)


def _nothing_to_load() -> Callable[[int], int]:
    raise DataError("pictures.tsv: no such file")


@pytest.mark.slow
def test_a_spawned_process_loads_with_its_own_environment() -> None:
    """What it works with is made there, after its variables are set; an error is raised to the caller."""
    make = functools.partial(functools.partial, os.getenv)
    pool = Processes(make, "spawn", lambda place: {"PLACE": f"GPU {place}"})
    assert list(hand_out(["PLACE", "NONE"], pool, 1)) == [("PLACE", "GPU 0"), ("NONE", None)]
    assert "PLACE" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_an_error_while_a_worker_loads_is_raised_to_the_caller() -> None:
    """With its type and text."""
    with pytest.raises(DataError, match=r"pictures\.tsv: no such file"):
        list(hand_out([7, 8], Processes(_nothing_to_load, "fork"), 2))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_no_memory_in_a_worker_is_reported_with_a_remedy() -> None:
    """Where torch or Python reports it; a traceback would not help."""

    class OutOfMemoryError(RuntimeError):
        pass

    def work(n: int) -> int:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nIt has 24 GiB.")

    with pytest.raises(UnavailableError, match=r"no memory left: CUDA out of memory.*have fewer workers"):
        list(spread(work, range(3), 2))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_an_error_that_cannot_be_pickled_is_reported_as_text() -> None:
    """Its type and text come as those of a RuntimeError."""

    class OwnError(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(f"{one} and {two}")

    def work(n: int) -> int:
        raise OwnError("pictures", "words")

    with pytest.raises(RuntimeError, match=r"OwnError: pictures and words"):
        list(spread(work, range(3), 2))


def test_a_parent_that_shows_its_progress_from_a_thread_spreads_work() -> None:
    """Python 3.12 and later warn of a fork beside any thread; users of the harness do not see the warning."""
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
    assert not may_fork("cuda", 1)
    if sys.platform == "linux":
        assert workers_for("cpu", 1) == processors() == len(os.sched_getaffinity(0))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports this")
def test_a_killed_parent_ends_its_workers() -> None:
    """No orphan continues to compute after kill -9."""
    script = (
        "import os, time\n"
        "from harness.workers import spread\n"
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_ctrl_c_is_the_parents_and_ends_all_workers() -> None:
    """The signal reaches the whole group, as from a terminal: the parent says where, and no worker prints anything."""
    script = (
        "import os, time\n"
        "from harness.errors import placed, telling\n"
        "from harness.workers import spread\n"
        "def work(n):\n"
        "    with placed('mine', str(n)):\n"
        '        os.write(1, f"{os.getpid()}\\n".encode())\n        time.sleep(60)\n'
        "def tell(places):\n"
        "    if ' and ' in places:\n        os.write(1, b'both\\n')\n"
        "try:\n"
        "    with telling(tell):\n        list(spread(work, [1, 2], 2))\n"
        "except KeyboardInterrupt as error:\n    print('at', *sorted(error.args[0].split(' and ')), sep='; ')\n"
    )
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    begun = signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
    try:
        started = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, begun)
    with started as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        lines = [parent.stdout.readline() for _ in range(3)]
        children = [int(line) for line in lines if line != "both\n"]
        assert len(children) == 2
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.read() == "at; mine, sample 1; mine, sample 2\n"
        assert parent.stderr.read() == ""
    assert parent.returncode == 0
    assert not any(_runs(child) for child in children)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
