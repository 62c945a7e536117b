"""Plans by precision, and stopping when precise."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import means, precision
from harness.analysis.precision import Components

STILL = Components(picture=0.04, request=0.01, drift=0.0, pictures=6, rounds=3, spent=1)


def test_a_half_width_is_students() -> None:
    """20 % between pictures and 10 % between requests of 12 pictures in 4 rounds: t_11 sqrt(0.0425 / 12)."""
    half = scipy.stats.t.ppf(0.975, 11) * math.sqrt((0.04 + 0.01 / 4) / 12)
    assert precision.half_width(STILL, 12, 4) == pytest.approx(math.expm1(half))


def test_a_plan_has_the_degrees_of_freedom_of_the_runs_interval() -> None:
    """Planned as large as it was, a run's interval comes out, also where few slow pictures have most of the variance.

    The timed pictures are the whole benchmark here, so that each has the weight 1 / S.
    """
    rng = np.random.default_rng(4)
    tiles_S = np.repeat([3.0, 10.0], [20, 5])
    seconds_SR = (tiles_S * rng.lognormal(0, 0.2, 25))[:, None] * rng.lognormal(0, 0.1, (25, 2))
    found = precision.components(seconds_SR, tiles_S, tiles_S)
    assert found.free < 0.6
    made = means.mean_latency(seconds_SR, tiles_S, tiles_S)
    assert precision.half_width(found, 25, 2) == pytest.approx(made.high / made.value - 1, rel=1e-9)
    even = precision.components(seconds_SR[:8], tiles_S[:8], tiles_S)
    assert even.free == 1.0


@given(st.floats(0.01, 0.5), st.floats(0.0, 0.3), st.floats(0.0, 0.02))
def test_the_planned_number_is_the_fewest(wanted: float, scatter: float, drift: float) -> None:
    """One picture fewer misses the precision."""
    found = Components(picture=scatter**2, request=0.01, drift=drift**2, pictures=6, rounds=6, spent=1)
    n = precision.pictures_needed(found, wanted, 6)
    if n:
        assert precision.half_width(found, n, 6) <= wanted
        assert n == 6 or precision.half_width(found, n - 1, 6) > wanted
    else:
        assert precision.half_width(found, 1_000_000, 6) > wanted


def test_a_plan_takes_rounds_where_rounds_drift() -> None:
    """Pictures in any number do not resolve 5 % where three rounds drift by 5 %; more rounds do."""
    drifting = Components(picture=0.01, request=0.01, drift=0.0025, pictures=6, rounds=3, spent=1)
    assert precision.pictures_needed(drifting, 0.05, 3) == 0
    plan = precision.plan_latency(drifting, 0.05)
    assert plan.rounds > 3
    assert plan.half_width <= 0.05
    hopeless = precision.plan_latency(drifting, 0.001)
    assert (hopeless.pictures, "drift by 5.0%" in hopeless.reason) == (0, True)


def test_a_plan_takes_starts_where_starts_scatter() -> None:
    """Starts that scatter by 5 % are planned as units: as many rounds in each, Student's t of their number less one."""
    scattering = Components(picture=0.01, request=0.01, drift=0.0025, pictures=12, rounds=9, spent=2, starts=3)
    plan = precision.plan_latency(scattering, 0.05, at_least_rounds=3)
    assert plan.starts >= 5
    assert plan.rounds == 3 * plan.starts
    squared = scipy.stats.t.ppf(0.975, plan.starts - 1) ** 2 * 0.0025 / plan.starts
    squared += scipy.stats.t.ppf(0.975, plan.pictures - 2) ** 2 * (0.01 + 0.01 / plan.rounds) / plan.pictures
    assert plan.half_width == pytest.approx(math.expm1(math.sqrt(squared)))
    hopeless = precision.plan_latency(scattering, 0.001)
    assert (hopeless.pictures, "starts of the process scatter by 5.0%" in hopeless.reason) == (0, True)


def test_rounds_that_fill_no_three_starts_resolve_nothing() -> None:
    """Three rounds do not fill one start of four, and no number of pictures shows how starts differ."""
    scattering = Components(picture=0.01, request=0.01, drift=0.0025, pictures=12, rounds=12, spent=2, starts=3)
    assert [precision.half_width(scattering, 10_000, rounds) for rounds in (3, 8)] == [math.inf] * 2
    assert math.isfinite(precision.half_width(scattering, 10_000, 12))


def test_half_the_width_takes_four_times_the_questions() -> None:
    """The number grows with the square; an unbounded interval shows no number."""
    assert precision.questions_needed(4.0, 160, 2.0) == 640
    assert precision.questions_needed(math.inf, 160, 2.0) == math.inf


def test_looks_grow_by_a_third_and_end_at_the_most() -> None:
    """12, 16, 21, ... and the number that may be timed."""
    assert precision.looks(40) == [12, 16, 21, 28, 37, 40]
    assert precision.looks(8) == [8]


def test_a_look_goes_on_stops_or_says_that_it_was_not_reached() -> None:
    """Steady times stop at once; scattered ones go on to the next look; at the last look the sentence says so."""
    rng = np.random.default_rng(0)
    still, scattered = (np.exp(sigma * rng.normal(size=(12, 3))) for sigma in (0.001, 1.0))
    assert precision.look(still, precision=0.05, at_most=200).precise
    assert precision.look(scattered, precision=0.05, at_most=200).go_on_to == 16
    last = precision.look(scattered, precision=0.05, at_most=12)
    assert (last.precise, last.go_on_to) == (False, 0)
    assert last.sentence.startswith("5.0% was not reached: ")


@pytest.mark.slow
def test_coverage_after_stopping() -> None:
    """Of 200 studies that stopped at 10 % at least 91 % hold the truth."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        times = np.exp(0.25 * rng.normal(size=(200, 1)) - 0.03125) * np.exp(0.05 * rng.normal(size=(200, 2)))
        for n in precision.looks(200):
            found = precision.look(times[:n], precision=0.1, at_most=200)
            if not found.go_on_to:
                break
        held += found.estimate.low <= math.exp(0.00125) <= found.estimate.high
    assert held >= 182


def test_components_are_the_variances() -> None:
    """20 % between pictures, 10 % between requests and 5 % between rounds are found again from many."""
    rng = np.random.default_rng(2)
    times = np.exp(0.2 * rng.normal(size=(400, 1)) + 0.1 * rng.normal(size=(400, 40)) + 0.05 * rng.normal(size=40))
    found = precision.components(times)
    expected = (0.2, 0.1, 0.05)
    assert [math.sqrt(v) for v in (found.picture, found.request, found.drift)] == pytest.approx(expected, rel=0.25)
    assert found.starts == 0
    start = np.repeat(np.arange(20), 2)
    moved = times * np.exp(0.2 * rng.normal(size=20))[start]
    by_starts = precision.components(moved, start_R=start)
    assert by_starts.starts == 20
    # The rounds' own 5 % are in it as the mean of two.
    assert math.sqrt(by_starts.drift) == pytest.approx(math.hypot(0.2, 0.05 / math.sqrt(2)), rel=0.3)
