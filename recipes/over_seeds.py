"""Differences of D between trainings, with intervals over held-out pictures and seeds.

d_sp is the difference on picture p with seed s. Its mean over all is known up to the scatter of pictures and of seeds,

    half^2 = t_1^2 v_1 + t_2^2 v_2,     v_1 = (s_p^2 - s_e^2 / S) / P,     v_2 = s_s^2 / S,

s_p^2 and s_s^2 being the variances of the means by picture and by seed, s_e^2 that of what remains, and t_1, t_2
Student's quantiles at P - 1 and S - 1 degrees of freedom (Graybill and Wang, Journal of the American Statistical
Association 75, 1980). The remainder is in s_s^2 already, and is therefore taken out of s_p^2. With one seed the
interval is Student's over pictures, which leaves the scatter of a training out and is too narrow.

    S seeds   P pictures
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

Pictures = Sequence[tuple[int, float]]
"""Bytes and D of each picture."""


class Difference(NamedTuple):
    """A mean difference, its 95 % interval, and the seeds that it is a mean of."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:+.4f} | {self.low:+.4f} to {self.high:+.4f} | {self.seeds}"


def difference(less_SP: ArrayLike, confidence: float = 0.95) -> Difference:
    """The mean of differences by seed and picture (S, P), float, of at least two pictures."""
    d_SP = np.asarray(less_SP, float)
    n_seeds, n_pictures = d_SP.shape

    def student(freedom: int) -> float:
        return float(scipy.special.stdtrit(freedom, (1 + confidence) / 2))

    by_picture_P, by_seed_S, mean = d_SP.mean(0), d_SP.mean(1), float(d_SP.mean())
    of_pictures, of_seeds = by_picture_P.var(ddof=1) / n_pictures, 0.0
    if n_seeds > 1:
        rest_SP = d_SP - by_picture_P - by_seed_S[:, None] + mean
        of_rest = (rest_SP**2).sum() / ((n_seeds - 1) * (n_pictures - 1))
        of_pictures = max(0.0, of_pictures - of_rest / (n_seeds * n_pictures))
        of_seeds = by_seed_S.var(ddof=1) / n_seeds * student(n_seeds - 1) ** 2
    half = float(np.sqrt(of_pictures * student(n_pictures - 1) ** 2 + of_seeds))
    return Difference(mean, mean - half, mean + half, n_seeds)


def less_than_curve(point: Pictures, curve: Sequence[Pictures]) -> Any:
    """A point's D less a curve's at the point's bytes, by picture (P,), float64; None beyond the curve.

    The curve's D is linear in the logarithm of bytes between its points. The mean over pictures is the difference of
    the curves' means; what a picture's bytes do to the place on the curve is counted to first order.
    """
    point_PX, curve_KPX = np.array(point, float), np.array(sorted(curve, key=lambda one: np.mean(one, 0)[0]), float)
    if not len(curve_KPX):
        return None
    at, along_K = point_PX[:, 0].mean(), curve_KPX[:, :, 0].mean(1)
    if not along_K[0] <= at <= along_K[-1]:
        return None
    if len(along_K) == 1:
        return point_PX[:, 1] - curve_KPX[0, :, 1]
    k = int(np.clip(np.searchsorted(along_K, at) - 1, 0, len(along_K) - 2))
    below_PX, above_PX = curve_KPX[k], curve_KPX[k + 1]
    length = np.log(along_K[k + 1] / along_K[k])
    weight = np.log(at / along_K[k]) / length
    slope = (above_PX[:, 1] - below_PX[:, 1]).mean()
    moved_P = (
        point_PX[:, 0] / at - (1 - weight) * below_PX[:, 0] / along_K[k] - weight * above_PX[:, 0] / along_K[k + 1]
    )
    curve_P = (1 - weight) * below_PX[:, 1] + weight * above_PX[:, 1] + slope * moved_P / length
    return point_PX[:, 1] - curve_P
