"""TOFC as a scheme: merged features, coded with selective entropy models, cross the link (the paper's Fig. 2).

Its ablations are the same scheme with another reducer in the place of merging, or another codec.
"""

from collections.abc import Sequence
from typing import ClassVar

from PIL.Image import Image

from harness.data.sample import Question, Sample
from harness.models.contract import Backbone
from harness.schemes import pictures
from harness.schemes.contract import Answer, Clock, MergeTo, OperatingPoint, Payload
from harness.schemes.device_half import features_of_image
from harness.schemes.server_half import answers
from harness.tofc.codec import TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.reducer import Merging, Reducer
from harness.training.result import backbone_of, find_codec


class TofcPoint(OperatingPoint):
    """The codec, by its name in the zoo or a training's folder, and the share of a patch's features that are kept."""

    codec: str
    merge_to: MergeTo


class Tofc:
    """The device encodes, merges and codes; the server decodes, projects and answers."""

    kind: ClassVar[str] = "tofc"
    Point: ClassVar[type[OperatingPoint]] = TofcPoint
    device_stages: ClassVar[tuple[str, ...]] = ("preprocess", "vision_encode", "merge", "encode")
    server_stages: ClassVar[tuple[str, ...]] = ("decode", "project", "prefill", "generate")

    def __init__(self, backbone: Backbone, point: TofcPoint) -> None:
        self.point = point
        self.backbone, self.reducer, self.codec = self.parts(backbone, point)

    def parts(self, backbone: Backbone, point: TofcPoint) -> tuple[Backbone, Reducer, FeatureCodec]:
        """The backbone as it is used, what makes few features of many, and what codes these."""
        path = find_codec(backbone.name, point.codec)
        return backbone_of(backbone, path), Merging(), TofcCodec.load(path, backbone.device)

    def on_device(self, sample: Sample, clock: Clock) -> Payload:
        """Pixels to a stream."""
        return Payload(self.kind, pictures.pack([self._stream(image, clock) for image in sample.images()]))

    def _stream(self, image: Image, clock: Clock) -> bytes:
        y_PCD, tiles = features_of_image(self.backbone, image, self.reducer, self.point.merge_to, clock)
        with clock.stage("encode"):
            return self.codec.compress(y_PCD, tiles.grid)

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """A stream to answers; raises BitstreamError for anything but a stream of this codec."""
        tokens = []
        for body in pictures.unpack(payload.body):
            with clock.stage("decode"):
                y_PCD = self.codec.decompress(body).y_PCD
            with clock.stage("project"):
                tokens.append(self.backbone.project(y_PCD))
        return answers(self.backbone, tokens, questions, clock)
