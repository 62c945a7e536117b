"""Fetching benchmarks from a local server that has ranges, loses connections, and sends other files."""

import contextlib
import fcntl
import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.data.benchmarks import Benchmark
from harness.data.download import download
from harness.errors import DataError, UnavailableError

CONTENT = bytes(range(256)) * 4000
BENCHMARK = Benchmark(
    name="RealWorldQA", questions=765, md5=hashlib.md5(CONTENT).hexdigest(), url_path="VLMEval/RealWorldQA.tsv"
)


class Server(ThreadingHTTPServer):
    """Serves ``content`` under the benchmark's path; ``cut_after`` bytes of an answer it drops the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.has_ranges = True
        self.cut_after: int | None = None
        self.asked: list[str | None] = []
        self.answer: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"


class Handler(BaseHTTPRequestHandler):
    """One response."""

    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.answer is not None:
            self._other(**server.answer)
            return
        if self.path != "/mirror/VLMEval/RealWorldQA.tsv":
            self.send_error(404)
            return
        start, total = 0, len(server.content)
        if wanted and server.has_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[: server.cut_after])

    def _other(
        self,
        status: int,
        body: bytes = b"",
        *,
        sized: bool = True,
        start: int | None = 1000,
        total: int | None = None,
        length: int | None = None,
    ) -> None:
        """Another response than the file; without a length it ends with the connection."""
        self.send_response(status)
        if status == 206 and start is not None:
            whole = start + len(body) if total is None else total
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if sized:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on a free port of this machine."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, **options: object) -> Path:
    """The download without waiting between attempts."""
    return download(BENCHMARK, folder, mirror=server.url, pause_s=0.0, **options)  # type: ignore[arg-type]


def test_the_file_and_nothing_else_is_written(server: Server, tmp_path: Path) -> None:
    """A folder is made, the file gets its name, nothing else is written, and progress ends at its size."""
    told: list[tuple[int, int | None]] = []
    path = fetch(server, tmp_path / "LMUData", progress=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "LMUData" / "RealWorldQA.tsv"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_an_installed_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    """The published file causes no request, and another one under its name is refused and not deleted."""
    path = fetch(server, tmp_path)
    server.asked.clear()
    assert fetch(server, tmp_path) == path
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match=re.escape(f"{path}: its md5 is")):
        fetch(server, tmp_path)
    assert (server.asked, path.read_bytes()) == ([], b"mine")


def test_a_partial_download_is_resumed(server: Server, tmp_path: Path) -> None:
    """Only the rest is requested."""
    (tmp_path / "RealWorldQA.tsv.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_an_interrupted_download_keeps_what_came(server: Server, tmp_path: Path) -> None:
    """Also where all of it was still in a buffer; the next call requests the rest."""
    server.cut_after = 100

    def stop(done: int, _: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, progress=stop)
    assert (tmp_path / "RealWorldQA.tsv.part").read_bytes() == CONTENT[:100]
    server.cut_after = None
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100-"]


def test_a_lost_connection_is_resumed_automatically(server: Server, tmp_path: Path) -> None:
    """Each attempt resumes where the previous one ended."""
    server.cut_after = 400_000
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-", "bytes=800000-"]


def test_a_connection_without_progress_is_given_up(server: Server, tmp_path: Path) -> None:
    """What was received is stored for the next command."""
    (tmp_path / "RealWorldQA.tsv.part").write_bytes(CONTENT[:1000])
    server.cut_after = 0
    with pytest.raises(UnavailableError, match=r"lost after 1000 bytes .* repeat the command to resume"):
        fetch(server, tmp_path)
    assert (tmp_path / "RealWorldQA.tsv.part").read_bytes() == CONTENT[:1000]
    server.cut_after = None
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_from_the_beginning(server: Server, tmp_path: Path) -> None:
    """Nothing is appended twice."""
    (tmp_path / "RealWorldQA.tsv.part").write_bytes(CONTENT[:1000])
    server.has_ranges = False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_complete_part_gets_its_name(server: Server, tmp_path: Path) -> None:
    """A process killed between the last byte and the renaming loses nothing."""
    (tmp_path / "RealWorldQA.tsv.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_a_longer_file_starts_again(server: Server, tmp_path: Path) -> None:
    """A part larger than the server's file is of another file."""
    (tmp_path / "RealWorldQA.tsv.part").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_another_file_never_takes_the_name(server: Server, tmp_path: Path) -> None:
    """With a wrong md5 the download is deleted, and both sums are named; the next attempt starts from 0."""
    server.content = CONTENT[:-1] + b"x"
    sentence = f"has the md5 [0-9a-f]{{32}}, and {BENCHMARK.md5} is published; it was deleted"
    with pytest.raises(DataError, match=sentence):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert fetch(server, tmp_path).read_bytes() == CONTENT


BEGUN = CONTENT[:1000]
PAGE = b"\n<!DOCTYPE html><html>log in</html>"
ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "a status": ({"status": 404}, "answers 404 Not Found"),
    "a server that is down": ({"status": 503}, "answers 503"),
    "a web page": ({"status": 200, "body": PAGE}, "answers with a web page instead of the file"),
    "a web page without a length": ({"status": 200, "body": PAGE, "sized": False}, "answers with a web page"),
    "another file": (
        {"status": 200, "body": CONTENT[:500] + b"?" * 900},
        "byte 500 differs from .*delete it to download",
    ),
    "a shorter file": ({"status": 200, "body": CONTENT[:500]}, "500 bytes, has the md5 .* kept with 1000 bytes"),
    "nothing": ({"status": 200}, "0 bytes, has the md5 .* kept with 1000 bytes"),
    "nothing, without a length": ({"status": 200, "sized": False}, "has the md5 .* kept with 1000 bytes"),
    "other bytes after the part": ({"status": 206, "body": b"?" * 100}, "1100 bytes, has the md5 .* kept with 1000"),
    "another piece": ({"status": 206, "body": b"?" * 100, "start": 7}, "sends a part of the file, although all of it"),
    "a piece without its place": ({"status": 206, "body": b"?" * 100, "start": None}, "sends a part of the file"),
    "a file that is too large": ({"status": 200, "body": b"?", "length": 10**10}, "has a file of 10000000000 bytes"),
    "more than it says": ({"status": 206, "body": b"?" * 500, "total": 1200, "sized": False}, "more than 1200 bytes"),
    "no end": ({"status": 200, "body": CONTENT + b"?" * 2_000_000, "sized": False}, "sends more than 2000000 bytes"),
    "less than it says": ({"status": 206, "total": 1200, "sized": False}, "lost after 1000 bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
def test_no_response_of_a_server_destroys_the_part(server: Server, tmp_path: Path, answer: str) -> None:
    """Any other response is one sentence; the part file is unchanged."""
    server.answer, sentence = ANSWERS[answer]
    part = tmp_path / "RealWorldQA.tsv.part"
    part.write_bytes(BEGUN)
    with pytest.raises((DataError, UnavailableError), match=sentence) as told:
        fetch(server, tmp_path, max_bytes=2_000_000)
    assert "\n" not in str(told.value)
    assert part.read_bytes()[:1000] == BEGUN
    assert part.stat().st_size <= 2_000_000
    part.write_bytes(BEGUN)
    server.answer = None
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_an_answer_of_unknown_length_that_is_cut_is_resumed(server: Server, tmp_path: Path) -> None:
    """Its md5 is wrong, and what was received is stored: the next command resumes there."""
    server.answer = {"status": 200, "body": CONTENT[:5000], "sized": False}
    with pytest.raises(
        DataError, match=r"5000 bytes, has the md5 .* kept with 5000 bytes: repeat the command to resume"
    ):
        fetch(server, tmp_path)
    server.answer, server.asked = None, []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=5000-"]


def test_a_full_disk_is_reported_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that the server announces must fit."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(UnavailableError, match=r"has 1024000 bytes left to send, and .* has room for 1000000"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_out_of_reach_is_one_sentence(server: Server, tmp_path: Path) -> None:
    """A refused connection says what to do instead; what is no URL is not said to be out of reach."""
    closed = server.url.replace(str(server.server_port), "9")
    with pytest.raises(UnavailableError, match=r"cannot be reached .* put it at .*RealWorldQA\.tsv \(md5 ") as told:
        download(BENCHMARK, tmp_path, mirror=closed, pause_s=0.0)
    assert "\n" not in str(told.value)
    for mirror in ("foo", "gopher://nowhere", "http://", "/a/folder"):
        said = f"the mirror (--mirror or TOFC_HARNESS_DATA_MIRROR) is '{mirror}', which is no URL; "
        with pytest.raises(UnavailableError, match=re.escape(said)):
            download(BENCHMARK, tmp_path, mirror=mirror, pause_s=0.0)
    with pytest.raises(UnavailableError, match="answers 404 Not Found"):
        download(BENCHMARK, tmp_path, mirror=f"{server.url}elsewhere", pause_s=0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "given", "said"),
    [
        ("ALL_PROXY", "foo://nowhere", "RealWorldQA: the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names"),
        ("SSL_CERT_FILE", "nowhere.pem", "RealWorldQA: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, given: str, said: str
) -> None:
    """Its variables are named, no file is blamed, and none is left."""
    monkeypatch.setenv(variable, given)
    with pytest.raises(UnavailableError, match=f"^{said} ") as told:
        fetch(server, tmp_path)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_one_process_writes_at_a_time(server: Server, tmp_path: Path) -> None:
    """A second download of the same file is refused, and a folder that cannot be written is named."""
    part = tmp_path / "RealWorldQA.tsv.part"
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="another process is writing it"):
            fetch(server, tmp_path)
    with pytest.raises(UnavailableError, match="cannot be written: Not a directory: "):
        fetch(server, part)
