"""Differences of D between trainings, with intervals over held-out pictures and seeds.

d_sp is the difference on picture p with seed s, of a training less a curve through others. Its mean over all is known
up to the scatter of pictures and of trainings,

    half^2 = t_P^2 v_P + t_S^2 a s^2 + t_c^2 c s_c^2,     v_P = (s_p^2 - a e^2 - c e_c^2) / P,

s_p^2 being the variance of the means by picture, s^2 that of the means by seed, e^2 that of what remains; t are
Student's quantiles at the degrees of freedom of each (Graybill and Wang, Journal of the American Statistical
Association 75, 1980). a = 1/S is the share of the compared trainings. The curve is made of trainings too: where it is
the mean of two points with weights w and 1 - w, of n and m seeds, c = w^2 / n + (1 - w)^2 / m. Its trainings are taken
to scatter as all do that have several seeds: s_c^2 and e_c^2 are pooled over these, and stand for s^2 and e^2 where a
training has one seed. The remainder is in s^2 already, and is therefore taken out of s_p^2.

Where nothing has several seeds the interval is Student's over pictures, which is too narrow: the scatter of a training
is not in it, as a :class:`Difference` then says.

    S seeds   P pictures   K points of a curve
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

Pictures = Sequence[tuple[int, float]]
"""Bytes and D of each picture."""


class Difference(NamedTuple):
    """A mean difference, its 95 % interval, the seeds that it is a mean of, and whether trainings' scatter is in it."""

    value: float
    low: float
    high: float
    seeds: int
    with_scatter: bool

    def __str__(self) -> str:
        alone = "" if self.with_scatter else ", over pages alone"
        return f"{self.value:+.4f} | {self.low:+.4f} to {self.high:+.4f}{alone} | {self.seeds}"


class Scatter(NamedTuple):
    """The variance of means by seed, that of what remains, and the degrees of freedom of the former."""

    of_seeds: float
    of_rest: float
    freedom: int


def scatter(groups: Iterable[ArrayLike]) -> Scatter | None:
    """The scatter of trainings, pooled over groups of differences (S, P); None where no group has two seeds."""
    of_seeds, of_rest, freedom, rest_freedom = 0.0, 0.0, 0, 0
    for group in groups:
        d_SP = np.asarray(group, float)
        n_seeds, n_pictures = d_SP.shape
        if n_seeds > 1:
            by_seed_S1 = d_SP.mean(1, keepdims=True)
            of_seeds += ((by_seed_S1 - d_SP.mean()) ** 2).sum()
            of_rest += ((d_SP - d_SP.mean(0) - by_seed_S1 + d_SP.mean()) ** 2).sum()
            freedom += n_seeds - 1
            rest_freedom += (n_seeds - 1) * (n_pictures - 1)
    return Scatter(of_seeds / freedom, of_rest / rest_freedom, freedom) if freedom else None


def difference(
    less_SP: ArrayLike,
    *,
    pooled: Scatter | None = None,
    own_share: float | None = None,
    curve_share: float = 0.0,
    confidence: float = 0.95,
) -> Difference:
    """The mean of differences by seed and picture (S, P), float, of at least two pictures.

    ``own_share`` is a, 1/S where it is not given, and ``curve_share`` c; ``pooled`` is the scatter of all trainings.
    """
    d_SP = np.asarray(less_SP, float)
    n_seeds, n_pictures = d_SP.shape
    own = scatter([d_SP]) or pooled

    def student(freedom: int) -> float:
        return float(scipy.special.stdtrit(freedom, (1 + confidence) / 2))

    parts = [(own, 1 / n_seeds if own_share is None else own_share), (pooled or own, curve_share)]
    squared, rest = 0.0, 0.0
    for one, share in parts:
        if one is not None:
            squared += student(one.freedom) ** 2 * share * one.of_seeds
            rest += share * one.of_rest
    of_pictures = max(0.0, d_SP.mean(0).var(ddof=1) - rest) / n_pictures
    half = float(np.sqrt(squared + of_pictures * student(n_pictures - 1) ** 2))
    mean = float(d_SP.mean())
    return Difference(mean, mean - half, mean + half, n_seeds, own is not None)


class _Segment(NamedTuple):
    """The points of a curve below and above some bytes, the weight of the latter, and the length in log bytes."""

    below: int
    above: int
    weight: float
    length: float


def _segment(at: float, along_K: Any, *, beyond: bool = False) -> _Segment | None:
    order = np.argsort(along_K, kind="stable")
    ordered_K = along_K[order]
    if not len(order) or not (beyond or ordered_K[0] <= at <= ordered_K[-1]):
        return None
    if len(order) == 1:
        return _Segment(0, 0, 0.0, 0.0)
    k = int(np.clip(np.searchsorted(ordered_K, at) - 1, 0, len(order) - 2))
    length = float(np.log(ordered_K[k + 1] / ordered_K[k]))
    weight = float(np.log(at / ordered_K[k])) / length if length else 0.5
    return _Segment(int(order[k]), int(order[k + 1]), weight, length)


def curve_weights(point: Any, curve: Sequence[Any]) -> Any:
    """The weights (K,), float64, of a curve's points at a point's bytes; None beyond the curve."""
    if (segment := _segment(*_bytes(point, curve))) is None:
        return None
    weight_K = np.zeros(len(curve))
    weight_K[segment.below] += 1 - segment.weight
    weight_K[segment.above] += segment.weight
    return weight_K


def _bytes(point: Any, curve: Sequence[Any]) -> tuple[float, Any]:
    """The mean bytes of a point, and of a curve's points (K,)."""
    along_K = np.asarray(curve, float)[:, :, 0].mean(1) if len(curve) else np.zeros(0)
    return float(np.asarray(point, float)[:, 0].mean()), along_K


def less_than_curve(point: Any, curve: Sequence[Any], *, beyond: bool = False) -> Any:
    """A point's D less a curve's at the point's bytes, by picture (P,), float64; None beyond the curve.

    Point and curve's points are :data:`Pictures`. The curve's D is linear in the logarithm of bytes between its points,
    and with ``beyond`` outside of them too. The mean over pictures is the difference of the curves' means; what a
    picture's bytes do to the place on the curve is counted to first order.
    """
    at, along_K = _bytes(point, curve)
    if (segment := _segment(at, along_K, beyond=beyond)) is None:
        return None
    point_PX, curve_KPX = np.asarray(point, float), np.asarray(curve, float)
    below, above, weight, length = segment
    below_PX, above_PX = curve_KPX[below], curve_KPX[above]
    slope = (above_PX[:, 1] - below_PX[:, 1]).mean() / length if length else 0.0
    moved_P = (
        point_PX[:, 0] / at - (1 - weight) * below_PX[:, 0] / along_K[below] - weight * above_PX[:, 0] / along_K[above]
    )
    curve_P = (1 - weight) * below_PX[:, 1] + weight * above_PX[:, 1] + slope * moved_P
    return point_PX[:, 1] - curve_P
