"""Small random models of the real classes, a byte-level tokenizer with the templates' tokens, and questions to them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from harness.models import gemma3, internvl, llava15, onevision
from harness.models.contract import Request, Untimed
from harness.models.gemma3 import Gemma3
from harness.models.internvl import InternVL
from harness.models.llava import Llava
from harness.models.llava15 import Llava15
from harness.models.loading import LlavaModels
from harness.models.onevision import OneVision

SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<image>")
INTERNVL_SPECIAL = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
GEMMA3_SPECIAL = (
    *("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
)
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


def make_config15(*, tile=32, patch=8, width=32, **changes):
    """A LLaVA-1.5 with a square of (tile // patch) features a side."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=tile,
            patch_size=patch,
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
        image_seq_length=(tile // patch) ** 2,
        **changes,
    )


def make_internvl_config(*, tile=32, patch=4, width=32, vision=None, **changes):
    """An InternVL with a square of (tile // patch // 2) features a side, of 4 * width dimensions."""
    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_bias=True,
            image_size=[tile, tile],
            patch_size=[patch, patch],
            **(vision or {}),
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
        image_token_id=256 + INTERNVL_SPECIAL.index("<IMG_CONTEXT>"),
        image_seq_length=(tile // patch // 2) ** 2,
        **{"tie_word_embeddings": False, **changes},
    )


def make_gemma3_config(*, tile=32, patch=4, width=32, tokens=16, window=8, **changes):
    """A Gemma 3 with ``tokens`` features, more of them than its windowed layers reach back."""
    return Gemma3Config(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=tile,
            patch_size=patch,
            vision_use_head=False,
        ),
        text_config=Gemma3TextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=window,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            vocab_size=300,
            max_position_embeddings=8192,
            **{**NO_TOKENS, "pad_token_id": 256},
        ),
        mm_tokens_per_image=tokens,
        boi_token_index=256 + GEMMA3_SPECIAL.index("<start_of_image>"),
        eoi_token_index=256 + GEMMA3_SPECIAL.index("<end_of_image>"),
        image_token_index=256 + GEMMA3_SPECIAL.index("<image_soft_token>"),
        **{"tie_word_embeddings": False, **changes},
    )


def make_tokenizer(special=SPECIAL):
    """A token for each byte, and the special ones after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def make_model(config, seed=0):
    """Random weights, large enough that answers depend on what the model is shown."""
    torch.manual_seed(seed)
    kind: Any = KINDS[config.model_type]
    model = kind._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
            if config.model_type in ("internvl", "gemma3"):
                # Parameters that begin with zeros or ones would have no effect.
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


KINDS = {
    "llava": LlavaForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
    "internvl": InternVLForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}


def make_backbone(seed=0, **changes):
    """A OneVision of random weights."""
    return OneVision("tiny", make_model(make_config(**changes), seed), make_tokenizer())


def make_backbone15(seed=0, **changes):
    """A LLaVA-1.5 of random weights."""
    return Llava15("tiny", make_model(make_config15(**changes), seed), make_tokenizer())


def make_internvl(seed=0, **changes):
    """An InternVL of random weights."""
    return InternVL("tiny", make_model(make_internvl_config(**changes), seed), make_tokenizer(INTERNVL_SPECIAL))


def make_gemma3(seed=0, **changes):
    """A Gemma 3 of random weights."""
    return Gemma3("tiny", make_model(make_gemma3_config(**changes), seed), make_tokenizer(GEMMA3_SPECIAL))


def logits_of(backbone, pictures, question):
    """The logits (T, L) of a prompt, its pictures' visual tokens given, by the modules that answer it."""
    prompt, engine = backbone._laid_out(pictures, question), backbone._engine
    with torch.inference_mode():
        hidden_1TH = engine.language.model(
            inputs_embeds=prompt.embeds_TH[None], attention_mask=engine._mask(*prompt), use_cache=False
        )[0]
        return engine.language.lm_head(hidden_1TH)[0]


def save(backbone, folder):
    """A checkpoint as transformers writes it, with its tokenizer."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def old_name(name: str) -> str:
    """A tensor's name in the hub's checkpoints, which transformers before 5.0 wrote; InternViT has no vision_model."""
    if ".encoder.layer." in name or "_embeddings" in name or name.endswith("cls_token"):
        return name.removeprefix("model.")
    name = name.replace("model.vision_tower.vision_model.", "model.vision_tower.")
    for new, old in (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise AssertionError(name)


def write(folder: Path, weights: dict[str, torch.Tensor], *, sharded: bool) -> None:
    """A checkpoint's weights in one file, or in twelve under an index, as the hub's are."""
    for path in folder.glob("model*"):
        path.unlink()
    if not sharded:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(weights)
    shards = [names[k * len(names) // 12 : (k + 1) * len(names) // 12] for k in range(12)]
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-00012.safetensors"
        save_file({name: weights[name] for name in shard}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def on_hub(cache: Path, hub_id: str, backbone, *, old: bool) -> Path:
    """A checkpoint in the hub's cache as its repository has it: in float16, sharded, under new names or old ones.

    An old one has the config of its time, what versions stored that later ones compute, and a tied head twice.
    """
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save(backbone, folder)
    weights = {name: tensor.half().clone() for name, tensor in backbone.model.state_dict().items()}
    tied = backbone.model.config.tie_word_embeddings
    if old:
        config = json.loads((folder / "config.json").read_text())
        for part in (config, config["vision_config"], config["text_config"]):
            part["torch_dtype"] = part.pop("dtype", "float16")
        text = config["text_config"]
        text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
        text["tie_word_embeddings"] = tied
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        weights = {old_name(name): tensor for name, tensor in weights.items()}
        weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(16)[None]
    elif tied:
        del weights["lm_head.weight"]
    write(folder, weights, sharded=True)
    return folder


def said(side, tokens_TH, question):
    """What a language side answers to a question about one picture."""
    (answer,) = side.answer([Request([tokens_TH], question)], [Untimed()])
    return answer.text


def noise(width: int, height: int) -> Image.Image:
    """A picture in which every pixel matters."""
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


FAMILIES: dict[str, tuple[Callable[..., Llava], Any, Callable[..., LlavaModels], str]] = {
    "onevision": (make_backbone, LlavaOnevisionForConditionalGeneration, onevision.load, "llava-onevision-7b"),
    "llava15": (make_backbone15, LlavaForConditionalGeneration, llava15.load, "llava-1.5-7b"),
    "internvl": (make_internvl, InternVLForConditionalGeneration, internvl.load, "internvl3-8b"),
    "gemma3": (make_gemma3, Gemma3ForConditionalGeneration, gemma3.load, "gemma-3-4b"),
}


def stored(folder: Path, family: str, *, old: bool = True, sharded: bool = True, dtype=torch.float32, tied=False):
    """A checkpoint in ``folder``, and its tensors by their names in transformers 5."""
    build = FAMILIES[family][0]
    backbone = build(tie_word_embeddings=tied)
    save(backbone, folder)
    weights = {name: tensor.to(dtype).clone() for name, tensor in backbone.model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]
    write(folder, {old_name(n) if old else n: t for n, t in weights.items()}, sharded=sharded)
    return weights
