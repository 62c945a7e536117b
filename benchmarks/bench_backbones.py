"""The miniature-sized backbone's stages beside transformers' own way through the same model.

Random weights: the times are those of any weights of this size. Both sides of a row run in turn, in the same rounds.
"""

import time
from collections.abc import Callable
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from harness.data.sample import Question
from harness.models.contract import Request, Untimed
from harness.models.onevision import OneVision
from harness.models.pieces import PieceTokenizer

TILE, VOCABULARY = 96, 768
ROUNDS = 15
QUESTION = Question(
    text="Which colour is the light?", kind="choice", options={"A": "red", "B": "green", "C": "amber", "D": "off"}
)


def miniature() -> OneVision:
    """A OneVision of 4 layers x 128 on 96 px tiles of 12 x 12 features, and 4 layers x 192 of language model."""
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": TILE,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 8192,
        },
        image_token_index=766,
        video_token_index=767,
        image_grid_pinpoints=[[h * TILE, w * TILE] for h in range(1, 7) for w in range(1, 7)],
    )
    torch.manual_seed(0)
    # Its method has no types.
    built: Any = LlavaOnevisionForConditionalGeneration
    model = built._from_config(config, attn_implementation="sdpa").eval()
    return OneVision("miniature", model, PieceTokenizer(VOCABULARY), max_new_tokens=2)


def medians_ms(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The median times of two callables, taken in turn, in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for call, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    ours, theirs = (1e3 * float(np.median(taken[1:])) for taken in times)
    return ours, theirs


def main() -> None:
    """Print a row for each stage: ours, transformers', and their ratio."""
    torch.set_num_threads(1)
    backbone = miniature()
    model = backbone.model
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8))
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": TILE, "width": TILE},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tiles = backbone.preprocess(image)
    x_PVD = backbone.encode(tiles)
    sizes = torch.tensor([tiles.layout.image_size])
    with torch.inference_mode():
        tokens_TH = backbone.project(x_PVD[:, :6])
        prompt_1TH = backbone.prompt([tokens_TH], QUESTION)[None]
        mask_1T = torch.ones(prompt_1TH.shape[:2], dtype=torch.long)

        def features_and_tokens() -> object:
            return backbone.project_all(backbone.encode(tiles), tiles.layout)

        def generated() -> object:
            return model.generate(
                inputs_embeds=prompt_1TH, attention_mask=mask_1T, do_sample=False, max_new_tokens=2, pad_token_id=0
            )

        rows = {
            "preprocess": (lambda: backbone.preprocess(image), lambda: processor(image, return_tensors="pt")),
            "encode, project all": (
                features_and_tokens,
                lambda: model.model.get_image_features(tiles.pixels_PCHW, sizes),
            ),
            "prefill, 2 tokens": (lambda: backbone.answer([Request([tokens_TH], QUESTION)], [Untimed()]), generated),
        }
        n_h, n_w = tiles.layout.grid
        table = Table(title=f"{image.width} x {image.height} image, {n_h} x {n_w} tiles, one thread, {ROUNDS} rounds")
        for heading in ("stage", "ours, ms", "transformers, ms", "ratio"):
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        for stage, (first, second) in rows.items():
            ours, theirs = medians_ms(first, second)
            table.add_row(stage, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
