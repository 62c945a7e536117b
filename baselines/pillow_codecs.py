"""JPEG, WebP, AVIF and JPEG XL through Pillow: libjpeg-turbo, libwebp, libavif, and libjxl if its plugin is installed.

All encode and decode on one thread, and none sends metadata of the original file.
"""

import functools
import importlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image, features
from pydantic import Field

from harness.data.pictures import PAYLOAD_MAX_PIXELS
from harness.errors import BitstreamError, UnavailableError
from harness.schemes.image_codec import ImageCodec, ImagePoint, picture, written

Chroma = Literal["4:4:4", "4:2:2", "4:2:0"]

JPEG_MAX_SIDE_PX = 65_500
"""libjpeg's limit; the format itself has room for 65,535."""
WEBP_MAX_SIDE_PX = 16_383
"""The format's limit: 14 bits a side."""
AVIF_MAX_SIDE_PX = 65_536
"""AV1's limit: 16 bits a side."""
JXL_MAX_SIDE_PX = 2**18
"""The limit of the format's level 5."""


class JpegPoint(ImagePoint):
    """Pillow's quality (1 to 95; above that libjpeg turns parts of the compression off) and chroma subsampling.

    ``optimize`` makes Huffman tables for the picture in place of the standard's; ``progressive`` writes it in several
    scans, whose tables are always the picture's own.
    """

    quality: int = Field(ge=1, le=95)
    subsampling: Chroma = "4:2:0"
    optimize: bool = False
    progressive: bool = False


class Jpeg(ImageCodec):
    """JPEG: baseline sequential with the standard Huffman tables, unless the point says otherwise."""

    kind = "jpeg"
    Point: ClassVar[type[ImagePoint]] = JpegPoint
    point: JpegPoint

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a JPEG file; raises DataError for one too large."""
        how = self.point.model_dump(include={"quality", "subsampling", "optimize", "progressive"})
        # Pillow takes the comment from the picture where none is given.
        return written(image, "JPEG", JPEG_MAX_SIDE_PX, comment=b"", **how)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a JPEG file; raises BitstreamError where there is none."""
        return picture(body, ("JPEG",), self.max_pixels)


class WebPPoint(ImagePoint):
    """libwebp's quality, and its ``method``: how much time it spends to save bytes (0 fastest, 6 smallest).

    Encoding time differs eightfold between methods, so a WebP latency without its method says little.
    """

    quality: int = Field(ge=0, le=100)
    method: int = Field(default=4, ge=0, le=6)


class WebP(ImageCodec):
    """Lossy WebP; its chroma is always 4:2:0."""

    kind = "webp"
    Point: ClassVar[type[ImagePoint]] = WebPPoint
    point: WebPPoint

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a WebP file; raises DataError for one too large."""
        # Some versions of Pillow take metadata from the picture where none is given.
        bare = {"icc_profile": b"", "exif": b"", "xmp": b""}
        return written(image, "WEBP", WEBP_MAX_SIDE_PX, quality=self.point.quality, method=self.point.method, **bare)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a WebP file; raises BitstreamError where there is none."""
        return picture(body, ("WEBP",), self.max_pixels)


class AvifPoint(ImagePoint):
    """libavif's quality, its ``speed`` (0 smallest, 10 fastest), and chroma subsampling."""

    quality: int = Field(ge=0, le=100)
    speed: int = Field(default=6, ge=0, le=10)
    subsampling: Chroma = "4:2:0"


class Avif(ImageCodec):
    """AVIF with libaom's encoder."""

    kind = "avif"
    Point: ClassVar[type[ImagePoint]] = AvifPoint
    point: AvifPoint

    def __init__(self, point: ImagePoint, device: str = "cpu", max_pixels: int = PAYLOAD_MAX_PIXELS) -> None:
        """Raises UnavailableError where this build of Pillow has no AVIF."""
        super().__init__(point, device, max_pixels)
        _avif().DEFAULT_MAX_THREADS = 1

    def encode(self, image: Image.Image) -> bytes:
        """The picture as an AVIF file; raises DataError for one too large."""
        point = self.point
        how = {"quality": point.quality, "speed": point.speed, "subsampling": point.subsampling, "codec": "aom"}
        bare = {"icc_profile": b"", "exif": b"", "xmp": b""}
        return written(image, "AVIF", AVIF_MAX_SIDE_PX, max_threads=1, **how, **bare)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in an AVIF file; raises BitstreamError where there is none."""
        return picture(body, ("AVIF",), self.max_pixels)

    @classmethod
    def files(cls, backbone: str, point: AvifPoint) -> dict[str, Path]:
        """Those of every image codec; raises UnavailableError as the halves do."""
        _avif()
        return super().files(backbone, point)


class JpegXLPoint(ImagePoint):
    """libjxl's quality, below that of its lossless mode, and its ``effort``: 1 fastest, 9 smallest."""

    quality: int = Field(ge=0, le=99)
    effort: int = Field(default=7, ge=1, le=9)


class JpegXL(ImageCodec):
    """JPEG XL as a bare codestream."""

    kind = "jxl"
    Point: ClassVar[type[ImagePoint]] = JpegXLPoint
    point: JpegXLPoint

    def __init__(self, point: ImagePoint, device: str = "cpu", max_pixels: int = PAYLOAD_MAX_PIXELS) -> None:
        """Raises UnavailableError where Pillow's plugin for JPEG XL is not installed."""
        super().__init__(point, device, max_pixels)
        _jxl().DECODE_THREADS = 0

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a codestream; raises DataError for one too large."""
        return written(
            image, "JXL", JXL_MAX_SIDE_PX, quality=self.point.quality, effort=self.point.effort, num_threads=0, exif=b""
        )

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a codestream; raises BitstreamError where there is none.

        The plugin decodes a picture as soon as it is opened, so its size is read here first.
        """
        width_px, height_px = jxl_size(body)
        if width_px * height_px > self.max_pixels:
            raise BitstreamError(
                f"a payload claims a picture of {width_px} x {height_px} px; at most {self.max_pixels} px are decoded"
            )
        return picture(body, ("JXL",), self.max_pixels)

    @classmethod
    def files(cls, backbone: str, point: JpegXLPoint) -> dict[str, Path]:
        """Those of every image codec; raises UnavailableError as the halves do."""
        _jxl()
        return super().files(backbone, point)


JXL_CODESTREAM = b"\xff\x0a"
_JXL_SIZE_BYTES = 12
"""Every codestream is longer: signature and size may take this many bytes, and a frame follows."""
_JXL_SIZE_BITS = (9, 13, 18, 30)
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def jxl_size(body: bytes) -> tuple[int, int]:
    """Width and height (px) in the SizeHeader of a bare JPEG XL codestream (ISO/IEC 18181-1, D.2).

    Raises BitstreamError for anything else.
    """
    if not body.startswith(JXL_CODESTREAM):
        raise BitstreamError(
            f"a payload of {len(body)} bytes is not a bare JPEG XL codestream, which begins with FF 0A"
        )
    if len(body) < _JXL_SIZE_BYTES:
        raise BitstreamError(f"a payload of {len(body)} bytes ends before its picture")
    # The header's bits are read from each byte's lowest upwards; it is at most 2 * (1 + 2 + 30) + 3 of them long.
    bits = int.from_bytes(body[2:12], "little")

    def take(n: int) -> int:
        nonlocal bits
        value = bits & ((1 << n) - 1)
        bits >>= n
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take(_JXL_SIZE_BITS[take(2)])

    height_px = side()
    ratio = take(3)
    if ratio == 0:
        return side(), height_px
    of_width, of_height = _JXL_RATIOS[ratio - 1]
    return height_px * of_width // of_height, height_px


@functools.cache
def _avif() -> Any:
    """Pillow's module for AVIF; raises UnavailableError where this build has none."""
    if not features.check("avif"):
        raise UnavailableError("avif: this build of Pillow has no AVIF; its wheels have it from version 11.3 on")
    return importlib.import_module("PIL.AvifImagePlugin")


@functools.cache
def _jxl() -> Any:
    """The plugin's module; raises UnavailableError where it is not installed."""
    try:
        return importlib.import_module("pillow_jxl.JpegXLImagePlugin")
    except ImportError:
        raise UnavailableError("jxl: JPEG XL is not installed; pip install 'tofc-harness[jxl]' installs it") from None
