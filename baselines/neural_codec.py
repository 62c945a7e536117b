"""Schemes whose payload is a picture from a learned image codec; the networks are in :mod:`baselines.networks`."""

import functools
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from baselines.neural_container import MAX_PIXELS
from harness.errors import CheckpointError
from harness.files import Stamp, stamp
from harness.schemes.image_codec import ImageCodec, ImagePoint

if TYPE_CHECKING:
    from baselines.networks.pictures import CodesPictures, PictureCoder


BUNDLED = Path(__file__).parent / "weights"
"""The project's own small models, ``<codec>-<lambda>.safetensors``; card.md beside them says how they were made."""


class NeuralPoint(ImagePoint):
    """Which weights: the lambda of one of the project's own small models, or the path of a checkpoint.

    A checkpoint is a state dict of compressai's class in safetensors, with any number of channels.
    """

    weights: float | str


class NeuralCodec(ImageCodec):
    """A learned codec; a subclass says which network codes for its point.

    ``max_pixels`` bounds the picture that is encoded, and the one that a payload may claim.
    """

    checked: ClassVar[bool] = True

    def __init__(self, point: ImagePoint, device: str = "cpu", max_pixels: int = MAX_PIXELS) -> None:
        """Raises CheckpointError where the point's weights are absent, damaged or of another architecture."""
        super().__init__(point, device, max_pixels)
        place = self.place(point)
        self.coder = _coder(type(self), point, device, None if place is None or not place.is_file() else stamp(place))

    @classmethod
    @abstractmethod
    def place(cls, point: Any) -> Path | None:
        """The file of a point's weights, whether it is there or not; None for weights that are no file's."""

    @classmethod
    @abstractmethod
    def network(cls, point: Any) -> "CodesPictures":
        """The network of a point, ready for coding."""

    def encode(self, image: Image.Image) -> bytes:
        """The picture as a file of :mod:`baselines.neural_container`; raises DataError for one beyond its limits."""
        return self.coder.encode(image, self.max_pixels)

    def decode(self, body: bytes) -> Image.Image:
        """The picture in a file; raises BitstreamError where there is none, or one of another model, or beyond limits.

        A claim of more than ``max_pixels``, or of more than the strings can hold, is refused before any computing.
        """
        return self.coder.decode(body, self.max_pixels)


@functools.lru_cache(maxsize=32)
def _coder(
    codec: type[NeuralCodec],
    point: ImagePoint,
    device: str,
    facts: Stamp | None,  # noqa: ARG001 - they say when to load again
) -> "PictureCoder":
    """One for both halves of a point, where they are in one process, as long as the weights' file is the same."""
    import torch

    from baselines.networks.pictures import PictureCoder

    return PictureCoder(codec.network(point), torch.device(device))


class BundledCodec(NeuralCodec):
    """A learned codec of this project's own: hyperprior and ELIC."""

    Point: ClassVar[type[ImagePoint]] = NeuralPoint

    @classmethod
    def place(cls, point: NeuralPoint) -> Path:
        """A bundled model's file, or the checkpoint; raises CheckpointError for an unknown lambda."""
        return locate(cls.kind, point.weights)

    @classmethod
    def network(cls, point: NeuralPoint) -> "CodesPictures":
        """The network of the point's weights."""
        from baselines.networks.weights import ready

        return ready(cls.kind, point.weights)

    @classmethod
    def stands_in_for(cls, point: NeuralPoint) -> str | None:
        """The published codec, where the weights are one of the project's own small models."""
        return cls.kind if isinstance(point.weights, float) else None

    @classmethod
    def files(cls, backbone: str, point: NeuralPoint) -> dict[str, Path]:
        """The checkpoint, and those of every image codec; raises CheckpointError where there is none."""
        if not (path := cls.place(point)).is_file():
            raise CheckpointError(f"{path}: there is no such file; 'harness weights convert' makes it from a .pth.tar")
        return {f"{cls.kind} {point.weights}": path, **super().files(backbone, point)}


class Hyperprior(BundledCodec):
    """The scale hyperprior (Balle et al., arXiv 1802.01436); see :mod:`baselines.networks.hyperprior`.

    y is coded with zero-mean Gaussians whose scales h_s computes from z.
    """

    kind = "hyperprior"


class Elic(BundledCodec):
    """ELIC (He et al., arXiv 2203.10886); see :mod:`baselines.networks.elic`.

    y is coded in groups of channels, each in two passes given z and what was coded before.
    """

    kind = "elic"


def bundled(codec: str) -> dict[float, Path]:
    """The project's own models of a codec by their lambda, from the lowest rate to the highest."""
    found = {float(path.stem.removeprefix(f"{codec}-")): path for path in BUNDLED.glob(f"{codec}-*.safetensors")}
    return dict(sorted(found.items()))


def locate(codec: str, weights: float | str) -> Path:
    """The file that a point names, by path or by a bundled model's lambda; raises CheckpointError for other lambdas."""
    if isinstance(weights, str):
        return Path(weights)
    models = bundled(codec)
    if weights not in models:
        known = ", ".join(map(str, models)) or "none; 'make weights' trains them"
        raise CheckpointError(f"{codec}: no model was trained at lambda {weights}; known: {known}")
    return models[weights]
