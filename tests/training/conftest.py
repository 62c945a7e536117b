"""Tiny random checkpoints of both families, and a small file of conversations with its images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
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

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _save(model: Any, folder: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<image>")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def onevision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-OneVision with 4 x 4 features a tile of 32 pixels."""
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=Qwen2Config(**TEXT),
        image_token_index=261,
        video_token_index=262,
        image_grid_pinpoints=[[h * 32, w * 32] for h in range(1, 3) for w in range(1, 3)],
        vision_aspect_ratio="anyres_max_9",
    )
    return _save(LlavaOnevisionForConditionalGeneration(config), tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="session")
def llava15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-1.5 with 4 x 4 features."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT),
        image_token_index=261,
        image_seq_length=16,
    )
    return _save(LlavaForConditionalGeneration(config), tmp_path_factory.mktemp("llava15"))


def entries() -> list[dict[str, Any]]:
    """Conversations about bright and dark pictures, one of two turns, and one of text alone."""
    found: list[dict[str, Any]] = []
    for number in range(8):
        said = [
            {"from": "human", "value": "<image>\nIs it bright?" if number % 2 else "Is it bright?\n<image>"},
            {"from": "gpt", "value": "Yes" if number % 2 else "No"},
        ]
        if number == 3:
            said += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes"}]
        found.append({"id": f"{number:06d}", "image": f"some/{number}.png", "conversations": said})
    text = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Yes"}]
    return [*found[:4], {"id": "words", "conversations": text}, *found[4:]]


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """The file of :func:`entries`; its images are under ``images`` beside it."""
    (tmp_path / "images" / "some").mkdir(parents=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 128, (24, 40, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / "some" / f"{number}.png")
    (tmp_path / "mix.json").write_text(json.dumps(entries()))
    return tmp_path / "mix.json"


@pytest.fixture
def write_config(tmp_path: Path, conversations: Path, onevision_folder: Path) -> Callable[..., Path]:
    """Writes a configuration that trains in a second on the conversations; arguments replace its keys."""

    def write(**changes: Any) -> Path:
        given = {
            "name": "tiny",
            "backbone": "mini-onevision",
            "weights": str(onevision_folder),
            "data": {
                "kind": "conversations",
                "file": str(conversations),
                "images": str(conversations.parent / "images"),
            },
            "clusters": [2, 3],
            "lambda": 0.1,
            "temperature": {"hard_share": 0.25},
            "codec": {"experts": 3, "hidden": [16]},
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
            "learning_rates": {"language": 0.01, "vision": 0.001, "projector": 0.01, "codec": 0.01, "step": 0.02},
            "prefit": {"steps": 6, "pictures": 4, "batch": 2},
            "batch": 4,
            "micro_batch": 2,
            "steps": 6,
            "precision": "no",
            "held_out": 2,
            "log_every": 2,
            "save_every": 2,
            "threads": 1,
            "out": str(tmp_path / "out"),
            **changes,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in given.items() if value is not None}))
        return path

    return write


class Silent:
    """A reporter that records the log's lines, and may stop the training after some steps as a user would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self._left = stop_after

    def phase(self, name: str, total: int, done: int) -> None:
        """Records the phase."""
        self.counts = name in ("prefit", "joint")

    def advance(self) -> None:
        """Counts the training's steps."""
        if self.counts and self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    def line(self, text: str) -> None:
        """Records a line."""
        self.lines.append(text)


@pytest.fixture
def silent() -> Silent:
    """A reporter."""
    return Silent()


@pytest.fixture
def train() -> Callable[..., Silent]:
    """Trains a configuration in this process."""
    from harness.training.load import load
    from harness.training.loop import Training

    def run(path: Path, *settings: str, stage: Any = "whole", stop_after: int | None = None) -> Silent:
        reporter = Silent(stop_after)
        training = Training(load(path, settings, stage), machine={"name": "test"})
        training.run(reporter)
        return reporter

    return run
