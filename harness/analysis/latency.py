"""How long requests took: the parts of each, what a percentile is, and the stages of the timed ones.

    device = device_done - device_begun     link = (delivered - device_done) + (answered - server_done)
    server = server_done - server_begun     wait = (device_begun - submitted) + (server_begun - delivered)
    total = answered - submitted = device + link + wait + server

The answer's way back is link time, and so is waiting for the uplink; ``wait`` is waiting for the device and for a
server, zero with one user.

Intervals are those of :mod:`harness.analysis.means`, over pictures; latencies at each uplink are
:mod:`harness.analysis.cells`'s.
"""

import collections
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.analysis.means import mean_latency

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UPLINK = ["replay", "channel", "users"]
"""What identifies an uplink of a replay."""

CELL = (*UPLINK, "pipeline", "point")
"""The keys by which requests are summed up; seeds and users are pooled."""

PARTS = {
    "device": (("device_begun_s", "device_done_s"),),
    "link": (("device_done_s", "delivered_s"), ("server_done_s", "answered_s")),
    "wait": (("submitted_s", "device_begun_s"), ("delivered_s", "server_begun_s")),
    "server": (("server_begun_s", "server_done_s"),),
    "total": (("submitted_s", "answered_s"),),
}
"""The stretches, from one instant to another, that each part of the latency consists of."""

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}

SOURCES = ("measured", "recorded", "estimated", "reported")
"""From the strongest to the weakest; what is summed from several sources has the weakest of them."""

COLUMNS = (
    *CELL, "part", "requests", "done", "timed",
    *(f"{statistic}{end}_s" for statistic in ("mean", *PERCENTILES) for end in ("", "_low", "_high")),
    "share", "share_low", "share_high", "source", "reason",
)  # fmt: skip


@functools.cache
def required_samples(percentile: float, confidence: float = 0.99) -> int:
    """The fewest samples that certify a percentile: MLPerf LoadGen's rule for stopping early with one sample above it.

    The smallest n with n (1 - p) p^(n - 1) + p^n <= 1 - confidence: 11 for p50, 64 for p90, 662 for p99 at 0.99.
    """
    n = 1
    while n * (1 - percentile) * percentile ** (n - 1) + percentile**n > 1 - confidence:
        n += 1
    return n


def part_s(requests: pa.Table, part: str) -> Floats:
    """How long one of :data:`PARTS` of every request took, in seconds; NaN where it was not finished."""
    return np.asarray(sum(_column(requests, end) - _column(requests, start) for start, end in PARTS[part]))


def total_s(requests: pa.Table) -> Floats:
    """T of every request: from its submission to its answer; infinity where there was none."""
    return np.nan_to_num(part_s(requests, "total"), nan=np.inf)


def share_in_time(seconds_R: Floats, deadline_s: float) -> float:
    """The share of requests answered within a deadline, from their T; one never answered (infinity) has missed it."""
    return float((seconds_R <= deadline_s).mean())


def percentile(seconds_R: Floats, share: float) -> float:
    """The fastest time that a share of all requests does not exceed (nearest rank), ``share`` above 0 and at most 1.

    It is the time of an actual request: infinity where that was never done (NaN or infinity), which counts as the
    slowest.
    """
    rank = _rank(share, len(seconds_R))
    return float(np.partition(np.where(np.isnan(seconds_R), np.inf, seconds_R), rank)[rank])


def stage_times(stages: pa.Table, *, confidence: float = 0.95) -> pd.DataFrame:
    """How long each stage of each point takes, a row a stage in the order in which they happen.

    ``mean_s`` over the point's timed requests (``timed``; one without the stage counts as zero, so that the means add
    up to T_device and T_server), its interval over the timed pictures (null where some requests have no such stage),
    ``cpu_s``, the mean processor time (null where a row has none), ``source`` (the weakest) and ``machine`` (all of
    them).
    """
    rows = stages.to_pandas()
    found = []
    for (pipeline, point), timed in rows.groupby(["pipeline", "point"], sort=False):
        requests = timed[["sample", "repeat"]].drop_duplicates().sort_values(["sample", "repeat"])
        index = pd.MultiIndex.from_frame(requests)
        n_pictures = requests["sample"].nunique()
        complete = len(requests) % n_pictures == 0
        start_R = timed.groupby(["sample", "repeat"])["start"].min().reindex(index).to_numpy()
        start_R = start_R.reshape(n_pictures, -1).min(axis=0) if complete else None
        for (side, stage), of_stage in timed.groupby(["side", "stage"], sort=False):
            seconds_R = (
                of_stage.groupby(["sample", "repeat"])["seconds"].sum().reindex(index, fill_value=0.0).to_numpy()
            )
            low = high = np.nan
            if complete and (seconds_R > 0).all():
                seconds_SR = seconds_R.reshape(n_pictures, -1)
                estimate = mean_latency(seconds_SR, start_R=start_R, confidence=confidence)
                low, high = estimate.low, estimate.high
            known = bool(of_stage["cpu_s"].notna().all())
            found.append(
                {
                    "pipeline": pipeline,
                    "point": point,
                    "side": side,
                    "stage": stage,
                    "timed": len(requests),
                    "mean_s": float(seconds_R.mean()),
                    "mean_low_s": low,
                    "mean_high_s": high,
                    "cpu_s": of_stage["cpu_s"].sum() / len(requests) if known else np.nan,
                    "source": _least_firm(of_stage["source"]),
                    "machine": ", ".join(dict.fromkeys(of_stage["machine"])),
                }
            )
    return pd.DataFrame(found)


def side_times(stages: pa.Table) -> pd.DataFrame:
    """T_device and T_server of each timed request: the sums of its device stages and of its server stages, in seconds.

    Columns ``pipeline``, ``point``, ``sample``, ``repeat``, ``device_s``, ``server_s``; zero where a side has no stage.
    """
    keys = ["pipeline", "point", "sample", "repeat"]
    sums = stages.group_by([*keys, "side"], use_threads=False).aggregate([("seconds", "sum")]).to_pandas()
    wide: pd.DataFrame = sums.pivot_table(index=keys, columns="side", values="seconds_sum", fill_value=0.0, sort=False)
    wide = wide.reindex(columns=["device", "server"], fill_value=0.0).add_suffix("_s").reset_index()
    wide.columns.name = None
    return wide


def cells(requests: pa.Table) -> Iterator[tuple[dict[str, object], pa.Table]]:
    """The rows of each cell: by uplink, rates upwards, then those without one rate; else in the order of the rows."""
    code_R = np.zeros(requests.num_rows, dtype=np.int64)
    for name in CELL:
        values, code = _codes(requests[name])
        code_R = code_R * len(values) + code
    cells, first, code_R = np.unique(code_R, return_index=True, return_inverse=True)
    order = pa.array(np.argsort(code_R, kind="stable"))
    bounds = np.r_[0, np.cumsum(np.bincount(code_R, minlength=len(cells)))]
    keys = requests.select(CELL).take(pa.array(first)).to_pylist()
    rate_bps = np.nan_to_num(_column(requests, "rate_bps")[first], nan=np.inf)
    for cell in sorted(range(len(cells)), key=lambda cell: (rate_bps[cell], keys[cell]["channel"], first[cell])):
        yield keys[cell], requests.take(order[bounds[cell] : bounds[cell + 1]])


def _codes(column: pa.ChunkedArray) -> tuple[Sequence[object], Ints]:
    """The different values of a column, and the place among them of each row's."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)


def _column(rows: pa.Table, name: str) -> Floats:
    """A column of floats with NaN for null."""
    return np.asarray(rows[name].to_numpy(), dtype=np.float64)


def _rank(share: float, n: int) -> int:
    """The place, from 0, of a percentile among n ordered times; p n is not moved a rank by its rounding."""
    return max(math.ceil(share * n * (1 - 1e-12)), 1) - 1


def sources(stages: pa.Table) -> dict[tuple[str, str, str], str]:
    """The weakest source at each (pipeline, point, side)."""
    rows = stages.group_by(["pipeline", "point", "side", "source"]).aggregate([]).to_pandas()
    sides = rows.groupby(["pipeline", "point", "side"])["source"]
    return {(pipeline, point, side): _least_firm(named) for (pipeline, point, side), named in sides}


def _least_firm(named: "pd.Series[str]") -> str:
    return max(named, key=SOURCES.index)


def part_source(firmness: Mapping[tuple[str, str, str], str], key: tuple[str, str], part: str) -> str | None:
    """The weakest source of a part of a point's latency; None where it has none."""
    sides = ("device", "server") if part == "total" else (part,)
    named = [firmness[*key, side] for side in sides if (*key, side) in firmness]
    return max(named, key=SOURCES.index) if named else None


def at_uplinks(points: pd.DataFrame, times: pd.DataFrame, *, reaching: bool = True) -> pd.DataFrame:
    """:attr:`harness.analysis.Analysis.numbers` of points and times; ``reaching`` is false if no score is claimed."""
    statistics = [name for name in times.columns if name.endswith("_s")]
    of_part = [*statistics, "done", "source", "reason"]
    index = [*UPLINK, "pipeline", "point", "requests", "timed"]
    wide = times.pivot(index=index, columns="part", values=of_part)
    wide.columns = pd.Index([f"{column[1]}_{column[0]}" for column in wide.columns.to_list()])
    # No request at all has no part; its columns are there all the same.
    wide = wide.reindex(columns=[f"{part}_{name}" for name in of_part for part in PARTS])
    wide = times[UPLINK].drop_duplicates(ignore_index=True).merge(wide.infer_objects().reset_index(), on=UPLINK)
    shares = times.loc[times["part"] == "total", [*CELL, "share", "share_low", "share_high"]]
    shares = shares.rename(columns=lambda name: name.replace("share", "in_time"))
    wide = wide.merge(shares, on=list(CELL), how="left")
    rows = []
    for pipeline, of_pipeline in points.groupby("pipeline", sort=False):
        selected = of_pipeline[of_pipeline["selected"]]
        shown = len(selected) == 1
        point = selected if shown else of_pipeline.nlargest(1, "score")
        point = point.drop(columns=["selected", "admissible"]).assign(reaches=shown and reaching, shown=shown)
        timed = wide[wide["pipeline"] == pipeline] if shown else wide.iloc[:0]
        rows.append(point.merge(timed, on=["pipeline", "point"], how="left"))
    found = pd.concat(rows, ignore_index=True)
    numeric = [f"{part}_{name}" for name in (*statistics, "done") for part in PARTS]
    numeric += ["in_time", "in_time_low", "in_time_high", "requests", "timed"]
    wrong = [name for name in (*numeric, "users") if found[name].dtype != np.float64]
    return found.astype(dict.fromkeys(wrong, float))


def link_and_wait(requests: pa.Table, pipeline: str, point: str, channel: str, sample: str) -> dict[str, float] | None:
    """The mean ``link`` and ``wait`` time of a point's requests of one sample at an uplink with the fewest users.

    In seconds; None where it has no such request that was answered.
    """
    rows = requests
    wanted = {"pipeline": pipeline, "point": point, "channel": channel, "sample": sample}
    for name, value in wanted.items():
        rows = rows.filter(pc.equal(rows[name], value))
    rows = rows.filter(pc.is_valid(rows["answered_s"]))
    if not rows.num_rows:
        return None
    rows = rows.filter(pc.equal(rows["users"], pc.min(rows["users"])))
    return {part: float(part_s(rows, part).mean()) for part in ("link", "wait")}


def times_answered(requests: pa.Table, channels: Sequence[str]) -> Mapping[str, int]:
    """By sample, at how many of these uplinks how many of the schemes had a request of it answered."""
    answered, asked = pc.is_valid(requests["answered_s"]), pc.is_in(requests["channel"], pa.array(channels))
    rows = requests.filter(pc.and_(answered, asked))
    found = rows.group_by(["pipeline", "channel", "sample"], use_threads=False).aggregate([])
    return collections.Counter(found["sample"].to_pylist())
