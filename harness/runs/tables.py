"""The tables of a run, and the checks of a Parquet file before it is used."""

import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import ResultsError
from harness.files import why
from harness.records import (
    EnergyRow,
    LinkRow,
    OutcomeRow,
    Quantity,
    RequestRow,
    ResourceRow,
    SampleRow,
    Side,
    Source,
    StageRow,
    schema,
    to_table,
)
from harness.runs import disk
from harness.runs.digests import of_bytes

Kind = Literal["samples", "stages", "paced", "links", "outcomes", "energy", "resources", "requests"]
Row: TypeAlias = SampleRow | StageRow | LinkRow | OutcomeRow | EnergyRow | ResourceRow | RequestRow
Rows: TypeAlias = pa.Table | Iterable[Row]

ROWS: Mapping[Kind, type] = {
    "samples": SampleRow,
    "stages": StageRow,
    "paced": StageRow,
    "links": LinkRow,
    "outcomes": OutcomeRow,
    "energy": EnergyRow,
    "resources": ResourceRow,
    "requests": RequestRow,
}

KEYS: Mapping[Kind, tuple[str, ...]] = {
    "samples": ("benchmark", "sample"),
    "stages": ("pipeline", "point", "sample", "repeat", "side"),
    "paced": ("pipeline", "point", "sample", "repeat", "side"),
    "links": ("pipeline", "point", "sample", "repeat"),
    "outcomes": ("pipeline", "point", "sample"),
    "energy": ("pipeline", "point", "side", "rail", "block"),
    "resources": ("pipeline", "point", "side", "stage", "quantity"),
    "requests": ("replay", "channel", "users", "seed", "pipeline", "point", "user"),
}
"""The columns by which a table is sorted. Rows equal in all of them come from one unit of work and keep its order."""

_PART = "part number"
"""A temporary column for merging, whose name no row has."""

_LABELS: Mapping[str, tuple[str, ...]] = {
    "side": typing.get_args(Side),
    "source": typing.get_args(Source),
    "quantity": typing.get_args(Quantity),
}
_NEVER_NEGATIVE = (
    "repeat", "round", "start", "seconds", "cpu_s", "waited_s", "load", "energy_j", "payload_bytes", "visual_tokens",
    "prompt_tokens", "answer_tokens", "users", "seed", "user", "pictures", "width_px", "height_px", "patches",
    "file_bytes", "text_bytes", "requests", "block", "value", "rate_bps", "sent_bytes", "received_bytes", "set_up_s",
    "round_trip_s", "residence_s", "queue_s", "channel_s", "idle_s", "idle_j",
)  # fmt: skip


def table_of(kind: Kind, rows: Rows) -> pa.Table:
    """Rows, or an Arrow table of them, as a checked table; raises ResultsError for what a row may not hold."""
    return check(kind, rows if isinstance(rows, pa.Table) else to_table(ROWS[kind], rows), f"new {kind}")


def read(kind: Kind, path: Path, digest: str | None = None) -> pa.Table:
    """The table in the Parquet file ``path``, checked; raises ResultsError in one sentence for anything else.

    Where the ``digest`` of its bytes is known it must fit: a flipped bit can leave a file that reads well.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ResultsError(
            f"{path}: no such file; a complete run has {', '.join(f'{k}.parquet' for k in ROWS)}"
        ) from None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {why(error)}") from None
    if digest is not None and (found := of_bytes(data)) != digest:
        raise ResultsError(f"{path}: is damaged or was edited: its digest is {found}, and the run wrote {digest}")
    try:
        table = disk.table_in(data)
    except (pa.ArrowException, OSError) as error:
        raise ResultsError(f"{path}: is damaged, or is not Parquet: {str(error).splitlines()[0]}") from None
    return check(kind, table, str(path))


def check(kind: Kind, table: pa.Table, where: str) -> pa.Table:
    """``table`` with exactly the schema of its rows; raises ResultsError naming ``where``, the column and the value."""
    wanted = schema(ROWS[kind])
    names, found = wanted.names, table.column_names  # Arrow makes a new list each time that it is asked.
    if missing := [name for name in names if name not in found]:
        raise ResultsError(f"{where}: the column {missing[0]!r} is missing; {kind} have {', '.join(names)}")
    if strange := [name for name in found if name not in names]:
        raise ResultsError(f"{where}: unknown column {strange[0]!r}; {kind} have {', '.join(names)}")
    if len(found) > len(names):
        twice = next(name for name in names if found.count(name) > 1)
        raise ResultsError(f"{where}: the column {twice!r} is there twice; {kind} have {', '.join(names)}")
    table = table.select(names)
    try:
        table = table if table.schema.equals(wanted, check_metadata=True) else table.cast(wanted)
    except (pa.ArrowException, ValueError) as error:
        place = next((f.name for f in wanted if not _castable(table[f.name], f)), "a column")
        raise ResultsError(f"{where}: {place}: {str(error).splitlines()[0]}") from None
    for field in wanted:
        _check_column(table[field.name], field, where)
    if kind == "samples" and pc.count_distinct(table["sample"]).as_py() < table.num_rows:
        names = table["sample"].to_pylist()
        raise ResultsError(f"{where}: sample {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return table


def _castable(column: pa.ChunkedArray, field: pa.Field) -> bool:
    try:
        column.cast(field.type)
    except (pa.ArrowException, ValueError):
        return False
    return bool(field.nullable or column.null_count == 0)


def _check_column(column: pa.ChunkedArray, field: pa.Field, where: str) -> None:
    if column.null_count and not field.nullable:
        row = pc.index(column.is_null(), True).as_py()
        raise ResultsError(f"{where}: {field.name} is null in row {row}; it never is")
    if pa.types.is_floating(field.type):
        _refuse(pc.invert(pc.is_finite(column)), column, field.name, where, "a finite number")
    if field.name in _NEVER_NEGATIVE:
        _refuse(pc.less(column, pa.scalar(0, field.type)), column, field.name, where, "at least 0")
    if field.name in _LABELS:
        known = _LABELS[field.name]
        _refuse(pc.invert(pc.is_in(column, pa.array(known))), column, field.name, where, f"one of {', '.join(known)}")


def _refuse(wrong: pa.ChunkedArray, column: pa.ChunkedArray, name: str, where: str, wanted: str) -> None:
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise ResultsError(f"{where}: {name} is {column[row].as_py()!r} in row {row}; it must be {wanted}")


def merge(kind: Kind, parts: Sequence[tuple[str, pa.Table]]) -> pa.Table:
    """The parts of a run, each with its unit's name, as one table, in an order independent of when each was made.

    Raises ResultsError where two units hold the same request, as after a change of what a unit is.
    """
    wanted = schema(ROWS[kind])
    parts = sorted((part for part in parts if part[1].num_rows), key=lambda part: part[0])
    if not parts:
        return wanted.empty_table()
    keys = list(KEYS[kind])
    numbers = pa.array(np.repeat(np.arange(len(parts), dtype=np.int32), [part.num_rows for _, part in parts]))
    table = pa.concat_tables(part for _, part in parts).append_column(_PART, numbers)
    spread = table.group_by(keys).aggregate([(_PART, "min"), (_PART, "max")])
    twice = spread.filter(pc.not_equal(spread[f"{_PART}_min"], spread[f"{_PART}_max"]))
    if twice.num_rows:
        row = twice.slice(0, 1).to_pylist()[0]
        request = ", ".join(f"{key} {row[key]}" for key in keys)
        first, second = parts[row[f"{_PART}_min"]][0], parts[row[f"{_PART}_max"]][0]
        raise ResultsError(
            f"the {kind} of {request} are in two units, {first!r} and {second!r}; start again with --fresh"
        )
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    return table.take(order).drop_columns(_PART).combine_chunks().cast(wanted)
