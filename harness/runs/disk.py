"""Atomic writes: a file is there complete or not at all, even if the process dies or the power fails.

A file or a folder is written under a name that no reader uses, flushed to the disk, and renamed, which is one step.
"""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness import files
from harness.errors import ResultsError
from harness.files import UNFINISHED


def check_writable(path: Path) -> None:
    """Raises ResultsError if ``path`` could not be written now; called before computing, not after."""
    try:
        files.check_writable(path)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {files.why(error)}") from None


def check_folder(folder: Path) -> None:
    """Raises ResultsError if no file could be written in ``folder``; called before computing, not after."""
    try:
        files.check_folder(folder)
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written: {files.why(error)}") from None


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as the UTF-8 file ``path``, replacing it; ResultsError if it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` as the file ``path``, replacing it; ResultsError if it cannot be written."""
    try:
        files.write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {files.why(error)}") from None


def write_folder(folder: Path, content: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Writes a new folder with files of this content, by relative name; ResultsError if it cannot be written.

    With ``replace`` it replaces an existing one, once it is complete.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{os.getpid()}")
    try:
        unfinished.mkdir()
        for name, data in content.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            _write(unfinished / name, data)
        files.flush_folder(unfinished)
        if replace:
            discard(folder)
        files.rename(unfinished, folder)
        files.flush_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise ResultsError(f"{folder}: cannot be written: {files.why(error)}") from None


def parquet(table: pa.Table, **how: object) -> bytes:
    """A table as the bytes of a Parquet file, with the options ``how`` of pyarrow."""
    file = io.BytesIO()
    pq.write_table(table, file, **how)
    return file.getvalue()


def table_in(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file; pyarrow's exceptions for what is none.

    It is read by this thread: one of Arrow's may hold the bytes a moment longer than the read lasts, and aborts the
    process if that ends in between, whatever its exit status was to be.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process had not finished writing in ``folder``."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        discard(leftover)


def discard(path: Path) -> None:
    """Removes the file or folder ``path``, if it exists; a folder is renamed first, never seen half removed."""
    if path.is_dir():
        if not path.name.startswith(UNFINISHED):
            hidden = path.with_name(f"{UNFINISHED}{path.name}")
            discard(hidden)
            files.rename(path, hidden)
            path = hidden
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
