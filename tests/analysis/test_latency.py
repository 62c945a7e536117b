"""The parts of a latency: sums that must hold, percentiles that must be earned."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from harness.analysis.latency import (
    PARTS,
    in_time,
    part_s,
    percentile,
    required_samples,
    side_times,
    stage_times,
    summarise,
    total_s,
)
from harness.errors import ResultsError
from harness.records import RequestRow, StageRow, schema


def stage_rows(seconds: dict[str, tuple[str, np.ndarray]], repeats: int = 1, **constants: object) -> pa.Table:
    """Stage rows of one point: for each stage its side and the seconds of every (sample, repeat)."""
    frames = []
    for stage, (side, times) in seconds.items():
        n = len(times)
        frame = {
            "run": "r", "unit": "u", "pipeline": "jpeg", "point": "q",
            "sample": [f"s{i // repeats:04}" for i in range(n)], "repeat": np.arange(n) % repeats,
            "round": np.arange(n) % repeats, "start": 0, "side": side, "stage": stage, "seconds": times,
            "cpu_s": np.nan, "machine": "m", "source": "measured",
        }  # fmt: skip
        frames.append(pd.DataFrame({**frame, **constants}))
    return pa.Table.from_pandas(pd.concat(frames), schema=schema(StageRow), preserve_index=False)


def request_rows(
    device: np.ndarray, link: np.ndarray, server: np.ndarray, n_samples: int, wait: Any = 0.0, **constants: object
) -> pa.Table:
    """Request rows of one cell, whose parts take the given seconds; request i shows sample i modulo ``n_samples``.

    A third of the wait is for the device, and a quarter of the link's time is the answer's way back.
    """
    n = len(device)
    start = np.arange(n) * 10.0
    begun = start + wait / 3
    delivered = begun + device + 0.75 * link
    served = delivered + 2 * wait / 3 + server
    frame = {
        "replay": "closed_loop", "pipeline": "jpeg", "point": "q", "sample": [f"s{i % n_samples:04}" for i in range(n)],
        "channel": "25 KB/s", "rate_bps": 200e3, "users": 1, "seed": 0, "user": 0, "submitted_s": start,
        "device_begun_s": begun, "device_done_s": begun + device, "sent_s": delivered, "delivered_s": delivered,
        "server_begun_s": delivered + 2 * wait / 3, "server_done_s": served, "answered_s": served + 0.25 * link,
    }  # fmt: skip
    return pa.Table.from_pandas(pd.DataFrame({**frame, **constants}), schema=schema(RequestRow), preserve_index=False)


def part(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    """The row of one part of the only cell."""
    return table[table["part"] == name].iloc[0]


@pytest.mark.parametrize(("percentile", "needed"), [(0.5, 11), (0.9, 64), (0.99, 662)])
def test_required_samples_are_loadgens(percentile: float, needed: int) -> None:
    """64 samples certify p90 and 662 p99 (MLPerf LoadGen), the first n whose binomial tail is below one per cent."""
    assert required_samples(percentile) == needed
    assert binom.cdf(1, needed, 1 - percentile) <= 0.01 < binom.cdf(1, needed - 1, 1 - percentile)


@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_to_the_total(n: int, seed: int) -> None:
    """The means of device, link, wait and server add up to the total's, and are the plain means of what went in."""
    rng = np.random.default_rng(seed)
    device, link, server, wait = rng.exponential(size=(4, n))
    stages = stage_rows({"encode": ("device", device), "prefill": ("server", server)})
    rows = request_rows(device, link, server, n_samples=n, wait=wait)
    table = summarise(rows, stages)
    means = table.set_index("part")["mean_s"]
    wanted = {"device": device, "link": link, "wait": wait, "server": server}
    assert list(PARTS) == [*wanted, "total"]
    for name, seconds in wanted.items():
        np.testing.assert_allclose(part_s(rows, name), seconds, atol=1e-9)
        assert means[name] == pytest.approx(seconds.mean())
    np.testing.assert_allclose(sum(part_s(rows, name) for name in wanted), total_s(rows), atol=1e-9)
    assert means["total"] == pytest.approx(sum(means[name] for name in wanted))
    assert (table["requests"] == n).all()
    assert table["mean_low_s"].isna().all() == (n == 1)
    known = table.dropna(subset="mean_low_s")
    assert (known["mean_low_s"] <= known["mean_s"] + 1e-9).all()
    assert (known["mean_s"] <= known["mean_high_s"] + 1e-9).all()


@pytest.mark.parametrize(("n", "claimed"), [(10, 0), (11, 1), (63, 1), (64, 2), (661, 2), (662, 3)])
def test_percentiles_are_claimed_when_certified(n: int, claimed: int) -> None:
    """Below 11, 64 and 662 timed requests p50, p90 and p99 stay null, however many requests are replayed from them."""
    times = np.linspace(1, 2, n)
    stages = stage_rows({"encode": ("device", times)})
    table = summarise(request_rows(*np.resize(times, (3, 2000)), n_samples=n), stages)
    for name, known in zip(("p50", "p90", "p99"), (claimed >= 1, claimed >= 2, claimed >= 3), strict=True):
        assert table[f"{name}_s"].notna().all() == known
        assert table[f"{name}_low_s"].notna().all() == known
        assert table[f"{name}_s"].isna().all() != known


def test_percentiles_are_nearest_ranks() -> None:
    """Of 1..1000 the p50, p90 and p99 are 500, 900 and 990; the intervals are the order statistics theory names."""
    n = 1000
    times = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    stages = stage_rows({"encode": ("device", times)})
    device = part(summarise(request_rows(times, times, times, n_samples=n), stages), "device")
    assert device[["p50_s", "p90_s", "p99_s"]].tolist() == pytest.approx([500, 900, 990])
    for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        low, high = binom.ppf([0.025, 0.975], n, p)
        assert device[f"{name}_low_s"] == pytest.approx(low, abs=0.3 * (high - low))
        assert device[f"{name}_high_s"] == pytest.approx(high, abs=0.3 * (high - low))


def test_replaying_more_does_not_know_more() -> None:
    """Replaying every timed request fifty times leaves the interval of the mean where it was."""
    times = np.random.default_rng(0).exponential(size=100)
    stages = stage_rows({"encode": ("device", times)})
    once, often = (
        part(summarise(request_rows(t, t, t, n_samples=100), stages), "device") for t in (times, np.tile(times, 50))
    )
    assert often["mean_high_s"] - often["mean_low_s"] == pytest.approx(
        once["mean_high_s"] - once["mean_low_s"], rel=1e-6
    )
    assert once["mean_high_s"] - once["mean_low_s"] == pytest.approx(2 * 1.96 * times.std() / 10, rel=0.15)


def test_a_request_never_answered_counts_as_the_slowest() -> None:
    """Timeouts leave the mean to those done, with their number, and push the percentiles up, to null at last."""
    n = 800
    times = np.ones(n)
    table = request_rows(times, times, times, n_samples=n)
    answered = np.where(np.arange(n) % 50 == 0, np.nan, table["answered_s"].to_numpy())
    place = table.column_names.index("answered_s")
    table = table.set_column(place, schema(RequestRow).field("answered_s"), pa.array(answered, from_pandas=True))
    summed = summarise(table, stage_rows({"encode": ("device", times)}))
    assert summed.set_index("part")["done"].to_dict() == {
        "device": 800, "link": 784, "wait": 800, "server": 800, "total": 784
    }  # fmt: skip
    total = part(summed, "total")
    assert summed[summed["part"] != "total"]["mean_s"].sum() == pytest.approx(total["mean_s"])
    assert (total["requests"], total["done"]) == (800, 784)
    assert total["mean_s"] == pytest.approx(3)
    assert total["p90_s"] == pytest.approx(3)
    assert np.isnan(total["p99_s"])


def test_cells_are_kept_apart() -> None:
    """Each uplink, number of users and point has rows of its own, by rate and not by name; seeds are pooled."""
    one = np.ones(20)
    stages = stage_rows({"encode": ("device", one)})
    tables = [
        request_rows(one, one * link, one, n_samples=20, channel=channel, rate_bps=rate_bps, users=users, seed=seed)
        for channel, rate_bps, link in (("wifi", None, 2.0), ("slow", 200e3, 4.0), ("a fast one", 800e3, 1.0))
        for users in (1, 5)
        for seed in (0, 1)
    ]
    links = summarise(pa.concat_tables(tables), stages).query("part == 'link'")
    assert links[["channel", "users", "requests"]].values.tolist() == [
        ["slow", 1, 40],
        ["slow", 5, 40],
        ["a fast one", 1, 40],
        ["a fast one", 5, 40],
        ["wifi", 1, 40],
        ["wifi", 5, 40],
    ]
    assert links["mean_s"].tolist() == pytest.approx([4, 4, 1, 1, 2, 2])


@given(st.lists(st.floats(0, 10) | st.sampled_from([np.nan, np.inf]), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_the_time_of_a_request(seconds: list[float], share: float) -> None:
    """At least the share of all requests is that fast, fewer are faster; one never done is the slowest."""
    times = np.array([np.inf if np.isnan(s) else s for s in seconds])
    found = percentile(np.array(seconds), share)
    assert found in times
    assert (times <= found).mean() >= share - 1e-9
    assert (times < found).mean() < share


def test_a_deadline_is_missed_by_what_never_comes() -> None:
    """The share answered in time is of all requests of a cell, in the order of the latencies."""
    one = np.ones(20)
    fast = request_rows(one, one, np.linspace(0, 19, 20), n_samples=20, channel="fast", rate_bps=8e5)
    place = fast.column_names.index("answered_s")
    answered = np.where(np.arange(20) < 4, np.nan, fast["answered_s"].to_numpy())
    fast = fast.set_column(place, schema(RequestRow).field("answered_s"), pa.array(answered, from_pandas=True))
    slow = request_rows(one, one, 100 * one, n_samples=20)
    found = in_time(pa.concat_tables([fast, slow]), 11.5)
    assert found[["channel", "in_time"]].values.tolist() == [["25 KB/s", 0.0], ["fast", 0.3]]


def test_stage_means_add_up_to_each_side() -> None:
    """The stages of a side add up to its time, in the order in which they happen; one may be missing from a request."""
    rng = np.random.default_rng(0)
    encode, merge, decode = rng.exponential(size=(3, 24))
    table = stage_rows(
        {"encode": ("device", encode), "merge": ("device", merge), "decode": ("server", decode)}, repeats=2
    )
    sometimes = stage_rows({"upscale": ("server", np.ones(24))}, repeats=2).slice(0, 6)
    table = pa.concat_tables([table, sometimes])
    stages, sides = stage_times(table), side_times(table)
    assert stages["stage"].tolist() == ["encode", "merge", "decode", "upscale"]
    assert (stages["timed"] == 24).all()
    by_side = stages.groupby("side")["mean_s"].sum()
    assert by_side["device"] == pytest.approx(sides["device_s"].mean())
    assert by_side["server"] == pytest.approx(sides["server_s"].mean())
    assert len(sides) == 24
    assert np.allclose(sides["device_s"], encode + merge)


def test_a_sum_is_as_firm_as_its_least_firm_part() -> None:
    """One estimated stage makes its side and the total estimated, and leaves the other side measured."""
    times = np.ones(12)
    stages = pa.concat_tables([
        stage_rows({"encode": ("device", times)}),
        stage_rows({"prefill": ("server", times)}),
        stage_rows({"generate": ("server", times)}, source="estimated", machine="a data sheet"),
    ])  # fmt: skip
    sources = summarise(request_rows(times, times, times, n_samples=12), stages).set_index("part")["source"]
    assert sources[["device", "server", "total"]].tolist() == ["measured", "estimated", "estimated"]
    assert sources.isna()["link"], "the link is replayed"
    assert stage_times(stages)["source"].tolist() == ["measured", "measured", "estimated"]


def test_refuses_requests_without_stages() -> None:
    """Requests of a point that was never timed are refused: their numbers have no source."""
    one = np.ones(3)
    with pytest.raises(ResultsError, match="jpeg at q has requests but no stage rows"):
        summarise(request_rows(one, one, one, n_samples=3), schema(StageRow).empty_table())


def test_no_requests_no_rows() -> None:
    """An empty replay is summed up as an empty table, with the columns that any other has."""
    found = summarise(schema(RequestRow).empty_table(), schema(StageRow).empty_table())
    assert found.empty
    one = np.ones(3)
    stages = stage_rows({"encode": ("device", one)})
    assert list(found.columns) == list(summarise(request_rows(one, one, one, n_samples=3), stages).columns)
