"""Places in the SimPy system where requests wait for their turn.

At one instant many requests can become ready. A station therefore picks the next one at the end of the instant, by
(ready, user, number), with stations further down the road picking last: who goes first never depends on the order in
which SimPy happened to process simultaneous events.
"""

import heapq
from collections.abc import Callable
from typing import Any

import simpy

DEVICE, UPLINK, SERVER = 2, 3, 4
"""Ranks: SimPy's own events have the priorities 0 and 1, and are all processed before a station picks."""


class Calendar(simpy.Environment):
    """A SimPy environment in which an event can be put at an exact instant.

    SimPy schedules by delays, and ``now + (instant - now)`` is not always ``instant`` in floating point. With exact
    instants, two requests that are ready together are so in every engine.
    """

    def at(self, instant_s: float, value: Any = None, priority: int = simpy.events.NORMAL) -> simpy.Event:
        """An event that happens at ``instant_s``."""
        return self.put(simpy.Event(self), instant_s, value, priority)

    def put(
        self, event: simpy.Event, instant_s: float, value: Any = None, priority: int = simpy.events.NORMAL
    ) -> simpy.Event:
        """Let ``event`` happen at ``instant_s``, with ``value``."""
        event._ok, event._value = True, value
        entry: Any = (max(instant_s, self._now), priority, next(self._eid), event)
        heapq.heappush(self._queue, entry)
        return event


class Job(simpy.Event):
    """A request at a station; the event happens when it has been served."""

    def __init__(self, env: Calendar, index: int, work: Any) -> None:
        super().__init__(env)
        self.ready_s = env.now
        self.index = index
        self.work = work
        self.started = False
        self.gave_up = False

    def __lt__(self, other: "Job") -> bool:
        return (self.ready_s, self.index) < (other.ready_s, other.index)


class Station:
    """``capacity`` places and one queue; ``finish(job)`` is when a job that starts now is done, infinity if never."""

    def __init__(self, env: Calendar, capacity: int, rank: int, finish: Callable[[Job], float]) -> None:
        self.env = env
        self.rank = rank
        self.finish = finish
        self.waiting: list[Job] = []
        self._free = capacity
        self._picking = False

    def serve(self, index: int, work: Any) -> Job:
        """The event that request ``index`` has been served."""
        job = Job(self.env, index, work)
        heapq.heappush(self.waiting, job)
        if self._free:
            self._pick_later()
        return job

    def leave(self, job: Job) -> None:
        """Take a job that is not wanted any more out of the queue; one that has started is finished all the same."""
        job.gave_up = True

    def _pick_later(self) -> None:
        if not self._picking:
            self._picking = True
            self.env.at(self.env.now, priority=self.rank).callbacks.append(self._pick)

    def _pick(self, _: simpy.Event) -> None:
        self._picking = False
        while self._free and self.waiting:
            job = heapq.heappop(self.waiting)
            if not job.gave_up:
                self._free -= 1
                self._start(job)

    def _start(self, job: Job) -> None:
        job.started = True
        job.callbacks.insert(0, self._done)
        if (at_s := self.finish(job)) < float("inf"):
            self.env.put(job, at_s)

    def _done(self, job: simpy.Event) -> None:
        self._free += 1
        if self.waiting:
            self._pick_later()


class Abortable(Station):
    """A station whose current job stops at once when it is given up, as a device or a sender does."""

    def __init__(
        self,
        env: Calendar,
        rank: int,
        finish: Callable[[Job], float],
        stop: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__(env, 1, rank, finish)
        self._stop = stop

    def leave(self, job: Job) -> None:
        """Take a job out of the queue, or stop it."""
        if job.started and not job.gave_up:
            self._stop(self.env.now)
            super()._done(job)
        job.gave_up = True

    def _done(self, job: simpy.Event) -> None:
        if not (isinstance(job, Job) and job.gave_up):
            super()._done(job)
