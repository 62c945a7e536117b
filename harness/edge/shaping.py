"""Shapes the sending like a channel of the replay, so that a laboratory network can emulate an uplink, without root.

Bytes are passed to the kernel when the channel would have carried the last of them. Only the sending is shaped: what
the real network adds comes on top, and the answer's way back is the real network's.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness import units
from harness.channel.channel import Channel, open_channel
from harness.errors import TraceError
from harness.runs.digests import of_file
from harness.scenario.replay import ConstantUplink, TraceUplink

_SEGMENT_BYTES = 1448
"""The amount passed to the kernel at a time: the payload of an Ethernet frame."""
_SPIN_S = 2e-4
"""A sleep ends late by about this much; the rest is waited in short sleeps."""


class Shaper:
    """Sends as a channel would, whose time begins with the shaper; a recorded link begins at its start, and repeats.

    ``identity`` says which channel it is: its rate, or the digest of its recording.
    """

    def __init__(self, channel: Channel, identity: str) -> None:
        self.identity = identity
        self._channel = channel
        self._zero_s = time.perf_counter()

    @classmethod
    def of(cls, text: str) -> "Shaper":
        """The shaper of a rate (``25 KB/s``) or a recorded link's file; raises TraceError for anything else."""
        uplink: ConstantUplink | TraceUplink
        try:
            uplink = ConstantUplink.model_validate({"kind": "constant", "rate": text})
        except ValueError:
            if not Path(text).exists():
                raise TraceError(
                    f"{text}: is neither a rate with one of the units {units.KNOWN_RATES} (such as 25 KB/s) nor a "
                    "recorded link's file"
                ) from None
            uplink = TraceUplink(kind="trace", path=text, start="beginning")
        channel = open_channel(uplink, np.random.SeedSequence(0))
        if isinstance(uplink, ConstantUplink):
            return cls(channel, f"{uplink.rate_bps:.15g} bit/s")
        return cls(channel, of_file(uplink.file))

    def now_s(self) -> float:
        """The channel's time."""
        return time.perf_counter() - self._zero_s

    def seconds(self, begun_s: float, n_bytes: int) -> float:
        """How long the channel is busy with some bytes that are ready at an instant of its time."""
        return self._channel.finish(begun_s, n_bytes) - begun_s

    def send(self, data: bytes, before_bytes: int) -> Iterator[bytes]:
        """The bytes, each part when it has left the channel; ``before_bytes`` were sent just before and count too."""
        begun_s = self.now_s()
        for start in range(0, len(data), _SEGMENT_BYTES):
            part = data[start : start + _SEGMENT_BYTES]
            self._wait(self._channel.finish(begun_s, before_bytes + start + len(part)))
            yield part

    def _wait(self, until_s: float) -> None:
        while (left_s := until_s - self.now_s()) > 0:
            # There are no endless waits: a link that never carries the rest runs into the time limit.
            time.sleep(min(max(left_s - _SPIN_S, _SPIN_S / 4), 1.0))
