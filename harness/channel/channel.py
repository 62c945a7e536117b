"""A channel: a capacity over time, and how one is opened from an uplink as a scenario declares it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Union

import numpy as np

from harness import files
from harness.errors import HarnessError, TraceError
from harness.scenario.replay import (
    ConstantUplink,
    GilbertElliottUplink,
    MarkovUplink,
    RecordedArrivals,
    Replay,
    TraceUplink,
    Uplink,
)

if TYPE_CHECKING:
    from harness.channel.varying import Packets, Pieces


class Channel(Protocol):
    """The capacity of a link over time, in bits; what is sent over it is :class:`harness.channel.link.Link`'s concern.

    Both methods are exact: they invert or evaluate the cumulative capacity, and never step through time.
    """

    def finish(self, start_s: float, n_bytes: float) -> float:
        """When the last of ``n_bytes`` leaves if the first is ready at ``start_s``; infinity if it never does."""
        ...

    def bits(self, start_s: float, end_s: float) -> float:
        """How many bits the link can carry after ``start_s`` and up to ``end_s``."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A link that carries ``rate_bps`` bit/s at all times."""

    rate_bps: float

    def __post_init__(self) -> None:
        if not (self.rate_bps > 0 and math.isfinite(self.rate_bps)):
            raise ValueError(f"a constant link needs a finite rate above 0 bit/s, not {self.rate_bps}")

    def finish(self, start_s: float, n_bytes: float) -> float:
        """Start + 8 n / rate."""
        return start_s + 8 * n_bytes / self.rate_bps

    def bits(self, start_s: float, end_s: float) -> float:
        """Rate x (end - start)."""
        return self.rate_bps * (end_s - start_s)


def open_channel(uplink: Uplink, seed: np.random.SeedSequence, scale: float = 1.0) -> Channel:
    """The channel that ``uplink`` describes; ``seed`` decides where a trace starts and how a chain continues.

    Its rate at every instant is ``scale`` times the uplink's. Raises TraceError for a file that is not what it should
    be.
    """
    if isinstance(uplink, ConstantUplink):
        return Constant(scale * uplink.rate_bps)
    # Varying links are compiled code; a link of constant rate does not wait for the compilation.
    from harness.channel.markov import Chain, Markov

    if isinstance(uplink, TraceUplink):
        link = _scaled(_recorded(uplink.file, _stamp(uplink.file), uplink), scale)
        return link.from_offset(np.random.default_rng(seed).random() * link.period_s) if uplink.random_start else link
    if isinstance(uplink, MarkovUplink):
        chain = Chain.load(uplink.file)
    else:
        assert isinstance(uplink, GilbertElliottUplink)
        chain = Chain.gilbert_elliott(uplink.good_bps, uplink.bad_bps, uplink.good_for_s, uplink.bad_for_s)
    if scale != 1:
        chain = chain.model_copy(update={"rate_bps": tuple(scale * rate for rate in chain.rate_bps)})
    return Markov(chain, seed)


def open_shared(
    uplink: Uplink, sharing: Literal["own", "fifo", "processor"], seed: np.random.SeedSequence, scale: float = 1.0
) -> Channel:
    """As :func:`open_channel`, for a link that its users share so.

    Raises TraceError also for a recording of whole packets that would have to be divided.
    """
    channel = open_channel(uplink, seed, scale)
    if isinstance(uplink, TraceUplink) and (sharing == "processor" or uplink.wire.burst_bytes):
        from harness.channel.varying import Packets

        if isinstance(channel, Packets):
            raise TraceError(
                f"{uplink.file}: carries whole packets, which neither sharing: processor nor a burst divides; "
                "import it as rates with 'harness trace import --bin 100ms'"
            )
    return channel


def mean_bps(uplink: Uplink) -> float | None:
    """The rate of an uplink over a long time, in bit/s; None for a trace that stops, which has none.

    Raises TraceError for a file that is not what it should be.
    """
    if isinstance(uplink, ConstantUplink):
        return uplink.rate_bps
    from harness.channel.markov import Chain

    if isinstance(uplink, TraceUplink):
        link = _recorded(uplink.file, _stamp(uplink.file), uplink)
        return link.bits(0.0, link.period_s) / link.period_s if link.loop else None
    if isinstance(uplink, MarkovUplink):
        return Chain.load(uplink.file).mean_bps()
    assert isinstance(uplink, GilbertElliottUplink)
    return Chain.gilbert_elliott(uplink.good_bps, uplink.bad_bps, uplink.good_for_s, uplink.bad_for_s).mean_bps()


def unreadable_files(spec: Replay) -> list[str]:
    """The sentences on the files that a replay section names and that cannot be replayed; every file is opened."""
    found = [_refused(open_shared, uplink, spec.sharing, np.random.SeedSequence(0)) for uplink in spec.uplinks]
    if isinstance(spec.arrivals, RecordedArrivals):
        from harness.scenario.arrivals import instants

        # Each number of users is checked, because a file may name a user beyond the smaller ones.
        found += [_refused(instants, spec.arrivals, users) for users in spec.users]
    return list(dict.fromkeys(filter(None, found)))


def unrecorded(spec: Replay) -> list[str]:
    """A sentence on each recorded link of a replay section with gaps: for how long, and what is replayed there.

    Raises TraceError for a file that is not what it should be.
    """
    from harness.channel import recording

    found = []
    for uplink in spec.uplinks:
        if not isinstance(uplink, TraceUplink):
            continue
        link = recording.load(uplink.file)
        if isinstance(link, recording.RateRecording) and link.gaps_s:
            instead = "as outages" if uplink.gaps == "outage" else "at the rate before them, if there is one"
            gaps, whole = (f"{t_s:,.{0 if link.gaps_s >= 1 else 3}f}" for t_s in (link.gaps_s, link.duration_s))
            found.append(
                f"{gaps} of the {whole} s of the link {uplink.label} were not recorded and are replayed {instead}; "
                "'harness trace import --split' writes the parts between gaps"
            )
    return found


def _refused(open_: Callable[..., object], *arguments: object) -> str:
    try:
        open_(*arguments)
    except HarnessError as error:
        return str(error)
    return ""


def _scaled(link: Union["Pieces", "Packets"], scale: float) -> Union["Pieces", "Packets"]:
    """A recording with its rate, or the size of its chances, multiplied."""
    if scale == 1:
        return link
    from harness.channel.varying import Pieces

    if isinstance(link, Pieces):
        return dataclasses.replace(link, rate_bps=scale * link.rate_bps)
    return dataclasses.replace(link, packet_bytes=scale * link.packet_bytes)


def _stamp(path: Path) -> files.Stamp | None:
    try:
        return files.stamp(path)
    except OSError:
        return None  # Reading reports what is wrong with it.


@functools.lru_cache(maxsize=4)
def _recorded(path: Path, facts: files.Stamp | None, uplink: TraceUplink) -> Union["Pieces", "Packets"]:  # noqa: ARG001
    """A recording, read once for all the users of a sweep's cells."""
    from harness.channel import recording

    return recording.load(path).channel(loop=uplink.at_end == "loop", gaps=uplink.gaps)
