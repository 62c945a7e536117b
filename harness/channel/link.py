"""Links: transfers over a channel, one after the other or all present at once.

A first-come-first-served link is a channel, what the wire adds to a payload, and what is still being sent. It remembers
the busy period that it is in: when that began, and how many bytes were sent since. The end of a transfer is then one
call of the channel, ``finish(busy since, bytes since)``. No capacity is used twice and none is lost to rounding, also
where capacity comes in whole packets.
"""

import heapq
import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from harness.channel.channel import Channel
from harness.scenario.replay import Wire

Count = TypeVar("Count", int, npt.NDArray[np.int64])


def wire_bytes(wire: Wire, n_bytes: Count) -> Count:
    """The bytes on the wire for a payload of ``n_bytes``: one header a segment, begun segments included."""
    return n_bytes + wire.header_bytes * -(-n_bytes // wire.segment_bytes)


def in_rounds(wire: Wire) -> bool:
    """Whether a payload leaves in windows, each waiting for an acknowledgement; without a round trip none waits."""
    return wire.slow_start and wire.propagation_s > 0


class Link:
    """The sender's end of a channel, empty at first, its token bucket full."""

    def __init__(self, channel: Channel, wire: Wire | None = None) -> None:
        self.channel = channel
        self.wire = wire or Wire()
        self._since_s = 0.0
        self._sent_bytes = 0
        self._tokens_bytes = float(self.wire.burst_bytes)
        self._free_s = 0.0

    def send(self, ready_s: float, n_bytes: int) -> float:
        """Send a payload that is ready at ``ready_s`` (never before an earlier one); returns when its last byte leaves.

        Propagation is not in it: the link is free again before the bytes arrive.
        """
        if in_rounds(self.wire):
            return self._send_in_rounds(ready_s, n_bytes)
        return self._transmit(ready_s, wire_bytes(self.wire, n_bytes))

    def give_up(self, at_s: float) -> None:
        """Stop the transfer in progress at ``at_s``; what it has sent is wasted."""
        self._since_s, self._sent_bytes, self._tokens_bytes, self._free_s = at_s, 0, 0.0, at_s

    def _transmit(self, ready_s: float, n_bytes: int) -> float:
        if ready_s > self._free_s or not self._sent_bytes:
            self._begin_busy_period(max(ready_s, self._free_s))
        self._sent_bytes += n_bytes
        beyond_bucket = max(0.0, self._sent_bytes - self._tokens_bytes)
        self._free_s = self.channel.finish(self._since_s, beyond_bucket) if beyond_bucket else self._since_s
        return self._free_s

    def _begin_busy_period(self, at_s: float) -> None:
        if self.wire.burst_bytes:
            left = max(0.0, self._tokens_bytes - self._sent_bytes)
            refill = self.channel.bits(self._free_s, at_s) / 8
            self._tokens_bytes = min(float(self.wire.burst_bytes), left + refill)
        self._since_s, self._sent_bytes = at_s, 0

    def _send_in_rounds(self, ready_s: float, n_bytes: int) -> float:
        """A window leaves at a time; the next, twice as long, when the first acknowledgement is back.

        Once a window takes longer to send than that, the sender never waits again and the rest leaves at once.
        """
        wire, begin_s, left = self.wire, ready_s, n_bytes
        window = wire.initial_window * wire.segment_bytes
        while True:
            first_s = self._transmit(begin_s, wire_bytes(wire, min(left, wire.segment_bytes)))
            acknowledged_s = first_s + 2 * wire.propagation_s
            rest = min(left, window) - min(left, wire.segment_bytes)
            end_s = self._transmit(first_s, wire_bytes(wire, rest)) if rest else first_s
            left -= min(left, window)
            if not left or math.isinf(end_s):
                return end_s
            if end_s >= acknowledged_s:
                return self._transmit(end_s, wire_bytes(wire, left))
            begin_s, window = acknowledged_s, 2 * window


class ProcessorSharing:
    """A link that serves all present transfers at once: egalitarian processor sharing, exact at every event.

    Since the link was last idle, every present transfer has received the same number of bytes, ``attained``; one that
    joined at ``a`` with n bytes leaves when that reaches ``a + n``.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._present: list[tuple[float, int]] = []
        self._attained_bytes = 0.0
        self._last_s = 0.0

    def join(self, at_s: float, index: int, n_bytes: int) -> None:
        """A transfer of ``n_bytes`` begins at ``at_s``."""
        self._advance(at_s)
        heapq.heappush(self._present, (self._attained_bytes + n_bytes, index))

    def next_departure(self) -> tuple[float, int] | None:
        """When the next transfer leaves if none joins before, and which; None where none ever does."""
        if not self._present:
            return None
        target_bytes, index = self._present[0]
        missing_bytes = max(0.0, target_bytes - self._attained_bytes) * len(self._present)
        leaves_s = self._channel.finish(self._last_s, missing_bytes)
        return None if math.isinf(leaves_s) else (leaves_s, index)

    def depart(self, at_s: float) -> None:
        """The transfer that :meth:`next_departure` named has left."""
        self._attained_bytes, _ = heapq.heappop(self._present)
        self._last_s = at_s

    def give_up(self, at_s: float, index: int) -> None:
        """Transfer ``index`` is given up at ``at_s``; the others share what it leaves."""
        self._advance(at_s)
        self._present = [entry for entry in self._present if entry[1] != index]
        heapq.heapify(self._present)

    def _advance(self, at_s: float) -> None:
        if self._present:
            self._attained_bytes += self._channel.bits(self._last_s, at_s) / 8.0 / len(self._present)
        else:
            self._attained_bytes = 0.0
        self._last_s = at_s
