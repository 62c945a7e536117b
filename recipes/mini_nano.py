"""Makes mini-nano from seeds: ``python -m recipes.mini_nano``.

The model that a device runs alone in place of a server's mini-onevision: that one's vision tower, as the 0.5B model of
LLaVA-OneVision has the 7B model's, in front of a language model of half the width and half the layers. Trained in
mini-onevision's stages, with fewer steps.
"""

from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from harness.cli import guarded
from harness.models.onevision import OneVision, load
from recipes import cards, command, features, language, mini_onevision, stages
from recipes.vocabulary import STOP, make_tokenizer

NAME = "mini-nano"
SEED = 5
BOOKS = 40
LOOKUP_STEPS, WORDS_STEPS, ANSWERS_STEPS, WHOLE_STEPS = 300, 300, 500, 120


def config() -> LlavaOnevisionConfig:
    """The architecture: mini-onevision's but for the language model."""
    found = mini_onevision.config()
    text: Any = found.text_config
    text.hidden_size, text.intermediate_size = 128, 256
    text.num_hidden_layers = text.max_window_layers = 2
    text.layer_types = text.layer_types[:2]
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    return LlavaOnevisionConfig.from_dict(found.to_dict())


def untrained() -> OneVision:
    """The model with its seeded first weights, and its tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model: Any = LlavaOnevisionForConditionalGeneration(config())
    model.generation_config.eos_token_id = tokenizer.token_to_id(STOP)
    return OneVision(NAME, model.eval(), tokenizer)


def train_text(backbone: OneVision, work: Path) -> None:
    """Train the language model in place on text and on pictures in words."""
    language.train_lookup(backbone, work, LOOKUP_STEPS)
    language.train_words(backbone, work, WORDS_STEPS)


def train_speech(backbone: OneVision, work: Path, tower: Any, cache: Path, workers: int) -> None:
    """Train projector and language model in place on what ``tower`` sees; ``cache`` may hold its merged features."""
    backbone.model.model.vision_tower.load_state_dict(tower.state_dict())
    books = stages.few(BOOKS)
    features.cache_books(tower, cache, books, workers)
    lessons = features.Lessons(cache, books)
    language.excite(backbone)
    language.train_answers(backbone, work, lessons, ANSWERS_STEPS)
    language.train_whole(backbone, work, lessons, WHOLE_STEPS)


def make(folder: Path, work: Path, workers: int) -> None:
    """Train in ``work``, where finished stages are stored, behind mini-onevision's tower, and save to ``folder``."""
    backbone = untrained()
    train_text(backbone, work)
    tower = load(mini_onevision.NAME).vision().vision_tower
    train_speech(backbone, work, tower, work / "features", workers)
    mini_onevision.save(backbone, folder)


def card(folder: Path, seconds: float) -> str:
    """The card: what the checkpoint is, how it was made, and what the saved files score."""
    backbone = load(NAME, weights=folder).backbone()
    return f"""# {NAME}

A `LlavaOnevisionForConditionalGeneration` of {cards.parameters_m(backbone):.2f} million parameters, trained by this
project. It answers on the device under `device_only`, where a server would run mini-onevision: it stands in for
LLaVA-OneVision-0.5B.

- mini-onevision's vision tower and tiling. The language model has 2 layers of width 128, mini-onevision's 4 of 256.
- Command: `python -m recipes.mini_nano`, after mini-onevision's. {cards.made(SEED, seconds)}
- Data: the training splits of StreetsQA and GlimpseQA. {LOOKUP_STEPS} + {WORDS_STEPS} steps of text; {ANSWERS_STEPS}
  steps of {language.ANSWERS_PICTURES} pictures of {BOOKS} books, merged; {WHOLE_STEPS} steps with
  {language.WHOLE_PICTURES} pictures' tokens unmerged. Training never sees the test splits.

{cards.scored(backbone)}
"""


if __name__ == "__main__":
    guarded(lambda: command.run(NAME, __doc__, make, card), NAME, resumes=True)
