"""The timed tier's test: exact, against a minimum effect, and on both sets."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import slowdown
from harness.analysis.slowdown import POOLED, TIMED_COLUMNS, Gate
from harness.errors import ResultsError

GATE = Gate()


@pytest.mark.slow
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12, unique=True), st.floats(-0.5, 0.5))
def test_the_test_is_the_exact_signed_rank_test(d: list[float], bound: float) -> None:
    """SciPy's exact p, wherever no two differences are equal in size or zero."""
    centred = np.asarray(d) - bound
    if len(set(np.abs(centred))) < len(d) or (np.abs(centred) < 1e-9).any():
        return
    # Sums of two values that are nearly opposite are rounded otherwise in the two.
    first, second = np.triu_indices(len(d))
    if (np.abs(centred[first] + centred[second]) < 1e-9).any():
        return
    wanted = scipy.stats.wilcoxon(centred, alternative="greater", method="exact").pvalue
    assert slowdown.at_most(d, bound) == pytest.approx(wanted, abs=1e-12)


def test_the_interval_covers_the_centre_as_often_as_stated() -> None:
    """Of seeded samples of a heavy-tailed symmetric law, in at least the share promised, within the noise of 2,000."""
    rng = np.random.default_rng(0)
    ends = [slowdown.hodges_lehmann(rng.standard_t(3, 12))[1:] for _ in range(2000)]
    held = np.mean([low <= 0 <= high for low, high in ends])
    assert 0.94 <= held <= 0.975


def test_too_few_values_have_no_interval() -> None:
    """Five values cannot give 95 %: the ends are unbounded, not narrow."""
    assert slowdown.hodges_lehmann([0.1, 0.2, 0.3, 0.4, 0.5])[1:] == (-math.inf, math.inf)


def test_holm_is_the_closed_form() -> None:
    """The smallest is multiplied by their number, each later one by the rest's, and none falls below one before."""
    assert slowdown.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert slowdown.holm([0.9, 0.8]) == [1.0, 1.0]


def ratios(rng: np.random.Generator, pairs: int = 20, noise: float = 0.03) -> dict[slowdown.Part, np.ndarray]:
    """Two schemes' stages of a commit with itself."""
    return {(p, f"device/{s}"): rng.normal(0, noise, pairs) for p in ("tofc", "jpeg") for s in ("a", "b", "c")}


def test_a_planted_slowdown_is_found_and_nothing_else() -> None:
    """15 % on one of six stages fails in at least 95 of 100 seeded nights, and no other stage does in any."""
    caught = 0
    for night in range(100):
        rng = np.random.default_rng(night)
        sets = [ratios(rng), ratios(rng)]
        for one in sets:
            one["tofc", "device/b"] += math.log(1.15)
        slower = [(t.pipeline, t.part) for t in slowdown.judge(sets[0], GATE, sets[1]) if t.verdict == "slower"]
        assert set(slower) <= {("tofc", "device/b")}
        caught += bool(slower)
    assert caught >= 95


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_a_slowdown_below_the_minimum_effect_is_none(seed: int) -> None:
    """5 % is no regression however certain it is, and is not called one."""
    rng = np.random.default_rng(seed)
    sets = [{part: d + math.log(1.05) for part, d in ratios(rng, noise=0.005).items()} for _ in range(2)]
    assert {t.verdict for t in slowdown.judge(sets[0], GATE, sets[1])} == {"not slower"}


def test_what_the_second_set_does_not_show_does_not_fail() -> None:
    """A slow night is no slow commit: without the second set a stage is not confirmed, and with it not slower."""
    rng = np.random.default_rng(0)
    first, second = ratios(rng), ratios(rng)
    first["jpeg", "device/a"] += math.log(1.4)
    alone = slowdown.judge(first, GATE)
    assert slowdown.suspects(alone) == [("jpeg", "device/a")]
    both = {(t.pipeline, t.part): t for t in slowdown.judge(first, GATE, second)}
    assert both["jpeg", "device/a"].verdict == "not confirmed"
    assert both["jpeg", "device/a"].confirmed_p == 1.0


def test_faster_is_reported_and_does_not_fail() -> None:
    """A stage that takes 30 % less is faster."""
    rng = np.random.default_rng(0)
    first = ratios(rng)
    first["tofc", "device/a"] += math.log(0.7)
    (one,) = (t for t in slowdown.judge(first, GATE) if t.verdict != "not slower")
    assert (one.part, one.verdict) == ("device/a", "faster")
    assert one.low < 0.7 < one.high


def test_pairs_that_cannot_tell_are_refused() -> None:
    """With ten pairs the smallest p is 1/1024, which in a family of 60 stages is nothing."""
    many = {("s", f"device/{k}"): np.zeros(10) for k in range(60)}
    with pytest.raises(ResultsError, match="10 pairs cannot tell 60 stages from noise; give 13 or more"):
        slowdown.judge(many, GATE)
    assert slowdown.pairs_needed(60, 0.05) == 13
    assert slowdown.pairs_needed(1, 0.05) == 10


def test_limits_by_name_test_nothing_else() -> None:
    """``device>15%`` tests each scheme's device side, ``merge>5%`` that stage of each."""
    gate = Gate(effects={"device": 0.15, "merge": 0.05})
    assert gate.effect_of(("tofc", "device")) == 0.15
    assert gate.effect_of(("tofc", "device/merge")) == 0.05
    assert gate.effect_of(("tofc", "server/merge")) == 0.05
    assert gate.effect_of(("tofc", "server")) is None
    assert GATE.effect_of(("tofc", "device")) is None


def test_a_limit_on_no_stage_is_refused() -> None:
    """A misspelt name would let every time pass."""
    first = {("tofc", "device/merge"): [0.0] * 20, ("tofc", "device"): [0.0] * 20}
    assert slowdown.judge(first, Gate(effects={"merge": 0.1}))[0].verdict == "not slower"
    with pytest.raises(ResultsError, match=r"unknown stage 'merg'; .*merge"):
        slowdown.judge(first, Gate(effects={"device": 0.1, "merg": 0.1}))


def rows(*timed: tuple[str, str, str, str, float]) -> pd.DataFrame:
    """Two pairs of two turns each, all with the same seconds."""
    whens = [(pair, turn) for pair in range(2) for turn in range(2)]
    return pd.DataFrame(
        [
            (*when, side_of, pipeline, "q", side, stage, seconds + 0.5, 0.5)
            for when in whens
            for side_of, pipeline, side, stage, seconds in timed
        ],
        columns=list(TIMED_COLUMNS),
    )


def test_parts_are_stages_and_sides_and_short_stages_together() -> None:
    """Two stages of 3 ms are tested as one of 6; a side of 2 ms is left out and named; totals are sums."""
    both = [
        (side_of, "tofc", *of)
        for side_of in ("reference", "candidate")
        for of in (
            ("device", "encode", 0.003),
            ("device", "merge", 0.003),
            ("device", "see", 0.04),
            ("server", "decode", 0.002),
        )
    ]
    found, notes = slowdown.parts_of(rows(*both), 0.005)
    mean_s = found.groupby("part")["candidate"].mean().to_dict()
    wanted = {"device/see": 0.04, f"device/{POOLED}": 0.006, "device": 0.046, "total": 0.048}
    assert mean_s == pytest.approx(wanted)
    assert notes == [f"tofc, server/{POOLED}: less than 5 ms, left out"]
    assert set(slowdown.log_ratios(found)) == {("tofc", part) for part in wanted}


def test_a_stage_that_one_commit_has_is_not_lost() -> None:
    """A new stage of 50 ms is tested with the other stages of its side, and slower beyond any bound."""
    timed = [("reference", "tofc", "device", "see", 0.04), ("candidate", "tofc", "device", "see", 0.04)]
    found, notes = slowdown.parts_of(rows(*timed, ("candidate", "tofc", "device", "extra", 0.05)), 0.005)
    assert notes == ["tofc, device/extra: only one of the two commits has this stage"]
    assert slowdown.log_ratios(found)["tofc", f"device/{POOLED}"].tolist() == [math.inf, math.inf]
    assert slowdown.log_ratios(found)["tofc", "device"] == pytest.approx([math.log(0.09 / 0.04)] * 2)


def test_commits_without_a_common_point_are_refused() -> None:
    """There is nothing to compare, which one sentence says."""
    one = rows(("reference", "tofc", "device", "see", 0.04), ("candidate", "jpeg", "device", "see", 0.04))
    with pytest.raises(ResultsError, match="no operating point in common"):
        slowdown.parts_of(one, 0.005)


def test_no_verdict_without_a_test() -> None:
    """Where every stage is below the floor nothing was tested, which is no pass."""
    both = [(side_of, "tofc", "device", "merge", 0.004) for side_of in ("reference", "candidate")]
    found, _ = slowdown.parts_of(rows(*both), 0.005)
    with pytest.raises(ResultsError, match=r"no stage takes as long as 5 ms, so none was tested; --floor"):
        slowdown.judge(slowdown.log_ratios(found), Gate(floor_s=0.005))
