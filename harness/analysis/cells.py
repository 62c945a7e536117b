"""The latency of a point in each cell of a replay, as the closing table and the figures show it.

A cell is a system, an uplink, a number of users and a point; :mod:`harness.analysis.setting` is what it rests on. Two
kinds differ in where their intervals come from:

- Where requests do not meet (one user, who asks again when answered, over a constant link) T is the timed device and
  server stages of a request and a link time that its bytes decide. The mean of the first two over the whole benchmark
  is found by a line on patches (:func:`harness.analysis.means.mean_latency`); the link time is the mean over the
  payloads of **all** questions, which are known, and is added; so is a batch's window, which a lone request waits for
  in vain. A picture's repeats are one observation.
- Where they queue, or the link's rate varies, the rows of the replay are summed up by picture, and the scatter between
  seeds is added. A system that receives more work than it can do is ``unstable`` and has no mean.

A percentile is claimed only where the pictures' effective number of requests certifies it.

    S timed pictures   R rounds   N questions of the benchmark
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike

from harness.analysis import latency, means, percentiles
from harness.analysis.latency import total_s
from harness.analysis.loads import instability
from harness.analysis.means import Estimate, mean_latency
from harness.analysis.setting import Floats, Population, Setting, level_of, matrix, strata
from harness.errors import ResultsError
from harness.records import PointKey
from harness.replay.cell import Cell, replay
from harness.replay.profile import Profile
from harness.scenario.replay import ClosedLoop, ConstantUplink, Replay, Uplink, Wire

_BARE = Wire()


def latencies(requests: pa.Table, setting: Setting, deadline_s: float | None = None) -> pd.DataFrame:
    """The parts of the latency in each cell of a replay.

    One row for each of :data:`harness.analysis.latency.CELL` and part (device, link, wait, server, total), by uplink
    (rates upwards, then those without one rate, by name) and in the order of the rows:

    - ``requests``; ``done``, how many of them finished the part; ``timed``, how many timed ones they were drawn from
    - ``mean_s`` with its interval, ``p50_s``, ``p90_s``, ``p99_s`` with theirs, null where there is none
    - ``share``, ``share_low``, ``share_high``: of requests answered within ``deadline_s``; null where it is None, and
      where the system is unstable, whose share falls with the replay's length
    - ``source``: the least direct of its stages'; null where it has none, as link and wait, which are replayed
    - ``reason``: why there is no interval, or no mean

    Raises ResultsError for requests of a point that has no stage rows.
    """
    found = []
    for cell, rows in latency.cells(requests):
        key = (str(cell["pipeline"]), str(cell["point"]))
        if key not in setting.profiles:
            raise ResultsError(
                f"{key[0]} at {key[1]} has requests but no stage rows; they were replayed from other rows"
            )
        of_parts = (
            _alone(setting, key, cell, deadline_s)
            if setting.alone(cell)
            else _met(setting, key, cell, rows, deadline_s)
        )
        for part, estimates in of_parts:
            seconds_R = latency.part_s(rows, part)
            share = estimates.get("share", Estimate(math.nan, math.nan, math.nan))
            found.append(
                {
                    **cell,
                    "part": part,
                    "requests": rows.num_rows,
                    "done": int(np.isfinite(seconds_R).sum()),
                    "timed": len(setting.profiles[key].samples),
                    **_columns(estimates),
                    "share": share.value,
                    "share_low": share.low,
                    "share_high": share.high,
                    "source": latency.part_source(setting.sources, key, part),
                    "reason": estimates["mean"].reason,
                }
            )
    return pd.DataFrame(found, columns=list(latency.COLUMNS))


def _alone(
    setting: Setting, key: PointKey, cell: Mapping[str, Any], deadline_s: float | None
) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """The parts of a point whose requests do not meet, each with its mean and percentiles."""
    profile, timed = setting.profiles[key], setting.timed(key)
    uplink = setting.uplink(str(cell["channel"]))
    assert uplink is not None
    _, known_s = times_and_known(profile, setting.system, uplink, setting.population)
    own_SR, _ = times_and_known(profile, setting.system, uplink, None)
    wait_SR = _window_s(setting.system) * matrix(profile, (~profile.stays).astype(np.float64))
    wait_s = mean_wait_s(profile, setting.system, setting.population)
    stratum_S, stratum_N = strata(profile, setting.population)
    parts = {"device": timed.device_SR, "server": timed.server_SR}
    values = dict(zip(parts, means.split_mean(timed.total_SR, list(parts.values()), stratum_S, stratum_N), strict=True))
    total = mean_latency(
        timed.total_SR, stratum_S, stratum_N, start_R=timed.start_R, confidence=setting.confidence
    ).plus(known_s)
    link_SR = own_SR - timed.device_SR - timed.server_SR - wait_SR
    spent = {"link": link_SR, "wait": wait_SR, "total": own_SR, **parts}
    known_of = {"link": known_s - wait_s, "wait": wait_s}
    for part in latency.PARTS:
        if part == "total":
            mean = total
        elif part in values and (parts[part] > 0).all():
            mean = mean_latency(parts[part], stratum_S, stratum_N, start_R=timed.start_R, confidence=setting.confidence)
            mean = dataclasses.replace(mean, value=values[part])
        elif part in values and parts[part].any():
            mean = Estimate(values[part], math.nan, math.nan, "some requests have no such part")
        else:
            known = known_of.get(part, 0.0)
            mean = Estimate(known, known, known)
        estimates = {"mean": mean}
        for name, p in latency.PERCENTILES.items():
            estimates[name] = percentiles.percentile(spent[part], p, confidence=setting.confidence).estimate
        if part == "total" and deadline_s is not None:
            estimates["share"] = percentiles.share(own_SR <= deadline_s, confidence=setting.confidence).estimate
        yield part, estimates


def _met(
    setting: Setting, key: PointKey, cell: Mapping[str, Any], rows: pa.Table, deadline_s: float | None
) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """The same of a point whose requests may meet, from the replay's rows."""
    frame = rows.select(["seed", "sample"]).to_pandas()
    spent_s = total_s(rows)
    answered_R = np.isfinite(latency.part_s(rows, "total"))
    link_s = latency.part_s(rows, "link")[answered_R]
    still_s = {"total": float(link_s.mean()) if link_s.size else 0.0}
    level = level_of(setting.profiles[key], setting.population)
    unstable = instability(setting.profiles[key], setting.judged(cell))
    for part in latency.PARTS:
        frame["spent_s"] = latency.part_s(rows, part)
        mean = mean_of_rows(
            frame[answered_R], setting.confidence, None if part == "link" else level, still_s.get(part, 0.0)
        )
        estimates = {"mean": mean}
        for name, p in latency.PERCENTILES.items():
            estimates[name] = percentile_of_rows(frame, p, setting.confidence)
        if part == "total" and deadline_s is not None:
            estimates["share"] = share_of_rows(frame.assign(inside=spent_s <= deadline_s), setting.confidence)
        if unstable:
            estimates = dict.fromkeys(estimates, Estimate(math.nan, math.nan, math.nan, unstable))
        yield part, estimates


def _columns(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """A part's estimates as columns; what is not finite is null."""
    found = {}
    for name in ("mean", *latency.PERCENTILES):
        for end in ("value", "low", "high"):
            number = float(getattr(estimates[name], end))
            column = f"{name}_s" if end == "value" else f"{name}_{end}_s"
            found[column] = number if math.isfinite(number) else math.nan
    return found


def times_and_known(
    profile: Profile, spec: Replay, uplink: Uplink, population: Population | None
) -> tuple[Floats, float]:
    """T by picture and round; with a population, T less the link's part, and the mean of that over all questions."""
    timed_s = profile.device_s + profile.server_s
    if population is not None and (profile.pipeline, profile.point) in population.payload_bytes:
        return matrix(profile, timed_s), mean_link_s(profile, spec, uplink, population)
    if bits_alone(uplink, spec) and spec.timeout_s is None:
        return matrix(profile, timed_s + 8 * profile.payload_bytes / uplink.rate_bps), 0.0
    return matrix(profile, total_s(replay(profile, _once(spec, uplink)))), 0.0


def mean_link_s(profile: Profile, spec: Replay, uplink: Uplink, population: Population) -> float:
    """The mean of the link's part over the payloads of all questions, for one user whose requests do not meet.

    With the window of a batch that waits to be filled, which is known as well.
    """
    n_bytes = population.n_bytes(profile)
    if bits_alone(uplink, spec):
        return 8 * _average(population, n_bytes) / uplink.rate_bps
    nothing = np.zeros(n_bytes.size)
    links = Profile(
        pipeline=profile.pipeline,
        point=profile.point,
        samples=tuple(str(place) for place in range(n_bytes.size)),
        payload_bytes=n_bytes,
        device_s=nothing,
        server_stages=("none",),
        server_stage_s=nothing[:, None],
    )
    return _average(population, total_s(replay(links, _once(spec, uplink))))


def mean_wait_s(profile: Profile, spec: Replay, population: Population) -> float:
    """How much of :func:`mean_link_s` is waiting: the window of a batch, for the questions that are sent."""
    window_s = _window_s(spec)
    return window_s * _average(population, population.n_bytes(profile) > 0) if window_s else 0.0


def _average(population: Population, values_N: ArrayLike) -> float:
    """The mean of all questions' values, as much as each counts."""
    weight_N = None if population.weight_N is None else np.asarray(population.weight_N, dtype=np.float64)
    return float(np.average(np.asarray(values_N), weights=weight_N))


def _window_s(spec: Replay) -> float:
    """How long a lone request waits for a batch to be filled."""
    return spec.batching.window_s if spec.batching is not None and spec.batching.waits else 0.0


def _once(spec: Replay, uplink: Uplink) -> Cell:
    """Each timed request once, for one user."""
    return Cell(spec=spec.model_copy(update={"requests": None}), uplink=uplink, users=1, seed=0)


def bits_alone(uplink: Uplink, spec: Replay) -> TypeGuard[ConstantUplink]:
    """Whether a lone request takes its stages and its bits over the rate, and nothing else."""
    free = not spec.answer.seconds and not _window_s(spec)
    return isinstance(uplink, ConstantUplink) and uplink.wire == _BARE and free


def mean_at(profile: Profile, setting: Setting, uplink: Uplink) -> float:
    """The mean T over the whole benchmark of a point whose requests do not meet, at any uplink, in seconds."""
    once = setting.system.model_copy(update={"arrivals": ClosedLoop(kind="closed_loop"), "users": (1,)})
    timed_SR, known_s = times_and_known(profile, once, uplink, setting.population)
    return mean_latency(np.maximum(timed_SR, 1e-12), *strata(profile, setting.population)).value + known_s


def of_pictures(requests: pa.Table, values: ArrayLike) -> Floats:
    """The mean of each sample's values, (S,)."""
    sample = requests["sample"].to_numpy(zero_copy_only=False).astype(np.str_)
    _, place = np.unique(sample, return_inverse=True)
    return np.bincount(place, np.asarray(values, np.float64)) / np.bincount(place)


def mean_of_rows(
    done: pd.DataFrame, confidence: float, level: means.Level | None = None, still_s: float = 0.0
) -> Estimate:
    """The mean of answered requests: pictures' means, with the scatter of the seeds beyond that of the pictures added.

    ``level`` is what rounds and starts leave unknown of all of it but ``still_s``, the link's part; what it does to
    waiting is taken to be in proportion.
    """
    if done.empty:
        return Estimate(math.inf, math.nan, math.nan, "no request was answered")
    value = float(done["spent_s"].mean())
    if not done["spent_s"].any():
        return Estimate(0.0, 0.0, 0.0)
    # A picture that never waited among others that did: times are above 0.
    mean_S = np.maximum(done.groupby("sample")["spent_s"].mean().to_numpy(float), 1e-12)
    pictures = mean_latency(mean_S[:, None], confidence=confidence)
    if pictures.reason:
        return Estimate(value, math.nan, math.nan, pictures.reason)
    over_streams = _over_streams(done, "spent_s", confidence)
    moved = 0.0 if level is None else level.half_width(confidence) * max(0.0, value - still_s)
    low = math.hypot(pictures.value - pictures.low, over_streams, moved)
    high = math.hypot(pictures.high - pictures.value, over_streams, moved)
    return Estimate(value, max(0.0, value - low), value + high)


def share_of_rows(rows: pd.DataFrame, confidence: float) -> Estimate:
    """The share of requests that are ``inside``, by pictures, with the scatter of the seeds added in squares."""
    inside_S = rows.groupby("sample")["inside"].mean().to_numpy(float)
    pictures = percentiles.share(inside_S[:, None], confidence=confidence).estimate
    if pictures.reason:
        return pictures
    over_streams = _over_streams(rows, "inside", confidence)
    low = math.hypot(pictures.value - pictures.low, over_streams)
    high = math.hypot(pictures.high - pictures.value, over_streams)
    return Estimate(pictures.value, max(0.0, pictures.value - low), min(1.0, pictures.value + high))


def _over_streams(rows: pd.DataFrame, column: str, confidence: float) -> float:
    """What the seeds leave unknown of a mean, as a half-width: zero of a single one, which shows nothing of it."""
    by_seed = rows.groupby("seed")[column].mean().to_numpy(float)
    streams = percentiles.over_replications(by_seed, confidence=confidence)
    return 0.0 if math.isnan(streams.low) else streams.high - streams.value


def percentile_of_rows(rows: pd.DataFrame, p: float, confidence: float) -> Estimate:
    """A percentile of requests with its interval by pictures (Woodruff); neither where they do not certify it."""
    spent_s = rows["spent_s"].to_numpy(float)
    value = latency.percentile(spent_s, p)
    inside_S = (rows["spent_s"] <= value).groupby(rows["sample"]).mean().to_numpy(float)
    ends = percentiles.ends_of_percentile(inside_S[:, None], p, confidence=confidence)
    if isinstance(ends, str):
        return Estimate(math.nan, math.nan, math.nan, ends)
    low, high = (latency.percentile(spent_s, max(end, 1e-12)) for end in ends)
    return Estimate(value, low, high)
