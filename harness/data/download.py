"""Downloads published files: resumed after an interruption, and checked before the file gets its final name.

<folder>/<name>.tsv.part    a part of a benchmark's file; the same command resumes it (HTTP Range)
<folder>/<name>.tsv         the whole file, with the published md5

No answer of a server removes bytes from a part. A server that sends the file from its beginning is compared with the
part, byte by byte, until it reaches the part's end.
"""

import dataclasses
import fcntl
import hashlib
import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import httpx

from harness.data import MIRROR_VARIABLE
from harness.data.benchmarks import PREFIX, Benchmark, check_md5
from harness.errors import DataError, UnavailableError, shown
from harness.files import hexdigest, make_folder, why

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes downloaded, and the file's size, or None if the server does not say."""

MAX_BYTES = 4 * 2**30
"""The largest file of a benchmark: an endless answer is cut off here."""

SPARE_BYTES = 2**26
"""The space that a disk must have left after a download."""

_TIMEOUT_S = 30.0
_RETRIES = 4
_PAUSE_S = 1.0
_BUSY = (429, 500, 502, 503, 504)
"""Statuses after which a retry may succeed."""
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_BOM = b"\xef\xbb\xbf"
_PAGE = re.compile(rb"\s*<(?:!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
"""The beginning of a web page. A file of numbers may begin with a space and ``<`` by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published file: its name in messages, its address, and the digest of its content.

    ``digest`` is in hexadecimal digits; that of ``git`` is a blob's. ``by_hand`` says what to do if the address cannot
    be reached, ``refused`` what an error status means; ``headers`` are sent with each request.
    """

    name: str
    url: str
    kind: Literal["md5", "sha256", "git"]
    digest: str
    by_hand: str
    refused: Callable[[httpx.Response], str] = lambda _: "is the address right?"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def digest_of(self, path: Path, n_bytes: int) -> str:
        """The same digest of the first bytes of a file."""
        if self.kind == "git":
            return hexdigest(path, hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False), n_bytes)
        return hexdigest(path, hashlib.new(self.kind, usedforsecurity=False), n_bytes)


def download(
    benchmark: Benchmark,
    folder: Path,
    *,
    mirror: str = PREFIX,
    progress: Progress = lambda *_: None,
    pause_s: float = _PAUSE_S,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """The benchmark's TSV in ``folder``, downloaded unless it exists; its md5 is the published one when this returns.

    ``mirror`` is a URL with the same layout as VLMEvalKit's own prefix. Raises as :func:`fetch`, UnavailableError if it
    is none, and DataError if the existing file is not the published one.
    """
    refuse_no_url(mirror, f"{benchmark.name}: the mirror (--mirror or {MIRROR_VARIABLE})", PREFIX)
    path = folder / f"{benchmark.name}.tsv"
    if path.exists():
        check_md5(benchmark, path)
        return path
    file = Published(
        name=benchmark.name,
        url=f"{mirror.rstrip('/')}/{benchmark.url_path}",
        kind="md5",
        digest=benchmark.md5,
        by_hand=f"put it at {path} (md5 {benchmark.md5}), or name a mirror with --mirror",
    )
    part = path.with_name(f"{path.name}.part")
    fetch(file, path, part, progress=progress, pause_s=pause_s, max_bytes=max_bytes)
    return path


def refuse_no_url(url: str, where: str, example: str) -> None:
    """Raises UnavailableError unless ``url`` is an address of http or https; ``where`` says who gave it."""
    try:
        found = httpx.URL(url)
        is_one = found.scheme in ("http", "https") and bool(found.host)
    except httpx.InvalidURL:
        is_one = False
    if not is_one:
        raise UnavailableError(f"{where} is {shown(url)}, which is no URL; one such as {example} is expected")


def client_of(name: str, headers: Mapping[str, str]) -> httpx.Client:
    """A client with the proxies and certificates of the environment.

    Raises UnavailableError for those that cannot be used; ``name`` is what is to be fetched.
    """
    try:
        trusted = httpx.create_ssl_context()
    except OSError as error:
        raise UnavailableError(
            f"{name}: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}"
        ) from None
    try:
        return httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True, headers=headers, verify=trusted)
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise UnavailableError(
            f"{name}: the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names cannot be used: {error}; one such as "
            "http://proxy:3128 is expected, or none"
        ) from None


def fetch(
    file: Published,
    path: Path,
    part: Path,
    *,
    progress: Progress = lambda *_: None,
    pause_s: float = _PAUSE_S,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Downloads a file to ``path``, by way of ``part``, which holds the bytes so far.

    A lost connection is opened again and the download resumed, after ``pause_s``, as long as bytes keep coming.

    Raises UnavailableError if the file cannot be downloaded or written, or would have more than ``max_bytes``, and
    DataError if the download is not the published file. Bytes of earlier calls are kept.
    """
    with _opened(part) as coming:
        begun = coming.tell()
        total = _fetch(file, coming, progress, pause_s, max_bytes)
        coming.flush()
        came = coming.tell() if total is None else total
        if (found := file.digest_of(part, came)) != file.digest:
            # An answer without a length may have been cut off anywhere.
            left = coming.tell() if total is None else begun
            coming.truncate(left)
            raise DataError(
                f"{file.name}: what came from {file.url}, {came} bytes, has the {_called(file.kind)} {found}, and "
                f"{file.digest} is published; {_what_now(part, left, cut=total is None)}"
            )
        coming.truncate(came)
        part.replace(path)


def _called(kind: str) -> str:
    return "git object id" if kind == "git" else kind


def _what_now(part: Path, n_bytes: int, *, cut: bool) -> str:
    if not n_bytes:
        return "it was deleted, and can be fetched again"
    kept = f"{part} is kept with {n_bytes} bytes"
    return f"{kept}: {'repeat the command to resume' if cut else 'another mirror may complete it'}, or delete it"


@contextmanager
def _opened(part: Path) -> Iterator[BinaryIO]:
    """The partial file, open at its end and locked for this process."""
    try:
        make_folder(part.parent)
        with part.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(f"{part}: another process is writing it; wait for it to end") from None
            try:
                yield file
            finally:
                # What is still in Python's buffer (128 KiB from 3.14 on) counts: a part of less is not empty.
                file.flush()
                if part.exists() and not part.stat().st_size:
                    part.unlink()
    except OSError as error:
        raise UnavailableError(f"{part}: cannot be written: {why(error)}") from None


def _fetch(file: Published, coming: BinaryIO, progress: Progress, pause_s: float, max_bytes: int) -> int | None:
    """Appends to ``coming`` what it lacks, and returns how many bytes the server says the whole has, if it does.

    Gives up after a few consecutive attempts without a byte.
    """
    idle, url = 0, file.url
    headers = {"Accept-Encoding": "identity", **file.headers}
    with client_of(file.name, headers) as client:
        while True:
            had = coming.tell()
            try:
                return _attempt(client, coming, url, progress, max_bytes)
            except httpx.HTTPStatusError as error:
                raise UnavailableError(
                    f"{file.name}: {url} answers {_status(error.response)}; {file.refused(error.response)}"
                ) from None
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise UnavailableError(
                    f"{file.name}: {url} cannot be reached from this machine ({_why(error)}); fetch it on one with a "
                    f"network and {file.by_hand}"
                ) from None
            except (httpx.HTTPError, _LostError) as error:
                idle = 0 if coming.tell() > had else idle + 1
                if idle > _RETRIES:
                    raise UnavailableError(
                        f"{file.name}: the connection to {url} is lost after {coming.tell()} bytes ({_why(error)}); "
                        "repeat the command to resume"
                    ) from None
                time.sleep(pause_s)
            except _WrongError as error:
                raise UnavailableError(f"{file.name}: {url} {error}") from None


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


class _LostError(Exception):
    """An answer that ended before the file did."""


class _WrongError(Exception):
    """An answer that is not the file, with what to say of it after the address."""


def _attempt(client: httpx.Client, file: BinaryIO, url: str, progress: Progress, max_bytes: int) -> int | None:
    """One request for what is missing; returns when the file has all that the server has, or says that it has."""
    begun = file.tell()
    with client.stream("GET", url, headers={"Range": f"bytes={begun}-"} if begun else {}) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and begun:
            if _range(response)[1] == begun:
                return begun
        else:
            _raise_for_status(response)
            start, total = _range(response)
            if start is not None and start in (0, begun):
                _receive(response, file, start, total, progress, max_bytes)
                return total
    # The server has less than the part, or sends another range than was requested: retry from the beginning.
    with client.stream("GET", url) as response:
        _raise_for_status(response)
        start, total = _range(response)
        if start != 0:
            raise _WrongError("sends a part of the file, although all of it was requested")
        _receive(response, file, 0, total, progress, max_bytes)
        return total


def _raise_for_status(response: httpx.Response) -> None:
    if response.status_code in _BUSY:
        raise _LostError(f"it answers {_status(response)}")
    response.raise_for_status()


def _receive(
    response: httpx.Response, file: BinaryIO, start: int, total: int | None, progress: Progress, max_bytes: int
) -> None:
    """Compares an answer that has the file from ``start`` on with what is there, and appends the rest of it."""
    end = file.tell()
    if total is not None:
        _check_room(file, total, end, max_bytes)
    progress(end, total)
    at = start
    chunks = response.iter_raw()
    if not start:
        first = next(chunks, b"")
        if _PAGE.match(first.removeprefix(_BOM)):
            raise _WrongError("answers with a web page instead of the file; does the network ask for a login?")
        chunks = itertools.chain([first], chunks)
    for chunk in chunks:
        known = chunk[: max(0, end - at)]
        if known:
            file.seek(at)
            if (differs := _first_difference(known, file.read(len(known)))) is not None:
                file.seek(end)
                raise _WrongError(
                    f"sends a different file from the one that was started: byte {at + differs} differs from "
                    f"{Path(file.name)}, which is kept; delete it to download the file again"
                )
            file.seek(end)
        at += len(chunk)
        if at > (max_bytes if total is None else min(total, max_bytes)):
            raise _WrongError(
                f"sends more than {total if total is not None else max_bytes} bytes; the rest is not read"
            )
        if new := chunk[len(known) :]:
            file.write(new)
            progress(at, total)
    if total is not None and at < total:
        raise _LostError(f"the answer ends after {at} of {total} bytes")


def _check_room(file: BinaryIO, total: int, end: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise _WrongError(f"has a file of {total} bytes; at most {max_bytes} are fetched")
    free = shutil.disk_usage(Path(file.name).parent).free
    if total - end + SPARE_BYTES > free:
        raise _WrongError(f"has {total - end} bytes left to send, and {Path(file.name).parent} has room for {free}")


def _range(response: httpx.Response) -> tuple[int | None, int | None]:
    """Where in the file an answer starts, and how many bytes the file has; None for what it does not say."""
    if response.status_code in (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
        if (found := _RANGE.fullmatch(response.headers.get("Content-Range", ""))) is None:
            return None, None
        start, total = found.groups()
        return int(start) if start else None, int(total) if total != "*" else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _first_difference(one: bytes, other: bytes) -> int | None:
    """The place of the first byte in which two pieces of the same length differ."""
    if one == other:
        return None
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
