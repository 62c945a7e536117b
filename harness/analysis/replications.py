"""A statistic of T where requests queue: replays on resampled pictures, and an interval that holds what both scatter.

A statistic is replayed on B resamples of the pictures, each with a random stream of its own. Their scatter holds both
the pictures and the streams, and is *not* divided by B:

      error^2 = S / (S - 1) var_B(statistic),        1 / nu = 1 / (S - 1) + 1 / (B - 1),

with Student's quantile at nu (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 6.5), above on the log.
What rounds and starts of the process leave unknown of the level of all times is added in squares: the statistic is
replayed with times longer and shorter by the level's error, and half the difference is its error.

A system in which more work comes in than can be done has no mean: its utilisation is said instead.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.special

from harness.analysis import latency
from harness.analysis.latency import total_s
from harness.analysis.loads import instability
from harness.analysis.means import Estimate, Level, too_few
from harness.analysis.setting import level_of
from harness.replay.cell import Cell, Simulator, replay
from harness.replay.profile import Floats, Profile

Statistic = Callable[[Floats], float]

AT_LEVELS = 5
"""How many random streams show what the level of all times does."""


def percentile(q: float) -> Statistic:
    """The statistic that is :func:`harness.analysis.latency.percentile`, q above 0 and at most 100."""
    return lambda values: latency.percentile(values, q / 100)


def mean(values: Floats) -> float:
    """The statistic that the paper shows."""
    return float(values.mean())


def replicated(
    profile: Profile, cell: Cell, statistic: Statistic, *, resamples: int = 20, confidence: float = 0.95
) -> Estimate:
    """A statistic of T in a system with queues, its interval over pictures and random streams together.

    The value is the mean of ``resamples`` replications on the timed pictures; the interval comes from as many, each on
    newly drawn pictures. An unstable system, and fewer than :data:`harness.analysis.means.MIN_PICTURES` pictures, have
    none; the unstable one has no value either.
    """
    return replicated_all(profile, cell, [statistic], resamples=resamples, confidence=confidence)[0]


def replicated_all(
    profile: Profile,
    cell: Cell,
    statistics: Sequence[Statistic],
    *,
    resamples: int = 20,
    confidence: float = 0.95,
) -> list[Estimate]:
    """:func:`replicated` for several statistics of the same replications."""
    if reason := instability(profile, cell):
        return [Estimate(math.inf, math.nan, math.nan, reason)] * len(statistics)
    simulator = simulator_of(cell)
    cells = [dataclasses.replace(cell, seed=cell.seed + b) for b in range(resamples)]
    n_pictures = len(set(profile.samples))
    few = too_few(n_pictures)
    timed = [total_s(replay(profile, own, simulator=simulator)) for own in cells]
    anew = [] if few else [total_s(replay(resampled(profile, own.seed), own, simulator=simulator)) for own in cells]
    level = level_of(profile)
    # The same streams at a level up and down: what the level's error does, and nothing else.
    moved = [
        [
            total_s(replay(at_level(profile, factor * level.error), own, simulator=simulator))
            for own in cells[:AT_LEVELS]
        ]
        for factor in ((-1, 1) if level.error and not few else ())
    ]
    found = []
    for statistic in statistics:
        value = float(np.mean([statistic(spent_s) for spent_s in timed]))
        ends = [float(np.mean([statistic(spent_s) for spent_s in at])) for at in moved] or [0.0, 0.0]
        drawn = [statistic(spent_s) for spent_s in anew]
        if few:
            found.append(Estimate(value, math.nan, math.nan, few))
        elif not np.isfinite([value, *drawn, *ends]).all():
            found.append(Estimate(value, math.nan, math.nan, "some replications leave requests without an answer"))
        else:
            error = math.sqrt(n_pictures / (n_pictures - 1) * float(np.var(drawn, ddof=1)))
            freedom = 1 / (1 / (n_pictures - 1) + 1 / (resamples - 1))
            half = float(scipy.special.stdtrit(freedom, (1 + confidence) / 2)) * error
            of_level = Level(error=abs(ends[1] - ends[0]) / 2, freedom=level.freedom)
            half = math.hypot(half, of_level.half_width(confidence))
            high = value * math.exp(half / value) if value > 0 else half
            found.append(Estimate(value, max(0.0, value - half), high))
    return found


def at_level(profile: Profile, log_level: float) -> Profile:
    """The profile with all times longer by a factor, exp(log_level)."""
    factor = math.exp(log_level)
    return dataclasses.replace(
        profile, device_s=factor * profile.device_s, server_stage_s=factor * profile.server_stage_s
    )


def simulator_of(cell: Cell) -> Simulator:
    """The compiled path wherever it applies: there are many replays, of which each is too short to ask for it."""
    from harness.replay import vector

    return "vector" if vector.applies(cell.spec, cell.users) else "auto"


def resampled(profile: Profile, seed: int) -> Profile:
    """The profile of as many pictures drawn with replacement; one drawn twice is two pictures."""
    rng = np.random.default_rng([seed, 1])
    names = np.asarray(profile.samples)
    first = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    last = np.r_[first[1:], len(names)]
    drawn = rng.integers(len(first), size=len(first)).tolist()
    rows = np.concatenate([np.arange(first[s], last[s]) for s in drawn])
    renamed = tuple(f"{place}/{names[first[s]]}" for place, s in enumerate(drawn) for _ in range(last[s] - first[s]))
    return dataclasses.replace(
        profile,
        samples=renamed,
        payload_bytes=profile.payload_bytes[rows],
        device_s=profile.device_s[rows],
        server_stage_s=profile.server_stage_s[rows],
        start=None if profile.start is None else profile.start[rows],
    )
