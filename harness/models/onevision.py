"""LLaVA-OneVision, at full size and as this project's miniatures: one code path.

P patches (the thumbnail first)   V features a patch   D feature dimension   T visual tokens
H width of the language model
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

from harness.errors import CheckpointError, unknown_name
from harness.models import prompts
from harness.models.arrangement import arrange
from harness.models.contract import Layout
from harness.models.family import Family, llava_cut
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.models.patches import grids_of
from harness.models.tiling import Tiling

_TEXT_7B: Mapping[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
_TEXT_05B: Mapping[str, Any] = {
    **_TEXT_7B,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 152000,
    "tie_word_embeddings": True,
}


def full_size_config(name: str) -> Any:
    """The architecture of a full-size name, without the hub; raises CheckpointError for any other name.

    Vision tower, tiling and token ids are the defaults of transformers' config; the two vocabularies are inferred from
    the models' published sizes in parameters.
    """
    texts = {"llava-onevision-7b": _TEXT_7B, "llava-onevision-0.5b": _TEXT_05B}
    if name not in texts:
        raise CheckpointError(unknown_name("full-size LLaVA-OneVision", name, texts))
    return LlavaOnevisionConfig(text_config=dict(texts[name]))


def tiling_of(config: Any) -> Tiling:
    """The tiling that a LlavaOnevisionConfig's tile size and grid pinpoints describe."""
    max_tiles(config)
    patch = config.vision_config.image_size
    return Tiling(patch=patch, grids=grids_of(config.image_grid_pinpoints, patch))


def arranged(config: Any, tokens_PVH: Tensor, newline_H: Tensor | None, layout: Layout) -> Tensor:
    """Projected tokens as (T, H), rows closed by the newline token (see :mod:`harness.models.arrangement`)."""
    assert newline_H is not None
    return arrange(tokens_PVH, newline_H, layout.grid, layout.image_size, max_tiles(config))


def max_tiles(config: Any) -> int:
    """The N of ``anyres_max_N``; raises CheckpointError for another way to treat an aspect ratio."""
    declared = config.vision_aspect_ratio
    if match := re.fullmatch(r"anyres_max_([1-9]\d*)", str(declared)):
        return int(match[1])
    raise CheckpointError(
        f"vision_aspect_ratio is {declared!r}; 'anyres_max_9' or another anyres_max_N is expected: the plain 'anyres' "
        "and 'square' arrange features otherwise and are not supported"
    )


class OneVision(Llava):
    """LLaVA-OneVision: SigLIP on any-resolution tiles, and Qwen2."""

    is_of = Family(
        config_class=LlavaOnevisionConfig,
        model_class=LlavaOnevisionForConditionalGeneration,
        template=prompts.ONEVISION,
        full_size=full_size_config,
        cut=functools.partial(llava_cut, "siglip_vision_model", "full"),
        tiling=tiling_of,
        projector=LlavaOnevisionMultiModalProjector,
        has_newline=True,
        arranged=arranged,
    )


load = functools.partial(LlavaModels, OneVision.is_of)
"""The :class:`harness.models.loading.LlavaModels` of a name."""
