"""The address of a Ray cluster is checked before Ray connects, which can take minutes without output."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from harness import cluster
from harness.errors import UnavailableError


@pytest.fixture(autouse=True)
def _with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the extra is installed here."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.3)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@contextmanager
def _answering(first: bytes | None) -> Iterator[str]:
    """The address of something that answers any connection with some bytes; with None it stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionResetError):
                connection.recv(100)
                if first is not None:
                    connection.sendall(first)
                connection.recv(100)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("address", [None, "", "auto", "local"])
def test_without_an_address_nothing_is_connected_to(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray then looks for a cluster of this machine, or starts one."""
    if address is None:
        monkeypatch.delenv(cluster.ADDRESS, raising=False)
    else:
        monkeypatch.setenv(cluster.ADDRESS, address)
    assert cluster.check_address() is None


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_grpc_answers_is_accepted(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first frame is SETTINGS, as of every server of HTTP/2."""
    with _answering(bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes(6)) as address:
        monkeypatch.setenv(cluster.ADDRESS, scheme + address)
        assert cluster.check_address() == scheme + address


@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something other than a Ray cluster answers there .*HTTP/1.1"),
        (b"", "something other than a Ray cluster"),
        (None, "no Ray cluster answers there in 0.3 s"),
    ],
)
def test_what_is_no_cluster_is_named(first: bytes | None, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard's HTTP, a closed connection, a silent one."""
    if first == b"":
        monkeypatch.setattr(socket.socket, "recv", lambda *_: b"")
    with _answering(first) as address:
        monkeypatch.setenv(cluster.ADDRESS, address)
        with pytest.raises(UnavailableError, match=rf"^RAY_ADDRESS={address}: {sentence}.*HOST:6379 of a running head"):
            cluster.check_address()


def test_an_address_without_a_server_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the system's reason; the attempt is announced before."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv(cluster.ADDRESS, address)
    told: list[str] = []
    with pytest.raises(UnavailableError, match=rf"^RAY_ADDRESS={address}: no Ray cluster answers there: .*refused"):
        cluster._connect(None, told.append)
    assert told == [f"connecting to Ray at {address}"]


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:70000", "head:6379/x", "ray://head", "a b"])
def test_a_malformed_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and port are both needed."""
    monkeypatch.setenv(cluster.ADDRESS, address)
    with pytest.raises(UnavailableError, match="is not an address of a Ray cluster; HOST:6379"):
        cluster.check_address()
