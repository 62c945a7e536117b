"""Image models of compressai's zoo, where that package is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from baselines.neural_codec import NeuralCodec
from harness.errors import unknown_name
from harness.schemes.image_codec import ImagePoint

if TYPE_CHECKING:
    from baselines.networks.pictures import CodesPictures

MODELS: Mapping[str, int | None] = {
    "bmshj2018-factorized": 8,
    "bmshj2018-factorized-relu": 8,
    "bmshj2018-hyperprior": 8,
    "mbt2018-mean": 8,
    "mbt2018": 8,
    "cheng2020-anchor": 6,
    "cheng2020-attn": 6,
    "cheng2020-anchor-checkerboard": None,
    "elic2022-official": None,
    "elic2022-chandelier": None,
}
"""The highest quality of each model, or None for those that have one size."""

RANDOM = "random"
"""The name of untrained weights in a point."""


class ZooPoint(ImagePoint):
    """A model by compressai's own name, its quality, and its weights.

    ``quality`` decides the network's size, and with published weights the lambda; ELIC and the checkerboard model have
    none. ``weights`` is a checkpoint in safetensors (``harness weights convert`` makes one of a ``.pth.tar``), or
    ``random``: untrained weights, whose times are valid, and whose bytes and pictures are not.
    """

    model: str = Field(json_schema_extra={"enum": list(MODELS)})
    quality: int | None = Field(default=None, ge=1)
    weights: str = RANDOM

    @property
    def label(self) -> str:
        """The model and its parameters; random weights are named, although they are the default."""
        return f"{super().label},weights={RANDOM}" if self.weights == RANDOM else super().label

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        if model not in MODELS:
            raise ValueError(unknown_name("model of compressai", model, MODELS))
        return model

    @model_validator(mode="after")
    def _has_its_quality(self) -> Self:
        most = MODELS[self.model]
        if most is None and self.quality is not None:
            raise ValueError(f"{self.model} has one size and no quality, and this point gives it {self.quality}")
        if most is not None and (self.quality is None or self.quality > most):
            raise ValueError(f"{self.model} has the qualities 1 to {most}, and this point gives it {self.quality}")
        return self


class CompressAI(NeuralCodec):
    """A model of compressai's zoo behind the container, the coder and the limits of hyperprior and ELIC."""

    kind = "compressai"
    Point: ClassVar[type[ImagePoint]] = ZooPoint

    @classmethod
    def place(cls, point: ZooPoint) -> Path | None:
        """The checkpoint; None where the weights are random."""
        return None if point.weights == RANDOM else Path(point.weights)

    @classmethod
    def network(cls, point: ZooPoint) -> "CodesPictures":
        """The model with its weights; raises UnavailableError where compressai is not installed."""
        from baselines.networks import zoo

        return zoo.network(point.model, point.quality, point.weights)

    @classmethod
    def files(cls, backbone: str, point: ZooPoint) -> dict[str, Path]:
        """The checkpoint, where the weights are not random, and those of every image codec."""
        place = cls.place(point)
        own = {} if place is None else {f"{point.model} {point.weights}": place}
        return own | super().files(backbone, point)
