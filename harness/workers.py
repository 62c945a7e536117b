"""Work handed out to processes one task at a time, so that if one dies, another takes its task.

*Forked* ones share what was loaded, so that a model is in memory once; that is safe as long as no thread of the parent
is inside a computation, so each gets one thread, and forking is not used with an accelerator. *Spawned* ones load a
model each, and so do actors of a Ray cluster (:mod:`harness.actors`).
"""

import collections
import contextlib
import ctypes
import dataclasses
import functools
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from harness.errors import HarnessError, UnavailableError, tell, telling
from harness.kernels import compile_all

Task = TypeVar("Task")
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Task], Result]

_PR_SET_PDEATHSIG = 1
_MOST_DEATHS = 3
"""The most deaths on one task, or in one place before a worker was ready: another would die in the same way."""
_FEWER = "have fewer workers (--workers of 'harness run'; before any command, 'taskset -c 0' for one)"
_PATIENCE_S = 5.0
"""How long a process that closed its pipe may take to end before it is killed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded and is ready."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The result of a worker's task."""

    result: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """An error of a worker, in a task or before."""

    error: Exception


@dataclasses.dataclass(frozen=True, slots=True)
class Died:
    """A worker ended; ``how`` is a phrase such as ``killed by SIGKILL``, with where that was if it is known."""

    how: str


Reply: TypeAlias = Ready | Finished | Failed | Died


class Pool(Protocol):
    """Workers, each in a place of its own; each replies that it is ready, and once to each task."""

    def start(self, place: int) -> None:
        """Starts a worker in an empty place."""
        ...

    def give(self, place: int, task: Any) -> None:
        """Gives a task to an idle worker."""
        ...

    def wait(self) -> tuple[int, Reply]:
        """The next reply and the place that it comes from."""
        ...

    def stop(self) -> None:
        """Ends all workers immediately."""
        ...


def _nothing(how: str) -> None:
    """Ignores the death of a worker."""


def hand_out(
    tasks: Sequence[Task],
    pool: Pool,
    workers: int,
    *,
    named: Callable[[Task], str] = str,
    lost: Callable[[str], None] = _nothing,
) -> Generator[tuple[Task, Any], None, None]:
    """Yields each task with its result from a worker of the pool, as they finish.

    A worker gets its next task before the caller sees what it finished. ``lost`` is called with how one died; its task
    goes to another that is idle, or else to a new one in its place. An error in a task is raised here. Raises
    UnavailableError where three workers died at one task, or in one place before they had loaded. All workers have
    ended when this returns, raises or is closed.
    """
    waiting = collections.deque(range(len(tasks)))
    idle: list[int] = []
    in_hand: dict[int, int] = {}
    deaths: collections.Counter[int] = collections.Counter()
    unready: collections.Counter[int] = collections.Counter()
    left = len(tasks)

    def deal() -> None:
        while waiting and idle:
            place = idle.pop(0)
            in_hand[place] = waiting.popleft()
            pool.give(place, tasks[in_hand[place]])

    try:
        for place in range(min(workers, left)):
            pool.start(place)
        while left:
            place, reply = pool.wait()
            number = in_hand.pop(place, None)
            if isinstance(reply, Failed):
                raise reply.error
            if isinstance(reply, Died):
                if number is not None:
                    deaths[number] += 1
                    waiting.appendleft(number)
                elif place in idle:
                    idle.remove(place)
                else:
                    unready[place] += 1
                if max(unready[place], 0 if number is None else deaths[number]) >= _MOST_DEATHS:
                    where = "while they loaded" if number is None else f"at {named(tasks[number])}"
                    raise UnavailableError(_given_up(where, reply.how))
                lost(reply.how)
                deal()
                if waiting:
                    pool.start(place)
                continue
            unready[place] = 0
            idle.append(place)
            deal()
            if isinstance(reply, Finished):
                assert number is not None
                left -= 1
                yield tasks[number], reply.result
    finally:
        pool.stop()


def _given_up(where: str, how: str) -> str:
    ended = f"{_MOST_DEATHS} worker processes ended {where}, the last {how}"
    if "SIGKILL" in how:
        return (
            f"{ended}, which is how Linux ends a process when memory is short; what others had finished is stored: "
            f"repeat the command to resume; where memory is short, {_FEWER}"
        )
    return (
        f"{ended}; what others had finished is stored: correct the code that ends its process, such as a scheme's, and "
        "repeat the command to resume"
    )


class Processes:
    """A pool of processes of this machine; ``make``, called in each, gives the work that it does.

    Forked ones inherit ``make`` and all that it holds; for spawned ones it is pickled. ``environment`` gives the
    variables that the process in a place is started with, before ``make`` is called.
    """

    def __init__(
        self,
        make: Callable[[], Work[Any, Any]],
        how: Literal["fork", "spawn"],
        environment: Callable[[int], Mapping[str, str]] | None = None,
    ) -> None:
        self._make, self._environment = make, environment
        self._context: Any = multiprocessing.get_context(how)
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._at: dict[int, str] = {}

    def start(self, place: int) -> None:
        """Begins a process, in which Ctrl-C is ignored: it is the parent's to handle."""
        ours, theirs = self._context.Pipe()
        given = (theirs, self._make, {} if self._environment is None else dict(self._environment(place)), os.getpid())
        process: BaseProcess = self._context.Process(target=_serve, args=given, daemon=True)
        if self._context.get_start_method() == "spawn":
            multiprocessing.resource_tracker.ensure_running()  # It would remove the block below when it starts.
        # Blocked, not ignored by the process itself: Ctrl-C may come before its first line.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any thread in the parent. A progress display's holds no lock that a worker needs.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                process.start()
            theirs.close()
            self._workers[place] = process, ours
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def give(self, place: int, task: Any) -> None:
        """Sends a task; a worker that died meanwhile is noticed by :meth:`wait`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._workers[place][1].send(task)

    def wait(self) -> tuple[int, Reply]:
        """The next reply; a process that ended without one has died.

        Reports the points and samples that the processes are at (:func:`harness.errors.tell`). A KeyboardInterrupt has
        them as its argument.
        """
        try:
            place, reply = self._next()
            while isinstance(reply, str):
                self._at[place] = reply
                tell(self._places)
                place, reply = self._next()
        except KeyboardInterrupt as error:
            error.args = error.args or ((self._places,) if self._at else ())
            raise
        at = self._at.pop(place, "")
        tell(self._places)
        return place, Died(f"{reply.how} at {at}") if isinstance(reply, Died) and at else reply

    @property
    def _places(self) -> str:
        return " and ".join(self._at.values())

    def _next(self) -> tuple[int, Reply | str]:
        """The next reply, or where a process is."""
        connections = {ours: place for place, (_, ours) in self._workers.items()}
        ended = {process.sentinel: place for place, (process, _) in self._workers.items()}
        ready = wait([*connections, *ended])
        place = next((connections[one] for one in ready if one in connections), None)
        if place is None:
            place = ended[next(one for one in ready if isinstance(one, int))]
        process, ours = self._workers[place]
        try:
            # What it sent before its end counts.
            if ours.poll():
                reply: Reply | str = ours.recv()
                return place, reply
        except (EOFError, OSError):
            pass
        del self._workers[place]
        process.join(_PATIENCE_S)
        process.kill()
        process.join()
        ours.close()
        return place, Died(_how(process.exitcode))

    def stop(self) -> None:
        """Kills them: all finished results have been received."""
        for process, _ in self._workers.values():
            process.kill()
        for process, ours in self._workers.values():
            process.join()
            ours.close()
        self._workers.clear()


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-exit_code).name}"
    return f"with exit status {exit_code}"


def _serve(theirs: Connection, make: Callable[[], Work[Any, Any]], environment: Mapping[str, str], parent: int) -> None:
    """What a process does: it loads, says that it is ready, and replies to each task until there is no parent."""
    _follow(parent)
    os.environ.update(environment)
    gone = contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError)
    with gone, telling(lambda place: theirs.send(place) if place else None, alone=True):
        made = reply_of(make)
        theirs.send(Ready() if isinstance(made, Finished) else made)
        while isinstance(made, Finished):
            theirs.send(reply_of(made.result, theirs.recv()))


def reply_of(work: Callable[..., Any], *given: Any) -> Finished | Failed:
    """A worker's reply to its task."""
    try:
        return Finished(work(*given))
    except Exception as error:  # Any error is passed to the caller.
        return Failed(_portable(error))


def _portable(error: Exception) -> Exception:
    """An error in a form that can be pickled."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = str(error).partition("\n")[0] or type(error).__name__
        return UnavailableError(f"a worker has no memory left: {reason}; each has a model: {_FEWER}")
    if not isinstance(error, HarnessError):
        error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # A user's own error may raise anything there.
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _follow(parent: int) -> None:
    """Ends this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It was killed before.
        os._exit(1)


def may_fork(device: str, threads: int) -> bool:
    """Whether processes that compute on ``device`` with ``threads`` threads each may share what this one loaded."""
    return sys.platform == "linux" and device == "cpu" and threads == 1


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(device: str, threads: int) -> int:
    """How many processes may compute at once on ``device`` with ``threads`` threads each: the cores there are."""
    return processors() if may_fork(device, threads) else 1


def spread(
    work: Work[Task, Result],
    tasks: Sequence[Task],
    workers: int,
    *,
    named: Callable[[Task], str] = str,
    lost: Callable[[str], None] = _nothing,
) -> Generator[tuple[Task, Result], None, None]:
    """Yields each task with its result of ``work``, as they finish; in order, and in this process, for one worker.

    Only tasks and results pass between processes; ``work`` and all that it holds are inherited. Otherwise as
    :func:`hand_out`.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, work(task)
        return
    compile_all()
    pool = Processes(functools.partial(_same, work), "fork")
    yield from hand_out(tasks, pool, workers, named=named, lost=lost)


def _same(work: Work[Task, Result]) -> Work[Task, Result]:
    return work
