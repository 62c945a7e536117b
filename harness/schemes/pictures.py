"""Payloads of questions about several pictures: each is coded as if it were alone, one after the other.

    magic "PICS" | n u8 | n x size u32, little-endian | n bodies

What is sent of a single picture is its body as it is, without a byte more. No scheme's body begins with the magic.
"""

import itertools
import struct
from collections.abc import Sequence

from harness.errors import BitstreamError

_MAGIC = b"PICS"
_MOST = 255


def pack(bodies: Sequence[bytes]) -> bytes:
    """One to 255 pictures' bodies as the body of a payload."""
    if len(bodies) == 1:
        return bodies[0]
    assert 1 < len(bodies) <= _MOST, f"{len(bodies)} pictures are not sent at once"
    sizes = struct.pack(f"<B{len(bodies)}I", len(bodies), *map(len, bodies))
    return _MAGIC + sizes + b"".join(bodies)


def unpack(body: bytes) -> list[bytes]:
    """The bodies of the pictures in a payload; raises BitstreamError where they do not fill it."""
    if not body.startswith(_MAGIC):
        return [body]
    start = len(_MAGIC) + 1
    n = body[start - 1] if len(body) >= start else 0
    first = start + 4 * n
    if n < 2 or len(body) < first:
        raise BitstreamError(
            f"a payload of {len(body)} bytes announces {n} pictures; there are two or more, with sizes"
        )
    ends = list(itertools.accumulate(struct.unpack_from(f"<{n}I", body, start), initial=first))
    if ends[-1] != len(body):
        raise BitstreamError(f"a payload of {len(body)} bytes announces {n} pictures that end at byte {ends[-1]}")
    return [body[begin:end] for begin, end in itertools.pairwise(ends)]
