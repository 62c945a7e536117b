"""The envelope in which every payload crosses the link, whatever the scheme.

All numbers are little-endian:

    version u8: 1, and 0x80 more where a checksum ends the envelope
    kind    u16: the low bits of CRC-32 of the kind's name
    n       u8: how many pictures, 1 to 255
    length  u32, n times: the bytes of each picture's body
    bodies
    checksum u32: CRC-32 of all bytes before it; absent where each body carries a checksum of its own

So a picture's envelope adds 8 bytes, or 12 with the checksum, and 4 for each further picture.
"""

import functools
import numbers
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from harness import catalog
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError, DataError, SchemeError, shown
from harness.models.contract import Request
from harness.schemes.contract import Answer, Clock, DeviceHalf, Payload

Made = TypeVar("Made")

VERSION = 1
_CHECKSUM_FOLLOWS = 0x80
_HEAD = struct.Struct("<BHB")
_LENGTH, _CHECKSUM = struct.Struct("<I"), struct.Struct("<I")
_MOST_PICTURES = 255
_MOST_TOKENS = 2**31 - 1


def send(half: DeviceHalf, sample: Sample, clock: Clock, *, kind: str | None = None) -> bytes | Answer:
    """What a device half sends of a sample, in its envelope, whose making ends the stage ``encode``; or its answer.

    Raises SchemeError for anything else, and for a payload of another ``kind``, if one is given.
    """
    if not callable(half):
        raise SchemeError(f"the device half is {shown(half)}; device_half must return a function of a sample")
    made = half(sample, clock)
    if isinstance(made, Answer):
        refuse_answer(made)
        return made
    _refuse_payload(made, len(sample.files), kind)
    with clock.stage("encode"):
        return pack(made)


def receive(
    serve: Callable[[Payload, Sequence[Question], Clock], list[Made]],
    data: bytes,
    questions: Sequence[Question],
    clock: Clock,
    *,
    kind: str,
) -> list[Made]:
    """What a server half makes of an envelope and the questions about it; opening it begins the stage ``decode``.

    Raises BitstreamError for what is no whole envelope of this kind with as many pictures as the questions show, and
    SchemeError for a half that returns anything but an answer, or a request, for each question.
    """
    if not callable(serve):
        raise SchemeError(f"the server half is {shown(serve)}; server_half must return a function of a payload")
    with clock.stage("decode"):
        payload = unpack(data, kind)
        if wrong := [q.pictures for q in questions if q.pictures != len(payload.bodies)]:
            raise BitstreamError(f"a payload of {len(payload.bodies)} pictures came with a question about {wrong[0]}")
    made = serve(payload, questions, clock)
    if not isinstance(made, list | tuple) or len(made) != len(questions):
        what = f"{len(made)} answers" if isinstance(made, list | tuple) else shown(made)
        raise SchemeError(
            f"the server half returned {what}; a list with one answer for each question is expected, here "
            f"{len(questions)}"
        )
    for one in made:
        if not isinstance(one, Request):
            refuse_answer(one)
    return made


def _refuse_payload(made: object, n_pictures: int, kind: str | None) -> None:
    """Raises SchemeError for what is not the payload of so many pictures, DataError for more than an envelope takes."""
    if n_pictures > _MOST_PICTURES:
        raise DataError(f"shows {n_pictures} pictures; {_MOST_PICTURES} are the most that are sent at once")
    if not isinstance(made, Payload):
        raise SchemeError(
            f"the device half returned {shown(made)}; a Payload is expected, or an Answer if it sends none"
        )
    if not isinstance(made.kind, str) or kind not in (None, made.kind):
        wanted = "a text" if kind is None else repr(kind)
        raise SchemeError(f"the device half sends a payload of the kind {shown(made.kind)}; {wanted} is expected")
    if not isinstance(made.bodies, tuple | list):
        raise SchemeError(f"a payload's bodies are {shown(made.bodies)}; a tuple with one for each picture is expected")
    if wrong := [body for body in made.bodies if not isinstance(body, bytes)]:
        raise SchemeError(f"a payload's body is of type {type(wrong[0]).__name__}; bytes are expected")
    if len(made.bodies) != n_pictures:
        raise SchemeError(
            f"the payload has {len(made.bodies)} bodies; one for each picture is expected, here {n_pictures}"
        )


def refuse_answer(made: object) -> None:
    """Raises SchemeError for what is no answer with a text and three numbers of tokens, or cannot be stored."""
    if not isinstance(made, Answer):
        raise SchemeError(f"a half answered {shown(made)}; an Answer is expected")
    counts: tuple[object, ...] = (made.visual_tokens, made.prompt_tokens, made.answer_tokens)
    if not isinstance(made.text, str) or not all(map(_is_count, counts)):
        raise SchemeError(f"a half answered {shown(made)}; a text and three numbers of tokens are expected")
    try:
        made.text.encode()
    except UnicodeEncodeError as error:
        place, found = error.start + 1, made.text[error.start]
        raise SchemeError(
            f"a half answered {shown(made)}; its character {place} is {found!r}, which is no text"
        ) from None


def _is_count(n: object) -> bool:
    return type(n) is not bool and isinstance(n, numbers.Integral) and 0 <= int(n) <= _MOST_TOKENS


def pack(payload: Payload) -> bytes:
    """A payload in its envelope."""
    n = len(payload.bodies)
    assert 1 <= n <= _MOST_PICTURES, f"{n} pictures are not sent at once"
    head = _HEAD.pack(VERSION | (0 if payload.checked else _CHECKSUM_FOLLOWS), tag(payload.kind), n)
    data = head + b"".join(_LENGTH.pack(len(body)) for body in payload.bodies) + b"".join(payload.bodies)
    return data if payload.checked else data + _CHECKSUM.pack(zlib.crc32(data))


def unpack(data: bytes, kind: str) -> Payload:
    """The payload of this kind in an envelope; raises BitstreamError for anything else."""
    found_tag, bodies, checked = opened(data)
    if found_tag != tag(kind):
        named = _kinds().get(found_tag, "of no scheme of the catalog")
        raise BitstreamError(f"a payload's kind is {found_tag:#06x} ({named}); {kind} has {tag(kind):#06x}")
    return Payload(kind, bodies, checked)


def opened(data: bytes) -> tuple[int, tuple[bytes, ...], bool]:
    """Any envelope's kind as a number, its bodies, and whether they carry checksums; raises BitstreamError."""
    if len(data) < _HEAD.size:
        raise BitstreamError(f"a payload of {len(data)} bytes is shorter than the {_HEAD.size} of its envelope's head")
    version, found_tag, n = _HEAD.unpack_from(data)
    if version & ~_CHECKSUM_FOLLOWS != VERSION:
        raise BitstreamError(f"a payload's envelope has version {version & 0x7F}; this harness reads {VERSION}")
    begin = _HEAD.size + n * _LENGTH.size
    end = len(data) - (_CHECKSUM.size if version & _CHECKSUM_FOLLOWS else 0)
    lengths = struct.unpack_from(f"<{n}I", data, _HEAD.size) if begin <= end else ()
    if not n or begin + sum(lengths) != end or len(lengths) != n:
        raise BitstreamError(
            f"a payload of {len(data)} bytes announces {n} pictures of {sum(lengths)} bytes in its envelope; it is cut "
            "or damaged"
        )
    if version & _CHECKSUM_FOLLOWS and zlib.crc32(data[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise BitstreamError(f"a payload of {len(data)} bytes does not match its envelope's checksum; it is damaged")
    bodies = []
    for length in lengths:
        bodies.append(data[begin : begin + length])
        begin += length
    return found_tag, tuple(bodies), not version & _CHECKSUM_FOLLOWS


def is_one(data: bytes) -> bool:
    """Whether some bytes begin as an envelope does; no scheme's body does."""
    return bool(data) and data[0] & ~_CHECKSUM_FOLLOWS == VERSION


@functools.cache
def _kinds() -> Mapping[int, str]:
    """The names of the kinds of the catalog's schemes."""
    kinds = (catalog.load("scheme", name, catalog.SCHEMES).kind for name in catalog.SCHEMES)
    return {tag(kind): kind for kind in kinds}


def tag(kind: str) -> int:
    """A kind's number in the envelope."""
    return zlib.crc32(kind.encode()) & 0xFFFF
