"""What a run's variances say about how much to measure, and how well they say it.

A number of pictures is solved for from variances (:mod:`harness.analysis.precision`), and its interval is the one in
which the number lies that the true variances would give, at the planned rounds.

Of a mean latency the variances are drawn as what the run leaves unknown of them (a fiducial distribution), and the ends
are the central percentiles of the numbers that these need:

    picture + request / R    times f / chi^2_f        f = freedom min(1, 2 / (kappa - 1))
    request                  times g / chi^2_g        g = (S - 1) (R - 1)
    levels                   times u / chi^2_u        u = U - 1
    drift                    max(0, levels - what requests explain of them)

with R the run's rounds, U its rounds or starts, and kappa the kurtosis of the pictures' residuals: the variance of a
variance is (kappa - 1) / n, and chi-squared is normal times' (kappa = 3). The upper end is infinite where the drift may
be such that no number of pictures is enough: few rounds hardly limit it, and three planned ones leave room for little
(t_2 = 4.3). What the scatter of pictures alone leaves unknown is the interval at the drift that the run had.

Of the difference of two paired scores the variance is that of contributions with few values, most of them 0. Their
effective number of discordant pictures is k = n / kappa, exactly their number where one picture is one question, and
their variance q k / n, q = sum(e^4) / sum(e^2). The ends are Wilson's of the share k / n (Journal of the American
Statistical Association 22, 1927); the upper one is at least that of a chi-squared of 2 (n - 1) / (kappa - 1) degrees of
freedom, since contributions of several questions a picture have larger values than were seen.

Of bytes at equal score there is no interval. Their half-width is as uncertain as the slope of a curve of scores, and in
studies of some hundred pictures it is often unbounded, where some thousands would do: no resample of such a study shows
the number (``benchmarks/bench_calibration.py``).

    S pictures   R rounds   C pictures of a score
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.special
from numpy.typing import ArrayLike

from harness.analysis import means, selection
from harness.analysis.means import Estimate, Floats
from harness.analysis.precision import (
    Components,
    LatencyPlan,
    components,
    pictures_for,
    pictures_needed,
    plan_latency,
    questions_needed,
    starts_of,
)
from harness.analysis.setting import strata

if TYPE_CHECKING:
    from harness.analysis.analysis import Analysis

_DRAWS = 4000

_COLUMNS = (
    *("pipeline", "point", "pictures", "pictures_low", "pictures_high", "pictures_high_same_drift"),
    *("rounds", "starts", "latency_reason"),
    *("bytes_pictures", "bytes_reason", "score_pictures", "score_pictures_low", "score_pictures_high"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Needed:
    """A number of pictures and the interval in which the one lies that is truly needed; infinite where none do."""

    value: float
    low: float
    high: float


def latency_needs(
    found: Components, precision: float, rounds: int, *, same_drift: bool = False, confidence: float = 0.95
) -> Needed:
    """How many pictures give a mean latency within ``precision`` (0.05: 5 %) in so many rounds.

    ``found`` is a run's (:func:`harness.analysis.precision.components`). With ``same_drift`` the rounds, or starts, are
    taken to drift exactly as they did in the run, and only the scatter of pictures and requests is unknown. The draws
    are seeded.
    """
    value = pictures_needed(found, precision, rounds, confidence=confidence)
    rng = np.random.default_rng(0)

    def known_by(freedom: float) -> Floats:
        """By what a variance is multiplied, (draws,)."""
        return freedom / rng.chisquare(freedom, _DRAWS) if 0 < freedom < math.inf else np.ones(_DRAWS)

    pictures = (found.picture + found.request / found.rounds) * known_by(found.known)
    of_requests = known_by((found.pictures - 1) * (found.rounds - 1))
    request = found.request * of_requests
    pictures = np.maximum(pictures - request / found.rounds, 0.0) + request / rounds
    drift = np.maximum(found.levels * known_by(found.units - 1) - found.explained * of_requests, 0.0)
    if same_drift:
        drift = np.full(_DRAWS, found.drift)
    units = starts_of(found, rounds) if found.starts else rounds
    tail = (1 - confidence) / 2
    left = np.full(_DRAWS, math.log1p(precision) ** 2)
    if units >= means.MIN_ROUNDS:
        left -= float(scipy.special.stdtrit(units - 1, 1 - tail)) ** 2 * drift / units
    else:
        left[drift > 0] = 0.0
    ratio = np.divide(pictures, left, out=np.full(_DRAWS, math.inf), where=left > 0)
    ends = [
        pictures_for(float(end), spent=found.spent, free=found.free, confidence=confidence) or math.inf
        for end in np.quantile(ratio, [tail, 1 - tail], method="inverted_cdf")
    ]
    return _about(value or math.inf, *ends)


def score_needs(
    point_C: ArrayLike,
    reference_C: ArrayLike,
    wanted: float,
    makeup: selection.Makeup | None = None,
    *,
    confidence: float = 0.95,
) -> Needed:
    """How many pictures resolve ``wanted``, in the metric's unit, of a difference of two paired scores.

    ``point_C`` and ``reference_C`` are the pictures' parts (:func:`harness.analysis.selection.contributions`),
    ``makeup`` as of :func:`harness.analysis.selection.p_value`. The number is the fewest n with
    t_{n-1} sigma / sqrt(n) <= wanted. Raises ValueError for a ``wanted`` that is not above 0, parts that are not paired
    and fewer than two.
    """
    if not wanted > 0:
        raise ValueError(f"a precision is {wanted:g}; it is above 0")
    point_C, reference_C = np.asarray(point_C, np.float64), np.asarray(reference_C, np.float64)
    if point_C.shape != reference_C.shape or point_C.ndim != 1 or point_C.size < 2:
        raise ValueError(f"parts of shapes {point_C.shape} and {reference_C.shape} are not of two or more pictures")
    difference_C = point_C - reference_C
    about_C = difference_C - difference_C.mean()
    n, squares = about_C.size, float(about_C @ about_C)
    if unseen := selection.unseen_variance(difference_C, makeup):
        about_C = about_C * math.sqrt(1 + n * (n - 1) * unseen / squares)
        squares = float(about_C @ about_C)
    most = float(max(abs(point_C).max(), abs(reference_C).max()))
    tail = (1 - confidence) / 2
    # Equal answers have parts that differ by the rounding of their slopes.
    if squares <= n * (1e-9 * most) ** 2:
        discordant, size, variance = 0.0, most**2, 0.0
    else:
        size = float((about_C**4).sum()) / squares
        discordant, variance = squares / size, squares / (n - 1)
    share_low, share_high = _wilson(discordant / n, n, -float(scipy.special.ndtri(tail)))
    low, high = size * share_low, size * share_high
    if variance:
        freedom = 2 * (n - 1) / max(n / discordant - 1, 1e-9)
        high = max(high, variance * freedom / float(scipy.special.chdtri(freedom, 1 - tail)))
    squares_of = (variance, low, high)
    return _about(*(pictures_for(square / wanted**2, confidence=confidence) or math.inf for square in squares_of))


def bytes_need(ratio: Estimate, n_now: int, wanted: float) -> float:
    """About how many pictures resolve ``wanted`` (0.1: 10 %) of a ratio of bytes at equal score, from ``n_now`` ones.

    The longer side of its interval on the log is what is to shrink. Infinite where that is unbounded now, NaN where
    there is none.
    """
    if math.isnan(ratio.low):
        return math.nan
    longer = max(ratio.high / ratio.value, ratio.value / ratio.low if ratio.low else math.inf)
    return questions_needed(math.log(longer), n_now, math.log1p(wanted))


def _wilson(share: float, n: int, quantile: float) -> tuple[float, float]:
    square = quantile**2 / n
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    return max(0.0, share + square / 2 - half) / (1 + square), (share + square / 2 + half) / (1 + square)


def _about(value: float, low: float, high: float) -> Needed:
    """The ends, drawn apart where the value is not between them, as one that is limited by 0 or 6 may not be."""
    return Needed(value, min(low, value), max(high, value))


def plan(run: "Analysis", *, latency: float, payload: float, score: float) -> pd.DataFrame:
    """How many pictures and rounds resolve a mean latency, and how many pictures bytes and a score.

    ``latency`` and ``payload`` are relative (0.05: 5 %), ``score`` in the metric's unit. A row for each selected point
    that was timed: ``pipeline``, ``point``; ``pictures`` and ``rounds`` of the device and server times, and over
    how many ``starts`` of the process (:func:`harness.analysis.precision.plan_latency`; 0 where none do, with
    ``latency_reason``); ``bytes_pictures``, for the ratio of bytes at equal score over the next scheme with a curve,
    and ``score_pictures``, for the difference from the reference's score; null where nothing can be said. The ends of
    the interval of ``pictures``, at the planned rounds, and of ``score_pictures`` have ``_low`` and ``_high`` added to
    their name, infinite where it is unbounded; ``pictures_high_same_drift`` is the upper one if rounds drift exactly as
    in the run. ``bytes_pictures`` has no interval, and is infinite where that of the bytes is unbounded now.
    """
    confidence = run.equality.confidence
    found = []
    for pipeline, point in run.selected_keys:
        timed = run.setting.timed((pipeline, point))
        strata_of = strata(run.profile(pipeline, point), run.population)
        of_latency, high_same_drift = Needed(np.nan, np.nan, np.nan), np.nan
        if few := means.too_few(len(timed.samples)):
            planned = LatencyPlan(pictures=0, rounds=0, half_width=np.nan, reason=few)
        else:
            variances = components(timed.total_SR, *strata_of, start_R=timed.start_R)
            planned = plan_latency(variances, latency, at_least_rounds=means.MIN_ROUNDS, confidence=confidence)
            if planned.pictures:
                of_latency, same = (
                    latency_needs(variances, latency, planned.rounds, same_drift=same_drift, confidence=confidence)
                    for same_drift in (False, True)
                )
                high_same_drift = same.high
        bytes_pictures, bytes_reason = _for_bytes(run, pipeline, payload)
        of_score = Needed(np.nan, np.nan, np.nan)
        enough = run.scores.n_clusters >= means.MIN_PICTURES
        if run.scored and enough and (pipeline, point) != run.scores.reference:
            own_C, reference_C = (run.scores.contributions(key) for key in ((pipeline, point), run.scores.reference))
            of_score = score_needs(own_C, reference_C, score, run.scores.makeup, confidence=confidence)
        found.append(
            {
                "pipeline": pipeline,
                "point": point,
                "pictures": planned.pictures,
                "pictures_low": of_latency.low,
                "pictures_high": of_latency.high,
                "pictures_high_same_drift": high_same_drift,
                "rounds": planned.rounds,
                "starts": planned.starts,
                "latency_reason": planned.reason,
                "bytes_pictures": bytes_pictures,
                "bytes_reason": bytes_reason,
                "score_pictures": of_score.value,
                "score_pictures_low": of_score.low,
                "score_pictures_high": of_score.high,
            }
        )
    return pd.DataFrame(found, columns=_COLUMNS)


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
    ratio = Estimate(float(pair["ratio"]), float(pair["ratio_low"]), float(pair["ratio_high"]))
    return bytes_need(ratio, int(run.points["clusters"].iloc[0]), wanted), ""
