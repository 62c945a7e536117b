"""TOFC as a scheme: merged features, coded with selective entropy models, cross the link (the paper's Fig. 2).

Its ablations are the same scheme with another reducer in place of merging, or another codec.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from harness.models.files import refuse_unreadable
from harness.schemes.contract import DeviceHalf, MergingPoint, Models, OperatingPoint, ReducedPoint, ServerHalf
from harness.tofc.trained import (
    ADAPTER,
    CODEC,
    adapter_beside,
    find_codec,
    is_codec_only,
    refuse_adapter_alone,
    refuse_other_backbone,
    refuse_other_files,
    refuse_unreadable_adapter,
    trained_n_c,
)

if TYPE_CHECKING:
    from harness.tofc.merging import Reducer


class FeaturePoint(ReducedPoint):
    """The codec, by its name in the zoo or a training's folder, and how many of a patch's features are kept."""

    codec: str

    @model_validator(mode="after")
    def _reduces(self) -> Self:
        if self.merge_to is None and self.n_c is None:
            raise ValueError("merge_to: is missing; give the share of a patch's features that are kept, or their n_c")
        return self


class TofcPoint(FeaturePoint, MergingPoint):
    """The codec, n_c and K."""


class Tofc:
    """The device encodes, merges and codes; the server decodes, projects and answers."""

    kind: ClassVar[str] = "tofc"
    Point: ClassVar[type[OperatingPoint]] = TofcPoint

    @classmethod
    def new_reducer(cls, dim: int, n_clusters: int) -> "Reducer":  # noqa: ARG003
        """The reducer, untrained if it is learned; the paper's merging is not."""
        from harness.tofc.merging import Merging

        return Merging()

    @classmethod
    def is_codec_only(cls, backbone: str, point: Any) -> bool:
        """Whether ``harness train`` fitted only the point's codec, to features of a backbone that was not tuned."""
        path = find_codec(backbone, point.codec)
        return path.name == CODEC and is_codec_only(path.parent)

    @classmethod
    def trained_n_c(cls, backbone: str, point: Any) -> tuple[int, ...] | None:
        """The n_c that the point's codec was trained for; None for a file that was copied out of its folder."""
        path = find_codec(backbone, point.codec)
        return trained_n_c(path.parent) if path.name == CODEC else None

    @classmethod
    def device_half(cls, models: Models, point: TofcPoint) -> DeviceHalf:
        """Loads the vision tower that was trained with the codec, and the codec."""
        from harness.schemes.features import FeatureDevice, load_codec
        from harness.tofc.codec import TofcCodec
        from harness.tofc.merging import Merging

        path = find_codec(models.name, point.codec)
        adapter = adapter_beside(path, models, ("tower",))
        # The codec first: the memory that reading it needs is free again before the tower is loaded.
        codec = load_codec(TofcCodec, path, models.device)
        vision = models.vision(adapter)
        return FeatureDevice(cls.kind, vision, Merging(point.neighbours), codec, point)

    @classmethod
    def server_half(cls, models: Models, point: TofcPoint) -> ServerHalf:
        """Loads the projector and the language model that were trained with the codec, and the codec."""
        from harness.schemes.features import FeatureServer, limits_of, load_codec
        from harness.tofc.codec import TofcCodec

        path = find_codec(models.name, point.codec)
        language = models.language(adapter_beside(path, models, ("projector", "language")))
        limits = limits_of(models, language, point)
        return FeatureServer(language, load_codec(TofcCodec, path, models.device), limits)

    @classmethod
    def files(cls, backbone: str, point: TofcPoint) -> dict[str, Path]:
        """The files that the point names besides the model, by names for people; raises as the halves do."""
        path = find_codec(backbone, point.codec)
        refuse_unreadable(path)
        found = {f"codec {point.codec}": path}
        if path.name != CODEC:
            return found
        refuse_other_backbone(path.parent, backbone)
        refuse_adapter_alone(path.parent)
        refuse_other_files(path.parent)
        if (adapter := path.parent / ADAPTER).is_dir():
            refuse_unreadable_adapter(adapter)
            found |= {f"adapter of {point.codec}, {file.name}": file for file in sorted(adapter.iterdir())}
        return found
