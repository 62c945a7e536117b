"""How much work a replayed system receives, of what it can do: the utilisation of each place where requests queue.

These are each user's device, the uplink and the servers. A handshake, propagation and the answer's way back are delays
that no request waits behind. With lambda requests a second at a place,

    rho_device = lambda E[T_device]    rho_uplink = lambda E[C_busy] / C    rho_servers = lambda E[T_batch] / (c B)

where C is the link's mean rate, C_busy the bits that it could have carried while a payload kept it (those on the wire,
and those of the time in which a sender waits for acknowledgements), and T_batch how long B requests keep one of c
servers; without batches B is 1. C_busy and T_batch are those of a place that has fallen behind: payloads follow each
other, and batches are full. Below 1 a queue becomes empty again and again; at 1 and above it grows as long as requests
arrive (Baccelli and Foss, On the saturation rule for the stability of queues, Journal of Applied Probability 32, 1995).

With a timeout no queue grows without end. A request that is given up leaves its queue and stops its device or its
transfer, and a server that has begun finishes it: what waits are requests of the last ``timeout`` seconds.
"""

import math
from collections.abc import Sequence

import numpy as np

from harness.analysis import percentiles
from harness.channel.channel import Constant, mean_bps, open_channel
from harness.channel.link import Link, in_rounds, wire_bytes
from harness.replay.cell import Cell
from harness.replay.profile import Profile
from harness.replay.workload import RandomStream, stream
from harness.scenario.replay import Batching, ConstantUplink, Periodic, Poisson, Replay

_BACK_TO_BACK = 2048
"""How many payloads are sent one after the other over a link that varies, to see how long senders wait."""


def utilisations(profile: Profile, cell: Cell) -> dict[str, float]:
    """The load rho of a ``device``, of the ``uplink`` and of the ``servers``, in the order in which requests pass them.

    Each is of all the work that is asked for: what a busy place before it holds back, or a timeout spares it, counts.
    Users of a closed loop wait for their answers, and recordings of arrivals end: they have none. A link whose rate is
    not known, as of one that stops, has none either.
    """
    spec, uplink = cell.spec, cell.uplink
    match spec.arrivals:
        case Poisson(rate_hz=rate_hz):
            each_hz = rate_hz
        case Periodic(every_s=every_s):
            each_hz = 1 / every_s
        case _:
            return {}
    loads = {"device": percentiles.utilisation(each_hz, float(profile.device_s.mean()), 1)}
    # A finished run's links in a file are not opened again.
    if uplink is not None and (rate_bps := mean_bps(uplink)) is not None:
        senders = 1 if spec.sharing == "own" else cell.users
        loads["uplink"] = percentiles.utilisation(senders * each_hz, _link_bits(profile, cell) / rate_bps, 1)
    server_s = server_seconds(profile, spec.batching)
    loads["servers"] = percentiles.utilisation(cell.users * each_hz, server_s, spec.servers)
    return loads


def instability(profile: Profile, cell: Cell) -> str:
    """``unstable: utilisation 1.3 of the servers`` where a queue grows without end, else empty.

    The first place on a request's way that is too slow is named: later ones receive only what it lets through. Where
    :func:`utilisations` has nothing, nothing is judged; with a timeout no queue grows without end.
    """
    if cell.spec.timeout_s is not None:
        return ""
    loads = utilisations(profile, cell)
    return next((reason for where, rho in loads.items() if (reason := percentiles.unstable(rho, where))), "")


def unstable_cells(profiles: Sequence[Profile], spec: Replay) -> dict[tuple[str, int, str, str], str]:
    """:func:`instability` of each uplink's label, number of users, pipeline and point that has one in a system."""
    found = {}
    for uplink in spec.uplinks:
        for users in spec.users:
            for profile in profiles:
                if reason := instability(profile, Cell(spec=spec, uplink=uplink, users=users, seed=0)):
                    found[uplink.label, users, profile.pipeline, profile.point] = reason
    return found


def server_seconds(profile: Profile, batching: Batching | None) -> float:
    """The mean time for which a request keeps a server, in seconds, zero for one that the device answers.

    In a full batch of B requests, drawn independently, a stage that runs once for all takes the expected longest time,
    sum_i x_(i) ((i / n)^B - ((i - 1) / n)^B) of n ordered times, and ``marginal`` of the rest; each keeps the server
    for one B-th of it.
    """
    sent = ~profile.stays
    if batching is None or not sent.any():
        return float(profile.server_s.mean())
    stage_s, size = profile.server_stage_s[sent], batching.max_batch
    mean_s = stage_s.mean(axis=0)
    longest_s = np.diff(np.linspace(0, 1, len(stage_s) + 1) ** size) @ np.sort(stage_s, axis=0) / size
    at_once_s = longest_s + batching.marginal * (mean_s - longest_s)
    together = np.isin(profile.server_stages, batching.together)
    return float(sent.mean() * np.where(together, at_once_s, mean_s).sum())


def _link_bits(profile: Profile, cell: Cell) -> float:
    """C_busy, the mean over the profile's requests, for a link that is not scaled: bits that it could carry meanwhile.

    A token bucket, and dividing the link, change when bytes leave, and not how many leave in a long time.
    """
    uplink = cell.uplink
    if not in_rounds(uplink.wire):
        return 8 * float(wire_bytes(uplink.wire, profile.payload_bytes).mean()) / cell.scale
    if isinstance(uplink, ConstantUplink):
        channel = Constant(cell.scale * uplink.rate_bps)
        sizes, of_request = np.unique(profile.payload_bytes, return_inverse=True)
        busy_s = np.array([Link(channel, uplink.wire).send(0.0, n) for n in sizes.tolist()])
        return uplink.rate_bps * float(busy_s[of_request].mean())
    varying = open_channel(uplink, stream(cell.seed, RandomStream.CHANNEL, 0), cell.scale)
    drawn = profile.draw(_BACK_TO_BACK, np.random.default_rng(stream(cell.seed, RandomStream.DRAWS, 0)))
    link, end_s = Link(varying, uplink.wire), 0.0
    for n in profile.payload_bytes[drawn].tolist():
        end_s = link.send(end_s, n)
        if math.isinf(end_s):
            return math.inf
    return varying.bits(0.0, end_s) / cell.scale / _BACK_TO_BACK
