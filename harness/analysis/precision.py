"""How much to measure: what resolves a wanted precision, planned from a run's variances, and when to stop.

The half-width of a mean latency's interval, on the log, from S pictures in R rounds (:mod:`harness.analysis.means`):

    half^2 = t_f^2 (picture + request / R) / S + t_{U-1}^2 drift / U <= log(1 + precision)^2

with f = free (S - p) degrees of freedom, where p numbers of the line are fitted and ``free`` is the share of the rest
that the run's interval had: from twelve pictures on Welch's, which are fewer where few slow pictures have most of the
variance. A run of fewer pictures does not know that share, and 1 is taken. U = R rounds, or the process starts that the
rounds come from, where those scatter are known (three or more).

What rests on questions gets narrower with their square root: n_wanted = n (half / wanted)^2.

Stopping when precise: after 12 pictures and then at numbers that grow by a third, the interval is looked at, and timing
stops where its longer side is within the precision. A study stops early where its scatter happens to look small, so
that the interval there covers less than one of a fixed number; it is therefore made, and looked at, at a confidence of
96 %, and printed as 95 % (:func:`when_stopped`; Anscombe, Journal of the Royal Statistical Society B 15, 1953, on the
cost of stopping; the level is calibrated in ``benchmarks/bench_calibration.py``).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.special
from numpy.typing import ArrayLike

from harness.analysis import means
from harness.analysis.means import MIN_PICTURES, MIN_ROUNDS, Estimate, level_of, mean_latency

if TYPE_CHECKING:
    from harness.analysis.analysis import Analysis

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
    """

    picture: float
    request: float
    drift: float
    pictures: int
    rounds: int
    spent: int
    free: float = 1.0
    starts: int = 0


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
    low, high = MIN_PICTURES - 1, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(found, middle, rounds, confidence) <= precision else (middle, high)
    return high


def plan_latency(
    found: Components,
    precision: float,
    *,
    at_least_rounds: int = 1,
    at_most_rounds: int = 30,
    confidence: float = 0.95,
) -> LatencyPlan:
    """The pictures and rounds of fewest timed requests that resolve ``precision`` of a mean latency.

    ``found`` is a run's (:func:`harness.analysis.means.components`): a run of six pictures knows its scatter within a
    factor of about two, and so the plan. Where the drift alone is more than the precision allows, more rounds are
    looked at, up to ``at_most_rounds``; fewer than ``at_least_rounds`` are not.
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
    Infinite where the interval is unbounded now: its end is beyond what was measured, and more questions do not change
    that.
    """
    _positive(wanted)
    if n_now < 1 or math.isnan(half_now):
        raise ValueError(f"a half-width of {half_now} from {n_now} questions does not show how many are needed")
    return float(math.ceil(n_now * (half_now / wanted) ** 2 - 1e-9)) if math.isfinite(half_now) else math.inf


def questions_for_score(
    point_C: ArrayLike, reference_C: ArrayLike, wanted: float, *, confidence: float = 0.95
) -> float:
    """How many pictures resolve ``wanted``, in the metric's unit, of a difference of two paired scores.

    ``point_C`` and ``reference_C`` are the pictures' parts (:func:`harness.analysis.selection.contributions`).
    """
    difference_C = np.asarray(point_C, np.float64) - np.asarray(reference_C, np.float64)
    quantile = float(scipy.special.stdtrit(difference_C.size - 1, (1 + confidence) / 2))
    half = quantile * float(difference_C.std(ddof=1)) / math.sqrt(difference_C.size)
    return questions_needed(half, difference_C.size, wanted)


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


def _positive(wanted: float) -> None:
    if not wanted > 0:
        raise ValueError(f"a precision is {wanted:g}; it is above 0")


def plan(run: "Analysis", *, latency: float, payload: float, score: float) -> pd.DataFrame:
    """How many pictures and rounds resolve a mean latency, and how many pictures bytes and a score.

    ``latency`` and ``payload`` are relative (0.05: 5 %), ``score`` in the metric's unit. A row for each selected point
    that was timed: ``pipeline``, ``point``; ``pictures`` and ``rounds`` of the device and server times, and over
    how many ``starts`` of the process (:func:`plan_latency`; 0 where none do, with ``latency_reason``);
    ``bytes_pictures``, for the ratio of bytes at equal score over the next scheme with a curve, and
    ``score_pictures``, for the difference from the reference's score; null where nothing can be said.
    """
    # The module that times a study imports this one too, and needs no replay.
    from harness.analysis.setting import strata

    found = []
    for pipeline, point in run.selected_keys:
        timed = run.setting.timed((pipeline, point))
        strata_of = strata(run.profile(pipeline, point), run.population)
        if few := means.too_few(len(timed.samples)):
            planned = LatencyPlan(pictures=0, rounds=0, half_width=np.nan, reason=few)
        else:
            planned = plan_latency(
                components(timed.total_SR, *strata_of, start_R=timed.start_R),
                latency,
                at_least_rounds=means.MIN_ROUNDS,
                confidence=run.equality.confidence,
            )
        bytes_pictures, bytes_reason = _for_bytes(run, pipeline, payload)
        score_pictures = np.nan
        enough = run.scores.n_clusters >= means.MIN_PICTURES
        if run.scored and enough and (pipeline, point) != run.scores.reference:
            own_C, reference_C = (run.scores.contributions(key) for key in ((pipeline, point), run.scores.reference))
            score_pictures = questions_for_score(own_C, reference_C, score, confidence=run.equality.confidence)
        found.append(
            {
                "pipeline": pipeline,
                "point": point,
                "pictures": planned.pictures,
                "rounds": planned.rounds,
                "starts": planned.starts,
                "latency_reason": planned.reason,
                "bytes_pictures": bytes_pictures,
                "bytes_reason": bytes_reason,
                "score_pictures": score_pictures,
            }
        )
    columns = ["pipeline", "point", "pictures", "rounds", "starts", "latency_reason"]
    return pd.DataFrame(found, columns=[*columns, "bytes_pictures", "bytes_reason", "score_pictures"])


def _for_bytes(run: "Analysis", pipeline: str, wanted: float) -> tuple[float, str]:
    """The pictures that resolve a pipeline's bytes at equal score, over another's; why nothing can be said."""
    pairs = run.equal_scores
    mine = pairs[(pairs["test_pipeline"] == pipeline) | (pairs["anchor_pipeline"] == pipeline)]
    if mine.empty:
        return np.nan, ""
    said = mine[mine["reason"] == ""]
    if said.empty:
        return np.nan, str(mine["reason"].iloc[0])
    pair = said.iloc[0]
    ends = [pair["ratio_high"] / pair["ratio"], pair["ratio"] / pair["ratio_low"] if pair["ratio_low"] else np.inf]
    half, clusters = float(np.log(max(ends))), int(run.points["clusters"].iloc[0])
    return questions_needed(half, clusters, float(np.log1p(wanted))), ""
