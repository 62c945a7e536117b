"""A link that serves all present transfers at once, each at an equal share of the rate."""

import heapq
import math

from harness.channel.contract import Channel


class Sharing:
    """Egalitarian processor sharing over any channel, exact at every arrival and departure.

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
