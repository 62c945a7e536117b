"""The device's client: sends payloads to a server and times them on the link."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import httpx
from pydantic import TypeAdapter, ValidationError

from harness.data.sample import Question
from harness.edge import TOKEN_VARIABLE, protocol
from harness.edge.protocol import Info, Told, ToldEnergy
from harness.edge.shaping import Shaper
from harness.errors import PeerError, shown
from harness.models.contract import Answer, Clock
from harness.profiling.clock import StageClock
from harness.profiling.energy import Reading
from harness.profiling.machine import Conditions
from harness.profiling.resources import Need
from harness.profiling.telemetry import Telemetry
from harness.reporter import unsaid
from harness.schemes.contract import DeviceHalf

_PATIENCE_S = 60.0
"""How long a server may be unreachable or busy before the device gives up: long enough to restart it."""
_ANSWER_S = 600.0
"""How long the server may take to answer; a request that it may still answer is not sent again."""
_PAUSES_S = (0.1, 0.2, 0.5)
_MOST_SHOWN = 8

_NOT_BEGUN = (429, 503)
_SEVERED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""The connection cannot be opened, or was lost, so no complete answer can arrive on it. After a time-out on an open
connection it still may."""


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


class Peer:
    """A server, over one connection that is kept open; :attr:`info` is its description of itself.

    ``tell`` gets a line while the server is awaited. Raises PeerError, naming every difference, for a server that is
    not what ``device`` needs.
    """

    def __init__(
        self,
        url: str,
        device: Info,
        *,
        token: str | None = None,
        shaper: Shaper | None = None,
        tell: Callable[[str], None] = unsaid,
    ) -> None:
        self.url = _checked(url)
        self._shaper, self._tell = shaper, tell
        limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
        timeout = httpx.Timeout(30.0, read=_ANSWER_S, write=_ANSWER_S)
        # A proxy of the environment would be measured too.
        self._http = httpx.Client(base_url=self.url, limits=limits, timeout=timeout, trust_env=False)
        # Useless headers would be sent with every payload.
        self._http.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.lowered: dict[str, None] = {}
        try:
            self.info = self._compared(device)
        except BaseException:
            self.close()
            raise
        self._identity = self.info.identity

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _compared(self, device: Info) -> Info:
        response = self._patient(lambda: self._http.get("/info"))
        self._refuse(response)
        try:
            data = response.json()
            if (version := data.get("protocol")) != protocol.VERSION:
                raise PeerError(
                    f"{self.url}: speaks version {shown(version)} of the protocol, this harness {protocol.VERSION}; "
                    "install the same version of the harness on both sides"
                )
            info = Info.model_validate(data)
        except (ValueError, AttributeError) as error:
            reason = protocol.first_mistake(error) if isinstance(error, ValidationError) else error
            raise PeerError(f"{self.url}: is not a server of this harness: /info: {reason}") from None
        if found := list(protocol.differences(device, info)):
            more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
            listed = "; ".join([*found[:_MOST_SHOWN], *more])
            raise PeerError(f"{self.url}: cannot serve this scenario: {listed}; give both sides the same")
        return info

    def ask(
        self,
        pipeline: str,
        point: str,
        payload: bytes,
        questions: Sequence[Question],
        *,
        timed: bool,
        needs: bool = False,
        shaped: bool = True,
    ) -> tuple[Told, Transfer]:
        """The server's answers about a payload, and the times of the exchange; ``shaped`` with a shaper.

        A request is repeated only if no answer to it can have arrived: it was refused unread, or its connection was
        lost. Raises PeerError if the server does not answer for a minute, refuses the request, or is another.
        """
        body = protocol.pack(protocol.asked(pipeline, point, questions, timed=timed, needs=needs), payload)
        shaper = self._shaper if shaped else None
        exchanges: list[_Exchange] = []

        def once() -> httpx.Response:
            exchanges.append(_Exchange(self._http, body, self._identity, shaper))
            return exchanges[-1].run()

        response = self._patient(once)
        self._refuse(response)
        try:
            told = Told.model_validate_json(response.content)
            residence_s = float(response.headers[protocol.RESIDENCE])
            if len(told.answers) != len(questions) or not 0 <= residence_s < math.inf:
                raise ValueError(f"{len(told.answers)} answers to {len(questions)} questions after {residence_s} s")
        except (ValueError, KeyError) as error:
            reason = protocol.first_mistake(error) if isinstance(error, ValidationError) else error
            raise PeerError(f"{self.url}: its answer is invalid: {reason}") from None
        self.lowered |= dict.fromkeys(f"server: {sentence}" for sentence in told.lowered)
        return told, exchanges[-1].transfer(response, len(payload), residence_s, told.queue_s)

    def conditions(self) -> Conditions:
        """The conditions of the server's machine now; raises PeerError as :meth:`ask` does."""
        response = self._patient(lambda: self._http.get("/conditions"))
        self._refuse(response)
        try:
            return TypeAdapter(Conditions).validate_json(response.content, strict=True)
        except ValidationError as error:
            raise PeerError(f"{self.url}: /conditions: {protocol.first_mistake(error)}") from None

    def energy(self) -> ToldEnergy:
        """The energy counters of the server's machine now; raises PeerError as :meth:`ask` does."""
        response = self._patient(lambda: self._http.get("/energy"))
        self._refuse(response)
        try:
            return ToldEnergy.model_validate_json(response.content)
        except ValidationError as error:
            raise PeerError(f"{self.url}: /energy: {protocol.first_mistake(error)}") from None

    def _patient(self, once: Callable[[], httpx.Response]) -> httpx.Response:
        """The response to a request, which is sent until it is accepted."""
        begun_s, attempt = time.monotonic(), 0
        while True:
            try:
                response = once()
                if response.status_code not in _NOT_BEGUN:
                    return response
                reason = self._said(response)
            except _SEVERED as error:
                reason = str(error) or type(error).__name__
            except httpx.TimeoutException:
                raise PeerError(
                    f"{self.url}: gave no answer in {_ANSWER_S:g} s; see its log, then repeat the command to resume"
                ) from None
            except httpx.HTTPError as error:
                raise PeerError(f"{self.url}: {error}") from None
            if time.monotonic() - begun_s > _PATIENCE_S:
                raise PeerError(
                    f"{self.url}: accepted no request for {_PATIENCE_S:g} s ({reason}); start it with 'harness serve', "
                    "then repeat the command to resume"
                )
            if not attempt:
                self._tell(f"{self.url}: accepts no request yet ({reason}); trying for {_PATIENCE_S:g} s")
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    def _refuse(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            return
        hint = {
            401: f"; give the token that it was started with in {TOKEN_VARIABLE}",
            409: "; it was restarted with something else: repeat the command to compare and to resume",
        }.get(response.status_code, "")
        raise PeerError(f"{self.url}: refuses ({response.status_code}): {self._said(response)}{hint}")

    def _said(self, response: httpx.Response) -> str:
        try:
            return str(response.json()["error"])[:500]
        except (ValueError, KeyError, TypeError):
            return f"status {response.status_code}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """A server's address and token, and the shape of the sending, if any."""

    url: str
    token: str | None = None
    shaper: Shaper | None = None

    @contextlib.contextmanager
    def connected(self, device: Info, tell: Callable[[str], None] = unsaid) -> Iterator[Peer]:
        """The server while the context lasts; ``tell`` and PeerError are as :class:`Peer` has them."""
        peer = Peer(self.url, device, token=self.token, shaper=self.shaper, tell=tell)
        try:
            yield peer
        finally:
            peer.close()


class _Exchange:
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


def _checked(url: str) -> str:
    try:
        found = httpx.URL(url)
        # No connection can be made to port 0, or to one above the largest.
        if found.scheme in ("http", "https") and found.host and not found.query and 0 < (found.port or 80) < 1 << 16:
            return str(found).rstrip("/")
        reason = "it needs a scheme, http or https, a host, and a port up to 65535"
    except httpx.InvalidURL as error:
        reason = str(error)
    raise PeerError(f"{url!r} is not a server's address: {reason}, such as http://192.168.1.20:8000")


@dataclasses.dataclass(frozen=True)
class RemoteSplit:
    """A scheme at one point whose server half is a server's: instead of a :class:`harness.measure.Split`."""

    kind: str
    device: DeviceHalf
    peer: Peer
    key: tuple[str, str]
    near: ClassVar[bool] = False

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], Transfer]:
        """The answers about an envelope; a clock that records times gets those of the server's stages."""
        told, transfer = self.peer.ask(*self.key, data, questions, timed=isinstance(clock, StageClock))
        if isinstance(clock, StageClock):
            clock.adopt(told.seconds, told.cpu_s, told.waited_s)
        return [answer.answer() for answer in told.answers], transfer

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """Repeats the server half's work on an envelope, unshaped."""
        self.peer.ask(*self.key, data, questions, timed=False, shaped=False)

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:  # noqa: ARG002
        """What the server half needs for an envelope, on the server's own device."""
        told, _ = self.peer.ask(*self.key, data, questions, timed=False, needs=True, shaped=False)
        return [(need.stage, need.quantity, need.value) for need in told.needs]


class PeerMeter:
    """The energy counters of a server's machine, read over the network."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @property
    def sources(self) -> str:
        """The sensors that are read there, or that there are none and why."""
        return self._peer.energy().sources

    def read(self) -> Reading:
        """All rails now, on the server's clock."""
        return self._peer.energy().reading()


class PeerTelemetry(Telemetry):
    """Watches this machine, and reports what the server says of its own."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._peer = peer

    @property
    def sources(self) -> Mapping[str, str]:
        """Those of both sides, the server's under names of their own."""
        server = {f"server {kind}": what for kind, what in self._peer.info.telemetry.items()}
        return {**super().sources, **server}

    def conditions(self) -> Conditions:
        """Those of both sides, the server's under names of their own."""
        server = {f"server {fact}": value for fact, value in self._peer.conditions().items()}
        return {**super().conditions(), **server}

    def begin(self) -> None:
        """A unit of work begins."""
        super().begin()
        self._peer.lowered.clear()

    def end(self) -> list[str]:
        """What was lowered since :meth:`begin` on either side, a sentence each."""
        return [*super().end(), *self._peer.lowered]
