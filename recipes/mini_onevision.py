"""Makes mini-onevision from seeds: ``python -m recipes.mini_onevision``.

Three parts, each of which can be resumed: a language model on text, a tower on dense labels, then the language
model on what the tower sees, merged and whole. See tower.py and language.py for what each of them learns.
"""

import json
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from harness.cli import guarded
from harness.models.onevision import OneVision, load
from harness.models.patches import grids_up_to
from recipes import cards, command, features, language, stages, tower
from recipes.views import MAX_GRID, MAX_TILES, PATCH_PX, TILE_PX
from recipes.vocabulary import IMAGE, STOP, VOCABULARY, make_tokenizer

NAME = "mini-onevision"
SEED = 0
BOOKS = 40
"""Books of training pictures whose merged features the language model learns from."""


def config() -> LlavaOnevisionConfig:
    """The architecture: LLaVA-OneVision's, in sizes that two cores train in an hour."""
    return LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 160,
            "intermediate_size": 640,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "image_size": TILE_PX,
            "patch_size": PATCH_PX,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
        },
        image_token_index=3,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{MAX_TILES}",
        image_grid_pinpoints=[[n_h * TILE_PX, n_w * TILE_PX] for n_h, n_w in grids_up_to(MAX_GRID)],
        tie_word_embeddings=True,
    )


def untrained() -> OneVision:
    """The model with its seeded first weights, and its tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model: Any = LlavaOnevisionForConditionalGeneration(config())
    assert tokenizer.token_to_id(IMAGE) == model.config.image_token_index
    model.generation_config.eos_token_id = tokenizer.token_to_id(STOP)
    return OneVision(NAME, model.eval(), tokenizer)


def make(folder: Path, work: Path, workers: int) -> None:
    """Train in ``work``, where finished stages are stored, and save the model and its tokenizer to ``folder``."""
    backbone = untrained()
    language.train_lookup(backbone, work)
    language.train_words(backbone, work)
    vision_tower = backbone.model.model.vision_tower
    tower.train_tower(vision_tower, work)
    books = stages.few(BOOKS)
    features.cache_books(vision_tower, work / "features", books, workers)
    lessons = features.Lessons(work / "features", books)
    language.excite(backbone)
    language.train_answers(backbone, work, lessons)
    language.train_whole(backbone, work, lessons)
    save(backbone, folder)


def save(backbone: OneVision, folder: Path) -> None:
    """The checkpoint as transformers saves it, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone.model.half().save_pretrained(folder)
    backbone.model.float()
    backbone.tokenizer.save(str(folder / "tokenizer.json"))
    preprocessor = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": TILE_PX, "width": TILE_PX},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_grid_pinpoints": backbone.model.config.image_grid_pinpoints,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def card(folder: Path, seconds: float) -> str:
    """The card: what the checkpoint is, how it was made, and what the saved files score."""
    backbone = load(NAME, weights=folder).backbone()
    vision, text = backbone.model.config.vision_config, backbone.model.config.text_config
    return f"""# {NAME}

A `LlavaOnevisionForConditionalGeneration` of {cards.parameters_m(backbone):.2f} million parameters, trained by this
project from scratch. It stands in for LLaVA-OneVision-7B where that is not installed: the same code, in miniature.

- Tiles of {vision.image_size} px in patches of {vision.patch_size} px: {backbone.n_features} features of
  {backbone.feature_dim} a tile. Tower of {vision.num_hidden_layers} layers; language model of
  {text.num_hidden_layers} layers, width {text.hidden_size}.
- Command: `python -m recipes.mini_onevision`. {cards.made(SEED, seconds)}
- Data: the training splits of StreetsQA and GlimpseQA. {tower.STEPS} + {tower.DETAILS_STEPS} steps of
  {tower.TILES_A_STEP} tiles with dense labels; {language.LOOKUP_STEPS} + {language.WORDS_STEPS} steps of text;
  {language.ANSWERS_STEPS} steps of {language.ANSWERS_PICTURES} pictures of {BOOKS} books, merged;
  {language.WHOLE_STEPS} steps with {language.WHOLE_PICTURES} pictures' tokens unmerged. The test splits come from
  another seed and other background textures; training never sees them.

{cards.scored(backbone)}
"""


if __name__ == "__main__":
    guarded(lambda: command.run(NAME, __doc__, make, card), NAME, resumes=True)
