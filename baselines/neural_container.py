"""The file of a neural codec: the strings of the entropy coder, and what is needed to read them.

    magic      4 bytes   "NIC" and the version, 1
    model      4 bytes   the first bytes of the SHA-256 of the weights and tables
    width      varint    px
    height     varint    px
    lengths    varints   one for each string, bytes
    strings
    checksum   4 bytes   CRC-32 of all that stands before it, little-endian

A varint has seven bits a byte, the lowest first; the top bit says that another byte follows.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Sequence

from harness.data.pictures import PAYLOAD_MAX_PIXELS
from harness.errors import BitstreamError

MAGIC = b"NIC\x01"
MODEL_BYTES = 4
MAX_SIDE_PX = 2**16 - 1
MAX_PIXELS = PAYLOAD_MAX_PIXELS
"""The largest picture that a header may claim by default: nothing larger is encoded or allocated."""

_CHECKSUM_BYTES = 4
_SHORTEST = len(MAGIC) + MODEL_BYTES + 2 + _CHECKSUM_BYTES
_VARINT_BYTES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class CodedPicture:
    """What a file holds: the picture's size in pixels, and the coder's strings in the codec's own order."""

    width_px: int
    height_px: int
    strings: tuple[bytes, ...]


def fits(width_px: int, height_px: int, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether a picture of this size can be put into a file."""
    return 0 < width_px <= MAX_SIDE_PX and 0 < height_px <= MAX_SIDE_PX and width_px * height_px <= max_pixels


def pack(model: bytes, picture: CodedPicture) -> bytes:
    """The file; ``model`` are MODEL_BYTES bytes that name the weights."""
    assert len(model) == MODEL_BYTES
    assert fits(picture.width_px, picture.height_px, MAX_SIDE_PX**2)
    numbers = (picture.width_px, picture.height_px, *map(len, picture.strings))
    body = b"".join((MAGIC, model, *map(_varint, numbers), *picture.strings))
    return body + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")


def unpack(body: bytes, model: bytes, n_strings: int, max_pixels: int = MAX_PIXELS) -> CodedPicture:
    """What is in a file; raises BitstreamError unless it is whole, of this model, and of ``n_strings`` strings.

    So does a claim of more than ``max_pixels``. The checksum is verified before anything that it covers is read;
    :mod:`baselines.rans` handles forged ones.
    """
    if len(body) < _SHORTEST:
        raise BitstreamError(f"a payload of {len(body)} bytes is too short for a neural codec's file")
    if body[: len(MAGIC)] != MAGIC:
        raise BitstreamError(f"a payload of {len(body)} bytes starts with {body[:4].hex()}, not with {MAGIC.hex()}")
    content, checksum = body[:-_CHECKSUM_BYTES], body[-_CHECKSUM_BYTES:]
    if zlib.crc32(content) != int.from_bytes(checksum, "little"):
        raise BitstreamError(f"a payload of {len(body)} bytes is damaged: its checksum does not match")
    start = len(MAGIC) + MODEL_BYTES
    if (found := content[len(MAGIC) : start]) != model:
        raise BitstreamError(f"a payload was made with the model {found.hex()}, and this side has {model.hex()}")
    (width_px, height_px, *lengths), start = _varints(content, start, 2 + n_strings)
    if not fits(width_px, height_px, max_pixels):
        raise BitstreamError(
            f"a payload claims a picture of {width_px} x {height_px} px, which is {width_px * height_px} px; its sides "
            f"are 1 to {MAX_SIDE_PX} px, and it has at most {max_pixels} px"
        )
    if sum(lengths) != len(content) - start:
        raise BitstreamError(f"a payload claims strings of {sum(lengths)} bytes and has {len(content) - start}")
    return CodedPicture(width_px, height_px, tuple(_split(content[start:], lengths)))


def _split(joined: bytes, lengths: Sequence[int]) -> Iterable[bytes]:
    start = 0
    for length in lengths:
        yield joined[start : start + length]
        start += length


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(content: bytes, start: int, count: int) -> tuple[list[int], int]:
    """The next ``count`` numbers, and where they end."""
    numbers = []
    for _ in range(count):
        number = 0
        for place in range(_VARINT_BYTES):
            if start + place >= len(content):
                raise BitstreamError(f"a payload ends within its header of {count} numbers")
            octet = content[start + place]
            number |= (octet & 0x7F) << (7 * place)
            if octet < 0x80:
                break
        else:
            raise BitstreamError(f"a payload has a number of more than {_VARINT_BYTES} bytes in its header")
        start += place + 1
        numbers.append(number)
    return numbers, start
