"""Fetching checkpoints from a local server that has the hub's API, loses connections, and refuses requests.

Large files are redirected to another host, as the hub's are, and have a sha256; small ones have git's object id.
"""

import contextlib
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from harness.cli import display
from harness.errors import CheckpointError, DataError, HarnessError, UnavailableError
from harness.models import files, hub, onevision
from tests.small_models import make_backbone, make_tokenizer

NAME, HUB_ID = "llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf"
COMMIT, NEWER = "a" * 40, "b" * 40
SHARDS = {f"model-0000{k}-of-00003.safetensors": bytes([k]) * 200_000 + bytes(range(200)) for k in (1, 2, 3)}
INDEX = {"weight_map": {f"tensor.{k}": name for k, name in enumerate(SHARDS)}}
CONTENT = {
    "config.json": b'{"model_type": "llava_onevision"}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    **SHARDS,
}
BESIDE = {"pytorch_model.bin": b"pickled", "consolidated.safetensors": b"the same again", "onnx/model.json": b"{}"}


def git_id(content: bytes) -> str:
    """The object id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """A hub with one repository, at one or more commits; ``cut_after`` bytes of an answer it drops the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits = {COMMIT: {**CONTENT, **BESIDE}}
        self.main = COMMIT
        self.cut_after: int | None = None
        self.sent: dict[str, bytes] = {}
        self.refusal: tuple[str, int, str] | None = None
        self.page: bytes | None = None
        self.asked: list[tuple[str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files_asked(self) -> list[tuple[str, str | None]]:
        """The requested files, each with its range."""
        return [(path.rsplit("/", 1)[1], span) for path, span, _ in self.asked if "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    """One response."""

    server: Server

    def do_GET(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        server.asked.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        if server.refusal is not None and re.search(server.refusal[0], path):
            _, status, code = server.refusal
            self._say(status, b"", {"X-Error-Code": code} if code else {})
        elif (listing := re.fullmatch(rf"/api/models/{HUB_ID}/revision/(.+)", path)) is not None:
            commit = server.main if listing[1] == "main" else listing[1]
            if commit not in server.commits:
                self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
            else:
                self._say(200, server.page or self._listing(commit), {})
        elif (resolved := re.fullmatch(rf"/{HUB_ID}/resolve/([^/]+)/(.+)", path)) is not None:
            commit, name = resolved.groups()
            if name.endswith(".safetensors"):
                where = f"http://localhost:{server.server_port}/cdn/{commit}/{name}"
                self._say(302, b"", {"Location": where, "X-Linked-ETag": sha256(server.commits[commit][name])})
            else:
                self._file(commit, name)
        elif path.startswith("/cdn/"):
            self._file(*path.removeprefix("/cdn/").split("/"))
        else:
            self._say(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _listing(self, commit: str) -> bytes:
        siblings = []
        for name, content in self.server.commits[commit].items():
            large = name.endswith((".safetensors", ".bin"))
            lfs = {"lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 134}} if large else {}
            siblings.append({"rfilename": name, "size": len(content), "blobId": git_id(content), **lfs})
        return json.dumps({"id": HUB_ID, "sha": commit, "gated": False, "siblings": siblings}).encode()

    def _file(self, commit: str, name: str) -> None:
        body = self.server.sent.get(name, self.server.commits[commit][name])
        start, total = 0, len(body)
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
        self._say(206 if start else 200, body[start:], headers, self.server.cut_after)

    def _say(self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[:cut_after])

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A hub on a free port, and an empty cache."""
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with Server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(**how: Any) -> Path:
    """The download without waiting between attempts."""
    return hub.get(NAME, pause_s=0.0, **how)


def located() -> Path:
    """Where a scenario finds the model."""
    return files.locate(NAME, files.SOURCES[NAME])


@pytest.mark.slow
def test_what_is_fetched_is_found_by_scenarios(server: Server) -> None:
    """JSON and the index's safetensors of one commit, without pickles or duplicate weights."""
    told: list[tuple[int, int | None]] = []
    folder = get(progress=lambda done, total: told.append((done, total)))
    assert located() == folder
    assert folder.name == COMMIT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    whole = sum(map(len, CONTENT.values()))
    assert told[-1] == (whole, whole)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    blobs = folder.parents[1] / "blobs"
    assert {path.name for path in blobs.iterdir()} == {
        *(sha256(content) for content in SHARDS.values()),
        *(git_id(content) for name, content in CONTENT.items() if name not in SHARDS),
    }
    server.asked.clear()
    assert get() == folder
    assert server.asked == []


@pytest.mark.slow
def test_a_lost_connection_is_resumed_in_the_middle_of_a_file(server: Server) -> None:
    """By itself, with a range from where it was."""
    server.cut_after = 150_000
    assert {path.name: path.read_bytes() for path in get().iterdir()} == CONTENT
    spans = [span for name, span in server.files_asked() if name in SHARDS]
    assert spans == [None, "bytes=150000-"] * len(SHARDS)


@pytest.mark.slow
def test_an_interrupted_download_is_resumed_and_was_never_visible(server: Server) -> None:
    """No scenario finds a part of a checkpoint; the command repeated requests only what is missing."""
    first, second, _ = SHARDS

    def stop(done: int, _: int | None) -> None:
        if done > sum(len(content) for name, content in CONTENT.items() if name not in SHARDS) + 250_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(progress=stop)
    with pytest.raises(UnavailableError, match=f"'harness weights get {NAME}'"):
        located()
    assert hub.state(HUB_ID) == "begun"
    (part,) = (files.hub_folder(HUB_ID) / "blobs").glob("*.incomplete")
    assert part.name == f"{sha256(SHARDS[second])}.incomplete"
    n_bytes = part.stat().st_size
    assert 0 < n_bytes < len(SHARDS[second])
    server.asked.clear()
    assert {path.name: path.read_bytes() for path in get().iterdir()} == CONTENT
    assert server.files_asked()[0] == (second, f"bytes={n_bytes}-")
    assert first not in dict(server.files_asked())
    assert hub.state(HUB_ID) == "installed"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "called"), [("tokenizer.json", "git object id"), (next(iter(SHARDS)), "sha256")])
def test_another_file_than_the_published_one_is_refused(server: Server, name: str, called: str) -> None:
    """A changed byte is found in small files and large ones, and the download is deleted."""
    server.sent[name] = CONTENT[name][:-1] + b"?"
    with pytest.raises(DataError, match=rf"{NAME}, {name}: what came .* has the {called} .* is published"):
        get()
    assert not list((files.hub_folder(HUB_ID) / "blobs").glob("*.incomplete"))
    with pytest.raises(UnavailableError):
        located()
    server.sent.clear()
    assert get() == located()


@pytest.mark.slow
def test_a_commit_stays_until_another_is_fetched(server: Server) -> None:
    """What runs does not change when the repository does, nor when another client moves main; files are shared."""
    server.commits[NEWER] = {**server.commits[COMMIT], "config.json": b'{"model_type": "llava_onevision", "new": 1}'}
    old = get(revision=COMMIT)
    repository = files.hub_folder(HUB_ID)
    (repository / "refs" / "main").write_text(NEWER)
    (repository / "snapshots" / NEWER).mkdir()
    server.main = NEWER
    assert get() == located() == old
    server.asked.clear()
    assert get(revision="main") == located() == old.with_name(NEWER)
    assert [name for name, _ in server.files_asked()] == ["config.json"]
    server.asked.clear()
    assert get(revision=COMMIT) == located() == old
    assert server.asked == []


@pytest.mark.slow
def test_a_partial_download_of_another_client_is_completed(server: Server) -> None:
    """A snapshot that lacks a file is not taken for a checkpoint, and the error says how to get the rest."""
    folder = get()
    shutil.rmtree(folder.parents[1] / "refs")
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(COMMIT)
    last = list(SHARDS)[-1]
    (folder / last).resolve().unlink()
    with pytest.raises(UnavailableError, match=rf"has no {last} yet; 'harness weights get {NAME}' fetches what is"):
        located()
    server.asked.clear()
    assert get() == located() == folder
    assert server.files_asked() == [(last, None)]


def _without(server: Server, *names: str) -> None:
    for name in names:
        del server.commits[COMMIT][name]


def _index(server: Server, name: str) -> None:
    server.commits[COMMIT]["model.safetensors.index.json"] = json.dumps({"weight_map": {"tensor": name}}).encode()


REFUSALS: dict[str, tuple[Callable[[Server, pytest.MonkeyPatch], object], str]] = {
    "no network": (lambda _, patch: patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9"), "cannot be reached .* copy .*"),
    "no hub": (lambda _, patch: patch.setenv("HF_ENDPOINT", "nowhere"), "HF_ENDPOINT is 'nowhere', which is no URL; "),
    "no proxy": (lambda _, patch: patch.setenv("ALL_PROXY", "foo://nowhere"), "the proxy that HTTPS_PROXY, .* names"),
    "no certificates": (lambda _, patch: patch.setenv("SSL_CERT_FILE", "nowhere"), "certificates that SSL_CERT_FILE"),
    "offline": (lambda _, patch: patch.setenv("HF_HUB_OFFLINE", "1"), "while HF_HUB_OFFLINE is set"),
    "gated listing": (lambda s, _: setattr(s, "refusal", ("/api/", 401, "GatedRepo")), "401; its licence must be acc"),
    "gated files": (lambda s, _: setattr(s, "refusal", ("/resolve/", 403, "GatedRepo")), "403 .*; its licence must be"),
    "no repository": (lambda s, _: setattr(s, "refusal", ("/api/", 401, "RepoNotFound")), "401; there is no llava-hf/"),
    "a status": (lambda s, _: setattr(s, "refusal", ("/api/", 418, "")), "answers 418; try again later"),
    "a busy server": (lambda s, _: setattr(s, "refusal", ("/resolve/", 503, "")), "lost after 0 bytes .*answers 503"),
    "a web page": (lambda s, _: setattr(s, "page", b"<html>log in</html>"), "does not answer with a list of files"),
    "no list": (lambda s, _: setattr(s, "page", b'{"sha": "a", "siblings": [1]}'), "does not answer with a list"),
    "no commit": (lambda s, _: setattr(s, "page", b'{"sha": "../x", "siblings": []}'), r"the commit is '\.\./x'"),
    "no tokenizer": (lambda s, _: _without(s, "tokenizer.json"), "has no tokenizer.json at a+; such a checkpoint"),
    "pickles alone": (
        lambda s, _: _without(s, *SHARDS, "consolidated.safetensors"),
        "has no safetensors at a+; pickled weights are not fetched",
    ),
    "a pickle in the index": (lambda s, _: _index(s, "pytorch_model.bin"), "maps tensor to 'pytorch_model.bin'"),
    "a file that is not there": (lambda s, _: _index(s, "x.safetensors"), "names x.safetensors, which the repository"),
    "a full disk": (
        lambda _, patch: patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**26 + 300_000)),
        r"601 KB are missing, and .* has room for 67\.4 MB; make room, or name a folder on another disk in HF_HOME",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_fetched_is_one_sentence(
    server: Server, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says what to do; no weights were requested in vain, and no scenario finds anything."""
    change, sentence = REFUSALS[what]
    change(server, monkeypatch)
    with pytest.raises(HarnessError, match=sentence) as told:
        get()
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(NAME) or isinstance(told.value, CheckpointError)
    assert what == "gated files" or not [name for name, _ in server.files_asked() if name in SHARDS]
    with pytest.raises(UnavailableError):
        located()


def test_a_revision_that_is_not_there_is_one_sentence(server: Server) -> None:
    """The message has the address, and its name is in that."""
    with pytest.raises(UnavailableError, match=r"revision/v9 answers 404; llava-hf/\S+ has no such revision"):
        get(revision="v9")


@pytest.mark.parametrize("revision", ["", " "])
def test_an_empty_revision_is_not_main(server: Server, revision: str) -> None:
    """It is refused before the hub is asked."""
    with pytest.raises(UnavailableError, match=f"{NAME}: the revision '{revision}' is empty; a branch, tag or commit"):
        get(revision=revision)
    assert not server.asked


@pytest.mark.slow
def test_a_token_is_sent_only_to_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host that files are redirected to does not see it."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_mine")
    get()
    seen = {(path.startswith("/cdn/"), token) for path, _, token in server.asked}
    assert seen == {(False, "Bearer hf_of_mine"), (True, None)}


@pytest.mark.slow
def test_a_fetched_checkpoint_loads(server: Server, tmp_path: Path) -> None:
    """A sharded model goes from the hub to a vision side and a language side without a further setting."""
    backbone = make_backbone()
    backbone.model.save_pretrained(tmp_path / "saved", max_shard_size="40KB")
    make_tokenizer().save(str(tmp_path / "saved" / "tokenizer.json"))
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert sum(name.endswith(".safetensors") for name in saved) > 1
    server.commits[COMMIT] = saved
    get()
    models = onevision.load(NAME)
    assert models.fingerprint("language") == backbone.fingerprints()["language"]
    assert models.vision().feature_dim == backbone.feature_dim


@pytest.mark.slow
def test_the_command_fetches_and_lists(
    harness: Callable[..., tuple[int, str, str]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal its progress is lines; wrong names are refused before anything is fetched."""
    status, out, _ = harness("weights", "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert (status, set(lines)) == (0, set(hub.names()))
    assert re.search(rf"{NAME} +absent +{HUB_ID}  ", lines[NAME])
    for wrong, sentence in (("llava-onevision-8b", "did you mean 'llava-onevision-7b'"), ("mini-nano", "is part of")):
        status, _, err = harness("weights", "get", NAME, wrong)
        assert (status, len(err.splitlines()), sentence in err) == (2, 1, True)
    assert server.asked == []
    monkeypatch.setattr(display, "LINE_EVERY_S", 0.0)
    status, out, err = harness("weights", "get", NAME)
    assert (status, err) == (0, "")
    assert f"{NAME}: 601 KB of 601 KB, 100 %\n" in out
    assert out.splitlines()[-1] == f"{NAME}: {located()}"
    assert re.search(rf"{NAME} +installed ", harness("weights", "list")[1])


def test_a_terminal_has_a_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A log has a line at intervals, not one for every step."""
    with display.Bar(Console(force_terminal=True), "x", sized=False) as told:
        told(1, 2)
    assert "1/2" in capsys.readouterr().out
    with display.Bar(Console(force_terminal=False), "x", sized=False) as told:
        for done in range(100):
            told(done, 100)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_damaged_index_does_not_hide_the_other_models(
    server: Server, harness: Callable[..., tuple[int, str, str]]
) -> None:
    """The list names the model."""
    (get() / "model.safetensors.index.json").resolve().write_text("{")
    assert hub.state(HUB_ID) == "damaged"
    status, out, _ = harness("weights", "list")
    assert (status, len(out.splitlines())) == (0, len(hub.names()))


def test_without_a_home_folder_the_error_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says so; a scenario that searches for a model there finds none."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    assert files.snapshot_of(HUB_ID) is None
    with pytest.raises(UnavailableError, match="there is no home folder; name one in HF_HOME"):
        hub.state(HUB_ID)
