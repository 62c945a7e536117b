"""The shape of a training's manifest, as far as anything reads it: a key may be absent, but not of another type.

Further keys are ignored, so that a manifest of another version of this code is read too.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class Shape(BaseModel):
    """A part of a manifest; no type is converted."""

    model_config = ConfigDict(frozen=True, strict=True)


class Fingerprints(Shape):
    """The fingerprints of the weights that the training began with."""

    tower: Text
    projector: Text
    language: Text


class Lora(Shape):
    """Rank 0: the backbone was frozen."""

    rank: int = Field(ge=0)


class Data(Shape):
    """Which books were learned from, where the data were books."""

    kind: Text
    first_book: int = Field(default=0, ge=0)
    books: Count = 1


class Config(Shape):
    """The training's configuration. No default is that of a training: it only stands for an absent key."""

    name: Text = "-"
    scheme: Text = "-"
    data: Data | None = None
    clusters: list[Count] = Field(default=[1], min_length=1)
    rate_weight: float | None = Field(default=None, alias="lambda", gt=0)
    codec: dict[str, Any] | None = None
    lora: Lora = Lora(rank=0)
    seed: int = Field(default=0, ge=0)


class Row(Shape):
    """What was measured at one n_c."""

    n_clusters: Count
    bytes_per_image: float | None = None
    rate: float | None = None
    distortion: float | None = None
    merged_distortion: float | None = None
    untuned_distortion: float | None = None
    feature_distortion: float | None = None
    z_share: float | None = None
    expert_use: list[Annotated[int, Field(ge=0)]] = []


class HeldOut(Shape):
    """What was measured on pictures that were not trained on."""

    pictures: Count
    rows: list[Row]


class Manifest(Shape):
    """A training's manifest; the hashes are of the files beside it, null or absent where they are not known."""

    stage: Literal["whole", "codec", "merging"] = "whole"
    config: Config = Config()
    config_hash: Text = "-"
    backbone: Text = "-"
    fingerprints: Fingerprints
    codec_hash: Text | None = None
    adapter_hash: Text | None = None
    reducer_hash: Text | None = None
    data: Text = "-"
    held_out: HeldOut | None = None
