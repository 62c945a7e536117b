"""What intervals and tests claim against what they do, on seeded studies whose truth is known.

    python -m benchmarks.bench_calibration [--quick] [--only means,ratios,...] [--processes 2]

Each line is a cell: the claim, how often the truth was inside (or a point was admitted) with its Monte Carlo error, the
mean relative width of the interval, and the same of the method that was there before, on the same studies.

What is finished is in ``build/calibration.jsonl``: repeat the command to resume. How long all takes is said on standard
error once a hundredth of every cell is made.

    S pictures   R rounds   C pictures of a score   B resamples
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy.special
import scipy.stats

from benchmarks import calibrated_rows, resumable
from benchmarks.resumable import Cell
from benchmarks.tally import Counts, line, share
from harness import replay
from harness.analysis import curves, energy, means, percentiles, precision, selection
from harness.analysis.latency import total_s
from harness.analysis.means import Estimate, Floats
from harness.analysis.whatif import mean, replicated
from harness.runs import digests, provenance
from harness.scenario.replay import Replay

TILES = np.repeat([3, 4, 5, 7, 10], [120, 100, 80, 60, 40]).astype(float)
"""Tile counts of a benchmark of 400 pictures."""

THETA = 0.87
RESAMPLES = 500


def lognormal(rng: np.random.Generator, sigma: float, shape: tuple[int, ...]) -> Floats:
    """Log-normal values of mean 1."""
    return np.asarray(np.exp(sigma * rng.normal(size=shape) - sigma**2 / 2))


def bootstrap(rng: np.random.Generator, of_pictures: Floats) -> Estimate:
    """The method that was there before: the percentile bootstrap of pictures."""
    n = of_pictures.size
    drawn = of_pictures[rng.integers(n, size=(400, n))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(of_pictures.mean()), float(low), float(high))


KINDS = (
    "normal",
    "log-normal 0.25",
    "log-normal 0.5",
    "tiles",
    "tiles squared",
    "tiles, 10 % drift",
    "tiles, 10 % trend",
    "log-normal 1",
    "5 % thrice as slow",
)


def timed(
    rng: np.random.Generator, kind: str, n: int, rounds: int, *, by_strata: bool = True
) -> tuple[Floats, Floats, float]:
    """Times (S, R) of a scheme, the pictures' tiles, and the benchmark's true mean."""
    seed = int(rng.integers(2**62))
    tiles = TILES[means.draw_by_strata(TILES, n, seed) if by_strata else rng.permutation(TILES.size)[:n]]
    truth = 1.0
    if kind.startswith("tiles"):
        power = 2 if kind == "tiles squared" else 1
        base, truth = (0.1 + 0.1 * tiles**power) * lognormal(rng, 0.1, (n,)), float((0.1 + 0.1 * TILES**power).mean())
    elif kind.startswith("log-normal"):
        base = lognormal(rng, float(kind.split()[1]), (n,))
    else:
        base = 1 + 0.2 * rng.normal(size=n).clip(-4, 4)
    times = base[:, None] * lognormal(rng, 0.1, (n, rounds))
    if kind.endswith("drift"):
        times = times * (1 + 0.1 * rng.normal(size=rounds).clip(-4, 4))
    elif kind.endswith("trend"):
        times = times * np.linspace(0.95, 1.05, rounds)
    elif kind.startswith("5 %"):
        times, truth = np.where(rng.random((n, rounds)) < 0.05, 3 * times, times), 1.1
    return times, tiles, truth


def cells_of_means() -> Iterator[Cell]:
    """Means of the latency: :func:`harness.analysis.means.mean_latency`."""
    for kind in KINDS:
        for n in (6, 12, 40):
            rounds = 6 if kind.endswith(("drift", "trend")) else 3
            what = f"mean: {kind}, {n} pictures x {rounds} rounds"
            study = functools.partial(_study_of_means, kind, n, rounds)
            yield Cell(section="means", name=what, study=study, lines=functools.partial(_lines_of_means, what))


def _study_of_means(kind: str, n: int, rounds: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([1, KINDS.index(kind), n, number])
    times, tiles, truth = timed(rng, kind, n, rounds)
    counts["now"].add(means.mean_latency(times, tiles, TILES), truth)
    counts["before"].add(bootstrap(rng, timed(rng, kind, n, rounds, by_strata=False)[0].mean(axis=1)), truth)
    counts.sums["warned"] += bool(means.skew_warning(times, tiles))


def _lines_of_means(what: str, counts: Counts, studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], f"warned {counts.sums['warned'] / studies:.0%}")


def cells_of_ratios() -> Iterator[Cell]:
    """Ratios and differences of two schemes within rounds; a crossover's rate is covered where the difference is."""
    for n in (6, 12, 40):
        study, lines = functools.partial(_study_of_ratios, n), functools.partial(_lines_of_ratios, n)
        yield Cell(section="ratios", name=f"{n} pictures", study=study, lines=lines)


def _study_of_ratios(n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([2, n, number])
    times, tiles, truth = timed(rng, "tiles", n, 6)
    other = (0.6 * tiles[:, None] * 0.1 + 0.3) * lognormal(rng, 0.1, (n, 1)) * lognormal(rng, 0.1, (n, 6))
    other_truth = float((0.06 * TILES + 0.3).mean())
    drift = 1 + 0.1 * rng.normal(size=6).clip(-4, 4)
    times, met = times * drift, other * drift
    counts["ratio"].add(means.ratio_within_rounds(met, times, tiles, TILES), other_truth / truth)
    linked = (other_truth + 0.4) / (truth + 0.2)
    with_links = means.ratio_within_rounds(met, times, tiles, TILES, a_known=0.4, b_known=0.2)
    counts["with links"].add(with_links, linked)
    resampled = rng.integers(n, size=(400, n))
    ratios = met.mean(axis=1)[resampled].mean(axis=1) / times.mean(axis=1)[resampled].mean(axis=1)
    counts["before"].add(Estimate(1.0, *np.quantile(ratios, [0.025, 0.975])), other_truth / truth)
    # The rate at which both answer alike: T_a - T_b = 0 with 8 (B_a - B_b) / rate of link time.
    bytes_a = 9000 * lognormal(rng, 0.3, (n,))
    quiet, tiles, _ = timed(rng, "tiles", n, 3)
    quick = 0.4 * lognormal(rng, 0.2, (n, 1)) * lognormal(rng, 0.1, (n, 3))
    rate = 8 * 9000 / (0.1 + 0.1 * TILES.mean() + 0.3 - 0.4)
    linked_times = quick + 8 * bytes_a[:, None] / rate
    counts["crossing"].add(means.difference_within_rounds(linked_times, quiet + 0.3, tiles, TILES), 0.0)


def _lines_of_ratios(n: int, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(f"ratio within rounds: {n} pictures x 6 rounds, 10 % drift", "95 %", counts["ratio"], counts["before"])
    yield line(f"  the same, links added: {n} pictures", "95 %", counts["with links"])
    without_width = str(counts["crossing"]).split("  width", maxsplit=1)[0]
    yield line(f"crossover (difference holds 0): {n} x 3", "95 %", without_width)


def cells_of_apart() -> Iterator[Cell]:
    """Ratios of schemes that were timed in different starts of the process, whose levels scatter."""
    for restart in (0.0, 0.05, 0.1):
        for starts in (3, 4, 8):
            for n in (6, 12, 40):
                what = f"ratio, timed apart: {restart:.0%} over {starts} starts, {n} pictures"
                study = functools.partial(_study_of_apart, restart, starts, n)
                yield Cell(section="apart", name=what, study=study, lines=functools.partial(_lines_of_apart, what))


def _study_of_apart(restart: float, starts: int, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([10, round(100 * restart), starts, n, number])
    start_R = np.repeat(np.arange(starts), 2)
    times, tiles, truth = timed(rng, "tiles", n, start_R.size)
    other = (0.06 * tiles[:, None] + 0.3) * lognormal(rng, 0.1, (n, 1)) * lognormal(rng, 0.1, (n, start_R.size))
    other_truth = float((0.06 * TILES + 0.3).mean())
    level_R, other_level_R = (1 + restart * rng.normal(size=(2, starts)).clip(-4, 4))[:, start_R]
    times, other = times * level_R, other * other_level_R
    found = means.ratio_within_rounds(other, times, tiles, TILES, start_R=start_R, b_start_R=starts + start_R)
    counts["now"].add(found, other_truth / truth)
    counts["before"].add(means.ratio_within_rounds(other, times, tiles, TILES), other_truth / truth)


def _lines_of_apart(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], "as if within rounds")


FEW = ("Student over samples", "post-stratified", "line on tiles", "regression")
"""How a mean of few pictures can be made: the line differs from the regression in how its scatter is taken."""


def cells_of_few() -> Iterator[Cell]:
    """Means of few pictures by each rule that there is: which of them covers."""
    for kind in ("normal", "log-normal 0.25", "log-normal 0.5", "tiles", "tiles squared", "tiles, 10 % drift"):
        for n in (6, 8, 11, 12):
            study, lines = functools.partial(_study_of_few, kind, n), functools.partial(_lines_of_few, kind, n)
            yield Cell(section="few", name=f"{kind}, {n} pictures", study=study, lines=lines)


def _study_of_few(kind: str, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([11, KINDS.index(kind), n, number])
    times, tiles, truth = timed(rng, kind, n, 6 if kind.endswith("drift") else 3)
    counts["Student over samples"].add(means.mean_latency(times), truth)
    counts["post-stratified"].add(means.mean_latency(times, tiles, TILES, method="strata"), truth)
    counts["line on tiles"].add(means.mean_latency(times, tiles, TILES, method="line"), truth)
    counts["regression"].add(means.mean_latency(times, tiles, TILES, method="regression"), truth)


def _lines_of_few(kind: str, n: int, counts: Counts, _studies: int) -> Iterable[str]:
    for rule in FEW:
        yield line(f"{rule}: {kind}, {n} pictures", "95 %", counts[rule])


def cells_of_percentiles() -> Iterator[Cell]:
    """Percentiles and shares by pictures."""
    for between, within in ((0.3, 0.1), (0.1, 0.3)):
        for p, sizes in ((0.5, (12, 40)), (0.9, (80,)), (0.99, (700,))):
            for n in sizes:
                what = f"p{100 * p:g}: {n} pictures x 3, sigma {between} and {within}"
                study = functools.partial(_study_of_percentiles, between, within, p, n)
                lines = functools.partial(_lines_of_percentiles, what)
                times = 1.0 if n < 500 else 0.25
                yield Cell(section="percentiles", name=what, study=study, lines=lines, times=times)
    for p in (0.5, 0.9):
        for n in (6, 12, 40):
            what = f"share within a deadline, {p:.0%}: {n} pictures x 3"
            study = functools.partial(_study_of_shares, p, n)
            yield Cell(section="percentiles", name=what, study=study, lines=functools.partial(_lines_of_shares, what))


def _study_of_percentiles(between: float, within: float, p: float, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([3, n, round(100 * between), number])
    truth = math.exp(math.hypot(between, within) * float(scipy.stats.norm.ppf(p)))
    times = np.exp(between * rng.normal(size=(n, 1)) + within * rng.normal(size=(n, 3)))
    counts["now"].add(percentiles.percentile(times, p).estimate, truth)
    ranked, size = np.sort(times, axis=None), times.size
    low, high = np.asarray(scipy.stats.binom.ppf([0.025, 0.975], size, p)).astype(int)
    counts["before"].add(Estimate(1.0, ranked[max(low - 1, 0)], ranked[min(high, size - 1)]), truth)


def _lines_of_percentiles(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], "by requests")


def _study_of_shares(p: float, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([4, n, round(100 * p), number])
    deadline = math.exp(math.hypot(0.3, 0.1) * float(scipy.stats.norm.ppf(p)))
    times = np.exp(0.3 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 3)))
    counts["now"].add(percentiles.share(times <= deadline).estimate, p)


def _lines_of_shares(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], note="discrete")


def cells_of_queues() -> Iterator[Cell]:
    """Means of a system with a queue (advise, max-users): Pollaczek and Khinchine's is the truth."""
    for n in (6, 12, 40):
        what = f"mean with a queue at utilisation 0.5: {n} pictures"
        study, lines = functools.partial(_study_of_queues, n), functools.partial(_lines_of_queues, what)
        yield Cell(section="queues", name=what, study=study, lines=lines, times=0.1, least=20)


def _study_of_queues(n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([5, n, number])
    sigma, service, rho = 0.3, 0.1, 0.5
    rate = rho / service
    truth = service + rate * service**2 * math.exp(sigma**2) / (2 * (1 - rho))
    server_s = (service * lognormal(rng, sigma, (n, 1)) * np.ones((n, 3))).ravel()
    nothing = np.zeros(3 * n)
    profile = replay.Profile(
        pipeline="scheme",
        point="-",
        samples=tuple(f"s{i // 3:03}" for i in range(3 * n)),
        payload_bytes=nothing.astype(np.int64),
        device_s=nothing,
        server_stages=("prefill",),
        server_stage_s=server_s[:, None],
    )
    parts = {"uplinks": [{"kind": "constant", "rate": "1 GB/s"}], "requests": 2000}
    spec = Replay.model_validate({**parts, "arrivals": {"kind": "poisson", "rate": f"{rate} /s"}})
    cell = replay.Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=int(rng.integers(2**31)))
    counts["now"].add(replicated(profile, cell, mean), truth)
    seeds = [dataclasses.replace(cell, seed=cell.seed + 100 + seed) for seed in range(20)]
    spent_s = [mean(total_s(replay.replay(profile, one))) for one in seeds]
    counts["before"].add(percentiles.over_replications(spent_s), truth)


def _lines_of_queues(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], "over seeds")


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

_LOG_BYTES, _START = np.log(np.geomspace(2500, 16_000, 4)), math.log(3500)
_TIMES, _S_0, _RATE_BPS = 1.8, 0.78, 400e3
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
    truth, target = CURVES[name], THETA * _S_0
    fine = np.linspace(_LOG_BYTES[0], _LOG_BYTES[-1], 20_001)
    bytes_ = math.exp(fine[np.abs(truth(fine - _START) - target).argmin()])
    common = np.linspace(_LOG_BYTES[0] + math.log(_TIMES), _LOG_BYTES[-1], 2001)
    gain = float((truth(common - _START - math.log(_TIMES)) - truth(common - _START)).mean())
    along = (math.log(bytes_) - _LOG_BYTES[0]) / (_LOG_BYTES[-1] - _LOG_BYTES[0])
    timed_s = 0.20 + 0.06 * along
    latency = (timed_s * 1.5 + 8 * _TIMES * bytes_ / _RATE_BPS) / (timed_s + 8 * bytes_ / _RATE_BPS)
    return {
        "bytes": bytes_,
        "ratio of bytes": _TIMES,
        "ratio of latencies": latency,
        "BD-score": gain,
        "BD-rate": _TIMES - 1,
    }


def _study_of_curves(name: str, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([7, n, len(name), number])
    truth = CURVES[name](_LOG_BYTES - _START)
    right = scores(rng, np.r_[truth, truth, _S_0], n)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    score, score_B = right.mean(axis=0), weights @ right
    a = curves.Ladder.fit("a", np.exp(_LOG_BYTES), score[:4], score_B[:, :4])
    b = curves.Ladder.fit("b", _TIMES * np.exp(_LOG_BYTES), score[4:8], score_B[:, 4:8])
    wanted, wanted_B = THETA * float(score[-1]), THETA * score_B[:, -1]
    equal = curves.equal_score(a, b, wanted, wanted_B)
    common_S = lognormal(rng, 0.2, (12, 1))
    timed_SP = _BASE_S * common_S * lognormal(rng, 0.05, (12, 4))
    other_SP = 1.5 * _BASE_S * common_S * lognormal(rng, 0.05, (12, 4))
    latencies = curves.latency_at_equal_score(
        a, b, wanted, wanted_B, rate_bps=_RATE_BPS, anchor_timed_SP=timed_SP, test_timed_SP=other_SP
    )
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


def cells_of_stopping() -> Iterator[Cell]:
    """Means after timing stopped when precise: :func:`harness.analysis.precision.look`."""
    for kind in ("normal", "log-normal 0.25", "log-normal 0.5", "tiles"):
        for wanted in (0.05, 0.1):
            what = f"mean, stopped at {wanted:.0%} or 200 pictures: {kind}"
            study = functools.partial(_study_of_stopping, kind, wanted)
            yield Cell(section="stopping", name=what, study=study, lines=functools.partial(_lines_of_stopping, what))


def _study_of_stopping(kind: str, wanted: float, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([8, KINDS.index(kind), round(100 * wanted), number])
    times, tiles, truth = timed(rng, kind, 200, 3)
    for n in precision.looks(200):
        found = precision.look(times[:n], tiles[:n], TILES, precision=wanted, at_most=200)
        if not found.go_on_to:
            break
    counts["now"].add(found.estimate, truth)
    counts.sums["reached"] += found.precise
    counts.sums["pictures"] += n


def _lines_of_stopping(what: str, counts: Counts, studies: int) -> Iterable[str]:
    note = f"reached {counts.sums['reached'] / studies:.0%}, {counts.sums['pictures'] / studies:.0f} pictures"
    yield line(what, "95 %", counts["now"], note=note)


def cells_of_energy() -> Iterator[Cell]:
    """Net joules of an answer over blocks: :func:`harness.analysis.energy.mean_of_blocks`."""
    for kind in ("5 % scatter", "log-normal 0.2", "idle power drifts", "warms up by 5 %"):
        for blocks in (3, 4, 8):
            what = f"net joules: {kind}, {blocks} blocks"
            study = functools.partial(_study_of_energy, kind, blocks)
            yield Cell(section="energy", name=what, study=study, lines=functools.partial(_lines_of_energy, what))


def _study_of_energy(kind: str, blocks: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([9, len(kind), blocks, number])
    idle_w = 10 + 0.2 * rng.normal(size=blocks)
    if kind == "idle power drifts":
        idle_w = idle_w + np.cumsum(0.1 * rng.normal(size=blocks))
    answer_j = 4 * (lognormal(rng, 0.2, (blocks,)) if "log" in kind else 1 + 0.05 * rng.normal(size=blocks))
    if kind.startswith("warms"):
        answer_j = answer_j * np.linspace(0.975, 1.025, blocks)
    requests = rng.integers(20, 30, blocks)
    energy_j = 30 * idle_w + answer_j * requests
    idle_j = 30 * (idle_w + 0.1 * rng.normal(size=blocks))
    counts["now"].add(energy.mean_of_blocks(((energy_j - idle_j) / requests).tolist()), 4.0)


def _lines_of_energy(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"])


SECTIONS: dict[str, Callable[[], Iterator[Cell]]] = {
    "means": cells_of_means,
    "ratios": cells_of_ratios,
    "apart": cells_of_apart,
    "few": cells_of_few,
    "percentiles": cells_of_percentiles,
    "queues": cells_of_queues,
    "selection": cells_of_selection,
    "curves": cells_of_curves,
    "stopping": cells_of_stopping,
    "energy": cells_of_energy,
    "scores": calibrated_rows.cells_of_scores,
    "rows": calibrated_rows.cells_of_rows,
    "restarts": calibrated_rows.cells_of_restarts,
    "equal-rows": calibrated_rows.cells_of_equal_rows,
    "stopped-rows": calibrated_rows.cells_of_stopped_rows,
    "users": calibrated_rows.cells_of_users,
}


def cells() -> Iterator[Cell]:
    """All cells, in the order in which they are printed."""
    for of_section in SECTIONS.values():
        yield from of_section()


def digest() -> str:
    """That of all that the counts depend on: the harness's code, this benchmark's, and the packages."""
    here = Path(__file__).parent
    own = [here / f"{name}.py" for name in ("bench_calibration", "calibrated_rows", "made_studies", "tally")]
    return digests.of_data([digests.of_code(), *map(digests.of_file, own), provenance.package_versions()])


def main() -> None:
    """Run the cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 studies a cell instead of 2,000")
    parser.add_argument("--only", default="", metavar="PARTS", help=", ".join(SECTIONS))
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="how many to use (1)")
    parser.add_argument(
        "--file", type=Path, default=Path(__file__).parents[1] / "build/calibration.jsonl",
        help="where finished pieces are (build/calibration.jsonl); those of other code are not read",
    )  # fmt: skip
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        sys.exit(f"--only {unknown[0]}: the parts are {', '.join(SECTIONS)}")
    if arguments.processes < 1:
        sys.exit(f"--processes {arguments.processes}: at least 1 is needed")
    studies = 100 if arguments.quick else 2000
    print(
        f"{studies} studies a cell (admission ten times that, queues and max-users a tenth, curves of 765 pictures and "
        "stopped rows a half, p99 a quarter); seeds are fixed",
        flush=True,
    )
    resumable.run(cells, wanted, studies, file=arguments.file, digest=digest(), processes=arguments.processes)


if __name__ == "__main__":
    main()
