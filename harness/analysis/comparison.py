"""Schemes against each other: who answers first at each uplink, bytes and latency at equal score, scores at tokens.

The last is the paper's Table I: what merging keeps of the backbone's score where all keep the same number of tokens.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from harness.analysis import curves, means
from harness.analysis.cells import mean_at, mean_link_s, times_and_known
from harness.analysis.curves import Ladder
from harness.analysis.latency import UPLINK
from harness.analysis.means import Estimate
from harness.analysis.select import Scores
from harness.analysis.setting import Floats, Setting, Timed, ratio_of, strata, timed_apart
from harness.errors import ResultsError
from harness.records import PointKey
from harness.replay.profile import Profile
from harness.scenario.replay import ConstantUplink
from harness.units import format_bytes, format_percent, format_seconds

if TYPE_CHECKING:
    from pandas.core.groupby import DataFrameGroupBy


def first_answers(numbers: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Who answers first at each uplink, and how many times as long each other scheme takes.

    ``numbers`` are :attr:`harness.analysis.Analysis.numbers`; every scheme that was replayed at its selected point
    takes part, one that sends nothing as well. A row each, by uplink (rates upwards, then by users) and mean: the
    uplink's columns, ``pipeline``, ``point``, ``total_mean_s`` with its ``total_source``, ``first``, the pipeline of
    the least mean, and ``ratio``, ``ratio_low``, ``ratio_high``, the scheme's mean over that one's, within rounds
    (:func:`harness.analysis.means.ratio_within_rounds`). The interval is null, and ``reason`` says why, where requests
    may meet (:meth:`harness.analysis.setting.Setting.met`) or the two were not timed on the same pictures.
    """
    columns = [*UPLINK, "pipeline", "point", "total_mean_s", "total_source"]
    found = []
    for _, rows in _replayed(numbers):
        if (timed := rows[rows["total_mean_s"].notna()]).empty:
            continue
        ranked = timed.sort_values("total_mean_s", kind="stable")
        first = ranked.iloc[0]
        for _, row in ranked.iterrows():
            own = row["pipeline"] == first["pipeline"]
            ratio = Estimate(1.0, 1.0, 1.0) if own else _ratio(row, first, setting)
            ends = dict(zip(("ratio", "ratio_low", "ratio_high"), (ratio.value, ratio.low, ratio.high), strict=True))
            found.append({**row[columns], "first": first["pipeline"], **ends, "reason": ratio.reason})
    return pd.DataFrame(found, columns=[*columns, "first", "ratio", "ratio_low", "ratio_high", "reason"])


def _ratio(row: "pd.Series[Any]", first: "pd.Series[Any]", setting: Setting) -> Estimate:
    plain = float(row["total_mean_s"] / first["total_mean_s"])
    cell = {"channel": row["channel"], "users": row["users"]}
    if reason := setting.met(cell):
        return Estimate(plain, math.nan, math.nan, reason)
    keys: list[PointKey] = [(str(r["pipeline"]), str(r["point"])) for r in (row, first)]
    profiles = [setting.profiles[key] for key in keys]
    if profiles[0].samples != profiles[1].samples:
        return Estimate(plain, math.nan, math.nan, "not timed on the same samples and repeats")
    uplink = setting.uplink(str(row["channel"]))
    assert uplink is not None
    known_s = [times_and_known(p, setting.system, uplink, setting.population)[1] for p in profiles]
    timed = [setting.timed(key) for key in keys]
    stratum_S, stratum_N = strata(profiles[0], setting.population)
    return ratio_of(
        timed[0],
        timed[1],
        stratum_S,
        stratum_N,
        a_known=known_s[0],
        b_known=known_s[1],
        confidence=setting.confidence,
    )


def _replayed(numbers: pd.DataFrame) -> "DataFrameGroupBy[Any, Any]":
    """The rows of what was replayed, for each uplink and number of users in the order of the first scheme's rows."""
    return numbers[numbers["requests"] > 0].groupby(UPLINK, sort=False)


def first_sentences(first: pd.DataFrame, numbers: pd.DataFrame | None = None) -> list[str]:
    """:func:`first_answers` as a sentence for each uplink; none where nothing was timed.

    A lead without an interval is one ``by the means only``. With ``numbers``, those that :func:`first_answers` was made
    of, each sentence names the schemes that were replayed there and have no mean, and those whose mean leaves out
    requests that were never answered.
    """
    sentences = []
    at: dict[Any, pd.DataFrame] = dict(iter(first.groupby(UPLINK, sort=False)))
    replayed: dict[Any, pd.DataFrame] = {} if numbers is None else dict(iter(_replayed(numbers)))
    timeless = {cell: _timeless(rows) for cell, rows in replayed.items()}
    several_users = len({users for _, _, users in timeless or at}) > 1
    for cell in timeless or at:
        _, channel, n_users = cell
        where = f"{channel}, {n_users:.0f} user{'s' * (n_users > 1)}" if several_users else str(channel)
        without = timeless.get(cell, "")
        if cell not in at:
            sentences.append(f"{where}: no scheme has a time: {without}")
            continue
        rows, without = at[cell], without and f"; without a time: {without}"
        if some := _some_answered(replayed[cell]) if cell in replayed else "":
            without += f"; means of the answered requests only: {some}"
        leader, others = rows.iloc[0], rows.iloc[1:]
        mean = format_seconds(leader["total_mean_s"])
        if others.empty:
            sentences.append(f"{where}: only {leader['pipeline']} has a time there, {mean}{without}")
            continue
        apart = others["reason"].str.startswith(means.NOT_COMPARABLE)
        either = (others["ratio_low"] <= 1) & (others["ratio_high"] >= 1)
        open_ = others[either | apart]["pipeline"].tolist()
        names = " or ".join([str(leader["pipeline"]), *open_])
        listed = ", ".join(
            f"{row['pipeline']} {_times(row['ratio'])} {between(row['ratio_low'], row['ratio_high'], _times)}"
            for row in others.to_dict("records")
        )
        by_means = " by the means only" if (others["ratio_low"].isna() & ~apart).any() else ""
        leads = f"{names} answers first{by_means}, {mean}"
        if open_:
            leads = f"{names} answers first{by_means}, the interval leaves open which ({leader['pipeline']} {mean})"
        sentences.append(f"{where}: {leads}; times as long: {listed}{without}")
    return sentences


def _timeless(rows: pd.DataFrame) -> str:
    """The schemes of an uplink that have no mean, by why: ``jpeg, webp (unstable)``; empty where there is none."""
    absent: dict[str, list[str]] = {}
    for row in rows[rows["total_mean_s"].isna()].to_dict("records"):
        absent.setdefault(str(row["total_reason"]).partition(":")[0], []).append(str(row["pipeline"]))
    return ", ".join(f"{', '.join(pipelines)} ({reason})" for reason, pipelines in absent.items())


def _some_answered(rows: pd.DataFrame) -> str:
    """The schemes of an uplink that left requests unanswered: ``jpeg 89.9 %, webp 97.0 %``; empty where none did."""
    timed = rows[rows["total_mean_s"].notna() & (rows["total_done"] < rows["requests"])]
    shares = 100 * timed["total_done"] / timed["requests"]
    return ", ".join(f"{name} {share:.3g} %" for name, share in zip(timed["pipeline"], shares, strict=True))


def ladders(points: pd.DataFrame, scores: Scores) -> dict[tuple[str, str], Ladder]:
    """The curve of every ladder of two or more points that send something, by pipeline and ladder.

    ``points`` are :func:`harness.analysis.select.select`'s. Points of as many bytes are one, the first. Each benchmark
    is resampled separately, so that the one with the fewest clusters decides whether they are enough for intervals.
    """
    found = {}
    clusters = min(part.n_clusters for part in scores.parts)
    sent = points[points["payload_bytes"] > 0]
    several = sent.groupby("pipeline")["ladder"].nunique()
    for (pipeline, ladder), rungs in sent.groupby(["pipeline", "ladder"], sort=False):
        rungs = rungs.drop_duplicates("payload_bytes")
        if len(rungs) < 2:
            continue
        keys = [(str(pipeline), str(point)) for point in rungs["point"]]
        name = f"{pipeline} ({ladder})" if several[str(pipeline)] > 1 else str(pipeline)
        score_BP = np.column_stack([scores.resampled(key) for key in keys])
        found[str(pipeline), str(ladder)] = Ladder.fit(
            name, rungs["payload_bytes"], rungs["score"], score_BP, clusters=clusters
        )
    return found


def equal_scores(
    found: Mapping[tuple[str, str], Ladder], target: float, target_B: ArrayLike, confidence: float
) -> pd.DataFrame:
    """Each ladder against each later one of another scheme, at equal score and over all that both measured.

    A row a pair, ``test`` over ``anchor``: ``target``; ``test_bytes``, ``anchor_bytes`` and their ``ratio`` where both
    have that score (:func:`harness.analysis.curves.equal_score`), with ``_low`` and ``_high``; ``least`` and ``most``,
    the range of ratios over the scores that both reach (:func:`harness.analysis.curves.over_targets`); ``bd_score``,
    ``bd_rate`` with their ends and ``bd_rate_undefined``, the share of resamples; the classic ``bd_rate_pchip``,
    ``bd_score_pchip`` and those of Akima. Unbounded ends are infinite; what is refused is null with its ``reason``.
    """
    rows = []
    for (test_key, test), (anchor_key, anchor) in _pairs(found):
        at = curves.equal_score(anchor, test, target, target_B, confidence=confidence)
        ratios = [one.ratio.value for one in curves.over_targets(anchor, test, confidence=confidence) if not one.reason]
        rate, undefined = curves.bd_rate(anchor, test, confidence=confidence)
        gain = curves.bd_score(anchor, test, confidence=confidence)
        row: dict[str, Any] = {
            "test": test.name,
            "anchor": anchor.name,
            "test_pipeline": test_key[0],
            "anchor_pipeline": anchor_key[0],
            "target": target,
        }
        for name, estimate in (
            ("test_bytes", at.test_bytes),
            ("anchor_bytes", at.anchor_bytes),
            ("ratio", at.ratio),
            ("bd_score", gain),
            ("bd_rate", rate),
        ):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), _ends(estimate), strict=True))
        row |= {
            "least": min(ratios, default=math.nan),
            "most": max(ratios, default=math.nan),
            "bd_rate_undefined": undefined,
        }
        kinds: tuple[Literal["pchip", "akima"], ...] = ("pchip", "akima")
        for kind in kinds:
            classic = curves.bd_classic(anchor.payload_bytes, anchor.score, test.payload_bytes, test.score, kind=kind)
            row |= dict(zip((f"bd_rate_{kind}", f"bd_score_{kind}"), classic, strict=True))
        rows.append({**row, "reason": at.reason, "bd_rate_reason": rate.reason})
    return pd.DataFrame(rows, columns=_EQUAL_COLUMNS)


_EQUAL_COLUMNS = [
    "test", "anchor", "test_pipeline", "anchor_pipeline", "target",
    *(f"{name}{end}" for name in ("test_bytes", "anchor_bytes", "ratio", "bd_score", "bd_rate")
      for end in ("", "_low", "_high")),
    "least", "most", "bd_rate_undefined", "bd_rate_pchip", "bd_score_pchip", "bd_rate_akima", "bd_score_akima",
    "reason", "bd_rate_reason",
]  # fmt: skip


def latencies_at_equal_score(
    found: Mapping[tuple[str, str], Ladder],
    points: pd.DataFrame,
    setting: Setting,
    target: float,
    target_B: ArrayLike,
) -> pd.DataFrame:
    """T of each pair of ladders where both have the score ``target``, at each constant uplink.

    Link times are those of the payloads of all questions at each point (:func:`harness.analysis.cells.mean_link_s`),
    whatever the link's wire, the answer's way back, the questions' texts and a batch's window add.
    A row a pair and uplink: ``channel``, ``test``, ``anchor``, ``test_s``, ``anchor_s``, ``ratio`` with their ends, and
    ``reason`` (:func:`harness.analysis.curves.latency_at_equal_score`).
    """

    @functools.cache
    def links(ladder: tuple[str, str], label: str) -> Floats:
        keys, uplink = _keys(ladder, points), setting.uplink(label)
        assert uplink is not None
        return np.array(
            [mean_link_s(setting.profiles[key], setting.system, uplink, setting.population) for key in keys]
        )

    rows = []
    for uplink in setting.system.uplinks:
        if not setting.alone({"channel": uplink.label, "users": 1}) or 1 not in setting.system.users:
            continue
        for (test_key, test), (anchor_key, anchor) in _pairs(found):
            timed = [_timed(key, one, points, setting) for key, one in ((anchor_key, anchor), (test_key, test))]
            if reason := _not_together(timed[0], timed[1]):
                refused = Estimate(math.nan, math.nan, math.nan, reason)
                estimates = (refused, refused, refused)
            else:
                stratum_S, stratum_N = strata(setting.profiles[_keys(anchor_key, points)[0]], setting.population)
                level_BP = _level_errors([*timed[0], *timed[1]], stratum_S, stratum_N, np.asarray(target_B).size)
                at_P, test_at_P = ([_means(one, stratum_S, stratum_N) for one in of_one] for of_one in timed)
                estimates = curves.latency_at_equal_score(
                    anchor,
                    test,
                    target,
                    target_B,
                    anchor_link_P=links(anchor_key, uplink.label),
                    test_link_P=links(test_key, uplink.label),
                    anchor_timed_SP=np.column_stack(at_P),
                    test_timed_SP=np.column_stack(test_at_P),
                    level_BPs=(level_BP[:, : len(timed[0])], level_BP[:, len(timed[0]) :]),
                    confidence=setting.confidence,
                )
            row: dict[str, Any] = {"channel": uplink.label, "test": test.name, "anchor": anchor.name}
            for name, estimate in zip(("anchor_s", "test_s", "ratio"), estimates, strict=True):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), _ends(estimate), strict=True))
            rows.append({**row, "reason": estimates[2].reason})
    ends = [f"{name}{end}" for name in ("test_s", "anchor_s", "ratio") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["channel", "test", "anchor", *ends, "reason"])


def _keys(ladder: tuple[str, str], points: pd.DataFrame) -> list[PointKey]:
    """The points of a ladder that send something, by their bytes upwards."""
    rungs = points[(points["pipeline"] == ladder[0]) & (points["ladder"] == ladder[1]) & (points["payload_bytes"] > 0)]
    rungs = rungs.drop_duplicates("payload_bytes").sort_values("payload_bytes")
    return [(ladder[0], str(point)) for point in rungs["point"]]


def _timed(key: tuple[str, str], ladder: Ladder, points: pd.DataFrame, setting: Setting) -> list[Timed]:
    """Each point of a ladder as it was timed, by its bytes upwards; none if some point was timed differently."""
    keys = _keys(key, points)
    if any(key not in setting.profiles for key in keys) or len(keys) != ladder.score.size:
        return []
    try:
        timed = [setting.timed(key) for key in keys]
    except ResultsError:
        return []
    return timed if all(one.samples == timed[0].samples for one in timed) else []


def _not_together(one: Sequence[Timed], other: Sequence[Timed]) -> str:
    """Why two ladders' times cannot be compared; empty where they can."""
    if not one or not other or one[0].samples != other[0].samples:
        return "not timed on the same samples and repeats"
    if reason := means.too_few(len(one[0].samples)):
        return reason
    of_apart = (means.apart(one[0].start_R, timed.start_R) for timed in (*one, *other) if timed_apart(one[0], timed))
    return next(filter(None, of_apart), "")


def _means(timed: Timed, stratum_S: ArrayLike | None, stratum_N: ArrayLike | None) -> Floats:
    """The pictures' mean times, (S,), moved so that their mean is that of the benchmark."""
    total_SR = timed.total_SR
    moved_s = means.split_mean(total_SR, [total_SR], stratum_S, stratum_N)[0] - total_SR.mean()
    return np.asarray(total_SR.mean(axis=1) + moved_s)


def _level_errors(
    timed: Sequence[Timed], stratum_S: ArrayLike | None, stratum_N: ArrayLike | None, n_resamples: int
) -> Floats:
    """By how much the level of each point's times is off in each resample, in logs, (B, P).

    Points that were timed in the same rounds share what is drawn of these.
    """
    rng, groups, found = np.random.default_rng(1), list[tuple[Timed, Floats]](), []
    for one in timed:
        shift_U = means.level_shifts(one.total_SR, stratum_S, stratum_N, start_R=one.start_R)
        error_BU = next((error_BU for first, error_BU in groups if not timed_apart(first, one)), None)
        if error_BU is None or error_BU.shape[1] != shift_U.size:
            error_BU = curves.joint_errors(rng, n_resamples, shift_U.size)
            groups.append((one, error_BU))
        found.append(error_BU @ shift_U)
    return np.column_stack(found)


def _pairs(
    found: Mapping[tuple[str, str], Ladder],
) -> Iterable[tuple[tuple[tuple[str, str], Ladder], tuple[tuple[str, str], Ladder]]]:
    """Every two ladders of different schemes, the scenario's earlier one first."""
    listed = list(found.items())
    return [
        (one, other) for place, one in enumerate(listed) for other in listed[place + 1 :] if one[0][0] != other[0][0]
    ]


def bytes_sentence(pairs: pd.DataFrame, share: float, reference: str) -> str:
    """Bytes at equal score of the first scheme over the others', with intervals, from :func:`equal_scores`.

    Of a scheme with several ladders the one with the fewest bytes there. Empty where there is no pair.
    """
    if pairs.empty:
        return ""
    head = f"bytes at {format_percent(share)} of {reference}'s score, by curves"
    first = pairs["test_pipeline"].iloc[0]
    mine = pairs[pairs["test_pipeline"] == first]
    said = mine[mine["reason"] == ""]
    if said.empty:
        return f"{head}: refused; {mine['reason'].iloc[0]}"
    best = said.loc[said["test_bytes"].idxmin(), "test"]
    said = said[said["test"] == best]
    said = said.loc[said.groupby("anchor_pipeline", sort=False)["anchor_bytes"].idxmin()]
    listed = ", ".join(
        f"{row.ratio:.2f} {between(row.ratio_low, row.ratio_high, '{:.2f}'.format)} of {row.anchor}'s"
        for row in said.itertuples()
    )
    lead = said.iloc[0]
    ends = between(lead["test_bytes_low"], lead["test_bytes_high"], format_bytes)
    spans = f"{format_bytes(lead['test_bytes'])} {ends}"
    others = sorted(set(mine["anchor_pipeline"]) - set(said["anchor_pipeline"]))
    refused = f"; none for {', '.join(others)} (see comparison.md)" if others else ""
    return f"{head}: {best} sends {spans}, {listed}{refused}"


def scores_at_tokens(points: pd.DataFrame) -> pd.DataFrame:
    """The best score of each pipeline with each mean number of visual tokens, over the reference's score.

    A pipeline may have several points with as many tokens, of different payloads: the best of them counts, so that it
    is merging that is compared. Null where a pipeline has no such point.
    """
    tokens = points["visual_tokens"].round(1)
    best = points.assign(tokens=tokens).groupby(["pipeline", "tokens"], sort=False)["relative_score"].max().unstack()
    return best.reindex(points["pipeline"].drop_duplicates()).sort_index(axis=1, ascending=False)


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def between(low: float, high: float, form: Callable[[float], str]) -> str:
    """``[1.2, 1.5]``; an end that is unbounded says so, and of a ratio both that are."""
    if math.isnan(low):
        return "(no interval)"
    if low <= 0 and high == math.inf:
        return "(unbounded both ways)"
    return f"[{form(low) if math.isfinite(low) else 'unbounded'}, {form(high) if math.isfinite(high) else 'unbounded'}]"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def crossovers(profiles: Sequence[Profile], setting: Setting) -> pd.DataFrame:
    """Every rate at which two schemes change places: :func:`harness.analysis.crossings.crossover`.

    Between the slowest and the fastest constant uplink of the setting's system that have the slowest one's wire, for
    one user. A row each with ``below`` and ``above``, the schemes that answer first on either side, ``rate_bps`` with
    ``rate_low_bps`` and ``rate_high_bps`` (0 and infinite beyond the rates looked at, null where there is none),
    ``mean_s``, the latency there, and ``leads``, whether no other scheme answers faster there. Empty where the system
    has fewer than two such uplinks.
    """
    from harness.analysis import crossings

    constant = sorted((u for u in setting.system.uplinks if isinstance(u, ConstantUplink)), key=lambda u: u.rate_bps)
    uplinks = [uplink for uplink in constant if uplink.wire == constant[0].wire]
    columns = ["below", "above", "rate_bps", "rate_low_bps", "rate_high_bps", "mean_s", "leads", "reason"]
    rows = []
    pairs = itertools.combinations(profiles, 2) if len(uplinks) > 1 else ()
    ends_s = functools.cache(lambda profile: [mean_at(profile, setting, uplinks[end]) for end in (0, -1)])
    for one, two in pairs:
        # A scheme that is ahead at both ends is ahead throughout: T is a + b / rate.
        slow_s, fast_s = (a_s - b_s for a_s, b_s in zip(ends_s(one), ends_s(two), strict=True))
        if one.samples != two.samples or slow_s * fast_s >= 0:
            continue
        wire = uplinks[0].wire
        found = crossings.crossover(
            one,
            two,
            setting.system,
            low_bps=uplinks[0].rate_bps,
            high_bps=uplinks[-1].rate_bps,
            confidence=setting.confidence,
            wire=wire,
            population=setting.population,
        )
        if (rate := found.rate_bps) is None:
            continue
        below = str(found.faster_below)
        above = two.pipeline if below == one.pipeline else one.pipeline
        at = ConstantUplink.model_construct(kind="constant", rate_bps=rate.value, name="", wire=wire)
        mean_s = mean_at(one, setting, at)
        leads = all(mean_at(other, setting, at) >= mean_s for other in profiles if other not in (one, two))
        row = (below, above, rate.value, rate.low, rate.high, mean_s, leads, rate.reason)
        rows.append(dict(zip(columns, row, strict=True)))
    return pd.DataFrame(rows, columns=columns)
