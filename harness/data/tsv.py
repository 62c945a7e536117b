"""Benchmarks as VLMEvalKit's TSV: a header, then a row a question.

    index   image   question   [hint]   A B ..   answer   [category]   [image_path]   [group]

``image`` is the file in base64, a list of several (``['..', '..']``), or (64 characters at most) the index of the row
that holds them. A row without options is a yes/no question where its answer is yes or no, and an open one otherwise; in
MMMU, whose texts say with ``<image k>`` where a picture stands, it is always open. Pictures are identified by their
bytes; ``image_path`` only separates MME's pairs that show the same bytes under two names. ``group`` is this project's
own column, for benchmarks whose groups the metric cannot derive. Fields may be quoted; they then hold tabs and line
ends.

A file is read in two ways: once from end to end, a row at a time, to find where rows begin and whether they are sound,
picture headers included; then a row whenever its sample is read. Neither holds more than a row or two in memory.
"""

import array
import base64
import binascii
import contextlib
import csv
import io
import os
import sys
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, overload

from harness.data import pictures
from harness.data.sample import Kind, Name, Question, Sample
from harness.data.scoring import metric
from harness.errors import DataError, in_lines
from harness.files import why

_REQUIRED = ("index", "image", "question", "answer")
LONGEST_REFERENCE = 64
"""The most characters of an image field that refers to another row."""
LONGEST_FIELD = 64 * 1024 * 1024
"""The most characters of a field that is read."""
_BOM = b"\xef\xbb\xbf"
_MARKED = frozenset({"MMMU_DEV_VAL"})
_LIMIT = threading.RLock()


class Dialect(csv.excel_tab):
    """Tabs between fields, each of which may be quoted."""

    strict = True
    lineterminator = "\n"
    quoting = csv.QUOTE_ALL


class Origin(NamedTuple):
    """The table that a user wrote, of which a TSV is a cached form: by row its line there and its pictures' names."""

    path: Path
    lines: Sequence[int]
    pictures: Sequence[Sequence[str]]


def read_tsv(
    path: str | os.PathLike[str],
    benchmark: str,
    *,
    max_pixels: int = pictures.MAX_PIXELS,
    origin: Origin | None = None,
) -> "TsvSamples":
    """The samples of a TSV file, read from the disk one at a time, on demand.

    The whole file is checked first: raises DataError, naming file, line, column, value and what would be right, with a
    sentence for each row that is not one of a benchmark in this form, or whose picture is of another format or has more
    than ``max_pixels``.
    Whether a picture can be decoded to its end is checked when its sample is first read. Where the TSV has an
    ``origin``, mistakes in its rows are reported in that.
    """
    return TsvSamples(Path(path), benchmark, max_pixels, origin)


class TsvSamples(Sequence[Sample]):
    """The samples of one TSV file (see :func:`read_tsv`), or a slice of them, which is as lazy as the whole."""

    def __init__(self, path: Path, benchmark: str, max_pixels: int, origin: Origin | None = None) -> None:
        self.path = path
        self._origin = origin
        self._benchmark = benchmark
        self._marked = benchmark in _MARKED
        self._metric = metric(benchmark)
        self._max_pixels = max_pixels
        self._offsets = array.array("q")
        self._lines = array.array("q")
        self._images = array.array("q")
        self._checksums = array.array("q")
        self._names: list[Name] = []
        self._sound: set[int] = set()
        with fields_of_any_size():
            self._index()
        self._chosen = range(len(self._lines))

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "TsvSamples": ...
    def __getitem__(self, index: int | slice) -> "Sample | TsvSamples":
        if isinstance(index, slice):
            part = object.__new__(TsvSamples)
            part.__dict__.update(self.__dict__, _chosen=self._chosen[index])
            return part
        return self._sample(self._chosen[index])

    @property
    def names(self) -> list[Name]:
        """What is known of each sample without reading its row again."""
        return [self._names[n] for n in self._chosen]

    def _index(self) -> None:
        """Finds where each row begins and what it shows; raises DataError with a sentence for each row that is wrong.

        Of a row it is the first thing that is wrong. What cannot be read as text ends the file.
        """
        holders: dict[str, int] = {}
        references: dict[int, str] = {}
        shown: dict[int, _Shown] = {}
        asked: dict[int, _Asked] = {}
        named: list[str] = []
        mistakes = _Mistakes()
        rows = self._rows()
        self._header = next(rows, (0, 1, []))[2]
        self._options = [name for name in self._header if len(name) == 1 and "A" <= name <= "Z"]
        self._check_header()
        with mistakes.noted(sys.maxsize):
            for number, (offset, own_line, fields) in enumerate(rows):
                line = own_line if self._origin is None else self._origin.lines[number]
                self._offsets.append(offset)
                self._lines.append(line)
                self._images.append(number)
                self._checksums.append(_checksum(fields))
                with mistakes.noted(line):
                    row = self._named(fields, line)
                    named.append(row["index"])
                    if (first := holders.setdefault(row["index"], number)) != number:
                        why = f"is already the index of line {self._lines[first]}; an index is given once"
                        self._refuse(line, "index", row["index"], why)
                    one = self._asked(row, line)
                    if len(row["image"]) <= LONGEST_REFERENCE:
                        references[number] = row["image"]
                    else:
                        shown[number] = self._shown(row, number, line)
                    row.pop("image")
                    asked[number] = one
        if not self._lines and not mistakes.found:
            raise DataError(f"{self._table}: there is a header and no row; a benchmark has at least one question")
        # A row of another number of fields has no index, and may be the one that others refer to.
        all_named = len(named) == len(self._lines)
        for number, index in references.items():
            holder = holders.get(index)
            with mistakes.noted(self._lines[number]):
                if holder in references or (holder is None and all_named):
                    why = (
                        f"is not the index of a row with an image (at most {LONGEST_REFERENCE} characters refer to one)"
                    )
                    self._refuse(self._lines[number], "image", index, why)
            if holder is not None:
                self._images[number] = holder
        of_group: dict[str, tuple[str, int]] = {}
        for number, one in asked.items():
            if (of_row := shown.get(self._images[number])) is not None:
                with mistakes.noted(self._lines[number]):
                    self._names.append(self._name(one, of_row, self._lines[number]))
                    self._refuse_spanning(self._names[-1], self._lines[number], of_group)
        mistakes.refuse(self._table)

    def _asked(self, row: dict[str, str], line: int) -> "_Asked":
        question, _ = self._question(row, line)
        self._group(row, "", line)
        if (named := question.pictures_named()) and min(named) < 1:
            self._refuse(line, "question", "<image 0>", "is shown, but pictures are counted from 1")
        return _Asked(row, question.text_bytes, max(named, default=0))

    def _shown(self, row: dict[str, str], number: int, line: int) -> "_Shown":
        files = self._files(row["image"], line)
        sizes = []
        for place, file in enumerate(files, 1):
            try:
                found = pictures.header(file, max_pixels=self._max_pixels)
            except DataError as error:
                which = f"picture {place} of {len(files)}" if len(files) > 1 else "its picture"
                sentence = f"sample {row['index']}: {which} cannot be decoded: {error}"
                raise DataError(f"{self._image_of(number, line)}: {sentence}") from None
            sizes.append((found.width_px, found.height_px))
        return _Shown(pictures.digest(files), tuple(sizes), sum(map(len, files)))

    def _name(self, asked: "_Asked", shown: "_Shown", line: int) -> Name:
        if asked.last_picture > (count := len(shown.sizes_px)):
            has = f"is shown, but the row has {count} image{'s' * (count != 1)}"
            self._refuse(line, "question", f"<image {asked.last_picture}>", has)
        return Name(
            id=asked.row["index"],
            own_id=asked.row["index"],
            image_id=shown.image_id,
            benchmark=self._benchmark,
            category=asked.row.get("category", ""),
            group=self._group(asked.row, shown.image_id, line),
            sizes_px=shown.sizes_px,
            original_bytes=shown.n_bytes,
            text_bytes=asked.text_bytes,
        )

    def _refuse_spanning(self, name: Name, line: int, of_group: dict[str, tuple[str, int]]) -> None:
        """Raises DataError for a row whose group began in another category, where the metric's may not.

        ``of_group`` has the category and the line of each group so far.
        """
        category, first = of_group.setdefault(name.group, (name.category, line))
        if self._metric.groups_within_category and category != name.category:
            why = f"is a second category of the group {_short(name.group)}, whose line {first} has {_short(category)}"
            self._refuse(line, "category", name.category, f"{why}; a group belongs to one")

    def _rows(self, offset: int = 0, line: int = 1) -> Iterator[tuple[int, int, list[str]]]:
        """Offset in bytes, line and fields of each row from ``offset`` on."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                source = _Lines(self.path, file, line)
                reader = csv.reader(source, Dialect)
                while True:
                    offset, line = file.tell(), source.line
                    fields = next(reader, None)
                    if fields is None:
                        return
                    if fields:
                        yield offset, line, fields
        except csv.Error as error:
            said = f"{error} (a field that holds a quote is quoted, its quotes doubled)"
            if "universal-newline" in str(error):
                said = "it holds a carriage return (CR) without a line feed; save the file with LF or CR LF line ends"
            raise DataError(
                f"{self.path}: line {line}: the row that begins here is not tab-separated text: {said}"
            ) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {why(error)}") from None

    def _check_header(self) -> None:
        if not self._header:
            raise DataError(f"{self.path}: the file is empty; a header with {', '.join(_REQUIRED)} is expected")
        if missing := [name for name in _REQUIRED if name not in self._header]:
            found = ", ".join(_short(name) for name in self._header[:12])
            raise DataError(
                f"{self.path}: line 1: the header lacks {', '.join(missing)}; tab-separated columns "
                f"{', '.join(_REQUIRED)} are expected, and these were found: {found}"
            )
        if repeated := {name for name in self._header if name and self._header.count(name) > 1}:
            raise DataError(f"{self.path}: line 1: the header names the column {min(repeated)!r} twice")

    def _named(self, fields: list[str], line: int) -> dict[str, str]:
        if len(fields) != len(self._header):
            raise DataError(
                f"{self.path}: line {line}: the row has {len(fields)} fields and the header {len(self._header)}; "
                f"its first is {_short(fields[0])}; a field that holds a tab is quoted"
            )
        row = dict(zip(self._header, fields, strict=True))
        if not row["index"]:
            self._refuse(line, "index", "", "is not an index; every row has one")
        return row

    def _question(self, row: dict[str, str], line: int) -> tuple[Question, str]:
        """The question of a row and its truth, in the form that a question of its kind has."""
        options = {letter: row[letter] for letter in self._options if row[letter]}
        truth = row["answer"].strip()
        if (wrong := mistake_in(row["question"], options, truth)) is not None:
            self._refuse(line, *wrong)
        kind: Kind = "choice" if options else "open"
        if not options and truth.lower() in ("yes", "no") and not self._marked:
            kind, truth = "yes_no", truth.capitalize()
        text, hint = row["question"], row.get("hint", "")
        return Question(text=text, kind=kind, options=options, hint=hint, marked=self._marked), truth

    def _sample(self, number: int) -> Sample:
        holder, name = self._images[number], self._names[number]
        with fields_of_any_size():
            row = self._row(number)
            image = row if holder == number else self._row(holder)
        question, truth = self._question(row, self._lines[number])
        first, *others = self._files(image["image"], self._lines[holder])
        sample = Sample(
            id=row["index"],
            image_bytes=first,
            more_images=tuple(others),
            question=question,
            truth=truth,
            category=name.category,
            group=name.group,
            max_pixels=self._max_pixels,
        )
        if holder not in self._sound:
            try:
                sample.images()
            except DataError as error:
                raise DataError(f"{self._image_of(holder, self._lines[holder])}: {error}") from None
            self._sound.add(holder)
        return sample

    def _group(self, row: dict[str, str], image_id: str, line: int) -> str:
        """The group of a row: its own, or the metric's, by the picture's bytes and the name that the row gives them."""
        path = row.get("image_path", "")
        shown = f"{path}/{image_id}" if path else image_id
        try:
            return row.get("group") or self._metric.group_of(row["index"], shown, row.get("category", ""))
        except DataError as error:
            raise DataError(f"{self._table}: line {line}: column 'index': {error}") from None

    def _row(self, number: int) -> dict[str, str]:
        line = self._lines[number]
        for _, _, fields in self._rows(self._offsets[number], line):
            if _checksum(fields) != self._checksums[number]:
                raise DataError(f"{self.path}: line {line} has changed; the file was modified while it was read")
            return self._named(fields, line)
        raise DataError(f"{self.path}: line {line} is no longer there; the file was modified while it was read")

    def _files(self, text: str, line: int) -> list[bytes]:
        """The files in an image field: one in base64, or a list of several."""
        listed = text.startswith("[")
        items = [item.strip(" '\"") for item in text.strip("[] ").split(",")] if listed else [text]
        try:
            files = [base64.b64decode(item, validate=True) for item in items]
        except (binascii.Error, ValueError) as error:
            self._refuse(line, "image", text, f"is not base64: {error}")
        if not all(files):
            self._refuse(line, "image", text, f"is a list of {len(files)} images, one of which is empty")
        return files

    @property
    def _table(self) -> Path:
        """The file that lines are counted in."""
        return self.path if self._origin is None else self._origin.path

    def _image_of(self, number: int, line: int) -> str:
        """Where the pictures of a row stand: file, line, column, and their own names if they have any."""
        names = () if self._origin is None else self._origin.pictures[number]
        return f"{self._table}: line {line}: column 'image'" + (f": {', '.join(map(repr, names))}" if names else "")

    def _refuse(self, line: int, column: str, value: str, why: str) -> NoReturn:
        raise DataError(f"{self._table}: line {line}: column {column!r}: {_short(value)} {why}")


def mistake_in(question: str, options: Collection[str], truth: str) -> tuple[str, str, str] | None:
    """The column, the value and the reason why a question cannot be asked and scored; None where it can."""
    if options and truth not in options:
        return "answer", truth, f"is not among the options {', '.join(options)}"
    if not truth:
        return "answer", truth, "is not an answer; without one nothing can be scored"
    if not question.strip():
        return "question", question, "is not a question"
    return None


class _Mistakes:
    """What is wrong in a file, by line."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    @contextlib.contextmanager
    def noted(self, line: int) -> Iterator[None]:
        """Keeps a DataError that is raised inside, which ends there."""
        try:
            yield
        except DataError as error:
            self.found.append((line, str(error)))

    def refuse(self, table: Path) -> None:
        """Raises DataError with all of them, if there are any."""
        if self.found:
            raise DataError(in_lines([said for _, said in sorted(self.found)], str(table)))


class _Shown(NamedTuple):
    """The picture or pictures of a row that holds them."""

    image_id: str
    sizes_px: tuple[tuple[int, int], ...]
    n_bytes: int


class _Asked(NamedTuple):
    """A row without its image, and of its question the bytes of the text and the highest k of an ``<image k>``."""

    row: dict[str, str]
    text_bytes: int
    last_picture: int


def refuse_other_encoding(path: Path) -> None:
    """Raises DataError, naming line and place, for a file that is not UTF-8 text."""
    with path.open("rb") as file:
        for _ in _Lines(path, file, 1):
            pass


class _Lines(Iterator[str]):
    """The lines of a UTF-8 file, counted; ``file.tell()`` is the end of the last one."""

    def __init__(self, path: Path, file: io.BufferedReader, line: int) -> None:
        self._path = path
        self._file = file
        self.line = line

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        if self.line == 1:
            raw = raw.removeprefix(_BOM)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path}: line {self.line}: byte {raw[error.start]:#04x} at place {error.start + 1} of the line "
                "is not UTF-8; save the file as UTF-8"
            ) from None
        if "\0" in text:
            raise DataError(
                f"{self._path}: line {self.line}: there is a NUL at place {text.index(chr(0)) + 1} of the line; "
                "save the file as UTF-8 text"
            )
        self.line += 1
        return text


@contextlib.contextmanager
def fields_of_any_size() -> Iterator[None]:
    """Lets csv read fields as long as an image; its limit belongs to the process, so it is restored."""
    with _LIMIT:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _checksum(fields: Sequence[str]) -> int:
    return zlib.crc32("\t".join(fields).encode())


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:37]}...")
