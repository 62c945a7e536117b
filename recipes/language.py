"""The later stages: a projector and a language model that learn to answer from the tower's features.

``lookup`` learns from text alone to relate what was seen to the options or the question; ``words`` learns to
answer about pictures in words; ``answers`` about cached merged features; ``whole`` adds pictures with all their tokens,
in the backbone's own arrangement.

    P patches   V features a patch   C clusters   D dimension   T visual tokens   H width of the language model
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from harness.data.drawing.seeded_random import SeededRandom
from harness.data.questions import Page
from harness.models.llava import Llava
from harness.training.bundled import answer_loss, book_of, questions
from recipes import symbols
from recipes.features import Lessons
from recipes.lookup import line, lookup_loss
from recipes.stages import train

LOOKUP_STEPS, WORDS_STEPS, ANSWERS_STEPS, WHOLE_STEPS = 400, 400, 600, 200
ANSWERS_PICTURES, WHOLE_PICTURES = 16, 2
_LOOKUP_LINES, _PICTURES_IN_WORDS = 64, 16
_LINES_KEPT_UP, _WORDS_KEPT_UP = 16, 4
"""Of each in every later step: what was learned from them only has to be maintained."""
_LANGUAGE_RATE, _PROJECTOR_RATE = 1.5e-3, 3e-3
_WHOLE_RATE = 1e-3
_WHOLE_BOOKS = range(100_000, 100_400)
"""Books that the cache does not hold."""
_WORD_BOOKS = 400

_PROJECTOR_GAIN = 15.0


def train_lookup(backbone: Llava, folder: Path, steps: int = LOOKUP_STEPS) -> None:
    """Train the language model in place to find the letters of options, from text alone."""

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            yield _of_lines(backbone, SeededRandom("lookup", step), _LOOKUP_LINES)

    train("lookup", folder, backbone.model, {"model.language_model": _LANGUAGE_RATE}, steps, losses)


def train_words(backbone: Llava, folder: Path, steps: int = WORDS_STEPS) -> None:
    """Train the language model in place to answer about pictures in words."""

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            yield _of_words(backbone, SeededRandom("words", step), _PICTURES_IN_WORDS)

    train("words", folder, backbone.model, {"model.language_model": _LANGUAGE_RATE}, steps, losses)


@torch.no_grad()
def excite(backbone: Llava) -> None:
    """Enlarge an untrained projector's first weights until features as small as the tower's have an effect."""
    backbone.model.model.multi_modal_projector.linear_1.weight.mul_(_PROJECTOR_GAIN)


def train_answers(
    backbone: Llava, folder: Path, lessons: Lessons, steps: int = ANSWERS_STEPS, pictures: int = ANSWERS_PICTURES
) -> None:
    """Train projector and language model in place on cached merged features, and on pictures in words."""

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            rng = SeededRandom("answers", step)
            seen, score = _of_lessons(backbone, lessons, rng, pictures)
            yield seen + _kept_up(backbone, rng), score

    rates = {"model.multi_modal_projector": _PROJECTOR_RATE, "model.language_model": _LANGUAGE_RATE}
    train("answers", folder, backbone.model, rates, steps, losses)


def train_whole(backbone: Llava, folder: Path, lessons: Lessons, steps: int = WHOLE_STEPS) -> None:
    """Train projector and language model in place on pictures with all their tokens, and on the earlier material."""

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            rng = SeededRandom("whole", step)
            pages = [rng.pick(book_of(rng.pick(_WHOLE_BOOKS))) for _ in range(WHOLE_PICTURES)]
            pictures = [_all_tokens(backbone, page) for page in pages]
            asked = [questions(page, rng) for page in pages]
            whole, score = answer_loss(backbone.model, backbone.tokenizer, pictures, asked, backbone.template)
            seen, _ = _of_lessons(backbone, lessons, rng, ANSWERS_PICTURES // 2)
            yield (whole + seen) / 2 + _kept_up(backbone, rng), score

    rates = dict.fromkeys(("model.multi_modal_projector", "model.language_model", "model.image_newline"), _WHOLE_RATE)
    train("whole", folder, backbone.model, rates, steps, losses)


def _kept_up(backbone: Llava, rng: SeededRandom) -> Tensor:
    """A little of both earlier stages: without it the later ones forget how to compare picture and question."""
    told, _ = _of_words(backbone, rng, _WORDS_KEPT_UP)
    found, _ = _of_lines(backbone, rng, _LINES_KEPT_UP)
    return (told + found) / 4


def _of_lines(backbone: Llava, rng: SeededRandom, count: int) -> tuple[Tensor, float]:
    lines = [line(backbone.tokenizer, rng, backbone.template) for _ in range(count)]
    return lookup_loss(backbone.model, backbone.tokenizer, lines)


def _of_lessons(backbone: Llava, lessons: Lessons, rng: SeededRandom, count: int) -> tuple[Tensor, float]:
    drawn = [lessons.draw(rng) for _ in range(count)]
    pictures = [backbone.model.model.multi_modal_projector(y_PCD.flatten(0, 1)) for _, y_PCD in drawn]
    asked = [questions(page, rng) for page, _ in drawn]
    return answer_loss(backbone.model, backbone.tokenizer, pictures, asked, backbone.template)


def _of_words(backbone: Llava, rng: SeededRandom, count: int) -> tuple[Tensor, float]:
    pages = [rng.pick(book_of(rng.below(_WORD_BOOKS))) for _ in range(count)]
    embed = backbone.model.get_input_embeddings()
    pictures = [symbols.picture(page.street, rng, backbone.tokenizer, embed) for page in pages]
    asked = [questions(page, rng) for page in pages]
    return answer_loss(backbone.model, backbone.tokenizer, pictures, asked, backbone.template)


def _all_tokens(backbone: Llava, page: Page) -> Tensor:
    """Every visual token of a picture (T, H), in the backbone's arrangement; differentiable down to the projector."""
    tiles = backbone.preprocess(page.scene().image)
    with torch.autocast("cpu", torch.bfloat16):
        # A clone is no inference tensor: the projector's gradient may be taken from it.
        x_PVD = backbone.encode(tiles).clone().float()
    return backbone.arranged(backbone.model.model.multi_modal_projector(x_PVD), tiles.layout)
