"""LLaVA-1.5, at full size and as this project's miniature: CLIP on one padded tile, and Vicuna.

P = 1 patch   V features   D feature dimension   T visual tokens   H width of the language model
"""

import functools
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from harness.errors import CheckpointError, unknown_name
from harness.models import prompts
from harness.models.family import Family, llava_cut
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.models.tiling import PaddedTile

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of RGB in [0, 1] over CLIP's training pictures; padding has the mean colour."""

_TEXT_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}


def full_size_config(name: str) -> Any:
    """The architecture of a full-size name, without the hub; raises CheckpointError for any other name.

    The vision tower (CLIP ViT-L/14 at 336 px) and the layer are the defaults of transformers' config.
    """
    if name != "llava-1.5-7b":
        raise CheckpointError(unknown_name("full-size LLaVA-1.5", name, ("llava-1.5-7b",)))
    return LlavaConfig(text_config=dict(_TEXT_7B))


def tiling_of(config: Any) -> PaddedTile:
    """The one tile of an image: centred on a square of CLIP's mean colour, resized and normalised."""
    return PaddedTile(patch=config.vision_config.image_size, mean=CLIP_MEAN, std=CLIP_STD)


class Llava15(Llava):
    """LLaVA-1.5: the whole image is one patch, padded to a square; its tokens are read in the features' order."""

    is_of = Family(
        config_class=LlavaConfig,
        model_class=LlavaForConditionalGeneration,
        template=prompts.LLAVA15,
        full_size=full_size_config,
        cut=functools.partial(llava_cut, "clip_vision_model", "default"),
        tiling=tiling_of,
        projector=LlavaMultiModalProjector,
    )


load = functools.partial(LlavaModels, Llava15.is_of)
"""The :class:`harness.models.loading.LlavaModels` of a name."""
