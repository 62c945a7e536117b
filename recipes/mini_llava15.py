"""Makes mini-llava15 from mini-onevision: ``python -m recipes.mini_llava15``.

Tower, projector and language model begin with the weights of mini-onevision's. The tower learns to see whole pictures
in one padded tile, and parts of them, by their dense labels; then the language model learns to answer from what that
tower sees, merged and whole, under LLaVA-1.5's prompts. The same stages as mini-onevision's (tower.py, language.py).
"""

import json
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from tokenizers import AddedToken, Tokenizer
from torch.nn.functional import interpolate
from transformers import LlavaConfig, LlavaForConditionalGeneration

from harness.cli import guarded
from harness.models import onevision
from harness.models.llava import Llava
from harness.models.llava15 import CLIP_MEAN, CLIP_STD, Llava15, load
from harness.models.prompts import LLAVA15
from recipes import cards, command, features, language, mini_onevision, stages, tower
from recipes.views import LLAVA15 as SIGHT
from recipes.views import TileBatches
from recipes.vocabulary import VOCABULARY, make_tokenizer

NAME = "mini-llava15"
SEED = 15
TOWER_STEPS = (2400, 1600)
TOWER_RATES = (1e-3, 1e-3)
TEACHER_SCALE = 1 / 80
"""What mini-onevision's features were scaled by after its training, about."""
TILES_A_STEP = 8
BOOKS = 24
ANSWERS_STEPS, WHOLE_STEPS = 600, 120
PICTURES_A_STEP = 8

MERGED = features.CachedKind(SIGHT, 36, (9, 14, 18, 27, 54))
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
            "hidden_act": "gelu_pytorch_tanh",
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
def begin_with(backbone: Llava15, teacher: Llava) -> None:
    """Give tower, projector and language model the weights of mini-onevision's.

    A Llama with a Qwen2's weights computes the same, the biases that the Qwen2 lacks being zero; so does the projector.
    CLIP's blocks are SigLIP's, but what enters them differs: see :func:`_see_as`.
    """
    _see_as(backbone.model.model.vision_tower, teacher.model.model.vision_tower)
    backbone.model.model.multi_modal_projector.load_state_dict(
        teacher.model.model.multi_modal_projector.state_dict(), strict=True
    )
    ours = backbone.model.model.language_model
    missing, unknown = ours.load_state_dict(teacher.model.model.language_model.state_dict(), strict=False)
    assert not unknown
    assert all(name.endswith("o_proj.bias") for name in missing)
    for name in missing:
        ours.get_parameter(name).zero_()


def _see_as(clip: Any, siglip: Any) -> None:
    """Give a CLIP tower a SigLIP tower's blocks, and embeddings that are nearly its own.

    CLIP's colours are normalised otherwise, and its patch embedding has no bias: the positions take it. There are more
    of these, so they are interpolated. The norm before the blocks, which SigLIP does not have, is made to change as
    little as it can for patches of the usual contrast.
    """
    found: Any = getattr(siglip, "vision_model", siglip)
    body: Any = getattr(clip, "vision_model", clip)
    for ours, theirs in zip(body.encoder.layers, found.encoder.layers, strict=False):
        ours.load_state_dict(theirs.state_dict())
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    kernel = found.embeddings.patch_embedding.weight
    body.embeddings.patch_embedding.weight.copy_(2 * std * kernel)
    bias = found.embeddings.patch_embedding.bias + ((2 * mean - 1) * kernel).sum((1, 2, 3))
    place_VD = found.embeddings.position_embedding.weight
    side = round(len(place_VD) ** 0.5)
    place_DYX = place_VD.T.reshape(-1, side, side)
    drawn_out = interpolate(place_DYX[None], (SIGHT.side, SIGHT.side), mode="bicubic")[0].flatten(1).T
    body.embeddings.position_embedding.weight[1:] = drawn_out + bias
    body.embeddings.position_embedding.weight[0] = place_VD.mean(0)
    body.embeddings.class_embedding.copy_(bias)

    pixels, _ = next(iter(TileBatches(TILES_A_STEP, 0, sight=SIGHT)))
    x_BVD = body.embeddings(pixels)[:, 1:]
    body.pre_layrnorm.weight.fill_(x_BVD.std(-1).mean())
    body.pre_layrnorm.bias.fill_(x_BVD.mean())


def train_sight(backbone: Llava15, work: Path) -> None:
    """Train the tower in place, beginning with features as large as training is used to."""
    vision_tower = backbone.model.model.vision_tower
    tower.scale(vision_tower, 1 / TEACHER_SCALE)
    tower.train_tower(vision_tower, work, TOWER_STEPS, sight=SIGHT, tiles=TILES_A_STEP, rates=TOWER_RATES)


def train_speech(backbone: Llava15, work: Path, workers: int) -> None:
    """Train projector and language model in place on what the trained tower sees."""
    books = stages.few(BOOKS)
    features.cache_books(backbone.model.model.vision_tower, work / "features", books, workers, MERGED)
    lessons = features.Lessons(work / "features", books)
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


def make(folder: Path, work: Path, workers: int) -> None:
    """Train in ``work``, where finished stages are stored, from mini-onevision on, and save to ``folder``."""
    backbone = untrained()
    begin_with(backbone, onevision.load(mini_onevision.NAME).backbone())
    train_sight(backbone, work)
    train_speech(backbone, work, workers)
    save(backbone, folder)


def card(folder: Path, seconds: float) -> str:
    """The card: what the checkpoint is, how it was made, and what the saved files score."""
    backbone = load(NAME, weights=folder).backbone()
    return f"""# {NAME}

A `LlavaForConditionalGeneration` of {cards.parameters_m(backbone):.2f} million parameters, trained by this project.
It stands in for LLaVA-1.5-7B where that is not installed: the same code, in miniature.

- One tile of {SIGHT.tiling.patch} px, padded, in patches of {SIGHT.patch_px} px: {SIGHT.side**2} features of 160. CLIP
  tower of 5 layers, of which 4 are run. Tower, projector and language model begin with
  what mini-onevision's have learnt.
- Command: `python -m recipes.mini_llava15`. {cards.made(SEED, seconds)}
- Data: the training splits of StreetsQA and GlimpseQA. {TOWER_STEPS[0]} + {TOWER_STEPS[1]} steps of {TILES_A_STEP}
  tiles with dense labels; {ANSWERS_STEPS} steps of {PICTURES_A_STEP} pictures of {BOOKS} books, merged;
  {WHOLE_STEPS} steps with {language.WHOLE_PICTURES} pictures' tokens unmerged. The test splits come from another seed
  and other background textures; training never sees them.

{cards.scored(backbone)}
"""


if __name__ == "__main__":
    guarded(lambda: command.run(NAME, __doc__, make, card), NAME, resumes=True)
