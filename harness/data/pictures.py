"""Pictures from bytes: one opener for benchmarks, payloads and training, so that both sides see the same pixels.

The result is 8-bit RGB without metadata, whatever the file holds:

    format        one of FORMATS; of an animation or a file of several pages, the first picture
    orientation   applied, as EXIF or XMP has it (of a PNG's text chunks, only those before its pixels)
    transparency  composed on white
    16 bits       the high byte of each value, for grey and colour alike; 12-bit grey likewise
    floats        0 to 1 becomes 0 to 255; other floats, and integers of more than 16 bits, are refused
    CMYK, YCCK    converted by Pillow's plain formula
    profiles      colour profiles (ICC, gamma) are not applied: values are taken as sRGB

No format is read that starts an interpreter (PostScript), and none that only some builds of Pillow read (AVIF).
"""

import contextlib
import dataclasses
import hashlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.errors import DataError

Grey = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats, in Pillow's names, that pictures come in; its JPEG reads MPO too."""

MAX_PIXELS = 2**26
"""The largest picture of a benchmark or a training set, in pixels: 8192 x 8192."""

PAYLOAD_MAX_PIXELS = 16_000_000
"""The largest picture that a server decodes from a payload, in pixels, by default."""

_DIGEST_DIGITS = 20
_FILTERS = threading.Lock()
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})
_TIFF_WIDTH, _TIFF_LENGTH, _TIFF_BITS, _TIFF_PHOTOMETRIC = 256, 257, 258, 262
_WHITE_IS_ZERO = 0
_SCAN = b"\xff\xda"
_MOST_SCANS = 100
_PNG_DEPTH_AT = 24


class NotAPictureError(DataError):
    """Bytes that do not begin as a picture of the requested formats."""


@dataclasses.dataclass(frozen=True, slots=True)
class PictureHeader:
    """A picture file's header: Pillow's name of its format, and its size as shown (px)."""

    format: str
    width_px: int
    height_px: int


def digest(files: Sequence[bytes]) -> str:
    """What identifies one or several picture files, in order: 20 hexadecimal digits of a SHA-256 of their bytes.

    Of one file it is the SHA-256 of its bytes; of several, that of their SHA-256 digests put together.
    """
    digests = [hashlib.sha256(file) for file in files]
    found = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(one.digest() for one in digests))
    return found.hexdigest()[:_DIGEST_DIGITS]


def header(file: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> PictureHeader:
    """The header of a picture file; no pixel is decoded.

    Raises DataError where it is not of one of ``formats``, is damaged before its pixels, or has more than
    ``max_pixels``. A PNG's checksums are verified to its end.
    """
    with _opened(file, formats, max_pixels) as opened:
        width, height = opened.size
        if opened.format == "TIFF":
            width, height = opened.tag_v2[_TIFF_WIDTH], opened.tag_v2[_TIFF_LENGTH]  # type: ignore[attr-defined]
        if _orientation(opened, file) in _ON_ITS_SIDE:
            width, height = height, width
        if opened.format == "PNG" and not _says_more_later(file):
            opened.verify()
        return PictureHeader(str(opened.format), width, height)


def decode(file: bytes, *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in a file as 8-bit RGB, as the module's table has it.

    The limit is checked before anything is decoded. Raises DataError, in one sentence without the file's name, where
    the file is not a whole picture of one of ``formats`` with at most ``max_pixels``.
    """
    with _opened(file, formats, max_pixels) as opened:
        if "progressive" in opened.info and (scans := file.count(_SCAN)) > _MOST_SCANS:
            # A few bytes make the decoder go over the whole picture once more.
            raise DataError(f"it has {scans} scans; a JPEG file of more than {_MOST_SCANS} is not decoded")
        # Pillow itself turns a TIFF when it loads it, and reads its metadata again.
        is_tiff = opened.format == "TIFF"
        orientation = 1 if is_tiff else _orientation(opened, file)
        with _unwarned() if is_tiff else contextlib.nullcontext():
            opened.load()
        image = _rgb(opened, file)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
        # Pillow's encoders look here for comments, profiles and resolutions.
        image.info = {}
        return image


@contextlib.contextmanager
def _opened(file: bytes, formats: Sequence[str], max_pixels: int) -> Iterator[Image.Image]:
    """A picture file with its header read; any error until it is closed is a DataError."""
    try:
        with _unwarned():
            picture = Image.open(io.BytesIO(file), formats=list(formats))
        with picture as opened:
            if opened.width * opened.height > max_pixels:
                raise DataError(
                    f"it has {opened.width} x {opened.height} px, more than the {max_pixels} px that are read here"
                )
            yield opened
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"it has more than the {max_pixels} px that are read here") from None
    except UnidentifiedImageError:
        wanted = f"{', '.join(formats[:-1])} or {formats[-1]}" if len(formats) > 1 else formats[0]
        raise NotAPictureError(f"its {len(file)} bytes are not a {wanted} picture, or its header is damaged") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"its {len(file)} bytes are not a whole picture: {said:.160}") from None


def _says_more_later(file: bytes) -> bool:
    """Whether a PNG may have its EXIF after its pixels, where Pillow finds it only once they are loaded."""
    return b"eXIf" in file


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Without Pillow's warnings: of sizes that are refused here or allowed, of metadata that are not used.

    Python's filters belong to the process, so one thread at a time changes them.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(opened: Image.Image, file: bytes) -> int:
    """How a picture is to be turned, from 1 (not at all) to 8, as EXIF numbers it."""
    if opened.format == "PNG" and _says_more_later(file):
        opened.load()
    try:
        with _unwarned():
            # A PNG's own getexif() decodes every picture that has no such chunk.
            found = Image.Image.getexif(opened).get(_ORIENTATION, 1)
    except Exception:  # unreadable EXIF is ignored; the picture can be read without it
        return 1
    return found if isinstance(found, int) else 1


def _rgb(opened: Image.Image, file: bytes) -> Image.Image:
    if opened.mode == "I" or opened.mode.startswith("I;16"):
        return Image.fromarray(_from_integers(opened)).convert("RGB")
    if opened.mode == "F":
        return Image.fromarray(_from_floats(opened)).convert("RGB")
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    if opened.mode == "RGB" and opened.format == "PNG" and file[_PNG_DEPTH_AT] == 16:
        raise DataError("it names one 16-bit colour as transparent, which is not read; save it with an alpha channel")
    shown = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")


def _from_integers(opened: Image.Image) -> Grey:
    """Grey values of 9 to 16 bits as 8."""
    bits = opened.tag_v2[_TIFF_BITS][0] if opened.format == "TIFF" else 16  # type: ignore[attr-defined]
    signed = opened.format == "TIFF" and opened.mode == "I"
    if signed or not 8 <= bits <= 16:
        raise DataError(f"its values are {'signed or ' if bits <= 16 else ''}{bits}-bit integers; save it with 8 or 16")
    values = np.asarray(opened)
    grey = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
    grey = _white_at_top(opened, grey)
    if (key := opened.info.get("transparency")) is not None:
        grey[values == key] = 255
    return grey


def _from_floats(opened: Image.Image) -> Grey:
    """Grey values from 0 to 1 as 8 bits."""
    values = np.asarray(opened)
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError(
            f"its values are floats from {values.min():g} to {values.max():g}; 0 to 1 are read, or save it with 8 bits"
        )
    return _white_at_top(opened, (values * 255).round().astype(np.uint8))


def _white_at_top(opened: Image.Image, grey: Grey) -> Grey:
    """Grey values whose highest is white: Pillow turns a TIFF's values over in 8 bits only."""
    if opened.format == "TIFF" and opened.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        return np.uint8(255) - grey
    return grey
