"""One request to a server and its response: what is sent and read, and how long each part takes."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from harness.edge import protocol
from harness.edge.shaping import Shaper
from harness.units import format_bytes

_MOST_ANSWER_BYTES = 64 << 20
"""The largest response that is read: a server of this harness sends a few kilobytes, and of many schemes a megabyte."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How long one exchange with a server took; the fields are those of :class:`harness.records.LinkRow`."""

    payload_bytes: int
    sent_bytes: int
    received_bytes: int
    set_up_s: float | None
    round_trip_s: float
    residence_s: float
    queue_s: float
    channel_s: float | None


class Exchange:
    """One request, with the instants of its progress."""

    def __init__(self, http: httpx.Client, body: bytes, identity: str, shaper: Shaper | None) -> None:
        self._http, self._body, self._shaper = http, body, shaper
        self._headers = {
            "Content-Length": str(len(body)),
            protocol.IDENTITY: identity,
        }
        self._at_s: dict[str, float] = {}
        self._begun_s = 0.0

    def run(self) -> httpx.Response:
        """The response, read to its end."""
        request = self._http.build_request(
            "POST", "/answer", headers=self._headers, content=self._content(), extensions={"trace": self._trace}
        )
        return self._http.send(request)

    def _content(self) -> bytes | Iterator[bytes]:
        return self._body if self._shaper is None else self._shaped(self._shaper)

    def _shaped(self, shaper: Shaper) -> Iterator[bytes]:
        yield from shaper.send(self._body, self._head_bytes)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        self._at_s[event] = time.perf_counter()
        if event == "http11.send_request_headers.started":
            request = info["request"]
            line = len(b"%b %b HTTP/1.1\r\n" % (request.method, request.url.target))
            self._head_bytes = line + _headers_bytes(request.headers)
            if self._shaper is not None:
                self._begun_s = self._shaper.now_s()

    def transfer(self, response: httpx.Response, payload_bytes: int, residence_s: float, queue_s: float) -> Transfer:
        """The times of the exchange whose response this is."""
        at_s = self._at_s
        connected = at_s.get("connection.start_tls.complete", at_s.get("connection.connect_tcp.complete"))
        sent_bytes = self._head_bytes + len(self._body)
        line = len(f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\n")
        channel_s = self._shaper.seconds(self._begun_s, sent_bytes) if self._shaper is not None else None
        return Transfer(
            payload_bytes=payload_bytes,
            sent_bytes=sent_bytes,
            received_bytes=line + _headers_bytes(response.headers.raw) + response.num_bytes_downloaded,
            set_up_s=None if connected is None else connected - at_s["connection.connect_tcp.started"],
            round_trip_s=at_s["http11.receive_response_body.complete"] - at_s["http11.send_request_headers.started"],
            residence_s=residence_s,
            queue_s=queue_s,
            channel_s=channel_s if channel_s is not None and math.isfinite(channel_s) else None,
        )


def _headers_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The bytes of a head after its first line: ``name: value`` and an end of line each, and an empty line."""
    return sum(len(name) + len(value) + 4 for name, value in headers) + 2


class Bounded(httpx.BaseTransport):
    """A transport that reads no more than :data:`_MOST_ANSWER_BYTES` of a response, and expands none.

    A foreign server may send a stream without end, or a compressed body that fills the memory.
    """

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The response, whose body is read as it is sent: no other was asked for."""
        response = self._transport.handle_request(request)
        response.headers.pop("content-encoding", None)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _BoundedBody(response.stream)
        return response

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()


class _BoundedBody(httpx.SyncByteStream):
    """The body of a response; raises httpx.TransportError where it is too long."""

    def __init__(self, body: httpx.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        left = _MOST_ANSWER_BYTES
        for part in self._body:
            left -= len(part)
            if left < 0:
                raise httpx.TransportError(
                    f"sends a response of more than {format_bytes(_MOST_ANSWER_BYTES)}, and no server of this harness "
                    "does; give the address at which 'harness serve' listens"
                )
            yield part

    def close(self) -> None:
        """Closes the connection, or gives it back."""
        self._body.close()
