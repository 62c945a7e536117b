"""The rows that join measuring, selecting, replaying and drawing.

A run is a set of immutable rows and a manifest. Nothing in them is a mean: sums and intervals are derived from
them whenever they are shown. Every duration is in seconds, every size in bytes, every instant in seconds since the
start of its replay.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 1
"""Raised with every change of a row's fields or of their meaning; runs of different versions are not compared."""

Side = Literal["device", "server"]
Source = Literal["measured", "recorded", "estimated", "reported"]
"""measured: timed in this run. recorded: timed earlier, on the machine named. estimated: by roofline.
reported: copied from a publication, cited."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """How long one stage of one request took, once."""

    run: str
    pipeline: str
    point: str
    sample: str
    repeat: int
    side: str
    stage: str
    seconds: float
    energy_j: float | None
    machine: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """What one request carried over the link and what was answered.

    ``category`` and ``group`` come from the benchmark: a metric that is more than the share of right answers
    (MME's pairs, MMBench's rotations) needs them. ``correct`` is this one question's 0 or 1.
    """

    run: str
    pipeline: str
    point: str
    sample: str
    category: str
    group: str
    payload_bytes: int
    visual_tokens: int
    answer: str
    truth: str
    correct: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One replayed request. An instant is null when the request never reached it (a timeout).

    ``replay`` names the cell of the sweep (system, arrivals); ``channel`` the uplink; ``seed`` its random stream.
    """

    replay: str
    pipeline: str
    point: str
    sample: str
    channel: str
    users: int
    seed: int
    user: int
    submitted_s: float
    device_done_s: float | None
    sent_s: float | None
    delivered_s: float | None
    answered_s: float | None


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema(row: type) -> pa.Schema:
    """The Arrow schema of a row class: field for field, null only where the class says ``| None``."""
    fields = []
    for name, hint in typing.get_type_hints(row).items():
        optional = isinstance(hint, types.UnionType)
        kind = next(t for t in typing.get_args(hint) if t is not type(None)) if optional else hint
        fields.append(pa.field(name, _ARROW[kind], nullable=optional))
    return pa.schema(fields)


def to_table(row: type, rows: Iterable[object]) -> pa.Table:
    """Rows of class ``row`` as an Arrow table of its schema."""
    materialised: Sequence[object] = list(rows)
    wanted = schema(row)
    return pa.table({name: [getattr(r, name) for r in materialised] for name in wanted.names}, schema=wanted)
