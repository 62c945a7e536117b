"""Readers of other tools' recordings: Mahimahi, and CSV files of several layouts; iperf3 has a module of its own.

Each returns a recording, or raises TraceError with one sentence: the file, the place in it, the value, and what would
be right. Only uplinks are read. A file whose unit is unknown is refused, and the message names the option that gives
it: a wrong unit makes a rate wrong by eight, a time by a thousand.
"""

import codecs
import contextlib
import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from harness import files, units
from harness.channel.capacity import Floats
from harness.channel.recording import PacketRecording, RateRecording
from harness.errors import TraceError, shown

MAHIMAHI_PACKET_BYTES = 1500
"""What one line of a Mahimahi trace delivers, by Mahimahi's definition."""

TIMES_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNIT_AT_END = re.compile(r"(?:^|[_ (\[])([A-Za-z/]+)[)\]]?\s*$")
"""Of a column's name: ``up_mbps``, ``up (MB/s)``, ``time_ms``."""
_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_DATE = r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d"
_DOWNLINK = re.compile(r"(^|[^a-z])(dl|down|rx)|download|downlink", re.IGNORECASE)
_BLOCK_BYTES = 1 << 24
MOST_BYTES = 1 << 30
_ROUNDING_S = 2e-3
"""Spans whose edges are apart by less are adjacent: recorders round their clocks."""
_EPOCH_S = (946_684_800.0, 4_102_444_800.0)
"""The years 2000 to 2100: a count of seconds, or of parts of them, that lies there is one since 1970."""
_DAY_MS = 86_400_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CsvColumns:
    """Which columns of a CSV hold what.

    ``time`` is when a row's rate begins, in ``time_unit`` or as a date and time; ``end`` is when it ends, where the
    file says so. Without it a row lasts until the next begins, but no longer than ``hold_s``: what follows is a gap.
    The last row lasts as long as the one before it. Units that are not given are those in the columns' names.
    """

    time: str = "time_s"
    rate: str = "rate_bps"
    unit: str | None = None
    time_unit: str | None = None
    end: str | None = None
    hold_s: float | None = None


STARLINK = CsvColumns(time="timestamp_start_ul", end="timestamp_end_ul", rate="upload", unit="Mbit/s")


def read_mahimahi(path: Path) -> PacketRecording:
    """A Mahimahi trace: a whole number of milliseconds a line, each a chance to send 1500 bytes.

    Stamps in milliseconds since 1970 count from the first of them; the recording says so.
    """
    wanted = "one whole number of milliseconds a line"
    options = pyarrow.csv.ReadOptions(column_names=["at_ms"])
    kinds = pyarrow.csv.ConvertOptions(column_types={"at_ms": pa.int64()})
    with contextlib.suppress(pa.ArrowInvalid), _opened(path) as file:
        table = pyarrow.csv.read_csv(file, read_options=options, convert_options=kinds)
        if len(table) and not table["at_ms"].null_count:
            return _counted_from_zero(path, table["at_ms"].to_numpy())
    # Only a file that is wrong is searched line by line.
    with _opened(path) as file:
        lines = ((number, line.strip()) for number, line in enumerate(file, 1))
        for number, line in lines:
            if line and not re.fullmatch(rb"[+-]?\d{1,18}", line.removeprefix(b"\xef\xbb\xbf")):
                found = shown(line[:100].decode(errors="replace"))
                raise TraceError(f"{path}: line {number} has {found}; {wanted} is Mahimahi's form")
    raise TraceError(f"{path}: is empty; {wanted} is expected")


def _counted_from_zero(path: Path, at_ms: npt.NDArray[np.int64]) -> PacketRecording:
    first = int(at_ms[0])
    notes: tuple[str, ...] = ()
    if _EPOCH_S[0] <= first / 1000 <= _EPOCH_S[1]:
        at_ms = at_ms - first
        notes = (f"its stamps are milliseconds since 1970; they count from the first, {first}",)
    elif first > _DAY_MS:
        raise TraceError(
            f"{path}: line 1 has {first}, and nothing is sent before; Mahimahi's stamps are milliseconds from the "
            "beginning of the recording: subtract the first from all"
        )
    if at_ms[-1] == 0:
        raise TraceError(f"{path}: ends at 0 ms, so it lasts no time; Mahimahi repeats a trace at its last stamp")
    return PacketRecording(at_ms, MAHIMAHI_PACKET_BYTES, str(path), notes)


def head(path: Path) -> str:
    """The first 64 KiB of a file of text; what is not UTF-8 is replaced."""
    with _opened(path) as file:
        return file.read(1 << 16).decode("utf-8-sig", errors="replace")


def read_rates(path: Path, layout: CsvColumns) -> RateRecording:
    """A CSV with a column of times and one of rates."""
    if _DOWNLINK.search(layout.rate):
        raise TraceError(f"{path}: the column {layout.rate!r} is a downlink by its name; an uplink's is expected")
    unit_bps = _unit_bps(path, layout)
    table = _columns(path, [layout.time, layout.rate, *([layout.end] if layout.end else [])])
    start_s, zero_s = _seconds(path, table, layout.time, layout.time_unit, None)
    rate_bps = _numbers(path, table, layout.rate) * unit_bps
    source = f"{path} ({layout.rate})"
    if layout.end:
        end_s, _ = _seconds(path, table, layout.end, layout.time_unit, zero_s)
        rows = np.stack([start_s, end_s, rate_bps])
        # A recorder may write a row twice.
        start_s, end_s, rate_bps = rows[:, np.append(True, (rows[:, 1:] != rows[:, :-1]).any(axis=0))]
        _check_increasing(path, start_s, layout.time)
        return spans(path, source, start_s, end_s, rate_bps)
    _check_increasing(path, start_s, layout.time)
    if len(start_s) < 2:
        raise TraceError(
            f"{path}: holds {len(start_s)} rows; the length of a row is known from the next, so two are expected"
        )
    edges_s = np.append(start_s, 2 * start_s[-1] - start_s[-2])
    if layout.hold_s is None:
        edges_s -= start_s[0]
        return RateRecording(edges_s, rate_bps, source)
    return spans(path, source, start_s, np.minimum(edges_s[1:], start_s + layout.hold_s), rate_bps)


def read_cellular(path: Path, column: str, *, hold_s: float = 2.0, handover: str = "measured") -> RateRecording:
    """A run of the PAM 2025 multi-carrier set; ``column`` is ``ULtput_x`` (AT&T) or ``ULtput_y`` (Verizon), in Mbit/s.

    The set joins two operators' reports row by row, which repeats and reorders the second's: they are restored to the
    order of their own time stamps. Reports of one stamp (rounded to 0.1 s) are averaged. A handover has rows without a
    rate between two reports; the report after it averages over the interruption (``measured``), or nothing is sent from
    its Start to its End (``outage``). A report lasts until the next, but at most ``hold_s``.
    """
    if column not in ("ULtput_x", "ULtput_y"):
        raise TraceError(f"{path}: {column!r} is not an uplink of this layout; known: ULtput_x, ULtput_y")
    operator = column[-1]
    names = [f"TIME_STAMP_{operator}", column, f"handover_status_{operator}"]
    frame = _columns(path, names).to_pandas()
    frame.columns = ["at_s", "mbps", "handover"]
    timed = frame.dropna(subset="at_s").sort_values("at_s", kind="stable")
    reports = timed.dropna(subset="mbps").groupby("at_s", as_index=False)["mbps"].mean()
    if len(reports) < 2:
        raise TraceError(f"{path}: the column {column!r} holds {len(reports)} timed rates; at least two are expected")
    at_s, rate_bps = reports["at_s"].to_numpy(float), reports["mbps"].to_numpy(float) * 1e6
    end_s = np.minimum(np.append(at_s[1:], 2 * at_s[-1] - at_s[-2]), at_s + hold_s)
    recording = spans(path, f"{path} ({column})", at_s - at_s[0], end_s - at_s[0], rate_bps)
    if handover == "measured":
        return recording
    starts = timed.loc[timed["handover"] == "Start", "at_s"].drop_duplicates().to_numpy(float) - at_s[0]
    ends = timed.loc[timed["handover"] == "End", "at_s"].drop_duplicates().to_numpy(float) - at_s[0]
    return _interrupted(recording, [(s, float(ends[ends > s][0])) for s in starts if (ends > s).any()])


def unreadable(path: Path, error: OSError) -> TraceError:
    """The sentence for a path that cannot be read as a file."""
    what = "is a folder" if isinstance(error, IsADirectoryError) else f"cannot be read: {files.why(error)}"
    return TraceError(f"{path}: {what}; a trace is a file")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file of text, in UTF-8 also where it is in UTF-16, as spreadsheets write it."""
    try:
        with files.opened(path) as file:
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield io.BytesIO(files.read(path, MOST_BYTES).decode("utf-16").encode())
            else:
                yield file
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: begins as UTF-16, but its byte {error.start} is not") from None


def _interrupted(recording: RateRecording, outages: list[tuple[float, float]]) -> RateRecording:
    edges = np.unique(np.concatenate([recording.at_s, np.ravel(outages)]))
    edges = edges[(edges >= 0) & (edges <= recording.duration_s)]
    rate_bps = recording.rate_bps[np.searchsorted(recording.at_s, edges[:-1], side="right") - 1]
    for start_s, end_s in outages:
        inside = (edges[:-1] >= start_s) & (edges[:-1] < end_s)
        rate_bps = np.where(inside & ~np.isnan(rate_bps), 0.0, rate_bps)
    return RateRecording(edges, rate_bps, recording.source, recording.notes)


def check_spans(path: Path, start_s: Floats, end_s: Floats) -> None:
    """Raises TraceError for the first row that ends before it begins."""
    if (empty := ~(end_s > start_s)).any():
        raise TraceError(f"{path}: row {int(empty.argmax()) + 1} ends before it begins")


def spans(path: Path, source: str, start_s: Floats, end_s: Floats, rate_bps: Floats) -> RateRecording:
    """Adjacent spans; where one begins later than the last ended, a gap."""
    check_spans(path, start_s, end_s)
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
    written, delimiter = _header(path, names)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    # Most files hold plain numbers, for which a special reader is several times as fast.
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowKeyError), _opened(path) as file:
        table = pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=written, column_types=dict.fromkeys(written, pa.float64()), null_values=[]
            ),
        )
        if len(table):
            return table.rename_columns(names)
    kinds = pyarrow.csv.ConvertOptions(include_columns=written, strings_can_be_null=True)
    wanted = f"a CSV with the columns {', '.join(names)}"
    try:
        with _opened(path) as file:
            table = pyarrow.csv.read_csv(file, parse_options=parse, convert_options=kinds)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise TraceError(f"{path}: is not {wanted}: {str(error).splitlines()[0]}") from None
    if not len(table):
        raise TraceError(f"{path}: is empty; {wanted} is expected")
    return table.rename_columns(names)


def _header(path: Path, names: list[str]) -> tuple[list[str], str]:
    """The columns' names as in the file, with any spaces around them, and the separator."""
    with _opened(path) as file:
        line = file.readline(1 << 20)
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TraceError(
            f"{path}: is not text in UTF-8; a CSV with the columns {', '.join(names)} is expected"
        ) from None
    if not text.rstrip("\r\n").replace("\t", "").isprintable():
        raise TraceError(f"{path}: is not text; a CSV with the columns {', '.join(names)} is expected")
    if not text.strip():
        raise TraceError(f"{path}: is empty; a CSV with the columns {', '.join(names)} is expected")
    delimiter = "\t" if "\t" in text and "," not in text else ","
    if ";" in text and "," not in text:
        raise TraceError(f"{path}: has semicolons between its columns; write commas there, and points in its numbers")
    try:
        columns = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
    except csv.Error as error:
        raise TraceError(f"{path}: line 1 is not a CSV's header: {error}") from None
    written = []
    for name in names:
        like = [column for column in columns if column.strip() == name.strip()]
        if len(like) != 1:
            have = f"{len(like)} columns {name!r}" if like else f"no column {name!r}"
            raise TraceError(
                f"{path}: has {have}; its columns are {shown(', '.join(column.strip() for column in columns))}. "
                "--time and --rate name those of the time and the uplink's rate"
            )
        written.append(like[0])
    return written, delimiter


def _seconds(path: Path, table: pa.Table, name: str, unit: str | None, zero_s: float | None) -> tuple[Floats, float]:
    """A column of instants in seconds since ``zero_s``, and that: the first instant, where they count since 1970."""
    column = table[name]
    if pa.types.is_timestamp(column.type) and not column.null_count:
        try:
            at_ns = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            raise TraceError(f"{path}: {name} holds dates beyond the years 1678 to 2261") from None
        zero_ns = at_ns[0] if zero_s is None else np.int64(round(zero_s * 1e9))
        return (at_ns - zero_ns) * 1e-9, float(zero_ns) * 1e-9
    found = _numbers(path, table, name, or_dates=True)
    scale = _time_scale(path, name, unit, found)
    first_s = float(found[0]) * scale
    if abs(first_s) > _EPOCH_S[1]:
        raise TraceError(
            f"{path}: row 1 has {found[0]:.15g} as {name}, which is {first_s:.3g} s; "
            f"give --time-unit, one of {', '.join(TIMES_S)}"
        )
    if zero_s is None:
        zero_s = first_s if _is_since_1970(first_s) else 0.0
    return (found - zero_s / scale) * scale, zero_s


def _time_scale(path: Path, name: str, unit: str | None, found: Floats) -> float:
    """How many seconds a column's unit is: as given, by its name, or from the size of values that count from 1970."""
    if unit is not None:
        if unit not in TIMES_S:
            raise TraceError(f"{path}: {unit!r} is not a unit of time; known: {', '.join(TIMES_S)}")
        return TIMES_S[unit]
    named = _UNIT_AT_END.search(name)
    if named and named[1] in TIMES_S:
        return TIMES_S[named[1]]
    for scale in TIMES_S.values():
        if _is_since_1970(found[0] * scale):
            return scale
    raise TraceError(
        f"{path}: the column {name!r} does not say its unit; give --time-unit, one of {', '.join(TIMES_S)}"
    )


def _is_since_1970(at_s: float) -> bool:
    return _EPOCH_S[0] <= at_s <= _EPOCH_S[1]


def _numbers(path: Path, table: pa.Table, name: str, *, or_dates: bool = False) -> Floats:
    """A column of finite numbers; with ``or_dates`` the message on another says that dates and times are read too."""
    column = table[name].combine_chunks()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        texts = column.cast(pa.string())
        right, wanted = pc.match_substring_regex(texts, _NUMBER), "a number"
        if or_dates:
            dated, wanted = pc.match_substring_regex(texts, _DATE), "a number, or a date and time YYYY-MM-DD hh:mm:ss,"
            right = dated if pc.any(dated).as_py() else right
        row = _first(~right.fill_null(False).to_numpy(zero_copy_only=False))
        raise TraceError(f"{path}: row {row} has {texts[row - 1].as_py()!r} as {name}; {wanted} is expected")
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


def _unit_bps(path: Path, layout: CsvColumns) -> float:
    """How many bit/s the unit of the rates is."""
    if layout.unit is not None:
        if layout.unit not in units.RATES_BPS:
            raise TraceError(f"{path}: {layout.unit!r} is not a unit of a rate; known: {units.KNOWN_RATES}")
        return units.RATES_BPS[layout.unit]
    named = _UNIT_AT_END.search(layout.rate)
    if named is None or named[1] not in units.RATES_BPS:
        raise TraceError(
            f"{path}: the column {layout.rate!r} does not say its unit; give --unit, one of {units.KNOWN_RATES}"
        )
    return units.RATES_BPS[named[1]]


def _first(where: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(where)) + 1
