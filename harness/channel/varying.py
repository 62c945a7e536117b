"""Links whose capacity varies: spans of constant rate, or chances to send whole packets."""

import dataclasses
import math
from typing import Self

import numpy as np

from harness.channel import capacity
from harness.channel.capacity import Floats, Ints


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A link of S spans of constant rate that begins ``offset_s`` into them.

    ``at_s`` (S + 1,) are the edges, from 0; ``rate_bps`` (S,) the rates, 0 in an outage. Looped, the spans repeat for
    ever; else nothing is carried after the last.
    """

    at_s: Floats
    rate_bps: Floats
    loop: bool
    offset_s: float = 0.0
    sum_bits: Floats = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        sums = np.concatenate([[0.0], np.cumsum(self.rate_bps * np.diff(self.at_s))])
        object.__setattr__(self, "sum_bits", sums)

    @property
    def period_s(self) -> float:
        """When the last span ends."""
        return float(self.at_s[-1])

    @property
    def arrays(self) -> tuple[Floats, Floats, Floats, bool]:
        """What the compiled functions take."""
        return self.at_s, self.rate_bps, self.sum_bits, self.loop

    def from_offset(self, offset_s: float) -> Self:
        """The same link, begun elsewhere; the arrays are shared."""
        shifted = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(shifted, field.name, getattr(self, field.name))
        object.__setattr__(shifted, "offset_s", offset_s)
        return shifted

    def finish(self, start_s: float, n_bytes: float) -> float:
        """When the last of ``n_bytes`` leaves; infinity if never."""
        return capacity.pieces_finish(start_s + self.offset_s, 8.0 * n_bytes, *self.arrays) - self.offset_s

    def bits(self, start_s: float, end_s: float) -> float:
        """The capacity between two instants."""
        by_end = capacity.pieces_carried(end_s + self.offset_s, *self.arrays)
        return by_end - capacity.pieces_carried(start_s + self.offset_s, *self.arrays)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Packets:
    """A link of K chances, each to send ``packet_bytes`` at once, that begins ``offset_s`` into them.

    ``at_ms`` (K,) are whole milliseconds, non-decreasing; looped, they repeat after the last of them, or after 1 ms. A
    chance that finds nothing to send is lost, as in Mahimahi; what a transfer leaves of a chance is used by the next
    one that waits.
    """

    at_ms: Ints
    packet_bytes: float
    loop: bool
    offset_s: float = 0.0
    at_ns: Ints = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_ns", np.asarray(self.at_ms, np.int64) * 1_000_000)

    @property
    def period_s(self) -> float:
        """When the last chance comes; 1 ms at least."""
        return max(1, int(self.at_ms[-1])) / 1000

    @property
    def arrays(self) -> tuple[Ints, int, int, float, bool]:
        """What the compiled functions take."""
        return (
            self.at_ns,
            max(1, int(self.at_ms[-1])) * 1_000_000,
            round(self.offset_s * 1e9),
            8.0 * self.packet_bytes,
            self.loop,
        )

    def from_offset(self, offset_s: float) -> Self:
        """The same link, begun elsewhere."""
        return dataclasses.replace(self, offset_s=offset_s)

    def finish(self, start_s: float, n_bytes: float) -> float:
        """When the chance comes that carries the last of ``n_bytes``; infinity if never."""
        return capacity.packets_finish(start_s, 8.0 * math.ceil(n_bytes), *self.arrays)

    def bits(self, start_s: float, end_s: float) -> float:
        """The chances after ``start_s`` and up to ``end_s``, in bits."""
        return capacity.packets_carried(end_s, *self.arrays) - capacity.packets_carried(start_s, *self.arrays)
