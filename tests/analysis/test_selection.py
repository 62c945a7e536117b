"""Admission of operating points: the score test, the ladders, and how often a point is admitted that should not be."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import selection
from harness.data.scoring import metric


def pairs(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Point and reference with these numbers of questions, one per picture."""
    counts = [both, gained, lost, neither]
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


def restricted_variance(both: int, lost: int, neither: int, theta: float) -> float:
    """The variance of d under the null, by a search over the probability of a loss; nothing is gained."""
    p_lost = np.linspace(1e-6, 0.3, 300_001)
    p_both = theta * p_lost / (1 - theta)
    p_neither = 1 - p_lost - p_both
    possible = p_neither > 0
    p_lost, p_both, p_neither = p_lost[possible], p_both[possible], p_neither[possible]
    best = (both * np.log(p_both) + lost * np.log(p_lost) + neither * np.log(p_neither)).argmax()
    return float(p_both[best] * (1 - theta) ** 2 + p_lost[best] * theta**2)


def test_the_null_distribution_is_the_likeliest_of_mean_zero() -> None:
    """The variance under the null agrees with a search over all distributions on the four outcomes."""
    point, reference = pairs(60, 0, 3, 37)
    mean = float((point - 0.87 * reference).mean())
    z = -scipy.special.stdtrit(99, selection.p_value(point, reference, 0.87))
    assert (math.sqrt(100) * mean / z) ** 2 == pytest.approx(restricted_variance(60, 3, 37, 0.87), rel=1e-3)


def test_few_pictures_that_agree_certify_nothing() -> None:
    """As with the rule of three: ten right answers of ten leave losses of 13 % open, a hundred do not."""
    assert selection.p_value(*pairs(10, 0, 0, 0), 0.87) > 0.05
    assert selection.p_value(*pairs(100, 0, 0, 0), 0.87) < 0.001


@given(st.integers(2, 60), st.integers(0, 10), st.integers(0, 10), st.integers(0, 30))
def test_one_more_lost_picture_never_favours_a_point(both: int, gained: int, lost: int, neither: int) -> None:
    """The p-value grows with every picture that the point loses."""
    before = selection.p_value(*pairs(both, gained, lost, neither), 0.87)
    assert selection.p_value(*pairs(both - 1, gained, lost + 1, neither), 0.87) >= before - 1e-9


@pytest.mark.slow
@given(st.integers(5, 60), st.integers(0, 10), st.integers(0, 10))
def test_what_is_certified_is_where_the_test_turns(both: int, gained: int, lost: int) -> None:
    """Just below the certified share the test rejects, just above it does not."""
    point, reference = pairs(both, gained, lost, 10)
    share = selection.certified_share(point, reference, 0.05)
    if share > 0.01:
        assert selection.p_value(point, reference, share - 1e-6) <= 0.05
    assert selection.p_value(point, reference, share + 1e-6) > 0.05


@pytest.mark.slow
@given(st.lists(st.integers(0, 4), min_size=2, max_size=30).filter(any), st.integers(0, 2**32 - 1))
def test_parts_that_differ_by_rounding_alone_are_equal(quarters: list[int], seed: int) -> None:
    """A point with the reference's own answers is not above it, whatever the rounding of its slopes."""
    reference_C = 32.6 * np.array(quarters)
    noise_C = 1e-11 * np.random.default_rng(seed).normal(size=len(quarters))
    assert selection.p_value(reference_C + noise_C, reference_C, 1.0) == 1
    assert selection.p_value(reference_C + abs(noise_C), reference_C, 1.0) == 1


def of_subtasks(right_C: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The clusters' parts of the mean of the subtasks' shares, from whether each is right."""
    n_C = np.repeat(sizes, sizes)
    mean_C = np.repeat([part.mean() for part in np.split(right_C, np.cumsum(sizes)[:-1])], sizes)
    score = float((right_C / n_C).sum() / len(sizes))
    return np.asarray(score + right_C.size / len(sizes) * (right_C - mean_C) / n_C)


def makeup_of(sizes: Sequence[int]) -> selection.Makeup:
    """How they make it up: the only cluster of a subtask has sum(sizes) / H times the part of one among equals."""
    labels = np.repeat([str(place) for place in range(len(sizes))], sizes)
    return selection.Makeup(subtasks=[labels], most=sum(sizes) / (len(sizes) * min(sizes)))


def test_the_variance_that_small_subtasks_do_not_show_is_made_up_for() -> None:
    """On average it becomes p (1 - p) sum_h 1 / (H^2 n_h), that of a mean of shares; with one subtask none is added."""
    rng, p, sizes = np.random.default_rng(5), 0.7, (1, 2, 3, 4, 20)
    found = []
    for _ in range(2000):
        part_C = of_subtasks((rng.random(sum(sizes)) < p).astype(float), sizes)
        simple = float(part_C.var(ddof=1)) / part_C.size
        found.append((simple, simple + selection.unseen_variance(part_C, makeup_of(sizes))))
        assert selection.unseen_variance(part_C, makeup_of([part_C.size])) == pytest.approx(0, abs=1e-12)
    true = p * (1 - p) * sum(1 / n for n in sizes) / len(sizes) ** 2
    simple, whole = np.mean(found, axis=0)
    assert simple < true / 2
    assert whole == pytest.approx(true, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("lost_in", ["all", "smallest"])
@pytest.mark.parametrize(
    ("sizes", "s_0"), [((1, 2, 3, 4, 20), 0.8), ((10, 190), 0.95), ((5, 95), 0.95), ((2, 38), 0.95)]
)
def test_a_few_pictures_of_a_subtask_certify_no_more_than_they_show(
    sizes: Sequence[int], s_0: float, lost_in: str
) -> None:
    """A point at t - m is admitted in 5 % of studies at most, wherever it loses and however few pictures show that."""
    rng, theta, studies = np.random.default_rng(6), 0.87, 300
    chance_H = np.full(len(sizes), theta * s_0)
    if lost_in == "smallest":
        chance_H[:] = s_0
        chance_H[0] -= min(s_0, len(sizes) * (1 - theta) * s_0)
        chance_H[1:] += (theta * s_0 - chance_H.mean()) * len(sizes) / (len(sizes) - 1)
    admitted = 0
    for _ in range(studies):
        hard_C = rng.random(sum(sizes))
        reference, point = (
            of_subtasks((hard_C < np.repeat(p_H, sizes)).astype(float), sizes)
            for p_H in (np.full(len(sizes), s_0), chance_H)
        )
        admitted += selection.p_value(point, reference, theta, makeup_of(sizes)) <= 0.05
    # Three standard errors of a binomial share about 0.05 end at 0.088.
    assert admitted / studies < 0.088


def test_where_pictures_count_alike_their_makeup_changes_nothing() -> None:
    """As where there is one subtask."""
    point, reference = pairs(60, 2, 5, 33)
    plain = selection.p_value(point, reference, 0.87)
    assert selection.p_value(point, reference, 0.87, makeup_of([100])) == pytest.approx(plain, rel=1e-9)


def test_a_ladder_stops_at_the_first_point_that_fails() -> None:
    """Below it nothing is tested, however good; another ladder goes on at its own level."""
    good, bad = pairs(200, 5, 1, 50)[0], pairs(120, 5, 81, 50)[0]
    reference = pairs(200, 5, 1, 50)[1]
    found = selection.admit({"16": [("a", good), ("b", bad), ("c", good)], "32": [("d", good)]}, reference, theta=0.87)
    assert [(one.point, one.tested, one.admitted) for one in found] == [
        ("a", True, True),
        ("b", True, False),
        ("c", False, False),
        ("d", True, True),
    ]
    assert {one.alpha for one in found} == {0.025}


def test_the_order_is_most_bytes_first() -> None:
    """Bytes are known before any score is."""
    assert selection.descending(["low", "high", "middle"], [1.0, 3.0, 2.0]) == ["high", "middle", "low"]


def test_a_reference_that_is_never_right_certifies_nothing() -> None:
    """Where the reference scores 0 no point is certified."""
    assert selection.p_value(np.ones(40), np.zeros(40), 0.87) == 1.0


@given(st.integers(0, 2**32 - 1))
def test_contributions_are_the_answers_themselves_where_questions_are_pictures(seed: int) -> None:
    """Accuracy's parts are 100 for a right answer and 0 for a wrong one, and average to the score."""
    correct = np.random.default_rng(seed).random(30) < 0.6
    words = np.array([f"{place:02}" for place in range(30)])
    accuracy = metric("RealWorldQA")
    parts = selection.contributions(lambda w: accuracy.resampled(words, words, correct, w), np.arange(30))
    np.testing.assert_allclose(parts, 100.0 * correct, atol=1e-4)


def test_contributions_of_pairs_average_to_the_score() -> None:
    """MME's pairs are no mean of answers; their parts still average to the score."""
    rng = np.random.default_rng(0)
    group = np.repeat([f"{place:02}" for place in range(20)], 2)
    category = np.repeat(["count", "scene"], 20)
    correct = rng.random(40) < 0.7
    pairs_metric = metric("GlimpseQA")
    parts = selection.contributions(lambda w: pairs_metric.resampled(category, group, correct, w), np.arange(20))
    assert parts.mean() == pytest.approx(pairs_metric.score(category, group, correct))


def test_several_benchmarks_join_to_their_normalised_average() -> None:
    """100 * mean over benchmarks of s / s_0, whatever their sizes."""
    small, large = np.array([1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    assert selection.joined([small, large], [100 / (2 * 0.5), 100 / 2]).mean() == pytest.approx(100 * (1.0 + 0.75) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 4)])
def test_more_points_do_not_gain(shape: tuple[int, ...]) -> None:
    """Of 600 studies whose points all score exactly t - m, at most 7 % admit one (5 % claimed, three errors)."""
    rng, admitted = np.random.default_rng(sum(shape)), 0
    for _ in range(600):
        reference = rng.random(160) < 0.7
        points = [(reference & (rng.random(160) < 0.87)).astype(float) for _ in range(sum(shape))]
        ladders: dict[Hashable, Sequence[tuple[Hashable, np.ndarray]]] = {}
        place = 0
        for ladder, size in enumerate(shape):
            ladders[ladder] = list(enumerate(points))[place : place + size]
            place += size
        admitted += any(d.admitted for d in selection.admit(ladders, reference.astype(float), theta=0.87))
    assert admitted <= 46
