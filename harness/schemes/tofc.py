"""TOFC as a scheme: merged features, coded with selective entropy models, cross the link (the paper's Fig. 2).

Its ablations are the same scheme with another reducer in the place of merging, or another codec.
"""

from pathlib import Path
from typing import ClassVar

from harness.schemes.contract import (
    NEIGHBOURS,
    DeviceHalf,
    MergeTo,
    Models,
    Neighbours,
    OperatingPoint,
    ServerHalf,
)
from harness.tofc.trained import ADAPTER, adapter_beside, find_codec


class FeaturePoint(OperatingPoint):
    """The codec, by its name in the zoo or a training's folder, and the share of a patch's features that are kept."""

    codec: str
    merge_to: MergeTo


class TofcPoint(FeaturePoint):
    """``neighbours`` is K of Eq. 2."""

    neighbours: Neighbours = NEIGHBOURS


class Tofc:
    """The device encodes, merges and codes; the server decodes, projects and answers."""

    kind: ClassVar[str] = "tofc"
    Point: ClassVar[type[OperatingPoint]] = TofcPoint

    @classmethod
    def device_half(cls, models: Models, point: TofcPoint) -> DeviceHalf:
        """Loads the vision tower as it was trained with the codec, and the codec."""
        from harness.schemes.features import FeatureDevice, load_codec
        from harness.tofc.codec import TofcCodec
        from harness.tofc.reducer import Merging

        path = find_codec(models.name, point.codec)
        adapter = adapter_beside(path, models, ("tower",))
        # The codec first: what reading it takes for a moment is free again before the tower comes.
        codec = load_codec(TofcCodec, path, models.device)
        vision = models.vision(adapter)
        return FeatureDevice(cls.kind, vision, Merging(point.neighbours), codec, point.merge_to)

    @classmethod
    def server_half(cls, models: Models, point: TofcPoint) -> ServerHalf:
        """Loads the projector and the language model as they were trained with the codec, and the codec."""
        from harness.schemes.features import FeatureServer, limits_of, load_codec
        from harness.tofc.codec import TofcCodec

        path = find_codec(models.name, point.codec)
        language = models.language(adapter_beside(path, models, ("projector", "language")))
        limits = limits_of(models, language, point.merge_to)
        return FeatureServer(language, load_codec(TofcCodec, path, models.device), limits)

    @classmethod
    def files(cls, backbone: str, point: TofcPoint) -> dict[str, Path]:
        """The files that the point names besides the model, by names for people; raises as the halves do."""
        path = find_codec(backbone, point.codec)
        found = {f"codec {point.codec}": path}
        if (adapter := path.parent / ADAPTER).is_dir():
            found |= {f"adapter of {point.codec}, {file.name}": file for file in sorted(adapter.iterdir())}
        return found
