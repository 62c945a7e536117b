"""InternVL3, at full size: InternViT on stretched tiles of 448 px, pixel shuffle, and Qwen2.5.

    P patches (tiles row by row, then the thumbnail where they are several)   V features a patch   D feature dimension

The model is cut after the pixel shuffle and before the projector: 1024 positions of a patch, without the class token,
go in squares of 2 x 2 into V = 256 features of D = 4 x 1024. The projector is applied to each of them independently.
"""

import functools
from collections.abc import Mapping
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from harness.errors import CheckpointError, unknown_name
from harness.models import prompts
from harness.models.family import Family
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.models.patches import INTERNVL_TILES, one_of_two, shuffled
from harness.models.tiling import StretchedTiling
from harness.models.tower import Cut

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in [0, 1] over ImageNet."""

_TEXTS: Mapping[str, Mapping[str, int]] = {
    "internvl3-1b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "internvl3-2b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "internvl3-8b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
    },
}


def full_size_config(name: str) -> Any:
    """The architecture of a full-size name, without the hub; raises CheckpointError for any other name.

    The positions of up to 32,768 tokens are those of the checkpoints, which scale them beyond.
    """
    if name not in _TEXTS:
        raise CheckpointError(unknown_name("full-size InternVL3", name, _TEXTS))
    text = {
        "model_type": "qwen2",
        **_TEXTS[name],
        "num_key_value_heads": 4 if name == "internvl3-8b" else 2,
        "vocab_size": 151674,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
    return InternVLConfig(vision_config={"attention_bias": True}, text_config=text, tie_word_embeddings=False)


def cut_of(config: Any) -> Cut:
    """The states of a layer in squares, one after the other; raises CheckpointError where the class token is kept."""
    vision = config.vision_config
    strategy, layer = config.vision_feature_select_strategy, config.vision_feature_layer
    if strategy != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy is {strategy!r}; 'default' is expected, which leaves the class token out: "
            "with it the positions are no square"
        )
    positions = one_of_two(vision.image_size) // one_of_two(vision.patch_size)
    side = shuffled(positions, config.downsample_ratio)
    return Cut(
        n_features=(positions // side) ** 2,
        feature_dim=side**2 * vision.hidden_size,
        layer=layer,
        drops_class=True,
        # transformers takes the last layer's states after the tower's norm, if it has one; those of others before it.
        is_normed=layer == -1,
        side=side,
        stacks=True,
    )


def tiling_of(config: Any) -> StretchedTiling:
    """Tiles of the tower's size, from one to twelve, whose grid has the aspect ratio that is closest to the image's."""
    fewest, most = INTERNVL_TILES
    return StretchedTiling(
        patch=one_of_two(config.vision_config.image_size),
        min_tiles=fewest,
        max_tiles=most,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


class InternVL(Llava):
    """InternVL3; the tokens of its patches are read one after the other, the thumbnail's last."""

    is_of = Family(
        config_class=InternVLConfig,
        model_class=InternVLForConditionalGeneration,
        template=prompts.INTERNVL,
        full_size=full_size_config,
        cut=cut_of,
        tiling=tiling_of,
        projector=InternVLMultiModalProjector,
        processor={
            "min_patches": INTERNVL_TILES[0],
            "max_patches": INTERNVL_TILES[1],
            "image_mean": list(IMAGENET_MEAN),
            "image_std": list(IMAGENET_STD),
        },
    )


load = functools.partial(LlavaModels, InternVL.is_of)
"""The :class:`harness.models.loading.LlavaModels` of a name."""
