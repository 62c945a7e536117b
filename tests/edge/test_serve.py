"""A server on real TCP, among hostile requests."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest

from harness import loaded
from harness.edge import TOKEN_VARIABLE
from harness.edge import server as serving
from harness.edge.client import Peer, RemoteSplit
from harness.edge.protocol import IDENTITY, Info, Told
from harness.errors import PeerError
from harness.models.contract import Answer, Untimed
from harness.profiling.telemetry import Telemetry
from harness.scenario.load import load
from harness.schemes import fake
from harness.schemes.envelope import receive
from harness.schemes.fake import Fake, FakeModels, FakePoint
from harness.stock import take_stock
from tests.edge import ends
from tests.edge.hostile import KEY, MOST_BYTES, PAGE, PAYLOAD, TOKEN, attack, body, head, hostile


@pytest.fixture(scope="module")
def server(fake_scenario: Path) -> Iterator[str]:
    """The address of a server with a token, a small limit and short patience."""
    limits = ("--most", "1 MiB", "--within", "1 s", "--queue", "4")
    with ends.serving(fake_scenario, *limits, **{TOKEN_VARIABLE: TOKEN}) as address:
        yield address


@pytest.fixture
def peer(server: str, fake_scenario: Path) -> Iterator[Peer]:
    """A valid device."""
    peer = Peer(server, loaded.describe(take_stock(load(fake_scenario))), token=TOKEN)
    yield peer
    peer.close()


def right_answers() -> list[Answer]:
    """The server half's answers to the payload in this process."""
    half = Fake.server_half(FakeModels(), FakePoint(levels=4))
    return receive(half, PAYLOAD, [PAGE.question], Untimed(), kind="fake")


@pytest.mark.slow
def test_a_thousand_hostile_requests_do_no_harm(server: str, peer: Peer) -> None:
    """Each gets its status; the valid device's answers are right, memory is bounded, no traceback is sent."""
    attacks = hostile(peer.info.identity)
    process = _process_of(server)
    wanted, answered, stop = right_answers(), 0, threading.Event()
    wrong: list[object] = []

    def go_on() -> None:
        nonlocal answered
        while not stop.is_set():
            told, _ = peer.ask(*KEY, PAYLOAD, [PAGE.question], timed=True)
            if [answer.answer() for answer in told.answers] != wanted:
                wrong.append(told)
            answered += 1

    async def all_of_them() -> list[tuple[str, int, bytes]]:
        at_once = asyncio.Semaphore(100)

        async def one(name: str) -> tuple[str, int, bytes]:
            async with at_once:
                return name, *await attack(server, attacks[name][0])

        rounds = -(-1000 // len(attacks))
        return await asyncio.gather(*(one(name) for _ in range(rounds) for name in attacks))

    good = threading.Thread(target=go_on)
    before = process.memory_info().rss
    good.start()
    try:
        seen = asyncio.run(all_of_them())
    finally:
        stop.set()
        good.join()
    assert len(seen) >= 1000
    # A complete request may have found the queue full.
    may_wait = {429}
    assert [(name, status) for name, status, _ in seen if status not in attacks[name][1] | may_wait] == []
    assert not [said for *_, said in seen if b"Traceback" in said or b".py" in said]
    assert wrong == []
    assert answered > 0
    # Four bodies, and what a hundred connections buffer.
    assert process.memory_info().rss - before < 4 * MOST_BYTES + 100 * (256 << 10)


@pytest.mark.slow
def test_a_slow_sender_blocks_no_other(server: str, peer: Peer) -> None:
    """A body that arrives too slowly is given up after its time, and its place in the queue is freed."""
    place = urlsplit(server)
    slow = []
    for _ in range(4):
        connection = socket.create_connection((place.hostname, place.port))
        connection.sendall(head(1000, peer.info.identity) + b"x")
        slow.append(connection)
    begun_s = time.monotonic()
    told, _ = peer.ask(*KEY, PAYLOAD, [PAGE.question], timed=False)
    assert [answer.answer() for answer in told.answers] == right_answers()
    assert time.monotonic() - begun_s < 20
    for connection in slow:
        connection.settimeout(20)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


@pytest.mark.slow
def test_two_devices_at_once_get_each_its_own_answers(server: str, peer: Peer, fake_scenario: Path) -> None:
    """An answer goes to the device that asked the question, and its time in the queue is part of that at the server."""
    other = Peer(server, loaded.describe(take_stock(load(fake_scenario))), token=TOKEN)
    asked = {peer: [PAGE.question] * 2, other: [PAGE.question]}
    found: dict[Peer, list[tuple[int, float]]] = {peer: [], other: []}

    def ask(device: Peer) -> None:
        for _ in range(40):
            told, transfer = device.ask(*KEY, PAYLOAD, asked[device], timed=True)
            assert transfer.queue_s <= transfer.residence_s <= transfer.round_trip_s
            found[device].append((len(told.answers), told.answers[0].answer() == right_answers()[0]))

    threads = [threading.Thread(target=ask, args=[device]) for device in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert found == {device: [(len(questions), True)] * 40 for device, questions in asked.items()}


@pytest.mark.slow
def test_more_questions_than_a_request_takes_are_answered(peer: Peer) -> None:
    """A picture may have thousands: they are asked in several requests, and the answers are in order."""
    split = RemoteSplit("fake", Fake.device_half(FakeModels(), FakePoint(levels=4)), peer, KEY)
    long = dataclasses.replace(PAGE.question, text=PAGE.question.text + " ?" * 100)
    half = Fake.server_half(FakeModels(), FakePoint(levels=4))
    wanted = receive(half, PAYLOAD, [PAGE.question, long], Untimed(), kind="fake")
    assert wanted[0] != wanted[1]
    assert split.serve(PAYLOAD, [PAGE.question, long] * 1000, Untimed())[0] == wanted * 1000


@pytest.mark.slow
def test_who_reads_energy_does_not_end_the_watch_over_anothers_request(
    fake_scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was lowered during a timed request is reported with its answer."""
    counter = tmp_path / "class" / "hwmon" / "hwmon0" / "oc1_event_cnt"
    counter.parent.mkdir(parents=True)
    counter.write_text("0")
    monkeypatch.setattr(serving, "Telemetry", lambda: Telemetry(tmp_path))
    service = loaded.service(take_stock(load(fake_scenario), serving=True), token=None, limits=serving.ServerLimits())
    half = service._halves[KEY]
    begun, read = threading.Event(), threading.Event()

    def slow(*given: Any) -> list[Answer]:
        counter.write_text("1")
        begun.set()
        assert read.wait(20)
        return half(*given)

    async def both() -> Told:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://server") as http:
            identity = Info.model_validate((await http.get("/info")).json()).identity
            asking = asyncio.create_task(http.post("/answer", content=body(), headers={IDENTITY: identity}))
            assert await asyncio.to_thread(begun.wait, 20)
            assert (await http.get("/energy")).status_code == 200
            read.set()
            return Told.model_validate_json((await asking).content)

    monkeypatch.setattr(service, "_halves", {KEY: slow})
    with service:
        assert asyncio.run(both()).lowered == ("the counter oc1_event_cnt rose",)


def posted(service: serving.Service) -> httpx.Response:
    """What the server says to one request."""

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://server") as http:
            identity = Info.model_validate((await http.get("/info")).json()).identity
            return await http.post("/answer", content=body(), headers={IDENTITY: identity})

    with service:
        return asyncio.run(post())


def test_what_own_code_may_do_in_one_process_it_may_do_on_a_server(
    fake_scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens counted in NumPy's integers are sent; code that ends the process is named, and the server goes on."""
    service = loaded.service(take_stock(load(fake_scenario), serving=True), token=None, limits=serving.ServerLimits())
    counted = Answer("A", np.int64(1), np.int32(3), np.uint8(2))  # type: ignore[arg-type]
    monkeypatch.setattr(service, "_halves", {KEY: lambda _, questions, __: [counted] * len(questions)})
    (told,) = Told.model_validate_json(posted(service).content).answers
    assert told.answer() == Answer("A", 1, 3, 2)

    def leaves(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(service, "_halves", {KEY: leaves})
    response = posted(service)
    assert response.status_code == 422
    assert "ends the process (SystemExit: 3)" in response.json()["error"]


def test_a_server_with_another_number_of_threads_is_another(
    fake_scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of its networks decide its times, and how sums are rounded; a run's manifest has them."""

    def told(threads: int) -> Info:
        monkeypatch.setattr(loaded, "load_models", lambda _: (FakeModels(), "cpu", threads))
        stock = take_stock(load(fake_scenario), serving=True)
        return loaded.service(stock, token=None, limits=serving.ServerLimits())._info

    assert told(1).identity == told(1).identity != told(2).identity
    assert told(2).provenance().machine["torch_threads"] == 2


@pytest.mark.slow
def test_requests_for_less_than_an_answer(server: str) -> None:
    """Health is open; the card and the metrics need the token; answered requests are counted."""
    own = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server}/info").status_code == httpx.get(f"{server}/metrics").status_code == 401
    card = httpx.get(f"{server}/info", headers=own).json()
    assert card["points"] == {
        "reference": {"-": {"levels": 16}},
        "fake": {"levels=4": {"levels": 4}, "levels=32": {"levels": 32}},
        "alone": {"-": {"levels": 16}},
    }
    assert card["machine"]["name"]
    metrics = httpx.get(f"{server}/metrics", headers=own).text
    assert "# TYPE harness_requests_total counter" in metrics
    assert "harness_stage_seconds" in metrics


@pytest.mark.slow
def test_a_wrong_token_is_reported_to_the_device(server: str, fake_scenario: Path) -> None:
    """One sentence that names the variable."""
    mine = loaded.describe(take_stock(load(fake_scenario)))
    with pytest.raises(PeerError, match=rf"refuses \(401\).*{TOKEN_VARIABLE}"):
        Peer(server, mine, token="another token, long enough")


@pytest.mark.slow
def test_another_scenario_is_refused_by_name(server: str, fake_scenario: Path, tmp_path: Path) -> None:
    """A point that is not served, and another limit on pictures, are both named."""
    path = tmp_path / "other.yaml"
    path.write_text(fake_scenario.read_text().replace("[4, 32]", "[4, 17]") + "max_pixels: 1000000\n")
    with pytest.raises(PeerError, match=r"max_pixels is 1000000 here and 16000000 there; fake at levels=17 is not"):
        Peer(server, loaded.describe(take_stock(load(path))), token=TOKEN)


@pytest.mark.slow
def test_a_public_address_needs_a_token(fake_scenario: Path) -> None:
    """Refused before anything is loaded."""
    process = ends.start("serve", fake_scenario, "--listen", "0.0.0.0:0", **{TOKEN_VARIABLE: ""})
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert TOKEN_VARIABLE in said
    assert "Traceback" not in said


def _serve_slowly(scenario: Path, told: Any) -> None:
    fake._Server.__call__ = lambda *_: time.sleep(300)  # type: ignore[method-assign,assignment]
    ends._serve(scenario, 0, told)


@pytest.mark.slow
def test_a_second_signal_ends_a_server_at_once(fake_scenario: Path) -> None:
    """In the middle of a half: the connection is lost, so that the device sends the request again."""
    here, there = ends.FORKS.Pipe()
    process = ends.FORKS.Process(target=_serve_slowly, args=(fake_scenario, there))
    process.start()
    place = ("127.0.0.1", here.recv())
    url = f"http://{place[0]}:{place[1]}"
    identity = Info.model_validate(httpx.get(f"{url}/info").json()).identity
    data = body()
    with socket.create_connection(place) as connection:
        connection.sendall(head(len(data), identity) + data)
        assert process.pid is not None
        while "harness_requests_admitted 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        with contextlib.suppress(httpx.TransportError):
            while True:
                httpx.get(f"{url}/health")
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)
        assert process.exitcode == -signal.SIGTERM
        connection.settimeout(10)
        assert connection.recv(100) == b""


@pytest.mark.slow
def test_a_stopping_server_answers_accepted_requests(fake_scenario: Path) -> None:
    """A request whose body is being sent when the server is stopped is answered; then the server exits with 0."""
    process = ends.start("serve", fake_scenario, "--listen", "127.0.0.1:0")
    address = ends.listening(process)
    peer = Peer(address, loaded.describe(take_stock(load(fake_scenario))))
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port)) as connection:
        data = head(len(body()), peer.info.identity) + body()
        connection.sendall(data[:-50])
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(data[-50:])
        connection.settimeout(20)
        said = connection.recv(1 << 16)
    assert said.startswith(b"HTTP/1.1 200"), said
    peer.close()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.endswith("every accepted request was answered\n")


def _process_of(address: str) -> psutil.Process:
    port = urlsplit(address).port
    for child in psutil.Process().children():
        if any(found.laddr.port == port for found in child.net_connections() if found.status == "LISTEN"):
            return child
    raise AssertionError(f"no child listens on {port}")
