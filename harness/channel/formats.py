"""Readers of what other tools record: Mahimahi, iperf3, and CSV files of several layouts.

Each returns a recording, or raises TraceError with one sentence: the file, the place in it, what stands there, and what
would be right. Only uplinks are read.
"""

import contextlib
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from harness.channel.capacity import Floats
from harness.channel.recording import PacketRecording, RateRecording
from harness.errors import TraceError

MAHIMAHI_PACKET_BYTES = 1500
"""What one line of a Mahimahi trace delivers, by Mahimahi's definition."""

UNITS_BPS = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "B/s": 8.0, "KB/s": 8e3, "MB/s": 8e6}
_SUFFIXES = {"bps": "bit/s", "kbps": "kbit/s", "mbps": "Mbit/s", "gbps": "Gbit/s"}
_DOWNLINK = re.compile(r"(^|[^a-z])(dl|down|rx)|download|downlink", re.IGNORECASE)
_BLOCK_BYTES = 1 << 24
_ROUNDING_S = 2e-3
"""Spans whose edges are apart by less are adjacent: recorders round their clocks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which columns of a CSV hold what.

    ``time`` is when a row's rate begins, in seconds or as a date and time; ``end`` is when it ends, where the file says
    so. Without it a row lasts until the next begins, but no longer than ``hold_s``: what follows is a gap. The last row
    lasts as long as the one before it.
    """

    time: str = "time_s"
    rate: str = "rate_bps"
    unit: str | None = None
    end: str | None = None
    hold_s: float | None = None


STARLINK = Layout(time="timestamp_start_ul", end="timestamp_end_ul", rate="upload", unit="Mbit/s")


def read_mahimahi(path: Path) -> PacketRecording:
    """A Mahimahi trace: a whole number of milliseconds a line, each a chance to send 1500 bytes."""
    options = pyarrow.csv.ReadOptions(column_names=["at_ms"])
    kinds = pyarrow.csv.ConvertOptions(column_types={"at_ms": pa.int64()})
    table = _csv(path, "one whole number of milliseconds a line", options, kinds)
    return PacketRecording(table["at_ms"].to_numpy(), MAHIMAHI_PACKET_BYTES, str(path))


def read_iperf3(path: Path) -> RateRecording:
    """An iperf3 log (-J) of a client that sends; rates are the sender's, per interval."""
    try:
        log = json.loads(path.read_bytes())
        sums = [interval["sum"] for interval in log["intervals"] if not interval["sum"].get("omitted")]
        rows = [(float(s["start"]), float(s["end"]), 8.0 * s["bytes"] / (s["end"] - s["start"])) for s in sums]
        reverse = log["start"]["test_start"]["reverse"]
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise TraceError(f"{path}: is not a log of iperf3 -J with intervals: {type(error).__name__} {error}") from None
    if reverse:
        raise TraceError(f"{path}: was recorded with iperf3 -R, from server to client; an uplink is wanted")
    if not rows:
        raise TraceError(f"{path}: its test has no intervals")
    start_s, end_s, rate_bps = np.array(rows).T
    return _spans(path, str(path), start_s, end_s, rate_bps)


def read_rates(path: Path, layout: Layout) -> RateRecording:
    """A CSV with a column of times and one of rates."""
    if _DOWNLINK.search(layout.rate):
        raise TraceError(f"{path}: the column {layout.rate!r} is a downlink by its name; an uplink's is wanted")
    table = _columns(path, [layout.time, layout.rate, *([layout.end] if layout.end else [])])
    start_s, zero = _seconds(path, table, layout.time, None)
    rate_bps = _numbers(path, table, layout.rate) * UNITS_BPS[_unit(path, layout)]
    source = f"{path} ({layout.rate})"
    if layout.end:
        rows = np.stack([start_s, _seconds(path, table, layout.end, zero)[0], rate_bps])
        # A recorder that writes a row twice says the same thing twice.
        start_s, end_s, rate_bps = rows[:, np.append(True, (rows[:, 1:] != rows[:, :-1]).any(axis=0))]
        _check_increasing(path, start_s, layout.time)
        return _spans(path, source, start_s, end_s, rate_bps)
    _check_increasing(path, start_s, layout.time)
    if len(start_s) < 2:
        raise TraceError(
            f"{path}: holds {len(start_s)} rows; the length of a row is known from the next, so two are wanted"
        )
    edges_s = np.append(start_s, 2 * start_s[-1] - start_s[-2])
    if layout.hold_s is None:
        edges_s -= start_s[0]
        return RateRecording(edges_s, rate_bps, source)
    return _spans(path, source, start_s, np.minimum(edges_s[1:], start_s + layout.hold_s), rate_bps)


def read_cellular(path: Path, column: str, *, hold_s: float = 2.0, handover: str = "measured") -> RateRecording:
    """A run of the PAM 2025 multi-carrier set; ``column`` is ``ULtput_x`` (AT&T) or ``ULtput_y`` (Verizon), in Mbit/s.

    The set joins two operators' reports row by row, which repeats and reorders the second's: they are put back in the
    order of their own time stamps. Reports of one stamp (rounded to 0.1 s) are averaged. A handover has rows
    without a rate between two reports; the report after it averages over the interruption (``measured``), or nothing is
    sent from its Start to its End (``outage``). A report lasts until the next, but at most ``hold_s``.
    """
    if column not in ("ULtput_x", "ULtput_y"):
        raise TraceError(f"{path}: {column!r} is no uplink of this layout; known: ULtput_x, ULtput_y")
    operator = column[-1]
    names = [f"TIME_STAMP_{operator}", column, f"handover_status_{operator}"]
    frame = _columns(path, names).to_pandas()
    frame.columns = ["at_s", "mbps", "handover"]
    timed = frame.dropna(subset="at_s").sort_values("at_s", kind="stable")
    reports = timed.dropna(subset="mbps").groupby("at_s", as_index=False)["mbps"].mean()
    if len(reports) < 2:
        raise TraceError(f"{path}: the column {column!r} holds {len(reports)} timed rates; at least two are wanted")
    at_s, rate_bps = reports["at_s"].to_numpy(float), reports["mbps"].to_numpy(float) * 1e6
    end_s = np.minimum(np.append(at_s[1:], 2 * at_s[-1] - at_s[-2]), at_s + hold_s)
    recording = _spans(path, f"{path} ({column})", at_s - at_s[0], end_s - at_s[0], rate_bps)
    if handover == "measured":
        return recording
    starts = timed.loc[timed["handover"] == "Start", "at_s"].drop_duplicates().to_numpy(float) - at_s[0]
    ends = timed.loc[timed["handover"] == "End", "at_s"].drop_duplicates().to_numpy(float) - at_s[0]
    return _interrupted(recording, [(s, float(ends[ends > s][0])) for s in starts if (ends > s).any()])


def unreadable(path: Path, error: OSError) -> TraceError:
    """The sentence for a path that cannot be read as a file."""
    what = "is a folder" if path.is_dir() else f"cannot be read: {error.strerror or error}"
    return TraceError(f"{path}: {what}; a trace is a file")


def _interrupted(recording: RateRecording, outages: list[tuple[float, float]]) -> RateRecording:
    edges = np.unique(np.concatenate([recording.at_s, np.ravel(outages)]))
    edges = edges[(edges >= 0) & (edges <= recording.duration_s)]
    rate_bps = recording.rate_bps[np.searchsorted(recording.at_s, edges[:-1], side="right") - 1]
    for start_s, end_s in outages:
        inside = (edges[:-1] >= start_s) & (edges[:-1] < end_s)
        rate_bps = np.where(inside & ~np.isnan(rate_bps), 0.0, rate_bps)
    return RateRecording(edges, rate_bps, recording.source)


def _spans(path: Path, source: str, start_s: Floats, end_s: Floats, rate_bps: Floats) -> RateRecording:
    """Adjacent spans; where one begins later than the last ended, a gap."""
    if (empty := end_s <= start_s).any():
        raise TraceError(f"{path}: row {int(empty.argmax()) + 1} ends before it begins")
    overlap_s = end_s[:-1] - start_s[1:]
    if (overlaps := overlap_s > _ROUNDING_S).any():
        row = int(overlaps.argmax()) + 1
        raise TraceError(f"{path}: row {row} ends {overlap_s[row - 1]:.3g} s after row {row + 1} begins")
    start_s, end_s = start_s - start_s[0], end_s - start_s[0]
    after_gap = np.flatnonzero(overlap_s < -_ROUNDING_S) + 1
    at_s = np.insert(start_s, after_gap, end_s[after_gap - 1])
    rates = np.insert(rate_bps, after_gap, np.nan)
    return RateRecording(np.append(at_s, end_s[-1]), rates, source)


def _columns(path: Path, names: list[str]) -> pa.Table:
    # Most files hold plain numbers, and are read several times as fast by what knows it.
    with contextlib.suppress(OSError, pa.ArrowInvalid, pa.ArrowKeyError):
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.float64()), null_values=[]
            ),
        )
        if len(table):
            return table
    return _any_columns(path, names)


def _any_columns(path: Path, names: list[str]) -> pa.Table:
    """The columns whatever they hold, or what is wrong with the file."""
    kinds = pyarrow.csv.ConvertOptions(include_columns=names, strings_can_be_null=True)
    return _csv(path, f"a CSV with the columns {', '.join(names)}", pyarrow.csv.ReadOptions(), kinds)


def _csv(path: Path, wanted: str, options: pyarrow.csv.ReadOptions, kinds: pyarrow.csv.ConvertOptions) -> pa.Table:
    try:
        table = pyarrow.csv.read_csv(path, read_options=options, convert_options=kinds)
    except OSError as error:
        raise unreadable(path, error) from None
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        if "Empty CSV" in str(error):
            raise TraceError(f"{path}: is empty; {wanted} is wanted") from None
        raise TraceError(f"{path}: is not {wanted}: {str(error).splitlines()[0]}") from None
    if not len(table):
        raise TraceError(f"{path}: is empty; {wanted} is wanted")
    return table


def _seconds(path: Path, table: pa.Table, name: str, zero: int | None) -> tuple[Floats, int | None]:
    """A column of instants in seconds since the first (or since ``zero``, for dates), and the zero."""
    column = table[name]
    if pa.types.is_timestamp(column.type) and not column.null_count:
        at_ns = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64()).to_numpy()
        zero = int(at_ns[0]) if zero is None else zero
        return (at_ns - zero) * 1e-9, zero
    return _numbers(path, table, name), None


def _numbers(path: Path, table: pa.Table, name: str) -> Floats:
    column = table[name].combine_chunks()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        texts = column.cast(pa.string())
        number = pc.match_substring_regex(texts, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$").fill_null(False)
        row = _first(~number.to_numpy(zero_copy_only=False))
        raise TraceError(f"{path}: row {row} has {texts[row - 1].as_py()!r} as {name}; a number is wanted")
    values: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    if not math.isfinite(values.sum()) and (wrong := ~np.isfinite(values)).any():
        row = _first(wrong)
        raise TraceError(
            f"{path}: row {row} has no finite {name}; write 0 for an outage, and leave a row out where nothing is known"
        )
    return values


def _check_increasing(path: Path, start_s: Floats, name: str) -> None:
    if (backwards := start_s[1:] <= start_s[:-1]).any():
        row = _first(backwards) + 1
        raise TraceError(
            f"{path}: {name} must increase, but row {row} has {start_s[row - 1]:.9g} after {start_s[row - 2]:.9g}"
        )


def _unit(path: Path, layout: Layout) -> str:
    if layout.unit is not None:
        if layout.unit not in UNITS_BPS:
            raise TraceError(f"{path}: {layout.unit!r} is no unit of a rate; known: {', '.join(UNITS_BPS)}")
        return layout.unit
    suffix = layout.rate.rsplit("_", 1)[-1].lower()
    if suffix not in _SUFFIXES:
        raise TraceError(
            f"{path}: the column {layout.rate!r} does not say its unit; give one of {', '.join(UNITS_BPS)}"
        )
    return _SUFFIXES[suffix]


def _first(where: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(where)) + 1
