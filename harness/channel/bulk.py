"""Many transfers over one link in one compiled call, with the same instants as one at a time."""

import numpy as np

from harness.channel import capacity
from harness.channel.capacity import Floats, Ints
from harness.channel.channel import Channel, Constant
from harness.channel.link import Link, in_rounds, wire_bytes
from harness.channel.markov import Markov
from harness.channel.varying import Packets, Pieces
from harness.scenario.replay import Wire


def fifo(channel: Channel, wire: Wire, ready_s: Floats, n_bytes: Ints) -> Floats:
    """When each of the payloads, ready in this order, has left a link that serves them in turn (:class:`Link`)."""
    if in_rounds(wire):
        link = Link(channel, wire)
        return np.array([link.send(ready, n) for ready, n in zip(ready_s.tolist(), n_bytes.tolist(), strict=True)])
    on_wire = wire_bytes(wire, n_bytes)
    if isinstance(channel, Packets):
        return np.asarray(capacity.packets_fifo(ready_s, on_wire, *channel.arrays))
    pieces = _as_pieces(channel, ready_s, on_wire)
    left_s = capacity.pieces_fifo(ready_s + pieces.offset_s, on_wire, float(wire.burst_bytes), *pieces.arrays)
    return np.asarray(left_s) - pieces.offset_s


def shared(channel: Channel, wire: Wire, ready_s: Floats, n_bytes: Ints) -> Floats:
    """When each of the payloads, ready in this order, has left a link that all share (:class:`ProcessorSharing`)."""
    on_wire = wire_bytes(wire, n_bytes)
    pieces = _as_pieces(channel, ready_s, on_wire)
    return np.asarray(capacity.pieces_shared(ready_s + pieces.offset_s, on_wire, *pieces.arrays)) - pieces.offset_s


def _as_pieces(channel: Channel, ready_s: Floats, on_wire: Ints) -> Pieces:
    if isinstance(channel, Markov):
        return channel.covering(float(ready_s[-1]) if len(ready_s) else 0.0, float(on_wire.sum()))
    if isinstance(channel, Constant):
        return Pieces(np.array([0.0, np.inf]), np.array([channel.rate_bps]), loop=False)
    assert isinstance(channel, Pieces)
    return channel
