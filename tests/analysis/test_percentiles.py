"""Percentiles and shares by pictures, and systems without a steady state."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st

from harness.analysis import percentiles


def test_pictures_that_agree_with_themselves_count_once() -> None:
    """Ten requests of a picture that are all in or all out are worth one: n = S - 1 of S, so S."""
    inside = np.repeat([[1.0], [0.0]] * 10, 10, axis=1)
    assert percentiles.effective_size(inside) == 20.0


def test_requests_that_do_not_depend_on_the_picture_count_each() -> None:
    """Where every picture has half of its requests inside, all of them count."""
    assert percentiles.effective_size(np.tile([1.0, 0.0], (20, 5))) == 200.0


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 6))
@example(7360281, 5, 2)  # All pictures agree: 1 / (5 / 25) would be below 5.
def test_the_effective_size_lies_between_pictures_and_requests(seed: int, n: int, requests: int) -> None:
    """S <= n <= S R, whatever is inside."""
    rng = np.random.default_rng(seed)
    inside = rng.random((n, requests)) < rng.random((n, 1))
    assert n <= percentiles.effective_size(inside) <= n * requests


def test_pictures_that_count_unlike_are_worth_fewer() -> None:
    """Half of a share rests on 10 pictures, half on 90: p (1 - p) / n = (1/4) (p (1 - p) / 10 + p (1 - p) / 90)."""
    few, many = np.resize([0.5, -0.5], 10), np.resize([0.5, -0.5], 90)
    part_S = 0.5 + np.concatenate([few * 100 / 20, many * 100 / 180])
    assert percentiles.effective_size(part_S[:, None]) == pytest.approx(36 * 99 / 100)
    found = percentiles.share(part_S[:, None], at_most=100).estimate
    deviation = math.sqrt(0.5 * 0.5 / 36)
    assert (found.value, found.high - found.low) == pytest.approx((0.5, 2 * 1.96 * deviation), rel=0.06)


def of_subtasks(share_H: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The pictures' parts of the mean over subtasks, (S, 1), and the subtask of each, from their own shares."""
    n, mean = sum(map(len, share_H)), float(np.mean([np.mean(one) for one in share_H]))
    parts = [mean + n / (len(share_H) * len(one)) * (np.array(one) - np.mean(one)) for one in share_H]
    return np.concatenate(parts)[:, None], np.repeat(np.arange(len(share_H)), [len(one) for one in share_H])


def test_the_scatter_in_subtasks_is_around_the_mean_of_each() -> None:
    """Of 4 and 25 pictures, 1 and 20 right: v = (3/4 + 4) / 27, v_h = (q_h + 3 v) / (n_h + 2).

    The variance is sum_h v_h / (4 n_h).
    """
    part_S, subtask_S = of_subtasks([[1.0, 0, 0, 0], [1.0] * 20 + [0.0] * 5])
    v = (4 * 1 / 4 * 3 / 4 + 25 * 4 / 5 * 1 / 5) / 27
    variance = ((0.75 + 3 * v) / (6 * 4) + (4 + 3 * v) / (27 * 25)) / 4
    mean = (1 / 4 + 20 / 25) / 2
    assert percentiles.effective_size(part_S, subtask_S=subtask_S) == pytest.approx(mean * (1 - mean) / variance)


def test_where_pictures_of_subtasks_agree_their_weights_are_what_is_known() -> None:
    """Their n is H^2 / sum_h 1 / n_h: of 5 and 20 pictures 4 / (1 / 5 + 1 / 20) = 16; one a subtask is worth one."""
    agreed = [[1.0] * 5, [1.0] * 20]
    part_S, subtask_S = of_subtasks(agreed)
    assert percentiles.effective_size(part_S, 50, subtask_S=subtask_S) == pytest.approx(16)
    alone, each = of_subtasks([[1.0], [0.0], [1.0]])
    assert percentiles.effective_size(alone, 6, subtask_S=each) == pytest.approx(3)


@given(st.integers(0, 2**32 - 1), st.integers(6, 30))
def test_one_subtask_is_no_subtask(seed: int, n: int) -> None:
    """Pictures of a single subtask give the interval of pictures without any."""
    share_S = np.random.default_rng(seed).random((n, 1)).round(1)
    assert percentiles.share(share_S, subtask_S=["a"] * n) == percentiles.share(share_S)


@pytest.mark.parametrize("sizes", [(1, 19), (2, 18), (5, 95), (10, 190), (2, 2, 8, 10, 11, 1)])
def test_a_mean_over_subtasks_of_few_pictures_is_covered(sizes: tuple[int, ...]) -> None:
    """Of 300 studies of which nine of ten pictures are right at least 92 % hold 0.9: 95 % less 2.4 deviations."""
    rng = np.random.default_rng(list(sizes))
    held = 0
    for _ in range(300):
        part_S, subtask_S = of_subtasks([(rng.random(n) < 0.9).astype(float).tolist() for n in sizes])
        found = percentiles.share(part_S, subtask_S=subtask_S).estimate
        held += found.low <= 0.9 <= found.high
    assert held / 300 >= 0.92


def test_a_median_of_single_requests_is_clopper_and_pearsons_read_back() -> None:
    """Of 100 requests of 100 pictures the median's ends are where Clopper and Pearson's ends of one half are."""
    found = percentiles.percentile(np.arange(1.0, 101.0)[:, None], 0.5).estimate
    low, high = scipy.stats.binomtest(50, 100).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == (50.0, math.ceil(100 * low), math.ceil(100 * high))


def test_a_percentile_is_claimed_only_where_it_is_certified() -> None:
    """Ten times as many requests of twelve pictures do not certify a p90."""
    times = np.repeat(np.arange(1.0, 13.0)[:, None], 10, axis=1)
    assert percentiles.percentile(times, 0.5).estimate.reason == ""
    refused = percentiles.percentile(times, 0.9).estimate
    assert math.isnan(refused.value)
    assert refused.reason == "p90 needs 64 independent requests; these are worth 12"


def test_a_request_never_answered_is_the_slowest() -> None:
    """A median among answers is given; its upper end is infinite if too many were never answered."""
    times = np.arange(1.0, 21.0)[:, None]
    times[12:] = math.inf
    found = percentiles.percentile(times, 0.5).estimate
    assert (found.value, found.high) == (10.0, math.inf)


def test_all_in_time_is_not_certainty() -> None:
    """Twelve pictures of twelve in time: Clopper and Pearson's 0.025^(1/12) at least."""
    found = percentiles.share(np.ones((12, 3))).estimate
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.025 ** (1 / 12)), 1.0)


def test_replications_are_students() -> None:
    """1, 2, 3: mean 2, half-width 4.303 / sqrt(3); one replication does not show its own scatter."""
    found = percentiles.over_replications([1.0, 2.0, 3.0])
    assert (found.value, found.high - found.value) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert math.isnan(percentiles.over_replications([1.0]).high)


def test_a_saturated_queue_is_reported_as_unstable() -> None:
    """2 requests a second of 0.65 s each: utilisation 1.3 of one server, 0.65 of two."""
    assert percentiles.unstable(percentiles.utilisation(2.0, 0.65, 1)) == "unstable: utilisation 1.3"
    assert percentiles.unstable(percentiles.utilisation(2.0, 0.65, 2)) == ""


def test_coverage_of_a_median_whose_repeats_depend_on_each_other() -> None:
    """Of 400 studies of 40 pictures at 95 % at least 92 % hold the truth; counting requests holds 85 %."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        times = np.exp(0.3 * rng.normal(size=(40, 1)) + 0.1 * rng.normal(size=(40, 3)))
        found = percentiles.percentile(times, 0.5).estimate
        held += found.low <= 1.0 <= found.high
    assert held >= 368
