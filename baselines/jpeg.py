"""JPEG through Pillow (libjpeg-turbo)."""

from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field

from harness.schemes.image_codec import ImageCodec, ImagePoint, picture, written

MAX_SIDE_PX = 65_500
"""libjpeg's limit; the format itself has room for 65,535."""


class JpegPoint(ImagePoint):
    """Pillow's quality (1 to 95; above that libjpeg turns parts of the compression off) and chroma subsampling."""

    quality: int = Field(ge=1, le=95)
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"


class Jpeg(ImageCodec):
    """Baseline sequential JPEG with the standard Huffman tables."""

    kind = "jpeg"
    Point: ClassVar[type[ImagePoint]] = JpegPoint
    point: JpegPoint

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a JPEG file, nothing of the original file's metadata; raises DataError for one too large."""
        # Pillow takes the comment from the picture where none is given.
        options = {"quality": self.point.quality, "subsampling": self.point.subsampling, "comment": b""}
        return written(image, "JPEG", MAX_SIDE_PX, **options)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a JPEG file; raises BitstreamError where there is none."""
        return picture(body, ("JPEG",), self.max_pixels)
