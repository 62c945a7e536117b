"""The paper's setting: T = T_device + 8 bytes / rate + T_server, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.latency import part_s, total_s
from harness.records import RequestRow, schema
from tests.replay.systems import drawn_profile, profile_of, replayed, spec_of


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=20),
    st.sampled_from([25, 50, 100]),
)
def test_latency_is_the_papers_sum(rows: list[tuple[int, float, float]], rate_kb: int) -> None:
    """Every timed request is replayed once, in order, and takes the sum of its parts."""
    payload, device_s, server_s = map(list, zip(*rows, strict=True))
    profile = profile_of(payload, device_s, server_s)
    requests = replayed(profile, spec_of(uplink={"kind": "constant", "rate": f"{rate_kb} KB/s"}))
    assert requests["sample"].to_pylist() == list(profile.samples)
    expected = np.array(device_s) + np.array(payload) / (1000 * rate_kb) + np.array(server_s)
    np.testing.assert_allclose(total_s(requests), expected, rtol=1e-12, atol=1e-12 * expected.sum())
    assert not part_s(requests, "wait").any()
    np.testing.assert_allclose(part_s(requests, "device"), device_s, atol=1e-12 * expected.sum())
    np.testing.assert_allclose(part_s(requests, "server"), server_s, atol=1e-12 * expected.sum())


@pytest.mark.slow
def test_rows_name_their_system_and_channel() -> None:
    """The table has the schema of RequestRow; the replay names the system and the channel the uplink."""
    requests = replayed(drawn_profile(0), spec_of(uplink={"kind": "constant", "rate": "25 KB/s"}), seed=3)
    assert requests.schema == schema(RequestRow)
    first = requests.slice(0, 1).to_pylist()[0]
    assert first["replay"] == "closed_loop, own, 1 server"
    assert (first["channel"], first["users"], first["seed"], first["user"]) == ("25 KB/s", 1, 3, 0)
    assert first["rate_bps"] == 200e3
    named = spec_of(uplink={"kind": "constant", "rate": "25 KB/s", "name": "the garage"})
    assert set(replayed(drawn_profile(0), named)["rate_bps"].to_pylist()) == {200e3}
    chain = {"kind": "gilbert_elliott", "good": "9 KB/s", "bad": "1 KB/s", "good_for": "3 s", "bad_for": "1 s"}
    assert set(replayed(drawn_profile(0), spec_of(uplink=chain))["rate_bps"].to_pylist()) == {None}
    assert first["submitted_s"] == 0.0


def test_the_wire_and_the_way_back_are_added() -> None:
    """Headers, propagation, a handshake and the return of the answer each add their time."""
    uplink = {
        "kind": "constant",
        "rate": "1 Mbit/s",
        "wire": {"header": "66 B", "propagation": "30 ms", "handshake": True},
    }
    answer = {"size": "1 KB", "rate": "1 Mbit/s", "propagation": "30 ms"}
    requests = replayed(profile_of([14_480], [0.1], [0.2]), spec_of(uplink=uplink, answer=answer))
    expected = 0.1 + 2 * 0.03 + 8 * (14_480 + 660) / 1e6 + 0.03 + 0.2 + 0.008 + 0.03
    assert total_s(requests)[0] == pytest.approx(expected, abs=1e-12)
    parts = {part: part_s(requests, part)[0] for part in ("device", "link", "wait", "server")}
    link_s = 2 * 0.03 + 8 * (14_480 + 660) / 1e6 + 0.03 + 0.008 + 0.03
    assert parts == pytest.approx({"device": 0.1, "link": link_s, "wait": 0.0, "server": 0.2}, abs=1e-12)


def test_several_users_each_replay_every_row() -> None:
    """Without a number of requests every user replays all timed ones, in an order of its own."""
    requests = replayed(drawn_profile(1), spec_of(users=3, servers=3)).to_pandas()
    orders = [tuple(own["sample"]) for _, own in requests.groupby("user")]
    assert len(set(orders)) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_a_link_that_stops_leaves_requests_unanswered() -> None:
    """A payload that a stopped trace cannot carry is never sent, and its user sends no more requests."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from harness.channel.recording import RateRecording, save

    with TemporaryDirectory() as folder:
        save(RateRecording(np.array([0.0, 2.0]), np.array([8e3]), "short"), Path(folder) / "short.parquet")
        uplink = {"kind": "trace", "path": f"{folder}/short.parquet", "at_end": "stop"}
        profile = profile_of([1000, 1500, 10], [0, 0, 0], [0, 0, 0])
        for simulator in ("simpy", "vector"):
            requests = replayed(profile, spec_of(uplink=uplink), simulator=simulator)
            assert requests["sent_s"].to_pylist() == [1.0, None]
            assert requests["answered_s"].to_pylist() == [1.0, None]
