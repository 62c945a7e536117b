"""The server halves of a scenario's schemes behind HTTP; :mod:`harness.edge.protocol` defines the messages.

Requests are answered one at a time, in order of arrival, so that the times of one are its own. A request is admitted
before its body is read: at most ``waiting`` bodies are in memory, each of at most ``most_bytes``.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from harness.data.sample import Question
from harness.edge import protocol
from harness.edge.guard import Guarded
from harness.edge.protocol import Ask, Info, Told, ToldAnswer, ToldEnergy, ToldNeed, ToldRail
from harness.errors import HarnessError, PeerError
from harness.files import why
from harness.models.contract import Untimed
from harness.profiling.clock import StageClock, synchroniser
from harness.profiling.disturbance import Watch
from harness.profiling.energy import Meters, Reading
from harness.profiling.resources import half_needs
from harness.profiling.telemetry import Telemetry
from harness.records import PointKey
from harness.runs.provenance import UNAVAILABLE
from harness.schemes.contract import ServerHalf
from harness.schemes.envelope import receive

_log = logging.getLogger(__name__)
_RETRY_AFTER = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
"""Sent with a refusal whose body was not read: nothing that follows on the connection is read."""
_BACKLOG = 1024
_KEEP_ALIVE_S = 300
"""A device may compute for minutes between two requests; its connection stays open so long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What a server takes: the bytes of a body, the seconds in which it must have arrived, the requests at once."""

    most_bytes: int = 64 << 20
    body_s: float = 120.0
    waiting: int = 8


class RefusedError(Exception):
    """A refused request; only a status and a sentence are sent back."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Service:
    """The server halves as an ASGI application, :attr:`app`.

    Without a ``token`` everybody is answered. ``watch`` reports how long stages were kept from running; ``meters``
    opens the machine's energy sensors, on first use.
    """

    def __init__(
        self,
        halves: Mapping[PointKey, ServerHalf],
        info: Info,
        *,
        device: str,
        token: str | None,
        limits: ServerLimits,
        watch: Watch | None = None,
        meters: Callable[[], Meters] | None = None,
    ) -> None:
        self._halves, self._info, self._device, self.limits = halves, info, device, limits
        self._identity = info.identity
        self._token = token
        # Two: a device that reads energy would otherwise end the watch over another device's timed request.
        self._telemetry, self._between_readings = Telemetry(), Telemetry()
        self._watch, self._open_meters = watch, meters
        self._meters: Meters | None = None
        self._leaving = contextlib.ExitStack()
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="server half")
        self._admitted = 0
        self.stopping = False
        self._metrics = _Metrics()
        self.app = Starlette(
            routes=[
                Route("/answer", self._answer, methods=["POST"]),
                Route("/info", self._tell_info),
                Route("/health", self._tell_health),
                Route("/metrics", self._tell_metrics),
                Route("/energy", self._tell_energy),
                Route("/conditions", self._tell_conditions),
            ],
            exception_handlers={RefusedError: _refuse, HTTPException: _refuse_http, Exception: _refuse_unexpected},
        )

    def __enter__(self) -> Self:
        if self._watch is not None:
            self._leaving.enter_context(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    async def _tell_health(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"status": "stopping" if self.stopping else "ok"}, 503 if self.stopping else 200)

    async def _tell_info(self, request: Request) -> Response:
        self._authorise(request)
        return JSONResponse(self._info.model_dump(mode="json"))

    async def _tell_metrics(self, request: Request) -> Response:
        self._authorise(request)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _tell_conditions(self, request: Request) -> Response:
        self._authorise(request)
        return JSONResponse(self._telemetry.conditions())

    async def _tell_energy(self, request: Request) -> Response:
        self._authorise(request)
        if self._meters is None and self._open_meters is not None:
            # Not earlier: some sensors are sampled by a thread, which would affect the times of stages.
            self._meters = self._leaving.enter_context(self._open_meters())
        if self._meters is None:
            sources, reading = f"{UNAVAILABLE}it was started with a scenario that measures none", Reading(0.0, {})
        else:
            sources, reading = self._meters.sources, self._meters.read()
        lowered = tuple(self._between_readings.end())
        self._between_readings.begin()
        rails = {name: ToldRail(**dataclasses.asdict(rail)) for name, rail in reading.rails.items()}
        told = ToldEnergy(sources=sources, at_s=reading.at_s, meter=reading.meter, rails=rails, lowered=lowered)
        return JSONResponse(told.model_dump(mode="json"))

    async def _answer(self, request: Request) -> Response:
        pipeline = "-"
        try:
            self._authorise(request)
            self._refuse_size(request)
            with self._admission() as admitted:
                body = await self._body(request, kept=admitted)
                arrived_s = time.perf_counter()
                if not admitted:
                    busy = f"{self.limits.waiting} requests are waiting already; send it again later"
                    raise RefusedError(
                        503 if self.stopping else 429, "stopping" if self.stopping else busy, _RETRY_AFTER
                    )
                ask, payload = self._opened(request, body)
                pipeline = ask.pipeline
                async with self._turn:
                    if await request.is_disconnected():
                        raise RefusedError(400, "the device has disconnected")
                    queue_s = time.perf_counter() - arrived_s
                    loop = asyncio.get_running_loop()
                    told = await loop.run_in_executor(self._thread, self._work, ask, payload, queue_s)
                content = told.model_dump_json().encode()
                self._metrics.served(ask, told, len(payload))
                residence_s = time.perf_counter() - arrived_s
                headers = {protocol.RESIDENCE: f"{residence_s:.9f}"}
                return Response(content, media_type="application/json", headers=headers)
        except RefusedError as refusal:
            self._metrics.requests.labels(pipeline, str(refusal.status)).inc()
            raise
        except Exception:
            self._metrics.requests.labels(pipeline, "500").inc()
            raise

    def _authorise(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            raise RefusedError(401, "this server requires its bearer token", {**_CLOSE, "WWW-Authenticate": "Bearer"})

    def _refuse_size(self, request: Request) -> None:
        """Before a byte of the body is read."""
        announced = request.headers.get("content-length", "")
        if not announced.isascii() or not announced.isdecimal() or "transfer-encoding" in request.headers:
            raise RefusedError(400, "a request announces the bytes of its body in Content-Length", _CLOSE)
        # A number with thousands of digits is not converted: int() would refuse it, or be slow.
        if len(announced) > 15 or int(announced) > self.limits.most_bytes:
            raise RefusedError(413, f"a body may have {self.limits.most_bytes} bytes", _CLOSE)

    @contextlib.contextmanager
    def _admission(self) -> Iterator[bool]:
        """Whether there is room for one more request; it is reserved while the context lasts."""
        admitted = self._admitted < self.limits.waiting and not self.stopping
        self._admitted += admitted
        self._metrics.waiting.set(self._admitted)
        try:
            yield admitted
        finally:
            self._admitted -= admitted
            self._metrics.waiting.set(self._admitted)

    async def _body(self, request: Request, *, kept: bool) -> bytes:
        """The body; read and dropped where there is no room, so that the refusal reaches a device that is sending."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for chunk in request.stream():
                    if kept:
                        body += chunk
        except TimeoutError:
            raise RefusedError(408, f"the request did not arrive in {self.limits.body_s:g} s", _CLOSE) from None
        except ClientDisconnect:
            raise RefusedError(400, "the request ended before its body did", _CLOSE) from None
        return bytes(body)

    def _opened(self, request: Request, body: bytes) -> tuple[Ask, bytes]:
        if request.headers.get(protocol.IDENTITY) != self._identity:
            raise RefusedError(409, f"this server's identity is {self._identity}, and the request is for another's")
        try:
            ask, payload = protocol.unpack(body)
        except PeerError as error:
            raise RefusedError(400, str(error)) from None
        if (ask.pipeline, ask.point) not in self._halves:
            raise RefusedError(400, f"{ask.pipeline[:100]} at {ask.point[:100]} is not served here")
        return ask, payload

    def _work(self, ask: Ask, payload: bytes, queue_s: float) -> Told:
        """Runs the server half, in the one thread that does."""
        clock = StageClock(synchroniser(self._device), self._watch) if ask.timed else None
        questions = [question.question() for question in ask.questions]
        if clock is not None:
            if self._watch is not None:
                self._watch.begin()
            self._telemetry.begin()
        half, kind = self._halves[ask.pipeline, ask.point], self._info.kinds[ask.pipeline]
        try:
            answers = receive(half, payload, questions, clock or Untimed(), kind=kind)
            needs = self._needs(half, payload, questions, kind) if ask.needs else ()
        except HarnessError as error:
            raise RefusedError(422, str(error)) from None
        except SystemExit as error:
            said = f"the server half's code ends the process (SystemExit: {error}); it may raise an error"
            raise RefusedError(422, said) from error
        except Exception as error:
            error.add_note(f"raised for {ask.pipeline} at {ask.point}")
            raise
        told = Told(
            answers=tuple(map(ToldAnswer.of, answers)),
            seconds=clock.seconds if clock else {},
            cpu_s=clock.cpu_s if clock else {},
            waited_s=clock.waited_s() if clock and self._watch is not None and self._watch.tells else None,
            queue_s=queue_s,
            lowered=tuple(self._telemetry.end()) if clock else (),
            needs=tuple(needs),
        )
        if clock is not None and self._watch is not None:
            # On the same machine as the device, its load is no disturbance: only the earlier sample is discarded.
            self._watch.load()
        return told

    def _needs(self, half: ServerHalf, payload: bytes, questions: Sequence[Question], kind: str) -> list[ToldNeed]:
        found = half_needs(half, lambda clock: receive(half, payload, questions, clock, kind=kind), self._device)
        return [ToldNeed(stage=stage, quantity=quantity, value=value) for stage, quantity, value in found]


async def _refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, RefusedError)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _refuse_http(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)
    known = "there are POST /answer, GET /info, /health, /metrics, /energy and /conditions"
    return JSONResponse({"error": f"{error.detail}: {known}"}, error.status_code, {**_CLOSE, **(error.headers or {})})


async def _refuse_unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The traceback goes to the server's log, by uvicorn; the answer says so."""
    return JSONResponse({"error": "the server half failed; the server's log says why"}, 500, _CLOSE)


class _Metrics:
    """The metrics of one server, for ``/metrics``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        known: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("harness_requests", "Requests by HTTP status.", ("pipeline", "status"), **known)
        self.waiting = Gauge("harness_requests_admitted", "Requests that arrive, wait or are being answered.", **known)
        self._payload = Counter("harness_payload_bytes", "Bytes of answered payloads.", ("pipeline",), **known)
        self._queue = Histogram("harness_queue_seconds", "How long answered requests waited for others.", **known)
        self._stages = Histogram("harness_stage_seconds", "Stages of timed requests.", ("pipeline", "stage"), **known)

    def served(self, ask: Ask, told: Told, payload_bytes: int) -> None:
        """Counts an answered request."""
        self.requests.labels(ask.pipeline, "200").inc()
        self._payload.labels(ask.pipeline).inc(payload_bytes)
        self._queue.observe(told.queue_s)
        for stage, seconds in told.seconds.items():
            self._stages.labels(ask.pipeline, stage).observe(seconds)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, on any free port for port 0; raises PeerError if it cannot be opened."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # asyncio sends small writes at once only where a socket names its protocol: the answer's second write would
        # wait for the acknowledgement of its first, 40 ms long.
        listener = socket.socket(found[0][0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[0][4])
        listener.listen(_BACKLOG)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        reason = why(error) if isinstance(error, OSError) else error
        raise PeerError(f"{host}:{port}: cannot listen there: {reason}") from None


def serve(service: Service, listener: socket.socket, started: Callable[[], None] | None = None) -> None:
    """Answers requests until SIGTERM or SIGINT; those that were admitted are answered before it returns.

    A second signal ends the process at once, whatever it is doing.
    """
    guarded = type("Guarded", (Guarded,), {"head_s": min(Guarded.head_s, service.limits.body_s)})
    config = uvicorn.Config(
        service.app, http=guarded, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip
    with service:
        asyncio.run(_serve(service, _Server(config), listener, started))


class _Server(uvicorn.Server):
    """uvicorn's server, without its own signal handlers: a requested stop is no error."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


async def _serve(
    service: Service, server: uvicorn.Server, listener: socket.socket, started: Callable[[], None] | None
) -> None:
    def stop(number: signal.Signals) -> None:
        if service.stopping:
            # Nothing else interrupts a half. A device whose connection is lost sends its request to the next server.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        service.stopping = server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if started is not None:
        loop.call_soon(started)
    await server.serve(sockets=[listener])
