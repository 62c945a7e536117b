"""Device-only inference: the family's smaller model answers on the device, and nothing is sent."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NoReturn

from harness import catalog
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.models.contract import LanguageSide, VisionSide
from harness.schemes.contract import (
    Answer,
    Clock,
    DeviceHalf,
    MergingPoint,
    Models,
    OperatingPoint,
    Payload,
    ServerHalf,
)
from harness.schemes.steps import answers, tokens_of_image


class DeviceOnlyPoint(MergingPoint):
    """``backbone``: the model on the device, null for the catalog's (:data:`harness.catalog.ON_DEVICE`).

    ``weights`` are that model's, as a scenario's are the server's.
    """

    backbone: str | None = None
    weights: str | None = None


class DeviceOnly:
    """Every stage is the device's; there is no payload, and no link or server to wait for."""

    kind: ClassVar[str] = "nothing"
    Point: ClassVar[type[OperatingPoint]] = DeviceOnlyPoint

    @classmethod
    def device_half(cls, models: Models, point: DeviceOnlyPoint) -> DeviceHalf:
        """The whole of a smaller model."""
        smaller = models.smaller(point.backbone, point.weights)
        return _Device(smaller.vision(), smaller.language(), point)

    @classmethod
    def server_half(cls, models: Models, point: DeviceOnlyPoint) -> ServerHalf:  # noqa: ARG003
        """Needs nothing, and refuses every payload."""
        return _refuse

    @classmethod
    def other_models(cls, backbone: str, point: DeviceOnlyPoint) -> dict[str, str | None]:
        """The smaller model and its weights."""
        return {catalog.smaller(backbone, point.backbone): point.weights}


@dataclasses.dataclass(frozen=True)
class _Device:
    vision: VisionSide
    language: LanguageSide
    point: DeviceOnlyPoint

    def __call__(self, sample: Sample, clock: Clock) -> Answer:
        """The smaller model's answer to the sample's question."""
        how = self.point, clock
        tokens = [tokens_of_image(self.vision, self.language, image, *how) for image in sample.images()]
        return answers(self.language, tokens, [sample.question], clock)[0]


def _refuse(payload: Payload, questions: Sequence[Question], clock: Clock) -> NoReturn:  # noqa: ARG001
    """Raises BitstreamError, because the device half sends no payload."""
    raise BitstreamError("device_only sends nothing, and a payload arrived")
