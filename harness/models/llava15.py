"""LLaVA-1.5, at full size and as this project's miniature: CLIP on one padded tile, and Vicuna.

P = 1 patch   V features   D feature dimension   T visual tokens   H width of the language model
"""

import os
from collections.abc import Mapping
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration

from harness.errors import BitstreamError, CheckpointError, unknown_name
from harness.models import prompts
from harness.models.checkpoint import ZOO
from harness.models.contract import Tiles
from harness.models.llava import Family, Llava
from harness.models.tiling import PaddedTile

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of RGB in [0, 1] over CLIP's training pictures; padding has the mean colour."""

SOURCES: Mapping[str, str | os.PathLike[str]] = {
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "mini-llava15": ZOO / "mini-llava15",
}
"""Where the weights of each name are: a hub id, or a folder of the zoo."""

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


class Llava15(Llava):
    """LLaVA-1.5: the whole image is one patch, padded to a square; its tokens are read in the features' order.

    ``tiling`` is how it fits an image.
    """

    family = Family(
        config_class=LlavaConfig,
        model_class=LlavaForConditionalGeneration,
        template=prompts.LLAVA15,
        sources=SOURCES,
        full_size=full_size_config,
    )

    def __init__(self, name: str, model: Any, tokenizer: Any, *, max_new_tokens: int = 16) -> None:
        super().__init__(name, model, tokenizer, max_new_tokens=max_new_tokens)
        self.tiling = PaddedTile(patch=model.config.vision_config.image_size, mean=CLIP_MEAN, std=CLIP_STD)

    def preprocess(self, image: Image.Image) -> Tiles:
        """An RGB image centred on a square of CLIP's mean colour, resized and normalised: (1, 3, side, side)."""
        return self.tiling(image)

    def arranged(self, tokens_PVH: torch.Tensor, tiles: Tiles) -> torch.Tensor:  # noqa: ARG002
        """Projected tokens as they are: (V, H)."""
        return tokens_PVH.flatten(0, 1)

    @torch.inference_mode()
    def project_all(self, x_PVD: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All features through the projector, (V, H); raises BitstreamError unless they are those of one patch."""
        wanted = (1, self.n_features, self.feature_dim)
        if x_PVD.shape != wanted or tiles.grid != (1, 1):
            raise BitstreamError(
                f"features of shape {tuple(x_PVD.shape)} on a {tiles.grid[0]} x {tiles.grid[1]} grid are not those of "
                f"one patch, {wanted}, which is what {self.name} has"
            )
        return self.arranged(self._projected(x_PVD), tiles)


load = Llava15.load
