"""The protocol between a device and a server over HTTP.

A request is ``POST /answer``. Its body is

    length u32, little-endian: the bytes of the head
    head   JSON: an :class:`Ask`
    payload: the envelope of :mod:`harness.schemes.envelope`

and its header ``X-Harness-Identity`` the :attr:`Info.identity` that the device compared itself with. The answer is the
JSON of a :class:`Told`; the header ``X-Harness-Residence-S`` says how long the server held the request, from the last
byte received to the first byte of the answer. A refusal is a status and ``{"error": sentence}``:

    400, 413, 422  the request is malformed, too large, or its payload is no payload of that scheme
    401            the bearer token is missing or another
    408            the request did not arrive in time
    409            the server is another than the one that the device compared itself with
    429, 503       too many requests wait, or the server is stopping: not begun, so it may be sent again, as after a
                   proxy's 502
    500            the server half failed; the reason is in the server's own log

``GET /info`` is an :class:`Info`, ``GET /energy`` a :class:`ToldEnergy`, ``GET /conditions`` what
:func:`harness.profiling.machine.conditions` says, ``GET /health`` whether requests are taken; ``GET /metrics`` is
Prometheus'.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.data.sample import Kind, Question
from harness.errors import PeerError, shown
from harness.models.contract import Answer
from harness.profiling.energy import Rail, Reading
from harness.records import Quantity
from harness.runs.digests import of_data
from harness.runs.provenance import Server

VERSION = 2
"""Incremented with every change of the protocol; device and server must have the same."""

IDENTITY, RESIDENCE = "X-Harness-Identity", "X-Harness-Residence-S"

MOST_HEAD_BYTES = 1 << 20
MOST_QUESTIONS = 1024
_MOST_QUESTION_BYTES = MOST_HEAD_BYTES // 2
"""Of the questions of one request, without what is around them."""
_LENGTH = struct.Struct("<I")
_LIVE = ("cpu_mhz", "governor")
"""The fields of a machine's card that change although the machine does not."""

_RECORDED = ("version", "commit", "dirty", "code", "packages", "machine")

Text = Annotated[str, Field(max_length=MOST_HEAD_BYTES)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AskedQuestion(_Strict):
    """A :class:`Question` as sent."""

    text: Text
    kind: Kind
    options: dict[str, str] = Field(default_factory=dict)
    hint: Text = ""
    marked: bool = False
    pictures: int = Field(default=1, ge=1, le=255)

    @classmethod
    def of(cls, question: Question) -> Self:
        """A question as it is sent."""
        return cls.model_validate({**dataclasses.asdict(question), "options": dict(question.options)})

    def question(self) -> Question:
        """The question."""
        return Question(**self.model_dump())


class Ask(_Strict):
    """What is asked about a payload.

    ``timed`` also requests the seconds of the server's stages, ``needs`` what the half needs besides time.
    """

    pipeline: Text
    point: Text
    timed: bool
    needs: bool = False
    questions: tuple[AskedQuestion, ...] = Field(min_length=1, max_length=MOST_QUESTIONS, strict=False)


class ToldAnswer(_Strict):
    """An :class:`Answer` as sent."""

    text: str
    visual_tokens: int = Field(ge=0)
    prompt_tokens: int = Field(ge=0)
    answer_tokens: int = Field(ge=0)

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """An answer as it is sent; a scheme of one's own may count in NumPy's integers."""
        counts = {name: int(getattr(answer, name)) for name in ("visual_tokens", "prompt_tokens", "answer_tokens")}
        return cls(text=str(answer.text), **counts)

    def answer(self) -> Answer:
        """The answer as a scheme gives it."""
        return Answer(**self.model_dump())


class ToldNeed(_Strict):
    """What a half needs besides time; ``stage`` is empty for the half as a whole."""

    stage: str
    quantity: Quantity
    value: int = Field(ge=0)


class ToldRail(_Strict):
    """A :class:`harness.profiling.energy.Rail` as sent."""

    sensor: str
    joules: float
    lost: int


class ToldEnergy(_Strict):
    """A :class:`harness.profiling.energy.Reading` as sent; ``sources`` says what is read, or why nothing is."""

    sources: str
    at_s: float
    meter: int
    rails: dict[str, ToldRail]
    lowered: tuple[str, ...] = Field(strict=False)

    def reading(self) -> Reading:
        """The reading."""
        rails = {name: Rail(**rail.model_dump()) for name, rail in self.rails.items()}
        return Reading(self.at_s, rails, self.meter, self.lowered)


class Told(_Strict):
    """What the server answers: answers in the order of the questions; wall and processor seconds of its stages.

    ``waited_s`` is how long each stage was kept from running, null if the server's system does not report it.
    ``queue_s`` is how long the request waited for others; ``lowered`` what the telemetry reports of clocks that were
    lowered meanwhile. Requests that are not timed have neither stages nor sentences. ``needs`` has a stage, a quantity
    and its value each, if they were requested.
    """

    answers: tuple[ToldAnswer, ...] = Field(strict=False)
    seconds: dict[str, Annotated[float, Field(ge=0)]]
    cpu_s: dict[str, Annotated[float, Field(ge=0)]]
    waited_s: dict[str, Annotated[float, Field(ge=0)]] | None = None
    queue_s: float = Field(ge=0)
    lowered: tuple[str, ...] = Field(strict=False)
    needs: tuple[ToldNeed, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if self.seconds.keys() != self.cpu_s.keys():
            raise ValueError("seconds and cpu_s name different stages")
        if self.waited_s is not None and not self.waited_s.keys() <= self.seconds.keys():
            raise ValueError("waited_s names a stage that seconds does not")
        return self


class Info(_Strict):
    """What decides a side's answers and times: the software, the machine, the model's parts, the schemes.

    ``points`` are parameters, ``kinds`` payloads' kinds by pipeline, ``depends`` the digests of parts, files and
    parameters that a point's rows depend on, by pipeline and label. ``threads`` is the scenario's ``measure.threads``.
    """

    protocol: int
    version: str
    code: str
    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    machine: dict[str, Any]
    telemetry: dict[str, str]
    backbone: str
    max_pixels: int
    threads: int | None
    kinds: dict[str, str]
    points: dict[str, dict[str, dict[str, Any]]]
    depends: dict[str, dict[str, dict[str, str]]]

    @property
    def identity(self) -> str:
        """A digest of everything that a restart does not change."""
        data = self.model_dump(mode="json", exclude={"telemetry"})
        data["machine"] = {name: value for name, value in self.machine.items() if name not in _LIVE}
        return of_data(data)

    def provenance(self) -> Server:
        """A run's manifest entry for a server."""
        fields = {"harness_version" if name == "version" else name: value for name, value in self if name in _RECORDED}
        return Server(**fields)


def differences(device: Info, server: Info) -> Iterator[str]:
    """Why a device cannot use a server, a phrase each: what differs between the two.

    A server may serve more than the device needs. Packages and machines may differ; they are recorded.
    """
    if device.code != server.code:
        yield f"the harness's code is {_code(device)} here and {_code(server)} there"
    for name in ("backbone", "max_pixels", "threads"):
        if (here := getattr(device, name)) != (there := getattr(server, name)):
            yield f"{'measure.threads' if name == 'threads' else name} is {here} here and {there} there"
    named: set[str] = set()
    for pipeline, labels in device.points.items():
        for label, point in labels.items():
            if label not in server.points.get(pipeline, {}):
                yield f"{pipeline} at {label} is not served"
            elif device.kinds[pipeline] != server.kinds[pipeline] or point != server.points[pipeline][label]:
                yield f"{pipeline} at {label} is another scheme or point there"
            else:
                here, there = device.depends[pipeline][label], server.depends[pipeline][label]
                for name in (n for n in dict.fromkeys((*here, *there)) if here.get(n) != there.get(n)):
                    if name not in named:
                        named.add(name)
                        yield f"{name} is {here.get(name, 'absent')} here and {there.get(name, 'absent')} there"


def _code(info: Info) -> str:
    commit = "" if info.commit is None else f", commit {info.commit[:9]}{'+changes' if info.dirty else ''}"
    return f"{info.code} (version {info.version}{commit})"


def pack(ask: Ask, payload: bytes) -> bytes:
    """The body of a request."""
    head = ask.model_dump_json(exclude_defaults=True).encode()
    return _LENGTH.pack(len(head)) + head + payload


def unpack(body: bytes) -> tuple[Ask, bytes]:
    """The question part of a request, and the payload; raises PeerError for any other body."""
    if len(body) < _LENGTH.size:
        raise PeerError(
            f"a request's body of {len(body)} bytes is shorter than the {_LENGTH.size} of its head's length"
        )
    (length,) = _LENGTH.unpack_from(body)
    if length > min(MOST_HEAD_BYTES, len(body) - _LENGTH.size):
        raise PeerError(
            f"a request's body of {len(body)} bytes announces a head of {length}; it is cut, or its head is longer "
            f"than the {MOST_HEAD_BYTES} bytes that a head may have"
        )
    end = _LENGTH.size + length
    try:
        return Ask.model_validate_json(body[_LENGTH.size : end]), body[end:]
    except ValidationError as error:
        raise PeerError(f"a request's head is not one: {first_mistake(error)}") from None


def asked(pipeline: str, point: str, questions: Sequence[Question], *, timed: bool, needs: bool = False) -> Ask:
    """What a device asks about a payload; raises PeerError for a question that is too long to be sent."""
    try:
        found = tuple(AskedQuestion.of(question) for question in questions)
        return Ask(pipeline=pipeline, point=point, timed=timed, needs=needs, questions=found)
    except ValidationError as error:
        raise PeerError(f"a question cannot be sent to a server: {first_mistake(error)}") from None


def at_once(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """The questions about one payload, in order, as many in a part as one request takes."""
    begin = taken = 0
    for end, question in enumerate(questions):
        n_bytes = len(AskedQuestion.of(question).model_dump_json().encode())
        if end - begin == MOST_QUESTIONS or (end > begin and taken + n_bytes > _MOST_QUESTION_BYTES):
            yield questions[begin:end]
            begin, taken = end, 0
        taken += n_bytes
    yield questions[begin:]


def first_mistake(error: ValidationError) -> str:
    """The first mistake in a message: its place, what is there and what would be right."""
    mistake: Mapping[str, Any] = error.errors(include_url=False)[0]
    place = ".".join(map(str, mistake["loc"])) or "it"
    return f"{place} is {shown(mistake['input'])}: {mistake['msg']}"
