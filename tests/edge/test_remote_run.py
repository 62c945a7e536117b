"""A run whose server halves are in another process has the rows of a run in one process, whatever is killed."""

import contextlib
import gzip
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harness import loaded
from harness.data.sample import Question
from harness.edge import client, exchange
from harness.edge.client import Peer, Remote
from harness.edge.protocol import RESIDENCE, VERSION, Info, Told, ToldAnswer
from harness.edge.shaping import Shaper
from harness.errors import PeerError, ResultsError
from harness.report.sections import link_times
from harness.runs.provenance import MANIFEST, read
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.stock import take_stock
from harness.study import run
from tests.edge import ends
from tests.forked import forked
from tests.silent import Silent

ROOT = Path(__file__).parents[2]
TIMES = ["seconds", "cpu_s", "waited_s", "load", "start", "run", "unit"]


def rows(record: Record) -> dict[str, pd.DataFrame]:
    """A run's rows without seconds and instants, and without what says which process wrote them, over which link."""
    requests = record.requests.to_pandas()
    return {
        "samples": record.samples.to_pandas(),
        "stages": record.stages.to_pandas().drop(columns=TIMES),
        "outcomes": record.outcomes.to_pandas().drop(columns="run"),
        "requests": requests[[c for c in requests.columns if not c.endswith("_s")]],
    }


def assert_same(found: Record, wanted: Record) -> None:
    """Two runs have the same rows apart from times."""
    ours = rows(found)
    for kind, frame in rows(wanted).items():
        pd.testing.assert_frame_equal(ours[kind], frame, obj=kind)


@pytest.fixture(scope="module")
def alone(fake_scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The fakes' run in one process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    run(load(fake_scenario), folder, reporter=Silent())
    return Run.read(folder)


@pytest.mark.slow
def test_the_smoke_scenario_ends_with_the_rows_of_one_process(tmp_path: Path) -> None:
    """Real models and schemes of each kind of payload: answers, bytes and scores are the same, and T_link is there."""
    smoke = yaml.safe_load((ROOT / "scenarios" / "smoke.yaml").read_text())
    few = [spec for spec in smoke["pipelines"] if spec["scheme"] in ("server_only", "tofc", "webp")]
    short = {"samples": 4, "measure": {"threads": 1, "timed_samples": 1, "warmup": 0, "repeats": 2}}
    scenario = tmp_path / "smoke.yaml"
    scenario.write_text(yaml.safe_dump({**smoke, "pipelines": few, **short}))
    run(load(scenario), tmp_path / "alone", reporter=Silent())
    server, port = ends.server(scenario, begin=forked)
    run(load(scenario), tmp_path / "parted", reporter=Silent(), remote=Remote(url=f"http://127.0.0.1:{port}"))
    server.kill()
    server.join()
    found = Run.read(tmp_path / "parted")
    assert_same(found, Run.read(tmp_path / "alone"))
    (session,) = found.manifest.sessions
    assert session.server is not None
    assert session.server.machine["id"] == session.machine["id"]
    links = found.links.to_pandas()
    payloads = found.outcomes.to_pandas().set_index(["pipeline", "point", "sample"])["payload_bytes"]
    assert len(links) == 2 * sum(map(len, found.manifest.points.values()))
    for link in links.itertuples():
        assert link.payload_bytes == payloads[link.pipeline, link.point, link.sample]
        assert link.payload_bytes < link.sent_bytes < link.payload_bytes + 1500
        assert 0 <= link.queue_s <= link.residence_s < link.round_trip_s
    on_server = found.stages.to_pandas().query("side == 'server'").groupby(["pipeline", "point", "sample", "repeat"])
    held = links.set_index(["pipeline", "point", "sample", "repeat"])["residence_s"]
    assert (on_server["seconds"].sum() <= held).all()


@pytest.mark.slow
def test_a_paced_link_is_measured_as_it_is_replayed(fake_scenario: Path, tmp_path: Path) -> None:
    """No request is faster than the channel that shapes it, and the bytes sent are the channel's."""
    server, port = ends.server(fake_scenario)
    device = ends.device(fake_scenario, tmp_path / "shaped", port, "20 KB/s")
    device.join()
    server.kill()
    assert device.exitcode == 0
    links = Run.read(tmp_path / "shaped").links
    frame = links.to_pandas()
    assert len(frame) == 3 * 12
    assert (frame["channel_s"] - 8 * frame["sent_bytes"] / 160e3).abs().max() < 1e-9
    assert (frame["round_trip_s"] - frame["residence_s"] >= frame["channel_s"] - 1e-3).all()
    means = link_times(links)
    assert (means["requests"] == 12).all()
    assert (means["error"] < 1e-2).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_server_killed_at_any_moment_loses_and_doubles_nothing(
    alone: Record, fake_scenario: Path, tmp_path: Path, seed: int
) -> None:
    """SIGKILL again and again, and a server on the same port each time: the device waits, and its rows are whole."""
    moment, folder = random.Random(seed), tmp_path / "alone"
    server, port = ends.server(fake_scenario)
    device, kills = ends.device(fake_scenario, folder, port, "15 KB/s"), 0
    while kills < 4 and device.is_alive():
        time.sleep(0.1 + moment.random() * 0.4)
        server.kill()
        server.join()
        kills += device.is_alive()
        server, port = ends.server(fake_scenario, port)
    device.join()
    server.kill()
    assert device.exitcode == 0
    assert kills >= 3
    assert_same(Run.read(folder), alone)
    assert len(Run.read(folder).links) == 3 * 12


@pytest.mark.slow
def test_a_device_killed_at_any_moment_resumes(alone: Record, fake_scenario: Path, tmp_path: Path) -> None:
    """SIGKILL at four moments and the command repeated each time: the rows are those of an uninterrupted run."""
    moment, folder = random.Random(7), tmp_path / "alone"
    server, port = ends.server(fake_scenario)
    kills = 0
    for _ in range(4):
        before, device = _last_session(folder), ends.device(fake_scenario, folder, port, "10 KB/s")
        while device.is_alive() and _last_session(folder) == before:
            time.sleep(0.01)
        device.join(moment.random() * 0.5)
        kills += device.is_alive()
        device.kill()
        device.join()
    device = ends.device(fake_scenario, folder, port, "10 KB/s")
    device.join()
    server.kill()
    assert device.exitcode == 0
    assert kills >= 3
    assert_same(Run.read(folder), alone)


def _last_session(folder: Path) -> str:
    """When the last session of a run began; a session of which no row came is not kept by the next."""
    return read(folder / MANIFEST).sessions[-1].started_utc if (folder / MANIFEST).exists() else ""


@pytest.mark.slow
def test_times_over_one_link_are_not_those_over_another(fake_scenario: Path, tmp_path: Path) -> None:
    """A complete run repeated at another rate, or at none, is timed again, with the answers that it has."""
    server, port = ends.server(fake_scenario)
    found = []
    for shape in ("20 KB/s", "160 kbit/s", "40 KB/s", None):
        remote = Remote(url=f"http://127.0.0.1:{port}", shaper=None if shape is None else Shaper.of(shape))
        run(load(fake_scenario), tmp_path / "run", reporter=Silent(), remote=remote)
        found.append(Run.read(tmp_path / "run"))
    server.kill()
    server.join()
    assert found[0].manifest == found[1].manifest
    for record, rate_bps in zip(found, (160e3, 160e3, 320e3, None), strict=True):
        links = record.links.to_pandas()
        assert len(links) == 3 * 12
        wanted = None if rate_bps is None else 8 * links["sent_bytes"] / rate_bps
        assert links["channel_s"].isna().all() if wanted is None else (links["channel_s"] - wanted).abs().max() < 1e-9
        assert record.outcomes == found[0].outcomes
    assert found[2].manifest.digests["link by --shape"] == "320000 bit/s"


@pytest.mark.slow
def test_a_run_is_not_resumed_with_its_server_halves_elsewhere(
    alone: Record, fake_scenario: Path, tmp_path: Path
) -> None:
    """Stages of two places are not mixed: the run in one process is unchanged."""
    server, port = ends.server(fake_scenario)
    other = tmp_path / "longer.yaml"
    other.write_text(fake_scenario.read_text().replace("repeats: 4", "repeats: 5"))
    with pytest.raises(ResultsError, match=r"where the server halves run \(in the same process before, on .* now\)"):
        run(load(other), alone.folder, reporter=Silent(), remote=Remote(url=f"http://127.0.0.1:{port}"))
    server.kill()
    assert Run.read(alone.folder).manifest.status == "complete"


@contextlib.contextmanager
def scripted(*answers: bytes, silent_s: float = 0.0, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that sends these bytes, a connection each; it waits ``silent_s`` before it closes one."""
    over = threading.Event()

    def work() -> None:
        with contextlib.suppress(OSError):
            for answer in answers:
                accepted, _ = listener.accept()
                with accepted, contextlib.suppress(ssl.SSLError):
                    connection = accepted if tls is None else tls.wrap_socket(accepted, server_side=True)
                    while len(connection.recv(1 << 20)) == 1 << 20:
                        pass
                    connection.sendall(answer)
                    over.wait(silent_s)
                    if connection is not accepted:
                        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(content: str, status: str = "200 OK", *more: str) -> bytes:
    """A response that ends its connection."""
    body = content.encode()
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]).encode() + body


@pytest.fixture(scope="module")
def mine(fake_scenario: Path) -> Info:
    """What a device says of itself, and a server that agrees with it."""
    return loaded.describe(take_stock(load(fake_scenario)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http("<html>Not found</html>", "404 Not Found"), "it answers to /info with status 404"),
        (http("", "302 Found", "Location: https://elsewhere"), "it answers to /info with status 302"),
        (http("secret", "401 Unauthorized"), "it answers to /info with status 401"),
        (http("<html>Welcome</html>"), "what it answers to /info does not describe one"),
        (http("[1,2]"), "what it answers to /info does not describe one"),
        (http('{"error": 1}', "404 Not Found"), "it answers to /info with status 404"),
        (http('{"protocol": "ssh"}'), "what it answers to /info does not describe one"),
        (http("[" * 100_000), "what it answers to /info does not describe one"),
        (http(f'{{"protocol": {VERSION}}}'), "/info: "),
    ],
)
def test_another_web_server_is_named_as_one(mine: Info, answer: bytes, sentence: str) -> None:
    """With the URL, what it said, and what would be right."""
    with scripted(answer) as url, pytest.raises(PeerError) as caught:
        Peer(url, mine)
    assert str(caught.value).startswith(f"{url}: is not a server of this harness: {sentence}")
    assert str(caught.value).endswith("; give the address at which 'harness serve' listens")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"it speaks no HTTP, but sends b'SSH-2.0-OpenSSH_9.6\r\n'"),
        (b"-ERR unknown command 'GET'\r\n", "it speaks no HTTP, but sends "),
        (b"\x00\xff" * 30 + b"\r\n\r\n", "it speaks no HTTP, but sends "),
        (bytes.fromhex("15030100020246"), "it speaks TLS there, so its address begins with https"),
    ],
)
def test_what_speaks_no_http_is_named_at_once(mine: Info, sent: bytes, sentence: str) -> None:
    """It will not become a server by waiting."""
    lines: list[str] = []
    with scripted(sent, sent) as url, pytest.raises(PeerError) as caught:
        Peer(url, mine, tell=lines.append)
    assert str(caught.value).startswith(f"{url}: is not a server of this harness: {sentence}")
    assert not lines


@pytest.mark.slow
def test_a_server_without_tls_is_named_at_once(mine: Info) -> None:
    """Where its address is written with https."""
    with scripted(http("<html>", "400 Bad Request")) as url, pytest.raises(PeerError) as caught:
        Peer(url.replace("http", "https"), mine)
    assert "is not a server of this harness: it speaks no TLS there, so its address begins with http;" in str(
        caught.value
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_proxy_with_tls_is_trusted_by_its_authority(
    mine: Info, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that SSL_CERT_FILE names; without it the reason is said at once, as where that file is absent."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=proxy -addext subjectAltName=IP:127.0.0.1"
    command = [*made.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with scripted(b"", http(mine.model_dump_json()), tls=context) as plain:
        url = plain.replace("http", "https")
        with pytest.raises(PeerError, match=r"its certificate is not accepted \(self-signed certificate\); name"):
            Peer(url, mine)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        peer = Peer(url, mine)
        peer.close()
    assert peer.info == mine
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(PeerError, match="the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read"):
        Peer(url, mine)


TOLD = Told(
    answers=(ToldAnswer(text="B", prompt_tokens=3, answer_tokens=1, visual_tokens=2),),
    seconds={},
    cpu_s={},
    queue_s=0,
    lowered=(),
)
ASKED = ("fake", "levels=4", b"payload", [Question(text="?", kind="yes_no")])


def test_a_server_is_awaited_from_its_failure_on(mine: Info, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the request took that was lost with it: over a slow link it is often more than a minute."""
    monkeypatch.setattr(client, "_PATIENCE_S", 0.3)
    answer = http(TOLD.model_dump_json(), "200 OK", f"{RESIDENCE}: 1e-6")
    # The connection of the server's card is lost while it is asked.
    with scripted(http(mine.model_dump_json()), answer, silent_s=1) as url:
        peer = Peer(url, mine)
        found, transfer = peer.ask(*ASKED, timed=False)
        peer.close()
    assert (found, transfer.set_up_s is None) == (TOLD, False)


@pytest.mark.parametrize("endless", [True, False])
def test_what_a_foreign_server_sends_does_not_fill_the_memory(
    mine: Info, monkeypatch: pytest.MonkeyPatch, endless: bool
) -> None:
    """A stream is read up to a limit, and what is compressed is not expanded."""
    monkeypatch.setattr(exchange, "_MOST_ANSWER_BYTES", 100_000)
    if endless:
        sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + bytes(1024) + b"\r\n"
        sent += (b"400\r\n" + bytes(1024) + b"\r\n") * 200
        sentence = r"sends a response of more than 100 KB, and no server of this harness does; give the address at"
    else:
        body = gzip.compress(mine.model_dump_json().encode() + b" " * 50_000_000)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        sent, sentence = head.encode() + body, "is not a server of this harness: what it answers to /info does not"
    with scripted(sent) as url, pytest.raises(PeerError, match=f"^{url}: {sentence}"):
        Peer(url, mine)


def test_a_residence_longer_than_the_exchange_is_refused(mine: Info) -> None:
    """T_link would be below zero: a clock is wrong, or the device was suspended while it waited."""
    answer = http(TOLD.model_dump_json(), "200 OK", f"{RESIDENCE}: 250")
    with scripted(http(mine.model_dump_json()), answer) as url:
        peer = Peer(url, mine)
        with pytest.raises(PeerError, match=r"held a request for 250 s by its clock, and the whole exchange took 0\."):
            peer.ask(*ASKED, timed=False)
        peer.close()


def test_a_server_behind_a_proxy_is_awaited(mine: Info) -> None:
    """A proxy answers 502 while its server is started again."""
    lines: list[str] = []
    with scripted(http("<html>", "502 Bad Gateway"), http(mine.model_dump_json())) as url:
        peer = Peer(url, mine, tell=lines.append)
        peer.close()
    assert lines == [f"{url}: accepts no request yet (status 502); trying for 60 s"]


@pytest.mark.slow
def test_an_answer_that_is_cut_off_is_asked_for_again(mine: Info) -> None:
    """Whether of the server's card or to a request; the times are those of the exchange that was whole."""
    card = http(mine.model_dump_json())
    answer = http(TOLD.model_dump_json(), "200 OK", f"{RESIDENCE}: 1e-6")
    lines: list[str] = []
    with scripted(card[:-9], b"", card, answer[:40], answer[:-1], answer) as url:
        peer = Peer(url, mine, tell=lines.append)
        found, transfer = peer.ask(*ASKED, timed=False)
        peer.close()
    assert (found, transfer.residence_s, transfer.received_bytes) == (TOLD, 1e-6, len(answer))
    assert [line.startswith(f"{url}: accepts no request yet (") for line in lines] == [True, True]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http("<html>", "404 Not Found"), "is not a server of this harness: it answers to /answer with status 404"),
        (http("<html>", "504 Gateway Timeout"), r"refuses \(504\): it does not say why"),
        (http("[1]"), "its answer is invalid: "),
        (
            http('{"answers": [], "seconds": {}, "cpu_s": {}, "queue_s": 0, "lowered": []}'),
            "its answer is invalid: 0 answers to 1 questions, .* is None; an answer to each",
        ),
    ],
)
def test_a_server_that_is_another_in_the_middle_is_one_sentence(mine: Info, answer: bytes, sentence: str) -> None:
    """So that no row is made of what it says."""
    with scripted(http(mine.model_dump_json()), answer) as url:
        peer = Peer(url, mine)
        with pytest.raises(PeerError, match=f"^{url}: {sentence}"):
            peer.ask("fake", "levels=4", b"payload", [Question(text="?", kind="yes_no")], timed=False)
        peer.close()


@pytest.mark.slow
def test_a_server_that_accepts_and_says_nothing_is_given_up(mine: Info, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of an answer, and sooner where no model runs."""
    monkeypatch.setattr(client, "_TELL_S", 0.2)
    for begun in (b"", http(mine.model_dump_json())[:-9]):
        with (
            scripted(begun, silent_s=20) as url,
            pytest.raises(PeerError, match=r"gave no answer in 0\.2 s; see the log"),
        ):
            Peer(url, mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:8000", "is not a server's address"),
        ("ftp://127.0.0.1", "it needs a scheme, http or https, a host"),
        ("http://", "is not a server's address"),
        ("http://127.0.0.1:99999", "is not a server's address"),
        ("http://127.0.0.1:0", "is not a server's address"),
    ],
)
def test_what_is_no_address_is_refused(fake_scenario: Path, tmp_path: Path, url: str, sentence: str) -> None:
    """Before a run's folder is made."""
    with pytest.raises(PeerError, match=sentence):
        run(load(fake_scenario), tmp_path / "run", reporter=Silent(), remote=Remote(url=url))
    assert not (tmp_path / "run").exists()
