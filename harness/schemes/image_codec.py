"""Schemes that send a compressed picture: the server decodes it and does all the rest."""

import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from PIL import Image, UnidentifiedImageError

from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.models.contract import LanguageSide, VisionSide
from harness.schemes.contract import Answer, Clock, DeviceHalf, MergeTo, Models, OperatingPoint, Payload, ServerHalf
from harness.schemes.steps import answers, tokens_of_image


class ImagePoint(OperatingPoint):
    """What every image codec declares besides its own quality: ``merge_to``, or null to keep all features."""

    merge_to: MergeTo | None = None


class ImageCodec(ABC):
    """A scheme whose payload is a picture; a codec overrides :meth:`encode` and :meth:`decode`.

    An instance is the codec at a point, with its networks, if it has any, on ``device``; ``checked`` says that its
    bytes carry a checksum. The paper gives every image codec the same feature merging as TOFC (V-B1), on the server.
    """

    kind: ClassVar[str]
    Point: ClassVar[type[ImagePoint]]
    checked: ClassVar[bool] = False

    def __init__(self, point: ImagePoint, device: str = "cpu") -> None:
        self.point = point
        self.device = device

    @abstractmethod
    def encode(self, image: Image.Image) -> bytes:
        """The picture as the bytes that are sent."""

    @abstractmethod
    def decode(self, body: bytes) -> Image.Image:
        """The picture in the bytes, 8-bit RGB; raises BitstreamError where there is none."""

    @classmethod
    def device_half(cls, models: Models, point: ImagePoint) -> DeviceHalf:
        """The encoder; it needs nothing of the model."""
        return PictureDevice(cls(point, models.device))

    @classmethod
    def server_half(cls, models: Models, point: ImagePoint) -> ServerHalf:
        """The decoder, and the whole model."""
        return PictureServer(cls(point, models.device), models.vision(), models.language())


@dataclasses.dataclass(frozen=True)
class PictureDevice:
    """Encodes the camera's pixels; reading the sample's file is not part of any scheme, and is not timed."""

    codec: ImageCodec

    def __call__(self, sample: Sample, clock: Clock) -> Payload:
        """The bytes of each picture."""
        bodies = []
        for image in sample.images():
            with clock.stage("encode"):
                bodies.append(self.codec.encode(image))
        return Payload(self.codec.kind, tuple(bodies), self.codec.checked)


@dataclasses.dataclass(frozen=True)
class PictureServer:
    """Decodes, then answers from the decoded pictures as if they were the originals."""

    codec: ImageCodec
    vision: VisionSide
    language: LanguageSide

    def __call__(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """Raises BitstreamError for bodies that are no pictures of this codec."""
        tokens = []
        for body in payload.bodies:
            with clock.stage("decode"):
                image = self.codec.decode(body)
            tokens.append(tokens_of_image(self.vision, self.language, image, self.codec.point.merge_to, clock))
        return answers(self.language, tokens, questions, clock)


def picture(body: bytes, formats: tuple[str, ...]) -> Image.Image:
    """The picture in a file's bytes, 8-bit RGB.

    Raises BitstreamError unless it is whole and of one of Pillow's ``formats``.
    """
    try:
        with Image.open(io.BytesIO(body), formats=formats) as opened:
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        wanted = " or ".join(formats)
        raise BitstreamError(f"a payload of {len(body)} bytes is not a {wanted} picture: {error}") from None
