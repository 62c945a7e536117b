"""Curves, equal score and Bjontegaard's differences: closed forms, a public implementation's numbers, calibration."""

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import curves
from harness.analysis.curves import Ladder

BYTES = np.geomspace(2500, 16_000, 4)


def ladder(name: str, n_bytes: np.ndarray, score: np.ndarray, noise: float = 0.0, seed: int = 0) -> Ladder:
    """A ladder whose resamples scatter by ``noise``."""
    score_B = score + noise * np.random.default_rng(seed).normal(size=(400, score.size))
    return Ladder.fit(name, n_bytes, score, score_B)


@pytest.mark.slow
@given(st.floats(-2, 6), st.floats(0.05, 0.5), st.floats(0.1, 0.9))
def test_a_curve_of_the_family_is_found_and_solved(bend: float, gain: float, share: float) -> None:
    """Scores on a curve with a k of the grid come back, and the curve is solved where it has them."""
    bend = round(4 * bend) / 4
    u = np.linspace(0, 1, 4)
    score = 0.4 + gain * (u if bend == 0 else np.expm1(-bend * u) / np.expm1(-bend))
    found = ladder("a", BYTES, score).curve
    np.testing.assert_allclose(found.at(u)[0], score, atol=1e-9)
    solved = found.solved(np.array([[0.4 + share * gain]]))
    assert found.at(solved[0])[0, 0] == pytest.approx(0.4 + share * gain)


def test_a_curve_never_falls() -> None:
    """Scores that fall with the bytes give a flat curve, whose slope is not established."""
    found = ladder("a", BYTES, np.array([0.7, 0.6, 0.5, 0.4]), 0.01)
    assert found.curve.gain_B.tolist() == [0.0]
    refused = curves.equal_score(found, found, 0.55)
    assert refused.reason == "a: that its score grows with its bytes is not established"
    assert math.isnan(refused.ratio.value)


def test_bytes_at_equal_score_of_shifted_curves_are_their_shift() -> None:
    """A scheme that needs 1.8 times the bytes for every score needs 1.8 times at any target, and BD-rate is 0.8."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    a, b = ladder("a", BYTES, score, 1e-6), ladder("b", 1.8 * BYTES, score, 1e-6)
    for target in (0.55, 0.65, 0.69):
        found = curves.equal_score(a, b, target)
        assert found.ratio.value == pytest.approx(1.8)
        assert found.ratio.low == pytest.approx(1.8, rel=1e-3)
    rate, undefined = curves.bd_rate(a, b)
    assert (rate.value, undefined) == (pytest.approx(0.8), 0.0)


def test_a_saving_is_a_range_over_targets() -> None:
    """A ladder that needs the same bytes at its low end and twice as many at its high end has all ratios in between."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    a, b = ladder("a", BYTES, score, 1e-6), ladder("b", BYTES * np.geomspace(1, 2, 4), score, 1e-6)
    ratios = [found.ratio.value for found in curves.over_targets(a, b)]
    assert len(ratios) == 9
    assert ratios == sorted(ratios)
    assert 1.0 < ratios[0] < 1.2
    assert 1.8 < ratios[-1] < 2.0
    assert curves.over_targets(a, ladder("c", BYTES, score + 0.5, 1e-6)) == []


def test_a_target_that_was_not_measured_is_refused() -> None:
    """No curve is used beyond its points."""
    a = ladder("a", BYTES, np.array([0.5, 0.6, 0.66, 0.7]), 0.001)
    assert curves.equal_score(a, a, 0.75).reason == "a: its points score 0.5 to 0.699 by their curve; 0.75 is outside"


def test_an_interval_may_be_endless() -> None:
    """Near the top of what was measured some resamples never reach the target: no upper end."""
    a = ladder("a", BYTES, np.array([0.5, 0.6, 0.66, 0.7]), 0.01)
    found = curves.equal_score(a, a, 0.695)
    assert found.anchor_bytes.high == math.inf
    assert 0 < found.anchor_bytes.low < 16_000


def test_joint_resamples_cancel_what_schemes_share() -> None:
    """Two ladders with the same errors have an exact ratio, though the bytes of each have an error."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    a, b = ladder("a", BYTES, score, 0.005), ladder("b", 2 * BYTES, score, 0.005)
    found = curves.equal_score(a, b, 0.62)
    assert (found.ratio.low, found.ratio.high) == pytest.approx((2.0, 2.0))
    assert found.anchor_bytes.high > 1.05 * found.anchor_bytes.low


def test_latency_at_equal_score_is_the_sum_at_the_solved_bytes() -> None:
    """0.1 s for one and 0.2 s for the other besides 8 bytes / rate, at bytes that are 2 to 1."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    a, b = ladder("a", BYTES, score, 1e-6), ladder("b", 2 * BYTES, score, 1e-6)
    timed = np.full((8, 4), 0.1)
    link_P = 8 * a.payload_bytes / 400e3
    one, other, ratio = curves.latency_at_equal_score(
        a, b, 0.6, None, anchor_link_P=link_P, test_link_P=2 * link_P, anchor_timed_SP=timed, test_timed_SP=2 * timed
    )
    bytes_a = curves.equal_score(a, b, 0.6).anchor_bytes.value
    assert one.value == pytest.approx(0.1 + 8 * bytes_a / 400e3)
    assert other.value == pytest.approx(2 * one.value)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-3)


def test_bd_score_of_parallel_curves_is_their_distance() -> None:
    """Three points more at every payload is a BD-score of 0.03."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    found = curves.bd_score(ladder("a", BYTES, score, 1e-6), ladder("b", BYTES, score + 0.03, 1e-6))
    assert found.value == pytest.approx(0.03)
    assert found.low == pytest.approx(0.03, abs=1e-4)


def test_bd_rate_that_resamples_do_not_define_is_refused() -> None:
    """With noise as large as the gain the curves of many resamples do not reach the band."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    found, undefined = curves.bd_rate(ladder("a", BYTES, score, 0.04), ladder("b", BYTES, score, 0.04, seed=1))
    assert undefined > 0.025
    assert "of the resamples, above 2.5%" in found.reason


@pytest.mark.parametrize(
    ("kind", "anchor", "test", "rate", "gain"),
    [
        # The example of the package bjontegaard (FAU-LMS): libx265 with two presets, kbit/s and dB; version 1.3.0
        # prints these values.
        ("pchip", "x265", "x265 test", -4.417485350589045, 0.11969278542479489),
        ("akima", "x265", "x265 test", -4.425245156997493, 0.11940927028529469),
        # The sample of the older public implementations of VCEG-M33, through the same package.
        ("pchip", "m33", "m33 test", 31.379878202397627, -1.183472404622454),
        ("akima", "m33", "m33 test", 31.38398898434116, -1.1836589700732028),
    ],
)
def test_classic_differences_are_a_public_implementations(
    kind: Literal["pchip", "akima"], anchor: str, test: str, rate: float, gain: float
) -> None:
    """BD-rate in percent and BD-PSNR in dB agree to nine digits."""
    points = {
        "x265": ([9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851]),
        "x265 test": ([9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987]),
        "m33": ([686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42]),
        "m33 test": ([893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24]),
    }
    found = curves.bd_classic(*points[anchor], *points[test], kind)
    assert (100 * found[0], found[1]) == pytest.approx((rate, gain), rel=1e-9)


def test_a_classic_rate_of_scores_that_fall_is_undefined() -> None:
    """The difference of scores is given; log bytes are not a function of such scores."""
    rate, gain = curves.bd_classic([1, 2, 4], [1.0, 3.0, 2.0], [1, 2, 4], [2.0, 4.0, 3.0])
    assert math.isnan(rate)
    assert gain == pytest.approx(1.0)


@pytest.mark.slow
def test_coverage_of_bytes_at_equal_score() -> None:
    """Of 150 studies of 765 questions at 95 % at least 90 % of the ratios given hold the true 1.8."""
    rng, held, given_ = np.random.default_rng(5), 0, 0
    start = np.log(BYTES / 3500)
    chance = np.r_[0.78 - 0.25 * np.exp(-0.9 * start), 0.78 - 0.25 * np.exp(-0.9 * start)]
    for _ in range(150):
        right = (rng.random((765, 1)) < chance).astype(float)
        noise = rng.random((765, 8)) < 0.2
        right = np.where(noise, rng.random((765, 8)) < chance, right)
        score_B = rng.multinomial(765, np.full(765, 1 / 765), size=300) @ right / 765
        score = right.mean(axis=0)
        a, b = (
            Ladder.fit("a", BYTES, score[:4], score_B[:, :4]),
            Ladder.fit("b", 1.8 * BYTES, score[4:], score_B[:, 4:]),
        )
        found = curves.equal_score(a, b, 0.65)
        if not found.reason:
            given_ += 1
            held += found.ratio.low <= 1.8 <= found.ratio.high
    assert given_ > 100
    assert held >= 0.9 * given_


def test_few_clusters_have_no_interval() -> None:
    """Resamples of one cluster are identical, so there is no slope and no interval; from six clusters there are."""
    score = np.array([0.5, 0.6, 0.66, 0.7])
    score_B = np.broadcast_to(score, (100, 4))

    def pair(clusters: int) -> tuple[Ladder, Ladder]:
        a, b = (Ladder.fit(name, n * BYTES, score, score_B, clusters=clusters) for name, n in (("a", 1.0), ("b", 1.8)))
        return a, b

    enough, one, five = pair(6), pair(1), pair(5)
    assert curves.equal_score(*enough, 0.65).ratio.value == pytest.approx(1.8)
    for few, reason in ((one, "1 picture gives no interval"), (five, "5 pictures give no interval")):
        at, (rate, _), gain = curves.equal_score(*few, 0.65), curves.bd_rate(*few), curves.bd_score(*few)
        refused = (at.ratio, at.test_bytes, rate)
        assert all(math.isnan(number) for estimate in refused for number in (estimate.value, estimate.low))
        assert gain.value == pytest.approx(curves.bd_score(*enough).value)
        assert [math.isnan(end) for end in (gain.low, gain.high)] == [True, True]
        assert all(why.startswith(reason) for why in (at.reason, rate.reason, gain.reason))
        timed_SP = np.full((6, 4), 0.1)
        total = curves.latency_at_equal_score(
            *few, 0.65, None,
            anchor_link_P=np.zeros(4), test_link_P=np.zeros(4), anchor_timed_SP=timed_SP, test_timed_SP=timed_SP,
        )  # fmt: skip
        assert total[2].reason.startswith(reason)
