"""LLaVA-OneVision, at full size and as this project's miniatures: one code path.

P patches (the thumbnail first)   V features a patch   D feature dimension   T visual tokens
H width of the language model
"""

import os
from collections.abc import Mapping
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from PIL import Image
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from harness.errors import BitstreamError, CheckpointError, unknown_name
from harness.models import prompts
from harness.models.arrangement import arrange
from harness.models.checkpoint import ZOO
from harness.models.contract import Tiles
from harness.models.llava import Family, Llava
from harness.models.tiling import Tiling

SOURCES: Mapping[str, str | os.PathLike[str]] = {
    "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "mini-onevision": ZOO / "mini-onevision",
    "mini-nano": ZOO / "mini-nano",
}
"""Where the weights of each name are: a hub id, or a folder of the zoo."""

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


class OneVision(Llava):
    """LLaVA-OneVision: SigLIP on any-resolution tiles, and Qwen2. ``tiling`` is how it cuts an image."""

    family = Family(
        config_class=LlavaOnevisionConfig,
        model_class=LlavaOnevisionForConditionalGeneration,
        template=prompts.ONEVISION,
        sources=SOURCES,
        full_size=full_size_config,
    )

    def __init__(self, name: str, model: Any, tokenizer: Any, *, max_new_tokens: int = 16) -> None:
        super().__init__(name, model, tokenizer, max_new_tokens=max_new_tokens)
        self.tiling = tiling_of(model.config)
        self._max_tiles = int(model.config.vision_aspect_ratio.removeprefix("anyres_max_"))

    def preprocess(self, image: Image.Image) -> Tiles:
        """Thumbnail and tiles of an RGB image, on the CPU (see :mod:`harness.models.tiling`)."""
        return self.tiling(image)

    @torch.inference_mode()
    def project_all(self, x_PVD: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All features, (T, H), in the model's own arrangement (see :mod:`harness.models.arrangement`).

        Raises BitstreamError for features that are not those of an image of ``tiles.image_size``.
        """
        n_h, n_w = tiles.grid
        wanted = (n_h * n_w + 1, self.n_features, self.feature_dim)
        if x_PVD.shape != wanted or tiles.grid != self.tiling.grid(*tiles.image_size):
            height, width = tiles.image_size
            raise BitstreamError(
                f"features of shape {tuple(x_PVD.shape)} on a {n_h} x {n_w} grid are not those that {self.name} has "
                f"of a {width} x {height} image"
            )
        return self.arranged(self._projected(x_PVD), tiles)

    def arranged(self, tokens_PVH: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """Projected tokens as (T, H), rows closed by the newline token; differentiable."""
        return arrange(tokens_PVH, self.model.model.image_newline, tiles.grid, tiles.image_size, self._max_tiles)


def tiling_of(config: Any) -> Tiling:
    """The tiling that a LlavaOnevisionConfig's tile size and grid pinpoints describe."""
    patch = config.vision_config.image_size
    grids = tuple((height // patch, width // patch) for height, width in config.image_grid_pinpoints)
    return Tiling(patch=patch, grids=grids)


load = OneVision.load
