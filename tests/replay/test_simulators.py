"""One workload, two simulators: the compiled path gives every instant of the SimPy system, to 1e-9 s."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.channel.channel import unreadable_files
from harness.channel.recording import PacketRecording, RateRecording, save
from harness.errors import ScenarioError, TraceError
from harness.records import RequestRow, schema
from harness.replay import vector
from tests.replay.systems import drawn_profile, profile_of, replayed, spec_of

INSTANTS = [name for name in schema(RequestRow).names if name.endswith("_s")]
ARRIVALS: dict[str, dict[str, Any]] = {
    "poisson": {"kind": "poisson", "rate": "1 /s"},
    "periodic": {"kind": "periodic", "every": "700 ms"},
    "periodic, aligned": {"kind": "periodic", "every": "700 ms", "phase": "aligned"},
    "closed loop": {"kind": "closed_loop", "think": "100 ms"},
}
WIRES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tcp": {"header": "66 B", "propagation": "20 ms", "handshake": True},
    "bucket": {"burst": "10 KB"},
    "windows": {"slow_start": True, "propagation": "20 ms"},
}


@pytest.fixture(scope="module")
def uplinks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One link of every kind, the recorded ones drawn at random, with outages and a gap."""
    folder = tmp_path_factory.mktemp("links")
    rng = np.random.default_rng(0)
    rates = np.where(rng.random(100) < 0.15, 0.0, rng.exponential(1e6, 100))
    rates[7] = np.nan
    save(RateRecording(np.concatenate([[0], np.cumsum(rng.exponential(0.4, 100))]), rates, "r"), folder / "r.parquet")
    save(PacketRecording(np.sort(rng.integers(0, 9000, 2000)), 1500, "p"), folder / "p.parquet")
    return {
        "constant": {"kind": "constant", "rate": "100 KB/s"},
        "rates": {"kind": "trace", "path": str(folder / "r.parquet")},
        "rates, stopped": {"kind": "trace", "path": str(folder / "r.parquet"), "at_end": "stop", "gaps": "hold"},
        "packets": {"kind": "trace", "path": str(folder / "p.parquet")},
        "chain": {"kind": "gilbert_elliott", "good": "300 KB/s", "bad": "20 KB/s", "good_for": "3 s", "bad_for": "1 s"},
    }


def _largest_difference(one: pa.Table, other: pa.Table) -> float:
    assert len(one) == len(other)
    largest = 0.0
    for name in INSTANTS:
        a, b = (table[name].to_numpy(zero_copy_only=False).astype(float) for table in (one, other))
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
        largest = max(largest, float(np.nanmax(np.abs(a - b), initial=0.0)))
    return largest


CASES = [
    case
    for case in itertools.product(
        ["constant", "rates", "rates, stopped", "packets", "chain"], WIRES, ARRIVALS, ["own", "fifo", "processor"]
    )
    if not (case[3] == "processor" and (case[1] in ("bucket", "windows") or case[0] == "packets"))
    and not (case[0] == "packets" and case[1] == "bucket")
    and not (case[2] == "closed loop" and case[3] != "own")
]


@pytest.mark.slow
@pytest.mark.parametrize(("link", "wire", "arrivals", "sharing"), CASES)
def test_simulators_agree_on_every_request(
    uplinks: dict[str, dict[str, Any]], link: str, wire: str, arrivals: str, sharing: str
) -> None:
    """Every kind of link, wire, arrival and sharing: no instant differs by more than 1e-9 s."""
    spec = spec_of(
        uplink={**uplinks[link], "wire": WIRES[wire]},
        arrivals=ARRIVALS[arrivals],
        sharing=sharing,
        users=3,
        servers=3,
        requests=30,
        answer={"size": "100 B", "rate": "1 MB/s", "propagation": "5 ms"},
    )
    assert vector.applies(spec, 3)
    profile = drawn_profile(1)
    difference = _largest_difference(
        replayed(profile, spec, simulator="simpy"), replayed(profile, spec, simulator="vector")
    )
    assert difference <= 1e-9


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.sampled_from(["own", "fifo", "processor"]))
def test_simulators_agree_on_random_systems(seed: int, users: int, servers: int, sharing: str) -> None:
    """Random profiles, users, servers and loads, overloaded ones included."""
    rng = np.random.default_rng(seed)
    spec = spec_of(
        uplink={"kind": "constant", "rate": f"{rng.integers(20, 500)} KB/s"},
        arrivals={"kind": "poisson", "rate": f"{rng.uniform(0.1, 5)} /s"},
        users=users,
        servers=servers,
        sharing=sharing,
        requests=20,
    )
    profile = drawn_profile(seed)
    one, other = (replayed(profile, spec, simulator=simulator, seed=seed) for simulator in ("simpy", "vector"))
    assert _largest_difference(one, other) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("simulator", ["simpy", "vector"])
@pytest.mark.parametrize("sharing", ["own", "fifo", "processor"])
@pytest.mark.parametrize("arrivals", ["poisson", "closed loop"])
def test_what_is_answered_on_the_device_waits_for_nothing(simulator: str, sharing: str, arrivals: str) -> None:
    """Nothing to send and nothing to serve: no handshake, header, propagation, queue or way back."""
    users = {"users": 3, "servers": 3} if arrivals == "poisson" or sharing == "own" else {}
    spec = spec_of(
        uplink={"kind": "constant", "rate": "8 KB/s", "wire": WIRES["tcp"]},
        arrivals=ARRIVALS[arrivals],
        sharing=sharing,
        answer={"size": "100 B", "rate": "1 MB/s", "propagation": "5 ms"},
        **users,
    )
    alone = replayed(profile_of([0] * 6, [0.25] * 6, [0.0] * 6), spec, simulator=simulator)
    for name in INSTANTS[INSTANTS.index("sent_s") :]:
        assert alone[name] == alone["device_done_s"]
    mixed = profile_of([0, 4000] * 6, [0.25] * 12, [0.0, 0.5] * 6)
    rows = [replayed(mixed, spec, simulator=which) for which in ("simpy", "vector")]
    assert _largest_difference(*rows) <= 1e-9
    stayed = (rows[0]["answered_s"].to_numpy() == rows[0]["device_done_s"].to_numpy()).sum()
    assert stayed == len(rows[0]) // 2
    silent_but_served = replayed(profile_of([0], [0.25], [0.5]), spec, simulator=simulator)
    assert (silent_but_served["answered_s"].to_numpy() >= silent_but_served["device_done_s"].to_numpy() + 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["own", "fifo", "processor"])
def test_simulators_agree_on_simultaneous_requests(sharing: str) -> None:
    """Ties are broken by user and number, not by a simulator's order of processing."""
    profile = profile_of([1000], [0.25], [0.5])
    arrivals = ARRIVALS["periodic, aligned"]
    uplink = {"kind": "constant", "rate": "8 KB/s"}
    spec = spec_of(uplink=uplink, arrivals=arrivals, users=6, servers=2, sharing=sharing, requests=5)
    one, other = (replayed(profile, spec, simulator=simulator) for simulator in ("simpy", "vector"))
    assert _largest_difference(one, other) <= 1e-9


def test_the_compiled_path_is_chosen_for_large_cells() -> None:
    """A large feed-forward cell gives the same rows whether the simulator is named or not."""
    spec = spec_of(arrivals=ARRIVALS["poisson"], users=10, servers=4, requests=2500)
    profile = drawn_profile(0)
    assert replayed(profile, spec) == replayed(profile, spec, simulator="vector")


def test_the_compiled_path_is_refused_where_something_flows_back() -> None:
    """Named where it does not apply, it is refused; by default the SimPy system is used instead."""
    profile = drawn_profile(0)
    for parts in (
        {"timeout": "1 s"},
        {"batching": {"max_batch": 4, "marginal": 0.5}},
        {"users": 3, "servers": 1},
        {"users": 3, "servers": 3, "sharing": "fifo"},
    ):
        spec = spec_of(**parts)
        with pytest.raises(ScenarioError, match="vectorised path does not apply"):
            replayed(profile, spec, simulator="vector")
        assert len(replayed(profile, spec)) == spec.users[0] * 24


def test_whole_packets_are_not_divided(uplinks: dict[str, dict[str, Any]]) -> None:
    """A packet trace under processor sharing or a bucket is refused, with an alternative, before a run measures."""
    shared = spec_of(uplink=uplinks["packets"], sharing="processor")
    for spec in (shared, spec_of(uplink={**uplinks["packets"], "wire": {"burst": "3 KB"}})):
        with pytest.raises(TraceError, match="--bin 100ms") as error:
            replayed(drawn_profile(0), spec)
        assert unreadable_files(spec) == [str(error.value)]


def test_users_of_one_trace_begin_it_at_their_own_instants(uplinks: dict[str, dict[str, Any]]) -> None:
    """A looped trace starts elsewhere for every user and seed, unless it must start at its beginning."""
    profile = profile_of([20_000], [0.0], [0.0])
    spec = spec_of(uplink=uplinks["rates"], users=4, servers=4)
    assert len(set(replayed(profile, spec)["sent_s"].to_pylist())) == 4
    assert replayed(profile, spec, seed=1)["sent_s"] != replayed(profile, spec)["sent_s"]
    spec = spec_of(uplink={**uplinks["rates"], "start": "beginning"}, users=4, servers=4)
    assert len(set(replayed(profile, spec)["sent_s"].to_pylist())) == 1


def test_recorded_arrivals_are_replayed_as_recorded(tmp_path: Path) -> None:
    """The instants and users of a CSV are submitted; another file is refused by name."""
    path = tmp_path / "arrivals.csv"
    path.write_text("at_s,user\n0.5,1\n0.25,0\n3,1\n")
    spec = spec_of(arrivals={"kind": "recorded", "path": str(path)}, users=2, servers=2)
    rows = replayed(profile_of([0], [0], [0]), spec)
    assert list(zip(rows["user"].to_pylist(), rows["submitted_s"].to_pylist(), strict=True)) == [
        (0, 0.25),
        (1, 0.5),
        (1, 3.0),
    ]
    for content, said in (("at_s\n-1\n", "has -1 as at_s"), ("when\n1\n", "at_s"), ("at_s,user\n1,7\n", "from 0 to 1")):
        path.write_text(content)
        with pytest.raises(ScenarioError, match=said) as caught:
            replayed(profile_of([0], [0], [0]), spec)
        assert str(path) in str(caught.value)
