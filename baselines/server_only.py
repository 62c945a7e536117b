"""Server-only inference: the original file is sent unchanged, and the server keeps all visual tokens."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from harness.data.pictures import FORMATS
from harness.data.sample import Sample
from harness.models.contract import LanguageSide, VisionSide
from harness.schemes.contract import (
    Clock,
    DeviceHalf,
    MergingPoint,
    Models,
    OperatingPoint,
    Payload,
    ServerHalf,
)
from harness.schemes.image_codec import picture
from harness.schemes.steps import TokenServer, tokens_of_image

if TYPE_CHECKING:
    from torch import Tensor


class ServerOnly:
    """The usual way: nothing is computed on the device, nothing is merged, every byte of the file is sent."""

    kind: ClassVar[str] = "file"
    Point: ClassVar[type[OperatingPoint]] = OperatingPoint

    @classmethod
    def device_half(cls, models: Models, point: OperatingPoint) -> DeviceHalf:  # noqa: ARG003
        """Needs nothing of the model."""
        return _files

    @classmethod
    def server_half(cls, models: Models, point: OperatingPoint) -> ServerHalf:  # noqa: ARG003
        """The whole model."""
        return _Server(models.vision(), models.language(), models.max_pixels)


def _files(sample: Sample, clock: Clock) -> Payload:  # noqa: ARG001
    """The sample's original files."""
    return Payload(ServerOnly.kind, sample.files)


@dataclasses.dataclass(frozen=True)
class _Server(TokenServer):
    vision: VisionSide
    language: LanguageSide
    max_pixels: int

    def tokens(self, payload: Payload, clock: Clock) -> "list[Tensor]":
        """Every visual token of the pictures in the files."""
        tokens = []
        for body in payload.bodies:
            with clock.stage("decode"):
                image = picture(body, FORMATS, self.max_pixels)
            tokens.append(tokens_of_image(self.vision, self.language, image, MergingPoint(), clock))
        return tokens
