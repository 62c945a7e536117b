"""The backbone and the examples that a training's configuration names."""

from collections.abc import Mapping
from typing import Any

import torch

from harness import catalog
from harness.errors import ScenarioError
from harness.models import adapter
from harness.models.contract import Part
from harness.models.files import PARTS
from harness.models.llava import Llava, LlavaVision
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.manifest import MERGING
from harness.training.config import Codec, TrainingConfig
from harness.training.contract import TrainingData


def open_data(config: TrainingConfig, template: Any) -> TrainingData:
    """The examples that a configuration names; raises DataError if they cannot be read."""
    kind = catalog.load("kind of training data", config.data["kind"], catalog.TRAINING_DATA)
    data: TrainingData = kind(config.data_config(), template)
    return data


def open_backbone(config: TrainingConfig, device: torch.device) -> tuple[Llava | LlavaVision, Mapping[Part, str]]:
    """The backbone that a configuration names, and the fingerprints of its parts.

    If there are no questions about the pictures, it is only the vision side. Raises as its loader does, and
    ScenarioError for n_c that it cannot merge.
    """
    load = catalog.load("backbone", config.backbone, catalog.BACKBONES)
    # Random weights are the same ones when a training is resumed.
    torch.manual_seed(config.seed)
    models = load(config.backbone, device=device, dtype=config.dtype, weights=config.weights)
    backbone: Llava | LlavaVision
    if catalog.load("kind of training data", config.data["kind"], catalog.TRAINING_DATA).asks:
        adapter.refuse_untrainable(config.backbone, models.family)
        whole: Llava = models.backbone()
        whole.model.requires_grad_(False)
        backbone, base = whole, whole.fingerprints()
    else:
        backbone = models.vision()
        base = {part: models.fingerprint(part) for part in PARTS}
    if (largest := max(config.clusters)) > backbone.n_features:
        raise ScenarioError(
            f"clusters: {largest} is more than the {backbone.n_features} features of a patch of {config.backbone}"
        )
    return backbone, base


def open_codec(given: Codec, dim: int) -> FeatureCodec:
    """The untrained codec of a configuration for features of ``dim`` dimensions; what is not trained is frozen."""
    codec: FeatureCodec
    if given.scheme == MERGING:
        codec = TofcCodec(CodecConfig(dim=dim, n_experts=given.experts, hidden=given.hidden))
    else:
        kind = catalog.load("scheme", given.scheme, catalog.SCHEMES).codec_type()
        codec = kind(kind.Config(dim=dim, **({} if given.bits is None else {"bits": given.bits})))
    for scale in codec.scale_parameters() if given.step != "learned" else ():
        scale.requires_grad_(False)
    return codec
