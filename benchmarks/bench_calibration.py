"""What intervals and tests claim against what they do, on seeded studies whose truth is known.

    python -m benchmarks.bench_calibration [--quick] [--only means,ratios,...]

Each line is a cell: the claim, how often the truth was inside (or a point was admitted) with its Monte Carlo error, the
mean relative width of the interval, and the same of the method that was there before, on the same studies.

    S pictures   R rounds   C pictures of a score   B resamples
"""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import scipy.special
import scipy.stats

from benchmarks import calibrated_rows
from benchmarks.tally import Tally, share, show
from harness.analysis import curves, energy, means, percentiles, precision, selection
from harness.analysis.latency import total_s
from harness.analysis.means import Estimate
from harness.analysis.whatif import mean, replicated
from harness.replay import Cell, Profile, replay
from harness.scenario.replay import Replay

TILES = np.repeat([3, 4, 5, 7, 10], [120, 100, 80, 60, 40]).astype(float)
"""Tile counts of a benchmark of 400 pictures."""

THETA = 0.87
RESAMPLES = 500


def lognormal(rng: np.random.Generator, sigma: float, shape: tuple[int, ...]) -> np.ndarray:
    """Log-normal values of mean 1."""
    return np.exp(sigma * rng.normal(size=shape) - sigma**2 / 2)


def bootstrap(rng: np.random.Generator, of_pictures: np.ndarray) -> Estimate:
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
) -> tuple[np.ndarray, np.ndarray, float]:
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


def bench_means(studies: int) -> None:
    """Means of the latency: :func:`harness.analysis.means.mean_latency`."""
    for kind in KINDS:
        for n in (6, 12, 40):
            rounds = 6 if kind.endswith(("drift", "trend")) else 3
            rng = np.random.default_rng([1, KINDS.index(kind), n])
            new, old, warned = Tally(), Tally(), 0
            for _ in range(studies):
                times, tiles, truth = timed(rng, kind, n, rounds)
                new.add(means.mean_latency(times, tiles, TILES), truth)
                old.add(bootstrap(rng, timed(rng, kind, n, rounds, by_strata=False)[0].mean(axis=1)), truth)
                warned += bool(means.skew_warning(times, tiles))
            show(f"mean: {kind}, {n} pictures x {rounds} rounds", "95 %", new, old, f"warned {warned / studies:.0%}")


def bench_ratios(studies: int) -> None:
    """Ratios and differences of two schemes within rounds; a crossover's rate is covered where the difference is."""
    for n in (6, 12, 40):
        rng = np.random.default_rng([2, n])
        ratio, with_link, old, crossing = Tally(), Tally(), Tally(), Tally()
        for _ in range(studies):
            times, tiles, truth = timed(rng, "tiles", n, 6)
            other = (0.6 * tiles[:, None] * 0.1 + 0.3) * lognormal(rng, 0.1, (n, 1)) * lognormal(rng, 0.1, (n, 6))
            other_truth = float((0.06 * TILES + 0.3).mean())
            drift = 1 + 0.1 * rng.normal(size=6).clip(-4, 4)
            times, met = times * drift, other * drift
            ratio.add(means.ratio_within_rounds(met, times, tiles, TILES), other_truth / truth)
            linked = (other_truth + 0.4) / (truth + 0.2)
            with_link.add(means.ratio_within_rounds(met, times, tiles, TILES, a_known=0.4, b_known=0.2), linked)
            resampled = rng.integers(n, size=(400, n))
            ratios = met.mean(axis=1)[resampled].mean(axis=1) / times.mean(axis=1)[resampled].mean(axis=1)
            old.add(Estimate(1.0, *np.quantile(ratios, [0.025, 0.975])), other_truth / truth)
            # The rate at which both answer alike: T_a - T_b = 0 with 8 (B_a - B_b) / rate of link time.
            bytes_a = 9000 * lognormal(rng, 0.3, (n,))
            quiet, tiles, _ = timed(rng, "tiles", n, 3)
            quick = 0.4 * lognormal(rng, 0.2, (n, 1)) * lognormal(rng, 0.1, (n, 3))
            rate = 8 * 9000 / (0.1 + 0.1 * TILES.mean() + 0.3 - 0.4)
            linked_times = quick + 8 * bytes_a[:, None] / rate
            crossing.add(means.difference_within_rounds(linked_times, quiet + 0.3, tiles, TILES), 0.0)
        what = f"{n} pictures x 6 rounds, 10 % drift"
        show(f"ratio within rounds: {what}", "95 %", ratio, old)
        show(f"  the same, links added: {n} pictures", "95 %", with_link)
        show(f"crossover (difference holds 0): {n} x 3", "95 %", _without_width(crossing))


def _without_width(tally: Tally) -> str:
    return str(tally).split("  width")[0]


def bench_percentiles(studies: int) -> None:
    """Percentiles and shares by pictures."""
    for between, within in ((0.3, 0.1), (0.1, 0.3)):
        for p, sizes in ((0.5, (12, 40)), (0.9, (80,)), (0.99, (700,))):
            for n in sizes:
                rng = np.random.default_rng([3, n, round(100 * between)])
                new, old = Tally(), Tally()
                truth = math.exp(math.hypot(between, within) * float(scipy.stats.norm.ppf(p)))
                for _ in range(studies if n < 500 else studies // 4):
                    times = np.exp(between * rng.normal(size=(n, 1)) + within * rng.normal(size=(n, 3)))
                    new.add(percentiles.percentile(times, p).estimate, truth)
                    ranked, size = np.sort(times, axis=None), times.size
                    low, high = scipy.stats.binom.ppf([0.025, 0.975], size, p).astype(int)
                    old.add(Estimate(1.0, ranked[max(low - 1, 0)], ranked[min(high, size - 1)]), truth)
                show(f"p{100 * p:g}: {n} pictures x 3, sigma {between} and {within}", "95 %", new, old, "by requests")
    for p in (0.5, 0.9):
        for n in (6, 12, 40):
            rng = np.random.default_rng([4, n])
            new, deadline = Tally(), math.exp(math.hypot(0.3, 0.1) * float(scipy.stats.norm.ppf(p)))
            for _ in range(studies):
                times = np.exp(0.3 * rng.normal(size=(n, 1)) + 0.1 * rng.normal(size=(n, 3)))
                new.add(percentiles.share(times <= deadline).estimate, p)
            show(f"share within a deadline, {p:.0%}: {n} pictures x 3", "95 %", new, note="discrete")


def bench_queues(studies: int) -> None:
    """Means of a system with a queue (advise, max-users): Pollaczek and Khinchine's is the truth."""
    for n in (6, 12, 40):
        rng = np.random.default_rng([5, n])
        new, old = Tally(), Tally()
        sigma, service, rho = 0.3, 0.1, 0.5
        rate = rho / service
        truth = service + rate * service**2 * math.exp(sigma**2) / (2 * (1 - rho))
        for _ in range(max(studies // 10, 20)):
            server_s = (service * lognormal(rng, sigma, (n, 1)) * np.ones((n, 3))).ravel()
            nothing = np.zeros(3 * n)
            profile = Profile(
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
            cell = Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=int(rng.integers(2**31)))
            found = replicated(profile, cell, mean)
            new.add(found, truth)
            seeds = [dataclasses.replace(cell, seed=cell.seed + 100 + seed) for seed in range(20)]
            old.add(percentiles.over_replications([mean(total_s(replay(profile, one))) for one in seeds]), truth)
        show(f"mean with a queue at utilisation 0.5: {n} pictures", "95 %", new, old, "over seeds")


def scores(rng: np.random.Generator, chance: np.ndarray, n: int, alike: float = 0.85) -> np.ndarray:
    """Whether each of n questions is right (C, P), alike: the correlation of what decides it between points."""
    difficulty = alike * rng.normal(size=(n, 1)) + math.sqrt(1 - alike**2) * rng.normal(size=(n, chance.size))
    return (difficulty < scipy.special.ndtri(chance)).astype(float)


def bench_selection(studies: int) -> None:
    """Admission of points that score exactly t - m of the reference: any of them is one too many."""
    many = 10 * studies
    for n in (40, 160, 765):
        for shape in ((1,), (5,), (8,), (4, 4)):
            rng = np.random.default_rng([6, n, *shape])
            points, s_0 = sum(shape), 0.7
            chance = np.r_[np.full(points, THETA * s_0), s_0]
            admitted, before, power = 0, 0, 0
            for number in range(many):
                right = scores(rng, chance, n)
                admitted += _any_admitted(right, shape)
                if number % 10 == 0:
                    power += 10 * _any_admitted(scores(rng, np.r_[np.full(points, 0.97 * s_0), s_0], n), shape)
                if number % 40 == 0:
                    score_B = rng.multinomial(n, np.full(n, 1 / n), size=400) @ right
                    contrast = score_B[:, :-1] - THETA * score_B[:, -1:]
                    before += 40 * bool((np.quantile(contrast, 0.05, axis=0) >= 0).any())
            show(
                f"admission: {points} points in {len(shape)} ladder{'s' * (len(shape) > 1)}, {n} pictures",
                "<= 5 %",
                share(admitted, many),
                f"{100 * before / many:.1f} %",
                f"power at 97 % of the reference {100 * power / many:.0f} %",
            )


def _any_admitted(right: np.ndarray, shape: tuple[int, ...]) -> bool:
    ladders, place = {}, 0
    for ladder, size in enumerate(shape):
        ladders[ladder] = [(point, right[:, point]) for point in range(place, place + size)]
        place += size
    return any(found.admitted for found in selection.admit(ladders, right[:, -1], theta=THETA))


def bench_curves(studies: int) -> None:
    """At equal score: bytes, latency, BD-score and BD-rate of two ladders whose true ratio of bytes is 1.8."""
    times = 1.8
    truths: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "logistic": lambda x: 0.25 + 0.5 / (1 + np.exp(-1.6 * x)),
        "saturation": lambda x: 0.78 - 0.25 * np.exp(-0.9 * x),
    }
    for name, truth in truths.items():
        for n in (160, 765):
            rng = np.random.default_rng([7, n, len(name)])
            log_bytes = np.log(np.geomspace(2500, 16_000, 4))
            start, s_0, target = math.log(3500), 0.78, THETA * 0.78
            chance = np.r_[truth(log_bytes - start), truth(log_bytes - start), s_0]
            fine = np.linspace(log_bytes[0], log_bytes[-1], 20_001)
            bytes_true = math.exp(fine[np.abs(truth(fine - start) - target).argmin()])
            common = np.linspace(log_bytes[0] + math.log(times), log_bytes[-1], 2001)
            gain = float((truth(common - start - math.log(times)) - truth(common - start)).mean())
            rate_bps, base = 400e3, np.array([0.20, 0.22, 0.24, 0.26])
            share = (math.log(bytes_true) - log_bytes[0]) / (log_bytes[-1] - log_bytes[0])
            timed_true = 0.20 + 0.06 * share
            latency = (timed_true * 1.5 + 8 * times * bytes_true / rate_bps) / (timed_true + 8 * bytes_true / rate_bps)
            tallies = {
                key: Tally(down_to_nothing="BD" in key)
                for key in ("bytes", "ratio of bytes", "ratio of latencies", "BD-score", "BD-rate")
            }
            for _ in range(max(studies // 2, 20) if n > 500 else studies):
                right = scores(rng, chance, n)
                weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
                score, score_B = right.mean(axis=0), weights @ right
                a = curves.Ladder.fit("a", np.exp(log_bytes), score[:4], score_B[:, :4])
                b = curves.Ladder.fit("b", times * np.exp(log_bytes), score[4:8], score_B[:, 4:8])
                wanted, wanted_B = THETA * float(score[-1]), THETA * score_B[:, -1]
                found = curves.equal_score(a, b, wanted, wanted_B)
                tallies["bytes"].add(found.anchor_bytes, bytes_true)
                tallies["ratio of bytes"].add(found.ratio, times)
                common_S = lognormal(rng, 0.2, (12, 1))
                timed_SP = base * common_S * lognormal(rng, 0.05, (12, 4))
                other_SP = 1.5 * base * common_S * lognormal(rng, 0.05, (12, 4))
                ratio = curves.latency_at_equal_score(
                    a, b, wanted, wanted_B, rate_bps=rate_bps, anchor_timed_SP=timed_SP, test_timed_SP=other_SP
                )[2]
                tallies["ratio of latencies"].add(ratio, latency)
                tallies["BD-score"].add(curves.bd_score(a, b), gain)
                tallies["BD-rate"].add(curves.bd_rate(a, b)[0], times - 1)
            for key, tally in tallies.items():
                show(
                    f"{key} at equal score: {name}, {n} pictures"
                    if "BD" not in key
                    else f"{key}: {name}, {n} pictures",
                    "95 %",
                    tally,
                )


def bench_stopping(studies: int) -> None:
    """Means after timing stopped when precise: :func:`harness.analysis.precision.look`."""
    for kind in ("normal", "log-normal 0.25", "log-normal 0.5", "tiles"):
        for wanted in (0.05, 0.1):
            rng = np.random.default_rng([8, KINDS.index(kind), round(100 * wanted)])
            tally, reached, pictures = Tally(), 0, 0
            for _ in range(studies):
                times, tiles, truth = timed(rng, kind, 200, 3)
                for n in precision.looks(200):
                    found = precision.look(times[:n], tiles[:n], TILES, precision=wanted, at_most=200)
                    if not found.go_on_to:
                        break
                tally.add(found.estimate, truth)
                reached, pictures = reached + found.precise, pictures + n
            note = f"reached {reached / studies:.0%}, {pictures / studies:.0f} pictures"
            show(f"mean, stopped at {wanted:.0%} or 200 pictures: {kind}", "95 %", tally, note=note)


def bench_energy(studies: int) -> None:
    """Net joules of an answer over blocks: :func:`harness.analysis.energy.mean_of_blocks`."""
    for kind in ("5 % scatter", "log-normal 0.2", "idle power drifts", "warms up by 5 %"):
        for blocks in (3, 4, 8):
            rng = np.random.default_rng([9, len(kind), blocks])
            tally = Tally()
            for _ in range(studies):
                idle_w = 10 + 0.2 * rng.normal(size=blocks)
                if kind == "idle power drifts":
                    idle_w = idle_w + np.cumsum(0.1 * rng.normal(size=blocks))
                answer_j = 4 * (lognormal(rng, 0.2, (blocks,)) if "log" in kind else 1 + 0.05 * rng.normal(size=blocks))
                if kind.startswith("warms"):
                    answer_j = answer_j * np.linspace(0.975, 1.025, blocks)
                requests = rng.integers(20, 30, blocks)
                energy_j = 30 * idle_w + answer_j * requests
                idle_j = 30 * (idle_w + 0.1 * rng.normal(size=blocks))
                tally.add(energy.mean_of_blocks(((energy_j - idle_j) / requests).tolist()), 4.0)
            show(f"net joules: {kind}, {blocks} blocks", "95 %", tally)


BENCHES = {
    "means": bench_means,
    "ratios": bench_ratios,
    "percentiles": bench_percentiles,
    "queues": bench_queues,
    "selection": bench_selection,
    "curves": bench_curves,
    "stopping": bench_stopping,
    "energy": bench_energy,
    "scores": calibrated_rows.bench_scores,
    "rows": calibrated_rows.bench_rows,
    "equal-rows": calibrated_rows.bench_equal_rows,
    "stopped-rows": calibrated_rows.bench_stopped_rows,
    "users": calibrated_rows.bench_users,
}


def chosen(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[int], None]]]:
    """The parts asked for."""
    for name in arguments.only.split(",") if arguments.only else BENCHES:
        if name not in BENCHES:
            sys.exit(f"--only {name}: the parts are {', '.join(BENCHES)}")
        yield name, BENCHES[name]


def main() -> None:
    """Run the cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 studies a cell instead of 2,000")
    parser.add_argument("--only", default="", metavar="PARTS", help=", ".join(BENCHES))
    arguments = parser.parse_args()
    studies = 100 if arguments.quick else 2000
    print(
        f"{studies} studies a cell (admission ten times that, queues and max-users a tenth, curves of 765 pictures and "
        "stopped rows a half, p99 a quarter); seeds are fixed"
    )
    for name, bench in chosen(arguments):
        start = time.perf_counter()
        bench(studies)
        print(f"-- {name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
