"""A training's manifest, as far as anything reads it: a key may be absent, but its value is of no other type.

Further keys stay as they are, so that a manifest of another version of this code is read too.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, cast

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness import catalog
from harness.errors import CheckpointError
from harness.models import files
from harness.models.contract import Part
from harness.scenario.explain import sentences

MERGING = "tofc"
"""The scheme whose reduction is the paper's merging."""

Hash = Literal["codec_hash", "adapter_hash", "reducer_hash"]
Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Lora(TypedDict):
    """Rank 0: the backbone was frozen."""

    rank: Whole


class Data(TypedDict):
    """Which books were learned from, where the data were books."""

    kind: Text
    first_book: NotRequired[Whole]
    books: NotRequired[Count]


class Config(TypedDict, total=False):
    """The training's configuration; ``codec`` is null where none was trained, and ``lambda`` is no name in Python."""

    name: Text
    scheme: Text
    data: Data
    clusters: Annotated[list[Count], Field(min_length=1)]
    codec: dict[str, Any] | None
    lambda_: Annotated[float | None, Field(alias="lambda", gt=0)]
    lora: Lora
    seed: Whole


class Row(TypedDict, total=False):
    """What was measured at one n_c; a D is null where nothing was asked."""

    n_clusters: Required[Count]
    bytes_per_image: Annotated[float, Field(gt=0)]
    rate: float
    distortion: float | None
    merged_distortion: float | None
    untuned_distortion: float
    feature_distortion: float
    z_share: float
    expert_use: list[Whole]
    expert_bits: float


class HeldOut(TypedDict):
    """What was measured on pictures that were not trained on."""

    pictures: Count
    rows: list[Row]


class Manifest(TypedDict):
    """A training's manifest.

    The fingerprints are of the weights that it began with. The hashes are of the files beside it, null or absent where
    they are not known.
    """

    fingerprints: dict[Part, Text]
    stage: NotRequired[Literal["whole", "codec", "merging"]]
    config: NotRequired[Config]
    config_hash: NotRequired[Text]
    backbone: NotRequired[Text]
    codec_hash: NotRequired[Text | None]
    adapter_hash: NotRequired[Text | None]
    reducer_hash: NotRequired[Text | None]
    data: NotRequired[Text]
    held_out: NotRequired[HeldOut]


_SHAPE = TypeAdapter(Manifest)


def read(path: Path) -> Manifest:
    """The manifest in a file; raises CheckpointError where there is none, or a value is of another type."""
    found = files.read_json(path)
    wanted = found.get("fingerprints")
    if not isinstance(wanted, dict) or set(wanted) != set(files.PARTS):
        raise CheckpointError(
            f"{path}: is not a training's manifest: its 'fingerprints' must hold {', '.join(files.PARTS)}"
        )
    try:
        _SHAPE.validate_python(found, strict=True)
    except ValidationError as error:
        place, sentence = next(sentences(error))
        raise CheckpointError(f"{path}: {'.'.join(map(str, place))}: {sentence}") from None
    return cast("Manifest", found)


def reduction_of(found: Manifest) -> tuple[str, str] | None:
    """The scheme that a training's manifest names, and the one whose reduction that has: ``tofc`` for merging.

    None where the manifest does not say.
    """
    if (config := found.get("config")) is None:
        return None
    scheme = config.get("scheme", MERGING)
    return scheme, str(getattr(catalog.load("scheme", scheme, catalog.SCHEMES), "method", scheme))
