"""Cells of a calibration: admission of points, and what holds at equal score, on made-up answers.

Part of :mod:`benchmarks.bench_calibration`, which prints what each claims.

    C pictures of a score   P points   B resamples
"""

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np
import scipy.special
import scipy.stats

from benchmarks.calibrated_times import lognormal
from benchmarks.resumable import Cell
from benchmarks.tally import Counts, line, share
from harness.analysis import curves, selection
from harness.analysis.means import Floats

THETA = 0.87
RESAMPLES = 500


def scores(rng: np.random.Generator, chance: Floats, n: int, alike: float = 0.85) -> Floats:
    """Whether each of n questions is right (C, P), alike: the correlation of what decides it between points."""
    difficulty = alike * rng.normal(size=(n, 1)) + math.sqrt(1 - alike**2) * rng.normal(size=(n, chance.size))
    return (difficulty < scipy.special.ndtri(chance)).astype(float)


def cells_of_selection() -> Iterator[Cell]:
    """Admission of points that score exactly t - m of the reference: any of them is one too many."""
    for n in (40, 160, 765):
        for shape in ((1,), (5,), (8,), (4, 4)):
            ladders = f"{len(shape)} ladder{'s' * (len(shape) > 1)}"
            what = f"admission: {sum(shape)} points in {ladders}, {n} pictures"
            study = functools.partial(_study_of_selection, n, shape)
            lines = functools.partial(_lines_of_selection, what)
            yield Cell(section="selection", name=what, study=study, lines=lines, times=10)


def _study_of_selection(n: int, shape: tuple[int, ...], number: int, counts: Counts) -> None:
    rng = np.random.default_rng([6, n, *shape, number])
    points, s_0 = sum(shape), 0.7
    right = scores(rng, np.r_[np.full(points, THETA * s_0), s_0], n)
    counts.sums["admitted"] += _any_admitted(right, shape)
    if number % 10 == 0:
        counts.sums["better"] += 1
        better = scores(rng, np.r_[np.full(points, 0.97 * s_0), s_0], n)
        counts.sums["better admitted"] += _any_admitted(better, shape)
    if number % 40 == 0:
        counts.sums["before"] += 1
        score_B = rng.multinomial(n, np.full(n, 1 / n), size=400) @ right
        contrast = score_B[:, :-1] - THETA * score_B[:, -1:]
        counts.sums["before admitted"] += bool((np.quantile(contrast, 0.05, axis=0) >= 0).any())


def _lines_of_selection(what: str, counts: Counts, studies: int) -> Iterable[str]:
    sums = counts.sums
    yield line(
        what,
        "<= 5 %",
        share(sums["admitted"], studies),
        f"{100 * sums['before admitted'] / sums['before']:.1f} %",
        f"power at 97 % of the reference {100 * sums['better admitted'] / sums['better']:.0f} %",
    )


def _any_admitted(right: Floats, shape: tuple[int, ...]) -> bool:
    ladders: dict[Hashable, list[tuple[Hashable, Floats]]] = {}
    place = 0
    for ladder, size in enumerate(shape):
        ladders[ladder] = [(point, right[:, point]) for point in range(place, place + size)]
        place += size
    return any(found.admitted for found in selection.admit(ladders, right[:, -1], theta=THETA))


CURVES: dict[str, Callable[[Floats], Floats]] = {
    "logistic": lambda x: 0.25 + 0.5 / (1 + np.exp(-1.6 * x)),
    "saturation": lambda x: 0.78 - 0.25 * np.exp(-0.9 * x),
}
"""The score of a ladder over the log of its bytes."""

LOG_BYTES, START = np.log(np.geomspace(2500, 16_000, 4)), math.log(3500)
TIMES, S_0, _RATE_BPS = 1.8, 0.78, 400e3
_BASE_S = np.array([0.20, 0.22, 0.24, 0.26])


def cells_of_curves() -> Iterator[Cell]:
    """At equal score: bytes, latency, BD-score and BD-rate of two ladders whose true ratio of bytes is 1.8."""
    for name in CURVES:
        for n in (160, 765):
            study, lines = functools.partial(_study_of_curves, name, n), functools.partial(_lines_of_curves, name, n)
            times = 0.5 if n > 500 else 1.0
            yield Cell(section="curves", name=f"{name}, {n} pictures", study=study, lines=lines, times=times, least=20)


@functools.cache
def _truths_of_curves(name: str) -> dict[str, float]:
    truth, target = CURVES[name], THETA * S_0
    fine = np.linspace(LOG_BYTES[0], LOG_BYTES[-1], 20_001)
    bytes_ = math.exp(fine[np.abs(truth(fine - START) - target).argmin()])
    common = np.linspace(LOG_BYTES[0] + math.log(TIMES), LOG_BYTES[-1], 2001)
    gain = float((truth(common - START - math.log(TIMES)) - truth(common - START)).mean())
    along = (math.log(bytes_) - LOG_BYTES[0]) / (LOG_BYTES[-1] - LOG_BYTES[0])
    timed_s = 0.20 + 0.06 * along
    latency = (timed_s * 1.5 + 8 * TIMES * bytes_ / _RATE_BPS) / (timed_s + 8 * bytes_ / _RATE_BPS)
    return {
        "bytes": bytes_,
        "ratio of bytes": TIMES,
        "ratio of latencies": latency,
        "BD-score": gain,
        "BD-rate": TIMES - 1,
    }


def _study_of_curves(name: str, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([7, n, len(name), number])
    truth = CURVES[name](LOG_BYTES - START)
    right = scores(rng, np.r_[truth, truth, S_0], n)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    score, score_B = right.mean(axis=0), weights @ right
    a = curves.Ladder.fit("a", np.exp(LOG_BYTES), score[:4], score_B[:, :4])
    b = curves.Ladder.fit("b", TIMES * np.exp(LOG_BYTES), score[4:8], score_B[:, 4:8])
    wanted, wanted_B = THETA * float(score[-1]), THETA * score_B[:, -1]
    equal = curves.equal_score(a, b, wanted, wanted_B)
    common_S = lognormal(rng, 0.2, (12, 1))
    timed_SP = _BASE_S * common_S * lognormal(rng, 0.05, (12, 4))
    other_SP = 1.5 * _BASE_S * common_S * lognormal(rng, 0.05, (12, 4))
    link_P = 8 * np.exp(LOG_BYTES) / _RATE_BPS
    latencies = curves.latency_at_equal_score(
        a, b, wanted, wanted_B,
        anchor_link_P=link_P, test_link_P=TIMES * link_P, anchor_timed_SP=timed_SP, test_timed_SP=other_SP,
    )  # fmt: skip
    found = {
        "bytes": equal.anchor_bytes,
        "ratio of bytes": equal.ratio,
        "ratio of latencies": latencies[2],
        "BD-score": curves.bd_score(a, b),
        "BD-rate": curves.bd_rate(a, b)[0],
    }
    for claim, true in _truths_of_curves(name).items():
        counts[claim].add(found[claim], true, down_to_nothing="BD" in claim)


def _lines_of_curves(name: str, n: int, counts: Counts, _studies: int) -> Iterable[str]:
    for claim in _truths_of_curves(name):
        at = "" if "BD" in claim else " at equal score"
        yield line(f"{claim}{at}: {name}, {n} pictures", "95 %", counts[claim])
