"""How much longer requests take that are timed as the study's come, over those timed back to back."""

import numpy as np
import pandas as pd
import pyarrow as pa

from harness.analysis import means
from harness.analysis.cells import Population
from harness.analysis.latency import side_times

COLUMNS = ("pipeline", "point", "side", "back_to_back_s", "paced_s", "ratio", "ratio_low", "ratio_high", "reason")


def compare(stages: pa.Table, paced: pa.Table, population: Population, *, confidence: float = 0.95) -> pd.DataFrame:
    """A row for each point and side that was measured both ways; columns :data:`COLUMNS`, means in seconds.

    ``ratio`` is that of the paced mean to the other, within rounds
    (:func:`harness.analysis.means.ratio_within_rounds`). A side with a request that has no stage there has no row.
    """
    if not paced.num_rows:
        return pd.DataFrame(columns=list(COLUMNS))
    keys = ["pipeline", "point", "sample", "repeat"]
    both = side_times(stages).merge(side_times(paced), on=keys, suffixes=("_back", "_paced"))
    measured = {
        (row["pipeline"], row["point"], row["side"])
        for row in paced.group_by(["pipeline", "point", "side", "source"]).aggregate([]).to_pylist()
        if row["source"] == "measured"
    }
    found = []
    for (pipeline, point), of_point in both.groupby(["pipeline", "point"], sort=False):
        for side in ("device", "server"):
            back_SR, paced_SR = (
                of_point.pivot(index="sample", columns="repeat", values=f"{side}_s_{way}").dropna()
                for way in ("back", "paced")
            )
            no_stage = (back_SR <= 0).any(axis=None) or (paced_SR <= 0).any(axis=None)
            if (pipeline, point, side) not in measured or back_SR.empty or no_stage:
                continue
            stratum_S = np.array([population.stratum_of[str(sample)] for sample in back_SR.index])
            strata = stratum_S, population.stratum_N
            ratio = means.ratio_within_rounds(paced_SR, back_SR, *strata, confidence=confidence)
            back, spaced = (means.mean_latency(seconds_SR, *strata).value for seconds_SR in (back_SR, paced_SR))
            row = (pipeline, point, side, back, spaced, ratio.value, ratio.low, ratio.high, ratio.reason)
            found.append(dict(zip(COLUMNS, row, strict=True)))
    return pd.DataFrame(found, columns=list(COLUMNS))
