"""Work spread over processes that share what was loaded, where that is safe: networks on Linux's processors.

The processes are forked, so that a model is in memory once. That is safe as long as no thread of the parent is inside a
computation; so each process gets one thread, and an accelerator, which cannot be forked, gets one process.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from harness.kernels import compile_all

Task = TypeVar("Task")
Done = TypeVar("Done")

_PR_SET_PDEATHSIG = 1
_shared: Callable[[object], object]


def workers_for(device: str, threads: int) -> int:
    """How many processes may compute at once on ``device`` with ``threads`` threads each: the cores there are."""
    if sys.platform != "linux" or device != "cpu" or threads != 1:
        return 1
    return len(os.sched_getaffinity(0))


def spread(work: Callable[[Task], Done], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Done]]:
    """Yields each task with what ``work`` made of it, as they finish; in order, and in this process, for one worker.

    Only tasks and results pass between processes; ``work`` and all that it holds are inherited. An error in a task is
    raised here, and the tasks not begun are dropped.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    compile_all()
    global _shared
    _shared = work  # type: ignore[assignment]
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"), initializer=_follow_parent)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of any thread in the parent. A progress display's holds no lock that a worker asks for.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            futures = {pool.submit(_run, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """A killed parent takes its workers with it; Ctrl-C is the parent's to handle."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(task: object) -> object:
    return _shared(task)
