"""The parts of a latency: sums that must hold, and what a percentile is."""

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
    part_s,
    part_source,
    percentile,
    required_samples,
    side_times,
    sources,
    stage_times,
    total_s,
)
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
            "cpu_s": np.nan, "waited_s": np.nan, "load": np.nan, "machine": "m", "source": "measured",
        }  # fmt: skip
        frames.append(pd.DataFrame({**frame, **constants}))
    return pa.Table.from_pandas(pd.concat(frames), schema=schema(StageRow), preserve_index=False)


def request_rows(
    device: np.ndarray, link: np.ndarray, server: np.ndarray, n_samples: int, wait: Any = 0.0, **constants: object
) -> pa.Table:
    """Request rows of one cell, whose parts take the given seconds; request i shows sample i modulo ``n_samples``.

    A third of the wait is for the device, and a quarter of the link's time is the return of the answer.
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


@pytest.mark.parametrize(("percentile", "needed"), [(0.5, 11), (0.9, 64), (0.99, 662)])
def test_required_samples_are_loadgens(percentile: float, needed: int) -> None:
    """64 samples certify p90 and 662 p99 (MLPerf LoadGen), the first n whose binomial tail is below one per cent."""
    assert required_samples(percentile) == needed
    assert binom.cdf(1, needed, 1 - percentile) <= 0.01 < binom.cdf(1, needed - 1, 1 - percentile)


@pytest.mark.slow
@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_to_the_total(n: int, seed: int) -> None:
    """Device, link, wait and server of every request equal the input and add up to its total."""
    rng = np.random.default_rng(seed)
    device, link, server, wait = rng.exponential(size=(4, n))
    rows = request_rows(device, link, server, n_samples=n, wait=wait)
    wanted = {"device": device, "link": link, "wait": wait, "server": server}
    assert list(PARTS) == [*wanted, "total"]
    for name, seconds in wanted.items():
        np.testing.assert_allclose(part_s(rows, name), seconds, atol=1e-9)
    np.testing.assert_allclose(sum(part_s(rows, name) for name in wanted), total_s(rows), atol=1e-9)


@pytest.mark.slow
@given(st.lists(st.floats(0, 10) | st.sampled_from([np.nan, np.inf]), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_the_time_of_a_request(seconds: list[float], share: float) -> None:
    """At least that share of all requests is as fast, fewer are faster; a request never answered is the slowest."""
    times = np.array([np.inf if np.isnan(s) else s for s in seconds])
    found = percentile(np.array(seconds), share)
    assert found in times
    assert (times <= found).mean() >= share - 1e-9
    assert (times < found).mean() < share


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


def test_a_sum_is_only_as_certain_as_its_least_certain_part() -> None:
    """One estimated stage makes its side and the total estimated, and leaves the other side measured."""
    times = np.ones(12)
    stages = pa.concat_tables([
        stage_rows({"encode": ("device", times)}),
        stage_rows({"prefill": ("server", times)}),
        stage_rows({"generate": ("server", times)}, source="estimated", machine="a data sheet"),
    ])  # fmt: skip
    firmness = sources(stages)
    of_part = {name: part_source(firmness, ("jpeg", "q"), name) for name in PARTS}
    assert (of_part["device"], of_part["server"], of_part["total"]) == ("measured", "estimated", "estimated")
    assert of_part["link"] is None, "the link is replayed"
    assert stage_times(stages)["source"].tolist() == ["measured", "measured", "estimated"]
