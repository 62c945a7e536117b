"""Schemes whose payload is a picture from a learned image codec of compressai.

The transforms g_a and g_s run where the backbone's weights are. All that decides how symbols are coded runs on the CPU
in whole numbers, so that what one machine encodes any other decodes.

    B batch (always 1)   H, W padded height and width in px
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from baselines import neural_weights
from baselines.neural_container import MAX_PIXELS, MODEL_BYTES, Picture, fits, pack, unpack
from baselines.rans_decoder import keep_within_strings
from harness.errors import DataError
from harness.schemes.image_codec import ImageCodec, ImagePoint

MULTIPLE_PX = 64
"""The stride of z: four halvings to y, two more to z."""


class NeuralPoint(ImagePoint):
    """Which weights: the lambda of one of the project's own small models, or the path of a checkpoint.

    A checkpoint is a state dict of compressai's class in safetensors, with any number of channels.
    """

    weights: float | str


class NeuralCodec(ImageCodec):
    """A learned codec; a subclass builds its network from a state dict's shapes, and says what its strings are."""

    Point: ClassVar[type[ImagePoint]] = NeuralPoint
    point: NeuralPoint

    checked: ClassVar[bool] = True

    def __init__(self, point: NeuralPoint, device: str = "cpu") -> None:
        """Raises CheckpointError where the point's weights are absent, damaged or of another architecture."""
        super().__init__(point, device)
        path = neural_weights.locate(self.kind, point.weights)
        state = neural_weights.read(path)
        self._net = self.network_of(path, state)
        neural_weights.load(path, self._net, state)
        self._model = neural_weights.fingerprint(self._net, MODEL_BYTES)
        self.make_exact(self._net)
        keep_within_strings(self._net)
        for transform in (self._net.g_a, self._net.g_s):
            _move(transform, torch.device(device))

    @staticmethod
    @abstractmethod
    def network_of(path: Path, state: Mapping[str, Tensor]) -> Any:
        """An untrained network with a state dict's channels; raises CheckpointError where they are another model's."""

    @staticmethod
    @abstractmethod
    def make_exact(net: Any) -> None:
        """Put exact convolutions wherever scales and means come from."""

    @abstractmethod
    def shape(self, height: int, width: int) -> Any:
        """What compressai calls the shape of a picture whose z has this height and width."""

    @property
    @abstractmethod
    def n_strings(self) -> int:
        """How many strings a picture has."""

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> bytes:
        """The picture as a file of :mod:`baselines.neural_container`; raises DataError for one beyond its limits."""
        if not fits(*image.size):
            raise DataError(
                f"a picture of {image.width} x {image.height} px; {self.kind} takes at most {MAX_PIXELS} px"
            )
        strings = self._net.compress(_padded(image))["strings"]
        return pack(self._model, Picture(*image.size, tuple(string for (string,) in strings)))

    @torch.inference_mode()
    def decode(self, body: bytes) -> Image.Image:
        """The picture in a file; raises BitstreamError where there is none, or one of another model."""
        picture = unpack(body, self._model, self.n_strings)
        height, width = (-(-side // MULTIPLE_PX) for side in (picture.height_px, picture.width_px))
        x_BCHW = self._net.decompress([[string] for string in picture.strings], self.shape(height, width))["x_hat"]
        x_HWC = x_BCHW[0, :, : picture.height_px, : picture.width_px].permute(1, 2, 0)
        return Image.fromarray((x_HWC.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _padded(image: Image.Image) -> Tensor:
    """The picture as float32 x_BCHW in 0 .. 1, its last row and column repeated up to multiples of MULTIPLE_PX."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    return pad(pixels, (0, -image.width % MULTIPLE_PX, 0, -image.height % MULTIPLE_PX), mode="replicate")


def _move(transform: nn.Module, device: torch.device) -> None:
    """Have a transform run on a device while its neighbours stay on the CPU."""
    transform.to(device)
    transform.register_forward_pre_hook(lambda _, inputs: tuple(x.to(device) for x in inputs))
    transform.register_forward_hook(lambda _, __, output: output.cpu())
