"""Schemes whose payload is a picture from a learned image codec; the networks are in :mod:`baselines.networks`."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from baselines.neural_container import MAX_PIXELS
from harness.models.contract import Backbone
from harness.schemes.image_codec import ImageCodec, ImagePoint

if TYPE_CHECKING:
    from baselines.networks.pictures import CodesPictures


class NeuralPoint(ImagePoint):
    """Which weights: the lambda of one of the project's own small models, or the path of a checkpoint.

    A checkpoint is a state dict of compressai's class in safetensors, with any number of channels.
    """

    weights: float | str


class NeuralCodec(ImageCodec):
    """A learned codec; a subclass says which network codes for its point.

    ``max_pixels`` bounds the picture that is encoded, and the one that a payload may ask for.
    """

    max_pixels: int = MAX_PIXELS

    def __init__(self, backbone: Backbone, point: ImagePoint) -> None:
        """Raises CheckpointError where the point's weights are absent, damaged or of another architecture."""
        from baselines.networks.pictures import PictureCoder

        super().__init__(backbone, point)
        self.coder = PictureCoder(self.network(), None if backbone is None else backbone.device)

    @abstractmethod
    def network(self) -> "CodesPictures":
        """The network of the point, ready for coding."""

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a file of :mod:`baselines.neural_container`; raises DataError for one beyond its limits."""
        return self.coder.encode(image, self.max_pixels)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a file; raises BitstreamError where there is none, or one of another model, or beyond limits.

        A claim of more than ``max_pixels``, or of more than the strings can hold, is refused before any computing.
        """
        return self.coder.decode(body, self.max_pixels)


class BundledCodec(NeuralCodec):
    """A learned codec of this project's own: hyperprior and ELIC."""

    Point: ClassVar[type[ImagePoint]] = NeuralPoint
    point: NeuralPoint

    def network(self) -> "CodesPictures":
        """The network of the point's weights."""
        from baselines.networks.weights import ready

        return ready(self.kind, self.point.weights)
