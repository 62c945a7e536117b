"""Questions that only a replay answers: deadlines, the users a server carries, where one scheme overtakes another.

Every interval is over seeds. Where a scenario replays each timed request once and nothing is random, a seed draws the
timed samples with replacement instead, so that the interval is a bootstrap one over the samples.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import scipy.optimize
import scipy.stats

from harness.analysis import latency
from harness.analysis.latency import share_in_time, total_s
from harness.replay.cell import Cell, replay
from harness.replay.profile import Floats, Profile
from harness.scenario.replay import ConstantUplink, Replay, Uplink, Wire

Statistic = Callable[[Floats], float]


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the interval in which it lies with the confidence asked for."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean over seeds with Student's interval; of one seed, an interval without end."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return Estimate(mean, -math.inf, math.inf)
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def deadline_share(requests: pa.Table, deadline_s: float, confidence: float = 0.95) -> Estimate:
    """The share of requests answered within ``deadline_s``; those never answered have missed it."""
    spent, seeds = total_s(requests), requests["seed"].to_numpy()
    return over_seeds([share_in_time(spent[seeds == seed], deadline_s) for seed in np.unique(seeds)], confidence)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One scheme in one cell of a sweep, its intervals over the seeds.

    The mean is of the requests that were answered; to a percentile one never answered counts as the slowest.
    """

    channel: str
    users: int
    pipeline: str
    point: str
    answered: float
    mean_s: Estimate
    p50_s: Estimate
    p99_s: Estimate
    in_time: Estimate | None


def summarise(requests: pa.Table, deadline_s: float | None = None) -> list[CellSummary]:
    """What a sweep's rows say, a row for each uplink, number of users, pipeline and point, in the rows' order."""
    frame = requests.select(["channel", "users", "pipeline", "point", "seed"]).to_pandas()
    frame["spent_s"] = total_s(requests)
    found = []
    for (channel, users, pipeline, point), rows in frame.groupby(["channel", "users", "pipeline", "point"], sort=False):
        by_seed = [seed["spent_s"].to_numpy(float) for _, seed in rows.groupby("seed")]
        answered = [done for spent in by_seed if len(done := spent[np.isfinite(spent)])]
        in_time = None
        if deadline_s is not None:
            in_time = over_seeds([share_in_time(spent, deadline_s) for spent in by_seed])
        mean_s = over_seeds([mean(done) for done in answered] or [math.inf])
        p50_s, p99_s = (over_seeds([percentile(q)(spent) for spent in by_seed]) for q in (50, 99))
        found.append(
            CellSummary(
                channel=str(channel),
                users=int(users),
                pipeline=str(pipeline),
                point=str(point),
                answered=sum(map(len, answered)) / len(rows),
                mean_s=mean_s,
                p50_s=p50_s,
                p99_s=p99_s,
                in_time=in_time,
            )
        )
    return found


def percentile(q: float) -> Statistic:
    """The statistic that is :func:`harness.analysis.latency.percentile`, q above 0 and at most 100."""
    return lambda values: latency.percentile(values, q / 100)


def mean(values: Floats) -> float:
    """The statistic that the paper shows."""
    return float(values.mean())


@dataclasses.dataclass(frozen=True, slots=True)
class Crossover:
    """Where two schemes are equally fast; below ``rate_bps`` the one with fewer bytes answers first.

    ``rate_bps`` is None where one of them, ``faster_throughout``, is faster at every rate looked at. ``seeds_without``
    of the ``seeds`` streams had no crossing in the range.
    """

    rate_bps: Estimate | None
    faster_below: str | None
    faster_throughout: str | None
    seeds: int
    seeds_without: int


def crossover(
    a: Profile,
    b: Profile,
    spec: Replay,
    *,
    low_bps: float,
    high_bps: float,
    statistic: Statistic = mean,
    seeds: int = 40,
    confidence: float = 0.95,
    wire: Wire | None = None,
) -> Crossover:
    """The uplink rate from which on the other of two schemes answers first, with its interval.

    The middle is the median over seeds and the interval their central ``confidence`` share; both schemes meet the same
    arrivals and questions. Where a seed has no crossing between ``low_bps`` and ``high_bps``, its crossing counts as
    lying beyond the end towards which the two come closer.
    """
    drawn = spec.model_copy(update={"requests": spec.requests or max(len(a.samples), len(b.samples))})

    def difference(log_rate: float, seed: int) -> float:
        rate_bps = math.exp(log_rate)
        uplink = ConstantUplink.model_construct(kind="constant", rate_bps=rate_bps, name="", wire=wire or Wire())
        cell = Cell(spec=drawn, uplink=uplink, users=drawn.users[0], seed=seed)
        return statistic(total_s(replay(a, cell))) - statistic(total_s(replay(b, cell)))

    slowest, fastest = math.log(low_bps), math.log(high_bps)
    at_low = np.array([difference(slowest, seed) for seed in range(seeds)])
    at_high = np.array([difference(fastest, seed) for seed in range(seeds)])
    crosses = np.sign(at_low) * np.sign(at_high) < 0
    if crosses.mean() < 0.5:
        faster = a.pipeline if np.median(at_low + at_high) < 0 else b.pipeline
        return Crossover(None, None, faster, seeds, int((~crosses).sum()))
    found = np.where(np.abs(at_low) < np.abs(at_high), 0.0, math.inf)
    for seed in np.flatnonzero(crosses).tolist():
        root = scipy.optimize.brentq(functools.partial(difference, seed=seed), slowest, fastest, xtol=1e-4)
        found[seed] = math.exp(root)
    tail = 100 * (1 - confidence) / 2
    low, middle, high = (float(np.percentile(found, q, method="inverted_cdf")) for q in (tail, 50, 100 - tail))
    below = a.pipeline if np.median(at_low) < 0 else b.pipeline
    return Crossover(Estimate(middle, low, high), below, None, seeds, int((~crosses).sum()))


def max_users(
    profile: Profile, spec: Replay, uplink: Uplink, *, limit_s: float, q: float = 99.0, at_most: int = 1024
) -> tuple[int, dict[int, Estimate]]:
    """The most users with whom the q-th percentile of T stays within ``limit_s``, and the percentiles looked at.

    The upper end of the percentile's interval over the spec's seeds must be within the limit; with one seed, the
    percentile itself. It looks at doubled numbers and then bisects: the percentile is taken to grow with the users.
    """
    seen: dict[int, Estimate] = {}

    def carries(users: int) -> bool:
        cells = [Cell(spec=spec, uplink=uplink, users=users, seed=seed) for seed in range(spec.seeds)]
        tails = [percentile(q)(total_s(replay(profile, cell))) for cell in cells]
        seen[users] = over_seeds(tails)
        return (seen[users].high if spec.seeds > 1 else seen[users].value) <= limit_s

    too_many = 1
    while too_many <= at_most and carries(too_many):
        too_many *= 2
    enough, too_many = too_many // 2, min(too_many, at_most + 1)
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        enough, too_many = (middle, too_many) if carries(middle) else (enough, middle)
    return enough, seen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One scheme at one point over one uplink: what it scores, how fast it answers, and whether it will do."""

    pipeline: str
    point: str
    score: float
    mean_s: Estimate
    p95_s: float
    deadline_share: Estimate
    rejected: str


def advise(
    profiles: Sequence[Profile],
    scores: Mapping[tuple[str, str], float],
    spec: Replay,
    uplink: Uplink,
    *,
    deadline_s: float,
    min_score: float,
    min_share: float = 0.95,
    seeds: int = 20,
) -> list[Advice]:
    """Every profile replayed over ``uplink``; those that will do come first, the fastest of them at the top.

    A profile will do if its score is at least ``min_score`` and at least ``min_share`` of its requests are answered
    within ``deadline_s``; ``rejected`` says why another will not.
    """
    advices = []
    for profile in profiles:
        drawn = spec.model_copy(update={"requests": spec.requests or len(profile.samples)})
        cells = [Cell(spec=drawn, uplink=uplink, users=drawn.users[0], seed=seed) for seed in range(seeds)]
        requests = pa.concat_tables(replay(profile, cell) for cell in cells)
        spent, seed = total_s(requests), requests["seed"].to_numpy()
        share, score = deadline_share(requests, deadline_s), scores[profile.pipeline, profile.point]
        reasons = [f"scores {score:.1%}, below {min_score:.0%}"] if score < min_score else []
        if share.value < min_share:
            reasons.append(f"answers {share.value:.1%} in time, below {min_share:.0%}")
        advices.append(
            Advice(
                pipeline=profile.pipeline,
                point=profile.point,
                score=score,
                mean_s=over_seeds([mean(spent[seed == s]) for s in range(seeds)]),
                p95_s=percentile(95)(spent),
                deadline_share=share,
                rejected=" and ".join(reasons),
            )
        )
    return sorted(advices, key=lambda advice: (bool(advice.rejected), advice.mean_s.value))
