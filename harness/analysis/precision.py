"""How much to measure: what resolves a wanted precision, planned from a run's variances, and when to stop.

The half-width of a mean latency's interval, on the log, from S pictures in R rounds (:mod:`harness.analysis.means`):

    half^2 = t_f^2 (picture + request / R) / S + t_{U-1}^2 drift / U <= log(1 + precision)^2

with f = free (S - p) degrees of freedom, where p numbers of the line are fitted and ``free`` is the share of the rest
that the run's interval had: from twelve pictures on Welch's, which are fewer where few slow pictures have most of the
variance. A run of fewer pictures does not know that share, and 1 is taken. U = R rounds, or the process starts that the
rounds come from, where those scatter are known (three or more).

What rests on questions gets narrower with their square root: n_wanted = n (half / wanted)^2. How far the variances of a
run leave such a number unknown is in :mod:`harness.analysis.planning`.

Stopping when precise: after 12 pictures and then at numbers that grow by a third, the interval is looked at, and timing
stops where its longer side is within the precision. A study stops early where its scatter happens to look small, so
that the interval there covers less than one of a fixed number; it is therefore made, and looked at, at a confidence of
96 %, and printed as 95 % (:func:`when_stopped`; Anscombe, Journal of the Royal Statistical Society B 15, 1953, on the
cost of stopping; the level is calibrated in ``benchmarks/bench_calibration.py``).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from harness.analysis import means
from harness.analysis.means import MIN_PICTURES, MIN_ROUNDS, Estimate, Floats, level_of, mean_latency

FIRST_LOOK = 12
STOPPING_MISSES = 0.8
"""How often the interval that is looked at may miss, over how often it is said to: 4 % where 95 % is printed."""

_MOST = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """What is unknown about a mean, as squares relative to it.

    ``picture`` is the variance between pictures of infinitely many repeats, about their group or line; ``request`` that
    of single requests about their picture's mean; ``drift`` sigma_b^2, of rounds, or of the process starts where there
    are three or more, ``starts`` of them (else 0). ``pictures`` and ``rounds`` are S and R, and ``spent`` is p, the
    degrees of freedom that the groups or the line take. ``free`` is the share of the other S - p that the pictures'
    scatter has: below 1 where few slow pictures have most of the variance.

    How well they are known: picture + request / R has ``known`` degrees of freedom, fewer than its interval where the
    pictures' scatter has heavy tails; request (S - 1) (R - 1); ``levels`` is the variance of the logs of the levels of
    ``units`` rounds or starts, with one degree less than these, of which requests explain ``explained``; 0 where there
    are fewer than :data:`harness.analysis.means.MIN_ROUNDS`.
    """

    picture: float
    request: float
    drift: float
    pictures: int
    rounds: int
    spent: int
    free: float = 1.0
    starts: int = 0
    known: float = math.inf
    levels: float = 0.0
    explained: float = 0.0
    units: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPlan:
    """Pictures and rounds that resolve a mean latency; ``half_width`` is the relative one that they are to give.

    ``starts`` are those of the process that the rounds are to be spread over, 0 where it is not known how starts
    scatter. Where no number of pictures does, pictures and rounds are 0 and ``reason`` says why.
    """

    pictures: int
    rounds: int
    half_width: float
    reason: str = ""
    starts: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at a mean says: whether it is precise enough, or else how many pictures to go on to (0: no more)."""

    estimate: Estimate
    precise: bool
    go_on_to: int
    sentence: str


def components(
    seconds_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    start_R: ArrayLike | None = None,
) -> Components:
    """The parts of a mean's variance, for planning; arguments as of :func:`harness.analysis.means.mean_latency`."""
    study = means.Study(seconds_SR, stratum_S, population_N, "auto")
    n_pictures, n_rounds = study.seconds_SR.shape
    level_R = study.levels(study.seconds_SR)
    relative_SR = study.seconds_SR / level_R
    request = study.of_requests(relative_SR)
    of_pictures = study.about(relative_SR, study.sizes(relative_SR))
    between, unit_U = study.drift(np.log(level_R), request, start_R)
    settled = unit_U.size >= MIN_ROUNDS
    n_starts = 1 if start_R is None else np.unique(np.asarray(start_R)).size
    return Components(
        picture=max(0.0, of_pictures.square / study.inflation - request / n_rounds),
        request=request,
        drift=between,
        pictures=n_pictures,
        rounds=n_rounds,
        starts=unit_U.size if n_starts >= means.SETTLED_STARTS else 0,
        spent=n_pictures - study.freedom,
        free=of_pictures.freedom / max(study.freedom, 1),
        known=max(1.0, of_pictures.freedom * min(1.0, 2 / max(_kurtosis(study.residuals(relative_SR)) - 1, 1e-9))),
        levels=float(unit_U.var(ddof=1)) if settled else 0.0,
        explained=request * study.inflation * unit_U.size / n_rounds if settled else 0.0,
        units=unit_U.size,
    )


def half_width(found: Components, pictures: int, rounds: int, confidence: float = 0.95) -> float:
    """The relative half-width, exp(half) - 1, that so many pictures and rounds are to give; infinite for too few.

    Where ``found`` knows how starts scatter each start has as many rounds as it had there (:func:`starts_of`).
    """
    freedom = max(1.0, found.free * (pictures - found.spent))
    units = starts_of(found, rounds) if found.starts else rounds
    if pictures < MIN_PICTURES or (found.drift > 0 and units < MIN_ROUNDS):
        return math.inf
    tail = (1 + confidence) / 2
    squared = float(scipy.special.stdtrit(freedom, tail)) ** 2 * (found.picture + found.request / rounds) / pictures
    if found.drift > 0:
        squared += float(scipy.special.stdtrit(units - 1, tail)) ** 2 * found.drift / units
    return math.expm1(min(math.sqrt(squared), 700.0))


def starts_of(found: Components, rounds: int) -> int:
    """How many starts so many rounds come from, as many rounds in each as in ``found``; 0: not known, or not one."""
    return found.starts and rounds * found.starts // found.rounds


def pictures_needed(found: Components, precision: float, rounds: int, *, confidence: float = 0.95) -> int:
    """The fewest pictures that give a half-width within ``precision`` (0.05: 5 %) in so many rounds; 0: none do."""
    _positive(precision)
    if half_width(found, _MOST, rounds, confidence) > precision:
        return 0
    return _fewest(lambda pictures: half_width(found, pictures, rounds, confidence) <= precision)


def pictures_for(ratio: float, *, spent: int = 1, free: float = 1.0, confidence: float = 0.95) -> int:
    """The fewest pictures, 6 or more, whose t^2 ratio / n is at most 1, with free (n - spent) degrees; 0: none do.

    ``ratio`` is a variance of pictures over the square of the half-width that it may give, infinite where that is 0.
    """

    def enough(pictures: int) -> bool:
        freedom = max(1.0, free * (pictures - spent))
        return float(scipy.special.stdtrit(freedom, (1 + confidence) / 2)) ** 2 * ratio <= pictures

    return _fewest(enough) if math.isfinite(ratio) and enough(_MOST) else 0


def plan_latency(
    found: Components,
    precision: float,
    *,
    at_least_rounds: int = 1,
    at_most_rounds: int = 30,
    confidence: float = 0.95,
) -> LatencyPlan:
    """The pictures and rounds of fewest timed requests that resolve ``precision`` of a mean latency.

    ``found`` is a run's (:func:`components`); :func:`harness.analysis.planning.latency_needs` says how far the number
    of pictures is unknown. Where the drift alone is more than the precision allows, more rounds are looked at, up to
    ``at_most_rounds``; fewer than ``at_least_rounds`` are not.
    """
    best: LatencyPlan | None = None
    for rounds in range(at_least_rounds, at_most_rounds + 1):
        pictures = pictures_needed(found, precision, rounds, confidence=confidence)
        if pictures and (best is None or pictures * rounds < best.pictures * best.rounds):
            best = LatencyPlan(
                pictures=pictures,
                rounds=rounds,
                half_width=half_width(found, pictures, rounds, confidence),
                starts=starts_of(found, rounds),
            )
    if best is not None:
        return best
    drift = math.sqrt(found.drift)
    drifting = "starts of the process scatter" if found.starts else "rounds drift"
    reason = f"the {drifting} by {drift:.1%}, so that {at_most_rounds} rounds do not resolve {100 * precision:g} %"
    return LatencyPlan(pictures=0, rounds=0, half_width=math.nan, reason=reason)


def questions_needed(half_now: float, n_now: int, wanted: float) -> float:
    """How many questions, or pictures where each has several, bring a half-width to ``wanted``: n (half / wanted)^2.

    Both in one unit: points of score, or the logs of ratios, log(high / value) and log(1.1) for 10 % of the bytes.
    Infinite where the interval is unbounded now: then more are needed than there are, and how many does not show.
    """
    _positive(wanted)
    if n_now < 1 or math.isnan(half_now):
        raise ValueError(f"a half-width of {half_now} from {n_now} questions does not show how many are needed")
    return float(math.ceil(n_now * (half_now / wanted) ** 2 - 1e-9)) if math.isfinite(half_now) else math.inf


def looks(at_most: int) -> list[int]:
    """The numbers of pictures at which a run that stops when precise looks: 12, 16, 21, 28, ... and ``at_most``."""
    found, at = [], FIRST_LOOK
    while at < at_most:
        found.append(at)
        at = at * 4 // 3
    return [*found, at_most]


def look(
    seconds_SR: ArrayLike,
    stratum_S: ArrayLike | None = None,
    population_N: ArrayLike | None = None,
    *,
    precision: float,
    at_most: int,
    start_R: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> Look:
    """Whether a mean is precise enough to stop timing, after the pictures timed so far.

    ``precision`` is relative (0.05: 5 %), the longer side of the interval over the value; arguments otherwise as of
    :func:`harness.analysis.means.mean_latency`. No more than ``at_most`` pictures are requested: the sentence then says
    that the precision was not reached. Call it only at the numbers of :func:`looks`.
    """
    _positive(precision)
    n = np.asarray(seconds_SR).shape[0]
    found = mean_latency(seconds_SR, stratum_S, population_N, start_R=start_R, confidence=when_stopped(confidence))
    relative = found.half_width / found.value
    if n >= min(FIRST_LOOK, at_most) and relative <= precision:
        return Look(estimate=found, precise=True, go_on_to=0, sentence=f"within {relative:.1%} after {n} pictures")
    if n >= at_most:
        shown = f"{relative:.1%}" if math.isfinite(relative) else "no interval"
        sentence = f"{precision:.1%} was not reached: {shown} after {n} pictures, the most that were to be timed"
        level = level_of(seconds_SR, stratum_S, population_N, start_R=start_R)
        if (alone := math.expm1(min(level.half_width(when_stopped(confidence)), 700.0))) > precision:
            sentence += f" (rounds and starts of the process alone leave {alone:.1%})"
        return Look(estimate=found, precise=False, go_on_to=0, sentence=sentence)
    following = next(number for number in looks(at_most) if number > n)
    return Look(estimate=found, precise=False, go_on_to=following, sentence="")


def when_stopped(confidence: float) -> float:
    """The confidence at which an interval is made that is printed as ``confidence`` where timing stops when precise."""
    return 1 - STOPPING_MISSES * (1 - confidence)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The fewest pictures, from 6 on, that are enough, where the most are."""
    low, high = MIN_PICTURES - 1, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _kurtosis(residual_S: Floats) -> float:
    """That of residuals, n sum(e^4) / sum(e^2)^2: 3 of normal ones, and 1 where there are none."""
    square = float(residual_S @ residual_S)
    return residual_S.size * float((residual_S**4).sum()) / square**2 if square > 0 else 1.0


def _positive(wanted: float) -> None:
    if not wanted > 0:
        raise ValueError(f"a precision is {wanted:g}; it is above 0")
