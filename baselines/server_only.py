"""Server-only inference: the original file is sent as it is, and the server keeps all visual tokens."""

from collections.abc import Sequence
from typing import ClassVar

from harness.data.pictures import FORMATS
from harness.data.sample import Question, Sample
from harness.models.contract import Backbone
from harness.schemes import pictures
from harness.schemes.contract import Answer, Clock, OperatingPoint, Payload
from harness.schemes.image_codec import picture
from harness.schemes.server_half import answers, tokens_of_image


class ServerOnly:
    """The prevailing way: nothing is computed on the device, nothing is merged, every byte of the file is sent."""

    Point: ClassVar[type[OperatingPoint]] = OperatingPoint
    device_stages: ClassVar[tuple[str, ...]] = ()
    server_stages: ClassVar[tuple[str, ...]] = (
        "decode",
        "preprocess",
        "vision_encode",
        "project",
        "prefill",
        "generate",
    )

    def __init__(self, backbone: Backbone, point: OperatingPoint) -> None:
        self.backbone = backbone
        self.point = point

    def on_device(self, sample: Sample, clock: Clock) -> Payload:  # noqa: ARG002
        """The files that the sample came in."""
        return Payload("file", pictures.pack(sample.files))

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """Answers from the pictures in the files, with every visual token."""
        tokens = []
        for body in pictures.unpack(payload.body):
            with clock.stage("decode"):
                image = picture(body, FORMATS)
            tokens.append(tokens_of_image(self.backbone, image, None, clock))
        return answers(self.backbone, tokens, questions, clock)
