"""How much longer requests take at the study's arrival times than back to back."""

from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from harness.analysis import means
from harness.analysis.latency import side_times
from harness.analysis.setting import Population, Timed, ratio_of
from harness.records import Side

COLUMNS = ("pipeline", "point", "side", "back_to_back_s", "paced_s", "ratio", "ratio_low", "ratio_high", "reason")


def compare(stages: pa.Table, paced: pa.Table, population: Population, *, confidence: float = 0.95) -> pd.DataFrame:
    """A row for each point and side that was measured both ways; columns :data:`COLUMNS`, means in seconds.

    ``ratio`` is that of the paced mean to the other, within rounds (:func:`harness.analysis.setting.ratio_of`). A side
    with a request that has no stage there has no row.
    """
    if not paced.num_rows:
        return pd.DataFrame(columns=list(COLUMNS))
    keys = ["pipeline", "point", "sample", "repeat"]
    both = _timed(stages).merge(_timed(paced), on=keys, suffixes=("_back", "_paced"))
    measured = {
        (row["pipeline"], row["point"], row["side"])
        for row in paced.group_by(["pipeline", "point", "side", "source"]).aggregate([]).to_pylist()
        if row["source"] == "measured"
    }
    found = []
    for (pipeline, point), of_point in both.groupby(["pipeline", "point"], sort=False):
        back, spaced = (_of_way(of_point, way) for way in ("back", "paced"))
        stratum_S = np.array([population.stratum_of[sample] for sample in back.samples])
        strata = stratum_S, population.stratum_N
        for side in get_args(Side):
            seconds = [getattr(one, f"{side}_SR") for one in (spaced, back)]
            no_stage = any((seconds_SR <= 0).any() for seconds_SR in seconds)
            if (pipeline, point, side) not in measured or not back.samples or no_stage:
                continue
            ratio = ratio_of(spaced, back, *strata, side=side, confidence=confidence)
            mean_s = [means.mean_latency(seconds_SR, *strata).value for seconds_SR in reversed(seconds)]
            row = (pipeline, point, side, *mean_s, ratio.value, ratio.low, ratio.high, ratio.reason)
            found.append(dict(zip(COLUMNS, row, strict=True)))
    return pd.DataFrame(found, columns=list(COLUMNS))


def _timed(stages: pa.Table) -> pd.DataFrame:
    """The times of each request by side, and in which start of the process it was timed."""
    keys = ["pipeline", "point", "sample", "repeat"]
    starts = stages.group_by(keys).aggregate([("start", "min")]).to_pandas().rename(columns={"start_min": "start"})
    return side_times(stages).merge(starts, on=keys)


def _of_way(both: pd.DataFrame, way: str) -> Timed:
    """A point's requests of one way; samples that were not timed in every round are left out."""
    names = ("device_s", "server_s", "start")
    wide = both.pivot(index="sample", columns="repeat", values=[f"{name}_{way}" for name in names]).dropna()
    device_SR, server_SR, start_SR = (wide[f"{name}_{way}"].to_numpy() for name in names)
    samples, start_SR = tuple(map(str, wide.index)), start_SR.astype(np.int64)
    return Timed(samples=samples, device_SR=device_SR, server_SR=server_SR, start_SR=start_SR)
