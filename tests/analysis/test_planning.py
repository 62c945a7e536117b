"""Intervals of planned numbers of pictures: closed forms, properties, and a small calibration."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibrated_plans import LATENCIES, parts, study_of_latency, study_of_score, times_of, true_components
from benchmarks.calibrated_times import TILES
from benchmarks.tally import Counts
from harness.analysis import planning, precision
from harness.analysis.means import Estimate
from harness.analysis.precision import Components

RUN = Components(
    picture=0.03, request=0.03, drift=0.0, pictures=12, rounds=3, spent=2, known=10.0, levels=0.002, explained=0.0025,
    units=3,
)  # fmt: skip


def test_ends_are_chi_squareds_where_rounds_drift_as_they_did() -> None:
    """The variance of ten degrees of freedom is f s^2 / chi^2, and the number of pictures follows from its ends."""
    needed = planning.latency_needs(RUN, 0.05, 3, same_drift=True)
    ends = [10 * 0.04 / scipy.stats.chi2.ppf(share, 10) for share in (0.975, 0.025)]
    expected = [precision.pictures_for(float(end) / math.log(1.05) ** 2, spent=2) for end in ends]
    assert [needed.low, needed.high] == pytest.approx(expected, rel=0.1)
    assert needed.value == precision.pictures_needed(RUN, 0.05, 3)
    few_slow = planning.latency_needs(dataclasses.replace(RUN, known=3.0), 0.05, 3, same_drift=True)
    assert few_slow.high > needed.high
    assert few_slow.low < needed.low


def test_three_rounds_do_not_rule_out_a_drift_that_no_pictures_resolve() -> None:
    """With the drift unknown there is no upper end after three rounds; after forty there is."""
    assert planning.latency_needs(RUN, 0.05, 3).high == math.inf
    many = dataclasses.replace(RUN, drift=0.001, rounds=40, units=40, levels=0.004, explained=0.003)
    needed = planning.latency_needs(many, 0.05, 20)
    same = planning.latency_needs(many, 0.05, 20, same_drift=True)
    assert same.high < needed.high < math.inf
    unknown = dataclasses.replace(RUN, rounds=1, units=1, levels=0.0, explained=0.0)
    assert planning.latency_needs(unknown, 0.05, 3) == planning.latency_needs(unknown, 0.05, 3, same_drift=True)


@pytest.mark.slow
@given(st.floats(0.02, 0.2), st.floats(1.01, 3), st.floats(0.01, 0.3), st.floats(0.0, 0.03), st.integers(3, 12))
def test_a_wider_precision_never_needs_more(
    wanted: float, wider: float, scatter: float, drift: float, rounds: int
) -> None:
    """Neither the number nor either end, in as many rounds; the number is between the ends."""
    explained = 0.01 / 12
    found = Components(
        picture=scatter**2, request=0.01, drift=drift**2, pictures=12, rounds=6, spent=1, known=11.0,
        levels=drift**2 + explained, explained=explained, units=6,
    )  # fmt: skip
    for same_drift in (False, True):
        one, other = (
            planning.latency_needs(found, by, rounds, same_drift=same_drift) for by in (wanted, wanted * wider)
        )
        for needed in (one, other):
            assert 6 <= needed.low <= needed.value <= needed.high
        assert other.low <= one.low
        assert other.value <= one.value
        assert other.high <= one.high


@pytest.mark.slow
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]), min_size=6, max_size=80), st.floats(0.01, 0.5))
def test_the_pictures_of_a_score_are_between_their_ends(differences: list[float], wanted: float) -> None:
    """Whatever the contributions are, also where no picture differs; a wider precision never needs more."""
    own_C = 1 + np.array(differences)
    needed = planning.score_needs(own_C, np.ones(own_C.size), wanted)
    assert 6 <= needed.low <= needed.value <= needed.high
    wider = planning.score_needs(own_C, np.ones(own_C.size), 2 * wanted)
    assert (wider.low, wider.value, wider.high) <= (needed.low, needed.value, needed.high)


def test_a_score_is_planned_from_its_discordant_pictures() -> None:
    """Of 100 pictures 20 differ, half each way: t^2 s^2 / n at the wanted square, and Wilson's ends of 20 of 100."""
    point, reference = np.repeat([1.0, 0.0, 1.0], [10, 10, 80]), np.repeat([0.0, 1.0, 1.0], [10, 10, 80])
    needed = planning.score_needs(point, reference, 0.02)
    spread = float(np.std(point - reference, ddof=1))
    half = [scipy.stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) for n in (needed.value, needed.value - 1)]
    assert half[0] <= 0.02 < half[1]
    wilson = scipy.stats.binomtest(20, 100).proportion_ci(method="wilson")
    assert needed.low == precision.pictures_for(float(wilson.low) / 0.02**2)
    assert needed.high >= precision.pictures_for(float(wilson.high) / 0.02**2)


def test_scores_that_agree_everywhere_plan_the_fewest_pictures_and_a_bound() -> None:
    """Of 40 pictures that agree up to z^2 / (n + z^2) may differ."""
    right = np.repeat([100.0, 0.0], [30, 10])
    needed = planning.score_needs(right, right, 2.0)
    square = float(scipy.stats.norm.ppf(0.975)) ** 2
    assert (needed.low, needed.value) == (6, 6)
    assert needed.high == precision.pictures_for(100**2 * square / (40 + square) / 2**2)


@pytest.mark.parametrize(
    ("own", "other", "wanted"), [([1.0], [1.0], 1.0), ([1.0, 2.0], [1.0], 1.0), ([1, 2], [1, 2], 0)]
)
def test_what_no_score_is_planned_from(own: list[float], other: list[float], wanted: float) -> None:
    """One picture, parts that are not paired, and a precision of 0."""
    with pytest.raises(ValueError, match=r"pictures|above 0"):
        planning.score_needs(own, other, wanted)


def test_bytes_of_an_unbounded_interval_show_no_number() -> None:
    """Twice the width takes four times the pictures; the longer side counts, one that is unbounded is infinite."""
    assert planning.bytes_need(Estimate(1.0, 1 / 1.1, 1.21), 100, 0.1) == 400
    assert planning.bytes_need(Estimate(1.0, 0.0, 1.21), 100, 0.1) == math.inf
    assert math.isnan(planning.bytes_need(Estimate(math.nan, math.nan, math.nan), 100, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "log-normal 0.5", "tiles", "tiles, 10 % drift", "tiles, 5 % over 4 starts"])
def test_true_variances_are_those_of_the_times(kind: str) -> None:
    """The closed forms that a calibration is judged by agree with the variances of 400 pictures, 100 runs each."""
    rng, rounds = np.random.default_rng(5), LATENCIES[kind][1]
    made = [times_of(rng, kind, 400, rounds) for _ in range(100)]
    found = [precision.components(times, tiles, TILES, start_R=start_R) for times, tiles, start_R in made]
    true = true_components(kind, rounds)
    for name in ("picture", "request", "free") + ("drift",) * kind.endswith(("drift", "starts")):
        seen = np.mean([getattr(one, name) for one in found])
        assert seen == pytest.approx(getattr(true, name), rel=0.15), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "log-normal 0.5", "tiles, 10 % drift"])
def test_planned_pictures_hold_the_truth(kind: str) -> None:
    """Of 100 runs of 12 pictures at least 90 intervals hold the number that the true variances need."""
    counts = Counts()
    for number in range(100):
        study_of_latency(kind, 12, number, counts)
    for claim in ("needed", "same drift"):
        assert counts[claim].hits >= 0.9 * counts[claim].n > 0
    assert 0.2 <= counts.sums["reached"] / counts.sums["planned"] <= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a fifth differ", "one in thirty differs", "3 questions each"])
def test_planned_pictures_of_a_score_hold_the_truth(kind: str) -> None:
    """The same of 100 studies of 80 pictures."""
    counts = Counts()
    for number in range(100):
        study_of_score(kind, 80, number, counts)
    assert counts["needed"].hits >= 90
    own_C, other_C = parts(np.random.default_rng(1), kind, 10)
    assert own_C.shape == other_C.shape == (10,)
