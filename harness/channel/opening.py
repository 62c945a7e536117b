"""From an uplink as a scenario declares it to a channel that a transfer can be computed on."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from harness.channel.constant import Constant
from harness.channel.contract import Channel
from harness.scenario.replay import ConstantUplink, GilbertElliottUplink, MarkovUplink, TraceUplink, Uplink

if TYPE_CHECKING:
    from harness.channel.varying import Packets, Pieces


def open_channel(uplink: Uplink, seed: np.random.SeedSequence) -> Channel:
    """The channel that ``uplink`` describes; ``seed`` decides where a trace begins and how a chain goes on.

    Raises TraceError for a file that is not what it should be.
    """
    if isinstance(uplink, ConstantUplink):
        return Constant(uplink.rate_bps)
    # Links that vary are compiled code; a link of constant rate does not wait for it.
    from harness.channel.markov import Chain, Markov

    if isinstance(uplink, TraceUplink):
        link = _recorded(uplink.file, uplink.file.stat().st_mtime_ns if uplink.file.exists() else 0, uplink)
        return link.from_offset(np.random.default_rng(seed).random() * link.period_s) if uplink.random_start else link
    if isinstance(uplink, MarkovUplink):
        return Markov(Chain.load(uplink.file), seed)
    assert isinstance(uplink, GilbertElliottUplink)
    chain = Chain.gilbert_elliott(uplink.good_bps, uplink.bad_bps, uplink.good_for_s, uplink.bad_for_s)
    return Markov(chain, seed)


@functools.lru_cache(maxsize=4)
def _recorded(path: Path, modified_ns: int, uplink: TraceUplink) -> Union["Pieces", "Packets"]:  # noqa: ARG001
    """A recording, read once for all the users of a sweep's cells."""
    from harness.channel import recording

    return recording.load(path).channel(loop=uplink.at_end == "loop", gaps=uplink.gaps)
