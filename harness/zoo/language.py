"""The later stages: a projector and a language model that learn to answer from the tower's features.

``lookup`` learns from text alone how options and letters go together; ``answers`` learns from cached merged features,
the tower frozen; ``whole`` then sees some pictures with all their tokens, in the backbone's own arrangement, and the
others merged anew, and lets the tower learn with the rest.

    P patches   V features a patch   C clusters   D dimension   T visual tokens   H width of the language model
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from harness.backbones.arrangement import arrange
from harness.backbones.onevision import OneVision
from harness.data.asking import Asked, Page
from harness.data.drawing.dice import Dice
from harness.data.streetsqa import ask_everything
from harness.tofc.merging import merge
from harness.zoo.features import Lessons, book_of, clusters
from harness.zoo.lessons import answer_loss
from harness.zoo.lookup import line, lookup_loss
from harness.zoo.tower import encode
from harness.zoo.training import train
from harness.zoo.views import MAX_TILES

LOOKUP_STEPS, ANSWERS_STEPS, WHOLE_STEPS = 250, 450, 200
_LOOKUP_LINES = 64
ANSWERS_PICTURES, WHOLE_PICTURES = 24, 4
_LANGUAGE_RATE, _PROJECTOR_RATE = 1.5e-3, 3e-3
_WHOLE_RATE, _WHOLE_TOWER_RATE = 6e-4, 1e-4
_WHOLE_BOOKS = range(100_000, 100_400)
"""Books that the cache does not hold."""

_PROJECTOR_GAIN = 15.0
"""The projector's first weights times this: it starts where features as small as the tower's excite it."""


def questions(page: Page, dice: Dice) -> tuple[Asked, ...]:
    """What a training picture is asked: a street, every choice and as many yes/no questions; a glimpse, its own two."""
    if page.seed[0] == "glimpseqa":
        return page.asked
    drawn = [ask_everything(page.street, dice) for _ in range(3)]
    choices = [spelt_out(one) for one in drawn[0] if one.question.kind == "choice"]
    return (*choices, *(one for asked in drawn for one in asked if one.question.kind == "yes_no"))


def spelt_out(asked: Asked) -> Asked:
    """A choice answered by the right option's text and then its letter: having named it, the model finds its letter."""
    return dataclasses.replace(asked, truth=f"{asked.question.options[asked.truth]} {asked.truth}")


def train_lookup(backbone: OneVision, folder: Path, steps: int = LOOKUP_STEPS) -> None:
    """Train the language model in place to find the letters of options, from text alone."""
    model, tokenizer = backbone.model, backbone.tokenizer

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            dice = Dice("lookup", step)
            yield lookup_loss(model, tokenizer, [line(tokenizer, dice) for _ in range(_LOOKUP_LINES)])

    train("lookup", folder, model, {"model.language_model": _LANGUAGE_RATE}, steps, losses)


def train_answers(backbone: OneVision, folder: Path, lessons: Lessons, steps: int = ANSWERS_STEPS) -> None:
    """Train projector and language model in place on cached merged features."""
    model, tokenizer = backbone.model, backbone.tokenizer
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.mul_(_PROJECTOR_GAIN)

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            dice = Dice("answers", step)
            drawn = [lessons.draw(dice) for _ in range(ANSWERS_PICTURES)]
            pictures = [model.model.multi_modal_projector(y_PCD.flatten(0, 1)) for _, y_PCD in drawn]
            yield answer_loss(model, tokenizer, pictures, [questions(page, dice) for page, _ in drawn])

    rates = {
        "model.multi_modal_projector": _PROJECTOR_RATE,
        "model.language_model": _LANGUAGE_RATE,
    }
    train("answers", folder, model, rates, steps, losses)


def train_whole(backbone: OneVision, folder: Path, steps: int = WHOLE_STEPS) -> None:
    """Train everything in place on pictures drawn anew, half of them with all their tokens."""
    model = backbone.model

    def losses(first: int) -> Iterator[tuple[Tensor, float]]:
        for step in itertools.count(first):
            dice = Dice("whole", step)
            pages = [dice.pick(book_of(dice.pick(_WHOLE_BOOKS))) for _ in range(WHOLE_PICTURES)]
            pictures = [_tokens(backbone, page, dice, everything=n % 2 == 0) for n, page in enumerate(pages)]
            yield answer_loss(model, backbone.tokenizer, pictures, [questions(page, dice) for page in pages])

    rates = {
        "model.vision_tower": _WHOLE_TOWER_RATE,
        "model.multi_modal_projector": _WHOLE_RATE,
        "model.language_model": _WHOLE_RATE,
        "model.image_newline": _WHOLE_RATE,
    }
    train("whole", folder, model, rates, steps, losses)


def _tokens(backbone: OneVision, page: Page, dice: Dice, *, everything: bool) -> Tensor:
    """A picture's visual tokens (T, H), differentiable down to the tower."""
    tiles = backbone.preprocess(page.scene().image)
    projector = backbone.model.model.multi_modal_projector
    x_PVD = encode(backbone.model.model.vision_tower, tiles.pixels_PCHW)
    if everything:
        tokens_PVH, newline_H = projector(x_PVD), backbone.model.model.image_newline
        return arrange(tokens_PVH, newline_H, tiles.grid, tiles.image_size, MAX_TILES)
    y_PCD = merge(x_PVD, clusters(dice)).y_PCD
    tokens_TH: Tensor = projector(y_PCD.flatten(0, 1))
    return tokens_TH
