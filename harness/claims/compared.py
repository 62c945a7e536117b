"""Schemes against each other, by curves or within rounds: bytes, latencies, times of a side, scores.

S timed pictures   B resamples   C clusters of questions
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from harness.analysis import Analysis, cells, comparison, curves, means, selection
from harness.analysis.curves import Ladder
from harness.analysis.means import Estimate
from harness.analysis.setting import ratio_of, strata
from harness.claims.evaluation import Evaluation, both_points, exact, point_of, refused, scaled, uplinks_of
from harness.claims.verdict import Item
from harness.records import PointKey
from harness.scenario.replay import ConstantUplink

SCORES = (0.25, 0.5, 0.75)
"""The places in a band of scores at which bytes are compared."""

PLAIN_NEIGHBOURS = 5
"""The paper's K."""


def bytes_ratio(evaluation: Evaluation) -> list[Item]:
    """The ratio at three scores of the band that both curves have, for each other scheme.

    They are a quarter, a half and three quarters up: nearer to its ends, resamples leave the measured range.
    """
    pairs = [(other, _pair(evaluation, other)) for other in evaluation.test.over]
    confidence = evaluation.confidence(len(SCORES) * len(pairs))
    found = []
    for other, pair in pairs:
        low, high = (0.0, 0.0) if isinstance(pair, str) else curves.score_band(pair[1], pair[0])
        if isinstance(pair, str) or high <= low:
            why = pair if isinstance(pair, str) else f"{pair[0].name} and {pair[1].name} have no scores in common"
            found.append(_one_sided(evaluation, other, why))
            continue
        for share in SCORES:
            at = curves.equal_score(pair[1], pair[0], low + share * (high - low), confidence=confidence)
            estimate = refused(at.reason) if at.reason else at.ratio
            found.append(Item(label=f"{other} at a score of {at.target:.3g}", estimate=estimate))
    return found


def _one_sided(evaluation: Evaluation, other: str, why: str) -> Item:
    """Where one of two schemes has no curve to solve, its selected point bounds its bytes from above.

    The other's are bounded from below by its curve, at the score that the point is certified to have, and so is their
    ratio, on one side. ``why`` is the reason if there is no such bound either.
    """
    of, tail = str(evaluation.test.of), evaluation.alpha / (2 * len(evaluation.test.over))
    if (bound := _fewest_over(evaluation, of, other, tail)) is not None:
        return Item(label=f"{other}, at most", estimate=Estimate(bound[0], 0.0, bound[1]))
    if (bound := _fewest_over(evaluation, other, of, tail)) is not None:
        return Item(label=f"{other}, at least", estimate=Estimate(1 / bound[0], 1 / bound[1], math.inf))
    return Item(label=other, estimate=refused(why))


def _fewest_over(evaluation: Evaluation, scheme: str, other: str, tail: float) -> tuple[float, float] | None:
    """A scheme's bytes at its selected point over the other's at the certified score, and the upper bound of that."""
    run, theirs = evaluation.run, evaluation.pipelines[other]
    key = point_of(evaluation, scheme, {}, timed=False)
    ladders = [ladder for (pipeline, _), ladder in run.ladders.items() if pipeline == theirs]
    if isinstance(key, str) or not ladders or not all(ladder.slope_established for ladder in ladders):
        return None
    rows = run.points[run.points["pipeline"] == key[0]]
    mine = rows[rows["point"] == key[1]].iloc[0]
    if not (mine["payload_bytes"] > 0 and mine["p_value"] <= tail / rows["ladder"].nunique()):
        return None
    share, reference = run.equality.certified, run.scores.reference
    solved = [
        (ladder, *ladder.reached(share * run.scores.score(reference), share * run.scores.resampled(reference)))
        for ladder in ladders
    ]
    if not all(0 <= u <= 1 for _, u, _ in solved):
        return None
    value = min(float(np.exp(ladder.curve.log_bytes(u))) for ladder, u, _ in solved)
    least = min(
        float(np.exp(np.quantile(ladder.curves.log_bytes(u_B), tail, method="inverted_cdf")))
        for ladder, _, u_B in solved
    )
    n_bytes = float(mine["payload_bytes"])
    return (n_bytes / value, n_bytes / least) if least > 0 else None


def mean_bytes_ratio(evaluation: Evaluation) -> list[Item]:
    """BD-rate plus 1, for each other scheme."""
    found = []
    for other in evaluation.test.over:
        pair = _pair(evaluation, other)
        if isinstance(pair, str):
            found.append(Item(label=other, estimate=refused(pair)))
            continue
        rate, _ = curves.bd_rate(pair[1], pair[0], confidence=evaluation.confidence(len(evaluation.test.over)))
        found.append(Item(label=other, estimate=rate.plus(1.0)))
    return found


def _pair(evaluation: Evaluation, other: str) -> tuple[Ladder, Ladder] | str:
    """The curves of the scheme and of another: of several ladders those with the widest band of scores in common."""
    run, mine, theirs = evaluation.run, *(evaluation.pipelines[name] for name in (str(evaluation.test.of), other))
    if not run.scored:
        return f"no score is claimed: {run.equality.reference} scores 0"
    ladders: dict[str, list[Ladder]] = {}
    for (pipeline, _), ladder in run.ladders.items():
        ladders.setdefault(pipeline, []).append(ladder)
    if lacking := [name for name in (mine, theirs) if name not in ladders]:
        return f"{lacking[0]} has no two points that send different bytes"
    for name in (mine, theirs):
        if not any(ladder.slope_established for ladder in ladders[name]):
            return f"{name}: that its score grows with its bytes is not established; more questions are needed"

    def width(pair: tuple[Ladder, Ladder]) -> float:
        low, high = curves.score_band(pair[1], pair[0])
        return high - low

    pairs = [(a, b) for a in ladders[mine] for b in ladders[theirs] if a.slope_established and b.slope_established]
    return max(pairs, key=width)


def latency_ratio(evaluation: Evaluation) -> list[Item]:
    """At equal score by curves where both schemes have one there, else at their selected points."""
    uplinks = uplinks_of(evaluation.run)
    confidence = evaluation.confidence(len(uplinks) * len(evaluation.test.over))
    found = []
    for other in evaluation.test.over:
        by_curves = {} if evaluation.test.at or evaluation.test.over_at else _by_curves(evaluation, other, confidence)
        for uplink in uplinks:
            estimate = by_curves.get(uplink.label)
            label = f"{other}, {uplink.label}, by curves"
            if estimate is None or estimate.reason:
                estimate, label = _of_points(evaluation, other, uplink, confidence), f"{other}, {uplink.label}"
            found.append(Item(label=label, estimate=estimate, rate_bps=uplink.rate_bps))
    return found or [Item(label="T", estimate=refused("no uplink of one rate on which requests do not meet"))]


def _by_curves(evaluation: Evaluation, other: str, confidence: float) -> dict[str, Estimate]:
    run, pair = evaluation.run, _pair(evaluation, other)
    if isinstance(pair, str):
        return {}
    keys = {ladder.name: key for key, ladder in run.ladders.items()}
    reference, share = run.scores.reference, run.equality.target
    rows = comparison.latencies_at_equal_score(
        {keys[ladder.name]: ladder for ladder in pair},
        run.points,
        dataclasses.replace(run.setting, confidence=confidence),
        share * run.scores.score(reference),
        share * run.scores.resampled(reference),
    )
    return {
        row["channel"]: Estimate(row["ratio"], row["ratio_low"], row["ratio_high"], row["reason"])
        for row in rows.to_dict("records")
    }


def _of_points(evaluation: Evaluation, other: str, uplink: ConstantUplink, confidence: float) -> Estimate:
    """The ratio of mean latencies of two points within rounds."""
    keys = both_points(evaluation, other)
    if isinstance(keys, str):
        return refused(keys)
    setting = evaluation.run.setting
    known_s = [
        cells.times_and_known(setting.profiles[key], setting.system, uplink, setting.population)[1] for key in keys
    ]
    return _within_rounds(evaluation.run, keys, known_s, confidence)


def _within_rounds(
    run: Analysis,
    keys: tuple[PointKey, PointKey],
    known_s: Sequence[float],
    confidence: float,
    side: Literal["server", "total"] = "total",
) -> Estimate:
    setting = run.setting
    if setting.profiles[keys[0]].samples != setting.profiles[keys[1]].samples:
        return refused("not timed on the same samples and repeats")
    timed = [setting.timed(key) for key in keys]
    seconds = [getattr(one, f"{side}_SR") for one in timed]
    if any((one <= 0).any() for one in seconds):
        return refused(f"some requests spend no time on the {side}")
    if reason := means.too_few(len(timed[0].samples)):
        return refused(reason)
    stratum_S, stratum_N = strata(setting.profiles[keys[0]], setting.population)
    found = ratio_of(
        timed[0],
        timed[1],
        stratum_S,
        stratum_N,
        side=side,
        a_known=known_s[0],
        b_known=known_s[1],
        confidence=confidence,
    )
    return refused(found.reason) if found.reason else found


def server_time_ratio(evaluation: Evaluation) -> list[Item]:
    """T_server of two points within rounds."""
    confidence = evaluation.confidence(len(evaluation.test.over))
    found = []
    for other in evaluation.test.over:
        keys = both_points(evaluation, other)
        estimate = (
            refused(keys)
            if isinstance(keys, str)
            else _within_rounds(evaluation.run, keys, (0.0, 0.0), confidence, "server")
        )
        found.append(Item(label=other, estimate=estimate))
    return found


def rate_gain(evaluation: Evaluation) -> list[Item]:
    """T_a / T_b falls with the rate where (T_a less its link) / (T_b less its link) is below bytes_a / bytes_b.

    With T = c + 8 b / r the sign of d(T_a / T_b) / dr is that of c_a b_b - c_b b_a, at every rate r. What else a link
    takes, such as propagation, would be a part of c that depends on the link and not on the schemes.
    """
    confidence = evaluation.confidence(len(evaluation.test.over))
    found = []
    if not all(cells.bits_alone(uplink, evaluation.run.setting.system) for uplink in uplinks_of(evaluation.run)):
        why = "the links take more than bits over the rate, such as propagation, whatever the schemes are"
        return [Item(label=other, estimate=refused(why)) for other in evaluation.test.over]
    for other in evaluation.test.over:
        keys = both_points(evaluation, other)
        if isinstance(keys, str):
            found.append(Item(label=other, estimate=refused(keys)))
            continue
        sent = [_mean_sent(evaluation.run, key) for key in keys]
        if min(sent) <= 0:
            found.append(Item(label=other, estimate=refused(f"{evaluation.test.of} or {other} sends nothing")))
            continue
        times, bytes_ = _within_rounds(evaluation.run, keys, (0.0, 0.0), confidence), sent[0] / sent[1]
        found.append(Item(label=other, estimate=scaled(times, 1 / bytes_)))
    return found


def _mean_sent(run: Analysis, key: PointKey) -> float:
    """The mean bytes that a point sends, over all questions."""
    sent = np.asarray(run.population.payload_bytes[key], dtype=np.float64)
    weights = run.population.weight_N
    return float(np.average(sent, weights=None if weights is None else np.asarray(weights, dtype=np.float64)))


def latency_s(evaluation: Evaluation) -> list[Item]:
    """T of a point at each uplink, in seconds."""
    return [
        Item(label=uplink.label, estimate=estimate.plus(known_s) if not estimate.reason else estimate,
             rate_bps=uplink.rate_bps)
        for uplink, estimate, known_s, _ in _totals(evaluation)
    ]  # fmt: skip


def link_share(evaluation: Evaluation) -> list[Item]:
    """T_link over T of a point at each uplink."""
    found = []
    for uplink, own, known_s, wait_s in _totals(evaluation):
        link_s = known_s - wait_s
        ends = [link_s / (known_s + own_s) if own_s + known_s else 0.0 for own_s in (own.value, own.high, own.low)]
        estimate = own if own.reason else Estimate(ends[0], ends[1], ends[2])
        found.append(Item(label=uplink.label, estimate=estimate, rate_bps=uplink.rate_bps))
    return found


def _totals(evaluation: Evaluation) -> Iterable[tuple[ConstantUplink, Estimate, float, float]]:
    """The mean device and server time at each uplink; what the link adds, which is known, and how much is waiting."""
    run, uplinks = evaluation.run, uplinks_of(evaluation.run)
    key = point_of(evaluation, str(evaluation.test.of), evaluation.test.at)
    for uplink in uplinks:
        if isinstance(key, str):
            yield uplink, refused(key), 0.0, 0.0
            continue
        profile, timed = run.setting.profiles[key], run.setting.timed(key)
        of_pictures = strata(profile, run.population)
        _, known_s = cells.times_and_known(profile, run.setting.system, uplink, run.population)
        confidence = evaluation.confidence(len(uplinks))
        yield (
            uplink,
            means.mean_latency(timed.total_SR, *of_pictures, start_R=timed.start_R, confidence=confidence),
            known_s,
            cells.mean_wait_s(profile, run.setting.system, run.population),
        )


def score_share(evaluation: Evaluation) -> list[Item]:
    """One score over another, each bound by the score test that admits points: it holds with few pictures too."""
    run, test = evaluation.run, evaluation.test
    if not run.scored:
        return [Item(label=str(test.of), estimate=refused(f"{run.equality.reference} scores 0"))]
    mine = point_of(evaluation, str(test.of), test.at, timed=False)
    others = {name: point_of(evaluation, name, test.over_at or test.at, timed=False) for name in test.over}
    return [
        Item(label=name, estimate=_share(run, mine, other, evaluation.confidence(len(test.over))))
        for name, other in (others or {run.equality.reference: run.scores.reference}).items()
    ]


def _share(run: Analysis, mine: PointKey | str, other: PointKey | str, confidence: float) -> Estimate:
    if isinstance(mine, str) or isinstance(other, str):
        return refused(mine if isinstance(mine, str) else str(other))
    tail = (1 - confidence) / 2
    if mine == other:
        return exact(1.0)
    a_C, b_C = run.scores.contributions(mine), run.scores.contributions(other)
    if len(a_C) < means.MIN_PICTURES:
        return refused(means.too_few(len(a_C)))
    a, b = run.scores.score(mine), run.scores.score(other)
    if a <= 0 or b <= 0:
        return refused(f"{(mine if a <= 0 else other)[0]} scores 0")
    above, below = (selection.certified_share(*of, tail, run.scores.makeup) for of in ((a_C, b_C), (b_C, a_C)))
    return Estimate(a / b, above, 1 / below if below else math.inf)


def neighbours_share(evaluation: Evaluation) -> list[Item]:
    """Scores with other K over those of the points that differ only in K."""
    pipeline = evaluation.pipelines[str(evaluation.test.of)]
    points = evaluation.run.manifest.points[pipeline]
    pairs = []
    for label, own in points.items():
        if own.get("neighbours") not in (None, PLAIN_NEIGHBOURS):
            alike = {**own, "neighbours": PLAIN_NEIGHBOURS}
            pairs += [(label, plain, own["neighbours"]) for plain, other in points.items() if other == alike]
    if not pairs:
        return [Item(label="K", estimate=refused(f"no point of {pipeline} with another 'neighbours:' than 5"))]
    confidence = evaluation.confidence(len(pairs))
    return [
        Item(
            label=f"K = {k}, {label}", estimate=_share(evaluation.run, (pipeline, label), (pipeline, plain), confidence)
        )
        for label, plain, k in pairs
    ]
