"""Device-only inference: the smaller language model of the family answers where the picture is, and nothing is sent."""

from collections.abc import Sequence
from typing import ClassVar, NoReturn

from harness import catalog
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError, UnavailableError
from harness.models.contract import Backbone
from harness.schemes.contract import Answer, Clock, MergeTo, OperatingPoint, Payload
from harness.schemes.server_half import FROM_PIXELS, answers, tokens_of_image


class DeviceOnlyPoint(OperatingPoint):
    """``backbone``: the model on the device, null for the catalog's (:data:`harness.catalog.ON_DEVICE`).

    ``weights`` are that model's, as a scenario's are the server's; ``merge_to`` is the share of a patch's features that
    it reads, null for all of them.
    """

    backbone: str | None = None
    weights: str | None = None
    merge_to: MergeTo | None = None


class DeviceOnly:
    """Every stage is the device's; there is no payload, and no link or server to wait for."""

    Point: ClassVar[type[OperatingPoint]] = DeviceOnlyPoint
    device_stages: ClassVar[tuple[str, ...]] = FROM_PIXELS
    server_stages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, backbone: Backbone, point: DeviceOnlyPoint) -> None:
        name = point.backbone or catalog.ON_DEVICE.get(backbone.name)
        if name is None:
            raise UnavailableError(
                f"device_only: the catalog knows no smaller model than {backbone.name} for a device; name one as the "
                "point's backbone"
            )
        load = catalog.load("backbone", name, catalog.BACKBONES)
        self.backbone: Backbone = load(name, device=backbone.device, weights=point.weights)
        self.point = point

    def on_device(self, sample: Sample, clock: Clock) -> Answer:
        """The smaller model's answer to the sample's question."""
        tokens = [tokens_of_image(self.backbone, image, self.point.merge_to, clock) for image in sample.images()]
        return answers(self.backbone, tokens, [sample.question], clock)[0]

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> NoReturn:  # noqa: ARG002
        """Raises BitstreamError: whatever this is, the device half did not send it."""
        raise BitstreamError(f"device_only sends nothing, and a payload of {len(payload.body)} bytes arrived")
