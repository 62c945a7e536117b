"""TOFC as a scheme: merged features, coded with selective entropy models, cross the link (the paper's Fig. 2)."""

from collections.abc import Sequence
from typing import ClassVar

from PIL.Image import Image

from harness.backbones.contract import Backbone
from harness.data.sample import Question, Sample
from harness.errors import UnavailableError, unknown_name
from harness.pipelines import pictures
from harness.pipelines.contract import Answer, Clock, MergeTo, OperatingPoint, Payload
from harness.pipelines.server_half import answers, n_clusters
from harness.tofc.codec import CODECS, TofcCodec
from harness.tofc.merging import merge


class TofcPoint(OperatingPoint):
    """The codec, by its name in the zoo, and the share of a patch's features that merging keeps."""

    codec: str
    merge_to: MergeTo


class Tofc:
    """The device encodes, merges and codes; the server decodes, projects and answers."""

    Point: ClassVar[type[OperatingPoint]] = TofcPoint
    device_stages: ClassVar[tuple[str, ...]] = ("preprocess", "vision_encode", "merge", "encode")
    server_stages: ClassVar[tuple[str, ...]] = ("decode", "project", "prefill", "generate")

    def __init__(self, backbone: Backbone, point: TofcPoint) -> None:
        self.backbone = backbone
        self.point = point
        folder = CODECS / backbone.name
        known = [path.stem for path in sorted(folder.glob("*.safetensors"))]
        if point.codec not in known:
            raise UnavailableError(f"{folder}: {unknown_name('codec', point.codec, known or ['none'])}")
        self.codec = TofcCodec.load(folder / f"{point.codec}.safetensors", backbone.device)

    def on_device(self, sample: Sample, clock: Clock) -> Payload:
        """Pixels to a stream."""
        return Payload("tofc", pictures.pack([self._stream(image, clock) for image in sample.images()]))

    def _stream(self, image: Image, clock: Clock) -> bytes:
        with clock.stage("preprocess"):
            tiles = self.backbone.preprocess(image)
        with clock.stage("vision_encode"):
            x_PVD = self.backbone.encode_image(tiles)
        with clock.stage("merge"):
            y_PCD = merge(x_PVD, n_clusters(self.backbone, self.point.merge_to)).y_PCD
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
