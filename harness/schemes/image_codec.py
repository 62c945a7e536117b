"""Schemes that send a compressed picture: the server decodes it and does everything else."""

import dataclasses
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from PIL import Image
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from harness.data.pictures import PAYLOAD_MAX_PIXELS, decode
from harness.data.sample import Sample
from harness.errors import BitstreamError, DataError
from harness.models.contract import LanguageSide, VisionSide
from harness.schemes.contract import Clock, DeviceHalf, MergingPoint, Models, Payload, ServerHalf
from harness.schemes.steps import TokenServer, tokens_of_image
from harness.tofc.trained import adapter_files, adapter_n_c, load_adapter

if TYPE_CHECKING:
    from torch import Tensor


class ImagePoint(MergingPoint):
    """What every image codec declares besides its own quality.

    How the server merges the decoded picture's features, and ``max_side``: a picture whose longer side has more pixels
    is resized before it is encoded, the obvious alternative at low rates.

    ``adapter`` is that of a model which was tuned for merged features with only the distortion as the loss: in the
    paper such a model answers the pictures of every image codec (V-A3). It is the name or the folder of a training, or
    the folder of a LoRA adapter in peft's format; without one the published backbone answers.
    """

    max_side: Annotated[int, Field(ge=1, le=2**16)] | None = None
    adapter: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _tuned_for_what_is_merged(self) -> Self:
        if self.adapter is not None and self.merge_to is None and self.n_c is None:
            raise ValueError(
                f"adapter {self.adapter} needs a merge_to or an n_c: it is of a model tuned for merged features"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_an_absent_adapter(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The parameters; those of a point without an adapter are what they were before there were adapters."""
        given: dict[str, Any] = handler(self)
        if self.adapter is None:
            given.pop("adapter", None)
        return given


class ImageCodec(ABC):
    """A scheme whose payload is a picture; a codec overrides :meth:`encode` and :meth:`decode`.

    An instance is the codec at a point, with its networks, if it has any, on ``device``; ``checked`` says that its
    bytes carry a checksum. A body that claims more than ``max_pixels`` is refused before it is decoded. The paper gives
    every image codec the same feature merging as TOFC (V-B1), on the server.
    """

    kind: ClassVar[str]
    Point: ClassVar[type[ImagePoint]]
    checked: ClassVar[bool] = False

    def __init__(self, point: ImagePoint, device: str = "cpu", max_pixels: int = PAYLOAD_MAX_PIXELS) -> None:
        self.point = point
        self.device = device
        self.max_pixels = max_pixels

    @abstractmethod
    def encode(self, image: Image.Image) -> bytes:
        """The picture as the bytes that are sent."""

    @abstractmethod
    def decode(self, body: bytes) -> Image.Image:
        """The picture in the bytes, 8-bit RGB; raises BitstreamError where there is none."""

    @classmethod
    def device_half(cls, models: Models, point: ImagePoint) -> DeviceHalf:
        """The encoder; it needs nothing of the model."""
        return PictureDevice(cls(point, models.device, models.max_pixels))

    @classmethod
    def server_half(cls, models: Models, point: ImagePoint) -> ServerHalf:
        """The decoder, and the whole model, with the point's adapter if there is one."""
        codec = cls(point, models.device, models.max_pixels)
        adapter = None if point.adapter is None else load_adapter(models, point.adapter)
        return PictureServer(codec, models.vision(adapter), models.language(adapter))

    @classmethod
    def files(cls, backbone: str, point: Any) -> dict[str, Path]:
        """The files that the point names, by names for people: its adapter's; raises UnavailableError for none."""
        return {} if point.adapter is None else adapter_files(backbone, point.adapter)

    @classmethod
    def trained_n_c(cls, backbone: str, point: Any) -> tuple[int, ...] | None:
        """The n_c that the point's adapter was trained for; empty without one, None where they are not known."""
        return () if point.adapter is None else adapter_n_c(backbone, point.adapter)


@dataclasses.dataclass(frozen=True)
class PictureDevice:
    """Encodes the camera's pixels; reading the sample's file is not part of any scheme, and is not timed."""

    codec: ImageCodec

    def __call__(self, sample: Sample, clock: Clock) -> Payload:
        """The bytes of each picture."""
        bodies = []
        for image in sample.images():
            sent = image
            if (size := size_within(image.size, self.codec.point.max_side)) != image.size:
                with clock.stage("resize"):
                    sent = image.resize(size, Image.Resampling.BICUBIC)
            with sample.at_fault(), clock.stage("encode"):
                bodies.append(self.codec.encode(sent))
        return Payload(self.codec.kind, tuple(bodies), self.codec.checked)


@dataclasses.dataclass(frozen=True)
class PictureServer(TokenServer):
    """Decodes, then answers from the decoded pictures as if they were the originals."""

    codec: ImageCodec
    vision: VisionSide
    language: LanguageSide

    def tokens(self, payload: Payload, clock: Clock) -> "list[Tensor]":
        """Raises BitstreamError for bodies that are no pictures of this codec."""
        tokens = []
        for body in payload.bodies:
            with clock.stage("decode"):
                image = self.codec.decode(body)
            tokens.append(tokens_of_image(self.vision, self.language, image, self.codec.point, clock))
        return tokens


def size_within(size: tuple[int, int], max_side_px: int | None) -> tuple[int, int]:
    """The size at which a picture is sent: its longer side at most ``max_side_px``, its ratio to the nearest pixel."""
    if max_side_px is None or max(size) <= max_side_px:
        return size
    width_px, height_px = (max(1, round(side * max_side_px / max(size))) for side in size)
    return width_px, height_px


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
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{size}: {error}") from None
    return file.getvalue()
