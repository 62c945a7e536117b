"""Where one scheme overtakes another: the uplink rate from which on the other of the two answers first.

Where requests do not meet, the interval is Fieller's: the rates at which that of the difference of the two means holds
0. Where they queue, or the link's rate varies, it is that of the crossings of :mod:`harness.analysis.replications`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.optimize
import scipy.special

from harness.analysis import means
from harness.analysis.cells import mean_link_s, times_and_known
from harness.analysis.latency import total_s
from harness.analysis.loads import instability
from harness.analysis.means import Estimate, apart, difference_within_rounds, too_few
from harness.analysis.replications import AT_LEVELS, at_level, mean, resampled, simulator_of
from harness.analysis.setting import Population, Timed, strata, timed_apart
from harness.channel.channel import mean_bps
from harness.errors import ResultsError
from harness.replay.cell import Cell, replay
from harness.replay.profile import Floats, Profile
from harness.scenario.replay import ClosedLoop, ConstantUplink, Replay, Uplink, Wire

_RATES = 64
"""How many rates a crossing is looked for at before it is solved for."""

_LINK_RATES, _COARSE, _LOG_PRECISION = 24, 8, 0.005
"""The same where each look is a replay of every stream, and of one resample; how near a crossing is solved for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Crossover:
    """Where two schemes are equally fast; below ``rate_bps`` the one with fewer bytes answers first.

    ``rate_bps`` is None where one of them, ``faster_throughout``, is faster at every rate looked at; ``sure`` says
    whether the pictures establish it at both ends. Below ``unstable_below_bps`` neither keeps up with what is asked,
    and neither is faster; it is None where one does at every rate, infinity where none does.
    """

    rate_bps: Estimate | None
    faster_below: str | None
    faster_throughout: str | None
    sure: bool
    unstable_below_bps: float | None = None


def crossover(
    a: Profile,
    b: Profile,
    spec: Replay,
    *,
    low_bps: float,
    high_bps: float,
    confidence: float = 0.95,
    wire: Wire | None = None,
    population: Population | None = None,
) -> Crossover:
    """The uplink rate from which on the other of two schemes answers first, with its interval.

    The interval holds the rates at which the interval of the difference of the two means, over the same pictures in
    the same rounds, holds 0 (Fieller, Journal of the Royal Statistical Society B 16, 1954). It ends at 0 or at infinity
    where it goes beyond the rates looked at. Schemes that were timed in different starts of the process have none where
    :func:`harness.analysis.means.apart` says why. Both profiles hold the same samples and repeats; raises ResultsError
    otherwise.
    """
    if a.samples != b.samples:
        raise ResultsError(f"{a.pipeline} and {b.pipeline} were not timed on the same samples and repeats")
    once = spec.model_copy(update={"requests": None, "arrivals": ClosedLoop(kind="closed_loop"), "users": (1,)})

    timed = [Timed.of(profile) for profile in (a, b)]
    stratum_S, stratum_N = strata(a, population)

    def within_rounds(a_SR: Floats, b_SR: Floats) -> Estimate:
        return difference_within_rounds(
            a_SR,
            b_SR,
            stratum_S,
            stratum_N,
            start_R=timed[0].start_R,
            b_start_R=timed[1].start_R if timed_apart(*timed) else None,
            confidence=confidence,
        )

    # A link that is known exactly moves the interval and does not widen it.
    whole = population is not None and all((p.pipeline, p.point) in population.payload_bytes for p in (a, b))
    fixed = within_rounds(*(one.device_SR + one.server_SR for one in timed)) if whole else None

    def difference(log_rate: float) -> Estimate:
        uplink = ConstantUplink.model_construct(
            kind="constant", rate_bps=math.exp(log_rate), name="", wire=wire or Wire()
        )
        if fixed is not None and population is not None:
            a_s, b_s = (mean_link_s(profile, once, uplink, population) for profile in (a, b))
            return fixed.plus(a_s - b_s)
        times, known = zip(*(times_and_known(p, once, uplink, population) for p in (a, b)), strict=True)
        return within_rounds(*times).plus(known[0] - known[1])

    grid = np.linspace(math.log(low_bps), math.log(high_bps), _RATES)
    found = [difference(log_rate) for log_rate in grid.tolist()]
    value = np.array([estimate.value for estimate in found])
    low, high = (np.array([getattr(estimate, end) for estimate in found]) for end in ("low", "high"))
    if value[0] * value[-1] >= 0:
        faster = a.pipeline if value[0] + value[-1] < 0 else b.pipeline
        sure = bool((low[[0, -1]] > 0).all() or (high[[0, -1]] < 0).all())
        return Crossover(None, None, faster, sure)

    def solved(end: str, values: Floats) -> list[float]:
        crossing = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
        return [
            math.exp(scipy.optimize.brentq(lambda x: getattr(difference(x), end), grid[i], grid[i + 1], xtol=1e-5))
            for i in crossing.tolist()
        ]

    rate = solved("value", value)[0]
    below = a.pipeline if value[0] < 0 else b.pipeline
    if np.isnan(low).any():
        return Crossover(Estimate(rate, math.nan, math.nan, found[0].reason), below, None, False)
    ends = sorted(solved("low", low) + solved("high", high))
    slowest = 0.0 if low[0] <= 0 <= high[0] else min(ends, default=rate)
    fastest = math.inf if low[-1] <= 0 <= high[-1] else max(ends, default=rate)
    return Crossover(Estimate(rate, min(slowest, rate), max(fastest, rate)), below, None, False)


def crossover_of_links(
    a: Profile,
    b: Profile,
    spec: Replay,
    uplink: Uplink,
    *,
    low_bps: float,
    high_bps: float,
    users: int = 1,
    resamples: int = 20,
    confidence: float = 0.95,
) -> Crossover:
    """The mean rate of a link from which on the other of two schemes answers first, wherever requests may meet.

    The link is ``uplink`` with its rate at every instant scaled, so that its mean is the rate looked at. The value is
    where the means of ``resamples`` replications, on the timed pictures and the same random streams, are equal; its
    interval, as a replication's, comes from as many crossings, each of newly drawn pictures and a stream of its own,
    and from what rounds and starts leave unknown of the two schemes' levels. An end is open, 0 or infinity, where such
    a crossing is not between the rates looked at. Where a system is unstable the other answers first. Raises
    ResultsError for profiles of other samples, and for a recording that stops, which has no mean rate.
    """
    if a.samples != b.samples:
        raise ResultsError(f"{a.pipeline} and {b.pipeline} were not timed on the same samples and repeats")
    if (own_bps := mean_bps(uplink)) is None:
        raise ResultsError(f"{uplink.label} stops, and has no mean rate to look for a crossing at; let it loop")
    base = Cell(spec=spec, uplink=uplink, users=users, seed=0)
    pairs = [(a, b)] * resamples
    drawn = [(resampled(a, seed), resampled(b, seed)) for seed in range(resamples)]
    simulator = simulator_of(base)

    def difference(log_rate: float, of: Mapping[int, tuple[Profile, Profile]]) -> float:
        cell = dataclasses.replace(base, scale=math.exp(log_rate) / own_bps)
        late_a, late_b = (bool(instability(profile, cell)) for profile in (a, b))
        if late_a or late_b:
            return math.nan if late_a and late_b else math.inf if late_a else -math.inf
        found = []
        for seed, (one, other) in of.items():
            own = dataclasses.replace(cell, seed=seed)
            mean_s = [mean(total_s(replay(profile, own, simulator=simulator))) for profile in (one, other)]
            found.append(mean_s[0] - mean_s[1])
        return float(np.mean(found))

    everything = dict(enumerate(pairs))
    grid = np.linspace(math.log(low_bps), math.log(high_bps), _LINK_RATES).tolist()
    stable = [(x, value) for x in grid if not math.isnan(value := difference(x, everything))]
    unstable = None if len(stable) == len(grid) else math.exp(stable[0][0]) if stable else math.inf
    if not stable:
        return Crossover(None, None, None, False, unstable)
    timed = [Timed.of(profile) for profile in (a, b)]
    few = too_few(len(set(a.samples)))
    if not few and timed_apart(*timed):
        few = apart(*(one.start_R for one in timed))
    crossing = _first_crossing(stable, functools.partial(difference, of=everything))
    if crossing is None:
        faster = a.pipeline if stable[0][1] + stable[-1][1] < 0 else b.pipeline
        ends = [difference(stable[place][0], {seed: pair}) for place in (0, -1) for seed, pair in enumerate(drawn)]
        sure = not few and (all(end < 0 for end in ends) or all(end > 0 for end in ends))
        return Crossover(None, None, faster, sure, unstable)
    below = a.pipeline if stable[0][1] < 0 else b.pipeline
    rate = math.exp(crossing)
    if few:
        return Crossover(Estimate(rate, math.nan, math.nan, few), below, None, False, unstable)
    logs, beyond = [], set()
    coarse = [x for x, _ in stable[:: max(1, len(stable) // _COARSE)]] + [stable[-1][0]]
    for seed, pair in enumerate(drawn):
        of_pair = functools.partial(difference, of={seed: pair})
        seen = [(x, of_pair(x)) for x in dict.fromkeys(coarse)]
        if (found := _first_crossing(seen, of_pair)) is not None:
            logs.append(found)
        else:
            # All on the side of the lower rates: it crosses beyond the fastest; else below the slowest.
            beyond.add("high" if (seen[0][1] < 0) == (stable[0][1] < 0) else "low")
    half = math.hypot(
        _half_of_logs(logs, len(set(a.samples)), confidence), _half_of_levels(a, b, crossing, difference, confidence)
    )
    low = 0.0 if "low" in beyond else rate * math.exp(-half)
    high = math.inf if "high" in beyond else rate * math.exp(half)
    return Crossover(Estimate(rate, low, high), below, None, False, unstable)


def _half_of_levels(
    a: Profile,
    b: Profile,
    crossing: float,
    difference: Callable[[float, Mapping[int, tuple[Profile, Profile]]], float],
    confidence: float,
) -> float:
    """What rounds and starts leave unknown of the log of the rate of a crossing, as a half-width.

    The crossing moves with each scheme's level as the difference of the two means does, over how that moves with the
    rate; it is infinite where the difference is.
    """
    if len(a.samples) < means.MIN_ROUNDS * len(set(a.samples)):
        return 0.0
    step = 0.02

    def at(log_rate: float, a_level: float = 0.0, b_level: float = 0.0) -> float:
        pair = at_level(a, a_level), at_level(b, b_level)
        return difference(log_rate, dict.fromkeys(range(AT_LEVELS), pair))

    slope = at(crossing + step) - at(crossing - step)
    moved = [
        at(crossing, a_level=step) - at(crossing, a_level=-step),
        at(crossing, b_level=step) - at(crossing, b_level=-step),
    ]
    if not np.isfinite([slope, *moved]).all() or not slope:
        return math.inf
    timed = [Timed.of(profile) for profile in (a, b)]
    weights = [-move / slope for move in moved]
    if timed_apart(*timed):
        levels = [
            means.level_of_sum([one.total_SR], [w], start_R=one.start_R) for one, w in zip(timed, weights, strict=True)
        ]
        return levels[0].with_another(levels[1]).half_width(confidence)
    return means.level_of_sum([one.total_SR for one in timed], weights, start_R=timed[0].start_R).half_width(confidence)


def _half_of_logs(logs: Sequence[float], n_pictures: int, confidence: float) -> float:
    """The half-width of the interval of resampled crossings, as of replications; infinite of fewer than two."""
    if len(logs) < 2:
        return math.inf
    error = math.sqrt(n_pictures / (n_pictures - 1) * float(np.var(logs, ddof=1)))
    freedom = 1 / (1 / (n_pictures - 1) + 1 / (len(logs) - 1))
    return float(scipy.special.stdtrit(freedom, (1 + confidence) / 2)) * error


def _first_crossing(seen: Sequence[tuple[float, float]], difference: Callable[[float], float]) -> float | None:
    """Where the first change of sign between neighbours is, by halving; None where there is none."""
    for (x, value), (next_x, next_value) in itertools.pairwise(seen):
        if value * next_value < 0:
            while next_x - x > _LOG_PRECISION:
                middle = (x + next_x) / 2
                if difference(middle) * value > 0:
                    x = middle
                else:
                    next_x = middle
            return (x + next_x) / 2
    return None
