"""Channels: exact against closed forms, and against an oracle that integrates in rational numbers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.channel import capacity
from harness.channel.channel import Constant
from harness.channel.recording import PacketRecording, RateRecording
from harness.channel.varying import Packets, Pieces

spans = st.lists(
    st.tuples(st.floats(1e-3, 50), st.one_of(st.just(0.0), st.floats(1e2, 1e8))), min_size=1, max_size=12
).filter(lambda pairs: any(rate for _, rate in pairs))
starts = st.floats(0, 500)
sizes = st.integers(1, 5_000_000)


def _pieces(pairs: list[tuple[float, float]], *, loop: bool = True) -> Pieces:
    widths, rates = map(np.array, zip(*pairs, strict=True))
    return Pieces(np.concatenate([[0.0], np.cumsum(widths)]), rates, loop)


def _integrated(link: Pieces, start_s: float, n_bytes: int) -> float:
    """The finish by walking from span to span in rational numbers; whole laps are skipped."""
    edges, rates = [Fraction(t) for t in link.at_s], [Fraction(r) for r in link.rate_bps]
    period, left, now = edges[-1], Fraction(8 * n_bytes), Fraction(start_s)
    lap_bits = sum(rate * (b - a) for rate, (a, b) in zip(rates, itertools.pairwise(edges), strict=True))
    skipped = max(0, left // lap_bits - 1)
    left, now = left - skipped * lap_bits, now + skipped * period
    while True:
        lap = now // period
        for rate, (a, b) in zip(rates, itertools.pairwise(edges), strict=True):
            begin, end = max(now, lap * period + a), lap * period + b
            if end <= begin:
                continue
            if rate and left <= rate * (end - begin):
                return float(begin + left / rate)
            left -= rate * (end - begin)
            now = end


def test_constant_rate_is_eight_bytes_over_rate() -> None:
    """The paper's link: 14 000 bytes at 25 KB/s take 0.56 s."""
    assert Constant(200e3).finish(3.0, 14_000) == pytest.approx(3.56, abs=1e-15)


@pytest.mark.parametrize("rate_bps", [0.0, -1.0, math.nan, math.inf])
def test_a_constant_rate_must_be_finite_and_positive(rate_bps: float) -> None:
    """A link without a finite rate above zero is refused."""
    with pytest.raises(ValueError, match="finite rate above 0"):
        Constant(rate_bps)


@pytest.mark.slow
def test_rate_change_in_mid_transfer() -> None:
    """One second at 1 Mbit/s and the rest at 2 Mbit/s: 2 Mbit that start at 0 end after 1.5 s."""
    assert _pieces([(1, 1e6), (9, 2e6)]).finish(0.0, 250_000) == pytest.approx(1.5, rel=1e-15)


def test_transfer_waits_out_an_outage() -> None:
    """What is not sent when the outage begins is sent when it ends."""
    assert _pieces([(1, 1e6), (5, 0.0), (1, 1e6)]).finish(0.5, 125_000) == pytest.approx(6.5, rel=1e-15)


def test_trace_that_stops_carries_nothing_more() -> None:
    """A transfer that a stopped trace cannot carry to its end never ends; one that it can, does."""
    link = _pieces([(2, 8e3)], loop=False)
    assert link.finish(1.0, 1000) == 2.0
    assert math.isinf(link.finish(1.0, 1001))
    assert math.isinf(link.finish(2.0, 1))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(spans, starts, sizes)
def test_finish_agrees_with_rational_integration(
    pairs: list[tuple[float, float]], start_s: float, n_bytes: int
) -> None:
    """The compiled inverse of the cumulative capacity is the walk over the spans, to 1e-9."""
    link = _pieces(pairs)
    assert link.finish(start_s, n_bytes) == pytest.approx(_integrated(link, start_s, n_bytes), rel=1e-9, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(spans, starts, sizes)
def test_bytes_are_conserved(pairs: list[tuple[float, float]], start_s: float, n_bytes: int) -> None:
    """Between its start and its end the link carried the transfer, exactly."""
    link = _pieces(pairs)
    end_s = link.finish(start_s, n_bytes)
    slack = max(link.rate_bps) * 1e-9 * max(1.0, end_s)
    assert link.bits(start_s, end_s) == pytest.approx(8 * n_bytes, rel=1e-9, abs=slack)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(spans, starts, sizes, sizes)
def test_no_transfer_is_faster_than_the_link(
    pairs: list[tuple[float, float]], start_s: float, n_bytes: int, more: int
) -> None:
    """No transfer beats the highest rate, and none is faster for being longer or started earlier than another."""
    link = _pieces(pairs)
    end_s = link.finish(start_s, n_bytes)
    assert end_s - start_s >= 8 * n_bytes / max(link.rate_bps) * (1 - 1e-9) - 1e-12 * end_s
    assert link.finish(start_s, n_bytes + more) >= end_s
    assert link.finish(start_s + 1.0, n_bytes) >= end_s - 1e-9


@settings(max_examples=50, deadline=None)
@given(spans, st.floats(0, 100), starts, sizes)
def test_offset_is_a_shift_of_time(
    pairs: list[tuple[float, float]], offset_s: float, start_s: float, n_bytes: int
) -> None:
    """A link with another start is the same link at another time."""
    link = _pieces(pairs)
    shifted = link.from_offset(offset_s).finish(start_s, n_bytes)
    assert shifted == pytest.approx(link.finish(start_s + offset_s, n_bytes) - offset_s, abs=1e-9)


@pytest.mark.slow
def test_one_line_of_mahimahi_is_twelve_megabits() -> None:
    """A trace that says only 1 carries 1500 bytes every millisecond."""
    link = PacketRecording(np.array([1]), 1500, "one").channel(loop=True)
    assert link.finish(0.0, 1500) == 0.001
    assert link.finish(0.0, 1501) == 0.002
    assert link.finish(0.0, 1_500_000) == 1.0
    assert link.bits(0.0, 10.0) == 120e6


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(1, 3000), st.integers(1, 200_000))
def test_packets_leave_at_the_chance_that_carries_them(times_ms: list[int], start_ms: int, n_bytes: int) -> None:
    """The finish is the k-th chance from the start on, counted one by one in whole milliseconds, in whichever lap.

    A chance at the start itself counts, also where it is the last of a lap.
    """
    link = PacketRecording(np.sort(np.array(times_ms)), 1500, "drawn").channel(loop=True)
    period_ms = max(1, *times_ms, 0)
    laps = itertools.count(max(0, start_ms // period_ms - 1))
    chances = (lap * period_ms + at for lap in laps for at in sorted(times_ms))
    expected_ms = next(itertools.islice((at for at in chances if at >= start_ms), math.ceil(n_bytes / 1500) - 1, None))
    assert link.finish(start_ms / 1000, n_bytes) == expected_ms / 1000
    assert link.finish((start_ms - 0.5) / 1000, n_bytes) == expected_ms / 1000


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(0, 10**9), st.integers(1, 200_000))
def test_a_later_lap_is_the_first_one_later(times_ms: list[int], laps: int, n_bytes: int) -> None:
    """A start on a whole millisecond meets the chances that it met in the second lap, however many laps on."""
    link = PacketRecording(np.sort(np.array(times_ms)), 1500, "drawn").channel(loop=True)
    period_ms = max(1, *times_ms, 0)
    for start_ms in times_ms:
        first_ms = round(1000 * link.finish((period_ms + start_ms) / 1000, n_bytes))
        later_s = link.finish(((1 + laps) * period_ms + start_ms) / 1000, n_bytes)
        assert later_s == (first_ms + laps * period_ms) / 1000


@given(st.floats(0, 1e6))
def test_an_instant_is_the_first_nanosecond_that_is_not_before_it(at_s: float) -> None:
    """No earlier nanosecond qualifies, and a whole millisecond is its own."""
    at_ns = capacity.nanoseconds(at_s)
    assert (at_ns - 1) / 1e9 < at_s <= at_ns / 1e9
    whole_ms = math.floor(1000 * at_s)
    assert capacity.nanoseconds(whole_ms / 1000) == whole_ms * 1_000_000


def test_gaps_are_outages_or_hold_the_rate_before() -> None:
    """A gap carries nothing, or as much as the span before it, as declared; before any rate it carries nothing."""
    recording = RateRecording(np.array([0.0, 1, 2, 3, 4]), np.array([math.nan, 1e6, math.nan, 2e6]), "gaps")
    assert recording.channel(loop=True, gaps="outage").rate_bps.tolist() == [0, 1e6, 0, 2e6]
    assert recording.channel(loop=True, gaps="hold").rate_bps.tolist() == [0, 1e6, 1e6, 2e6]


@pytest.mark.slow
def test_packets_carry_nothing_after_a_stop() -> None:
    """Without a loop the last chance is the last."""
    link = Packets(np.array([100, 200]), 1500, loop=False)
    assert link.finish(0.0, 3000) == 0.2
    assert math.isinf(link.finish(0.0, 3001))
