"""Cumulative capacity and its inverse, compiled: the arithmetic under every channel that varies.

Two kinds of capacity, both from 0 s on and, if looped, repeated for ever:

pieces    S spans of constant rate; ``at_s`` (S + 1,) their edges from 0, ``rate_bps`` (S,), ``sum_bits`` (S + 1,) what
          was carried by each edge
packets   K chances to send ``packet_bits`` at once, at ``at_ns`` (K,), non-decreasing whole nanoseconds from 0; looped
          with period ``period_ns``; what uses them begins ``offset_ns`` into them

Instants of packets are compared as integers: a chance is a point in time, and a start that rounding moves after its own
chance would wait for the next, however late that is. An instant in seconds is the first whole nanosecond that is not
before it, so that k / 1000 is exactly k milliseconds.

One function serves the SimPy system, call by call, and the vectorised path, in a loop: both give the same instants.
"""

import heapq
import math

import numpy as np
import numpy.typing as npt

from harness.kernels import kernel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LAST_S = 4e9
"""More than a century: nanoseconds up to twice this are whole numbers of 64 bits."""


@kernel
def pieces_finish(start_s: float, n_bits: float, at_s: Floats, rate_bps: Floats, sum_bits: Floats, loop: bool) -> float:
    """When ``n_bits`` that start at ``start_s`` have been carried; infinity if never."""
    if n_bits <= 0:
        return start_s
    period_s, lap_bits, last = at_s[-1], sum_bits[-1], len(rate_bps) - 1
    lap = math.floor(start_s / period_s) if loop else 0
    inside_s = start_s - lap * period_s if loop else start_s
    if not loop and inside_s >= period_s:
        return math.inf
    piece = min(max(int(np.searchsorted(at_s, inside_s, side="right")) - 1, 0), last)
    # Most transfers end in the span in which they start: there the result has no cancellation in it.
    if n_bits <= rate_bps[piece] * (at_s[piece + 1] - inside_s) and rate_bps[piece] > 0:
        return float(start_s + n_bits / rate_bps[piece])
    target_bits = sum_bits[piece] + rate_bps[piece] * (inside_s - at_s[piece]) + n_bits
    if target_bits > lap_bits:
        if not loop or lap_bits <= 0:
            return math.inf
        laps = math.ceil(target_bits / lap_bits) - 1
        lap += laps
        target_bits -= laps * lap_bits
    end = min(max(int(np.searchsorted(sum_bits, target_bits, side="left")) - 1, 0), last)
    beyond_edge_s = (target_bits - sum_bits[end]) / rate_bps[end] if rate_bps[end] > 0 else 0.0
    return float(max(start_s, lap * period_s + at_s[end] + beyond_edge_s))


@kernel
def pieces_carried(at_instant_s: float, at_s: Floats, rate_bps: Floats, sum_bits: Floats, loop: bool) -> float:
    """How many bits can have been carried by ``at_instant_s``."""
    period_s = at_s[-1]
    lap = math.floor(at_instant_s / period_s) if loop else 0
    inside_s = at_instant_s - lap * period_s if loop else at_instant_s
    if inside_s >= period_s:
        return float((lap + 1) * sum_bits[-1])
    piece = min(max(int(np.searchsorted(at_s, inside_s, side="right")) - 1, 0), len(rate_bps) - 1)
    earlier_bits = lap * sum_bits[-1] if loop else 0.0
    return float(earlier_bits + sum_bits[piece] + rate_bps[piece] * (inside_s - at_s[piece]))


@kernel
def nanoseconds(at_instant_s: float) -> int:
    """The first whole nanosecond whose number of seconds, as a double, is not below ``at_instant_s``."""
    at_ns = math.ceil(at_instant_s * 1e9)
    # The product is rounded, by a few nanoseconds at most where doubles are that fine.
    while (at_ns - 1) / 1e9 >= at_instant_s:
        at_ns -= 1
    while at_ns / 1e9 < at_instant_s:
        at_ns += 1
    return at_ns


@kernel
def packets_finish(
    start_s: float, n_bits: float, at_ns: Ints, period_ns: int, offset_ns: int, packet_bits: float, loop: bool
) -> float:
    """When the chance comes that carries the last of ``n_bits``; chances at ``start_s`` itself count."""
    if n_bits <= 0:
        return start_s
    if not start_s < LAST_S:
        return math.inf
    start_ns = nanoseconds(start_s) + offset_ns
    # The end of a lap belongs to it: its last chances are still to come, and so are those at 0 of the next.
    lap = max(0, (start_ns - 1) // period_ns) if loop else 0
    first = int(np.searchsorted(at_ns, start_ns - lap * period_ns, side="left"))
    chance = first + math.ceil(n_bits / packet_bits) - 1
    if chance >= len(at_ns):
        if not loop:
            return math.inf
        lap += chance // len(at_ns)
        chance %= len(at_ns)
    if lap * (period_ns / 1e9) > LAST_S:
        return math.inf
    return float(max(start_s, (lap * period_ns + at_ns[chance] - offset_ns) / 1e9))


@kernel
def packets_carried(
    at_instant_s: float, at_ns: Ints, period_ns: int, offset_ns: int, packet_bits: float, loop: bool
) -> float:
    """How many bits can have been carried by ``at_instant_s``, its own chances included."""
    instant_ns = nanoseconds(min(at_instant_s, LAST_S))
    if instant_ns / 1e9 > at_instant_s:
        instant_ns -= 1
    instant_ns += offset_ns
    lap = instant_ns // period_ns if loop else 0
    chances = lap * len(at_ns) + int(np.searchsorted(at_ns, instant_ns - lap * period_ns, side="right"))
    return float(chances * packet_bits)


@kernel
def pieces_fifo(
    ready_s: Floats,
    n_bytes: Ints,
    burst_bytes: float,
    at_s: Floats,
    rate_bps: Floats,
    sum_bits: Floats,
    loop: bool,
) -> Floats:
    """When each of the transfers, ready in this order, leaves a link with a token bucket; see Link.send."""
    finish_s = np.empty(len(ready_s))
    since_s, free_s, sent, tokens = 0.0, 0.0, 0, burst_bytes
    for i in range(len(ready_s)):
        if ready_s[i] > free_s or sent == 0:
            begin_s = max(ready_s[i], free_s)
            if burst_bytes > 0:
                refill_bits = pieces_carried(begin_s, at_s, rate_bps, sum_bits, loop) - pieces_carried(
                    free_s, at_s, rate_bps, sum_bits, loop
                )
                tokens = min(burst_bytes, max(0.0, tokens - sent) + refill_bits / 8)
            since_s, sent = begin_s, 0
        sent += n_bytes[i]
        beyond = max(0.0, sent - tokens)
        free_s = pieces_finish(since_s, 8 * beyond, at_s, rate_bps, sum_bits, loop) if beyond > 0 else since_s
        finish_s[i] = free_s
    return finish_s


@kernel
def packets_fifo(
    ready_s: Floats, n_bytes: Ints, at_ns: Ints, period_ns: int, offset_ns: int, packet_bits: float, loop: bool
) -> Floats:
    """When each of the transfers, ready in this order, leaves a link of whole packets."""
    finish_s = np.empty(len(ready_s))
    since_s, free_s, sent = 0.0, 0.0, 0
    for i in range(len(ready_s)):
        if ready_s[i] > free_s or sent == 0:
            since_s, sent = max(ready_s[i], free_s), 0
        sent += n_bytes[i]
        free_s = packets_finish(since_s, 8.0 * sent, at_ns, period_ns, offset_ns, packet_bits, loop)
        finish_s[i] = free_s
    return finish_s


@kernel
def pieces_shared(
    ready_s: Floats, n_bytes: Ints, at_s: Floats, rate_bps: Floats, sum_bits: Floats, loop: bool
) -> Floats:
    """When each of the transfers, ready in this order, leaves a link that all present ones share evenly.

    Every present transfer has received the same number of bytes since the link was last idle, ``attained``; it leaves
    when that reaches its own target. :class:`harness.channel.link.ProcessorSharing` does the same step by step.
    """
    finish_s = np.full(len(ready_s), np.inf)
    present = [(0.0, -1)]
    present.pop()
    attained, last_s = 0.0, 0.0
    i = 0
    while i < len(ready_s) or len(present) > 0:
        leaves_s = math.inf
        if len(present) > 0:
            missing = max(0.0, present[0][0] - attained) * len(present)
            leaves_s = pieces_finish(last_s, 8.0 * missing, at_s, rate_bps, sum_bits, loop)
        if i == len(ready_s) and math.isinf(leaves_s):
            break
        if i == len(ready_s) or leaves_s <= ready_s[i]:
            target, who = heapq.heappop(present)
            finish_s[who] = leaves_s
            attained, last_s = target, leaves_s
        else:
            if len(present) > 0:
                bits = pieces_carried(ready_s[i], at_s, rate_bps, sum_bits, loop) - pieces_carried(
                    last_s, at_s, rate_bps, sum_bits, loop
                )
                attained += bits / 8.0 / len(present)
            else:
                attained = 0.0
            last_s = ready_s[i]
            heapq.heappush(present, (attained + n_bytes[i], i))
            i += 1
    return finish_s
