"""A recorded link on disk: one Parquet file, whatever the tool that recorded it.

A recording of rates has the columns ``start_s`` (float64, strictly increasing from 0) and ``rate_bps`` (float64): each
row holds until the next begins, the last until ``end_s``. A rate of 0 is an outage: the link was tried and carried
nothing. A rate of null is a gap: nothing was recorded. A recording of packets has the one column ``at_ms`` (int64,
non-decreasing): each row is a chance to send ``packet_bytes``; it lasts until its last row, or 1 ms.

The Parquet metadata hold ``tofc_harness.trace``, a JSON object: version, kind (rates or packets), source (the file and
column it came from), end_s or packet_bytes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.channel.capacity import Floats
from harness.channel.varying import Packets, Pieces
from harness.errors import TraceError

VERSION = 1
_KEY = b"tofc_harness.trace"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RateRecording:
    """S spans: ``at_s`` (S + 1,) edges from 0, ``rate_bps`` (S,) with NaN in gaps."""

    at_s: Floats
    rate_bps: Floats
    source: str

    def __post_init__(self) -> None:
        if len(self.rate_bps) == 0:
            raise TraceError(f"{self.source}: holds no rates; at least one span with a rate is wanted")
        if not np.isfinite(self.at_s).all():
            raise TraceError(f"{self.source}: row {_first(~np.isfinite(self.at_s))} has no finite time")
        if (backwards := self.at_s[1:] <= self.at_s[:-1]).any():
            row = _first(backwards)
            after, before = self.at_s[row], self.at_s[row - 1]
            raise TraceError(
                f"{self.source}: times must increase, but {after:.9g} s follows {before:.9g} s (row {row})"
            )
        if np.fmin.reduce(self.rate_bps) < 0 or np.isinf(np.fmax.reduce(self.rate_bps)):
            row = _first((self.rate_bps < 0) | np.isinf(self.rate_bps))
            raise TraceError(
                f"{self.source}: the rate {self.rate_bps[row - 1]:.9g} bit/s in row {row} is not finite and 0 or more"
            )

    @property
    def duration_s(self) -> float:
        """From the first instant to the last."""
        return float(self.at_s[-1])

    def channel(self, *, loop: bool, gaps: str) -> Pieces:
        """The link as it was, with gaps as outages (``outage``) or at the rate before them (``hold``)."""
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

    def __post_init__(self) -> None:
        if len(self.at_ms) == 0:
            raise TraceError(f"{self.source}: holds no packets; one whole millisecond a line is wanted")
        if self.at_ms[0] < 0:
            raise TraceError(f"{self.source}: begins at {self.at_ms[0]} ms; times count from 0")
        if (backwards := np.diff(self.at_ms) < 0).any():
            row = _first(backwards) + 1
            after, before = self.at_ms[row - 1], self.at_ms[row - 2]
            raise TraceError(f"{self.source}: times must not decrease, but {after} ms follows {before} ms (row {row})")

    @property
    def duration_s(self) -> float:
        """The period with which the recording repeats."""
        return max(1, int(self.at_ms[-1])) / 1000

    def channel(self, *, loop: bool, gaps: str = "outage") -> Packets:  # noqa: ARG002 - chances have no gaps
        """The link as it was."""
        return Packets(self.at_ms / 1000, self.duration_s, self.packet_bytes, loop)


Recording = RateRecording | PacketRecording


def save(recording: Recording, path: Path) -> None:
    """Write a recording as Parquet."""
    about: dict[str, Any] = {"version": VERSION, "source": recording.source}
    if isinstance(recording, RateRecording):
        about |= {"kind": "rates", "end_s": recording.duration_s}
        columns = {"start_s": recording.at_s[:-1], "rate_bps": pa.array(recording.rate_bps, from_pandas=True)}
        encoding = {"start_s": "BYTE_STREAM_SPLIT", "rate_bps": "BYTE_STREAM_SPLIT"}
    else:
        about |= {"kind": "packets", "packet_bytes": recording.packet_bytes}
        columns, encoding = {"at_ms": recording.at_ms}, {"at_ms": "DELTA_BINARY_PACKED"}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(about).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", use_dictionary=False, column_encoding=encoding)


def load(path: Path) -> Recording:
    """Read a recording; raises TraceError, naming the file, for anything else."""
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_KEY])
    except FileNotFoundError:
        raise TraceError(f"{path}: does not exist; write it with 'harness trace import FILE {path}'") from None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        what = "is a folder" if path.is_dir() else "is not a recording"
        raise TraceError(f"{path}: {what}; make one from any trace with 'harness trace import FILE OUT'") from None
    if about.get("version") != VERSION:
        raise TraceError(f"{path}: has version {about.get('version')}, this harness reads {VERSION}; import it again")
    source = f"{path} ({about['source']})"
    if about["kind"] == "packets":
        return PacketRecording(table["at_ms"].to_numpy(), int(about["packet_bytes"]), source)
    start_s, rate_bps = table["start_s"].to_numpy(), table["rate_bps"].to_numpy(zero_copy_only=False)
    return RateRecording(np.append(start_s, float(about["end_s"])), rate_bps.astype(float), source)


def _first(where: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(where)) + 1
