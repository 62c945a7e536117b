"""Cells of a calibration: intervals of times, shares, percentiles and joules, on arrays of made-up ones.

Part of :mod:`benchmarks.bench_calibration`, which prints what each claims.

    S pictures   R rounds
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from benchmarks.resumable import Cell
from benchmarks.tally import Counts, line
from harness import replay
from harness.analysis import doubts, energy, means, percentiles, precision
from harness.analysis.cells import share_of_rows
from harness.analysis.latency import total_s
from harness.analysis.means import Estimate, Floats
from harness.analysis.replications import mean, replicated
from harness.scenario.replay import Replay

TILES = np.repeat([3, 4, 5, 7, 10], [120, 100, 80, 60, 40]).astype(float)
"""Tile counts of a benchmark of 400 pictures."""

LOPSIDED = {
    "four of five have the fewest tiles": [320, 20, 20, 20, 20],
    "four of five have 5 tiles": [20, 20, 320, 20, 20],
    "four of five have 3 tiles, the rest 10": [320, 0, 0, 0, 80],
}
"""How many pictures have 3, 4, 5, 7 and 10 tiles in benchmarks that are mostly of one stratum."""


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
    rng: np.random.Generator, kind: str, n: int, rounds: int, *, by_strata: bool = True, tiles_N: Floats = TILES
) -> tuple[Floats, Floats, float]:
    """Times (S, R) of a scheme, the pictures' tiles, and the true mean of the benchmark, which has ``tiles_N``."""
    seed = int(rng.integers(2**62))
    tiles = tiles_N[means.draw_by_strata(tiles_N, n, seed) if by_strata else rng.permutation(tiles_N.size)[:n]]
    truth = 1.0
    if kind.startswith("tiles"):
        power = 2 if kind == "tiles squared" else 1
        base, truth = (0.1 + 0.1 * tiles**power) * lognormal(rng, 0.1, (n,)), float((0.1 + 0.1 * tiles_N**power).mean())
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
    counts.sums["warned"] += bool(doubts.skew_warning(times, tiles))


def _lines_of_means(what: str, counts: Counts, studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], f"warned {counts.sums['warned'] / studies:.0%}")


def cells_of_lopsided() -> Iterator[Cell]:
    """Means over benchmarks of which four of five pictures are of one stratum, and what the run warns of."""
    for population in LOPSIDED:
        for kind in ("tiles", "tiles squared"):
            for n in (6, 12, 21, 28, 40):
                what = f"mean: {kind}, {population}, {n} pictures"
                study = functools.partial(_study_of_lopsided, population, kind, n)
                lines = functools.partial(_lines_of_lopsided, what)
                yield Cell(section="lopsided", name=what, study=study, lines=lines)


def _study_of_lopsided(population: str, kind: str, n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([14, list(LOPSIDED).index(population), KINDS.index(kind), n, number])
    tiles_N = np.repeat([3.0, 4.0, 5.0, 7.0, 10.0], LOPSIDED[population])
    times, tiles, truth = timed(rng, kind, n, 3, tiles_N=tiles_N)
    found, warned = means.mean_latency(times, tiles, tiles_N), bool(doubts.reach_warning(tiles, tiles_N))
    counts["warned of" if warned else "not warned of"].add(found, truth)
    counts["before"].add(means.mean_latency(times, tiles, tiles_N, method="regression"), truth)
    counts.sums["warned"] += warned


def _lines_of_lopsided(what: str, counts: Counts, studies: int) -> Iterable[str]:
    warned = f"warned {counts.sums['warned'] / studies:.0%}" + (
        f", of these {counts['warned of']}" if counts["warned of"].n else ""
    )
    yield line(what, "95 %", counts["not warned of"], counts["before"], f"one scatter, all studies; {warned}")


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


_QUEUE_SIGMA, _QUEUE_SERVICE_S, _QUEUE_RHO, _QUEUE_DEADLINE_S = 0.3, 0.1, 0.5, 0.2


def cells_of_queues() -> Iterator[Cell]:
    """Means of a system with a queue (advise, max-users), and shares in time of its rows over three seeds.

    The truth of a mean is Pollaczek and Khinchine's, that of a share Lindley's recursion over four million requests.
    """
    for n in (6, 12, 40):
        what = f"mean with a queue at utilisation 0.5: {n} pictures"
        study, lines = functools.partial(_study_of_queues, n), functools.partial(_lines_of_queues, what)
        yield Cell(section="queues", name=what, study=study, lines=lines, times=0.1, least=20)
        what = f"share in time with a queue: {n} pictures, 3 seeds"
        study, lines = functools.partial(_study_of_queued_shares, n), functools.partial(_lines_of_shares, what)
        yield Cell(section="queues", name=what, study=study, lines=lines)


def _queued(rng: np.random.Generator, n: int) -> tuple[replay.Profile, Replay]:
    """``n`` pictures of a scheme that is one server stage, and 2,000 requests for it."""
    server_s = (_QUEUE_SERVICE_S * lognormal(rng, _QUEUE_SIGMA, (n, 1)) * np.ones((n, 3))).ravel()
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
    rate = f"{_QUEUE_RHO / _QUEUE_SERVICE_S} /s"
    return profile, Replay.model_validate({**parts, "arrivals": {"kind": "poisson", "rate": rate}})


def _study_of_queues(n: int, number: int, counts: Counts) -> None:
    rng = np.random.default_rng([5, n, number])
    waits_s = _QUEUE_RHO * _QUEUE_SERVICE_S * math.exp(_QUEUE_SIGMA**2) / (2 * (1 - _QUEUE_RHO))
    truth = _QUEUE_SERVICE_S + waits_s
    profile, spec = _queued(rng, n)
    cell = replay.Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=int(rng.integers(2**31)))
    counts["now"].add(replicated(profile, cell, mean), truth)
    seeds = [dataclasses.replace(cell, seed=cell.seed + 100 + seed) for seed in range(20)]
    spent_s = [mean(total_s(replay.replay(profile, one))) for one in seeds]
    counts["before"].add(percentiles.over_replications(spent_s), truth)


def _study_of_queued_shares(n: int, number: int, counts: Counts) -> None:
    profile, spec = _queued(np.random.default_rng([15, n, number]), n)
    found = []
    for seed in range(3):
        rows = replay.replay(
            profile, replay.Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=1000 * number + seed)
        )
        inside = total_s(rows) <= _QUEUE_DEADLINE_S
        found.append(rows.select(["seed", "sample"]).to_pandas().assign(inside=inside))
    counts["now"].add(share_of_rows(pd.concat(found), 0.95), _share_of_the_queue())


@functools.cache
def _share_of_the_queue() -> float:
    """The share of requests that one first-come-first-served server answers within the deadline (Lindley)."""
    rng, n = np.random.default_rng(1), 4_000_000
    service_s = _QUEUE_SERVICE_S * lognormal(rng, _QUEUE_SIGMA, (n,))
    between_s = rng.exponential(_QUEUE_SERVICE_S / _QUEUE_RHO, size=n)
    walk_s = np.concatenate([[0.0], np.cumsum(service_s[:-1] - between_s[1:])])
    wait_s = walk_s - np.minimum.accumulate(walk_s)
    return float((wait_s + service_s <= _QUEUE_DEADLINE_S).mean())


def _lines_of_queues(what: str, counts: Counts, _studies: int) -> Iterable[str]:
    yield line(what, "95 %", counts["now"], counts["before"], "over seeds")


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
