"""The vectorised path: the same instants as the SimPy system, for systems in which nothing flows back.

Each place is passed once by all requests, in the order in which they are ready there: a recursion over the requests
instead of events. It is compiled, and does the same arithmetic in the same order as the stations of the SimPy system.
"""

import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np

from harness.channel import bulk
from harness.channel.channel import Channel
from harness.channel.link import Link
from harness.kernels import kernel
from harness.replay.profile import Floats, Ints, Profile
from harness.replay.system import Instants
from harness.replay.workload import Workload
from harness.scenario.replay import ClosedLoop, Replay, Wire


def applies(spec: Replay, users: int) -> bool:
    """Whether the path gives this system's instants.

    It does if requests arrive independently of earlier ones, and in a closed loop whose users never meet. It does not
    where requests are given up or served in batches.
    """
    if spec.timeout_s is not None or spec.batching is not None:
        return False
    if isinstance(spec.arrivals, ClosedLoop):
        return users == 1 or (spec.sharing == "own" and users <= spec.servers)
    return True


def run(profile: Profile, load: Workload, spec: Replay, wire: Wire, channels: Sequence[Channel]) -> Instants:
    """The instants of a workload in a system to which the path applies."""
    if load.submitted_s is None:
        return _closed_loop(profile, load, spec, wire, channels)
    device_s, n_bytes = profile.device_s[load.row], profile.payload_bytes[load.row]
    device_begun_s, device_done_s = _devices(load.submitted_s, device_s, load.first)
    ready_s = device_done_s + 2 * wire.propagation_s if wire.handshake else device_done_s
    goes = ~profile.stays[load.row]
    sent_s = device_done_s.copy()
    if spec.sharing == "own":
        for user, channel in enumerate(channels):
            own = load.first[user] + np.flatnonzero(goes[load.first[user] : load.first[user + 1]])
            sent_s[own] = bulk.fifo(channel, wire, ready_s[own], n_bytes[own])
    else:
        order = np.argsort(ready_s, kind="stable")
        order = order[goes[order]]
        send = bulk.fifo if spec.sharing == "fifo" else bulk.shared
        sent_s[order] = send(channels[0], wire, ready_s[order], n_bytes[order])
    sent_s[np.isinf(sent_s)] = np.nan
    delivered_s = sent_s + wire.propagation_s * goes if wire.propagation_s else sent_s
    order = np.argsort(delivered_s, kind="stable")
    order = order[goes[order]]
    server_begun_s, server_done_s = delivered_s.copy(), delivered_s.copy()
    begun_s, done_s = _servers(delivered_s[order], profile.server_s[load.row][order], spec.servers)
    server_begun_s[order], server_done_s[order] = begun_s, done_s
    answered_s = server_done_s + spec.answer.seconds * goes if spec.answer.seconds else server_done_s
    return Instants(
        load.submitted_s,
        device_begun_s,
        device_done_s,
        sent_s,
        delivered_s,
        server_begun_s,
        server_done_s,
        answered_s,
    )


def _closed_loop(profile: Profile, load: Workload, spec: Replay, wire: Wire, channels: Sequence[Channel]) -> Instants:
    """Users that never meet: each request begins when the one before it is answered and thought about."""
    assert isinstance(spec.arrivals, ClosedLoop)
    device_s, server_s = profile.device_s[load.row].tolist(), profile.server_s[load.row].tolist()
    n_bytes, stays = profile.payload_bytes[load.row].tolist(), profile.stays[load.row].tolist()
    handshake_s = 2 * wire.propagation_s if wire.handshake else 0.0
    seen = np.full((len(dataclasses.fields(Instants)), len(load.row)), np.nan)
    for user in range(load.users):
        link, now_s = Link(channels[user], wire), 0.0
        for i in range(load.first[user], load.first[user + 1]):
            device_done_s = now_s + device_s[i]
            if stays[i]:
                seen[:, i] = now_s, now_s, *[device_done_s] * 6
                now_s = device_done_s + spec.arrivals.think_s
                continue
            sent_s = link.send(device_done_s + handshake_s, n_bytes[i])
            if math.isinf(sent_s):
                seen[:3, i] = now_s, now_s, device_done_s
                break
            delivered_s = sent_s + wire.propagation_s
            server_done_s = delivered_s + server_s[i]
            answered_s = server_done_s + spec.answer.seconds
            seen[:, i] = now_s, now_s, device_done_s, sent_s, delivered_s, delivered_s, server_done_s, answered_s
            now_s = answered_s + spec.arrivals.think_s
    return Instants(*seen)


@kernel
def _devices(submitted_s: Floats, device_s: Floats, first: Ints) -> tuple[Floats, Floats]:
    """When each user's device, which serves requests in turn, begins each request, and when it is done with it."""
    begun_s, done_s = np.empty_like(submitted_s), np.empty_like(submitted_s)
    for user in range(len(first) - 1):
        free_s = 0.0
        for i in range(first[user], first[user + 1]):
            begun_s[i] = max(submitted_s[i], free_s)
            free_s = begun_s[i] + device_s[i]
            done_s[i] = free_s
    return begun_s, done_s


@kernel
def _servers(delivered_s: Floats, server_s: Floats, servers: int) -> tuple[Floats, Floats]:
    """When the first server that is free begins each request, delivered in this order, and when it is done with it.

    A request that is never delivered (NaN) is never begun.
    """
    free_s = [0.0] * servers
    begun_s, done_s = np.full(len(delivered_s), np.nan), np.full(len(delivered_s), np.nan)
    for i in range(len(delivered_s)):
        if not np.isnan(delivered_s[i]):
            begun_s[i] = max(delivered_s[i], free_s[0])
            done_s[i] = begun_s[i] + server_s[i]
            heapq.heapreplace(free_s, done_s[i])
    return begun_s, done_s
