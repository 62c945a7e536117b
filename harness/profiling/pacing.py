"""Requests timed at the study's arrival times, with the machine idle in between, instead of back to back.

An idle processor lowers its clocks, and others use its caches: work after an idle gap takes longer. One user's requests
are made in real time: each begins when the study's arrivals say so (in a closed loop, ``think`` after the last one's
answer), and between the halves the machine idles for as long as the payload takes over the study's first uplink. A
server that answers several users idles less than that.
"""

import math
import time
from collections.abc import Callable

import numpy as np

from harness.channel.channel import open_channel
from harness.channel.link import Link
from harness.replay.workload import arrivals_of
from harness.scenario.replay import ClosedLoop, Replay

_ARRIVALS = 1000
"""After this many, arrivals repeat."""
_LONGEST_S = 60.0
"""The longest wait for a link that carries nothing."""


class Pacing:
    """When the requests of one user begin; ``now_s`` and ``sleep`` are the clock's."""

    def __init__(
        self,
        spec: Replay,
        seed: int,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spec, self._seed = spec, seed
        self._now_s, self._sleep = now_s, sleep
        self._gaps_s = np.diff(arrivals_of(spec, _ARRIVALS, seed), prepend=0.0)
        self._next = 0
        self._last_s = -math.inf

    def wait(self) -> None:
        """Waits until the next request is due; one that is overdue starts at once."""
        arrivals = self._spec.arrivals
        if isinstance(arrivals, ClosedLoop):
            self._sleep(arrivals.think_s)
            return
        gap_s = float(self._gaps_s[self._next % len(self._gaps_s)])
        self._next += 1
        self._sleep(min(max(0.0, self._last_s + gap_s - self._now_s()), _LONGEST_S))
        self._last_s = self._now_s()

    def cross(self, n_bytes: int) -> None:
        """Waits for as long as a payload takes on the link."""
        uplink = self._spec.uplinks[0]
        channel = open_channel(uplink, np.random.SeedSequence(self._seed))
        self._sleep(min(Link(channel, uplink.wire).send(0.0, n_bytes) + uplink.wire.propagation_s, _LONGEST_S))
