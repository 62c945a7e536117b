"""Questions that only a replay answers: deadlines, the users a server carries, where one scheme overtakes another.

Every interval is over the timed pictures, never over resamples of the simulator, which could be had in any number:

- Where requests do not meet (one user, who asks again when answered, over a constant link) each timed request is
  replayed once, and the times by picture and round are what :mod:`harness.analysis.means` and
  :mod:`harness.analysis.percentiles` rest on.
- Where they queue, a statistic is replayed on B resamples of the pictures, each with a random stream of its own. Their
  scatter holds both the pictures and the streams, and is *not* divided by B:

      error^2 = S / (S - 1) var_B(statistic),        1 / nu = 1 / (S - 1) + 1 / (B - 1),

  with Student's quantile at nu (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 6.5), above on the log.
  What rounds and starts of the process leave unknown of the level of all times is added in squares: the statistic is
  replayed with times longer and shorter by the level's error, and half the difference is its error.

A system in which more work comes in than can be done has no mean: its utilisation is said instead.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import scipy.optimize
import scipy.special

from harness.analysis import latency, means, percentiles
from harness.analysis.cells import (
    Population,
    Timed,
    instability,
    level_of,
    matrix,
    mean_link_s,
    mean_of_rows,
    of_pictures,
    percentile_of_rows,
    requests_meet,
    strata,
    timed_apart,
    times_and_known,
)
from harness.analysis.latency import share_in_time, total_s
from harness.analysis.means import Estimate, Level, apart, difference_within_rounds, mean_latency, too_few
from harness.channel.channel import mean_bps
from harness.errors import ResultsError
from harness.replay.cell import Cell, Engine, replay
from harness.replay.profile import Floats, Profile
from harness.scenario.replay import ClosedLoop, ConstantUplink, Replay, Uplink, Wire

Statistic = Callable[[Floats], float]

MOST_USERS = 1024
"""More are not looked for."""

_AT_LEVELS = 5
"""How many random streams show what the level of all times does."""

_RATES = 64
"""How many rates a crossing is looked for at before it is solved for."""

_LINK_RATES, _COARSE, _LOG_PRECISION = 24, 8, 0.005
"""The same where each look is a replay of every stream, and of one resample; how near a crossing is solved for."""


def percentile(q: float) -> Statistic:
    """The statistic that is :func:`harness.analysis.latency.percentile`, q above 0 and at most 100."""
    return lambda values: latency.percentile(values, q / 100)


def mean(values: Floats) -> float:
    """The statistic that the paper shows."""
    return float(values.mean())


def deadline_share(requests: pa.Table, deadline_s: float, confidence: float = 0.95) -> Estimate:
    """The share of requests answered within ``deadline_s``, by pictures; those never answered have missed it."""
    met = total_s(requests) <= deadline_s
    return percentiles.share(of_pictures(requests, met)[:, None], confidence=confidence).estimate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One scheme in one cell of a sweep, its intervals over the pictures.

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


def cell_summaries(
    requests: pa.Table,
    deadline_s: float | None = None,
    *,
    confidence: float = 0.95,
    levels: Mapping[tuple[str, str], Level] | None = None,
    unstable: Mapping[tuple[str, int, str, str], str] | None = None,
) -> list[CellSummary]:
    """What a sweep's rows say, a row for each uplink, number of users, pipeline and point, in the rows' order.

    A picture's requests are one observation: its mean, and of a percentile the share that is not slower. What the
    streams of different seeds add is in the mean's interval too; what other pictures would change of the waiting in a
    queue is not, for which :func:`replicated` replays anew. ``levels`` are what rounds and starts leave unknown of each
    pipeline and point (:func:`harness.analysis.cells.level_of`). Percentiles have no interval but where the pictures
    certify them. A cell that is ``unstable`` (:func:`harness.analysis.cells.unstable_cells`) has that reason and no
    numbers but the share that was answered.
    """
    names = ["channel", "users", "pipeline", "point", "seed", "sample"]
    frame = requests.select(names).to_pandas()
    frame["spent_s"] = total_s(requests)
    frame["link_s"] = latency.part_s(requests, "link")
    found = []
    for (channel, users, pipeline, point), rows in frame.groupby(["channel", "users", "pipeline", "point"], sort=False):
        done = rows[np.isfinite(rows["spent_s"])]
        level = (levels or {}).get((str(pipeline), str(point)))
        in_time = None
        if deadline_s is not None:
            met_S = (rows["spent_s"] <= deadline_s).groupby(rows["sample"]).mean().to_numpy(float)
            in_time = percentiles.share(met_S[:, None], confidence=confidence).estimate
        summary = CellSummary(
            channel=str(channel),
            users=int(users),
            pipeline=str(pipeline),
            point=str(point),
            answered=len(done) / len(rows),
            mean_s=mean_of_rows(done, confidence, level, float(done["link_s"].mean()) if len(done) else 0.0),
            p50_s=percentile_of_rows(rows, 0.5, confidence),
            p99_s=percentile_of_rows(rows, 0.99, confidence),
            in_time=in_time,
        )
        if why := (unstable or {}).get((summary.channel, summary.users, summary.pipeline, summary.point)):
            none = Estimate(math.nan, math.nan, math.nan, why)
            summary = dataclasses.replace(
                summary, mean_s=none, p50_s=none, p99_s=none, in_time=None if in_time is None else none
            )
        found.append(summary)
    return found


def replicated(
    profile: Profile, cell: Cell, statistic: Statistic, *, resamples: int = 20, confidence: float = 0.95
) -> Estimate:
    """A statistic of T in a system with queues, its interval over pictures and random streams together.

    The value is the mean of ``resamples`` replications on the timed pictures; the interval comes from as many, each on
    pictures drawn anew. An unstable system, and fewer than :data:`harness.analysis.means.MIN_PICTURES` pictures,
    promise none; the unstable one has no value either.
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
    engine = _engine(cell)
    cells = [dataclasses.replace(cell, seed=cell.seed + b) for b in range(resamples)]
    n_pictures = len(set(profile.samples))
    few = too_few(n_pictures)
    timed = [total_s(replay(profile, own, engine=engine)) for own in cells]
    anew = [] if few else [total_s(replay(_resampled(profile, own.seed), own, engine=engine)) for own in cells]
    level = level_of(profile)
    # The same streams at a level up and down: what the level's error does, and nothing else.
    moved = [
        [total_s(replay(_at_level(profile, factor * level.error), own, engine=engine)) for own in cells[:_AT_LEVELS]]
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


def _at_level(profile: Profile, log_level: float) -> Profile:
    """The profile with all times longer by a factor, exp(log_level)."""
    factor = math.exp(log_level)
    return dataclasses.replace(
        profile, device_s=factor * profile.device_s, server_stage_s=factor * profile.server_stage_s
    )


def _engine(cell: Cell) -> Engine:
    """The compiled path wherever it applies: there are many replays, of which each is too short to ask for it."""
    from harness.replay import vector

    return "vector" if vector.applies(cell.spec, cell.users) else "auto"


@dataclasses.dataclass(frozen=True, slots=True)
class Crossover:
    """Where two schemes are equally fast; below ``rate_bps`` the one with fewer bytes answers first.

    ``rate_bps`` is None where one of them, ``faster_throughout``, is faster at every rate looked at; ``sure`` says
    whether the pictures leave no doubt of it at either end. Below ``unstable_below_bps`` neither keeps up with what is
    asked, and neither is faster; it is None where one does at every rate, infinity where none does.
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
    interval, as :func:`replicated`'s, comes from as many crossings, each of pictures drawn anew and a stream of its
    own, and from what rounds and starts leave unknown of the two schemes' levels. An end is open, 0 or infinity, where
    such a crossing is not between the rates looked at. Where a system is unstable the other answers first. Raises
    ResultsError for profiles of other samples, and for a recording that stops, which has no mean rate.
    """
    if a.samples != b.samples:
        raise ResultsError(f"{a.pipeline} and {b.pipeline} were not timed on the same samples and repeats")
    if (own_bps := mean_bps(uplink)) is None:
        raise ResultsError(f"{uplink.label} stops, and has no mean rate to look for a crossing at; let it loop")
    base = Cell(spec=spec, uplink=uplink, users=users, seed=0)
    pairs = [(a, b)] * resamples
    drawn = [(_resampled(a, seed), _resampled(b, seed)) for seed in range(resamples)]
    engine = _engine(base)

    def difference(log_rate: float, of: Mapping[int, tuple[Profile, Profile]]) -> float:
        cell = dataclasses.replace(base, scale=math.exp(log_rate) / own_bps)
        late_a, late_b = (bool(instability(profile, cell)) for profile in (a, b))
        if late_a or late_b:
            return math.nan if late_a and late_b else math.inf if late_a else -math.inf
        found = []
        for seed, (one, other) in of.items():
            own = dataclasses.replace(cell, seed=seed)
            mean_s = [mean(total_s(replay(profile, own, engine=engine))) for profile in (one, other)]
            found.append(mean_s[0] - mean_s[1])
        return float(np.mean(found))

    everything = dict(enumerate(pairs))
    grid = np.linspace(math.log(low_bps), math.log(high_bps), _LINK_RATES).tolist()
    told = [(x, value) for x in grid if not math.isnan(value := difference(x, everything))]
    unstable = None if len(told) == len(grid) else math.exp(told[0][0]) if told else math.inf
    if not told:
        return Crossover(None, None, None, False, unstable)
    timed = [Timed.of(profile) for profile in (a, b)]
    few = too_few(len(set(a.samples)))
    if not few and timed_apart(*timed):
        few = apart(*(one.start_R for one in timed))
    crossing = _first_crossing(told, functools.partial(difference, of=everything))
    if crossing is None:
        faster = a.pipeline if told[0][1] + told[-1][1] < 0 else b.pipeline
        ends = [difference(told[place][0], {seed: pair}) for place in (0, -1) for seed, pair in enumerate(drawn)]
        sure = not few and (all(end < 0 for end in ends) or all(end > 0 for end in ends))
        return Crossover(None, None, faster, sure, unstable)
    below = a.pipeline if told[0][1] < 0 else b.pipeline
    rate = math.exp(crossing)
    if few:
        return Crossover(Estimate(rate, math.nan, math.nan, few), below, None, False, unstable)
    logs, beyond = [], set()
    coarse = [x for x, _ in told[:: max(1, len(told) // _COARSE)]] + [told[-1][0]]
    for seed, pair in enumerate(drawn):
        of_pair = functools.partial(difference, of={seed: pair})
        seen = [(x, of_pair(x)) for x in dict.fromkeys(coarse)]
        if (found := _first_crossing(seen, of_pair)) is not None:
            logs.append(found)
        else:
            # All on the side of the lower rates: it crosses beyond the fastest; else below the slowest.
            beyond.add("high" if (seen[0][1] < 0) == (told[0][1] < 0) else "low")
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
        pair = _at_level(a, a_level), _at_level(b, b_level)
        return difference(log_rate, dict.fromkeys(range(_AT_LEVELS), pair))

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
    """The half-width of the interval of resampled crossings, as of :func:`replicated`; infinite of fewer than two."""
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


def max_users(
    profile: Profile,
    spec: Replay,
    uplink: Uplink,
    *,
    limit_s: float,
    q: float = 99.0,
    at_most: int = MOST_USERS,
    resamples: int = 20,
    confidence: float = 0.95,
) -> tuple[int, dict[int, Estimate]]:
    """The most users with whom the q-th percentile of T stays within ``limit_s``, and the percentiles looked at.

    The upper end of the percentile's interval (:func:`replicated`) must be within the limit. Where the timed requests
    do not certify the percentile, or are too few for an interval, the percentile itself must be, and its reason says
    so. It looks at doubled numbers up to ``at_most`` and then bisects: the percentile is taken to grow with the users.
    """
    seen: dict[int, Estimate] = {}
    doubt = certified(profile, uplink, q / 100)

    def carries(users: int) -> bool:
        cell = Cell(spec=spec, uplink=uplink, users=users, seed=0)
        tail = replicated(profile, cell, percentile(q), resamples=max(resamples, spec.seeds), confidence=confidence)
        if doubt and not tail.reason:
            tail = Estimate(tail.value, math.nan, math.nan, doubt)
        seen[users] = tail
        return (tail.value if math.isnan(tail.high) else tail.high) <= limit_s

    too_many = 1
    while too_many <= at_most and carries(too_many):
        too_many *= 2
    enough, too_many = too_many // 2, min(too_many, at_most + 1)
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        enough, too_many = (middle, too_many) if carries(middle) else (enough, middle)
    return enough, seen


def certified(profile: Profile, uplink: Uplink, p: float) -> str:
    """Why the timed pictures do not certify a percentile of T over an uplink; empty where they do.

    By :func:`harness.analysis.percentiles.percentile` of the timed stages and, at a constant rate, the link.
    """
    if not p < 1:
        return "no number of requests certifies the slowest of all"
    link_s = 8 * profile.payload_bytes / uplink.rate_bps if isinstance(uplink, ConstantUplink) else 0.0
    spent_SR = matrix(profile, profile.device_s + profile.server_s + link_s)
    return percentiles.percentile(spent_SR, p).estimate.reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One scheme at one point over one uplink: what it scores, how fast it answers, and whether it will do."""

    pipeline: str
    point: str
    score: float
    mean_s: Estimate
    p95_s: Estimate
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
    resamples: int = 20,
    population: Population | None = None,
    confidence: float = 0.95,
) -> list[Advice]:
    """Every profile replayed over ``uplink``; those that will do come first, the fastest of them at the top.

    A profile will do if its score is at least ``min_score`` and at least ``min_share`` of its requests are answered
    within ``deadline_s``; ``rejected`` says why another will not. ``population`` brings the strata and payloads of the
    whole benchmark into the means of a system without queues.
    """
    advices = []
    for profile in profiles:
        cell = Cell(spec=spec, uplink=uplink, users=spec.users[0], seed=0)
        if requests_meet(cell):
            asked = [mean, percentile(95), lambda spent: share_in_time(spent, deadline_s)]
            mean_s, p95_s, in_time = replicated_all(profile, cell, asked, resamples=resamples, confidence=confidence)
            if mean_s.reason.startswith("unstable"):
                in_time = dataclasses.replace(in_time, value=0.0)
            elif in_time.high > 1:
                in_time = dataclasses.replace(in_time, high=1.0)
        else:
            times_SR, known_s = times_and_known(profile, spec, uplink, population)
            own_s = mean_latency(
                np.maximum(times_SR, 1e-12),
                *strata(profile, population),
                start_R=Timed.of(profile).start_R,
                confidence=confidence,
            )
            mean_s = own_s.plus(known_s)
            spent_SR = times_and_known(profile, spec, uplink, None)[0]
            p95_s = percentiles.percentile(spent_SR, 0.95, confidence=confidence).estimate
            in_time = percentiles.share(spent_SR <= deadline_s, confidence=confidence).estimate
        score = scores[profile.pipeline, profile.point]
        reasons = [f"scores {score:.1%}, below {min_score:.0%}"] if score < min_score else []
        if mean_s.reason.startswith("unstable"):
            reasons.append(mean_s.reason)
        elif in_time.value < min_share:
            reasons.append(f"answers {in_time.value:.1%} in time, below {min_share:.0%}")
        advices.append(
            Advice(
                pipeline=profile.pipeline,
                point=profile.point,
                score=score,
                mean_s=mean_s,
                p95_s=p95_s,
                deadline_share=in_time,
                rejected=" and ".join(reasons),
            )
        )
    return sorted(advices, key=lambda advice: (bool(advice.rejected), advice.mean_s.value))


def _resampled(profile: Profile, seed: int) -> Profile:
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
