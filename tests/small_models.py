"""Small random models of the real classes, a byte-level tokenizer with the templates' tokens, and what asks them."""

from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from harness.models.contract import Request, Untimed
from harness.models.llava15 import Llava15
from harness.models.onevision import OneVision

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<image>")
NO_TOKENS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def make_config(*, tile=32, patch=8, width=32, layers=2, max_tiles=9, **changes):
    """A OneVision with a square of (tile // patch) features a side."""
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            image_size=tile,
            patch_size=patch,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=300,
            max_position_embeddings=8192,
            **NO_TOKENS,
        ),
        image_token_index=261,
        video_token_index=262,
        image_grid_pinpoints=[[h * tile, w * tile] for h in range(1, 7) for w in range(1, 7)],
        vision_aspect_ratio=f"anyres_max_{max_tiles}",
        **changes,
    )


def make_config15(**changes):
    """A LLaVA-1.5 with 4 x 4 features."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=300,
            **NO_TOKENS,
        ),
        image_token_index=261,
        image_seq_length=16,
        **changes,
    )


def make_tokenizer():
    """A token a byte, and the special ones after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer


def make_model(config, seed=0):
    """Random weights, large enough that answers depend on what the model is shown."""
    kind = LlavaForConditionalGeneration if config.model_type == "llava" else LlavaOnevisionForConditionalGeneration
    torch.manual_seed(seed)
    model = kind._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return model


def make_backbone(seed=0, **changes):
    """A OneVision of random weights."""
    return OneVision("tiny", make_model(make_config(**changes), seed), make_tokenizer())


def make_backbone15(seed=0, **changes):
    """A LLaVA-1.5 of random weights."""
    return Llava15("tiny", make_model(make_config15(**changes), seed), make_tokenizer())


def save(backbone, folder):
    """A checkpoint as transformers writes it, with its tokenizer."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def said(side, tokens_TH, question):
    """What a language side answers to a question about one picture."""
    (answer,) = side.answer([Request([tokens_TH], question)], [Untimed()])
    return answer.text
