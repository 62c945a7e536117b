"""The ablations as schemes: TOFC with one part replaced, all trained under one budget (see training.py).

Table I replaces the merging; its rows share a codec of one entropy model, so that nothing but the merging differs.
Fig. 12 replaces the entropy coding of merged features. The TOFC of each group is trained under the same budget:
:class:`Single` is the first group's, :class:`Selective` the second's.
"""

from pathlib import Path
from typing import ClassVar

from baselines.ablations.centres import Centres
from baselines.ablations.factorized import FactorizedCodec, FactorizedConfig
from baselines.ablations.heuristic import HeuristicCodec, HeuristicConfig
from baselines.ablations.qformer import QFormer, QFormerConfig
from baselines.ablations.trained import CODEC, PROJECTOR, REDUCER, folder_of, read
from baselines.ablations.visionzip import VisionZip
from harness.errors import CheckpointError
from harness.models.contract import Backbone
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.reducer import Merging, Reducer

HIDDEN = (32,)
"""The hidden width of every entropy model here: one layer, so that the trained points stay small."""


class Ablation(Tofc):
    """A scheme whose points are folders of :data:`baselines.ablations.trained.WEIGHTS`; a subclass replaces a part."""

    codec_type: ClassVar[type[FeatureCodec]] = TofcCodec
    reducer_type: ClassVar[type[QFormer] | None] = None
    """A learned reducer's; None where it has no weights."""

    @classmethod
    def new_codec(cls, dim: int, point: str) -> FeatureCodec:  # noqa: ARG003
        """An untrained codec for the point of that name."""
        return TofcCodec(CodecConfig(dim=dim, n_experts=1, hidden=HIDDEN))

    @classmethod
    def new_reducer(cls, dim: int) -> Reducer:  # noqa: ARG003
        """The reducer, untrained where it is learned."""
        return Merging()

    def parts(self, backbone: Backbone, point: TofcPoint) -> tuple[Backbone, Reducer, FeatureCodec]:
        """Those of the point's folder among the bundled ones."""
        return self.load_parts(backbone, folder_of(backbone.name, self.kind, point.codec))

    @classmethod
    def load_parts(cls, backbone: Backbone, folder: Path) -> tuple[Backbone, Reducer, FeatureCodec]:
        """The backbone with the projector that was trained for a point, and the point's reducer and codec.

        Raises CheckpointError for a file that is absent, damaged or of other sizes.
        """
        projector, _ = read(folder / PROJECTOR)
        try:
            backbone = backbone.with_projector(projector)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / PROJECTOR}: {error}") from None
        if cls.reducer_type is None:
            reducer = cls.new_reducer(backbone.feature_dim)
        else:
            reducer = cls.reducer_type.load(folder / REDUCER, backbone.device)
        return backbone, reducer, cls.codec_type.load(folder / CODEC, backbone.device)


class Selective(Ablation):
    """TOFC itself: merging, and sixteen selectable entropy models."""

    kind = "tofc_selective"

    @classmethod
    def new_codec(cls, dim: int, point: str) -> FeatureCodec:  # noqa: ARG003
        """The paper's n_e."""
        return TofcCodec(CodecConfig(dim=dim, n_experts=16, hidden=HIDDEN))


class Single(Ablation):
    """One entropy model with hyperprior, and no router: in Fig. 12 an ablation, in Table I's group what all have."""

    kind = "tofc_single"


class Heuristic(Ablation):
    """The heuristic Laplacian in the place of the entropy models; a point is named for its bit length: ``bits-3``."""

    kind = "tofc_heuristic"
    codec_type = HeuristicCodec

    @classmethod
    def new_codec(cls, dim: int, point: str) -> FeatureCodec:
        """A codec of the point's bit length."""
        return HeuristicCodec(HeuristicConfig(dim=dim, bits=int(point.removeprefix("bits-"))))


class Factorized(Ablation):
    """A learned density for each channel in the place of the entropy models, without a hyperprior."""

    kind = "tofc_factorized"
    codec_type = FactorizedCodec

    @classmethod
    def new_codec(cls, dim: int, point: str) -> FeatureCodec:  # noqa: ARG003
        """The densities of ``dim`` channels."""
        return FactorizedCodec(FactorizedConfig(dim=dim))


class Unmerged(Ablation):
    """FMM without merging: the centres alone."""

    kind = "tofc_unmerged"

    @classmethod
    def new_reducer(cls, dim: int) -> Reducer:  # noqa: ARG003
        """The cluster centres."""
        return Centres()


class VisionZipDominant(Ablation):
    """VisionZip: a quarter of the features are kept for their attention, the others merged by their keys."""

    kind = "visionzip"

    @classmethod
    def new_reducer(cls, dim: int) -> Reducer:  # noqa: ARG003
        """The paper's 4 of 16."""
        return VisionZip(one_in=4)


class VisionZipMerging(Ablation):
    """VisionZip's merging for all features."""

    kind = "visionzip_merging"

    @classmethod
    def new_reducer(cls, dim: int) -> Reducer:  # noqa: ARG003
        """No dominant features."""
        return VisionZip(one_in=None)


class QFormerQueries(Ablation):
    """Learned queries in the place of merging."""

    kind = "qformer"
    reducer_type = QFormer

    @classmethod
    def new_reducer(cls, dim: int) -> Reducer:
        """The miniature's: two layers of 96, six queries."""
        return QFormer(QFormerConfig(dim=dim, queries=6, width=96, layers=2, heads=4))
