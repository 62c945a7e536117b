"""Mean latencies and their ratios with intervals that cover, from few pictures timed in few rounds.

y_sr is the time of picture s in round r. A round's level is what its times say of the whole benchmark's mean,

    y_r = sum_s c_s y_sr,        c = X (X'X)^-1 xbar,

X holding what is known of the timed pictures, a row each, and xbar its mean over all pictures of the benchmark:

- without strata X is a column of ones, and c_s = 1/S;
- X is (1, stratum), and y_r is the regression estimate, a line of time on tiles (Cochran, Sampling Techniques, 7.1);
- with fewer than six pictures, and where such a line would go below 0 (of two schemes that are compared, that of
  either), X says in which group each picture is, and y_r is post-stratified: sum_h W_h mean of group h (5A.9). Groups
  are neighbouring strata (counts of tiles), joined until two pictures are expected in each.

The mean is that of the levels. What is unknown about it, relative to it, has two parts:

- v_1, of the pictures: sum(c^2) sum(e^2) / (S - p), e_s the residuals of z_s = mean_r y_sr / y_r about their line or
  group, with S - p degrees of freedom, p the rank of X. What hits a whole round divides out of z_s; repeats of a
  picture are averaged and never counted as pictures. About a line it is one of two others:

  - from twelve pictures on the scatter within groups of neighbouring strata, four timed pictures or more in each,
    sum_h (sum_{s in h} c_s^2) v_h, v_h the variance of the residuals in group h, with Welch's degrees of freedom: the
    few pictures of a slow stratum may have most of the variance, and how times bend from group to group is none, since
    the pictures are spread over the strata as the benchmark's are;
  - with fewer pictures, or where there is one such group, a scatter in proportion to the time,
    sum_s (c_s m_s)^2 sum_s (e_s / m_s)^2 / (S - p), m_s the larger of a picture's time and the line's, with S - p
    degrees of freedom: a picture that is alone in its stratum has hardly a residual, whatever its time scatters.
- v_2 = sigma_b^2 / R, of the drift between rounds: the variance of log y_r less what the scatter of single requests
  explains, never below 0, with R - 1 degrees of freedom; only from three rounds on. Where the rounds come from three
  process starts or more, the starts are what is drawn, and the variance is that of their levels.

Each part takes Student's quantile at its own degrees of freedom, half^2 = t_1^2 v_1 + t_2^2 v_2 (Graybill and Wang,
Journal of the American Statistical Association 75, 1980): Satterthwaite's approximation for the sum covers 91 % where
three rounds drift. The interval is mean (1 - half) to mean exp(half): Student's below, Student's on the log of the mean
above, since times are skewed to the right and a Student interval misses mostly because it ends too low.

A ratio of two schemes' means is taken within each round, so that what both meet in a round cancels:
log q_r = log y_r^A - log y_r^B, z_s = mean_r (y_sr^A / y_r^A - y_sr^B / y_r^B), and the interval q exp(+- half).

Schemes that were timed in different starts of the process share no round: nothing cancels but the pictures, and the
ratio of their means holds the scatter of the starts of each, half^2 = t_1^2 v_1 + t_W^2 (v_2^A + v_2^B), t_W at Welch's
degrees of freedom (Biometrika 34, 1947). With fewer than three starts of either the scatter of starts is unknown, and
there is no interval.

    S pictures   R rounds   H groups of strata   N pictures of the whole benchmark
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["auto", "strata", "line", "regression"]

MIN_PICTURES = 6
"""Fewer pictures than these give no interval: with them the calibration is shown, with fewer it is not."""

MIN_ROUNDS = 3
"""Fewer rounds than these say nothing about the drift between rounds, and the interval is over pictures only."""

SETTLED_ROUNDS, SETTLED_STARTS = 8, 3
"""From these on an absolute mean is more than this session's."""

GROUPED_PICTURES, IN_GROUP = 12, 4
"""From the first on the scatter about a line is that within groups of strata, the second the fewest pictures of one."""

NOT_COMPARABLE = "not comparable"
"""How the reason begins why a ratio cannot say which scheme is faster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the interval in which it lies with the wanted confidence.

    An infinite end is unbounded. Where there is no interval both ends are NaN and ``reason`` says why.
    """

    value: float
    low: float
    high: float
    reason: str = ""

    def __str__(self) -> str:
        shown = "no interval" if math.isnan(self.low) else f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g} {shown}"

    @property
    def half_width(self) -> float:
        """The longer of the two sides of the interval, in the value's unit; NaN where there is none."""
        return max(self.value - self.low, self.high - self.value)

    def plus(self, constant: float) -> "Estimate":
        """The estimate with something added that is known exactly, such as a link time over all questions."""
        return Estimate(self.value + constant, self.low + constant, self.high + constant, self.reason)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What is unknown of the level of all times together: the standard error of its mean over rounds or starts.

    ``error`` is relative, or in the unit of a difference, and 0 where nothing beyond the scatter of requests was seen,
    or the rounds are fewer than :data:`MIN_ROUNDS`; ``freedom`` are its degrees of freedom.
    """

    error: float
    freedom: float

    def half_width(self, confidence: float) -> float:
        """That of an interval about the level by Student's quantile."""
        return self.error * float(scipy.special.stdtrit(self.freedom, (1 + confidence) / 2))

    def with_another(self, other: "Level") -> "Level":
        """That of the difference of two independent ones, with Welch's degrees of freedom."""
        error = math.hypot(self.error, other.error)
        if not error:
            return self
        parts = [(one.error / error) ** 4 / one.freedom for one in (self, other)]
        return Level(error=error, freedom=1 / sum(parts))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PictureScatter:
    """v_1 (``square``), its degrees of freedom, and of how many pictures it is."""

    square: float
    freedom: float
    pictures: int


def mean_latency(
    seconds_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    start_R: ArrayLike | None = None,
    confidence: float = 0.95,
    method: Method = "auto",
) -> Estimate:
    """The mean time over the whole benchmark, in the unit of ``seconds_SR``.

    ``seconds_SR`` (S, R) holds times above 0; ``stratum_S`` (S,) each timed picture's stratum, a number such as its
    count of tiles, and ``population_N`` (N,) that of every picture of the benchmark; without both the mean is that of
    the pictures. ``start_R`` (R,) says in which process start each round was timed. ``method`` is ``auto`` outside
    calibrations: groups (``strata``), a ``line``, or a ``regression``, a line about which one
    scatter is taken for all pictures however few they are. Fewer than :data:`MIN_PICTURES` pictures
    give no interval. Raises ValueError for shapes that do not agree and times not above 0.
    """
    study = Study(seconds_SR, stratum_S, population_N, method)
    level_R = study.levels(study.seconds_SR)
    relative_SR = study.seconds_SR / level_R
    level = study.level(np.log(level_R), relative_SR, start_R)
    about = study.about(relative_SR, study.sizes(relative_SR))
    return study.interval(float(level_R.mean()), about, level, confidence, scale="mean")


def level_of(
    seconds_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    start_R: ArrayLike | None = None,
) -> Level:
    """What the drift between rounds, or the scatter of starts, leaves unknown of a mean, relative to it.

    Arguments as of :func:`mean_latency`, in whose interval it is.
    """
    study = Study(seconds_SR, stratum_S, population_N, "auto")
    level_R = study.levels(study.seconds_SR)
    return study.level(np.log(level_R), study.seconds_SR / level_R, start_R)


def level_shifts(
    seconds_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    start_R: ArrayLike | None = None,
) -> Floats:
    """How far, in logs, the level of each round or start is from their mean beyond the scatter of requests, (U,).

    The standard error of their mean is that of :func:`level_of`.
    """
    study = Study(seconds_SR, stratum_S, population_N, "auto")
    level_R = study.levels(study.seconds_SR)
    between, unit_U = study.drift(np.log(level_R), study.of_requests(study.seconds_SR / level_R), start_R)
    shift_U = unit_U - unit_U.mean()
    return shift_U * math.sqrt(between / float(unit_U.var(ddof=1))) if between else np.zeros_like(shift_U)


def level_of_sum(seconds: Sequence[ArrayLike], weights: Sequence[float], *, start_R: ArrayLike | None = None) -> Level:
    """:func:`level_of` of a weighted sum of the logs of several schemes' levels, over the same pictures and rounds."""
    studies = [Study(one_SR, None, None, "auto") for one_SR in seconds]
    level_GR = [study.levels(study.seconds_SR) for study in studies]
    log_R = np.asarray(weights) @ np.log(level_GR)
    relative_SR = sum(
        weight * study.seconds_SR / level_R for weight, study, level_R in zip(weights, studies, level_GR, strict=True)
    )
    return studies[0].level(log_R, np.asarray(relative_SR), start_R)


def split_mean(
    total_SR: ArrayLike,
    parts: Sequence[ArrayLike],
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
) -> list[float]:
    """The means of parts that add up to a total, by the weights of :func:`mean_latency` of that: they add up too."""
    study = Study(total_SR, stratum_S, population_N, "auto")
    return [float(study.levels(np.asarray(part, dtype=np.float64)).mean()) for part in parts]


def ratio_within_rounds(
    a_SR: ArrayLike,
    b_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    a_known: float = 0.0,
    b_known: float = 0.0,
    start_R: ArrayLike | None = None,
    b_start_R: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The ratio of scheme A's mean time to scheme B's, over the same pictures in the same rounds.

    ``a_known`` and ``b_known`` are parts of each mean that are known exactly, as the link time over the payloads of
    all questions: both are added to every round's level. ``b_start_R`` is given where B was timed in other starts of
    the process than A, whose are in ``start_R``: then it is the ratio of two means of rounds that have nothing in
    common. Otherwise as :func:`mean_latency`.
    """
    study, other = (Study(seconds, stratum_S, population_N, "auto") for seconds in (a_SR, b_SR))
    if study.seconds_SR.shape != other.seconds_SR.shape:
        raise ValueError(f"times of shapes {study.seconds_SR.shape} and {other.seconds_SR.shape} are not paired")
    if study.line != other.line:
        # The line of one goes below 0, and its mean is by groups; the weights of both are the same.
        study, other = (Study(seconds, stratum_S, population_N, "strata") for seconds in (a_SR, b_SR))
    a_R, b_R = study.levels(study.seconds_SR) + a_known, study.levels(other.seconds_SR) + b_known
    log_aR, log_bR = np.log(a_R), np.log(b_R)
    one_SR, two_SR = (study.seconds_SR + a_known) / a_R, (other.seconds_SR + b_known) / b_R
    value = math.exp((log_aR - log_bR).mean())
    if b_start_R is None:
        level = study.level(log_aR - log_bR, one_SR - two_SR, start_R)
    elif reason := apart(start_R, b_start_R):
        return Estimate(value, math.nan, math.nan, reason)
    else:
        level = study.level(log_aR, one_SR, start_R).with_another(study.level(log_bR, two_SR, b_start_R))
    size_S = study.sizes(study.seconds_SR / a_R) + study.sizes(other.seconds_SR / b_R)
    return study.interval(value, study.about(one_SR - two_SR, size_S), level, confidence, scale="ratio")


def difference_within_rounds(
    a_SR: ArrayLike,
    b_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    a_known: float = 0.0,
    b_known: float = 0.0,
    start_R: ArrayLike | None = None,
    b_start_R: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """Scheme A's mean time less scheme B's, over the same pictures in the same rounds; times may be 0.

    As :func:`ratio_within_rounds`, with y_sr^A - y_sr^B in the place of the relative times, and mean +- half.
    """
    one_SR, two_SR = np.asarray(a_SR, np.float64), np.asarray(b_SR, np.float64)
    gain_SR = one_SR - two_SR
    study = Study(np.ones_like(gain_SR), stratum_S, population_N, "auto")
    if study.line and any((study.levels(times_SR) < 0).any() for times_SR in (one_SR, two_SR)):
        study = Study(np.ones_like(gain_SR), stratum_S, population_N, "strata")
    value = float(study.levels(gain_SR).mean()) + a_known - b_known
    if b_start_R is None:
        level = study.level(study.levels(gain_SR), gain_SR, start_R)
    elif reason := apart(start_R, b_start_R):
        return Estimate(value, math.nan, math.nan, reason)
    else:
        of_two = study.level(study.levels(two_SR), two_SR, b_start_R)
        level = study.level(study.levels(one_SR), one_SR, start_R).with_another(of_two)
    about = study.about(gain_SR, study.sizes(one_SR) + study.sizes(two_SR))
    return study.interval(value, about, level, confidence, scale="difference")


def apart(start_R: ArrayLike | None, b_start_R: ArrayLike | None) -> str:
    """Why two schemes that were timed in different starts of the process cannot be compared; empty where they can."""
    fewest = min(1 if starts is None else np.unique(np.asarray(starts)).size for starts in (start_R, b_start_R))
    if fewest >= SETTLED_STARTS:
        return ""
    return (
        f"{NOT_COMPARABLE}: timed in different starts of the process, only {fewest} of one of the two, and "
        f"{SETTLED_STARTS} are needed to know how starts differ"
    )


def draw_by_strata(stratum_N: ArrayLike, n: int, seed: int) -> Ints:
    """``n`` different pictures of N to time, (n,) places in the order in which to take them.

    Pictures are ranked by stratum, at random within one, and the ranks are visited by steps of the golden section from
    a random one on: the first pictures of any number are spread evenly over the strata, so that a run may stop early or
    continue, and a larger ``n`` begins with the same pictures. Raises ValueError for n above N or below 1.
    """
    stratum_N = np.asarray(stratum_N, dtype=np.float64)
    n_all = stratum_N.size
    if not 1 <= n <= n_all:
        raise ValueError(f"{n} pictures cannot be drawn from {n_all}; the number is from 1 to that")
    rng = np.random.default_rng(seed)
    ranked_N = np.lexsort((rng.random(n_all), stratum_N))
    at_N = (rng.random() + np.arange(n_all) * (math.sqrt(5) - 1) / 2) % 1.0
    return np.asarray(ranked_N[np.argsort(np.argsort(at_N))][:n], dtype=np.int64)


def units_of(log_R: Floats, start_R: ArrayLike | None) -> Floats:
    """The levels that are resampled: those of the rounds, or the means of each start where there are three or more."""
    if start_R is None:
        return log_R
    _, start = np.unique(np.asarray(start_R), return_inverse=True)
    if start.shape != log_R.shape:
        raise ValueError(f"{start.size} process starts do not go with {log_R.size} rounds")
    return np.bincount(start, log_R) / np.bincount(start) if start.max() + 1 >= SETTLED_STARTS else log_R


def too_few(pictures: int) -> str:
    """Why so few pictures give no interval; empty from :data:`MIN_PICTURES` on."""
    if pictures >= MIN_PICTURES:
        return ""
    counted = "1 picture gives" if pictures == 1 else f"{pictures} pictures give"
    return f"{counted} no interval: {MIN_PICTURES} are needed"


class Study:
    """Times and the weights c that make of them a mean over the benchmark: what every interval here rests on."""

    def __init__(
        self, seconds_SR: ArrayLike, stratum_S: ArrayLike | None, population_N: ArrayLike | None, method: Method
    ) -> None:
        self.seconds_SR = times_of(seconds_SR)
        n_pictures = self.seconds_SR.shape[0]
        self.line, self.one_scatter = False, method == "regression"
        x_SP, xbar_P = np.ones((n_pictures, 1)), np.ones(1)
        if stratum_S is not None and population_N is not None:
            own_S, all_N = np.asarray(stratum_S, dtype=np.float64), np.asarray(population_N, dtype=np.float64)
            if own_S.shape != (n_pictures,):
                raise ValueError(f"{own_S.size} strata do not go with {n_pictures} pictures")
            self.line = method in ("line", "regression") or (method == "auto" and n_pictures >= MIN_PICTURES)
            if self.line and np.ptp(own_S) > 0:
                x_SP, xbar_P = np.column_stack([np.ones(n_pictures), own_S]), np.array([1.0, all_N.mean()])
            else:
                self.line = False
                x_SP, xbar_P = _groups(own_S, all_N)
        self.inverse_PS = np.linalg.pinv(x_SP)
        self.x_SP = x_SP
        self.weight_S = xbar_P @ self.inverse_PS
        self.inflation = float(self.weight_S @ self.weight_S)
        """sum_s c_s^2: the variance of the weighted mean over that of one picture."""
        self.freedom = n_pictures - x_SP.shape[1]
        if self.line and not (self.levels(self.seconds_SR) > 0).all():
            # A steep line may leave a level below 0 where pictures lie far from the benchmark's mean.
            self.__init__(seconds_SR, stratum_S, population_N, "strata")  # type: ignore[misc]

    def levels(self, seconds_SR: Floats) -> Floats:
        """The estimate of the benchmark's mean from each round, (R,)."""
        return self.weight_S @ seconds_SR

    def sizes(self, relative_SR: Floats) -> Floats:
        """m_s, how long each picture takes for a scatter in proportion to it: the larger of its mean and the line's."""
        mean_S = relative_SR.mean(axis=1)
        return np.asarray(np.maximum(self.x_SP @ (self.inverse_PS @ mean_S), mean_S))

    def residuals(self, relative_SR: Floats) -> Floats:
        """e_s, the pictures' means about their line or group, (S,)."""
        mean_S = relative_SR.mean(axis=1)
        return np.asarray(mean_S - self.x_SP @ (self.inverse_PS @ mean_S))

    def about(self, relative_SR: Floats, size_S: Floats) -> PictureScatter:
        """v_1 with its degrees of freedom; ``size_S`` is m_s, in any unit."""
        residual_S = self.residuals(relative_SR)
        n_pictures = residual_S.size
        if not self.line or self.one_scatter:
            square = self.inflation * float(residual_S @ residual_S) / max(self.freedom, 1)
            return PictureScatter(square=square, freedom=self.freedom, pictures=n_pictures)
        group_S = _joined(self.x_SP[:, 1]) if n_pictures >= GROUPED_PICTURES else np.zeros(n_pictures, np.int64)
        if group_S.max() > 0:
            size_H = np.bincount(group_S)
            within_S = residual_S - (np.bincount(group_S, residual_S) / size_H)[group_S]
            square_H = np.bincount(group_S, self.weight_S**2) * np.bincount(group_S, within_S**2) / (size_H - 1)
            square, of_each = float(square_H.sum()), float((square_H**2 / (size_H - 1)).sum())
            freedom = square**2 / of_each if of_each else float(self.freedom)
            return PictureScatter(square=square, freedom=freedom, pictures=n_pictures)
        # A picture of no time at all, as a difference may have, is not without scatter.
        size_S = np.maximum(size_S, 1e-3 * size_S.max() or 1.0)
        square = float(((self.weight_S * size_S) ** 2).sum() * ((residual_S / size_S) ** 2).sum()) / self.freedom
        return PictureScatter(square=square, freedom=self.freedom, pictures=n_pictures)

    def of_requests(self, relative_SR: Floats) -> float:
        """The variance of single requests about their picture's mean; 0 of a single round."""
        n_pictures, n_rounds = relative_SR.shape
        if n_rounds == 1 or n_pictures == 1:
            return 0.0
        about_SR = relative_SR - relative_SR.mean(axis=1, keepdims=True)
        # What all pictures of a round share is the drift's, and is no scatter of requests.
        about_SR = about_SR - about_SR.mean(axis=0)
        return float((about_SR**2).sum()) / ((n_pictures - 1) * (n_rounds - 1))

    def drift(self, log_R: Floats, request: float, start_R: ArrayLike | None) -> tuple[float, Floats]:
        """sigma_b^2 of the units that are drawn, rounds or starts, and their levels, (U,); 0 where they are few."""
        unit_U = units_of(log_R, start_R)
        if unit_U.size < MIN_ROUNDS:
            return 0.0, unit_U
        explained = request * self.inflation * unit_U.size / log_R.size
        return max(0.0, float(unit_U.var(ddof=1)) - explained), unit_U

    def level(self, log_R: Floats, relative_SR: Floats, start_R: ArrayLike | None) -> Level:
        """v_2, as the error that it is the square of."""
        between, unit_U = self.drift(log_R, self.of_requests(relative_SR), start_R)
        return Level(error=math.sqrt(between / unit_U.size), freedom=max(unit_U.size - 1, 1))

    def interval(
        self,
        value: float,
        pictures: PictureScatter,
        level: Level,
        confidence: float,
        *,
        scale: Literal["mean", "ratio", "difference"],
    ) -> Estimate:
        """``value`` with its interval on the scale of a mean, a ratio or a difference, as at the top of the module."""
        if reason := too_few(pictures.pictures):
            return Estimate(value, math.nan, math.nan, reason)
        quantile = float(scipy.special.stdtrit(pictures.freedom, (1 + confidence) / 2))
        half = math.hypot(quantile * math.sqrt(pictures.square), level.half_width(confidence))
        match scale:
            case "difference":
                return Estimate(value, value - half, value + half)
            case "ratio":
                return Estimate(value, value * math.exp(-half), value * math.exp(half))
            case _:
                return Estimate(value, value * max(0.0, 1 - half), value * math.exp(half))


def times_of(seconds_SR: ArrayLike) -> Floats:
    """Times as an array (S, R); raises ValueError for another shape, and for times that are not finite and above 0."""
    times_SR = np.asarray(seconds_SR, dtype=np.float64)
    if times_SR.ndim != 2 or times_SR.size == 0:
        raise ValueError(f"times are of shape {times_SR.shape}; they must be pictures by rounds, (S, R)")
    if not (np.isfinite(times_SR).all() and (times_SR > 0).all()):
        wrong = times_SR[~(np.isfinite(times_SR) & (times_SR > 0))][0]
        raise ValueError(f"a time is {wrong:g} s; times are finite and above 0")
    return times_SR


def _joined(own_S: Floats) -> Ints:
    """Each timed picture's group, (S,): neighbouring strata, joined until :data:`IN_GROUP` pictures are in each."""
    _, place_S, sizes = np.unique(own_S, return_inverse=True, return_counts=True)
    begins, waiting, left = [0], 0, own_S.size
    for place, size in enumerate(sizes.tolist()):
        if waiting >= IN_GROUP and left >= IN_GROUP:
            begins.append(place)
            waiting = 0
        waiting += size
        left -= size
    return np.searchsorted(begins, place_S, side="right") - 1


def _groups(own_S: Floats, all_N: Floats) -> tuple[Floats, Floats]:
    """Whether each timed picture is in each group of strata, (S, H), and each group's share of the benchmark, (H,)."""
    n_pictures = own_S.size
    levels, sizes = np.unique(all_N, return_counts=True)
    begins, waiting, left = [-math.inf], 0.0, float(n_pictures)
    for level, expected in zip(levels.tolist(), (sizes * n_pictures / all_N.size).tolist(), strict=True):
        if waiting >= 2 and left >= 2:
            begins.append(level)
            waiting = 0.0
        waiting += expected
        left -= expected
    begins_H = np.array(begins)
    while begins_H.size > 1:
        size_H = np.bincount(np.searchsorted(begins_H, own_S, side="right") - 1, minlength=begins_H.size)
        if size_H.min() >= 2:
            break
        begins_H = np.delete(begins_H, max(int(size_H.argmin()), 1))
    group_S = np.searchsorted(begins_H, own_S, side="right") - 1
    group_N = np.searchsorted(begins_H, all_N, side="right") - 1
    share_H = np.bincount(group_N, minlength=begins_H.size) / all_N.size
    return (group_S[:, None] == np.arange(begins_H.size)).astype(np.float64), share_H
