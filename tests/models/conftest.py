"""Small random models of the real classes, and a byte-level tokenizer with the templates' tokens."""

import harness.models.torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from harness.models.onevision import OneVision

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<image>")


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
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        ),
        image_token_index=261,
        video_token_index=262,
        image_grid_pinpoints=[[h * tile, w * tile] for h in range(1, 7) for w in range(1, 7)],
        vision_aspect_ratio=f"anyres_max_{max_tiles}",
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


def make_backbone(seed=0, **changes):
    """A OneVision of random weights, large enough that its answers depend on what it is shown."""
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration._from_config(make_config(**changes), attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return OneVision("tiny", model.eval(), make_tokenizer())


@pytest.fixture(scope="session")
def tiny():
    """A OneVision with 4 x 4 features a tile."""
    return make_backbone()


@pytest.fixture(scope="session")
def real_grid():
    """A OneVision with the real one's 27 x 27 features a tile."""
    return make_backbone(tile=384, patch=14)


@pytest.fixture(scope="session")
def build():
    """The builders of this file, for tests that want a model of their own."""
    return make_backbone


@pytest.fixture(scope="session")
def tokenizer():
    """The byte-level tokenizer."""
    return make_tokenizer()
