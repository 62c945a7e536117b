"""What follows from a published architecture alone: it is built without weights, and counted."""

import functools
from types import SimpleNamespace
from typing import Any

from harness import catalog
from harness.errors import CheckpointError


def features_a_patch(backbone: str) -> int:
    """V, the features that the tower's reduction leaves of a tile.

    Raises CheckpointError for a miniature, and for a backbone from elsewhere.
    """
    return int(_family(backbone).cut(_config(backbone)).n_features)


@functools.cache
def trainable_parameters(backbone: str, rank: int = 64, experts: int = 16) -> int:
    """LoRA on tower and language model, the projector, and TOFC's codec with its router.

    Raises CheckpointError for a miniature.
    """
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
    import torch

    from harness.models import adapter
    from harness.tofc.codec import CodecConfig, TofcCodec

    config = _config(backbone)
    with torch.device("meta"):
        model = _family(backbone).model_class(config)
        codec = TofcCodec(CodecConfig(dim=_family(backbone).cut(config).feature_dim, n_experts=experts))
    parts: Any = SimpleNamespace(model=model, projector=model.model.multi_modal_projector)
    return adapter.size(parts, rank) + sum(p.numel() for p in codec.parameters())


def _family(backbone: str) -> Any:
    """What tells a backbone's model classes: the first argument of its loader."""
    if not (given := getattr(catalog.load("backbone", backbone, catalog.BACKBONES), "args", ())):
        raise CheckpointError(f"backbone {backbone}: is not one whose architecture is known without its weights")
    return given[0]


def _config(backbone: str) -> Any:
    return _family(backbone).full_size(backbone)
