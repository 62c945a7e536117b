"""What the comparisons of trained points share: their held-out pages, and the rows that a call saves for the next.

A saved row is found again by the digest of what decides it: the point's files, the fingerprints of the backbone's
weights, the pages, and :data:`FORMAT`. The code is not part of the digest.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.data.questions import Page
from harness.errors import ResultsError
from harness.models import files
from harness.runs import disk
from harness.training.bundled import book_of

FORMAT = 2
"""To be raised with a change of what a row holds or of how it is measured: saved rows are then measured again."""

BOOKS, PAGES = 8, 96
"""The number of books that pages are taken from, and the default number of pages."""


def book_pages(first_book: int) -> list[Page]:
    """The pages of :data:`BOOKS` books."""
    return [page for number in range(first_book, first_book + BOOKS) for page in book_of(number)]


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None, first_book: int) -> argparse.Namespace:
    """The arguments, with ``--pages`` and ``--save`` added; ``first_book`` is the default of a ``--first-book``.

    Exits with status 2 for a number of pages that the books do not have, or from which no interval can be made.
    """
    parser.add_argument("--pages", type=int, default=PAGES, help="how many held-out pages; the default is %(default)s")
    parser.add_argument("--save", type=Path, help="a JSON file for the rows; what it holds is not measured again")
    arguments = parser.parse_args(argv)
    first_book = getattr(arguments, "first_book", first_book)
    if first_book < 0:
        parser.error(f"--first-book {first_book}: books are counted from 0")
    if arguments.pages < 2:
        parser.error(f"--pages {arguments.pages}: an interval over pages needs at least 2")
    if arguments.pages > PAGES and arguments.pages > (there := len(book_pages(first_book))):
        parser.error(
            f"--pages {arguments.pages}: the books {first_book} to {first_book + BOOKS - 1} have {there} pages"
        )
    return arguments


def digest(paths: Iterable[Path], *given: Any) -> str:
    """The digest of files and of all else that decides a point's rows."""
    found = hashlib.sha256(repr((FORMAT, *given)).encode())
    for path in paths:
        content = path.read_bytes()
        found.update(f"{path.name} {len(content)}".encode())
        found.update(content)
    return found.hexdigest()


class Saved:
    """The rows of earlier calls by their digest, in a JSON file where one is given.

    ``kind`` is what such a file holds: tuples of named rows. Raises ResultsError for a file that cannot be written or
    holds anything else, and CheckpointError for one that is not JSON.
    """

    def __init__(self, path: Path | None, kind: TypeAdapter[Any]) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if path is None:
            return
        disk.check_writable(path)
        if path.exists():
            try:
                self._found = kind.validate_python(files.read_json(path))
            except ValidationError as error:
                first = error.errors()[0]
                place = ", ".join(map(str, first["loc"]))
                raise ResultsError(
                    f"{path}: holds no rows of this command at {place}: {first['msg']}; name another file for --save"
                ) from None

    def rows(self, key: str, measure: Callable[[], Any]) -> Any:
        """The rows of that digest, measured and saved if they are not there."""
        if key not in self._found:
            self._found[key] = measure()
            if self._path is not None:
                text = {name: [row._asdict() for row in rows] for name, rows in self._found.items()}
                disk.write_text(self._path, json.dumps(text))
        return self._found[key]
