"""``harness plan``: how much to measure, from a run's own variances."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.analysis import Analysis, means, precision

Run = Callable[..., tuple[int, str, str]]


def test_a_plan_is_of_a_runs_own_variances(made_up: Analysis) -> None:
    """Pictures and rounds of each scheme follow its components of variance, and a tenth of the width needs more."""
    rough = precision.plan(made_up, latency=0.05, payload=0.1, score=2.0).set_index("pipeline")
    fine = precision.plan(made_up, latency=0.005, payload=0.01, score=0.2).set_index("pipeline")
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


def test_a_plan_is_printed_for_a_run_and_for_a_scenario(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """A line for each scheme; a scenario's run is searched under the results, and an absent one is reported."""
    status, out, err = harness("plan", made_up.record.folder)
    assert (status, err) == (0, "")
    assert "pictures x" in out
    assert "now: 12 timed pictures x 3 rounds; 60 pictures with questions" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    smoke = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
    status, _, err = harness("plan", smoke, "--results", tmp_path)
    assert status == 2
    assert str(tmp_path / "smoke") in err


@pytest.mark.parametrize("option", ["--latency", "--bytes", "--score"])
def test_a_precision_of_zero_is_refused(harness: Run, made_up: Analysis, option: str) -> None:
    """A precision must be above 0."""
    assert harness("plan", made_up.record.folder, option, "0")[0] == 2
