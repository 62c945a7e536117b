"""Schemes that send a compressed picture: the server decodes it and does all the rest."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from harness.data.pictures import PAYLOAD_MAX_PIXELS, decode
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError, DataError
from harness.models.contract import Backbone
from harness.schemes import pictures
from harness.schemes.contract import Answer, Clock, MergeTo, OperatingPoint, Payload
from harness.schemes.server_half import FROM_PIXELS, answers, tokens_of_image


class ImagePoint(OperatingPoint):
    """What every image codec declares besides its own quality: ``merge_to``, or null to keep all features."""

    merge_to: MergeTo | None = None


class ImageCodec(ABC):
    """A scheme whose payload is a picture; a codec overrides :meth:`encode` and :meth:`decode`.

    The paper gives every image codec the same feature merging as TOFC (V-B1), on the server.
    """

    kind: ClassVar[str]
    Point: ClassVar[type[ImagePoint]]
    device_stages: ClassVar[tuple[str, ...]] = ("encode",)
    server_stages: ClassVar[tuple[str, ...]] = ("decode", *FROM_PIXELS)

    def __init__(self, backbone: Backbone, point: ImagePoint) -> None:
        self.backbone = backbone
        self.point = point

    @abstractmethod
    def encode(self, image: Image.Image) -> bytes:
        """The picture as the bytes that are sent."""

    @abstractmethod
    def decode(self, body: bytes) -> Image.Image:
        """The picture in the bytes, 8-bit RGB; raises BitstreamError where there is none."""

    def on_device(self, sample: Sample, clock: Clock) -> Payload:
        """Encodes the camera's pixels; reading the sample's file is not part of any scheme, and is not timed."""
        bodies = []
        for image in sample.images():
            with sample.at_fault(), clock.stage("encode"):
                bodies.append(self.encode(image))
        return Payload(self.kind, pictures.pack(bodies))

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """Decodes, then answers from the decoded pictures as if they were the originals."""
        tokens = []
        for body in pictures.unpack(payload.body):
            with clock.stage("decode"):
                image = self.decode(body)
            tokens.append(tokens_of_image(self.backbone, image, self.point.merge_to, clock))
        return answers(self.backbone, tokens, questions, clock)


def picture(body: bytes, formats: tuple[str, ...], max_pixels: int = PAYLOAD_MAX_PIXELS) -> Image.Image:
    """The picture in a file's bytes, as :func:`harness.data.pictures.decode` gives it to the device half too.

    Raises BitstreamError unless it is whole, of one of Pillow's ``formats``, and has at most ``max_pixels`` by its
    header; a larger one is not decoded.
    """
    try:
        return decode(body, formats=formats, max_pixels=max_pixels)
    except DataError as error:
        raise BitstreamError(f"a payload cannot be read: {error}") from None


def written(image: Image.Image, format_name: str, max_side_px: int, **options: object) -> bytes:
    """The picture as a file of a format of Pillow's.

    Raises DataError for one whose width or height is beyond the format, or that its encoder does not take.
    """
    size = f"its picture of {image.width} x {image.height} px cannot be sent as {format_name}"
    if max(image.size) > max_side_px:
        raise DataError(f"{size}, whose sides have at most {max_side_px} px")
    file = io.BytesIO()
    try:
        image.save(file, format_name, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{size}: {error}") from None
    return file.getvalue()
