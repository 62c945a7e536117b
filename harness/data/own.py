"""A user's own pictures and questions: a TSV in VLMEvalKit's form, or a CSV beside picture files.

    image   question   [options]   [A B ..]   answer   [index]   [hint]   [category]   [group]   [metric]

In a CSV ``image`` is a picture's file, relative to the CSV's folder. Options are columns A, B, .. or one column
``options`` with ``|`` between them; the answer to a choice is an option's letter or its text. ``index`` is the row's
number where there is none. ``metric`` is one of :data:`METRICS` and the same in all rows; accuracy where there is none.
A TSV may have the column ``metric`` too.
"""

import base64
import csv
import hashlib
import io
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from harness import files
from harness.data import pictures
from harness.data.sample import Sample
from harness.data.scoring import OWN_METRICS
from harness.data.tsv import fields_of_any_size, read_tsv
from harness.errors import DataError, UnavailableError, shown, unknown_name

_REQUIRED = ("image", "question", "answer")
_KEPT = ("hint", "category", "group")
_LETTERS = tuple(string.ascii_uppercase)
_LARGEST_BYTES = 1 << 30


def refuse_absent(path: Path) -> Path:
    """The TSV or CSV of a path, which may be the CSV's folder; raises UnavailableError where there is none."""
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        if len(found) != 1:
            raise UnavailableError(f"{path}: holds {len(found) or 'no'} CSV files; a folder of pictures has one")
        path = found[0]
    if not path.is_file():
        raise UnavailableError(f"{path}: there is no such benchmark; a TSV, a CSV or a folder with a CSV is expected")
    return path


def load(path: Path, *, cache: Path | None, max_pixels: int = pictures.MAX_PIXELS) -> tuple[str, Sequence[Sample]]:
    """The name of a user's own benchmark in rows and tables, and its samples, read on demand.

    The name is the file's, with the metric behind it where that is not accuracy: ``shop.csv``, ``shop.tsv:pairs``. A
    CSV is written to ``cache`` as a TSV first, with its pictures. Raises UnavailableError where there is no such file,
    and DataError, naming file, line, column and value, for what is not a benchmark.
    """
    path = refuse_absent(path)
    name = path.name + _metric(path)
    if path.suffix == ".tsv":
        return name, read_tsv(path, name, max_pixels=max_pixels)
    if path.suffix != ".csv":
        raise DataError(f"{path}: is neither a .tsv nor a .csv file")
    if cache is None:
        raise UnavailableError(f"{path}: no cache folder can be written; name one in TOFC_HARNESS_CACHE")
    rows = list(_rows(path))
    table = cache / "own" / f"{path.stem}-{_digest(path, rows)}.tsv"
    try:
        if not table.exists():
            files.write_whole(table, lambda file: _write(path, rows, file))
        return name, read_tsv(table, name, max_pixels=max_pixels)
    except DataError as error:
        # Lines are numbered as in the CSV: its fields are written unchanged.
        raise DataError(str(error).replace(str(table), str(path))) from None
    except OSError as error:
        raise UnavailableError(f"{table}: cannot be written: {files.why(error)}") from None


def _metric(path: Path) -> str:
    """What the metric adds to a benchmark's name: nothing for accuracy."""
    named: dict[str, int] = {}
    for line, row in _table(path):
        named.setdefault(row.get("metric", "").strip(), line)
    if len(named) > 1:
        (one, _), (other, line) = list(named.items())[:2]
        _refuse(
            path, line, "metric", other, f"differs from {shown(one)} of the rows before; a benchmark has one metric"
        )
    metric = next(iter(named), "") or "accuracy"
    if metric not in OWN_METRICS:
        raise DataError(f"{path}: {unknown_name('metric', metric, OWN_METRICS)}")
    return "" if metric == "accuracy" else f":{metric}"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str], Path]]:
    """The line of each row of a CSV, its fields, and the file of its picture."""
    for line, row in _table(path):
        if missing := [column for column in _REQUIRED if column not in row]:
            raise DataError(
                f"{path}: line 1: the header lacks {', '.join(missing)}; columns {', '.join(_REQUIRED)} are expected, "
                f"and these were found: {', '.join(list(row)[:12])}"
            )
        picture = path.parent / row["image"]
        if not row["image"].strip() or not picture.is_file():
            _refuse(path, line, "image", row["image"], f"is not a file in {path.parent}")
        yield line, row, picture


def _table(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The line where each row begins and its fields by the header's names; the columns of a TSV, or of a CSV."""
    try:
        with fields_of_any_size(), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, csv.excel_tab if path.suffix == ".tsv" else csv.excel, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if (twice := next((name for name in header if name and header.count(name) > 1), None)) is not None:
                raise DataError(f"{path}: line 1: the header names the column {twice!r} twice")
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    if len(fields) != len(header):
                        raise DataError(
                            f"{path}: line {line}: the row has {len(fields)} fields and the header {len(header)}; "
                            f"a field that holds a {'tab' if path.suffix == '.tsv' else 'comma'} is quoted"
                        )
                    yield line, dict(zip(header, fields, strict=True))
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: is not a table: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {files.why(error)}") from None


def _digest(path: Path, rows: Sequence[tuple[int, dict[str, str], Path]]) -> str:
    """What identifies a table and its pictures: the CSV's bytes, each picture's size and time of change."""
    total = hashlib.sha256(files.read(path, _LARGEST_BYTES))
    for _, _, picture in rows:
        facts = picture.stat()
        total.update(f"{picture.resolve()} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]


def _write(path: Path, rows: Sequence[tuple[int, dict[str, str], Path]], file: BinaryIO) -> None:
    """The rows in VLMEvalKit's form; a picture is written once, with the first row that shows it."""
    columns = ["index", "image", "question", *_KEPT, *_LETTERS, "answer"]
    holders: dict[Path, str] = {}
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        writer = csv.DictWriter(text, columns, dialect=csv.excel_tab, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for number, (line, row, picture) in enumerate(rows, 1):
            index = row.get("index", "").strip() or str(number)
            options = _options(path, line, row)
            image = holders.setdefault(picture, index)
            writer.writerow(
                {
                    "index": index,
                    "image": base64.b64encode(picture.read_bytes()).decode("ascii") if image == index else image,
                    "question": row["question"],
                    **{column: row.get(column, "") for column in _KEPT},
                    **options,
                    "answer": _letter(row["answer"].strip(), options),
                }
            )
    finally:
        # The file stays open: the caller flushes and closes it.
        text.detach()


def _options(path: Path, line: int, row: dict[str, str]) -> dict[str, str]:
    options = {letter: row[letter] for letter in _LETTERS if row.get(letter)}
    listed = [text.strip() for text in row.get("options", "").split("|")] if row.get("options", "").strip() else []
    if listed and options:
        _refuse(path, line, "options", row["options"], "are given beside columns of options; use one of the two")
    if len(listed) > len(_LETTERS) or not all(listed):
        _refuse(path, line, "options", row["options"], f"are not 1 to {len(_LETTERS)} texts with | between them")
    return options or dict(zip(_LETTERS, listed, strict=False))


def _letter(answer: str, options: dict[str, str]) -> str:
    """The letter of an answer that is given as an option's text."""
    meant = [letter for letter, text in options.items() if text == answer]
    return meant[0] if answer not in options and len(meant) == 1 else answer


def _refuse(path: Path, line: int, column: str, value: str, why: str) -> NoReturn:
    raise DataError(f"{path}: line {line}: column {column!r}: {shown(value)} {why}")
