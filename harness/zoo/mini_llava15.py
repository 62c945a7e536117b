"""Makes mini-llava15 from seeds: ``python -m harness.zoo.mini_llava15``.

A CLIP tower on dense labels of whole pictures and parts of them; then a language model, beginning with what
mini-onevision's has learnt from text, learns to answer from what that tower sees, merged and whole. The same stages as
mini-onevision's (tower.py, language.py), on one padded tile and with LLaVA-1.5's prompts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import harness.backbones.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from rich.progress import track
from tokenizers import AddedToken, Tokenizer
from transformers import LlavaConfig, LlavaForConditionalGeneration

from harness.backbones.llava15 import CLIP_MEAN, CLIP_STD, Llava15, load
from harness.backbones.prompts import LLAVA15
from harness.zoo import cards, features, language, mini_onevision, tower, training
from harness.zoo.views import LLAVA15 as SIGHT
from harness.zoo.vocabulary import VOCABULARY, make_tokenizer

NAME = "mini-llava15"
SEED = 15
TOWER_STEPS = (3000, 1200)
TILES_A_STEP = 8
BOOKS = 24
ANSWERS_STEPS, WHOLE_STEPS = 600, 120
PICTURES_A_STEP = 8

MERGED = features.Merged(SIGHT, 36, (9, 14, 18, 27, 54))
"""n_c: the paper's 16 to 64 of 576 features are 9 to 36 of these 324."""

PHRASES = (
    LLAVA15.before.removeprefix(LLAVA15.special[0]),
    "\nAnswer with the option's letter from the given choices directly.",
    " ASSISTANT:",
)
"""What LLaVA-1.5's prompts repeat, a token each."""


def config() -> LlavaConfig:
    """The architecture: LLaVA-1.5's, in sizes that two cores train in an hour.

    Its language model has mini-onevision's sizes, and a bias on every attention projection, so that it can begin with
    the weights of that Qwen2.
    """
    return LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 160,
            "intermediate_size": 640,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "image_size": SIGHT.tiling.patch,
            "patch_size": SIGHT.patch_px,
            "layer_norm_eps": 1e-7,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
        image_token_index=3,
        image_seq_length=SIGHT.side**2,
        vision_feature_layer=SIGHT.layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def llava15_tokenizer() -> Tokenizer:
    """The tokenizer of mini-onevision with the tokens of LLaVA-1.5's prompts behind its own."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in LLAVA15.special])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    assert tokenizer.get_vocab_size() <= VOCABULARY
    return tokenizer


def untrained() -> Llava15:
    """The model with its seeded first weights, and its tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = llava15_tokenizer()
    model: Any = LlavaForConditionalGeneration(config())
    model.generation_config.eos_token_id = tokenizer.token_to_id(LLAVA15.stop)
    return Llava15(NAME, model.eval(), tokenizer)


@torch.no_grad()
def begin_with(backbone: Llava15, qwen2: Any) -> None:
    """Give the language model a Qwen2's weights: they compute the same, the biases that Qwen2 lacks being zero."""
    ours = backbone.model.model.language_model
    missing, unknown = ours.load_state_dict(qwen2.state_dict(), strict=False)
    assert not unknown
    assert all(name.endswith("o_proj.bias") for name in missing)
    for name in missing:
        ours.get_parameter(name).zero_()


def train_sight(backbone: Llava15, work: Path) -> None:
    """Train the tower in place."""
    tower.train_tower(backbone.model.model.vision_tower, work, TOWER_STEPS, sight=SIGHT, tiles=TILES_A_STEP)


def train_speech(backbone: Llava15, work: Path, text: Path, workers: int) -> None:
    """Train projector and language model in place on what the trained tower sees.

    The language model begins with mini-onevision's after its stages on text, which are read in ``text`` or run there.
    """
    teacher = mini_onevision.untrained()
    language.train_lookup(teacher, text)
    language.train_words(teacher, text)
    cached = features.cache_books(backbone.model.model.vision_tower, work / "features", BOOKS, workers, MERGED)
    for _ in track(cached, "features", total=BOOKS):
        pass
    begin_with(backbone, teacher.model.model.language_model)
    lessons = features.Lessons(work / "features", BOOKS)
    language.train_answers(backbone, work, lessons, ANSWERS_STEPS, PICTURES_A_STEP)
    language.train_whole(backbone, work, lessons, WHOLE_STEPS)


def save(backbone: Llava15, folder: Path) -> None:
    """The checkpoint as transformers saves it, in half precision."""
    side = SIGHT.tiling.patch
    preprocessor = {
        "image_processor_type": "LlavaImageProcessor",
        "do_pad": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "do_center_crop": False,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
    folder.mkdir(parents=True, exist_ok=True)
    backbone.model.half().save_pretrained(folder)
    backbone.model.float()
    backbone.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def card(folder: Path, seconds: float) -> str:
    """What the checkpoint is, how it was made, and what the saved files score."""
    backbone = load(NAME, weights=folder)
    return f"""# {NAME}

A `LlavaForConditionalGeneration` of {cards.parameters_m(backbone):.2f} million parameters, trained by this project.
It stands in for LLaVA-1.5-7B where that is not installed: the same code, in miniature.

- One tile of {SIGHT.tiling.patch} px, padded, in patches of {SIGHT.patch_px} px: {SIGHT.side**2} features of 160. CLIP
  tower of 5 layers, of which 4 are run. The language model begins with what
  mini-onevision's has learnt from text, and learns LLaVA-1.5's prompts.
- Command: `python -m harness.zoo.mini_llava15`. {cards.made(SEED, seconds)}
- Data: the training splits of StreetsQA and GlimpseQA. {TOWER_STEPS[0]} + {TOWER_STEPS[1]} steps of {TILES_A_STEP}
  tiles with dense labels; {ANSWERS_STEPS} steps of {PICTURES_A_STEP} pictures of {BOOKS} books, merged;
  {WHOLE_STEPS} steps with {language.WHOLE_PICTURES} pictures' tokens unmerged. The test splits come from another seed
  and other background textures; training never sees them.

{cards.scored(backbone)}
"""


def main() -> None:
    """Make the checkpoint and its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / NAME, help="the checkpoint's folder")
    parser.add_argument("--work", type=Path, default=Path("build") / NAME, help="where unfinished stages are kept")
    parser.add_argument(
        "--text",
        type=Path,
        default=Path("build") / mini_onevision.NAME,
        help="where mini-onevision's stages on text are kept",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the training; another process draws the pictures")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode pictures between the stages")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = untrained()
    train_sight(backbone, arguments.work)
    train_speech(backbone, arguments.work, arguments.text, arguments.workers)
    save(backbone, arguments.out)
    (arguments.out / "card.md").write_text(card(arguments.out, training.seconds(arguments.work)))


if __name__ == "__main__":
    main()
