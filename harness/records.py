"""The rows that join measuring, selecting, replaying and drawing.

A run is a set of immutable rows and a manifest. Nothing in them is a mean: sums and intervals are derived from
them whenever they are shown. Every duration is in seconds, every size in bytes, every instant in seconds since the
start of its replay.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 4
"""Incremented with every change of a row's fields or of their meaning; runs of different versions are not compared."""

Side = Literal["device", "server"]
Source = Literal["measured", "recorded", "estimated", "reported"]
"""measured: timed in this run. recorded: timed earlier, on the machine named. estimated: by roofline.
reported: copied from a publication, cited."""

Quantity = Literal["weights_bytes", "peak_memory_bytes", "operations"]
"""What a :class:`ResourceRow` is about: the weights that a half holds, the most memory that it needs while it works
(weights included), the floating-point operations of a stage."""

PointKey = tuple[str, str]
"""A pipeline and the label of one of its points."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One question of a run, with its pictures.

    ``sample`` is its key in all other tables, unique in the run; ``id`` is its name in the benchmark. ``picture`` is a
    digest of the picture files' bytes: questions that share it are not independent. ``category`` and ``group`` come
    from the benchmark; a metric that is more than the share of right answers (MME's pairs, MMBench's rotations) needs
    them. ``pictures`` is the number of its pictures; ``width_px`` and ``height_px`` are the size of the first.
    ``file_bytes`` is the size of all their original files, ``text_bytes`` that of the question's text in UTF-8.
    ``patches`` is the number of patches into which the run's backbone cuts all its pictures.
    """

    sample: str
    benchmark: str
    id: str
    picture: str
    pictures: int
    category: str
    group: str
    width_px: int
    height_px: int
    patches: int
    file_bytes: int
    text_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """The time of one stage of one request, measured once.

    ``seconds`` is wall time and ``cpu_s`` the process's processor time, null where it is not known. ``waited_s`` is the
    part of the wall time in which the process was kept from running: because others had the processor, or because the
    process or the machine stood still. ``load`` is the share of all the machine's processors that other programs kept
    busy around the request, from 0 to 1. Both are null if the system does not report them. ``round`` is the round in
    which the request was timed, ``start`` the start of the process (from 0): times drift between rounds, and more
    between starts. ``unit`` is the key of the unit that the row belongs to.
    """

    run: str
    unit: str
    pipeline: str
    point: str
    sample: str
    repeat: int
    round: int
    start: int
    side: str
    stage: str
    seconds: float
    cpu_s: float | None
    waited_s: float | None = None
    load: float | None = None
    machine: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """The time of one request over a real network; a run in one process has no such rows.

    ``round_trip_s`` is from the first byte sent to the last byte of the answer received, on the device's clock.
    ``residence_s`` is from the last byte received to the first byte of the answer, on the server's clock; it includes
    ``queue_s``, in which the request waited for others. T_link, up and down together, is the difference of the two.
    ``set_up_s`` is the time to open the connection before that, null if it was open. ``sent_bytes`` and
    ``received_bytes`` include HTTP headers and the question. ``channel_s`` is the time that ``sent_bytes`` take in the
    channel that shaped the sending, null if it was not shaped. ``unit`` and ``start`` are as in :class:`StageRow`.
    """

    run: str
    unit: str
    pipeline: str
    point: str
    sample: str
    repeat: int
    start: int
    payload_bytes: int
    sent_bytes: int
    received_bytes: int
    set_up_s: float | None
    round_trip_s: float
    residence_s: float
    queue_s: float
    channel_s: float | None
    machine: str
    server: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """The payload of one request and its answer.

    ``payload_bytes`` includes the envelope. ``prompt_tokens`` is the number of tokens that the language model read,
    including the ``visual_tokens``; ``answer_tokens`` is the number that it wrote. ``truth`` is what the answer was
    judged against, ``correct`` the verdict on this one question. ``unit`` is as in :class:`StageRow`.
    """

    run: str
    unit: str
    pipeline: str
    point: str
    sample: str
    payload_bytes: int
    visual_tokens: int
    prompt_tokens: int
    answer_tokens: int
    answer: str
    truth: str
    correct: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRow:
    """The energy of one rail of one side over a block of requests, or over one request.

    ``sample`` is null for a block of several requests. ``energy_j`` is the energy that the ``sensor`` counted in
    ``seconds``; ``idle_j`` is that of the idle block after it, ``idle_s`` long. Both are null if no idle block was
    measured.
    """

    run: str
    unit: str
    pipeline: str
    point: str
    sample: str | None
    block: int
    requests: int
    side: str
    rail: str
    sensor: str
    seconds: float
    energy_j: float
    idle_s: float | None
    idle_j: float | None
    machine: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRow:
    """A resource other than time that a half or one of its stages needs: a :data:`Quantity` and its value.

    ``stage`` is empty for a half as a whole; ``sample`` is null if the value does not belong to one request.
    """

    run: str
    unit: str
    pipeline: str
    point: str
    sample: str | None
    side: str
    stage: str
    quantity: str
    value: float
    machine: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One replayed request. An instant is null if the request never reached it (a timeout).

    ``replay`` names the system and its arrivals; ``channel`` names the uplink, and ``rate_bps`` is its rate if it has
    one; ``seed`` names the random stream. The instants, in order: ``submitted``; ``device_begun`` and ``device_done``,
    between which the device works on this request; ``sent``, when the last byte has left; ``delivered``, when it has
    arrived; ``server_begun`` and ``server_done``, between which a server works on it; ``answered``, when the answer is
    back. If the device answers a request, all instants from ``sent`` on equal ``device_done``.
    """

    replay: str
    pipeline: str
    point: str
    sample: str
    channel: str
    rate_bps: float | None
    users: int
    seed: int
    user: int
    submitted_s: float
    device_begun_s: float | None
    device_done_s: float | None
    sent_s: float | None
    delivered_s: float | None
    server_begun_s: float | None
    server_done_s: float | None
    answered_s: float | None


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@functools.cache
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
