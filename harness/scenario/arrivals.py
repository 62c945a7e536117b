"""Requests at recorded instants, from their file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from harness import files
from harness.errors import ScenarioError, shown
from harness.scenario.replay import RecordedArrivals

_MOST_BYTES = 1 << 30
_MOST_S = 1e9
"""Thirty years; an instant beyond is a date, or in another unit."""


def instants(arrivals: RecordedArrivals, users: int) -> list[npt.NDArray[np.float64]]:
    """When each of ``users`` users asks, in seconds from 0, in order; without a column ``user`` they ask in turn.

    Raises ScenarioError, naming the file, the row and the value, for what is not a CSV of instants and users.
    """
    path = arrivals.file
    table = _table(path)
    at_s = _column(path, table, "at_s", "seconds from the beginning, such as 12.5")
    if (wrong := (at_s < 0) | (at_s > _MOST_S)).any():
        row = int(wrong.argmax())
        raise ScenarioError(
            f"{path}: row {row + 1} has {at_s[row]:.15g} as at_s; instants are seconds from the replay's beginning, "
            f"0 to {_MOST_S:g}: subtract the first from all"
        )
    if "user" not in table.column_names:
        return [np.sort(at_s[np.arange(len(at_s)) % users == u]) for u in range(users)]
    user = _column(path, table, "user", "a whole number from 0")
    if (wrong := (user != np.floor(user)) | (user < 0) | (user >= users)).any():
        row = int(wrong.argmax())
        raise ScenarioError(
            f"{path}: row {row + 1} has {user[row]:.15g} as user; with {users} users it is a whole number from 0 to "
            f"{users - 1}"
        )
    return [np.sort(at_s[user == u]) for u in range(users)]


def _table(path: Path) -> pa.Table:
    wanted = "a CSV with the column at_s, and user where users are known"
    try:
        content = files.read(path, _MOST_BYTES)
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content), convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True)
        )
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {files.why(error, wanted)}") from None
    except pa.ArrowException as error:
        raise ScenarioError(f"{path}: is not {wanted}: {str(error).splitlines()[0]}") from None
    names = [name.strip().removeprefix("\ufeff") for name in table.column_names]
    table = table.rename_columns(names)
    for name in ("at_s", "user"):
        if names.count(name) > 1 or (name == "at_s" and name not in names):
            raise ScenarioError(
                f"{path}: has {names.count(name) or 'no'} column{'s' * (names.count(name) > 1)} {name!r}; "
                f"its columns are {shown(', '.join(names))}, and {wanted} is expected"
            )
    if not len(table):
        raise ScenarioError(f"{path}: holds no rows; {wanted} is expected")
    return table


def _column(path: Path, table: pa.Table, name: str, wanted: str) -> npt.NDArray[np.float64]:
    """A column of numbers, every one of which is there."""
    column = table[name].combine_chunks()
    if column.null_count:
        row = int(np.asarray(column.is_null()).argmax())
        raise ScenarioError(f"{path}: row {row + 1} has nothing as {name}; {wanted} is expected in every row")
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        if np.isfinite(values).all():
            return values
        row = int((~np.isfinite(values)).argmax())
        raise ScenarioError(f"{path}: row {row + 1} has {values[row]} as {name}; {wanted} is expected")
    texts = [str(value) for value in column.to_pylist()]
    row = next((row for row, text in enumerate(texts) if not _is_number(text)), 0)
    raise ScenarioError(f"{path}: row {row + 1} has {shown(texts[row])} as {name}; {wanted} is expected")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
