"""One cell of a sweep: a profile, an uplink, a number of users and a seed, replayed into request rows."""

import dataclasses
from typing import Literal

import numpy as np
import pyarrow as pa

from harness.channel.channel import Channel, open_shared
from harness.errors import ScenarioError
from harness.records import RequestRow, schema
from harness.replay.profile import Profile
from harness.replay.system import Instants, System
from harness.replay.workload import RandomStream, Workload, stream, workload
from harness.scenario.replay import ConstantUplink, Replay, Uplink

Simulator = Literal["auto", "simpy", "vector"]

_WORTH_COMPILING = 2_000
"""Requests from which loading the compiled path pays."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is replayed; ``uplink`` is one of the spec's and ``users`` one of its numbers.

    The uplink's rate is multiplied by ``scale``.
    """

    spec: Replay
    uplink: Uplink
    users: int
    seed: int
    scale: float = 1.0


def replay(profile: Profile, cell: Cell, *, simulator: Simulator = "auto") -> pa.Table:
    """The request rows of one cell, user after user, each user's in the order in which they were made.

    ``auto`` takes the vectorised path where it applies; it gives the same instants. A user of a closed loop whose
    request is never answered never makes the next one, and what was never made is not in the rows. Raises TraceError
    for an uplink's file, ScenarioError for recorded arrivals, that cannot be read.
    """
    load = workload(profile, cell.spec, cell.users, cell.seed)
    return request_rows(profile, cell, load, _instants(profile, cell, load, simulator))


def _instants(profile: Profile, cell: Cell, load: Workload, simulator: Simulator) -> Instants:
    links = channels(cell)
    if simulator == "vector" or (simulator == "auto" and len(load.row) >= _WORTH_COMPILING):
        # Compiled code takes a second to load, which a handful of requests does not justify.
        from harness.replay import vector

        if vector.applies(cell.spec, cell.users):
            return vector.run(profile, load, cell.spec, cell.uplink.wire, links)
        if simulator == "vector":
            raise ScenarioError(
                "the vectorised path does not apply to a timeout, to batches, or to a closed loop whose users meet"
            )
    return System(profile, load, cell.spec, cell.uplink.wire, links).run()


def channels(cell: Cell) -> list[Channel]:
    """A channel for every user, or the one that all share."""
    n = cell.users if cell.spec.sharing == "own" else 1
    seeds = [stream(cell.seed, RandomStream.CHANNEL, user) for user in range(n)]
    return [open_shared(cell.uplink, cell.spec.sharing, seed, cell.scale) for seed in seeds]


def request_rows(profile: Profile, cell: Cell, load: Workload, instants: Instants) -> pa.Table:
    """The rows of the requests that were made; only an uplink of one rate has a rate in its rows."""
    made = np.flatnonzero(~np.isnan(instants.submitted_s))
    constants = {
        "replay": cell.spec.label,
        "pipeline": profile.pipeline,
        "point": profile.point,
        "channel": cell.uplink.label,
    }
    rate_bps = cell.scale * cell.uplink.rate_bps if isinstance(cell.uplink, ConstantUplink) else None
    numbers = {"users": cell.users, "seed": cell.seed, "rate_bps": rate_bps}
    wanted = schema(RequestRow)
    columns = []
    for field in wanted:
        if field.name in constants:
            columns.append(pa.repeat(constants[field.name], len(made)))
        elif field.name in numbers:
            columns.append(pa.repeat(pa.scalar(numbers[field.name], field.type), len(made)))
        elif field.name == "sample":
            columns.append(pa.array(profile.samples).take(pa.array(load.row[made])))
        elif field.name == "user":
            columns.append(pa.array(load.user[made]))
        else:
            columns.append(pa.array(getattr(instants, field.name)[made], from_pandas=True))
    return pa.table(columns, schema=wanted)
