"""Loads against sums by hand and against replays, which grow with their length where a load is above 1."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness.analysis import Analysis, percentiles
from harness.analysis.cells import mean_of_rows, share_of_rows
from harness.analysis.latency import total_s
from harness.analysis.loads import instability, server_seconds, unstable_cells, utilisations
from harness.analysis.means import Estimate, Level
from harness.analysis.replications import mean, replicated
from harness.analysis.whatif import CellSummary, advise, cell_summaries, max_users
from harness.replay import Cell, Profile, replay
from harness.scenario.replay import Batching
from tests.replay.systems import profile_of, replayed, spec_of

# 20,000 bytes are 14 segments of 1448 bytes.
PLAIN = profile_of([20_000] * 8, [0.05] * 8, [0.1] * 8)
SLOW_START = {"slow_start": True, "propagation": "200 ms"}


def loads_of(profile: Profile, **parts: Any) -> dict[str, float]:
    """The loads of the section's first uplink and number of users."""
    return utilisations(profile, cell_of(**parts))


def cell_of(**parts: Any) -> Cell:
    """The cell of a section's first uplink and number of users."""
    spec = spec_of(**parts)
    return Cell(spec=spec, uplink=spec.uplinks[0], users=spec.users[0], seed=0)


def link(rate: str = "100 KB/s", **wire: Any) -> dict[str, Any]:
    """A constant uplink."""
    return {"kind": "constant", "rate": rate, "wire": wire}


def chain(good: str, bad: str, **wire: Any) -> dict[str, Any]:
    """An uplink of two rates that change twenty times a second."""
    return {"kind": "gilbert_elliott", "good": good, "bad": bad, "good_for": "50 ms", "bad_for": "50 ms", "wire": wire}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, (0.1, 0.4, 0.2)),
        ({"users": [3], "servers": 2}, (0.1, 0.4, 0.3)),
        ({"users": [3], "sharing": "fifo"}, (0.1, 1.2, 0.6)),
        ({"users": [3], "sharing": "processor"}, (0.1, 1.2, 0.6)),
        ({"arrivals": {"kind": "periodic", "every": "250 ms"}}, (0.2, 0.8, 0.4)),
        ({"uplink": link(header="1448 B")}, (0.1, 2 * (20_000 + 14 * 1448) / 100e3, 0.2)),
        ({"uplink": link(burst="1 MB")}, (0.1, 0.4, 0.2)),
        ({"uplink": link(handshake=True, propagation="9 s"), "answer": {"propagation": "9 s"}}, (0.1, 0.4, 0.2)),
        # Ten segments leave, the first is acknowledged a round trip after it left, and the rest of the bytes follow.
        ({"uplink": link("10 MB/s", **SLOW_START)}, (0.1, 2 * (0.4 + (1448 + 20_000 - 14_480) / 10e6), 0.2)),
        ({"uplink": chain("150 KB/s", "50 KB/s")}, (0.1, 0.4, 0.2)),
        # The waits for acknowledgements are those of a link that does not change.
        ({"uplink": chain("10 MB/s", "10 MB/s", **SLOW_START)}, (0.1, 2 * (0.4 + (1448 + 5520) / 10e6), 0.2)),
        # A window that is longer than the payload: no wait, whatever the rate does.
        ({"uplink": chain("150 KB/s", "50 KB/s", **SLOW_START, initial_window=14)}, (0.1, 0.4, 0.2)),
    ],
)
def test_a_load_is_the_time_that_a_request_keeps_a_place_times_their_number(
    parts: dict[str, Any], expected: tuple[float, float, float]
) -> None:
    """Twice a second: 50 ms of a device, 20 kB of a link and what its wire adds, and 100 ms of a server."""
    parts = {"uplink": link(), "arrivals": {"kind": "poisson", "rate": "2 /s"}, **parts}
    found = loads_of(PLAIN, **parts)
    assert list(found) == ["device", "uplink", "servers"]
    # A link that varies is seen for as long as 2048 payloads take.
    assert list(found.values()) == pytest.approx(expected, rel=0.02 if parts["uplink"]["kind"] != "constant" else 1e-9)


def test_what_the_device_answers_loads_the_device_alone() -> None:
    """1.3 s of a device's work a second are unstable, also of requests that stay on it, with any number of servers."""
    stays = profile_of([0] * 8, [0.052] * 8, [0.0] * 8)
    parts: dict[str, Any] = {"uplink": link(), "arrivals": {"kind": "poisson", "rate": "25 /s"}, "servers": 16}
    assert loads_of(stays, **parts) == {"device": pytest.approx(1.3), "uplink": 0.0, "servers": 0.0}
    spec, why = spec_of(requests=20, **parts), "unstable: utilisation 1.3 of the device"
    advice = advise([stays], {("scheme", "-"): 1.0}, spec, spec.uplinks[0], deadline_s=1, min_score=0.5)[0]
    assert (advice.rejected, advice.deadline_share.value) == (why, 0.0)
    assert max_users(stays, spec, spec.uplinks[0], limit_s=60, q=50)[0] == 0
    other = dataclasses.replace(PLAIN, pipeline="other")
    assert list(unstable_cells([stays, other], spec).values()) == [why, "unstable: utilisation 1.25 of the device"]
    # A user's device is not another's.
    assert loads_of(stays, **{**parts, "users": [40], "arrivals": {"kind": "poisson", "rate": "1 /s"}})["device"] < 0.1


def test_the_first_place_that_is_too_slow_is_named() -> None:
    """A link that lets a third of the requests through leaves the servers less than they could do."""
    late = profile_of([300_000] * 8, [0.0] * 8, [1.2] * 8)
    cell = cell_of(uplink=link(), arrivals={"kind": "poisson", "rate": "1 /s"})
    assert utilisations(late, cell) == {"device": 0.0, "uplink": pytest.approx(3), "servers": pytest.approx(1.2)}
    assert instability(late, cell) == "unstable: utilisation 3 of the uplink"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "marginal"), [(1, 0.3), (4, 0.0), (7, 0.3), (7, 1.0)])
def test_full_batches_keep_a_server_as_long_as_a_replay_in_which_all_ask_at_once(size: int, marginal: float) -> None:
    """The servers of such a replay are busy to its end: servers x its length / requests is the time of each."""
    rng = np.random.default_rng(3)
    once = profile_of([100] * 8, [0.0] * 8, rng.lognormal(-3, 0.6, 8))
    profile = dataclasses.replace(
        once,
        payload_bytes=np.array([100] * 6 + [0] * 2),
        server_stages=("decode", "prefill"),
        server_stage_s=np.column_stack([rng.lognormal(-4, 0.6, 8), once.server_s]) * (np.arange(8) < 6)[:, None],
    )
    batching = {"max_batch": size, "marginal": marginal, "window": "10 ms"}
    spec = spec_of(arrivals={"kind": "poisson", "rate": "1e6 /s"}, batching=batching, servers=2, requests=2500)
    rows = replayed(profile, spec).to_pandas()
    found = 2 * rows["server_done_s"].max() / len(rows)
    ours = server_seconds(profile, Batching.model_validate(batching))
    assert ours == pytest.approx(found, rel=0.04)
    if size == 1 or marginal == 1:
        assert ours == pytest.approx(server_seconds(profile, None))


SYSTEMS: dict[str, tuple[dict[str, Any], Profile]] = {
    "device": ({"servers": 4}, profile_of([200] * 8, [0.2] * 8, [0.1] * 8)),
    "servers": ({"users": [3], "servers": 2}, profile_of([200] * 8, [0.01] * 8, [0.2] * 8)),
    "headers": ({"uplink": link(header="1448 B")}, PLAIN),
    "bucket": ({"uplink": link(burst="40 KB")}, PLAIN),
    "divided": ({"uplink": link(header="1448 B"), "sharing": "processor", "users": [3], "servers": 4}, PLAIN),
    "windows": ({"uplink": link("10 MB/s", **SLOW_START), "sharing": "fifo", "users": [2]}, PLAIN),
    "varying": ({"uplink": chain("150 KB/s", "50 KB/s"), "servers": 4}, PLAIN),
    "varying windows": (
        {"uplink": chain("400 KB/s", "0 B/s", slow_start=True, propagation="50 ms"), "servers": 4},
        PLAIN,
    ),
    "batches": (
        {"batching": {"max_batch": 4, "window": "50 ms", "marginal": 0.2}},
        profile_of([200] * 8, [0.01] * 8, np.linspace(0.1, 0.4, 8)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_times_grow_with_a_replays_length_where_a_load_is_above_1_and_nowhere_else(name: str) -> None:
    """At a load of 0.6 four times the requests have the same mean; at 1.3 they have four times as long a one."""
    parts, profile = SYSTEMS[name]
    at_1_hz = loads_of(profile, arrivals={"kind": "poisson", "rate": "1 /s"}, **parts)
    for load, least, most in ((0.6, 0.8, 1.25), (1.3, 3.0, 5.0)):
        mean_s = []
        for requests in (500, 2000):
            arrivals = {"kind": "poisson", "rate": f"{load / max(at_1_hz.values())} /s"}
            cell = cell_of(arrivals=arrivals, requests=requests, **parts)
            rows = [replay(profile, dataclasses.replace(cell, seed=seed)) for seed in range(3)]
            mean_s.append(float(np.mean([total_s(one).mean() for one in rows])))
        assert least < mean_s[1] / mean_s[0] < most, (load, mean_s)
        assert bool(instability(profile, cell)) == (load > 1)
        if load > 1:
            assert math.isinf(replicated(profile, cell, mean).value)


TIMEOUTS: dict[str, tuple[dict[str, Any], Profile]] = {
    "device": ({"servers": 4}, profile_of([200] * 8, [0.5] * 8, [0.1] * 8)),
    "uplink": ({"uplink": link(), "servers": 4}, profile_of([50_000] * 8, [0.01] * 8, [0.1] * 8)),
    "servers": ({}, profile_of([200] * 8, [0.01] * 8, [0.5] * 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMEOUTS)
def test_requests_that_are_given_up_keep_the_queue_short(name: str) -> None:
    """At a load of 1.5 and a timeout the mean of the answered and the share in time do not depend on the length."""
    parts, profile = TIMEOUTS[name]
    found: list[CellSummary] = []
    for requests in (300, 1200):
        spec = spec_of(arrivals={"kind": "poisson", "rate": "3 /s"}, timeout="2 s", requests=requests, seeds=3, **parts)
        cell = Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=0)
        assert utilisations(profile, cell)[name] == pytest.approx(1.5)
        assert (instability(profile, cell), unstable_cells([profile], spec)) == ("", {})
        tables = [replay(profile, dataclasses.replace(cell, seed=seed)) for seed in range(3)]
        found += cell_summaries(pa.concat_tables(tables), 1.5, unstable=unstable_cells([profile], spec))
    short, long = found
    for summary in found:
        # What is answered was done in full: no more than a place that never rests can do.
        assert 0.2 < summary.answered < 1 / 1.5 + 0.05
        assert summary.mean_s.value <= 2
        assert not summary.mean_s.reason
        assert summary.in_time is not None
    for a, b in ((short.mean_s, long.mean_s), (short.in_time, long.in_time)):
        assert a is not None
        assert b is not None
        assert abs(a.value - b.value) <= math.hypot(a.high - a.low, b.high - b.low) / 2
        assert a.value == pytest.approx(b.value, abs=0.05)


def test_a_part_that_no_request_had_is_zero_exactly() -> None:
    """Where nobody waited the mean is 0 and so are its ends; where some did, the interval holds their mean."""
    rows = pd.DataFrame({"sample": np.repeat(list("abcdefgh"), 4), "seed": np.tile([0, 1], 16), "spent_s": 0.0})
    level = Level(error=0.1, freedom=3)
    assert mean_of_rows(rows, 0.95, level) == Estimate(0.0, 0.0, 0.0)
    some = mean_of_rows(rows.assign(spent_s=np.where(rows["sample"] < "e", 0.0, 0.2)), 0.95, level)
    assert 0 <= some.low < some.value < some.high
    assert some.value == pytest.approx(0.1)


def test_seeds_that_differ_widen_a_shares_interval() -> None:
    """To the pictures' interval Student's half-width over the seeds is added in squares, within 0 and 1."""
    inside = np.tile([[True, False, False, False, False], [True, True, True, True, False]], (8, 1))
    rows = pd.DataFrame({"sample": np.repeat(list("abcdefgh"), 10), "seed": np.tile(np.repeat([0, 1], 5), 8)})
    rows["inside"] = inside.ravel()
    one = share_of_rows(rows.assign(seed=0), 0.95)
    pictures = percentiles.share(np.full((8, 1), 0.5)).estimate
    assert one == pictures
    assert (share_of_rows(rows, 0.95).low, share_of_rows(rows, 0.95).high) == (0.0, 1.0)
    near = pd.concat([rows, rows.assign(seed=rows["seed"] + 2), rows.assign(seed=1 - rows["seed"] + 4)])
    half = percentiles.over_replications([0.2, 0.8, 0.2, 0.8, 0.2, 0.8])
    found = share_of_rows(near, 0.95)
    assert found.value == 0.5
    assert 0.5 - found.low == pytest.approx(math.hypot(0.5 - pictures.low, 0.5 - half.low))


@pytest.mark.slow
def test_a_finished_runs_loads_are_known_but_of_a_link_in_a_file(made_up: Analysis) -> None:
    """Device and servers are judged over any link; with a timeout nothing is left to be judged."""
    file = {"kind": "trace", "path": "link.parquet", "at_end": "loop", "gaps": "outage", "start": None}
    constant = made_up.manifest.scenario_value("replay")["uplinks"][0]
    uplinks = [{**constant, "name": "25 KB/s"}, {**file, "name": "50 KB/s"}, {**file, "name": "100 KB/s"}]
    for timeout_s in (None, 1.0):
        section = {**made_up.manifest.scenario_value("replay"), "uplinks": uplinks, "timeout_s": timeout_s}
        section["arrivals"] = {"kind": "poisson", "rate_hz": 0.01}
        manifest = made_up.manifest.model_copy(update={"scenario": {**made_up.manifest.scenario, "replay": section}})
        run = Analysis(dataclasses.replace(made_up.record, manifest=manifest))
        assert run.loads[["device", "servers"]].notna().all(axis=None)
        assert (run.loads["uplink"].notna() == (run.loads["channel"] == "25 KB/s")).all()
        assert any("not judged" in text for text in run.timing_warnings) == (timeout_s is None)
