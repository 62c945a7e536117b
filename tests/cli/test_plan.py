"""``harness plan``: how much to measure, from a run's own variances."""

import math
import re
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import pytest

from harness.analysis import Analysis, means, planning, precision
from harness.cli.plan import _bytes as of_bytes
from harness.cli.plan import _latency as of_latency
from harness.cli.plan import _rounds as of_rounds

Run = Callable[..., tuple[int, str, str]]


def test_a_plan_is_of_a_runs_own_variances(made_up: Analysis) -> None:
    """Pictures and rounds of each scheme follow its components of variance, and a tenth of the width needs more."""
    rough = planning.plan(made_up, latency=0.05, payload=0.1, score=2.0).set_index("pipeline")
    fine = planning.plan(made_up, latency=0.005, payload=0.01, score=0.2).set_index("pipeline")
    timed = made_up.setting.timed(("jpeg", str(rough.loc["jpeg", "point"])))
    found = precision.components(timed.total_SR, np.full(12, 13.0), np.full(240, 13.0))
    half = precision.half_width(found, *rough.loc["jpeg", ["pictures", "rounds"]].astype(int))
    assert half <= 0.05
    some = fine["pictures"] > 0
    assert some.any()
    assert (fine["pictures"] * fine["rounds"] > rough["pictures"] * rough["rounds"])[some].all()
    assert fine.loc[~some, "latency_reason"].str.contains("rounds drift").all()
    assert (rough["rounds"] >= means.MIN_ROUNDS).all()
    assert rough["score_pictures"].isna().tolist() == [name == "server_only" for name in rough.index]
    ratio = (fine["score_pictures"] / rough["score_pictures"]).dropna()
    np.testing.assert_allclose(ratio, 100, rtol=0.05)
    assert rough["bytes_pictures"]["webp"] > 60
    for name in ("pictures", "score_pictures"):
        told = rough[rough[name] > 0]
        assert (told[f"{name}_low"] <= told[name]).all()
        assert (told[name] <= told[f"{name}_high"]).all()
    assert (rough["pictures_high_same_drift"] <= rough["pictures_high"]).all()
    assert fine.loc[~some, ["pictures_low", "pictures_high", "pictures_high_same_drift"]].isna().all(axis=None)


@pytest.mark.slow
def test_a_plan_is_printed_for_a_run_and_for_a_scenario(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """A line for each scheme; a scenario's run is searched under the results, and an absent one is reported."""
    status, out, err = harness("plan", made_up.record.folder)
    assert (status, err) == (0, "")
    assert re.search(r"\d \(6 to \d+ or more\) +3 ", out)
    told = " ".join(out.split())
    assert "in brackets the 95 % interval of the number that the true variances need" in told
    assert "about half of the studies of the planned size reach the precision" in told
    assert "or more: if the rounds drift by more than was seen" in told
    assert "about 199" in told
    assert "bytes have no interval" in told
    assert "measure: {timed_samples: 8, repeats: 6}" in told
    assert "now: 12 timed pictures x 3 rounds; 60 pictures with questions" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    smoke = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
    status, _, err = harness("plan", smoke, "--results", tmp_path)
    assert status == 2
    assert str(tmp_path / "smoke") in err


def test_each_number_has_its_interval() -> None:
    """An upper end that is unbounded is that at the run's own drift, or more; one of bytes says what is too few."""
    row: dict[Hashable, float] = {
        "pictures": 1022,
        "pictures_low": 13.0,
        "pictures_high": 4800.0,
        "rounds": 3,
        "starts": 0,
    }
    assert of_latency({**row, "pictures_high_same_drift": 48.0}) == "1,022 (13 to 4,800)"
    assert of_rounds(row) == "3"
    row |= {"pictures_high": math.inf, "rounds": 9, "starts": 3}
    assert of_rounds(row) == "9 in 3 starts"
    assert of_latency({**row, "pictures_high_same_drift": 48.0}) == "1,022 (13 to 48 or more)"
    assert of_latency({**row, "pictures_high_same_drift": math.inf}) == "1,022 (13 or more)"
    assert of_latency({**row, "pictures": 0}) == of_rounds({**row, "pictures": 0}) == "-"
    assert [of_bytes(n, 60) for n in (math.nan, math.inf, 1400.0)] == ["-", "more than 60", "about 1,400"]


@pytest.mark.parametrize("option", ["--latency", "--bytes", "--score"])
def test_a_precision_of_zero_is_refused(harness: Run, made_up: Analysis, option: str) -> None:
    """A precision must be above 0."""
    assert harness("plan", made_up.record.folder, option, "0")[0] == 2
