"""How long requests took: at each uplink from the replay's rows, and stage by stage from the timed ones.

    device = device_done - device_begun     link = (delivered - device_done) + (answered - server_done)
    server = server_done - server_begun     wait = (device_begun - submitted) + (server_begun - delivered)
    total = answered - submitted = device + link + wait + server

The answer's way back is link time, and so is waiting for the uplink; ``wait`` is waiting for the device and for a
server, zero with one user.

Intervals are percentile bootstraps that draw whole samples, since the repeats and replays of one sample are not
independent: a million requests replayed from twelve samples are known as well as twelve samples are. A percentile is
claimed only where the timed requests behind it certify it (:func:`required_samples`); elsewhere it is null.

    R requests of a cell   S different samples   M bins of rank   B resamples
"""

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.errors import ResultsError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CELL = ("replay", "channel", "users", "pipeline", "point")
"""What is kept apart when requests are summed up; seeds and users are not."""

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
"""From the firmest to the least firm; what is summed from several sources is as firm as the least firm of them."""

_COLUMNS = (
    *CELL, "part", "requests", "done", "timed",
    *(f"{statistic}{end}_s" for statistic in ("mean", *PERCENTILES) for end in ("", "_low", "_high")), "source",
)  # fmt: skip

_RESAMPLES = 400
_BINS = 1024


@functools.cache
def required_samples(percentile: float, confidence: float = 0.99) -> int:
    """The fewest samples that certify a percentile: MLPerf LoadGen's rule for stopping early with one sample above it.

    The smallest n with n (1 - p) p^(n - 1) + p^n <= 1 - confidence: 11 for p50, 64 for p90, 662 for p99 at 0.99.
    """
    n = 1
    while n * (1 - percentile) * percentile ** (n - 1) + percentile**n > 1 - confidence:
        n += 1
    return n


def summarise(requests: pa.Table, stages: pa.Table, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """The parts of the latency in each cell of a replay, from request rows and the stage rows they were drawn from.

    One row for each of :data:`CELL` and part (device, link, wait, server, total), by uplink (rates upwards, then those
    without one rate, by name) and in the order of the rows:

    - ``requests``; ``done``, how many of them finished the part; ``timed``, how many timed ones they were drawn from
    - ``mean_s`` over the requests that were answered, so that the parts' means add up to the total's; ``p50_s``,
      ``p90_s``, ``p99_s`` over all, one that did not finish the part counting as the slowest
    - with each its interval at ``confidence`` (``mean_low_s``, ``mean_high_s``); null for fewer than two samples
    - ``source``: the least firm of the part's stages'; null where it has none, as link and wait, which are replayed

    Raises ResultsError for requests of a point that has no stage rows.
    """
    timed = _timed_requests(stages)
    firmness = _sources(stages)
    found = []
    for cell, rows in _cells(requests):
        key = (cell["pipeline"], cell["point"])
        if key not in timed:
            raise ResultsError(
                f"{key[0]} at {key[1]} has requests but no stage rows; they were replayed from other rows"
            )
        names, sample_R = _codes(rows["sample"])
        weights_BS = _weights(len(names), seed)
        answered_R = np.isfinite(part_s(rows, "total"))
        for part in PARTS:
            seconds_R = part_s(rows, part)
            found.append(
                {
                    **cell,
                    "part": part,
                    "requests": rows.num_rows,
                    "done": int(np.isfinite(seconds_R).sum()),
                    "timed": timed[key],
                    **_mean(np.where(answered_R, seconds_R, np.nan), sample_R, weights_BS, confidence),
                    **_percentiles(seconds_R, sample_R, weights_BS, confidence, timed[key]),
                    "source": _part_source(firmness, key, part),
                }
            )
    return pd.DataFrame(found, columns=list(_COLUMNS))


def part_s(requests: pa.Table, part: str) -> Floats:
    """How long one of :data:`PARTS` of every request took, in seconds; NaN where it was not finished."""
    return np.asarray(sum(_column(requests, end) - _column(requests, start) for start, end in PARTS[part]))


def total_s(requests: pa.Table) -> Floats:
    """T of every request: from its submission to its answer; infinity where there was none."""
    return np.nan_to_num(part_s(requests, "total"), nan=np.inf)


def share_in_time(seconds_R: Floats, deadline_s: float) -> float:
    """The share of requests answered within a deadline, from their T; one never answered (infinity) has missed it."""
    return float((seconds_R <= deadline_s).mean())


def in_time(requests: pa.Table, deadline_s: float) -> pd.DataFrame:
    """:func:`share_in_time` in each cell of a replay, in the order of :func:`summarise`: :data:`CELL` and a share."""
    found = [{**cell, "in_time": share_in_time(total_s(rows), deadline_s)} for cell, rows in _cells(requests)]
    return pd.DataFrame(found, columns=[*CELL, "in_time"])


def percentile(seconds_R: Floats, share: float) -> float:
    """The fastest time that a share of all requests does not exceed (nearest rank), ``share`` above 0 and at most 1.

    It is the time of an actual request: infinity where that was never done (NaN or infinity), which counts as the
    slowest.
    """
    rank = _rank(share, len(seconds_R))
    return float(np.partition(np.where(np.isnan(seconds_R), np.inf, seconds_R), rank)[rank])


def stage_times(stages: pa.Table, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """How long each stage of each point takes, a row a stage in the order in which they happen.

    ``mean_s`` over the point's timed requests (``timed``; one without the stage counts as zero, so that the means add
    up to T_device and T_server), its interval, ``cpu_s``, the mean processor time (null where a row has none),
    ``source`` (the least firm) and ``machine`` (all of them).
    """
    rows = stages.to_pandas()
    found = []
    for (pipeline, point), timed in rows.groupby(["pipeline", "point"], sort=False):
        requests = timed[["sample", "repeat"]].drop_duplicates()
        sample_R, names = pd.factorize(requests["sample"])
        index = pd.MultiIndex.from_frame(requests)
        weights_BS = _weights(len(names), seed)
        for (side, stage), of_stage in timed.groupby(["side", "stage"], sort=False):
            seconds_R = (
                of_stage.groupby(["sample", "repeat"])["seconds"].sum().reindex(index, fill_value=0.0).to_numpy()
            )
            complete = bool(of_stage["cpu_s"].notna().all())
            found.append(
                {
                    "pipeline": pipeline,
                    "point": point,
                    "side": side,
                    "stage": stage,
                    "timed": len(requests),
                    **_mean(seconds_R, sample_R.astype(np.int64), weights_BS, confidence),
                    "cpu_s": of_stage["cpu_s"].sum() / len(requests) if complete else np.nan,
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


def _cells(requests: pa.Table) -> Iterator[tuple[dict[str, object], pa.Table]]:
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


def _weights(n_samples: int, seed: int) -> Floats:
    """How often each of S samples counts in each resample, (B, S)."""
    rng = np.random.default_rng(seed)
    drawn_BS = rng.integers(n_samples, size=(_RESAMPLES, n_samples)) + n_samples * np.arange(_RESAMPLES)[:, None]
    return np.bincount(drawn_BS.ravel(), minlength=_RESAMPLES * n_samples).reshape(_RESAMPLES, -1).astype(np.float64)


def _mean(seconds_R: Floats, sample_R: Ints, weights_BS: Floats, confidence: float) -> dict[str, float]:
    done_R = np.isfinite(seconds_R)
    if not done_R.any():
        return {"mean_s": np.nan, "mean_low_s": np.nan, "mean_high_s": np.nan}
    n_samples = weights_BS.shape[1]
    sum_S = np.bincount(sample_R[done_R], weights=seconds_R[done_R], minlength=n_samples)
    n_S = np.bincount(sample_R[done_R], minlength=n_samples)
    n_B = weights_BS @ n_S
    mean_B = np.divide(weights_BS @ sum_S, n_B, out=np.full(n_B.shape, np.nan), where=n_B > 0)
    low, high = _interval(mean_B, n_samples, confidence)
    return {"mean_s": float(seconds_R[done_R].mean()), "mean_low_s": low, "mean_high_s": high}


def _percentiles(
    seconds_R: Floats, sample_R: Ints, weights_BS: Floats, confidence: float, n_timed: int
) -> dict[str, float]:
    """Those of :func:`percentile` that are claimed, with their intervals."""
    n = len(seconds_R)
    claimed = {name: p for name, p in PERCENTILES.items() if min(n, n_timed) >= required_samples(p)}
    found = {f"{name}{end}": np.nan for name in PERCENTILES for end in ("_s", "_low_s", "_high_s")}
    if not claimed:
        return found
    order = np.argsort(np.nan_to_num(seconds_R, nan=np.inf), kind="stable")
    ranked_R = seconds_R[order]

    # A resample's percentile is where its weights, accumulated over the ranks, pass p; many ranks share bins.
    n_samples, n_bins = weights_BS.shape[1], min(n, _BINS)
    bin_R = np.arange(n) * n_bins // n
    counts_SM = np.bincount(sample_R[order] * n_bins + bin_R, minlength=n_samples * n_bins).reshape(n_samples, n_bins)
    below_BM = np.cumsum(weights_BS.astype(np.float32) @ counts_SM.astype(np.float32), axis=1, dtype=np.float64)
    last_of_bin = np.r_[np.flatnonzero(np.diff(bin_R)), n - 1]
    for name, p in claimed.items():
        bin_B = (below_BM < p * below_BM[:, -1:] * (1 - 1e-12)).sum(axis=1)
        low, high = _interval(ranked_R[last_of_bin[bin_B]], n_samples, confidence)
        found |= {f"{name}_s": _finite(ranked_R[_rank(p, n)]), f"{name}_low_s": low, f"{name}_high_s": high}
    return found


def _rank(share: float, n: int) -> int:
    """The place, from 0, of a percentile among n ordered times; p n is not moved a rank by its rounding."""
    return max(math.ceil(share * n * (1 - 1e-12)), 1) - 1


def _interval(statistic_B: Floats, n_samples: int, confidence: float) -> tuple[float, float]:
    """The percentile interval of a resampled statistic, null from a single sample."""
    if n_samples < 2:
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.nan_to_num(statistic_B, nan=np.inf), [tail, 1 - tail], method="inverted_cdf")
    return _finite(low), _finite(high)


def _finite(seconds: float) -> float:
    """The time itself, or NaN for one that lies among the requests never done."""
    return float(seconds) if np.isfinite(seconds) else np.nan


def _timed_requests(stages: pa.Table) -> dict[tuple[str, str], int]:
    """How many requests were timed at each (pipeline, point)."""
    keys = ["pipeline", "point", "sample", "repeat"]
    requests = stages.group_by(keys).aggregate([])
    counts = requests.group_by(["pipeline", "point"]).aggregate([("sample", "count")]).to_pylist()
    return {(row["pipeline"], row["point"]): row["sample_count"] for row in counts}


def _sources(stages: pa.Table) -> dict[tuple[str, str, str], str]:
    """The least firm source at each (pipeline, point, side)."""
    rows = stages.group_by(["pipeline", "point", "side", "source"]).aggregate([]).to_pandas()
    sides = rows.groupby(["pipeline", "point", "side"])["source"]
    return {(pipeline, point, side): _least_firm(sources) for (pipeline, point, side), sources in sides}


def _least_firm(sources: "pd.Series[str]") -> str:
    return max(sources, key=SOURCES.index)


def _part_source(firmness: dict[tuple[str, str, str], str], key: tuple[str, str], part: str) -> str | None:
    sides = ("device", "server") if part == "total" else (part,)
    sources = [firmness[*key, side] for side in sides if (*key, side) in firmness]
    return max(sources, key=SOURCES.index) if sources else None
