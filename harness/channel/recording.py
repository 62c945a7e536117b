"""A recorded link on disk: one Parquet file, whatever the tool that recorded it.

A recording of rates has the columns ``start_s`` (float64, strictly increasing from 0) and ``rate_bps`` (float64): each
row holds until the next begins, the last until ``end_s``. A rate of 0 is an outage: the link was tried and carried
nothing. A rate of null is a gap: nothing was recorded. A recording of packets has the one column ``at_ms`` (int64,
non-decreasing): each row is a chance to send ``packet_bytes``; it lasts until its last row, or 1 ms.

The Parquet metadata hold ``tofc_harness.trace``, a JSON object: version, kind (rates or packets), source (the file and
column it came from), end_s or packet_bytes, and notes, what a reader of the recording must know.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import files, units
from harness.channel.capacity import Floats
from harness.channel.varying import Packets, Pieces
from harness.errors import TraceError, printable

VERSION = 1
_KEY = b"tofc_harness.trace"
_MOST_ROWS = 50_000_000
_MOST_BPS = 1e15
_MOST_S = 1e9
"""Thirty years; beyond that, a clock or a unit is wrong."""


class _About(BaseModel):
    """The description in a recording's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int
    source: str
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    kind: Literal["rates", "packets"]
    end_s: float | None = Field(default=None, allow_inf_nan=False)
    packet_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RateRecording:
    """S spans: ``at_s`` (S + 1,) edges from 0, ``rate_bps`` (S,) with NaN in gaps."""

    at_s: Floats
    rate_bps: Floats
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rate_bps) == 0:
            raise TraceError(f"{self.source}: holds no rates; at least one span with a rate is expected")
        if not np.isfinite(self.at_s).all():
            raise TraceError(f"{self.source}: row {_first(~np.isfinite(self.at_s))} has no finite time")
        if (backwards := self.at_s[1:] <= self.at_s[:-1]).any():
            row = _first(backwards)
            after, before = self.at_s[row], self.at_s[row - 1]
            raise TraceError(
                f"{self.source}: times must increase, but {after:.9g} s follows {before:.9g} s (row {row})"
            )
        if self.at_s[0] != 0 or self.at_s[-1] > _MOST_S:
            raise TraceError(
                f"{self.source}: lasts from {self.at_s[0]:.9g} s to {self.at_s[-1]:.9g} s; a recording begins at 0 s "
                f"and ends by {_MOST_S:g} s"
            )
        if np.fmin.reduce(self.rate_bps) < 0 or np.fmax.reduce(self.rate_bps) > _MOST_BPS:
            row = _first((self.rate_bps < 0) | (self.rate_bps > _MOST_BPS))
            raise TraceError(
                f"{self.source}: the rate {self.rate_bps[row - 1]:.9g} bit/s in row {row} is not from 0 to "
                f"{_MOST_BPS:g} bit/s"
            )

    @property
    def duration_s(self) -> float:
        """From the first instant to the last."""
        return float(self.at_s[-1])

    @property
    def gaps_s(self) -> float:
        """For how long nothing was recorded."""
        return float(np.diff(self.at_s)[np.isnan(self.rate_bps)].sum())

    def channel(self, *, loop: bool, gaps: str) -> Pieces:
        """The recorded link, with gaps as outages (``outage``) or at the rate before them (``hold``)."""
        rate_bps = self.rate_bps
        if (missing := np.isnan(rate_bps)).any():
            known = np.maximum.accumulate(np.where(missing, -1, np.arange(len(rate_bps))))
            held = np.where(known >= 0, rate_bps[np.maximum(known, 0)], 0.0)
            rate_bps = held if gaps == "hold" else np.where(missing, 0.0, rate_bps)
        if not rate_bps.any():
            raise TraceError(f"{self.source}: never carries anything; none of its {len(rate_bps)} rates is above 0")
        return Pieces(self.at_s, rate_bps, loop)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PacketRecording:
    """K chances of ``packet_bytes`` each, at ``at_ms`` (K,), whole milliseconds."""

    at_ms: npt.NDArray[np.int64]
    packet_bytes: int
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.packet_bytes <= 1 << 24:
            raise TraceError(f"{self.source}: has packets of {self.packet_bytes} bytes; 1 to {1 << 24} are expected")
        if len(self.at_ms) == 0:
            raise TraceError(f"{self.source}: holds no packets; one whole millisecond a line is expected")
        if self.at_ms[0] < 0:
            raise TraceError(f"{self.source}: begins at {self.at_ms[0]} ms; times count from 0")
        if (backwards := np.diff(self.at_ms) < 0).any():
            row = _first(backwards) + 1
            after, before = self.at_ms[row - 1], self.at_ms[row - 2]
            raise TraceError(f"{self.source}: times must not decrease, but {after} ms follows {before} ms (row {row})")
        if self.at_ms[-1] > 1000 * _MOST_S:
            raise TraceError(f"{self.source}: ends at {self.at_ms[-1]} ms; a recording ends by {1000 * _MOST_S:.0f} ms")

    @property
    def duration_s(self) -> float:
        """The period with which the recording repeats."""
        return max(1, int(self.at_ms[-1])) / 1000

    def channel(self, *, loop: bool, gaps: str = "outage") -> Packets:  # noqa: ARG002 - chances have no gaps
        """The recorded link."""
        return Packets(self.at_ms, self.packet_bytes, loop)


Recording = RateRecording | PacketRecording


def save(recording: Recording, path: Path) -> None:
    """Write a recording as Parquet, atomically; TraceError if it cannot be written."""
    save_all({path: recording})


def save_all(recordings: Mapping[Path, Recording]) -> None:
    """Write recordings as Parquet, all of them or none; TraceError if they cannot be written."""
    try:
        files.write_all_whole({path: _writer(recording) for path, recording in recordings.items()})
    except OSError as error:
        raise TraceError(f"{next(iter(recordings))}: cannot be written: {files.why(error)}") from None


def _writer(recording: Recording) -> files.Write:
    # A file's name need not be text; what is stored of it is.
    about: dict[str, Any] = {
        "version": VERSION, "source": printable(recording.source), "notes": tuple(map(printable, recording.notes)),
    }  # fmt: skip
    if isinstance(recording, RateRecording):
        about |= {"kind": "rates", "end_s": recording.duration_s}
        columns = {"start_s": recording.at_s[:-1], "rate_bps": pa.array(recording.rate_bps, from_pandas=True)}
        encoding = {"start_s": "BYTE_STREAM_SPLIT", "rate_bps": "BYTE_STREAM_SPLIT"}
    else:
        about |= {"kind": "packets", "packet_bytes": recording.packet_bytes}
        columns, encoding = {"at_ms": recording.at_ms}, {"at_ms": "DELTA_BINARY_PACKED"}
    said = _About(**about).model_dump_json(exclude_none=True)
    table = pa.table(columns).replace_schema_metadata({_KEY: said.encode()})

    def write(file: BinaryIO) -> None:
        pq.write_table(table, file, compression="zstd", use_dictionary=False, column_encoding=encoding)

    return write


def load(path: Path) -> Recording:
    """Read a recording; raises TraceError, naming the file, for anything else."""
    out = path.with_suffix(".parquet")
    again = f"'harness trace import {'FILE' if path == out else path} {out}' makes one of a recorder's file"
    try:
        with files.opened(path) as file:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            if parquet.metadata.num_rows > _MOST_ROWS:
                raise TraceError(f"{path}: claims {parquet.metadata.num_rows} rows; {_MOST_ROWS} are the most")
            about = _About.model_validate_json((parquet.schema_arrow.metadata or {})[_KEY])
            table = parquet.read(use_threads=False)  # As harness.runs.disk.table_in, and for its reason.
    except FileNotFoundError:
        if units.is_rate(str(path)):
            raise TraceError(
                f"{path}: is a rate, and a recording is expected, a .parquet file; a scenario has a rate as "
                f"{{ kind: constant, rate: {path} }}"
            ) from None
        raise TraceError(f"{path}: does not exist; 'harness trace import FILE {out}' makes a recording") from None
    except IsADirectoryError:
        raise TraceError(f"{path}: is a folder; a recording is expected, a .parquet file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TraceError(
            f"{path}: is not a recording: {where + ': ' if where else ''}{first['msg']}; {again}"
        ) from None
    except (pa.ArrowException, KeyError, OSError) as error:
        if isinstance(error, PermissionError | NotADirectoryError):
            why = f"cannot be read: {files.why(error)}"
        else:
            why = "is not a recording"
        raise TraceError(f"{path}: {why}; {again}") from None
    if about.version != VERSION:
        raise TraceError(f"{path}: has version {about.version}, this harness reads {VERSION}; import it again")
    wanted = {"at_ms": pa.int64()} if about.kind == "packets" else {"start_s": pa.float64(), "rate_bps": pa.float64()}
    found = dict(zip(table.column_names, table.schema.types, strict=True))
    timed = table.column(0).null_count == 0 if found == wanted else False
    if not timed or (about.packet_bytes if about.kind == "packets" else about.end_s) is None:
        raise TraceError(f"{path}: is not a recording: its columns are not those of {about.kind}; {again}")
    source = f"{path} ({about.source})"
    if about.kind == "packets":
        assert about.packet_bytes is not None
        return PacketRecording(table["at_ms"].to_numpy(), about.packet_bytes, source, about.notes)
    assert about.end_s is not None
    start_s, rate_bps = table["start_s"].to_numpy(), table["rate_bps"].to_numpy(zero_copy_only=False)
    return RateRecording(np.append(start_s, about.end_s), rate_bps.astype(float), source, about.notes)


def _first(where: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(where)) + 1
