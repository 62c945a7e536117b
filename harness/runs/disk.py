"""Writing so that a file is there whole or not at all, whenever the process dies or the power goes.

A file or a folder is written under a name that no reader looks at, flushed to the disk, and renamed: that is one step.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultsError

UNFINISHED = ".unfinished-"
"""The beginning of every name that is not yet, or no longer, part of a run."""


def write_text(path: Path, text: str) -> None:
    """``text`` as the UTF-8 file ``path``, in place of what was there; ResultsError when the disk refuses."""
    _land_file(path, lambda file: file.write(text.encode()))


def write_table(path: Path, table: pa.Table) -> None:
    """``table`` as the Parquet file ``path``, in place of what was there; ResultsError when the disk refuses."""
    _land_file(path, lambda file: pq.write_table(table, file))


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """The new folder ``folder`` with a Parquet file for each of ``tables``; ResultsError when the disk refuses."""
    unfinished = folder.with_name(f"{UNFINISHED}{os.getpid()}")
    try:
        unfinished.mkdir()
        for name, table in tables.items():
            _write(unfinished / f"{name}.parquet", lambda file, table=table: pq.write_table(table, file))  # type: ignore[misc]
        _flush_folder(unfinished)
        _rename(unfinished, folder)
        _flush_folder(folder.parent)
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written: {error}") from None


def sweep(folder: Path) -> None:
    """Removes what a killed process had not finished writing in ``folder``."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        discard(leftover)


def discard(path: Path) -> None:
    """Removes the file or folder ``path``, if it is there; a folder is renamed first: it is never seen half gone."""
    if path.is_dir():
        if not path.name.startswith(UNFINISHED):
            hidden = path.with_name(f"{UNFINISHED}{path.name}")
            discard(hidden)
            _rename(path, hidden)
            path = hidden
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _land_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        _write(unfinished, write)
        _rename(unfinished, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error}") from None


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _rename(old: Path, new: Path) -> None:
    old.replace(new)


def _flush_folder(folder: Path) -> None:
    # A rename is on the disk only when the folder that holds the name is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
