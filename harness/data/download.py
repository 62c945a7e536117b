"""Fetches the public benchmarks: resumed where it was cut off, and checked before the file takes its name.

<folder>/<name>.tsv.part    what has come so far; the same command goes on from its end (HTTP Range)
<folder>/<name>.tsv         the whole file, with the published md5
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from harness.data.benchmarks import PREFIX, Benchmark, check_md5, md5_of
from harness.errors import DataError, UnavailableError

Progress = Callable[[int, int | None], None]
"""Told how many bytes of a file are here, and how many it has, or None where the server does not say."""

_TIMEOUT_S = 30.0
_RETRIES = 4
_PAUSE_S = 1.0
_OTHER_RANGE = (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE)


def download(
    benchmark: Benchmark,
    folder: Path,
    *,
    mirror: str = PREFIX,
    progress: Progress = lambda *_: None,
    pause_s: float = _PAUSE_S,
) -> Path:
    """The benchmark's TSV in ``folder``, fetched unless it is there; its md5 is the published one when this returns.

    ``mirror`` is a URL under which the files lie as they do under VLMEvalKit's own prefix. A connection that is lost is
    taken up again from where it was, after ``pause_s``, as long as bytes keep coming.

    Raises UnavailableError where the file cannot be had or written, and DataError where what lies there, or what came,
    is not the published file; what came is then deleted.
    """
    path = folder / f"{benchmark.name}.tsv"
    if path.exists():
        check_md5(benchmark, path)
        return path
    part = path.with_name(f"{path.name}.part")
    with _opened(part) as file:
        _fetch(benchmark, file, f"{mirror.rstrip('/')}/{benchmark.url_path}", progress, pause_s)
        file.flush()
        if (found := md5_of(part)) != benchmark.md5:
            part.unlink()
            raise DataError(
                f"{benchmark.name}: what came from {mirror} has the md5 {found}, and {benchmark.md5} is published; it "
                "was deleted, and can be fetched again"
            )
        part.replace(path)
    return path


@contextmanager
def _opened(part: Path) -> Iterator[BinaryIO]:
    """The file of what has come so far, open at its end and locked for this process."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(f"{part}: another process is writing it; wait for it to end") from None
            try:
                yield file
            finally:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
    except OSError as error:
        raise UnavailableError(f"{part}: cannot be written: {error.strerror or error}") from None


def _fetch(benchmark: Benchmark, file: BinaryIO, url: str, progress: Progress, pause_s: float) -> None:
    """Appends to ``file`` what it lacks; gives up after a few attempts in a row that brought nothing."""
    idle = 0
    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            had = file.tell()
            try:
                _attempt(client, file, url, progress)
                return
            except httpx.HTTPStatusError as error:
                answer = f"{error.response.status_code} {error.response.reason_phrase}".strip()
                raise UnavailableError(f"{benchmark.name}: {url} answers {answer}; is the address right?") from None
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise UnavailableError(_out_of_reach(benchmark, file, url, error)) from None
            except httpx.HTTPError as error:
                idle = 0 if file.tell() > had else idle + 1
                if idle > _RETRIES:
                    raise UnavailableError(
                        f"{benchmark.name}: the connection to {url} is lost after {file.tell()} bytes ({_why(error)}); "
                        "the same command goes on from there"
                    ) from None
                time.sleep(pause_s)


def _attempt(client: httpx.Client, file: BinaryIO, url: str, progress: Progress) -> None:
    """One request for what is missing; returns when the server has nothing more to send."""
    start = file.tell()
    with client.stream("GET", url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
        goes_on = _goes_on(response, start)
        if start and not goes_on:
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return
            file.truncate(0)
            start = file.seek(0)
            if response.status_code in _OTHER_RANGE:
                raise httpx.RemoteProtocolError("it has another file than the one begun")
        response.raise_for_status()
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        progress(start, total)
        for chunk in response.iter_raw():
            file.write(chunk)
            progress(file.tell(), total)


def _goes_on(response: httpx.Response, start: int) -> bool:
    """Whether an answer holds the file from ``start`` on; a server without ranges sends it from its beginning."""
    found = response.headers.get("Content-Range", "")
    return response.status_code == httpx.codes.PARTIAL_CONTENT and found.startswith(f"bytes {start}-")


def _out_of_reach(benchmark: Benchmark, file: BinaryIO, url: str, error: Exception) -> str:
    path = Path(file.name).with_suffix("")
    return (
        f"{benchmark.name}: {url} cannot be reached from this machine ({_why(error)}); fetch it on one with a network "
        f"and put it at {path} (md5 {benchmark.md5}), or name a mirror with --mirror"
    )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
