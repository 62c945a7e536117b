"""What makes the times of a run doubtful: pictures too few or too alike, other starts, drift, skew.

Each doubt is a sentence, empty where there is none. The times are those of :mod:`harness.analysis.means`.

    S pictures   R rounds   N pictures of the whole benchmark
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from harness.analysis.means import MIN_ROUNDS, SETTLED_ROUNDS, SETTLED_STARTS, Study, apart, times_of, too_few
from harness.analysis.setting import Setting, strata, timed_apart
from harness.records import PointKey

SKEWED, SLOW_FACTOR, SLOW_SHARE = 0.75, 2.0, 0.01
BEYOND, EXCESS = 0.05, 0.02
"""Of pictures beyond the timed strata, and of their patches beyond those of the nearest timed one, as shares of all."""


def timing_warnings(setting: Setting, keys: Sequence[PointKey]) -> Iterator[str]:
    """What makes the times of points doubtful: pictures too few or too alike, other starts, drift, skew."""
    of_sentence: dict[str, list[str]] = {}
    few = reach = ""
    for key in keys:
        timed, of_key = setting.timed(key), strata(setting.profiles[key], setting.population)
        drift = drift_between_rounds(timed.total_SR, *of_key)
        skew = skew_warning(timed.total_SR, of_key[0])
        few = few or too_few(len(timed.samples))
        for sentence in filter(None, (drift.sentence, skew)):
            of_sentence.setdefault(sentence, []).append(key[0])
        reach = reach or reach_warning(*of_key)
    yield from filter(None, (few, reach, _timed_apart(setting, keys)))
    yield from (f"{', '.join(pipelines)}: {sentence}" for sentence, pipelines in of_sentence.items())


def _timed_apart(setting: Setting, keys: Sequence[PointKey]) -> str:
    """Which points were timed in other starts of the process than the first: a run that was edited."""
    timed = [setting.timed(key) for key in keys]
    others = [place for place, one in enumerate(timed) if timed_apart(timed[0], one)]
    if not others:
        return ""
    refused = any(apart(timed[0].start_R, timed[place].start_R) for place in others)
    return (
        f"{', '.join(keys[place][0] for place in others)}: timed in another start of the process than {keys[0][0]}; "
        + ("ratios of the two have no interval" if refused else "ratios of the two include the scatter of the starts")
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the level moved from round to round, which affects all pictures alike.

    ``spread`` is sigma_b, relative; ``trend`` the relative change from the first round to the last along a line, and
    ``trend_p`` how likely a line as steep is without any. ``sentence`` is the warning, empty where there is none.
    """

    spread: float
    trend: float
    trend_p: float
    sentence: str


def drift_between_rounds(
    seconds_SR: ArrayLike, stratum_S: ArrayLike | None = None, population_N: ArrayLike | None = None
) -> Drift:
    """How far the rounds' levels moved, with a warning above 2 % where it is beyond chance; zeros for one round."""
    study = Study(seconds_SR, stratum_S, population_N, "auto")
    log_R = np.log(study.levels(study.seconds_SR))
    n_rounds = log_R.size
    if n_rounds < MIN_ROUNDS:
        return Drift(spread=0.0, trend=0.0, trend_p=1.0, sentence="")
    request = study.of_requests(study.seconds_SR / np.exp(log_R))
    spread = math.sqrt(study.drift(log_R, request, None)[0])
    at_R = np.arange(n_rounds) - (n_rounds - 1) / 2
    slope = float(at_R @ log_R / (at_R @ at_R))
    # Against the scatter of requests, not that of the levels: three rounds on a line leave none.
    error = math.sqrt(max(request * study.inflation, 1e-18) / float(at_R @ at_R))
    freedom = (study.seconds_SR.shape[0] - 1) * (n_rounds - 1)
    trend_p = 2 * float(scipy.special.stdtr(freedom, -abs(slope) / error))
    observed = float(log_R.var(ddof=1))
    chance = float(scipy.special.fdtrc(n_rounds - 1, freedom, observed / max(request * study.inflation, 1e-18)))
    trend = math.expm1(slope * (n_rounds - 1))
    warned = max(spread, abs(trend)) > 0.02 and min(chance, trend_p) < 0.01
    sentence = (
        f"the rounds drifted: {trend:+.1%} from the first to the last, {spread:.1%} from round to round"
        if warned
        else ""
    )
    return Drift(spread=spread, trend=trend, trend_p=trend_p, sentence=sentence)


def session_label(rounds: int, starts: int) -> str:
    """What absolute means are: ``this session only`` below eight rounds over three process starts, else empty."""
    return "" if rounds >= SETTLED_ROUNDS and starts >= SETTLED_STARTS else "this session only"


def skew_warning(seconds_SR: ArrayLike, stratum_S: ArrayLike | None = None) -> str:
    """A sentence where times look such that no interval of so few pictures covers as claimed, else empty.

    Two looks: the scatter of the logs of the pictures' means within their groups is above 0.75 (log-normal times with
    sigma 1), or at least one request in a hundred took twice its own picture's median (some requests three times
    slower). The second sees what repeats show: it needs three rounds.
    """
    seconds_SR = times_of(seconds_SR)
    n_pictures, n_rounds = seconds_SR.shape
    sentences = []
    log_S = np.log(seconds_SR.mean(axis=1))
    if n_pictures >= 3:
        study = Study(seconds_SR, stratum_S, stratum_S, "auto")
        residual_S = log_S - study.x_SP @ (study.inverse_PS @ log_S)
        spread = math.sqrt(float(residual_S @ residual_S) / study.freedom)
        if spread > SKEWED:
            sentences.append(f"pictures' times are skewed and scatter by a factor of {math.exp(spread):.1f} either way")
    if n_rounds >= MIN_ROUNDS:
        level_R = np.median(seconds_SR / np.median(seconds_SR, axis=1, keepdims=True), axis=0)
        settled_SR = seconds_SR / level_R
        slow = float((settled_SR > SLOW_FACTOR * np.median(settled_SR, axis=1, keepdims=True)).mean())
        if slow >= SLOW_SHARE:
            sentences.append(f"{slow:.1%} of the requests took more than twice their picture's median")
    return f"intervals may cover less than claimed: {'; '.join(sentences)}" if sentences else ""


def reach_warning(stratum_S: ArrayLike | None, population_N: ArrayLike | None) -> str:
    """A sentence where more than a few pictures of the benchmark lie beyond the strata that were timed, else empty.

    Few that lie far beyond count as well: where times bend, a line that stops short of 2 % of the patches is far off.

    Their time is then not measured: a line is continued to them, and where all timed pictures are of one stratum there
    is none. Empty too where no strata are known.
    """
    if stratum_S is None or population_N is None:
        return ""
    own_S, all_N = np.asarray(stratum_S, dtype=np.float64), np.asarray(population_N, dtype=np.float64)
    sentences = []
    for beyond_N, word in ((all_N - own_S.max(), "more"), (own_S.min() - all_N, "fewer")):
        share, excess = float((beyond_N > 0).mean()), float(np.maximum(beyond_N, 0).sum() / all_N.sum())
        if share > BEYOND or excess > EXCESS:
            shown = f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
            sentences.append(f"{shown} of the benchmark's pictures have {word} patches than any that was timed")
    taken = "as slow as those timed" if np.ptp(own_S) == 0 else "on the line through those timed"
    return f"{' and '.join(sentences)}: they are taken to be {taken}" if sentences else ""
