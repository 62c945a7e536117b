"""Links: queues, headers, buckets, windows, and the compiled form of each."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.channel import bulk
from harness.channel.channel import Channel, Constant
from harness.channel.link import Link, ProcessorSharing, wire_bytes
from harness.channel.markov import Chain, Markov
from harness.channel.varying import Packets, Pieces
from harness.scenario.replay import Wire

MBPS = Constant(1e6)


def _drawn(seed: int, kind: str) -> Channel:
    rng = np.random.default_rng(seed)
    at_s = np.concatenate([[0.0], np.cumsum(rng.exponential(0.5, 30))])
    match kind:
        case "constant":
            return Constant(float(rng.uniform(1e5, 1e7)))
        case "pieces":
            rates = np.where(rng.random(30) < 0.2, 0.0, rng.exponential(2e6, 30))
            return Pieces(at_s, rates, loop=True, offset_s=float(rng.random()))
        case "packets":
            return Packets(np.sort(rng.integers(0, 2000, 400)), 1500, loop=True)
        case _:
            return Markov(Chain.gilbert_elliott(2e6, 1e5, 1.0, 0.3), np.random.SeedSequence(seed))


def _arrivals(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(0.05, n)), rng.integers(1, 30_000, n)


def test_transfers_wait_for_each_other() -> None:
    """First come, first served: the second begins when the first has left."""
    link = Link(MBPS)
    assert link.send(0.0, 125_000) == 1.0
    assert link.send(0.5, 125_000) == 2.0
    assert link.send(5.0, 125_000) == 6.0


def test_headers_go_with_every_segment() -> None:
    """1449 bytes are two segments of 1448 and carry two headers; 0 bytes carry none."""
    wire = Wire.model_validate({"header": "66 B"})
    assert [wire_bytes(wire, n) for n in (0, 1, 1448, 1449)] == [0, 67, 1514, 1581]


def test_bucket_lets_its_depth_through_at_once_and_refills() -> None:
    """A full bucket of 3000 bytes serves a small payload at once; 1000 bytes later it holds what 8 ms refilled."""
    link = Link(MBPS, Wire.model_validate({"burst": "3000 B"}))
    assert link.send(1.0, 2500) == 1.0
    assert link.send(1.008, 2500) == pytest.approx(1.008 + 8 * 1000 / 1e6)
    assert link.send(9.0, 3100) == pytest.approx(9.0 + 8 * 100 / 1e6)


def test_slow_start_doubles_its_window_each_round_trip() -> None:
    """On a link too fast to matter, 70 segments from a window of 10 take the rounds 10, 20 and 40."""
    wire = Wire.model_validate({"slow_start": True, "propagation": "50 ms"})
    fast = Link(Constant(1e15), wire)
    assert fast.send(0.0, 10 * 1448) == pytest.approx(0.0, abs=1e-6)
    assert fast.send(1.0, 30 * 1448) == pytest.approx(1.1, abs=1e-6)
    assert fast.send(2.0, 70 * 1448) == pytest.approx(2.2, abs=1e-6)


def test_slow_start_ends_when_the_link_is_full() -> None:
    """Where a window takes longer than a round trip nothing waits: the bytes over the rate."""
    link = Link(MBPS, Wire.model_validate({"slow_start": True, "propagation": "1 ms"}))
    assert link.send(0.0, 1_000_000) == pytest.approx(8.0)


def test_a_transfer_given_up_frees_the_link() -> None:
    """The next transfer begins when the one before it was given up."""
    link = Link(MBPS)
    link.send(0.0, 1_000_000)
    link.give_up(2.0)
    assert link.send(1.0, 125_000) == 3.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["constant", "pieces", "packets", "markov"]))
def test_chained_transfers_are_one_long_transfer(seed: int, kind: str) -> None:
    """Payloads that are all ready at once end with the transfer of their sum: nothing is lost between them."""
    channel, (_, n_bytes) = _drawn(seed, kind), _arrivals(seed)
    link = Link(channel)
    ends = [link.send(1.0, n) for n in n_bytes.tolist()]
    assert ends == sorted(ends)
    assert ends[-1] == channel.finish(1.0, int(n_bytes.sum()))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["constant", "pieces", "packets", "markov"]),
    st.sampled_from(["plain", "headers", "bucket", "windows"]),
)
def test_compiled_queue_gives_the_links_instants(seed: int, kind: str, extra: str) -> None:
    """One compiled call gives what the link gives payload by payload, to 1e-9 s."""
    wires = {
        "plain": Wire(),
        "headers": Wire.model_validate({"header": "66 B"}),
        "bucket": Wire() if kind == "packets" else Wire.model_validate({"burst": "10 KB"}),
        "windows": Wire.model_validate({"slow_start": True, "propagation": "20 ms"}),
    }
    ready_s, n_bytes = _arrivals(seed)
    link = Link(_drawn(seed, kind), wires[extra])
    one_by_one = [link.send(t, n) for t, n in zip(ready_s.tolist(), n_bytes.tolist(), strict=True)]
    at_once = bulk.fifo(_drawn(seed, kind), wires[extra], ready_s, n_bytes)
    np.testing.assert_allclose(at_once, one_by_one, rtol=0, atol=1e-9)


def _shared_one_by_one(channel: Channel, ready_s: np.ndarray, n_bytes: np.ndarray) -> np.ndarray:
    sharing, left_s, i = ProcessorSharing(channel), np.full(len(ready_s), np.inf), 0
    while (departure := sharing.next_departure()) is not None or i < len(ready_s):
        if i < len(ready_s) and (departure is None or ready_s[i] < departure[0]):
            sharing.join(ready_s[i], i, int(n_bytes[i]))
            i += 1
        else:
            assert departure is not None
            left_s[departure[1]] = departure[0]
            sharing.depart(departure[0])
    return left_s


def test_two_equal_transfers_share_evenly() -> None:
    """Two payloads of a second each, begun together, both take two; if one joins half way, each takes 1.5."""
    together = _shared_one_by_one(MBPS, np.array([0.0, 0.0]), np.array([125_000, 125_000]))
    np.testing.assert_allclose(together, [2.0, 2.0])
    staggered = _shared_one_by_one(MBPS, np.array([0.0, 0.5]), np.array([125_000, 125_000]))
    np.testing.assert_allclose(staggered, [1.5, 2.0])


def test_shared_link_gives_up_a_transfer_to_the_others() -> None:
    """When one of two is given up, the other has the link to itself."""
    sharing = ProcessorSharing(MBPS)
    sharing.join(0.0, 0, 125_000)
    sharing.join(0.0, 1, 125_000)
    sharing.give_up(1.0, 0)
    assert sharing.next_departure() == (1.5, 1)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["constant", "pieces", "markov"]))
def test_sharing_conserves_bytes_and_its_compiled_form_agrees(seed: int, kind: str) -> None:
    """The busy link ends when one transfer of all the bytes would, and the compiled call gives the same instants."""
    ready_s, n_bytes = _arrivals(seed)
    one_by_one = _shared_one_by_one(_drawn(seed, kind), ready_s, n_bytes)
    np.testing.assert_allclose(bulk.shared(_drawn(seed, kind), Wire(), ready_s, n_bytes), one_by_one, rtol=0, atol=1e-9)
    in_turn = bulk.fifo(_drawn(seed, kind), Wire(), ready_s, n_bytes)
    assert one_by_one.max() == pytest.approx(in_turn.max(), abs=1e-6)
    assert not math.isinf(one_by_one.max())
