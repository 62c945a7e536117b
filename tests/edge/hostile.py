"""Hostile requests, and a valid one among them."""

import asyncio
import contextlib
import struct
import zlib
from urllib.parse import urlsplit

from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.edge import protocol
from harness.models.contract import Untimed
from harness.schemes.envelope import send, tag
from harness.schemes.fake import Fake, FakeModels, FakePoint

TOKEN = "a token of the tests alone"
MOST_BYTES = 1 << 20
PAGE = samples(book("test", 0)[:1], paired=False)[0]
_SENT = send(Fake.device_half(FakeModels(), FakePoint(levels=4)), PAGE, Untimed())
assert isinstance(_SENT, bytes)
PAYLOAD: bytes = _SENT
KEY = ("fake", "levels=4")


def body(payload: bytes = PAYLOAD, pipeline: str = KEY[0], point: str = KEY[1]) -> bytes:
    """A request's body."""
    return protocol.pack(protocol.asked(pipeline, point, [PAGE.question], timed=True), payload)


def head(length: object, identity: str, *more: str, token: str | None = TOKEN) -> bytes:
    """A request's head."""
    lines = ["POST /answer HTTP/1.1", "Host: server", f"{protocol.IDENTITY}: {identity}", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token is not None else []
    return "\r\n".join([*lines, *more, "", ""]).encode()


def bomb(n: int, length: int) -> bytes:
    """An envelope that announces ``n`` pictures of ``length`` bytes, its checksum right."""
    data = struct.pack("<BHB", 0x81, tag("fake"), n) + struct.pack("<I", length) * n
    return data + struct.pack("<I", zlib.crc32(data))


def hostile(identity: str) -> dict[str, tuple[bytes, set[int]]]:
    """By name: what is sent on a connection of its own, and the allowed statuses; 0 is a closed connection."""
    good = body()

    def whole(data: bytes, *more: str) -> bytes:
        return head(len(data), identity, *more) + data

    brackets = struct.pack("<I", 400_000) + b"[" * 400_000
    return {
        "no token": (head(len(good), identity, token=None) + good, {401}),
        "another token": (head(len(good), identity, token="x" * 26) + good, {401}),
        "a token in Latin-1": (head(len(good), identity, token="\u00e9" * 20) + good, {401, 400}),
        "huge": (head(10**12, identity), {413}),
        "a length of 5,000 digits": (head("9" * 5000, identity), {413, 400}),
        "a negative length": (head(-1, identity), {400}),
        "no length": (head("", identity), {400}),
        "chunked": (
            b"POST /answer HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer " + TOKEN.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 1000,
            {400},
        ),
        "truncated": (head(len(good), identity) + good[: len(good) // 2], {400, 408, 0}),
        "another model": (head(len(good), "0123456789abcdef") + good, {409}),
        "no identity": (head(len(good), "") + good, {409, 400}),
        "no request": (whole(b"GIF89a" * 20), {400}),
        "empty": (whole(b""), {400}),
        "a head of brackets": (whole(brackets), {400}),
        "a head of numbers": (whole(struct.pack("<I", 200_000) + b"9" * 200_000), {400}),
        "an unknown scheme": (whole(body(pipeline="x" * 900_000)), {400}),
        "an unknown point": (whole(body(point="levels=5")), {400}),
        "no payload": (whole(body(b"")), {422}),
        "a payload of noise": (whole(body(bytes(range(256)) * 40)), {422}),
        "a cut payload": (whole(body(PAYLOAD[:-1])), {422}),
        "another scheme's payload": (whole(body(b"\x01" + PAYLOAD[1:])), {422}),
        "a bomb of pictures": (whole(body(bomb(255, 0))), {422}),
        "a bomb of lengths": (whole(body(bomb(255, 2**32 - 1))), {422}),
        "an unknown path": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: s\r\n\r\n", {404}),
        "another method": (b"DELETE /answer HTTP/1.1\r\nHost: s\r\n\r\n", {405}),
        "no HTTP": (b"\x16\x03\x01" + bytes(range(256)), {400}),
        "a head without end": (b"GET /health HTTP/1.1\r\nX: " + b"y" * 200_000, {400, 0}),
        "half a head": (b"POST /answer HTTP/1.1\r\nHo", {0}),
        "nothing": (b"", {0}),
        "no body": (head(len(good), identity), {408, 0}),
    }  # fmt: skip


async def attack(address: str, data: bytes) -> tuple[int, bytes]:
    """The status of the response to some bytes, 0 if the connection is closed without one, and the whole response."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        said = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while b"\r\n\r\n" not in said or b'"}' not in said:
                    if not (more := await reader.read(1 << 16)):
                        break
                    said += more
        return (int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/") else 0), said
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
