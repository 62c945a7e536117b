"""Mean latencies, ratios and drift: closed forms, invariants, and small seeded calibrations."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import doubts, means

TILES = np.repeat([3, 4, 5, 7, 10], [120, 100, 80, 60, 40]).astype(float)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, n: int = 8, rounds: int = 4) -> np.ndarray:
    """Times of n pictures in some rounds."""
    rng = np.random.default_rng(seed)
    return np.exp(0.3 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, rounds)))


def test_without_strata_and_drift_it_is_students_below_and_on_the_log_above() -> None:
    """1 to 6 s: 3.5 s, half = 2.5706 * 1.8708 / sqrt(6) / 3.5."""
    found = means.mean_latency(np.arange(1.0, 7.0)[:, None])
    half = scipy.stats.t.ppf(0.975, 5) * np.std(range(1, 7), ddof=1) / math.sqrt(6) / 3.5
    assert (found.value, found.low, found.high) == pytest.approx((3.5, 3.5 * (1 - half), 3.5 * math.exp(half)))


def test_repeats_are_not_pictures() -> None:
    """The same times measured in ten times as many rounds give the same interval."""
    times = drawn(0, rounds=1)
    once, often = means.mean_latency(times), means.mean_latency(np.repeat(times, 10, axis=1))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_fewer_than_six_pictures_have_no_interval() -> None:
    """The value is given, both ends are NaN, and the reason says how many are needed."""
    found = means.mean_latency(drawn(0, n=5))
    assert math.isfinite(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.half_width)
    assert found.reason == "5 pictures give no interval: 6 are needed"


def test_groups_weigh_as_in_the_benchmark() -> None:
    """Two pictures of 3 tiles and four of 10 where the benchmark has twice as many of 3: 2/3 * 1 + 1/3 * 2."""
    tiles = [3, 3, 10, 10, 10, 10]
    times = np.array([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])[:, None]
    found = means.mean_latency(times, tiles, [3] * 60 + [10] * 30, method="strata")
    assert (found.value, found.low) == pytest.approx((4 / 3, 4 / 3))


def test_a_line_of_time_on_tiles_is_followed_without_error() -> None:
    """From six pictures on, times exactly on a line give the benchmark's mean, whatever pictures were timed."""
    tiles = np.resize([3.0, 4.0, 5.0], 6)
    found = means.mean_latency((0.1 + 0.2 * tiles)[:, None], tiles, TILES)
    truth = float((0.1 + 0.2 * TILES).mean())
    assert (found.value, found.low, found.high) == pytest.approx((truth, truth, truth))


def test_how_times_bend_from_stratum_to_stratum_is_no_scatter() -> None:
    """Twelve pictures in three strata of four, their times the squares exactly: nothing is left to be unknown."""
    tiles = np.repeat([3.0, 4.0, 7.0], 4)
    found = means.mean_latency(tiles[:, None] ** 2, tiles, np.tile(tiles, 20))
    truth = float((tiles**2).mean())
    assert (found.value, found.low, found.high) == pytest.approx((truth, truth, truth))


def test_the_degrees_of_freedom_are_those_of_the_stratum_that_scatters() -> None:
    """Four of twenty pictures scatter, and all others not at all: Student's with three degrees of freedom."""
    tiles, slow = np.repeat([3.0, 10.0], [16, 4]), np.array([-0.3, -0.1, 0.1, 0.3])
    times = np.r_[np.ones(16), 4 + slow][:, None]
    found = means.mean_latency(times, tiles, np.tile(tiles, 20))
    half = scipy.stats.t.ppf(0.975, 3) * math.sqrt(4 / 20**2 * slow.var(ddof=1)) / 1.6
    assert (found.value, found.low) == pytest.approx((1.6, 1.6 * (1 - half)))


def test_a_picture_alone_in_its_stratum_scatters_as_the_others_do() -> None:
    """A line through one slow picture leaves it no residual: its scatter is the others', relative to its time."""
    tiles, quick = np.array([3.0] * 5 + [10.0]), np.array([0.9, 0.95, 1.0, 1.05, 1.1])
    found = means.mean_latency(np.r_[quick, 8.0][:, None], tiles, np.repeat([3.0, 10.0], [80, 20]))
    size = np.maximum(quick, 1)
    variance = (((quick - 1) / size) ** 2).sum() / 4 * (((0.8 / 5 * size) ** 2).sum() + (0.2 * 8.0) ** 2)
    half = scipy.stats.t.ppf(0.975, 4) * math.sqrt(variance) / 2.4
    assert (found.value, found.low) == pytest.approx((2.4, 2.4 * (1 - half)))


@pytest.mark.slow
@given(seeds, st.floats(0.01, 100))
def test_the_unit_of_time_does_not_matter(seed: int, unit: float) -> None:
    """An interval scales with its times."""
    times, tiles = drawn(seed, n=14), np.resize([3, 4, 5, 7, 10], 14)
    one, other = means.mean_latency(times, tiles, TILES), means.mean_latency(unit * times, tiles, TILES)
    expected = (unit * one.value, unit * one.low, unit * one.high)
    assert (other.value, other.low, other.high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@given(seeds)
def test_a_drift_that_both_schemes_meet_leaves_their_ratio_alone(seed: int) -> None:
    """Rounds multiplied by anything give the same ratio and the same interval."""
    a, b = drawn(seed), drawn(seed + 1)
    drift = np.exp(np.random.default_rng(seed).normal(size=4))
    still, moved = means.ratio_within_rounds(a, b), means.ratio_within_rounds(drift * a, drift * b)
    assert (moved.value, moved.low, moved.high) == pytest.approx((still.value, still.low, still.high))


@pytest.mark.slow
@given(seeds)
def test_the_other_way_round_a_ratio_is_inverted(seed: int) -> None:
    """A over B and B over A agree."""
    a, b = drawn(seed), drawn(seed + 1)
    one, other = means.ratio_within_rounds(a, b), means.ratio_within_rounds(b, a)
    assert (one.value * other.value, one.low * other.high) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("known", [0.0, 1.0])
def test_two_schemes_are_compared_by_groups_where_the_line_of_one_goes_below_0(known: float) -> None:
    """Few of the benchmark's pictures are like the timed ones: a ratio is that of the means, either way round."""
    tiles_S, tiles_N = np.array([4.0, 5, 6, 7, 8, 10]), np.array([1.0] * 30 + [4, 5, 6, 7, 8, 10])
    flat_SR, steep_SR = np.full((6, 3), 0.3), np.repeat(0.05 + 0.1 * (tiles_S - 4)[:, None], 3, axis=1)
    flat, steep = (means.mean_latency(times_SR, tiles_S, tiles_N) for times_SR in (flat_SR, steep_SR))
    strata, parts = (tiles_S, tiles_N), {"a_known": known, "b_known": known}
    one = means.ratio_within_rounds(flat_SR, steep_SR, *strata, **parts)
    other = means.ratio_within_rounds(steep_SR, flat_SR, *strata, **parts)
    assert one.value == pytest.approx((flat.value + known) / (steep.value + known))
    assert (one.value, one.low, one.high) == pytest.approx((1 / other.value, 1 / other.high, 1 / other.low))
    gain = means.difference_within_rounds(flat_SR, steep_SR, *strata, **parts)
    assert gain.value == pytest.approx(flat.value - steep.value)
    assert gain.low < 0 < gain.high


def test_known_parts_enter_a_ratio_and_a_difference() -> None:
    """(1 + 3) / (2 + 2) is 1, and 1 + 3 less 2 + 2 is 0."""
    a, b = np.full((6, 3), 1.0), np.full((6, 3), 2.0)
    ratio = means.ratio_within_rounds(a, b, a_known=3.0, b_known=2.0)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))
    assert means.difference_within_rounds(a, b, a_known=3.0, b_known=2.0).value == pytest.approx(0.0)


def test_rounds_that_scatter_widen_a_mean() -> None:
    """Drift between the rounds is part of what is unknown, and starts are drawn where there are three."""
    times = drawn(3, n=40, rounds=6)
    moved = times * np.repeat([0.9, 1.0, 1.1], 2)
    assert means.mean_latency(moved).half_width > 1.05 * means.mean_latency(times).half_width
    by_rounds, by_starts = (means.mean_latency(moved, start_R=s) for s in (None, [0, 0, 1, 1, 2, 2]))
    assert by_starts.half_width > by_rounds.half_width


@pytest.mark.slow
@given(seeds, st.sampled_from([1, 2]))
def test_the_error_of_a_level_is_the_scatter_of_its_units(seed: int, rounds_a_start: int) -> None:
    """The shifts of the levels have the standard error that is in the interval; from three on starts are the units."""
    rng = np.random.default_rng(seed)
    times = drawn(seed, n=12, rounds=4 * rounds_a_start) * np.repeat(np.exp(0.2 * rng.normal(size=4)), rounds_a_start)
    start = np.repeat(np.arange(4), rounds_a_start)
    level, shift = means.level_of(times, start_R=start), means.level_shifts(times, start_R=start)
    assert (shift.size, level.freedom) == (4, 3)
    assert shift.std(ddof=1) / 2 == pytest.approx(level.error)
    weighted = means.level_of_sum([times, times], [1.5, -0.5], start_R=start)
    assert weighted.error == pytest.approx(level.error)


@pytest.mark.slow
@given(seeds)
def test_a_ratio_of_schemes_apart_has_the_scatter_of_both(seed: int) -> None:
    """half^2 = t_1^2 v_1 + t_W^2 (v_A + v_B), v_A and v_B as of the means alone; the pictures are the same ones."""
    a, b = (drawn(seed + i, rounds=6) * np.repeat([0.9, 1.0, 1.2], 2) for i in (0, 1))
    starts = np.repeat(np.arange(3), 2)
    together = means.ratio_within_rounds(a, b)
    found = means.ratio_within_rounds(a, b, start_R=starts, b_start_R=3 + starts)
    levels = [means.level_of(one, start_R=starts) for one in (a, b)]
    squares = [level.error**2 for level in levels]
    freedom = sum(squares) ** 2 / sum(square**2 / 2 for square in squares)
    assert 2 <= freedom <= 4
    of_levels = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(sum(squares))
    assert found.value == pytest.approx(together.value)
    assert found.high * found.low == pytest.approx(found.value**2)
    assert math.log(found.high / found.value) >= of_levels
    within = means.level_of_sum([a, b], [1.0, -1.0]).half_width(0.95)
    of_pictures = math.log(together.high / together.value) ** 2 - within**2
    assert math.log(found.high / found.value) ** 2 == pytest.approx(of_pictures + of_levels**2, rel=1e-6)


@pytest.mark.parametrize("starts", [[0] * 6, [0, 0, 0, 1, 1, 1]])
def test_schemes_apart_are_not_compared_without_three_starts_of_each(starts: list[int]) -> None:
    """One or two starts do not show how starts scatter: the value is given without an interval."""
    a, b, enough = drawn(0, rounds=6), drawn(1, rounds=6), np.arange(6)
    for start, other in ((starts, enough), (enough, starts), (None, starts)):
        for found in (
            means.ratio_within_rounds(a, b, start_R=start, b_start_R=other),
            means.difference_within_rounds(a, b, start_R=start, b_start_R=other),
        ):
            assert math.isfinite(found.value)
            assert math.isnan(found.low)
            assert found.reason.startswith("not comparable: timed in different starts of the process, ")


@pytest.mark.slow
@pytest.mark.parametrize("starts", [3, 8])
def test_ratios_of_schemes_apart_cover(starts: int) -> None:
    """Of 200 studies whose starts scatter by 5 % at least 182 hold the ratio; within rounds most would be shorter."""
    rng, held, before = np.random.default_rng(starts), 0, 0
    start = np.repeat(np.arange(starts), 2)
    for _ in range(200):
        a, b = (
            np.exp(0.1 * rng.normal(size=(8, 1)) + 0.05 * rng.normal(size=(8, start.size)))
            * (1 + 0.05 * rng.normal(size=starts))[start]
            for _ in range(2)
        )
        found = means.ratio_within_rounds(a, b, start_R=start, b_start_R=starts + start)
        held += found.low <= 1 <= found.high
        within = means.ratio_within_rounds(a, b, start_R=np.zeros(start.size))
        before += within.half_width < found.half_width
    assert held >= 182
    assert before >= 150


def test_drift_is_measured_and_warned_of() -> None:
    """A trend of 10 % over six rounds is found; none is found where there is none."""
    rng = np.random.default_rng(0)
    quiet = np.exp(0.3 * rng.normal(size=(12, 1)) + 0.02 * rng.normal(size=(12, 6)))
    found = doubts.drift_between_rounds(quiet * np.linspace(1, 1.1, 6))
    assert found.trend == pytest.approx(0.1, abs=0.03)
    assert found.sentence.startswith("the rounds drifted: +")
    assert doubts.drift_between_rounds(quiet).sentence == ""


def test_short_sessions_are_labelled() -> None:
    """Eight rounds over three starts are more than a session, seven or two are not."""
    assert [doubts.session_label(*r) for r in ((8, 3), (7, 3), (8, 2))] == ["", *["this session only"] * 2]


def test_skewed_and_slow_times_are_warned_of() -> None:
    """Sigma 1 and one request in twenty that is three times slower are reported, sigma 0.25 is not."""
    rng = np.random.default_rng(1)
    base = np.exp(0.25 * rng.normal(size=(40, 3)))
    assert doubts.skew_warning(np.exp(0.1 * rng.normal(size=(40, 3)))) == ""
    assert "skewed" in doubts.skew_warning(np.exp(rng.normal(size=(40, 1))) * base)
    slow = np.where(rng.random((40, 3)) < 0.05, 3.0, 1.0)
    assert "twice their picture's median" in doubts.skew_warning(slow)


def test_pictures_unlike_any_timed_one_are_warned_of() -> None:
    """One in ten with more patches is reported, with how its time is estimated; one in two hundred is not."""
    rare, rarer = np.repeat([3, 10], [90, 10]), np.repeat([3, 10], [199, 1])
    alike, spread = [3] * 6, [3, 3, 3, 4, 4, 5]
    said = "10% of the benchmark's pictures have more patches than any that was timed: they are taken to be "
    assert doubts.reach_warning(alike, rare) == said + "as slow as those timed"
    assert doubts.reach_warning(spread, rare) == said + "on the line through those timed"
    assert doubts.reach_warning(alike, rarer) == doubts.reach_warning([3, 10], rare) == ""


def test_few_pictures_far_beyond_the_timed_ones_are_warned_of() -> None:
    """One picture in a hundred with ten times the patches is: it has a tenth of them all; 0.4 % are said as such."""
    said = "of the benchmark's pictures have more patches than any that was timed"
    assert doubts.reach_warning([3, 3, 4], np.repeat([3, 40], [99, 1])).startswith(f"1% {said}")
    assert doubts.reach_warning([3, 3, 4], np.repeat([3, 90], [249, 1])).startswith(f"0.4% {said}")


@given(seeds, st.integers(1, 400))
def test_drawn_pictures_are_spread_over_the_strata_and_go_on(seed: int, n: int) -> None:
    """No picture twice, each stratum within three of its share, and more pictures begin with the same ones."""
    places = means.draw_by_strata(TILES, n, seed)
    assert np.unique(places).size == n
    for tiles, share in zip(*np.unique(TILES, return_counts=True), strict=True):
        assert abs((TILES[places] == tiles).sum() - n * share / TILES.size) <= 3
    np.testing.assert_array_equal(means.draw_by_strata(TILES, 400, seed)[:n], places)


@pytest.mark.parametrize("times", [[[1.0], [0.0]], [[1.0], [math.nan]], [1.0, 2.0]])
def test_times_that_are_none_are_refused(times: list[list[float]]) -> None:
    """Nothing is computed from a time of 0 or NaN, or without rounds."""
    with pytest.raises(ValueError, match="time"):
        means.mean_latency(times)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 21])
def test_intervals_cover_where_four_of_five_pictures_are_of_one_stratum(n: int) -> None:
    """Of 200 studies whose times bend at least 182 hold the truth where the run warns of nothing."""
    rng, held, promised = np.random.default_rng(n), 0, 0
    of_all = np.repeat([3.0, 10.0], [320, 80])
    for study in range(200):
        tiles = of_all[means.draw_by_strata(of_all, n, study)]
        times = (0.1 + 0.1 * tiles**2)[:, None] * np.exp(0.1 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 3)))
        found = means.mean_latency(times / math.exp(0.01), tiles, of_all)
        if not doubts.reach_warning(tiles, of_all):
            promised += 1
            held += found.low <= float((0.1 + 0.1 * of_all**2).mean()) <= found.high
    assert promised >= 180
    assert held >= 0.91 * promised


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 12, 40])
@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_intervals_cover_what_follows_tiles(n: int, drift: float) -> None:
    """Of 300 studies at 95 % at least 92 % hold the truth, with a drift of 10 % over six rounds and without.

    A line of time on tiles leaves less than half of what six pictures scatter without it.
    """
    rng = np.random.default_rng([n, round(10 * drift)])
    truth, held, wider = float((0.1 + 0.1 * TILES).mean()), 0, []
    for study in range(300):
        tiles = TILES[means.draw_by_strata(TILES, n, study)]
        noise = np.exp(0.1 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 6)) - 0.01)
        times = (0.1 + 0.1 * tiles)[:, None] * noise * (1 + drift * rng.normal(size=6))
        found = means.mean_latency(times, tiles, TILES)
        held += found.low <= truth <= found.high
        if study < 20:
            wider.append(means.mean_latency(times).half_width / found.half_width)
    assert held >= 276
    assert drift or np.median(wider) > 2
