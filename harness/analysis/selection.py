"""Which operating points are admitted, without reward for having many of them.

A point p scores what is wanted of it where s_p - theta s_0 >= 0, with theta = t - m, the target less the margin: theta
is what is certified, and nothing closer to the reference is. Over pictures (clusters of questions that share one, or a
metric's group) the contrast is

    d_c = a_c - theta b_c,        a_c, b_c the picture's parts of s_p and s_0:  s = mean_c,

and the null hypothesis is that its mean is below 0. The test is a score test: the statistic's variance is taken under
the null hypothesis, from the distribution on the pictures seen, and on the worst one that could have been, that is most
likely among those whose contrast has mean 0,

    weight_c = 1 / (n (1 + lambda d_c)),   sum_c weight_c d_c + weight_* w = 0,   w = min(min_c d_c, -theta max_c b_c),

    z = n mean(d) / sqrt(n V),    V = sum_c weight_c d_c^2 + weight_* w^2,    against Student's with n - 1 degrees.

Where pictures do not count alike, in several benchmarks and in a sum over subtasks, those of each scatter about a mean
of their own, and a few of them hardly at all. V is then larger by n times what the variance of mean(d) within
benchmarks and subtasks (:func:`harness.analysis.percentiles.variance_of_mean`) has more than that of a simple sample,
and in w the largest part that a picture can have takes the place of max_c b_c: the picture that could have been lost
may be one of the smallest subtask, which counts most.

Of questions one a picture it is Nam and Blackwelder's test of the ratio of paired proportions (Statistics in Medicine
21, 2002). Where no picture is lost, V is still what losses just frequent enough would make it: as with the rule of
three, a few pictures that agree certify nothing. Owen (Empirical Likelihood, 2001, chapter 3) has the weights.

The points of a scheme form ladders (one for each n_c), each in an order that is declared before any score is seen: most
bytes first. Down a ladder each point is tested at alpha / L, L the scheme's number of ladders, until one is not
admitted; those below it are not tested (fixed-sequence testing: Maurer, Hothorn and Lehmacher, 1995). The chance that
any point of the scheme is admitted that scores less than theta s_0 is at most alpha, however many points it has.

    C pictures   G groups of a metric
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike, NDArray

from harness.analysis import percentiles

Floats = NDArray[np.float64]
_ROUNDING = 1e-9
"""Of the largest part: below it two parts of scores are the same, which are differences of scores near 1."""


class Makeup(NamedTuple):
    """How clusters make up a score of which they are not all alike.

    ``subtasks`` has an array for each benchmark, in the order of the clusters: the subtask of each of its clusters.
    ``most`` is the largest part that a cluster can have, in the unit of the parts.
    """

    subtasks: Sequence[NDArray[np.str_]]
    most: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the test said of one point: ``p_value`` is NaN where a point above it on its ladder was not admitted."""

    ladder: Hashable
    point: Hashable
    alpha: float
    p_value: float
    admitted: bool

    @property
    def tested(self) -> bool:
        """Whether the ladder got as far as this point."""
        return not np.isnan(self.p_value)


def contributions(resampled: Callable[[Floats], Floats], cluster_G: ArrayLike, *, step: float = 1e-3) -> Floats:
    """Each cluster's part of a score, (C,), so that their mean is the score and their scatter its standard error.

        part_c = s + C ds / dweight_c

    ``resampled`` gives the score under each row of weights (B, G) of the metric's groups, as
    :meth:`harness.data.scoring.Metric.resampled` does; ``cluster_G`` (G,) says of which cluster each group is, from 0
    on. It is Jaeckel's infinitesimal jackknife, exact for accuracy with one question a picture and of first order for
    pairs and rotations.
    """
    cluster_G = np.asarray(cluster_G, dtype=np.int64)
    mine_CG = (cluster_G == np.arange(int(cluster_G.max()) + 1)[:, None]).astype(np.float64)
    score = float(resampled(np.ones((1, cluster_G.size)))[0])
    slope_C = (resampled(1 + step * mine_CG) - resampled(1 - step * mine_CG)) / (2 * step)
    part_C = score + mine_CG.shape[0] * slope_C
    return np.asarray(part_C - part_C.mean() + score)


def joined(parts: Sequence[Floats], scales: Sequence[float]) -> Floats:
    """Clusters' parts of the sum of several benchmarks' scores, each times its scale, from the parts of each.

    The mean of what is returned is sum_b scale_b s_b. Questions of different benchmarks are different clusters.
    """
    total = sum(part.size for part in parts)
    return np.concatenate([scale * total / part.size * part for part, scale in zip(parts, scales, strict=True)])


def p_value(point_C: ArrayLike, reference_C: ArrayLike, theta: float, makeup: Makeup | None = None) -> float:
    """How likely scores as good are of a point that scores theta times the reference; small speaks for the point.

    ``point_C`` and ``reference_C`` (C,) are the clusters' parts of the two scores, not below 0 and finite; ``makeup``
    says how they make up the scores, if they do not count alike. Of fewer than two clusters it is 1. Raises ValueError
    for shapes that do not agree.
    """
    point_C, reference_C = np.asarray(point_C, np.float64), np.asarray(reference_C, np.float64)
    if point_C.shape != reference_C.shape or point_C.ndim != 1:
        raise ValueError(f"parts of shapes {point_C.shape} and {reference_C.shape} are not paired")
    n = point_C.size
    difference_C = point_C - theta * reference_C
    # Equal answers have parts that differ by the rounding of their slopes, and speak for nothing.
    difference_C[abs(difference_C) < _ROUNDING * abs(point_C).max(initial=0.0)] = 0.0
    mean = float(difference_C.mean()) if n else 0.0
    # A reference that is nowhere right asks nothing of a point.
    if n < 2 or mean <= 0 or reference_C.max() <= 0:
        return 1.0
    most = float(reference_C.max()) if makeup is None else max(float(reference_C.max()), makeup.most)
    worst = min(float(difference_C.min()), -theta * most)
    weight_C, weight_worst = _null(difference_C, worst)
    variance = float(weight_C @ difference_C**2) + weight_worst * worst**2
    variance += n * unseen_variance(difference_C, makeup)
    return 1 - float(scipy.special.stdtr(n - 1, np.sqrt(n) * mean / np.sqrt(variance)))


def unseen_variance(part_C: Floats, makeup: Makeup | None) -> float:
    """By how much the variance of the mean of clusters' parts, (C,), is larger than a simple random sample's says."""
    if makeup is None:
        return 0.0
    ends = np.cumsum([of_benchmark.size for of_benchmark in makeup.subtasks])
    within = sum(
        (mine_C.size / part_C.size) ** 2 * percentiles.variance_of_mean(mine_C, of_benchmark)
        for mine_C, of_benchmark in zip(np.split(part_C, ends[:-1]), makeup.subtasks, strict=True)
    )
    return max(0.0, within - percentiles.variance_of_mean(part_C))


def certified_share(point_C: ArrayLike, reference_C: ArrayLike, alpha: float, makeup: Makeup | None = None) -> float:
    """The largest theta, from 0 to 2, that :func:`p_value` rejects at ``alpha``: "at least 87 % of the reference".

    0 where not even a small share is certified. A bound of one point at a time, not of all at once.
    """
    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(point_C, reference_C, middle, makeup) <= alpha else (low, middle)
    return low


def admit(
    ladders: Mapping[Hashable, Sequence[tuple[Hashable, ArrayLike]]],
    reference_C: ArrayLike,
    *,
    theta: float,
    alpha: float = 0.05,
    makeup: Makeup | None = None,
) -> list[Decision]:
    """Test down each ladder of one scheme: which points score at least ``theta`` times the reference.

    ``ladders`` maps each ladder to its points and the clusters' parts of their scores, in the order declared, most
    bytes first (:func:`descending`). The level of each ladder is ``alpha`` over their number. ``makeup`` as of
    :func:`p_value`.
    """
    found = []
    for ladder, points in ladders.items():
        level, open_ = alpha / len(ladders), True
        for point, point_C in points:
            p = p_value(point_C, reference_C, theta, makeup) if open_ else np.nan
            open_ = open_ and p <= level
            found.append(Decision(ladder=ladder, point=point, alpha=level, p_value=p, admitted=open_))
    return found


def descending(points: Sequence[Hashable], payload_bytes: Sequence[float]) -> list[Hashable]:
    """Points by their mean bytes, most first, equal ones in the order given: the order in which they are tested."""
    order = sorted(range(len(points)), key=lambda place: -payload_bytes[place])
    return [points[place] for place in order]


def _null(difference_C: Floats, worst: float) -> tuple[Floats, float]:
    """The weights of the likeliest distribution of mean 0, and that of the worst picture that could have been."""
    n = difference_C.size
    highest = -1 / worst
    weight_C = 1 / (n * (1 + highest * difference_C)) if difference_C.min() > worst else None
    if weight_C is not None and weight_C.sum() <= 1:
        return weight_C, 1 - float(weight_C.sum())

    def mean_of(lambda_: float) -> float:
        return float((difference_C / (1 + lambda_ * difference_C)).sum())

    # Where the worst is among those seen the sum falls without end towards the upper limit; where it is not, weights
    # whose sum is 1 but for rounding leave no root below the limit.
    limit = highest * (1 - 1e-12)
    found = limit if mean_of(limit) >= 0 else scipy.optimize.brentq(mean_of, 0.0, limit, xtol=1e-14, rtol=1e-10)
    return 1 / (n * (1 + found * difference_C)), 0.0
