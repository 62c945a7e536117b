"""Requests timed at the study's arrivals, over those timed back to back."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness.analysis import Analysis
from harness.analysis.pacing import compare
from harness.records import StageRow, schema


def rows(frame: pd.DataFrame) -> pa.Table:
    """Stage rows as a table."""
    return pa.Table.from_pandas(frame, schema=schema(StageRow), preserve_index=False)


@pytest.fixture(scope="module")
def stages(made_up: Analysis) -> pd.DataFrame:
    """The stage rows of one point of the made-up run, twelve pictures in three rounds."""
    frame = made_up.record.stages.to_pandas().query("pipeline == 'tofc'")
    return frame[frame["point"] == frame["point"].iloc[0]]


def test_what_idling_changes_is_the_ratio_within_rounds(made_up: Analysis, stages: pd.DataFrame) -> None:
    """Each request a tenth slower is a ratio of 1.1 without error, whatever the rounds or starts are like."""
    moved = stages.assign(seconds=stages["seconds"] * np.array([1.0, 1.3, 0.9])[stages["round"]], start=stages["round"])
    for timed in (stages, moved):
        paced = rows(timed.assign(seconds=1.1 * timed["seconds"]))
        found = compare(rows(timed), paced, made_up.population, confidence=0.95)
        assert found["side"].tolist() == ["device", "server"]
        for end in ("ratio_low", "ratio", "ratio_high"):
            np.testing.assert_allclose(found[end], 1.1)
        np.testing.assert_allclose(found["paced_s"], 1.1 * found["back_to_back_s"])


def test_ways_timed_in_different_starts_are_not_compared_within_rounds(made_up: Analysis, stages: pd.DataFrame) -> None:
    """Two starts do not show how starts scatter; with three of each their scatter is in the interval."""
    later = stages.assign(start=1)
    found = compare(rows(stages), rows(later), made_up.population, confidence=0.95)
    assert found["ratio_low"].isna().all()
    assert found["reason"].str.startswith("not comparable: timed in different starts of the process").all()
    factor = np.array([0.9, 1.0, 1.1])[stages["round"]]
    one, other = (stages.assign(seconds=stages["seconds"] * factor, start=stages["round"] + first) for first in (0, 3))
    together = compare(rows(one), rows(one), made_up.population, confidence=0.95)
    apart = compare(rows(one), rows(other), made_up.population, confidence=0.95)
    # Most of Student's quantile of four degrees times 10 % over the root of three, of both: requests scatter too.
    assert (np.log(apart["ratio_high"] / apart["ratio"]) > 0.6 * np.sqrt(2) * 2.78 * 0.1 / np.sqrt(3)).all()
    np.testing.assert_allclose(together["ratio_high"], 1.0)
