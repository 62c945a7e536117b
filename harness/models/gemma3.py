"""Gemma 3, at full size: SigLIP on the whole image at 896 px, pooled, and bidirectional attention in pictures.

    P = 1 patch   V features   D feature dimension   T prompt tokens   H width of the language model

The model is cut after the pooling and before the projector's norm: 4096 positions, after the tower's last norm, go in
squares of 4 x 4 into V = 256 means of D = 1152. Pooling has no weights, and the projector's norm and matrix are applied
to each feature independently.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from torch import Tensor, nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector, Gemma3TextScaledWordEmbedding

from harness.errors import CheckpointError, unknown_name
from harness.models import prompts
from harness.models.family import Family
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.models.patches import pooled
from harness.models.tiling import StretchedTile
from harness.models.tower import Cut

_HALVES = (0.5, 0.5, 0.5)
"""SigLIP's mean and standard deviation of RGB in [0, 1]."""

_TEXTS: Mapping[str, Mapping[str, int]] = {
    "gemma-3-4b": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "gemma-3-12b": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "gemma-3-27b": {
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "query_pre_attn_scalar": 168,
    },
}


def full_size_config(name: str) -> Any:
    """The architecture of a full-size name, without the hub; raises CheckpointError for any other name."""
    if name not in _TEXTS:
        raise CheckpointError(unknown_name("full-size Gemma 3", name, _TEXTS))
    text = {
        "model_type": "gemma3_text",
        "sliding_window": 1024,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        **_TEXTS[name],
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return Gemma3Config(vision_config=vision, text_config=text)


def cut_of(config: Any) -> Cut:
    """Means over squares of the last layer's states, behind the tower's norm.

    Raises CheckpointError for squares that are not whole, and for a language model that reads text both ways.
    """
    vision = config.vision_config
    if config.text_config.use_bidirectional_attention:
        raise CheckpointError(
            "text_config.use_bidirectional_attention is true; a language model that writes reads text one way"
        )
    side = pooled(vision.image_size // vision.patch_size, config.mm_tokens_per_image)
    return Cut(n_features=config.mm_tokens_per_image, feature_dim=vision.hidden_size, is_normed=True, side=side)


def tiling_of(config: Any) -> StretchedTile:
    """The one tile of an image; its processor's pan and scan, off by default, is not run."""
    return StretchedTile(patch=config.vision_config.image_size, mean=_HALVES, std=_HALVES)


def projector_of(config: Any) -> nn.Module:
    """The projector of transformers; random where that begins with zeros, so that random weights show pictures."""
    module = Gemma3MultiModalProjector(config)
    nn.init.normal_(module.mm_input_projection_weight, std=config.vision_config.hidden_size**-0.5)
    return module


def through_norm(projector: Any, x_PVD: Tensor) -> Tensor:
    """Pooled features through the projector's norm and matrix: what follows its pooling."""
    weight_DH: Tensor = projector.mm_input_projection_weight
    normed_PVD: Tensor = projector.mm_soft_emb_norm(x_PVD.to(weight_DH.dtype))
    return normed_PVD @ weight_DH


def scaled_embedding(text_config: Any) -> nn.Module:
    """The table of the vocabulary's embeddings, which are read times the root of their width; visual tokens are not."""
    width = text_config.hidden_size
    return Gemma3TextScaledWordEmbedding(
        text_config.vocab_size, width, text_config.pad_token_id, embed_scale=width**0.5
    )


def bidirectional(
    text_config: Any, n_tokens: int, pictures: Sequence[tuple[int, int]], device: torch.device
) -> dict[str, Tensor]:
    """The attention mask, (1, 1, T, T), in layers of either kind: what came before, and the token's whole picture.

    Layers with a window read no further back than it reaches. Pictures are as large as they are: merging makes them
    shorter, and moves no boundary.
    """
    place_T = torch.arange(n_tokens, device=device)
    picture_T = torch.full((n_tokens,), -1, device=device)
    for number, (begin, end) in enumerate(pictures):
        picture_T[begin:end] = number
    reads_TT = place_T[None] <= place_T[:, None]
    reads_TT = reads_TT | ((picture_T[None] == picture_T[:, None]) & (picture_T[None] >= 0))
    near_TT = place_T[None] > place_T[:, None] - text_config.sliding_window
    return {"full_attention": reads_TT[None, None], "sliding_attention": (reads_TT & near_TT)[None, None]}


class Gemma3(Llava):
    """Gemma 3: the whole image is one patch, stretched to a square; a picture's tokens read each other both ways."""

    is_of = Family(
        config_class=Gemma3Config,
        model_class=Gemma3ForConditionalGeneration,
        template=prompts.GEMMA3,
        full_size=full_size_config,
        cut=cut_of,
        tiling=tiling_of,
        projector=projector_of,
        through=through_norm,
        embedding=scaled_embedding,
        masks=bidirectional,
        processor={"do_pan_and_scan": False, "image_mean": list(_HALVES), "image_std": list(_HALVES), "resample": 2},
    )


load = functools.partial(LlavaModels, Gemma3.is_of)
"""The :class:`harness.models.loading.LlavaModels` of a name."""
