"""Places in the SimPy system where requests wait for their turn.

At one instant many requests can become ready. A station therefore picks the next one at the end of the instant, by
(ready, user, number), with stations further down the road picking last: who goes first never depends on the order in
which SimPy happened to process simultaneous events.
"""

import heapq
import math
from collections.abc import Callable
from typing import Any, cast

import simpy

from harness.channel.link import ProcessorSharing

DEVICE, UPLINK, SERVER = 2, 3, 4
"""Ranks: SimPy's own events have the priorities 0 and 1, and are all processed before a station picks."""


class Calendar(simpy.Environment):
    """A SimPy environment in which an event can be put at an exact instant.

    SimPy schedules by delays, and ``now + (instant - now)`` is not always ``instant`` in floating point. With exact
    instants, two requests that are ready together are so in every simulator.
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
    """A request at a station; the event happens when it has been served.

    ``begun_s`` is when the station began to serve it, NaN where it has not; a shared link has no such instant.
    """

    def __init__(self, env: Calendar, index: int, work: Any) -> None:
        super().__init__(env)
        self.ready_s = env.now
        self.index = index
        self.work = work
        self.begun_s = math.nan
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
        """Remove a cancelled job from the queue; one that has started is finished all the same."""
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
        job.begun_s = self.env.now
        job.callbacks.insert(0, self._done)
        if (at_s := self.finish(job)) < float("inf"):
            self.env.put(job, at_s)

    def _done(self, _: simpy.Event) -> None:
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
        if not math.isnan(job.begun_s) and not job.gave_up:
            self._stop(self.env.now)
            super()._done(job)
        job.gave_up = True

    def _done(self, job: simpy.Event) -> None:
        if not (isinstance(job, Job) and job.gave_up):
            super()._done(job)


class Batches(Station):
    """Servers that each take up to ``max_batch`` jobs at once; a batch that is not full waits for ``window_s``.

    ``finish`` is called for the whole batch.
    """

    def __init__(
        self, env: Calendar, capacity: int, max_batch: int, window_s: float, finish: Callable[[list[Job]], float]
    ) -> None:
        super().__init__(env, capacity, SERVER, lambda job: finish([job]))
        self._max_batch = max_batch
        self._window_s = window_s
        self._finish_batch = finish

    def _pick(self, _: simpy.Event) -> None:
        self._picking = False
        self.waiting = sorted(job for job in self.waiting if not job.gave_up)
        while self._free and self.waiting:
            closes_s = self.waiting[0].ready_s + self._window_s
            if len(self.waiting) < self._max_batch and self.env.now < closes_s:
                self.env.at(closes_s, priority=self.rank).callbacks.append(self._pick)
                return
            batch, self.waiting = self.waiting[: self._max_batch], self.waiting[self._max_batch :]
            self._free -= 1
            batch[0].callbacks.insert(0, self._done)
            at_s = self._finish_batch(batch)
            for job in batch:
                job.begun_s = self.env.now
                self.env.put(job, at_s)


class SharedUplink:
    """A link that serves all present jobs at equal shares of its rate."""

    def __init__(self, env: Calendar, sharing: ProcessorSharing, on_wire: Callable[[int], int]) -> None:
        self.env = env
        self._sharing = sharing
        self._on_wire = on_wire
        self._jobs: dict[int, Job] = {}
        self._version = 0

    def serve(self, index: int, work: Any) -> Job:
        """The event that request ``index`` has left."""
        job = self._jobs[index] = Job(self.env, index, work)
        self._sharing.join(self.env.now, index, self._on_wire(work))
        self._await_departure()
        return job

    def leave(self, job: Job) -> None:
        """Give up a transfer; the others share what it leaves."""
        if self._jobs.pop(job.index, None) is not None:
            self._sharing.give_up(self.env.now, job.index)
            self._await_departure()

    def _await_departure(self) -> None:
        self._version += 1
        if (departure := self._sharing.next_departure()) is not None:
            at_s, index = departure
            self.env.at(at_s, (self._version, index)).callbacks.append(self._depart)

    def _depart(self, event: simpy.Event) -> None:
        version, index = cast("tuple[int, int]", event.value)
        if version == self._version:
            self._sharing.depart(self.env.now)
            self.env.put(self._jobs.pop(index), self.env.now)
            self._await_departure()
