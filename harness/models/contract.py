"""What the harness asks of a backbone, whatever its size.

P patches (the thumbnail first)   V features a patch   C merged features a patch   D feature dimension
K dimension of an attention head   T visual tokens   H width of the language model
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from PIL import Image

from harness.data.sample import Question


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """An image as the vision tower wants it.

    ``pixels_PCHW`` is float32 and normalised, the thumbnail first and then the tiles row by row; ``grid`` is (n_h,
    n_w), so that P = n_h * n_w + 1 where the backbone tiles at all and P = 1, grid (1, 1), where it does not.
    ``image_size`` is the original (height, width) in pixels. Who holds features and no pixels gives an empty tensor.
    """

    pixels_PCHW: torch.Tensor
    grid: tuple[int, int]
    image_size: tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Attention:
    """How the tower's layer that gave the features looked at them.

    ``received_PV`` is the attention that a feature receives, averaged over heads: from the class token, or the mean
    over all features where there is none. ``keys_PVK`` are the features' keys, averaged over heads.
    """

    received_PV: torch.Tensor
    keys_PVK: torch.Tensor


@dataclasses.dataclass(slots=True)
class Prefilled:
    """A prompt that the language model has read.

    ``first_token`` is the arg max of its last position, (1, 1) int64 and still on the device; ``cache`` are keys and
    values of ``length`` positions. :meth:`Backbone.generate` extends the cache, so a prefilled prompt is generated from
    once.
    """

    first_token: torch.Tensor
    cache: Any
    length: int


class Backbone(Protocol):
    """A large multimodal model in the parts between which a scheme may cut.

    All methods run without gradients and return tensors on ``device``.
    """

    @property
    def name(self) -> str:
        """The name in the catalog."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def n_features(self) -> int:
        """V, the visual features of one patch."""
        ...

    @property
    def feature_dim(self) -> int:
        """D, the dimension of a visual feature."""
        ...

    def preprocess(self, image: Image.Image) -> Tiles:
        """An RGB image, resized, padded, cut into patches and normalised; the tensor stays on the CPU."""
        ...

    def encode_image(self, tiles: Tiles) -> torch.Tensor:
        """The visual features x (P, V, D) of Eq. 1."""
        ...

    def encode_attended(self, tiles: Tiles) -> tuple[torch.Tensor, Attention]:
        """The visual features, and how the tower attended to them, from one pass."""
        ...

    def with_projector(self, weights: Mapping[str, torch.Tensor]) -> Self:
        """The same backbone with another projector; all else is shared.

        Raises CheckpointError for weights of another projector.
        """
        ...

    def project(self, y_PCD: torch.Tensor) -> torch.Tensor:
        """Merged features through the projector: (P * C, H), patch after patch."""
        ...

    def project_all(self, x_PVD: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All features through the projector, (T, H), arranged as the backbone was trained to see them."""
        ...

    def prefill(self, tokens: torch.Tensor | Sequence[torch.Tensor], question: Question) -> Prefilled:
        """Reads the prompt: the template, the visual tokens in it, and the question.

        ``tokens`` are those of the only picture, (T, H), or one such tensor a picture.
        """
        ...

    def generate(self, prefilled: Prefilled) -> str:
        """The answer's text, decoded greedily after :meth:`prefill`."""
        ...
