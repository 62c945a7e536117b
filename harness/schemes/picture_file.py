"""The anatomy of picture files: JPEG segment by segment, lossy WebP chunk by chunk, other formats as a whole.

JPEG: ITU-T T.81, annex B. WebP: RFC 9649; its VP8 frame: RFC 6386, section 9.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, features

from harness.data.pictures import FORMATS, NotAPictureError, decode, header
from harness.errors import BitstreamError, DataError
from harness.schemes.anatomy import Anatomy

_TABLES = {0xDB: "quantisation", 0xC4: "Huffman tables"}
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_ALONE = frozenset({0x01, *_RESTARTS, _START, _END})
"""The markers that no length follows."""
_CHROMA = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}

_CHUNK = struct.Struct("<4sI")
_RIFF_BYTES = 12
_VP8_HEADER_BYTES = 10


def of_picture(body: bytes, codec: Path | None) -> Anatomy | None:  # noqa: ARG001
    """A picture file of :data:`harness.data.pictures.FORMATS`, or an AVIF file where this Pillow reads them.

    Raises BitstreamError for one that is not whole.
    """
    formats = (*FORMATS, "AVIF") if features.check("avif") else FORMATS
    try:
        found = header(body, formats=formats)
        decode(body, formats=formats)
    except NotAPictureError:
        return None
    except DataError as error:
        raise BitstreamError(f"a picture file cannot be read: {error}") from None
    kind, size = found.format, f"{found.width_px} x {found.height_px} px"
    match kind:
        case "JPEG" | "MPO":
            bits, chroma = _jpeg(body)
            return Anatomy(f"a JPEG file, {size}{chroma}", bits, [_jpeg_quality(body)])
        case "WEBP":
            bits = _webp(body)
            lossy = "coefficients" in bits
            notes = ["it does not say with which quality or method it was made"] if lossy else []
            return Anatomy(f"a WebP file, {size}", bits, notes)
    return Anatomy(f"a {kind} file, {size}", {"all": 8 * len(body)})


def _jpeg(body: bytes) -> tuple[dict[str, int], str]:
    """The bits of a whole JPEG file's parts, and how its chroma is sampled, in words."""
    n_bytes = dict.fromkeys(("headers", *_TABLES.values(), "coefficients"), 0)
    chroma, fill = "", 0
    for marker, before, start, end, coded in _segments(body):
        fill += start - before
        n_bytes[_TABLES.get(marker, "headers")] += end - start
        n_bytes["coefficients"] += coded
        if marker in _FRAME_HEADERS:
            chroma = _chroma(body[start:end])
    rest = len(body) - sum(n_bytes.values()) - fill
    n_bytes |= {part: n for part, n in (("fill", fill), ("after the picture", rest)) if n}
    return {part: 8 * n for part, n in n_bytes.items()}, chroma


def _segments(body: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Each segment's marker, the start of the fill before it, its own start and end, the length of the data after it.

    Any number of bytes 0xFF may stand before a marker (B.1.1.2), and decoders pass over other bytes too.
    """
    at = 0
    while (start := _marker(body, at)) < len(body):
        marker = body[start + 1]
        end = start + 2
        if marker not in _ALONE:
            end = min(end + max(2, int.from_bytes(body[end : end + 2], "big")), len(body))
        coded_end = _end_of_scan(body, end) if marker == _SCAN else end
        yield marker, at, start, end, coded_end - end
        if marker == _END:
            return
        at = coded_end


def _marker(body: bytes, at: int) -> int:
    """Where the next marker's last 0xFF is: before a byte that is neither 0 nor 0xFF."""
    while (at := body.find(b"\xff", at)) >= 0 and at + 1 < len(body):
        if body[at + 1] not in (0, 0xFF):
            return at
        at += 1
    return len(body)


def _end_of_scan(body: bytes, at: int) -> int:
    """Where what follows the coded data starts, 0xFF that fill up included; restarts are among the data."""
    while (marker := _marker(body, at)) < len(body):
        if body[marker + 1] not in _RESTARTS:
            while body[marker - 1] == 0xFF and marker > at:
                marker -= 1
            return marker
        at = marker + 2
    return len(body)


def _chroma(frame: bytes) -> str:
    """The sampling in a frame header: marker 2, length 2, precision 1, height 2, width 2, n 1, then 3 a component."""
    factors = [(frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(10, len(frame) - 2, 3)]
    if len(factors) != 3 or set(factors[1:]) != {(1, 1)} or factors[0] not in _CHROMA:
        return ""
    return f", chroma {_CHROMA[factors[0]]}"


def _jpeg_quality(body: bytes) -> str:
    """The quality at which libjpeg writes a file's tables, found by letting it write them."""
    tables = _jpeg_tables(body)
    for quality in range(1, 101):
        written = io.BytesIO()
        Image.new("RGB" if len(tables) > 1 else "L", (8, 8)).save(written, "JPEG", quality=quality)
        if _jpeg_tables(written.getvalue()) == tables:
            return f"its quantisation tables are libjpeg's at quality {quality}"
    return "its quantisation tables are not libjpeg's at any quality"


def _jpeg_tables(body: bytes) -> dict[int, list[int]]:
    with Image.open(io.BytesIO(body), formats=("JPEG",)) as opened:
        tables: dict[int, list[int]] = opened.quantization  # type: ignore[attr-defined]
        return tables


def _webp(body: bytes) -> dict[str, int]:
    """The bits of a WebP file's parts: of a VP8 frame, its modes and its coefficients; of other chunks, their data."""
    n_bytes = {"container": 0}
    at = _RIFF_BYTES
    while at + _CHUNK.size <= len(body):
        name, size = _CHUNK.unpack_from(body, at)
        start = at + _CHUNK.size
        data = body[start : start + size]
        if name == b"VP8 " and len(data) >= _VP8_HEADER_BYTES:
            # 19 bits of the frame's tag: the bytes of the partition with the modes of all macroblocks.
            modes = min(int.from_bytes(data[:3], "little") >> 5, len(data) - _VP8_HEADER_BYTES)
            parts = {
                "frame header": _VP8_HEADER_BYTES,
                "modes": modes,
                "coefficients": len(data) - _VP8_HEADER_BYTES - modes,
            }
        else:
            parts = {name.decode("latin-1").strip(): len(data)}
        for part, n in parts.items():
            n_bytes[part] = n_bytes.get(part, 0) + n
        at = start + size + size % 2
    n_bytes["container"] = len(body) - sum(n_bytes.values())
    return {part: 8 * n for part, n in n_bytes.items()}
