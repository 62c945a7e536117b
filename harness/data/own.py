"""A user's own pictures and questions: a TSV in VLMEvalKit's form, or a CSV beside picture files.

    image   question   [options]   [A B ..]   answer   [index]   [hint]   [category]   [group]   [metric]

In a CSV ``image`` is a picture's file, relative to the CSV's folder, or several with ``|`` between them. Options are
columns A, B, .. or one column ``options`` with ``|`` between them; the answer to a choice is an option's letter or its
text, and in columns A, B, .. the letter where it is both. ``index`` is the row's number where there is none. ``metric``
is one of :data:`METRICS` and the same in all rows; accuracy where there is none. A TSV may have the column ``metric``
too.
"""

import csv
import dataclasses
import hashlib
import io
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from harness import files
from harness.data import pictures, scoring
from harness.data.sample import Sample
from harness.data.scoring import OWN_METRICS
from harness.data.tsv import (
    LONGEST_FIELD,
    LONGEST_REFERENCE,
    Origin,
    TsvSamples,
    fields_of_any_size,
    mistake_in,
    read_tsv,
    refuse_other_encoding,
)
from harness.data.tsv_writer import image_field
from harness.errors import DataError, UnavailableError, in_lines, shown, unknown_name

_REQUIRED = ("image", "question", "answer")
_KEPT = ("hint", "category", "group")
_LETTERS = tuple(string.ascii_uppercase)
_LARGEST_BYTES = 1 << 30
_LARGEST_PICTURES_BYTES = LONGEST_FIELD // 4 * 3 - (1 << 10)
"""The most bytes of a row's pictures: in base64 and as a list they are one field."""
_FORM = b"3"
"""The form in which tables are cached: tables of an earlier form are not read."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """A row of a CSV: where it begins, its index, its pictures' names and files, its fields, options and answer."""

    line: int
    index: str
    names: tuple[str, ...]
    pictures: tuple[Path, ...]
    fields: Mapping[str, str]
    options: Mapping[str, str]
    answer: str


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
        return name, _grouped(path, name, read_tsv(path, name, max_pixels=max_pixels))
    if path.suffix != ".csv":
        raise DataError(f"{path}: is neither a .tsv nor a .csv file")
    if cache is None:
        raise UnavailableError(f"{path}: no cache folder can be written; name one in TOFC_HARNESS_CACHE")
    rows = _rows(path)
    table = cache / "own" / f"{path.stem}-{_digest(path, rows)}.tsv"
    try:
        if not table.exists():
            files.write_whole(table, lambda file: _write(path, rows, file))
    except OSError as error:
        raise UnavailableError(f"{table}: cannot be written: {files.why(error)}") from None
    origin = Origin(path, [row.line for row in rows], [row.names for row in rows])
    return name, _grouped(path, name, read_tsv(table, name, max_pixels=max_pixels, origin=origin))


def _grouped(path: Path, name: str, samples: TsvSamples) -> TsvSamples:
    """The samples; raises DataError where the metric counts whole groups, and every group has a single row."""
    metric = scoring.metric(name)
    groups = {one.group for one in samples.names}
    if metric.counts_groups and len(groups) == len(samples):
        shares = (
            "indices that are equal modulo 1000000"
            if isinstance(metric, scoring.Rotations)
            else "one category and picture"
        )
        raise DataError(
            f"{path}: the metric is {metric.name}, and no two of its {len(samples)} rows are of one group; rows that "
            f"count together have one 'group', or {shares}"
        )
    return samples


def _metric(path: Path) -> str:
    """What the metric adds to a benchmark's name: nothing for accuracy. Raises DataError for a TSV's ``options``."""
    named: dict[str, int] = {}
    for line, row in _table(path, []):
        if path.suffix == ".tsv" and (listed := row.get("options", "")).strip():
            why = "would not be shown: in a TSV each option has a column, A, B, ..; in a CSV they may be in this one"
            _refuse(path, line, "options", listed, why)
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


def _rows(path: Path) -> list[_Row]:
    """The rows of a CSV; raises DataError with a sentence for each that is wrong by itself or in the files it names."""
    rows: list[_Row] = []
    mistakes: list[str] = []
    indices: dict[str, _Row] = {}
    for number, (line, fields) in enumerate(_table(path, mistakes), 1):
        if missing := [column for column in _REQUIRED if column not in fields]:
            raise DataError(
                f"{path}: line 1: the header lacks {', '.join(missing)}; columns {', '.join(_REQUIRED)} are expected, "
                f"and these were found: {', '.join(list(fields)[:12])}"
            )
        try:
            row = _row(path, number, line, fields)
            _refuse_repeated(path, row, indices.setdefault(row.index, row))
        except DataError as error:
            mistakes.append(str(error))
        else:
            rows.append(row)
    if mistakes:
        raise DataError(in_lines(mistakes, str(path)))
    return rows


def _row(path: Path, number: int, line: int, fields: Mapping[str, str]) -> _Row:
    names = _names(path, line, fields["image"])
    options = _options(path, line, fields)
    answer = _letter(path, line, fields["answer"].strip(), options, listed=bool(fields.get("options", "").strip()))
    if (wrong := mistake_in(fields["question"], options, answer)) is not None:
        _refuse(path, line, *wrong)
    index = fields.get("index", "").strip() or str(number)
    return _Row(line, index, names, tuple(path.parent / name for name in names), fields, options, answer)


def _refuse_repeated(path: Path, row: _Row, first: _Row) -> None:
    """Raises DataError for a row whose index is that of the ``first`` one of this index."""
    if first is row:
        return
    mine, of_first = (one.fields.get("index", "").strip() for one in (row, first))
    if mine and of_first:
        why = f"is already the index of line {first.line}; an index is given once"
    elif mine:
        why = f"is the number of the row on line {first.line}, which has no index; give every row an index, or none"
    else:
        why = f"stands for the row's number, {row.index}, which is the index of line {first.line}; give every row one"
    _refuse(path, row.line, "index", mine, why)


def _names(path: Path, line: int, image: str) -> tuple[str, ...]:
    """The picture files that a field names: one, or several with | between them."""
    names = (image,) if _is_file(path.parent / image) else tuple(name.strip() for name in image.split("|"))
    for name in names:
        if not name.strip() or not _is_file(path.parent / name):
            why = f"is not a file in {path.parent}" + ("; several have | between them" if len(names) == 1 else "")
            _refuse(path, line, "image", name, why)
    try:
        sizes = [(path.parent / name).stat().st_size for name in names]
    except OSError as error:
        _refuse(path, line, "image", image, f"cannot be read: {files.why(error)}")
    if 0 in sizes:
        _refuse(path, line, "image", names[sizes.index(0)], "is an empty file; a picture is expected")
    if sum(sizes) > _LARGEST_PICTURES_BYTES:
        most = f"has {sum(sizes)} bytes; a row's pictures have {_LARGEST_PICTURES_BYTES} at most"
        _refuse(path, line, "image", image, most)
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long for a file system
        return False


def _table(path: Path, mistakes: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line where each row begins and its fields by the header's names; the columns of a TSV, or of a CSV.

    A row of another number of fields is left out, with a sentence in ``mistakes``.
    """
    try:
        with fields_of_any_size(), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, csv.excel_tab if path.suffix == ".tsv" else csv.excel, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if (twice := next((name for name in header if name and header.count(name) > 1), None)) is not None:
                raise DataError(f"{path}: line 1: the header names the column {twice!r} twice")
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    if len(fields) == len(header):
                        yield line, dict(zip(header, fields, strict=True))
                    else:
                        mistakes.append(
                            f"{path}: line {line}: the row has {len(fields)} fields and the header {len(header)}; "
                            f"a field that holds a {'tab' if path.suffix == '.tsv' else 'comma'} is quoted"
                        )
                line = reader.line_num + 1
    except UnicodeDecodeError:
        refuse_other_encoding(path)
        raise
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: is not a table: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {files.why(error)}") from None


def _digest(path: Path, rows: Sequence[_Row]) -> str:
    """What identifies a table and its pictures: the CSV's bytes, each picture's path and stamp."""
    total = hashlib.sha256(_FORM + files.read(path, _LARGEST_BYTES))
    for row in rows:
        for picture in row.pictures:
            total.update(f"{picture.resolve()} {files.stamp(picture)}\n".encode())
        total.update(b"\n")
    return total.hexdigest()[:16]


def _write(path: Path, rows: Sequence[_Row], file: BinaryIO) -> None:
    """The rows in VLMEvalKit's form; pictures are written once, with the first row that shows them."""
    columns = ["index", "image", "question", *_KEPT, *_LETTERS, "answer"]
    holders: dict[tuple[Path, ...], str] = {}
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        writer = csv.DictWriter(text, columns, dialect=csv.excel_tab, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for row in rows:
            image = holders.get(row.pictures)
            if image is None:
                image = image_field([_content(path, row, name) for name in row.names])
                if len(row.index) <= LONGEST_REFERENCE:
                    holders[row.pictures] = row.index
            writer.writerow(
                {
                    "index": row.index,
                    "image": image,
                    "question": row.fields["question"],
                    **{column: row.fields.get(column, "") for column in _KEPT},
                    **row.options,
                    "answer": row.answer,
                }
            )
    finally:
        # The file stays open: the caller flushes and closes it.
        text.detach()


def _content(path: Path, row: _Row, name: str) -> bytes:
    try:
        return files.read(path.parent / name, _LARGEST_PICTURES_BYTES)
    except OSError as error:
        _refuse(path, row.line, "image", name, f"cannot be read: {files.why(error)}")


def _options(path: Path, line: int, row: Mapping[str, str]) -> dict[str, str]:
    options = {letter: row[letter] for letter in _LETTERS if row.get(letter, "").strip()}
    listed = [text.strip() for text in row.get("options", "").split("|")] if row.get("options", "").strip() else []
    if listed and options:
        _refuse(path, line, "options", row["options"], "are given beside columns of options; use one of the two")
    if len(listed) > len(_LETTERS) or not all(listed):
        _refuse(path, line, "options", row["options"], f"are not 1 to {len(_LETTERS)} texts with | between them")
    return options or dict(zip(_LETTERS, listed, strict=False))


def _letter(path: Path, line: int, answer: str, options: Mapping[str, str], *, listed: bool) -> str:
    """The letter of an answer that is given as an option's text; ``listed`` where they are in one column."""
    meant = [letter for letter, text in options.items() if text.strip() == answer]
    if answer in options:
        if listed and meant not in ([], [answer]):
            why = f"is an option's letter, and the text of {', '.join(meant)}; in columns A, B, .. it is the letter"
            _refuse(path, line, "answer", answer, why)
        return answer
    if len(meant) > 1:
        _refuse(path, line, "answer", answer, f"is the text of the options {', '.join(meant)}; give the letter")
    return meant[0] if meant else answer


def _refuse(path: Path, line: int, column: str, value: str, why: str) -> NoReturn:
    raise DataError(f"{path}: line {line}: column {column!r}: {shown(value)} {why}")
