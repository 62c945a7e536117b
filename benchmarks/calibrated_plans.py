"""Cells of a calibration: the numbers of pictures that ``harness plan`` prints, and what studies of that size reach.

Part of :mod:`benchmarks.bench_calibration`, which prints what each claims. The truth of a cell is the number that the
true variances need, in closed form for times, of a million pictures for scores.

    S pictures   R rounds   C pictures of a score
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.special
from numpy.typing import NDArray

from benchmarks.calibrated_scores import CURVES, LOG_BYTES, RESAMPLES, S_0, START, THETA, TIMES, scores
from benchmarks.calibrated_times import TILES, timed
from benchmarks.resumable import Cell
from benchmarks.tally import Counts, line, share
from harness.analysis import curves, means, planning, precision
from harness.analysis.means import Estimate, Floats
from harness.analysis.precision import Components

LATENCIES = {
    "normal": (0.05, 3),
    "log-normal 0.25": (0.05, 3),
    "log-normal 0.5": (0.1, 3),
    "tiles": (0.05, 3),
    "tiles, 8 rounds": (0.05, 8),
    "tiles, 10 % drift": (0.1, 6),
    "tiles, 5 % over 4 starts": (0.1, 8),
}
"""The kinds of times, the precision of a mean that is planned, and the rounds of the run that it is planned from."""

SCORES = {
    "a fifth differ": (1, (0.7, 0.78), 0.85),
    "one in thirty differs": (1, (0.78, 0.78), 0.995),
    "3 questions each": (3, (0.7, 0.78), 0.9),
    "pairs": (2, (0.7, 0.78), 0.9),
}
"""Questions a picture, the chances of the two schemes, and how far what decides an answer is shared by them."""

POINTS = 2.0
"""The points of score that are planned."""

_LARGEST = 20_000
"""The most pictures of a study of the planned size."""


def cells_of_plans() -> Iterator[Cell]:
    """Pictures that a latency and a score need: :mod:`harness.analysis.planning`."""
    for kind, (wanted, rounds) in LATENCIES.items():
        for n in (6, 12, 40):
            what = f"plan: {wanted:.0%} of a latency, {kind}, {n} pictures x {rounds}"
            study = functools.partial(study_of_latency, kind, n)
            yield Cell(section="plan", name=what, study=study, lines=functools.partial(_lines, what))
    for kind in SCORES:
        for n in (40, 80, 160):
            what = f"plan: {POINTS:g} points of score, {kind}, {n} pictures"
            study = functools.partial(study_of_score, kind, n)
            yield Cell(section="plan", name=what, study=study, lines=functools.partial(_lines, what))

    for kind in CURVES:
        for n in (160, 765):
            study, lines = functools.partial(study_of_bytes, kind, n), functools.partial(_lines_of_bytes, kind, n)
            yield Cell(section="plan", name=f"bytes, {kind}, {n} pictures", study=study, lines=lines, times=0.25)


def _share(hits: float, n: int) -> str:
    return share(hits, n).strip()


def _lines_of_bytes(kind: str, n: int, counts: Counts, _studies: int) -> Iterable[str]:
    sums = counts.sums
    said = sums["said"]
    note = f"a number in {(said - sums['unbounded']) / said:.0%} of {said:.0f}, true about {_true_of_bytes(kind):.0f}"
    within = _share(sums["within"], int(said))
    yield line(f"plan: 10% of the bytes, {kind}, {n} pictures", "none", f"{within} within a factor of 1.5", note=note)


def _lines(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    sums, needed = counts.sums, counts["needed"]
    planned = int(sums["planned"])
    none = f" (in {sums['none'] / planned:.0%} none do)" if sums["none"] else ""
    true = f"{sums['truth'] / max(planned - sums['none'], 1):.0f}{none}"
    note = f"true {true}, planned {math.exp(sums['log'] / planned):.0f}, reached by {_share(sums['reached'], planned)}"
    # Of the few that are bounded the truth may be infinite, and a width over it is none.
    rare = needed.unbounded > 0.99 * needed.n
    found = f"{re.split('  (?:width|unbounded)', str(needed))[0]}  unbounded 100%" if rare else needed
    yield line(what, "95 %", found, note=note)
    if "same drift" in counts.tallies:
        yield line("  the same, if rounds drift as in the run", "95 %", counts["same drift"])


def study_of_latency(kind: str, n: int, number: int, counts: Counts) -> None:
    """Plan from a run of ``n`` pictures, count whether its interval holds the true number, and time as many."""
    wanted, rounds = LATENCIES[kind]
    rng = np.random.default_rng([16, list(LATENCIES).index(kind), n, number])
    times, tiles, start_R = times_of(rng, kind, n, rounds)
    found = precision.components(times, tiles, TILES, start_R=start_R)
    planned = precision.plan_latency(found, wanted, at_least_rounds=means.MIN_ROUNDS)
    if not planned.pictures:
        counts["needed"].add(Estimate(math.nan, math.nan, math.nan), math.nan)
        return
    needed = planning.latency_needs(found, wanted, planned.rounds)
    true = true_components(kind, rounds)
    truth = precision.pictures_needed(true, wanted, planned.rounds) or math.inf
    counts["needed"].add(Estimate(needed.value, needed.low, needed.high), truth)
    same = planning.latency_needs(found, wanted, planned.rounds, same_drift=True)
    if_same = precision.pictures_needed(dataclasses.replace(true, drift=found.drift), wanted, planned.rounds)
    counts["same drift"].add(Estimate(same.value, same.low, same.high), if_same or math.inf)
    size = min(planned.pictures, _LARGEST)
    population = np.tile(TILES, math.ceil(size / TILES.size))
    again, tiles, start_R = times_of(rng, kind, size, planned.rounds, tiles_N=population)
    made = means.mean_latency(again, tiles, population, start_R=start_R)
    _count(counts, truth, planned.pictures, made.high <= made.value * (1 + wanted))


def study_of_score(kind: str, n: int, number: int, counts: Counts) -> None:
    """Plan from the answers to questions about ``n`` pictures, as :func:`study_of_latency` does."""
    rng = np.random.default_rng([17, list(SCORES).index(kind), n, number])
    needed = planning.score_needs(*parts(rng, kind, n), POINTS)
    truth = _true_pictures(kind)
    counts["needed"].add(Estimate(needed.value, needed.low, needed.high), truth)
    own_C, other_C = parts(rng, kind, int(needed.value))
    half = float(scipy.special.stdtrit(own_C.size - 1, 0.975) * (own_C - other_C).std(ddof=1) / math.sqrt(own_C.size))
    _count(counts, truth, needed.value, half <= POINTS)


def study_of_bytes(kind: str, n: int, number: int, counts: Counts) -> None:
    """Plan bytes at equal score from a study of ``n`` pictures: how often the number is within a factor of 1.5."""
    needed = _planned_of_bytes(np.random.default_rng([19, list(CURVES).index(kind), n, number]), kind, n)
    if math.isnan(needed):
        return
    counts.sums["said"] += 1
    counts.sums["unbounded"] += math.isinf(needed)
    counts.sums["within"] += abs(math.log(needed / _true_of_bytes(kind))) <= math.log(1.5)


def _planned_of_bytes(rng: np.random.Generator, kind: str, n: int) -> float:
    """The pictures that 10 % of the bytes of two ladders at equal score need; NaN where nothing is said of these."""
    truth = CURVES[kind](LOG_BYTES - START)
    right = scores(rng, np.r_[truth, truth, S_0], n)
    score, score_B = right.mean(axis=0), rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n @ right
    a = curves.Ladder.fit("a", np.exp(LOG_BYTES), score[:4], score_B[:, :4])
    b = curves.Ladder.fit("b", TIMES * np.exp(LOG_BYTES), score[4:8], score_B[:, 4:8])
    ratio = curves.equal_score(a, b, THETA * float(score[-1]), THETA * score_B[:, -1]).ratio
    return planning.bytes_need(ratio, n, 0.1)


@functools.cache
def _true_of_bytes(kind: str) -> float:
    """What studies need that are so large that their intervals are short: the median of 15 of 12,000 pictures."""
    rng = np.random.default_rng(20)
    return float(np.median([_planned_of_bytes(rng, kind, 12_000) for _ in range(15)]))


def _count(counts: Counts, truth: float, planned: float, reached: bool) -> None:
    counts.sums["planned"] += 1
    counts.sums["none"] += math.isinf(truth)
    counts.sums["truth"] += truth if math.isfinite(truth) else 0.0
    counts.sums["log"] += math.log(planned)
    counts.sums["reached"] += reached


def times_of(
    rng: np.random.Generator, kind: str, n: int, rounds: int, *, tiles_N: Floats = TILES
) -> tuple[Floats, Floats, NDArray[np.int64] | None]:
    """Times (S, R) of a kind, the pictures' tiles, and the process start of each round: two rounds in each."""
    times, tiles, _ = timed(rng, kind.partition(",")[0] if "drift" not in kind else kind, n, rounds, tiles_N=tiles_N)
    if not kind.endswith("starts"):
        return times, tiles, None
    start_R = np.minimum(np.arange(rounds) // 2, max(rounds // 2 - 1, 0))
    return times * (1 + 0.05 * rng.normal(size=rounds).clip(-4, 4))[start_R], tiles, start_R


@functools.cache
def true_components(kind: str, rounds: int) -> Components:
    """The variances that :func:`times_of` makes times of a kind with, relative to the mean."""
    scatter = math.expm1(0.1**2)
    picture, square, free = 0.2**2, 1.0, 1.0
    if kind.startswith("tiles"):
        size = (0.1 + 0.1 * TILES) / (0.1 + 0.1 * TILES).mean()
        square = float((size**2).mean())
        picture, free = square * scatter, square**2 / float((size**4).mean())
    elif kind.startswith("log-normal"):
        picture = math.expm1(float(kind.split()[1]) ** 2)
    drift, starts = 0.0, 4 if kind.endswith("starts") else 0
    if starts or kind.endswith("drift"):
        at = np.linspace(-4, 4, 8001)
        density = np.exp(-(at**2) / 2)
        log = np.log1p((0.05 if starts else 0.1) * at)
        drift = float(np.average((log - np.average(log, weights=density)) ** 2, weights=density))
    return Components(
        picture=picture, request=(square + picture) * scatter, drift=drift, pictures=TILES.size, rounds=rounds,
        spent=2, free=free, starts=starts,
    )  # fmt: skip


def parts(rng: np.random.Generator, kind: str, n: int) -> tuple[Floats, Floats]:
    """What each of ``n`` pictures adds to the scores of the two schemes, (C,): of pairs both answers count again."""
    questions, chance, alike = SCORES[kind]
    hard = math.sqrt(0.3) * rng.normal(size=(n, 1, 1)) + math.sqrt(0.7) * rng.normal(size=(n, questions, 1))
    mixed = alike * hard + math.sqrt(1 - alike**2) * rng.normal(size=(n, questions, 2))
    right = mixed < scipy.special.ndtri(chance)
    score = 100 * right.mean(axis=1) + (100 * right.all(axis=1) if kind == "pairs" else 0)
    return score[:, 0], score[:, 1]


@functools.cache
def _true_pictures(kind: str) -> int:
    one_C, other_C = parts(np.random.default_rng(18), kind, 1_000_000)
    return precision.pictures_for(float((one_C - other_C).var()) / POINTS**2)
