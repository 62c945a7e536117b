"""The ablations as schemes: TOFC with one part replaced, trained under one budget by ``recipes.ablations``.

Fig. 12 replaces the entropy coding of merged features; :class:`Selective` is the group's TOFC. Table I replaces the
merging, without a codec: backbone and reducer are trained with only the distortion as the loss, and the features cross
the link as half-precision numbers. Its points are called :data:`DISTORTION`; TOFC's merging is that point of
:class:`Single`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from safetensors import SafetensorError, safe_open

from harness.errors import CheckpointError, UnavailableError, unknown_name
from harness.files import no_folder
from harness.models.contract import Part
from harness.runs.digests import SHORT, of_file
from harness.schemes.contract import DeviceHalf, Models, OperatingPoint, ServerHalf
from harness.schemes.tofc import FeaturePoint, Tofc
from harness.tofc import manifest, trained
from harness.tofc.trained import ADAPTER, CODEC, MANIFEST, REDUCER

if TYPE_CHECKING:
    from harness.tofc.feature_codec import FeatureCodec
    from harness.tofc.merging import Reducer

WEIGHTS = Path(__file__).parent / "weights"
"""The bundled ones: a folder for each backbone, in it one for each scheme, in it one for each trained point."""

PROJECTOR = "projector.safetensors"
POINT = "point.json"
"""The file of a folder with an adapter that is written last, and says what the point was trained around, and how."""

DISTORTION = "distortion"
"""The point of Table I's methods."""

TABLE_1_CLUSTERS = 4
"""Table I's n_c: 2.8 % of a tile's 144 features, for the paper's 2.2 %, and a quarter of them is a whole number."""

FIG_12_CLUSTERS = (6, 3)
"""The n_c of the lessons of the points that have a projector."""

_FULL_SIZE_DIM = 1024
"""The towers' of the 7B backbones have 1024 and 1152; a miniature's has 160."""

HIDDEN = (32,)
"""The hidden width of every entropy model here: one layer, so that the trained points stay small."""


def folder_of(backbone: str, scheme: str, point: str) -> Path:
    """The folder of a point: a bundled or a user's own by its name, or a path.

    Raises UnavailableError, listing the known names, where there is none.
    """
    folders = [trained.TRAINED / backbone / scheme, WEIGHTS / backbone / scheme]
    marks = (PROJECTOR, POINT, MANIFEST)
    if (mark := trained.find(point, folders, marks)) is None:
        if trained.is_path(point):
            there = f"has none of {', '.join(marks)}" if Path(point).is_dir() else no_folder(Path(point))
            raise UnavailableError(f"{point}: {there}; a point's folder is expected, or that of a training")
        names = trained.known(folders, marks) or ["none"]
        raise UnavailableError(f"{folders[-1]}: {unknown_name('codec', point, names)}")
    return mark.parent


def adapter_of(folder: Path, models: Models, parts: Sequence[Part]) -> Path | None:
    """The adapter of a point that was trained with one.

    Raises CheckpointError where it was trained around other weights: by ``harness train`` of these parts, and by the
    recipe of any.
    """
    if (folder / MANIFEST).is_file():
        return trained.adapter_beside(folder / CODEC, models, parts)
    _refuse_other_weights(folder, models)
    return folder / ADAPTER if (folder / POINT).is_file() else None


def _refuse_other_weights(folder: Path, models: Models) -> None:
    """Raises CheckpointError where the recipe made a point around another file of weights than the model has."""
    from baselines.ablations.trained import trained_around

    around, _ = trained_around(folder)
    weights = getattr(models, "folder", None)
    # Random weights have no folder, and the recipe reads no weights of several files.
    if not around or weights is None or not (file := weights / "model.safetensors").is_file():
        return
    if (found := of_file(file)) != (wanted := around[:SHORT]):
        raise CheckpointError(
            f"{folder}: was trained around a model.safetensors whose digest is {wanted}, and that of {file} is "
            f"{found}; 'python -m recipes.ablations' makes it again"
        )


def _experts(codec: Path) -> int | None:
    """How many entropy models a codec's file says that it has; None if it does not say, or cannot be read."""
    try:
        with safe_open(codec, framework="np") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (OSError, SafetensorError, ValueError):
        return None
    found = config.get("n_experts") if isinstance(config, dict) else None
    return found if isinstance(found, int) else None


class Ablation(Tofc):
    """A scheme whose points are folders of :data:`WEIGHTS`; a subclass replaces a part.

    A point may also be the folder of a ``harness train --stage merging``, whose ``scheme`` is :attr:`method`, or of one
    that trained a codec: around any backbone. ``learned`` says that the reducer has weights.
    """

    Point: ClassVar[type[OperatingPoint]] = FeaturePoint
    learned: ClassVar[bool] = False
    method: ClassVar[str] = Tofc.kind
    """The scheme whose reduction this one's points were trained with."""
    is_single: ClassVar[bool | None] = None
    """Whether the codec has one entropy model, or several; None if the scheme does not restrict it."""

    @classmethod
    def codec_type(cls) -> "type[FeatureCodec]":
        """What codes the features."""
        from harness.tofc.codec import TofcCodec

        return TofcCodec

    @classmethod
    def new_codec(cls, dim: int, point: str) -> "FeatureCodec":  # noqa: ARG003
        """An untrained codec for the point of that name."""
        from harness.tofc.codec import CodecConfig, TofcCodec

        return TofcCodec(CodecConfig(dim=dim, n_experts=1, hidden=HIDDEN))

    @classmethod
    def reducer(cls, folder: Path, dim: int, device: str) -> "Reducer":  # noqa: ARG003
        """The reducer of a point's folder, for features of ``dim`` dimensions."""
        return cls.new_reducer(dim, TABLE_1_CLUSTERS)

    @classmethod
    def folder(cls, backbone: str, point: FeaturePoint) -> Path:
        """The point's folder.

        Raises UnavailableError where there is none, CheckpointError for one that was trained with another reduction or
        backbone, whose codec has as many entropy models as another scheme's, or whose files are of several trainings.
        """
        folder = folder_of(backbone, cls.kind, point.codec)
        if (path := folder / MANIFEST).is_file():
            scheme, method = manifest.reduction_of(manifest.read(path)) or ("an unnamed scheme", None)
            if method != cls.method:
                raise CheckpointError(
                    f"{folder}: was trained with the reduction of {scheme}; {cls.kind} needs one of {cls.method}, "
                    f"which 'harness train --stage merging --set scheme={cls.method}' makes"
                )
            trained.refuse_other_backbone(folder, backbone)
            trained.refuse_other_files(folder)
        if cls.is_single is not None and (path := folder / CODEC).is_file():
            experts = _experts(path)
            if experts is not None and (experts == 1) != cls.is_single:
                wanted = "one" if cls.is_single else "several"
                raise CheckpointError(
                    f"{path}: has {experts} entropy model{'s' * (experts > 1)}; {cls.kind} needs a codec of {wanted}, "
                    f"which 'harness train --set codec.experts={1 if cls.is_single else 16}' makes"
                )
        return folder

    @classmethod
    def is_codec_only(cls, backbone: str, point: FeaturePoint) -> bool:
        """Whether ``harness train`` fitted the point's codec alone."""
        return trained.is_codec_only(cls.folder(backbone, point))

    @classmethod
    def trained_n_c(cls, backbone: str, point: FeaturePoint) -> tuple[int, ...] | None:
        """The n_c that the point was trained for, by ``harness train`` or by ``recipes.ablations``."""
        folder = cls.folder(backbone, point)
        if (folder / MANIFEST).is_file():
            return trained.trained_n_c(folder)
        return (TABLE_1_CLUSTERS,) if (folder / POINT).is_file() else FIG_12_CLUSTERS

    @classmethod
    def device_half(cls, models: Models, point: FeaturePoint) -> DeviceHalf:
        """The vision tower, with the point's adapter where it has one, the point's reducer and codec."""
        from baselines.ablations.uncoded import HalfPrecision
        from harness.schemes.features import FeatureDevice, load_codec

        folder = cls.folder(models.name, point)
        vision = models.vision(adapter_of(folder, models, ("tower",)))
        reducer = cls.reducer(folder, vision.feature_dim, models.device)
        if not (folder / CODEC).is_file():
            return FeatureDevice(cls.kind, vision, reducer, HalfPrecision(), point, checked=False)
        codec = load_codec(cls.codec_type(), folder / CODEC, models.device)
        return FeatureDevice(cls.kind, vision, reducer, codec, point)

    @classmethod
    def server_half(cls, models: Models, point: FeaturePoint) -> ServerHalf:
        """The language model and the point's projector, or both with its adapter, and the point's codec.

        Raises CheckpointError for a file that is absent, damaged or of other sizes.
        """
        from baselines.ablations.trained import read
        from baselines.ablations.uncoded import HalfPrecision
        from harness.schemes.features import FeatureServer, limits_of, load_codec

        folder = cls.folder(models.name, point)
        adapter = adapter_of(folder, models, ("projector", "language"))
        if adapter is not None or not (folder / PROJECTOR).is_file():
            language = models.language(adapter)
        else:
            projector, _ = read(folder / PROJECTOR)
            try:
                language = models.language(projector=projector)
            except CheckpointError as error:
                raise CheckpointError(f"{folder / PROJECTOR}: {error}") from None
        limits = limits_of(models, language, point)
        if not (folder / CODEC).is_file():
            return FeatureServer(language, HalfPrecision(), limits)
        return FeatureServer(language, load_codec(cls.codec_type(), folder / CODEC, models.device), limits)

    @classmethod
    def files(cls, backbone: str, point: FeaturePoint) -> dict[str, Path]:
        """The files of the point's folder."""
        folder = cls.folder(backbone, point)
        files = sorted([*folder.glob("*.safetensors"), *folder.glob(f"{ADAPTER}/*")])
        return {f"{cls.kind} {point.codec}, {file.relative_to(folder)}": file for file in files}


class Selective(Ablation):
    """TOFC itself: merging, and sixteen selectable entropy models."""

    kind = "tofc_selective"
    is_single = False

    @classmethod
    def new_codec(cls, dim: int, point: str) -> "FeatureCodec":  # noqa: ARG003
        """The paper's n_e."""
        from harness.tofc.codec import CodecConfig, TofcCodec

        return TofcCodec(CodecConfig(dim=dim, n_experts=16, hidden=HIDDEN))


class Single(Ablation):
    """One entropy model with hyperprior, and no router: in Fig. 12 an ablation, in Table I's group the common codec."""

    kind = "tofc_single"
    is_single = True


class Heuristic(Ablation):
    """The heuristic Laplacian in place of the entropy models; a point is named after its bit length: ``bits-3``."""

    kind = "tofc_heuristic"

    @classmethod
    def codec_type(cls) -> "type[FeatureCodec]":
        """The heuristic's."""
        from baselines.ablations.heuristic import HeuristicCodec

        return HeuristicCodec

    @classmethod
    def new_codec(cls, dim: int, point: str) -> "FeatureCodec":
        """A codec of the point's bit length."""
        from baselines.ablations.heuristic import HeuristicCodec, HeuristicConfig

        return HeuristicCodec(HeuristicConfig(dim=dim, bits=int(point.removeprefix("bits-"))))


class Factorized(Ablation):
    """A learned density for each channel in place of the entropy models, without a hyperprior."""

    kind = "tofc_factorized"

    @classmethod
    def codec_type(cls) -> "type[FeatureCodec]":
        """The densities'."""
        from baselines.ablations.factorized import FactorizedCodec

        return FactorizedCodec

    @classmethod
    def new_codec(cls, dim: int, point: str) -> "FeatureCodec":  # noqa: ARG003
        """The densities of ``dim`` channels."""
        from baselines.ablations.factorized import FactorizedCodec, FactorizedConfig

        return FactorizedCodec(FactorizedConfig(dim=dim))


class Unmerged(Ablation):
    """FMM without merging: only the centres."""

    kind = method = "tofc_unmerged"

    @classmethod
    def new_reducer(cls, dim: int, n_clusters: int) -> "Reducer":  # noqa: ARG003
        """The cluster centres."""
        from baselines.ablations.reducers import Centres

        return Centres()


class VisionZipDominant(Ablation):
    """VisionZip: a quarter of the features are kept for their attention, the others merged by their keys."""

    kind = method = "visionzip"

    @classmethod
    def new_reducer(cls, dim: int, n_clusters: int) -> "Reducer":  # noqa: ARG003
        """The paper's 4 of 16."""
        from baselines.ablations.reducers import VisionZip

        return VisionZip(one_in=4)


class VisionZipMerging(Ablation):
    """VisionZip's merging for all features."""

    kind = method = "visionzip_merging"

    @classmethod
    def new_reducer(cls, dim: int, n_clusters: int) -> "Reducer":  # noqa: ARG003
        """No dominant features."""
        from baselines.ablations.reducers import VisionZip

        return VisionZip(one_in=None)


class QFormerQueries(Ablation):
    """Learned queries in place of merging."""

    kind = method = "qformer"
    learned = True

    @classmethod
    def reducer(cls, folder: Path, dim: int, device: str) -> "Reducer":  # noqa: ARG003
        """The trained queries."""
        from baselines.ablations.qformer import QFormer

        return QFormer.load(folder / REDUCER, device)

    @classmethod
    def new_reducer(cls, dim: int, n_clusters: int) -> "Reducer":
        """As many queries as features are kept; two layers of 768, in miniature of 96."""
        from baselines.ablations.qformer import QFormer, QFormerConfig

        if dim < _FULL_SIZE_DIM:
            return QFormer(QFormerConfig(dim=dim, queries=n_clusters, width=96, layers=2, heads=4))
        return QFormer(QFormerConfig(dim=dim, queries=n_clusters))
