"""Whether this process had the machine to itself while stages were timed.

What is watched, where the system reports it; anything else is recorded as unavailable:

- ``run delay``: how long each of the process's threads was ready to run and waited for a processor
  (``/proc/self/task/*/schedstat``). A request's threads wait for each other, so the thread that waited longest counts;
- ``heartbeat``: stretches in which the machine or the process stood still (:mod:`harness.profiling.heartbeat`);
- ``load``: the share of the machine's processors that others kept busy, a hypervisor's steal included (``/proc/stat``
  less this process's own processor time). It is averaged over at least a second, because the system counts in
  hundredths;
- ``pressure``: the share of the time in which some task of the machine waited for a processor (``/proc/pressure/cpu``),
  over all of the timing: the kernel updates it every two seconds.
"""

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from harness.files import why
from harness.profiling import heartbeat
from harness.runs.provenance import UNAVAILABLE

_TICK_S = 0.01
"""The unit of ``/proc/stat``."""

_WINDOW_S = 1.0
_SHORTEST_S = 0.25
"""Over less than this the load is not known: one tick of each processor would be too large a part of it."""

_STEADY_S = 4.0
_PATIENCE_S = 10.0
_BUSY = (0, 1, 2, 5, 6, 7)
"""The fields of ``/proc/stat`` that are work: user, nice, system, irq, softirq; and steal, others' work on our
processors. Idle and waiting for disks are not."""


class Watch:
    """Watches this process and its machine; a context manager, since the heartbeat is a process of its own.

    ``processes`` is where procfs is.
    """

    def __init__(self, processes: Path = Path("/proc")) -> None:
        self._stat, self._pressure_file = processes / "stat", processes / "pressure" / "cpu"
        self._tasks = processes / "self" / "task"
        self._delays: dict[str, int] = {}
        self._heartbeat: subprocess.Popen[bytes] | None = None
        self._shared: mmap.mmap | None = None
        self._looks: list[tuple[float, float, float]] = []
        self._began: tuple[float, float] | None = None
        self._n_processors = _processors(self._stat)
        self._why_no_heartbeat = "it was not started"

    def __enter__(self) -> Self:
        self._began = self._pressure_now()
        try:
            with tempfile.TemporaryFile() as file:
                file.truncate(heartbeat.SIZE)
                self._shared = mmap.mmap(file.fileno(), heartbeat.SIZE)
                self._heartbeat = subprocess.Popen(
                    [sys.executable, "-I", "-S", heartbeat.__file__],
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except OSError as error:
            self._why_no_heartbeat = f"its process cannot be started: {why(error)}"
            return self
        until = time.monotonic() + _PATIENCE_S
        while not heartbeat.last_beat_ns(self._shared) and self._beats() and time.monotonic() < until:
            time.sleep(1e-3)
        return self

    def __exit__(self, *_: object) -> None:
        if self._heartbeat is not None:
            self._heartbeat.kill()
            self._heartbeat.wait()
            self._heartbeat = None
        for descriptor in self._delays.values():
            os.close(descriptor)
        self._delays = {}

    @property
    def sources(self) -> Mapping[str, str]:
        """What is watched, and what is unavailable and why."""
        found = self.pressure()
        return {
            "run delay": "the scheduler's run delay" if self._told() else f"{UNAVAILABLE}no schedstat",
            "heartbeat": "a heartbeat" if self._beats() else f"{UNAVAILABLE}{self._why_no_heartbeat}",
            "load": f"the load of {self._n_processors} processors" if self._n_processors else f"{UNAVAILABLE}no stat",
            "pressure": f"{UNAVAILABLE}no pressure for so long" if found is None else f"pressure of {found:.1%}",
        }

    @property
    def tells(self) -> bool:
        """Whether it is known how long a stage was kept from running."""
        return self._told() or self._beats()

    def delays_ns(self) -> dict[str, int]:
        """How long each thread has waited for a processor since it started; to be compared with an earlier reading."""
        found = {}
        for task, descriptor in self._delays.items():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[task] = int(os.pread(descriptor, 128, 0).split()[1])
        return found

    def stood_still_ns(self, begin_ns: int, end_ns: int) -> int:
        """For how much of an interval of the monotonic clock, up to now, the machine or this process stood still."""
        if self._shared is None or not self._beats():
            return 0
        now_ns, last_ns = time.monotonic_ns(), heartbeat.last_beat_ns(self._shared)
        found = list(heartbeat.stretches(self._shared))
        if (late_ns := now_ns - last_ns - heartbeat.BEAT_NS) > heartbeat.LATE_NS:
            # The beat that would show it is not due yet.
            found.append((last_ns, now_ns, late_ns))
        overlaps = ((min(end_ns, to_ns) - max(begin_ns, from_ns), lost_ns) for from_ns, to_ns, lost_ns in found)
        return sum(min(shared_ns, lost_ns) for shared_ns, lost_ns in overlaps if shared_ns > 0)

    def begin(self, *, anew: bool = False) -> None:
        """A turn of requests begins; ``anew`` discards the load before it.

        If the load is then unknown, it waits for the shortest time over which it can be measured: a disturbance may
        pass meanwhile, and no turn counts as undisturbed for lack of a measurement.
        """
        if anew:
            self._looks = []
        if not self._looks and self._look():
            time.sleep(_SHORTEST_S)
        self._look()
        self._follow_threads()

    def load(self) -> float | None:
        """The share of the processors, 0 to 1, that others kept busy since the turn's start, or a second before it."""
        now = self._look()
        if now is None or not self._n_processors:
            return None
        since = next((look for look in reversed(self._looks[:-1]) if now[0] - look[0] >= _WINDOW_S), self._looks[0])
        self._looks = self._looks[self._looks.index(since) :]
        wall_s, busy_s, own_s = (new - old for new, old in zip(now, since, strict=True))
        if wall_s < _SHORTEST_S:
            return None
        # One tick at each end is charged to whatever ran at that moment.
        others_s = max(0.0, busy_s - own_s - 2 * _TICK_S)
        return min(1.0, others_s / (wall_s * self._n_processors))

    def pressure(self) -> float | None:
        """The share of the time since the start in which some task waited for a processor; null if that is short."""
        now = self._pressure_now()
        if now is None or self._began is None or now[0] - self._began[0] < _STEADY_S:
            return None
        return min(1.0, (now[1] - self._began[1]) / (now[0] - self._began[0]))

    def _look(self) -> tuple[float, float, float] | None:
        try:
            fields = self._stat.read_text().split(None, 9)[1:9]
            busy_s = sum(int(fields[place]) for place in _BUSY) * _TICK_S
        except (OSError, ValueError, IndexError):
            return None
        self._looks.append((time.monotonic(), busy_s, time.process_time()))
        return self._looks[-1]

    def _follow_threads(self) -> None:
        """Opens the counts of threads that are new, and drops those of threads that are gone."""
        try:
            alive = {task.name for task in self._tasks.iterdir()}
        except OSError:
            alive = set()
        for gone in self._delays.keys() - alive:
            os.close(self._delays.pop(gone))
        for new in alive - self._delays.keys():
            with contextlib.suppress(OSError):
                self._delays[new] = os.open(self._tasks / new / "schedstat", os.O_RDONLY)

    def _told(self) -> bool:
        """Whether the kernel counts it: if not, it reports zeros, also for the time that a thread has run."""
        try:
            ran_ns, _ = (self._tasks.parent / "schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            return False
        return ran_ns != "0"

    def _beats(self) -> bool:
        if self._heartbeat is None:
            return False
        if (status := self._heartbeat.poll()) is not None:
            self._why_no_heartbeat = f"its process ended with status {status}"
            return False
        return True

    def _pressure_now(self) -> tuple[float, float] | None:
        """The present instant and the seconds in which some task waited, since the machine's start."""
        try:
            total_us = int(self._pressure_file.read_text().splitlines()[0].rpartition("total=")[2])
        except (OSError, ValueError, IndexError):
            return None
        return time.monotonic(), total_us * 1e-6


def _processors(stat: Path) -> int:
    try:
        return sum(line.startswith("cpu") and line[3].isdigit() for line in stat.read_text().splitlines())
    except OSError:
        return 0
