"""The numbers of :data:`harness.claims.model.METRICS` from a run, each with an interval.

All numbers of one test have intervals at 1 - alpha together: each of n at 1 - alpha / n. A number that cannot be had is
one without an interval, with its reason.

    S timed pictures   R rounds   B resamples
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import entropy

from harness.analysis import Analysis, cells, comparison, curves, means, selection
from harness.analysis.curves import Ladder
from harness.analysis.means import Estimate
from harness.analysis.select import Key
from harness.claims import counts
from harness.claims.model import Criterion, Parameter
from harness.claims.verdict import Item
from harness.errors import HarnessError
from harness.scenario.replay import ConstantUplink
from harness.tofc.trained import MANIFEST, find_codec, manifest

PLAIN_NEIGHBOURS = 5
"""The paper's K."""

RESIDENT_BYTES = 3e5
"""How far a peak of resident memory may be off."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A test, the run that it is made of, and the level at which all its intervals hold together."""

    run: Analysis
    test: Criterion
    alpha: float

    def confidence(self, n: int) -> float:
        """That of each of n intervals."""
        return 1 - self.alpha / max(n, 1)

    @property
    def pipelines(self) -> dict[str, str]:
        """Schemes and the run's pipelines of them: of several of one scheme the one that has its name, or the first."""
        return pipelines_of(self.run)


def pipelines_of(run: Analysis) -> dict[str, str]:
    """The pipeline of each scheme of a run."""
    found: dict[str, str] = {}
    for spec in run.manifest.scenario.get("pipelines", ()):
        if spec["scheme"] not in found or spec["name"] == spec["scheme"]:
            found[spec["scheme"]] = spec["name"]
    return found or {name: name for name in run.manifest.points}


def measured(asked: Asked) -> Sequence[Item]:
    """The numbers of a test that needs a run; changes and all others as the test's metric has them."""
    name = asked.test.metric
    items = _FUNCTIONS[_RATIO_OF.get(name, name)](asked)
    if name in _RATIO_OF:
        items = [dataclasses.replace(item, estimate=item.estimate.plus(-1.0)) for item in items]
    return items


def counted(test: Criterion, backbone: str) -> Sequence[Item]:
    """The numbers of a test that needs no run; raises CheckpointError for a backbone without a published one."""
    if test.metric == "trainable_parameters":
        return [Item(label=backbone, estimate=_exact(counts.trainable_parameters(backbone)))]
    n_c, of_all = float(str(test.at["n_c"])), counts.features_a_patch(backbone)
    return [Item(label=f"{n_c:.0f} of {of_all}", estimate=_exact(n_c / of_all))]


def quotient(items: Sequence[Item], others: Sequence[Item]) -> Sequence[Item]:
    """Numbers of one run over the same of another: independent, so that the logs' distances add in squares."""
    known = {(item.label, item.rate_bps): item.estimate for item in others}
    found = []
    for item in items:
        a, b = item.estimate, known.get((item.label, item.rate_bps), _refused("the other run has no such number"))
        if reason := a.reason or b.reason:
            found.append(dataclasses.replace(item, estimate=_refused(reason)))
            continue
        with np.errstate(all="ignore"):
            low = math.hypot(*(float(np.log(v / w)) for v, w in ((a.value, a.low), (b.high, b.value))))
            high = math.hypot(*(float(np.log(v / w)) for v, w in ((a.high, a.value), (b.value, b.low))))
        value = a.value / b.value
        found.append(
            dataclasses.replace(
                item, estimate=Estimate(value, value * float(np.exp(-low)), value * float(np.exp(high)))
            )
        )
    return found


def _bytes(asked: Asked) -> list[Item]:
    """The ratio at nine scores over the band that both curves have, for each other scheme."""
    pairs = [(other, _pair(asked, other)) for other in asked.test.over]
    confidence = asked.confidence(9 * len(pairs))
    found = []
    for other, pair in pairs:
        if isinstance(pair, str):
            found.append(Item(label=other, estimate=_refused(pair)))
            continue
        reached = curves.over_targets(pair[1], pair[0], confidence=confidence)
        at = [
            Item(label=f"{other} at a score of {one.target:.3g}", estimate=one.ratio)
            for one in reached
            if not one.reason
        ]
        why = reached[0].reason if reached else f"{pair[0].name} and {pair[1].name} have no scores in common"
        found += at or [Item(label=other, estimate=_refused(why))]
    return found


def _mean_bytes(asked: Asked) -> list[Item]:
    found = []
    for other in asked.test.over:
        pair = _pair(asked, other)
        if isinstance(pair, str):
            found.append(Item(label=other, estimate=_refused(pair)))
            continue
        rate, _ = curves.bd_rate(pair[1], pair[0], confidence=asked.confidence(len(asked.test.over)))
        found.append(Item(label=other, estimate=rate.plus(1.0)))
    return found


def _pair(asked: Asked, other: str) -> tuple[Ladder, Ladder] | str:
    """The curves of the scheme and of another: of several ladders those with the widest band of scores in common."""
    run, mine, theirs = asked.run, *(asked.pipelines[name] for name in (str(asked.test.of), other))
    if not run.scored:
        return f"no score is claimed: {run.equality.reference} scores 0"
    ladders: dict[str, list[Ladder]] = {}
    for (pipeline, _), ladder in run.ladders.items():
        ladders.setdefault(pipeline, []).append(ladder)
    if lacking := [name for name in (mine, theirs) if name not in ladders]:
        return f"{lacking[0]} has no two points that send different bytes"
    for name in (mine, theirs):
        if not any(ladder.slope_established for ladder in ladders[name]):
            return f"{name}: that its score grows with its bytes is not established; it takes more questions"

    def width(pair: tuple[Ladder, Ladder]) -> float:
        low, high = curves.score_band(pair[1], pair[0])
        return high - low

    pairs = [(a, b) for a in ladders[mine] for b in ladders[theirs] if a.slope_established and b.slope_established]
    return max(pairs, key=width)


def _latency(asked: Asked) -> list[Item]:
    """At equal score by curves where both schemes have one there, else at their selected points."""
    uplinks = _uplinks(asked.run)
    confidence = asked.confidence(len(uplinks) * len(asked.test.over))
    found = []
    for other in asked.test.over:
        by_curves = {} if asked.test.at or asked.test.over_at else _by_curves(asked, other, confidence)
        for uplink in uplinks:
            estimate = by_curves.get(uplink.label)
            label = f"{other}, {uplink.label}, by curves"
            if estimate is None or estimate.reason:
                estimate, label = _of_points(asked, other, uplink, confidence), f"{other}, {uplink.label}"
            found.append(Item(label=label, estimate=estimate, rate_bps=uplink.rate_bps))
    return found or [Item(label="T", estimate=_refused("no uplink of one rate on which requests do not meet"))]


def _by_curves(asked: Asked, other: str, confidence: float) -> dict[str, Estimate]:
    run, pair = asked.run, _pair(asked, other)
    if isinstance(pair, str):
        return {}
    keys = {ladder.name: key for key, ladder in run.ladders.items()}
    reference, share = run.answers.reference, run.equality.target
    rows = comparison.latencies_at_equal_score(
        {keys[ladder.name]: ladder for ladder in pair},
        run.points,
        dataclasses.replace(run.setting, confidence=confidence),
        share * run.answers.score(reference),
        share * run.answers.resampled(reference),
    )
    return {
        row["channel"]: Estimate(row["ratio"], row["ratio_low"], row["ratio_high"], row["reason"])
        for row in rows.to_dict("records")
    }


def _of_points(asked: Asked, other: str, uplink: ConstantUplink, confidence: float) -> Estimate:
    """The ratio of mean latencies of two points within rounds."""
    keys = _keys(asked, other)
    if isinstance(keys, str):
        return _refused(keys)
    setting = asked.run.setting
    known_s = [
        cells.times_and_known(setting.profiles[key], setting.system, uplink, setting.population)[1] for key in keys
    ]
    return _within_rounds(asked.run, keys, known_s, confidence)


def _within_rounds(
    run: Analysis, keys: tuple[Key, Key], known_s: Sequence[float], confidence: float, side: str = "total"
) -> Estimate:
    setting = run.setting
    if setting.profiles[keys[0]].samples != setting.profiles[keys[1]].samples:
        return _refused("not timed on the same samples and repeats")
    timed = [setting.timed(key) for key in keys]
    seconds = [getattr(one, f"{side}_SR") for one in timed]
    if any((one <= 0).any() for one in seconds):
        return _refused(f"some requests spend no time on the {side}")
    if reason := means.too_few(len(timed[0].samples)):
        return _refused(reason)
    stratum_S, stratum_N = cells.strata(setting.profiles[keys[0]], setting.population)
    return means.ratio_within_rounds(
        seconds[0],
        seconds[1],
        stratum_S,
        stratum_N,
        a_known=known_s[0],
        b_known=known_s[1],
        start_R=timed[0].start_R,
        confidence=confidence,
    )


def _server_time(asked: Asked) -> list[Item]:
    confidence = asked.confidence(len(asked.test.over))
    found = []
    for other in asked.test.over:
        keys = _keys(asked, other)
        estimate = (
            _refused(keys)
            if isinstance(keys, str)
            else _within_rounds(asked.run, keys, (0.0, 0.0), confidence, "server")
        )
        found.append(Item(label=other, estimate=estimate))
    return found


def _rate_gain(asked: Asked) -> list[Item]:
    """T_a / T_b falls with the rate where (T_a less its link) / (T_b less its link) is below bytes_a / bytes_b.

    With T = c + 8 b / r the sign of d(T_a / T_b) / dr is that of c_a b_b - c_b b_a, at every rate r.
    """
    confidence = asked.confidence(len(asked.test.over))
    found = []
    for other in asked.test.over:
        keys = _keys(asked, other)
        if isinstance(keys, str):
            found.append(Item(label=other, estimate=_refused(keys)))
            continue
        sent = [_mean_sent(asked.run, key) for key in keys]
        if min(sent) <= 0:
            found.append(Item(label=other, estimate=_refused(f"{asked.test.of} or {other} sends nothing")))
            continue
        times, bytes_ = _within_rounds(asked.run, keys, (0.0, 0.0), confidence), sent[0] / sent[1]
        found.append(Item(label=other, estimate=_scaled(times, 1 / bytes_)))
    return found


def _mean_sent(run: Analysis, key: Key) -> float:
    """The mean bytes that a point sends, over all questions."""
    sent = np.asarray(run.population.payload_bytes[key], dtype=np.float64)
    weights = run.population.weight_N
    return float(np.average(sent, weights=None if weights is None else np.asarray(weights, dtype=np.float64)))


def _seconds(asked: Asked) -> list[Item]:
    return [
        Item(label=uplink.label, estimate=estimate.plus(known_s) if not estimate.reason else estimate,
             rate_bps=uplink.rate_bps)
        for uplink, estimate, known_s in _totals(asked)
    ]  # fmt: skip


def _link_share(asked: Asked) -> list[Item]:
    found = []
    for uplink, own, known_s in _totals(asked):
        ends = [known_s / (known_s + own_s) if own_s + known_s else 0.0 for own_s in (own.value, own.high, own.low)]
        estimate = own if own.reason else Estimate(ends[0], ends[1], ends[2])
        found.append(Item(label=uplink.label, estimate=estimate, rate_bps=uplink.rate_bps))
    return found


def _totals(asked: Asked) -> Iterable[tuple[ConstantUplink, Estimate, float]]:
    """The mean device and server time at each uplink, and the link's, which is known."""
    run, uplinks = asked.run, _uplinks(asked.run)
    key = _key(asked, str(asked.test.of), asked.test.at)
    for uplink in uplinks:
        if isinstance(key, str):
            yield uplink, _refused(key), 0.0
            continue
        profile, timed = run.setting.profiles[key], run.setting.timed(key)
        strata = cells.strata(profile, run.population)
        _, known_s = cells.times_and_known(profile, run.setting.system, uplink, run.population)
        confidence = asked.confidence(len(uplinks))
        yield (
            uplink,
            means.mean_latency(timed.total_SR, *strata, start_R=timed.start_R, confidence=confidence),
            known_s,
        )


def _score(asked: Asked) -> list[Item]:
    """One score over another, each bound by the score test that admits points: it holds with few pictures too."""
    run, test = asked.run, asked.test
    if not run.scored:
        return [Item(label=str(test.of), estimate=_refused(f"{run.equality.reference} scores 0"))]
    mine = _key(asked, str(test.of), test.at, timed=False)
    others = {name: _key(asked, name, test.over_at or test.at, timed=False) for name in test.over}
    return [
        Item(label=name, estimate=_share(run, mine, other, asked.confidence(len(test.over))))
        for name, other in (others or {run.equality.reference: run.answers.reference}).items()
    ]


def _share(run: Analysis, mine: Key | str, other: Key | str, confidence: float) -> Estimate:
    if isinstance(mine, str) or isinstance(other, str):
        return _refused(mine if isinstance(mine, str) else str(other))
    tail = (1 - confidence) / 2
    if mine == other:
        return _exact(1.0)
    a_C, b_C = run.answers.contributions(mine), run.answers.contributions(other)
    if len(a_C) < means.MIN_PICTURES:
        return _refused(means.too_few(len(a_C)))
    a, b = run.answers.score(mine), run.answers.score(other)
    if a <= 0 or b <= 0:
        return _refused(f"{(mine if a <= 0 else other)[0]} scores 0")
    below = selection.certified_share(b_C, a_C, tail)
    return Estimate(a / b, selection.certified_share(a_C, b_C, tail), 1 / below if below else math.inf)


def _neighbours(asked: Asked) -> list[Item]:
    pipeline = asked.pipelines[str(asked.test.of)]
    points = asked.run.manifest.points[pipeline]
    pairs = []
    for label, own in points.items():
        if own.get("neighbours") not in (None, PLAIN_NEIGHBOURS):
            alike = {**own, "neighbours": PLAIN_NEIGHBOURS}
            pairs += [(label, plain, own["neighbours"]) for plain, other in points.items() if other == alike]
    if not pairs:
        return [Item(label="K", estimate=_refused(f"no point of {pipeline} with another 'neighbours:' than 5"))]
    confidence = asked.confidence(len(pairs))
    return [
        Item(label=f"K = {k}, {label}", estimate=_share(asked.run, (pipeline, label), (pipeline, plain), confidence))
        for label, plain, k in pairs
    ]


def _operations(asked: Asked) -> list[Item]:
    return _resources(asked, lambda of: (of["operations"], of["operations"]))


def _memory(asked: Asked) -> list[Item]:
    def span(of: Mapping[str, float]) -> tuple[float, float]:
        beyond = of["peak_memory_bytes"] - of["weights_bytes"]
        return max(0.0, beyond - RESIDENT_BYTES), beyond + RESIDENT_BYTES

    return _resources(asked, span)


def _resources(asked: Asked, span: Callable[[Mapping[str, float]], tuple[float, float]]) -> list[Item]:
    test = asked.test
    found = []
    for other in test.over:
        mine, theirs = _of_half(asked, str(test.of), test.at, span), _of_half(asked, other, test.over_at, span)
        if isinstance(mine, str) or isinstance(theirs, str):
            estimate = _refused(mine if isinstance(mine, str) else str(theirs))
        elif theirs[0] <= 0:
            estimate = _refused(f"{other}'s {test.side} half takes less than can be told from nothing")
        else:
            estimate = Estimate(sum(mine) / sum(theirs), mine[0] / theirs[1], mine[1] / theirs[0])
        found.append(Item(label=other, estimate=estimate))
    return found


def _of_half(
    asked: Asked,
    scheme: str,
    at: Mapping[str, Parameter],
    span: Callable[[Mapping[str, float]], tuple[float, float]],
) -> tuple[float, float] | str:
    """The least and the most that a half of a scheme needs of a quantity; why nothing can be said."""
    test, table = asked.test, asked.run.record.resources.to_pandas()
    # What a half needs is asked of no score.
    if isinstance(key := _key(asked, scheme, at, timed=False, first=True), str):
        return key
    mine = table[(table["pipeline"] == key[0]) & (table["point"] == key[1]) & (table["side"] == test.side)]
    if test.stages:
        mine = mine[mine["stage"].isin(test.stages)]
    quantities = {str(name): float(value) for name, value in mine.groupby("quantity")["value"].sum().items()}
    try:
        return span(quantities)
    except KeyError as error:
        return f"{error.args[0]} of {scheme}'s {test.side} half was not measured"


def _visual(asked: Asked) -> list[Item]:
    key = _key(asked, str(asked.test.of), asked.test.at, timed=False)
    if isinstance(key, str):
        return [Item(label=str(asked.test.of), estimate=_refused(key))]
    visual, prompt = (asked.run.answers.mean_of_means(key, f"{name}_tokens") for name in ("visual", "prompt"))
    return [Item(label=str(asked.test.of), estimate=_exact(visual / prompt))]


def _z_share(asked: Asked) -> list[Item]:
    return [Item(label=label, estimate=_exact(row["z_share"])) for label, row in _held_out(asked)] or _no_codec(asked)


def _experts_share(asked: Asked) -> list[Item]:
    """From the entropy of the experts' use to log2 of their number: what an index takes is in between."""
    found = []
    for label, row in _held_out(asked):
        use = np.asarray(row["expert_use"], dtype=np.float64)
        bits = 8 * row["bytes_per_image"] * row["pictures"] / use.sum()
        least, most = float(entropy(use, base=2)), math.log2(use.size)
        found.append(Item(label=label, estimate=Estimate(least / bits, least / bits, most / bits)))
    return found or _no_codec(asked)


def _experts_used(asked: Asked) -> list[Item]:
    return [
        Item(label=label, estimate=_exact(float(np.mean(np.asarray(row["expert_use"]) > 0))))
        for label, row in _held_out(asked)
    ] or _no_codec(asked)


def _no_codec(asked: Asked) -> list[Item]:
    return [
        Item(label=str(asked.test.of), estimate=_refused("no codec of the run has a training's manifest beside it"))
    ]


def _held_out(asked: Asked) -> list[tuple[str, Mapping[str, Any]]]:
    """What the training of each codec of the scheme's points recorded on its held-out pictures."""
    points = asked.run.manifest.points[asked.pipelines[str(asked.test.of)]].values()
    found: list[tuple[str, Mapping[str, Any]]] = []
    for codec in dict.fromkeys(str(point["codec"]) for point in points if "codec" in point):
        try:
            # What a training recorded lies beside its codec.
            held_out = manifest(find_codec(asked.run.manifest.backbone, codec).parent / MANIFEST)["held_out"]
            rows = [{**row, "pictures": held_out["pictures"]} for row in held_out["rows"]]
        except (HarnessError, KeyError, TypeError):
            continue
        found += [(f"{codec}, n_c = {row['n_clusters']}", row) for row in rows if _is_whole(row)]
    return found


def _is_whole(row: Mapping[str, Any]) -> bool:
    return {"z_share", "expert_use", "bytes_per_image", "n_clusters"} <= row.keys() and sum(row["expert_use"]) > 0


def _keys(asked: Asked, other: str) -> tuple[Key, Key] | str:
    mine = _key(asked, str(asked.test.of), asked.test.at)
    theirs = _key(asked, other, asked.test.over_at)
    if isinstance(mine, str):
        return mine
    return theirs if isinstance(theirs, str) else (mine, theirs)


def _key(
    asked: Asked, scheme: str, at: Mapping[str, Parameter], *, timed: bool = True, first: bool = False
) -> Key | str:
    """The point of a scheme with parameters ``at``, that of most bytes among several; else the selected one.

    Why there is none, in a phrase. ``first`` takes the first point where none is selected.
    """
    run, pipeline = asked.run, asked.pipelines[scheme]
    points = run.points[run.points["pipeline"] == pipeline]
    parameters = run.manifest.points[pipeline]
    if at:
        mine = points[[_has(parameters.get(label, {}), at) for label in points["point"]]]
        mine = mine.nlargest(1, "payload_bytes")
        wanted = ", ".join(f"{name}={value}" for name, value in at.items())
        why = f"{pipeline} has no point with {wanted}"
    else:
        mine = points[points["selected"]]
        why = f"{pipeline} has no point that is certified to reach {run.equality.certified:.0%} of the reference"
        if mine.empty and first:
            mine = points[points["point"] == next(iter(parameters))]
    if mine.empty:
        return why
    key = (pipeline, str(mine["point"].iloc[0]))
    return key if not timed or key in run.timed_points else f"{pipeline} at {key[1]} was not timed"


def _has(own: Mapping[str, Any], wanted: Mapping[str, Parameter]) -> bool:
    return all(
        own.get(name) is None
        if value is None
        else math.isclose(float(own[name]), float(value), rel_tol=0.02)
        if isinstance(value, float | int) and isinstance(own.get(name), float | int)
        else str(own.get(name)) == str(value)
        for name, value in wanted.items()
    )


def _uplinks(run: Analysis) -> list[ConstantUplink]:
    """The uplinks of one rate at which the requests of one user do not meet, rates upwards."""
    alone = [
        uplink
        for uplink in run.setting.system.uplinks
        if isinstance(uplink, ConstantUplink) and run.setting.alone({"channel": uplink.label, "users": 1})
    ]
    return sorted(alone, key=lambda uplink: uplink.rate_bps) if 1 in run.setting.system.users else []


def sources(run: Analysis, test: Criterion) -> set[str]:
    """The sources of the stage rows that a timed test rests on."""
    mine = [pipelines_of(run)[name] for name in (str(test.of), *test.over)]
    stages = run.record.stages
    return set(stages.filter(pc.is_in(stages["pipeline"], pa.array(mine)))["source"].to_pylist())


def _scaled(estimate: Estimate, by: float) -> Estimate:
    return dataclasses.replace(estimate, value=estimate.value * by, low=estimate.low * by, high=estimate.high * by)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _refused(reason: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, reason)


_RATIO_OF = {"bytes_change": "bytes_ratio", "mean_bytes_change": "mean_bytes_ratio", "latency_change": "latency_ratio"}

_FUNCTIONS: Mapping[str, Callable[[Asked], list[Item]]] = {
    "bytes_ratio": _bytes,
    "mean_bytes_ratio": _mean_bytes,
    "latency_ratio": _latency,
    "rate_gain": _rate_gain,
    "server_time_ratio": _server_time,
    "latency_s": _seconds,
    "link_share": _link_share,
    "score_share": _score,
    "neighbours_share": _neighbours,
    "operations_ratio": _operations,
    "memory_ratio": _memory,
    "visual_share": _visual,
    "z_share": _z_share,
    "experts_share": _experts_share,
    "experts_used": _experts_used,
}
