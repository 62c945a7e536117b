"""Replayed requests and measured stages as a timeline in the Trace Event Format, which Perfetto and Chrome open.

A *process* is a scheme at an uplink, or the stages of a scheme as they were measured; a *thread* a user, or a side.
Where requests of one user overlap they are on several threads of that user, so that slices of a thread nest. All
instants are whole microseconds. Of measured stages the durations are known and the instants are not: they are laid end
to end.

The format: "Trace Event Format", Google, 2016; https://perfetto.dev/docs/getting-started/other-formats
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis import Analysis, latency

MOST_REQUESTS = 200
"""Of each scheme at each uplink; a browser shows some hundred thousand slices."""

_PARTS = (
    ("wait for the device", "submitted_s", "device_begun_s"),
    ("device", "device_begun_s", "device_done_s"),
    ("link", "device_done_s", "delivered_s"),
    ("wait for a server", "delivered_s", "server_begun_s"),
    ("server", "server_begun_s", "server_done_s"),
    ("answer", "server_done_s", "answered_s"),
)

Event = dict[str, Any]


def trace(runs: Sequence[Analysis]) -> str:
    """The trace of the selected points of runs as JSON; ``otherData`` says what is left out."""
    events: list[Event] = []
    notes: dict[str, str] = {}
    pids = itertools.count(1)
    for run in runs:
        name = run.manifest.name
        label = f" ({run.manifest.label})" if run.manifest.label else ""
        notes[name] = f"{run.validity}{label}; scenario {run.manifest.scenario_hash}, code {run.manifest.commits}"
        chosen = [(p, q) for p, q in run.points.loc[run.points["selected"], ["pipeline", "point"]].to_numpy().tolist()]
        for cell, rows in latency.cells(_of(run.record.requests, chosen)):
            users = f", {cell['users']} users" if int(str(cell["users"])) > 1 else ""
            title = f"{name}: {cell['pipeline']} at {cell['point']}, {cell['channel']}{users}, replayed{label}"
            shown = _earliest(rows)
            if rows.num_rows > shown.num_rows:
                notes[title] = f"the first {shown.num_rows} of {rows.num_rows} requests"
            events += replayed(next(pids), title, shown)
        for pipeline, point in chosen:
            title = f"{name}: {pipeline} at {point}, stages as timed, laid end to end{label}"
            events += _stages(next(pids), title, _of(run.record.stages, [(pipeline, point)]))
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": notes}, ensure_ascii=False)


def _of(rows: pa.Table, keys: Sequence[tuple[str, str]]) -> pa.Table:
    wanted = pa.array([f"{pipeline}\n{point}" for pipeline, point in keys], pa.string())
    return rows.filter(pc.is_in(pc.binary_join_element_wise(rows["pipeline"], rows["point"], "\n"), wanted))


def _earliest(rows: pa.Table) -> pa.Table:
    """The requests that were submitted first, of the first seed."""
    rows = rows.filter(pc.equal(rows["seed"], pc.min(rows["seed"])))
    return rows.take(pc.sort_indices(rows, [("submitted_s", "ascending"), ("user", "ascending")])[:MOST_REQUESTS])


def replayed(pid: int, title: str, rows: pa.Table) -> Iterator[Event]:
    """The slices of request rows: a process, threads for its users, each request with its parts within it."""
    yield _named(pid, None, title)
    free_us: dict[int, list[tuple[int, int]]] = {}
    """Of each user the threads, each with when it is free again."""
    tids = itertools.count(1)
    for row in rows.to_pylist():
        begun, ended = _us(row["submitted_s"]), _last_us(row)
        threads = free_us.setdefault(row["user"], [])
        place = next((place for place, (_, free) in enumerate(threads) if free <= begun), None)
        if place is None:
            place = len(threads)
            threads.append((next(tids), 0))
            yield _named(pid, threads[place][0], f"user {row['user']}" + (f", {place + 1}" if place else ""))
        tid = threads[place][0]
        threads[place] = tid, ended
        answered = row["answered_s"] is not None
        about = {"sample": row["sample"], "answered": answered}
        yield _slice(pid, tid, "request" if answered else "request, never answered", begun, ended, about)
        for name, start, end in _PARTS:
            if row[start] is not None and row[end] is not None and _us(row[end]) > _us(row[start]):
                yield _slice(pid, tid, name, _us(row[start]), _us(row[end]), {})


def _stages(pid: int, title: str, rows: pa.Table) -> Iterator[Event]:
    """Requests one after the other, in rounds as they were timed; a thread for each side."""
    if not rows.num_rows:
        return
    yield _named(pid, None, title)
    sides = list(dict.fromkeys(rows["side"].to_pylist()))
    for tid, side in enumerate(sides, 1):
        yield _named(pid, tid, side)
    at_s = 0.0
    requests = itertools.groupby(rows.sort_by([("repeat", "ascending"), ("sample", "ascending")]).to_pylist(), _request)
    for (repeat, sample), stages in itertools.islice(requests, MOST_REQUESTS):
        for side, of_side in itertools.groupby(stages, lambda row: str(row["side"])):
            parts = list(of_side)
            ends_s = list(itertools.accumulate((row["seconds"] for row in parts), initial=at_s))
            tid = sides.index(side) + 1
            about = {"sample": sample, "repeat": repeat}
            yield _slice(pid, tid, f"{side} half", _us(at_s), _us(ends_s[-1]), about)
            for row, begun_s, ended_s in zip(parts, ends_s, ends_s[1:], strict=False):
                known = {name: row[name] for name in ("seconds", "cpu_s", "source", "machine")}
                yield _slice(pid, tid, row["stage"], _us(begun_s), _us(ended_s), known)
            at_s = ends_s[-1]


def _request(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["repeat"], row["sample"]


def _last_us(row: Mapping[str, Any]) -> int:
    return max(_us(row[end]) for _, start, end in _PARTS for end in (start, end) if row[end] is not None)


def _us(seconds: float) -> int:
    # Floor keeps the order of instants, and a part within its request.
    return math.floor(seconds * 1e6)


def _named(pid: int, tid: int | None, name: str) -> Event:
    kind = "process_name" if tid is None else "thread_name"
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid or 0, "ts": 0, "args": {"name": name}}


def _slice(pid: int, tid: int, name: str, begun_us: int, ended_us: int, about: Mapping[str, Any]) -> Event:
    known = {key: value for key, value in about.items() if value is not None}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": begun_us, "dur": ended_us - begun_us, "args": known}
