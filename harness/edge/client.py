"""The device's client: sends payloads to a server and times them on the link."""

import contextlib
import dataclasses
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import httpx
from pydantic import TypeAdapter, ValidationError

from harness.data.sample import Question
from harness.edge import SHAPE, TOKEN_VARIABLE, protocol
from harness.edge.exchange import Bounded, Exchange, Transfer
from harness.edge.protocol import Info, Told, ToldEnergy, at_once
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
_TELL_S = 60.0
"""How long it may take to describe itself or its machine, for which no model runs."""
_PAUSES_S = (0.1, 0.2, 0.5)
_CLOCKS_RUN_APART = 1e-3
"""By which share two machines' clocks may run at different speeds: quartz by 1e-4, adjusted by NTP by 5e-4 each."""
_PROBE_S = 2.0
"""How long a server that answers no HTTP may take to say what it speaks."""
_MOST_SHOWN = 8
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
"""How an alert and a handshake begin."""

_NOT_BEGUN = (429, 502, 503)
"""502 is the answer of a proxy whose server cannot be reached, or was lost with the request."""
_SEVERED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""The connection cannot be opened, or was lost, so no complete answer can arrive on it. After a time-out on an open
connection it still may."""


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
        # A proxy of the environment would be measured too; its certificates (SSL_CERT_FILE, SSL_CERT_DIR) are used.
        transport = httpx.HTTPTransport(verify=_trusted(self.url), limits=limits, trust_env=False)
        self._http = httpx.Client(base_url=self.url, transport=Bounded(transport), timeout=timeout, trust_env=False)
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
        data = _object(self._told("/info"))
        version = data.get("protocol")
        if not isinstance(version, int):
            raise self._foreign("what it answers to /info does not describe one")
        if version != protocol.VERSION:
            raise PeerError(
                f"{self.url}: speaks version {shown(version)} of the protocol, this harness {protocol.VERSION}; "
                "install the same version of the harness on both sides"
            )
        try:
            info = Info.model_validate(data)
        except ValidationError as error:
            raise self._foreign(f"/info: {protocol.first_mistake(error)}") from None
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
        exchanges: list[Exchange] = []

        def once() -> httpx.Response:
            exchanges.append(Exchange(self._http, body, self._identity, shaper))
            return exchanges[-1].run()

        response = self._patient(once)
        self._refuse(response)
        try:
            told = Told.model_validate_json(response.content)
        except ValidationError as error:
            raise PeerError(f"{self.url}: its answer is invalid: {protocol.first_mistake(error)}") from None
        residence_s = _seconds(response.headers.get(protocol.RESIDENCE, ""))
        if len(told.answers) != len(questions) or residence_s is None:
            held = response.headers.get(protocol.RESIDENCE)
            raise PeerError(
                f"{self.url}: its answer is invalid: {len(told.answers)} answers to {len(questions)} questions, "
                f"{protocol.RESIDENCE} is {shown(held)}; an answer to each and seconds are expected"
            )
        transfer = exchanges[-1].transfer(response, len(payload), residence_s, told.queue_s)
        if residence_s > transfer.round_trip_s * (1 + _CLOCKS_RUN_APART):
            raise PeerError(
                f"{self.url}: held a request for {residence_s:g} s by its clock, and the whole exchange took "
                f"{transfer.round_trip_s:g} s by this machine's: one of the clocks is wrong, or this machine was "
                "suspended meanwhile; repeat the command to resume"
            )
        self.lowered |= dict.fromkeys(f"server: {sentence}" for sentence in told.lowered)
        return told, transfer

    def conditions(self) -> Conditions:
        """The conditions of the server's machine now; raises PeerError as :meth:`ask` does."""
        response = self._told("/conditions")
        try:
            return TypeAdapter(Conditions).validate_json(response.content, strict=True)
        except ValidationError as error:
            raise PeerError(f"{self.url}: /conditions: {protocol.first_mistake(error)}") from None

    def energy(self) -> ToldEnergy:
        """The energy counters of the server's machine now; raises PeerError as :meth:`ask` does."""
        response = self._told("/energy")
        try:
            return ToldEnergy.model_validate_json(response.content)
        except ValidationError as error:
            raise PeerError(f"{self.url}: /energy: {protocol.first_mistake(error)}") from None

    def _told(self, path: str) -> httpx.Response:
        """What the server says at ``path``."""

        def once() -> httpx.Response:
            try:
                return self._http.get(path, timeout=httpx.Timeout(30.0, read=_TELL_S))
            except _SEVERED as error:
                if (reason := _of_tls(error) or self._not_http()) is not None:
                    raise self._foreign(reason) from None
                raise

        response = self._patient(once, _TELL_S)
        self._refuse(response)
        return response

    def _not_http(self) -> str | None:
        """Why what listens at the address speaks no HTTP; None if it may, or if nothing listens yet."""
        url = httpx.URL(self.url)
        if url.scheme != "http":
            return None
        try:
            with socket.create_connection((url.host, url.port or 80), timeout=_PROBE_S) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
                begun = connection.recv(40)
        except OSError:
            return None
        if begun.startswith(_TLS_RECORDS):
            return "it speaks TLS there, so its address begins with https"
        return None if begun[:5] == b"HTTP/"[: len(begun)] else f"it speaks no HTTP, but sends {shown(begun)}"

    def _patient(self, once: Callable[[], httpx.Response], within_s: float | None = None) -> httpx.Response:
        """The response to a request, which is sent until it is accepted; no read takes longer than ``within_s``.

        The server is awaited from its first failure on: a request may take longer than that before its connection is
        lost.
        """
        failed_s, attempt = 0.0, 0
        while True:
            try:
                response = once()
                if response.status_code not in _NOT_BEGUN:
                    return response
                reason = _said(response) or f"status {response.status_code}"
            except _SEVERED as error:
                reason = str(error) or type(error).__name__
            except httpx.TimeoutException:
                raise PeerError(
                    f"{self.url}: gave no answer in {within_s or _ANSWER_S:g} s; see the log of 'harness serve' there, "
                    "then repeat the command to resume"
                ) from None
            except httpx.HTTPError as error:
                raise PeerError(f"{self.url}: {error}") from None
            failed_s = failed_s if attempt else time.monotonic()
            if time.monotonic() - failed_s > _PATIENCE_S:
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
        said = _said(response)
        if said is None and response.status_code < 500:
            raise self._foreign(f"it answers to {response.request.url.path} with status {response.status_code}")
        hint = {
            401: f"; give the token that it was started with in {TOKEN_VARIABLE}",
            409: "; it was restarted with something else: repeat the command to compare and to resume",
        }.get(response.status_code, "")
        raise PeerError(f"{self.url}: refuses ({response.status_code}): {said or 'it does not say why'}{hint}")

    def _foreign(self, reason: str) -> PeerError:
        return PeerError(
            f"{self.url}: is not a server of this harness: {reason}; give the address at which 'harness serve' listens"
        )


def _trusted(url: str) -> ssl.SSLContext | bool:
    """The certificates that a server's is verified with, by httpx's rules; raises PeerError where there are none."""
    if not url.startswith("https"):
        return True
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise PeerError(
            f"{url}: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}"
        ) from None


def _of_tls(error: BaseException) -> str | None:
    """Why a TLS connection will never be there; None for another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not accepted ({cause.verify_message}); name the file with that of its authority "
                "in SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return "it speaks no TLS there, so its address begins with http"
        cause = cause.__cause__ or cause.__context__
    return None


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response; an empty one where it is anything else."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _said(response: httpx.Response) -> str | None:
    """The sentence with which a server of this harness refuses a request; None where there is none."""
    said = _object(response).get("error")
    return said[:500] if isinstance(said, str) else None


def _seconds(text: str) -> float | None:
    """A duration of at least 0 s; None for another text."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found < math.inf else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """A server's address and token, and the shape of the sending, if any."""

    url: str
    token: str | None = None
    shaper: Shaper | None = None

    @property
    def shape(self) -> dict[str, str]:
        """What shapes the sending, by a name for people; empty where nothing does."""
        return {} if self.shaper is None else {SHAPE: self.shaper.identity}

    @contextlib.contextmanager
    def connected(self, device: Info, tell: Callable[[str], None] = unsaid) -> Iterator[Peer]:
        """The server while the context lasts; ``tell`` and PeerError are as :class:`Peer` has them."""
        peer = Peer(self.url, device, token=self.token, shaper=self.shaper, tell=tell)
        try:
            yield peer
        finally:
            peer.close()


def _checked(url: str) -> str:
    try:
        found = httpx.URL(url)
        # No connection can be made to port 0, or to one above the largest; without one it is the scheme's.
        is_port = found.port is None or 0 < found.port < 1 << 16
        if found.scheme in ("http", "https") and found.host and not found.query and is_port:
            return str(found).rstrip("/")
        reason = "it needs a scheme, http or https, a host, and a port from 1 to 65535"
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
        answers: list[Answer] = []
        for part in at_once(questions):
            told, transfer = self.peer.ask(*self.key, data, part, timed=isinstance(clock, StageClock))
            answers += [answer.answer() for answer in told.answers]
        # A request that is timed asks one question, so it has one part.
        if isinstance(clock, StageClock):
            clock.adopt(told.seconds, told.cpu_s, told.waited_s)
        return answers, transfer

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
