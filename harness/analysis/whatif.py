"""Questions that only a replay answers: the share within a deadline, the users a server carries, what to choose.

Every interval is over the timed pictures, never over resamples of the simulator, which could be had in any number.
Where requests do not meet (one user, who asks again when answered, over a constant link) each timed request is replayed
once, and the times by picture and round are what :mod:`harness.analysis.means` and :mod:`harness.analysis.percentiles`
rest on; where they queue, :mod:`harness.analysis.replications` replays resampled pictures.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from harness.analysis import latency, percentiles
from harness.analysis.cells import mean_of_rows, of_pictures, percentile_of_rows, share_of_rows, times_and_known
from harness.analysis.latency import share_in_time, total_s
from harness.analysis.means import Estimate, Level, mean_latency
from harness.analysis.replications import mean, percentile, replicated, replicated_all
from harness.analysis.setting import Population, Timed, matrix, requests_meet, strata
from harness.replay.cell import Cell
from harness.replay.profile import Profile
from harness.scenario.replay import ConstantUplink, Replay, Uplink
from harness.units import format_percent

MOST_USERS = 1024
"""The search stops here."""


def deadline_share(requests: pa.Table, deadline_s: float, confidence: float = 0.95) -> Estimate:
    """The share of requests answered within ``deadline_s``, by pictures; those never answered have missed it."""
    met = total_s(requests) <= deadline_s
    return percentiles.share(of_pictures(requests, met)[:, None], confidence=confidence).estimate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One scheme in one cell of a sweep, its intervals over the pictures.

    The mean is of the requests that were answered; in a percentile, one never answered counts as the slowest.
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
    queue is not, for which :func:`replicated` replays again. ``levels`` are what rounds and starts leave unknown of
    each pipeline and point (:func:`harness.analysis.setting.level_of`). Percentiles have no interval but where the
    pictures certify them. A cell that is ``unstable`` (:func:`harness.analysis.loads.unstable_cells`) has that reason
    and no numbers but the share that was answered.
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
            in_time = share_of_rows(rows.assign(inside=rows["spent_s"] <= deadline_s), confidence)
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
    """One scheme at one point over one uplink: what it scores, how fast it answers, and whether it qualifies."""

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
    """Every profile replayed over ``uplink``; those that qualify come first, the fastest of them at the top.

    A profile qualifies if its score is at least ``min_score`` and at least ``min_share`` of its requests are answered
    within ``deadline_s``; ``rejected`` says why another does not. ``population`` brings the strata and payloads of the
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
        reasons = [f"scores {score:.1%}, below {format_percent(min_score)}"] if score < min_score else []
        if mean_s.reason.startswith("unstable"):
            reasons.append(mean_s.reason)
        elif in_time.value < min_share:
            reasons.append(f"answers {in_time.value:.1%} in time, below {format_percent(min_share)}")
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
