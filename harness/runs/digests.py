"""Digests of what a number depends on: files by their content, the package's own code.

A file's digest is cached by its path and stamp (:func:`harness.files.stamp`): a benchmark of a gigabyte is read once.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness import files
from harness.cache import cache_folder
from harness.errors import ResultsError

SHORT = 16
"""Hexadecimal digits of a digest as it is recorded and shown."""

_CACHE_NAME = "digests.json"
_CACHED_FROM_BYTES = 1 << 20
"""Smaller files are read again, which is quicker than a lookup."""
_MOST_CACHED = 4096


def of_bytes(data: bytes) -> str:
    """SHA-256 of some bytes, its first 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:SHORT]


def of_text(text: str) -> str:
    """:func:`of_bytes` of a text in UTF-8."""
    return of_bytes(text.encode())


def of_data(data: object) -> str:
    """:func:`of_bytes` of plain data (mappings, lists, texts, numbers), whatever the order of its keys."""
    return of_text(json.dumps(data, sort_keys=True, ensure_ascii=False, default=str))


def of_file(path: Path) -> str:
    """:func:`of_bytes` of a file's content; raises ResultsError where it cannot be read."""
    try:
        n_bytes, *_ = facts = files.stamp(path)
        stamp = " ".join(map(str, facts))
        name = str(path.resolve())
        if n_bytes >= _CACHED_FROM_BYTES and (known := _cached().get(name)) and known[0] == stamp:
            return known[1]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:SHORT]
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {files.why(error)}") from None
    if n_bytes >= _CACHED_FROM_BYTES:
        _remember(name, stamp, digest)
    return digest


def of_links(paths: Iterable[Path]) -> dict[str, str]:
    """A digest for each name of a recorded link's or arrivals' file, as ``link lte.parquet``; see :func:`by_name`."""
    return by_name("link", ((path, of_file(path)) for path in paths))


def by_name(what: str, digested: Iterable[tuple[Path, str]]) -> dict[str, str]:
    """Files' digests by their names, for people; of files in several folders that share a name, the digest of all."""
    found: dict[str, dict[str, None]] = {}
    for path, digest in digested:
        found.setdefault(f"{what} {path.name}", {})[digest] = None
    return {name: next(iter(own)) if len(own) == 1 else of_data(sorted(own)) for name, own in found.items()}


def of_folder(folder: Path, pattern: str = "**/*") -> str:
    """The digest of all files of a folder that match ``pattern``, by relative name and content."""
    return of_files(folder, sorted(path for path in folder.glob(pattern) if path.is_file()))


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names whose digests differ or are in only one of the two, in order."""
    return [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]


@functools.cache
def of_code() -> str:
    """The digest of this package's own Python files, those of the baselines among them."""
    root = Path(__file__).parents[2]
    return of_files(root, [path for top in ("harness", "baselines") for path in sorted((root / top).rglob("*.py"))])


def of_files(root: Path, paths: Iterable[Path]) -> str:
    """The digest of some files under ``root``, by relative name and content, in this order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.relative_to(root).as_posix()} {of_file(path)}\n".encode())
    return total.hexdigest()[:SHORT]


@functools.cache
def _cached() -> dict[str, tuple[str, str]]:
    folder = cache_folder()
    if folder is None:
        return {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = json.loads((folder / _CACHE_NAME).read_text(encoding="utf-8"))
        return {str(name): (str(stamp), str(digest)) for name, (stamp, digest) in known.items()}
    return {}


def _remember(name: str, stamp: str, digest: str) -> None:
    """Writes the cache; if it cannot be written, only time is lost."""
    known = _cached()
    known[name] = (stamp, digest)
    while len(known) > _MOST_CACHED:
        known.pop(next(iter(known)))
    if (folder := cache_folder()) is not None:
        unfinished = folder / f".{_CACHE_NAME}.{os.getpid()}"
        with contextlib.suppress(OSError):
            unfinished.write_text(json.dumps(known), encoding="utf-8")
            unfinished.replace(folder / _CACHE_NAME)
