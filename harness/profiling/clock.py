"""Times stages, with the accelerator idle on both edges of each.

Work on an accelerator is queued: a clock that does not wait for it measures the queueing. Public code that did not wait
was off by a factor of two to five.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from harness.models.contract import OneAtATime


class Delays(Protocol):
    """A source of how long this process was kept from running; see :class:`harness.profiling.disturbance.Watch`."""

    def delays_ns(self) -> Mapping[str, int]:
        """How long each thread has waited for a processor; to be compared with an earlier reading."""
        ...

    def stood_still_ns(self, begin_ns: int, end_ns: int) -> int:
        """For how much of an interval of the monotonic clock the machine or the process stood still."""
        ...


class StageClock(OneAtATime):
    """Collects how long each stage of one half took, in the order in which they began.

    ``seconds`` is wall time, ``cpu_s`` the processor time of all of the process's threads. ``synchronise`` waits until
    the accelerator is idle; on a CPU there is nothing to wait for. ``delays`` reports, outside of the timed stages, how
    long each stage was kept from running. A stage that is entered twice in one request counts once, with its times
    added.
    """

    def __init__(self, synchronise: Callable[[], None] | None = None, delays: Delays | None = None) -> None:
        self._synchronise = synchronise or (lambda: None)
        self._delays = delays
        self._stretches: list[tuple[str, int, int, int]] = []
        self._told_s: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times its body; a stage whose body raises records no time. Raises as :meth:`entered`."""
        with self.entered(name):
            yield from self._timed(name)

    def _timed(self, name: str) -> Iterator[None]:
        self._synchronise()
        before_ns = self._delays.delays_ns() if self._delays else {}
        cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
        yield
        self._synchronise()
        end_ns, cpu_end_ns = time.perf_counter_ns(), time.process_time_ns()
        self.seconds[name] = self.seconds.get(name, 0.0) + (end_ns - start_ns) * 1e-9
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + (cpu_end_ns - cpu_ns) * 1e-9
        if self._delays:
            waits_ns = (now_ns - before_ns.get(thread, now_ns) for thread, now_ns in self._delays.delays_ns().items())
            self._stretches.append((name, start_ns, end_ns, max(waits_ns, default=0)))

    def adopt(
        self, seconds: Mapping[str, float], cpu_s: Mapping[str, float], waited_s: Mapping[str, float] | None
    ) -> None:
        """Adds the stages that another machine's clock timed; ``waited_s`` is null if it does not report it."""
        self.seconds |= seconds
        self.cpu_s |= cpu_s
        self._told_s |= waited_s or {}

    def waited_s(self) -> dict[str, float]:
        """How long each stage was kept from running, as far as it is known; to be called after the request.

        Waiting for a processor and standing still may be the same time: the longer of the two counts.
        """
        found = dict(self._told_s)
        if self._delays:
            for name, start_ns, end_ns, delay_ns in self._stretches:
                lost_ns = max(delay_ns, self._delays.stood_still_ns(start_ns, end_ns))
                found[name] = found.get(name, 0.0) + min(lost_ns, end_ns - start_ns) * 1e-9
        return found


def synchroniser(device: str) -> Callable[[], None] | None:
    """A function that waits for ``device`` (a torch device's name) to finish; None if calls are synchronous."""
    if not device.startswith("cuda"):
        return None
    import torch

    return lambda: torch.cuda.synchronize(device)
