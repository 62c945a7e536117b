"""Lossy WebP through Pillow (libwebp)."""

from typing import ClassVar

from PIL import Image
from pydantic import Field

from harness.schemes.image_codec import ImageCodec, ImagePoint, picture, written

MAX_SIDE_PX = 16_383
"""The format's limit: 14 bits a side."""


class WebPPoint(ImagePoint):
    """libwebp's quality, and its ``method``: how much time it takes to find fewer bytes (0 fastest, 6 smallest).

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
        """The picture as a WebP file, nothing of the original file's metadata; raises DataError for one too large."""
        # Some versions of Pillow take metadata from the picture where none is given.
        bare = {"icc_profile": b"", "exif": b"", "xmp": b""}
        return written(image, "WEBP", MAX_SIDE_PX, quality=self.point.quality, method=self.point.method, **bare)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a WebP file; raises BitstreamError where there is none."""
        return picture(body, ("WEBP",), self.max_pixels)
