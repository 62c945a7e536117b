"""LLaVA-OneVision, at full size and as this project's miniature: one code path.

    P patches (the thumbnail first)   V features a patch   C merged features a patch   D feature dimension
    T visual tokens   H width of the language model

The model is transformers' ``LlavaOnevisionForConditionalGeneration``. Its parts are called one by one, because a scheme
cuts between them, and because transformers' own way around them cannot take merged features.
"""

import os
from collections.abc import Mapping
from typing import Any

import harness.backbones.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import DynamicCache, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from harness.backbones import decoding, prompts, tower
from harness.backbones.arrangement import arrange
from harness.backbones.checkpoint import (
    ZOO,
    dtype_of,
    locate,
    random_model,
    read_config,
    read_model,
    read_tokenizer,
)
from harness.backbones.contract import Prefilled, Tiles
from harness.backbones.pieces import PieceTokenizer
from harness.backbones.tiling import Tiling
from harness.data.sample import Question
from harness.errors import BitstreamError, CheckpointError, UnavailableError, unknown_name

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
        raise CheckpointError(unknown_name("full-size backbone", name, texts))
    return LlavaOnevisionConfig(text_config=dict(texts[name]))


def load(
    name: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> "OneVision":
    """A LLaVA-OneVision by its name in :data:`SOURCES`, at ``dtype`` (None: float32 on a CPU, bfloat16 elsewhere).

    ``weights`` is a folder or a hub id to use instead of the name's own, or ``"random"``: the architecture alone, for
    latency work. Raises UnavailableError where the weights are not on this machine, CheckpointError where they are
    damaged or of another model.
    """
    if name not in SOURCES:
        raise CheckpointError(unknown_name("LLaVA-OneVision", name, SOURCES))
    device = torch.device(device)
    torch_dtype = dtype_of(dtype, device)
    if weights == "random":
        return _random(name, device, torch_dtype)
    folder = locate(name, weights or SOURCES[name])
    config = read_config(folder, LlavaOnevisionConfig)
    tokenizer = read_tokenizer(folder, (prompts.ONEVISION.stop,), config.text_config.vocab_size)
    model = read_model(folder, LlavaOnevisionForConditionalGeneration, config, device, torch_dtype)
    return OneVision(name, model, tokenizer)


def _random(name: str, device: torch.device, dtype: torch.dtype) -> "OneVision":
    """Random weights; config and tokenizer are the checkpoint's where that is on this machine."""
    config: Any = None
    try:
        folder = locate(name, SOURCES[name])
    except UnavailableError:
        config = full_size_config(name)
        tokenizer: Any = PieceTokenizer(config.text_config.vocab_size)
    else:
        config = read_config(folder, LlavaOnevisionConfig)
        tokenizer = read_tokenizer(folder, (prompts.ONEVISION.stop,), config.text_config.vocab_size)
    return OneVision(name, random_model(LlavaOnevisionForConditionalGeneration, config, device, dtype), tokenizer)


class OneVision:
    """A Backbone (see :mod:`harness.backbones.contract`) around a loaded model and its tokenizer.

    ``max_new_tokens`` bounds an answer; multiple choice and yes/no need a few. ``tiling`` and ``template`` are the
    model's own.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, *, max_new_tokens: int = 16) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.device: torch.device = model.device
        vision = model.config.vision_config
        self.n_features: int = (vision.image_size // vision.patch_size) ** 2
        self.feature_dim: int = vision.hidden_size
        self.template = prompts.ONEVISION
        self.tiling = tiling_of(model.config)
        self._max_tiles = int(model.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        self._before = tokenizer.encode(self.template.before, add_special_tokens=False).ids
        self._stop_ids = stop_ids(model, tokenizer, self.template)

    def preprocess(self, image: Image.Image) -> Tiles:
        """Thumbnail and tiles of an RGB image, on the CPU (see :mod:`harness.backbones.tiling`)."""
        return self.tiling(image)

    @torch.inference_mode()
    def encode_image(self, tiles: Tiles) -> torch.Tensor:
        """The visual features x (P, V, D), at the model's dtype."""
        pixels_PCHW = tiles.pixels_PCHW.to(self.device, non_blocking=True)
        return tower.features(self.model.model.vision_tower, pixels_PCHW, self.model.config.vision_feature_layer)

    @torch.inference_mode()
    def project(self, y_PCD: torch.Tensor) -> torch.Tensor:
        """Merged features through the projector, (P * C, H); of any float dtype, on any device."""
        return self._projected(y_PCD).flatten(0, 1)

    @torch.inference_mode()
    def project_all(self, x_PVD: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All features, (T, H), in the model's own arrangement (see :mod:`harness.backbones.arrangement`).

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
        tokens_PVH = self._projected(x_PVD)
        return arrange(tokens_PVH, self.model.model.image_newline, tiles.grid, tiles.image_size, self._max_tiles)

    @torch.inference_mode()
    def prefill(self, tokens_TH: torch.Tensor, question: Question) -> Prefilled:
        """Reads template, visual tokens and question."""
        return decoding.prefill(self.model, self.prompt(tokens_TH, question), DynamicCache(config=self.model.config))

    @torch.inference_mode()
    def generate(self, prefilled: Prefilled) -> str:
        """The greedy answer, at most ``max_new_tokens`` tokens of it."""
        tokens = decoding.continued(self.model, prefilled, self._stop_ids, self.max_new_tokens)
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def prompt(self, tokens_TH: torch.Tensor, question: Question) -> torch.Tensor:
        """The prompt's embeddings, up to where the answer begins: (prefix + T + suffix, H); differentiable."""
        ids = self._before + self.tokenizer.encode(self.template.suffix(question), add_special_tokens=False).ids
        text_TH = self.model.get_input_embeddings()(torch.tensor(ids, device=self.device))
        n_before = len(self._before)
        return torch.cat((text_TH[:n_before], tokens_TH.to(text_TH), text_TH[n_before:]))

    def _projected(self, x_PVD: torch.Tensor) -> torch.Tensor:
        projector = self.model.model.multi_modal_projector
        tokens_PVH: torch.Tensor = projector(x_PVD.to(self.device, projector.linear_1.weight.dtype))
        return tokens_PVH


def tiling_of(config: Any) -> Tiling:
    """The tiling that a config's tile size and grid pinpoints describe."""
    patch = config.vision_config.image_size
    grids = tuple((height // patch, width // patch) for height, width in config.image_grid_pinpoints)
    return Tiling(patch=patch, grids=grids)


def stop_ids(model: Any, tokenizer: Tokenizer, template: prompts.Template) -> frozenset[int]:
    """The tokens that end an answer: the template's, and those that the checkpoint declares."""
    declared = model.generation_config.eos_token_id
    declared = [declared] if isinstance(declared, int) else (declared or [])
    return frozenset([tokenizer.token_to_id(template.stop), *declared])
