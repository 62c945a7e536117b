"""The bundled pages as training data: drawn streets and glimpses, with new questions in every pass.

The miniatures, their codecs and the ablations are all trained on these pages and their questions, with
:func:`answer_loss`.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor

from harness.data import glimpseqa, streetsqa
from harness.data.drawing import things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Street
from harness.data.questions import LabelledQuestion, Page, is_there, on_side, value_of, yes_no
from harness.data.streetsqa import ask_everything
from harness.models.prompts import ONEVISION, Template
from harness.scenario.fields import Frozen
from harness.training import packing
from harness.training.contract import Example, Turn

NOWHERE = "nowhere"
"""What is seen of a thing that is not there."""

_MAX_TOKENS = 4096

_DRILLED = 7
"""The number of drill questions about a picture besides its own."""

_COLOURS = ("light colour", "bus colour", "coat colour")
_ASKED_ABOUT = re.compile(r"Is there an? (?P<there>.+) in the picture|Is the (?P<stands>.+) on the (left|right) side")


@functools.lru_cache(512)
def book_of(number: int) -> list[Page]:
    """Training book ``number``: every fourth is GlimpseQA's."""
    return glimpseqa.book("train", number) if number % 4 == 3 else streetsqa.book("train", number)


class Bundled:
    """Training books of StreetsQA and, every fourth, of GlimpseQA, with the miniatures' training questions.

    Each question is a dialogue of its own about the picture.
    """

    asks = True

    class Config(Frozen):
        """Which books, and how many of their pages."""

        kind: Literal["bundled"]
        first_book: int = Field(ge=0)
        books: int = Field(default=1, ge=1)
        pages: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, template: Template) -> None:
        self._template = template
        numbers = range(config.first_book, config.first_book + config.books)
        self._pages: list[Page] = [page for number in numbers for page in book_of(number)][: config.pages]
        self.identity = f"bundled books {numbers.start} to {numbers.stop - 1}, {len(self._pages)} pages"

    def __len__(self) -> int:
        return len(self._pages)

    def picture(self, index: int) -> str:
        """The page's seed."""
        return "/".join(map(str, self._pages[index].seed))

    def content(self, index: int) -> str:
        """The page's seed, from which it is drawn."""
        return self.picture(index)

    def example(self, index: int, draw: int) -> Example:
        """A page, its questions drawn for this pass."""
        page = self._pages[index]
        name = "/".join(map(str, page.seed))
        asked = questions(page, SeededRandom("training questions", name, draw))
        turns = [Turn(self._template.text_of(one.question), one.truth) for one in asked]

        def image() -> Image.Image:
            return page.scene().image

        return Example(name, tuple((turn,) for turn in turns), image)


def questions(page: Page, rng: SeededRandom) -> tuple[LabelledQuestion, ...]:
    """The questions about a training picture: one of each kind about a street, a glimpse's own two, and some drill."""
    own = page.questions if page.seed[0] == "glimpseqa" else ask_everything(page.street, rng)
    return (*(spelt_out(one, page.street) for one in own), *rng.shuffled(drill(page.street))[:_DRILLED])


def drill(street: Street) -> tuple[LabelledQuestion, ...]:
    """Whether each thing that there could be is there, and on which side each item is."""
    asked = [yes_no(is_there(thing), seen != NOWHERE, "existence") for thing, seen in sighted(street).items()]
    asked += [yes_no(on_side(item, "left"), side == "left", "side") for item, side in street.items.items()]
    return tuple(spelt_out(one, street) for one in asked)


def sighted(street: Street) -> dict[str, str]:
    """For each thing that there could be, what is seen of it, or :data:`NOWHERE`."""
    seen = {
        "traffic light": street.light and street.light[0],
        "round sign": street.sign and str(street.sign),
        "bus": street.bus,
        "pedestrian": street.coat,
        **{item: street.items.get(item) for item in things.ITEMS},
    }
    return {thing: value or NOWHERE for thing, value in seen.items()}


def spelt_out(labelled: LabelledQuestion, street: Street) -> LabelledQuestion:
    """The question with an answer that says first what was looked for and seen, and then the letter, yes or no.

    The smaller steps can be learned where the whole cannot: to name what is seen, each car before their number, and to
    find it among the options or in the question. The answer begins with a space, so that its words are the tokens that
    they are in the question.
    """
    found = _ASKED_ABOUT.search(labelled.question.text)
    if labelled.question.kind == "choice":
        seen = labelled.question.options[labelled.truth]
    elif found:
        thing = found["there"] or found["stands"]
        seen = f"{thing} {sighted(street)[thing]}"
    elif labelled.category == "count":
        seen = str(len(street.cars))
    elif labelled.category == "OCR":
        seen = str(street.sign)
    else:
        category = next(name for name in _COLOURS if name.split()[0] in labelled.question.text)
        seen = value_of(street, category)
    if labelled.category in ("car count", "count"):
        seen = " ".join((*sorted(street.cars), seen))
    return dataclasses.replace(labelled, truth=f" {seen} {labelled.truth}")


def answer_loss(
    model: Any,
    tokenizer: Tokenizer,
    pictures: Sequence[Tensor],
    asked: Sequence[Sequence[LabelledQuestion]],
    template: Template = ONEVISION,
) -> tuple[Tensor, float]:
    """The mean over questions of their answers' mean cross entropy, and the share of answer tokens that are right.

    ``model`` is a LLaVA of transformers, ``template`` its prompt. ``pictures`` are the projected visual tokens, (T, H)
    each; ``asked`` the questions about each of them. Computed in bfloat16.
    """
    scripts = [
        [
            packing.script(
                tokenizer,
                template,
                (Turn(template.text_of(one.question), one.truth),),
                image=True,
                max_tokens=_MAX_TOKENS,
            )
            for one in of_picture
        ]
        for of_picture in asked
    ]
    with torch.autocast("cpu", torch.bfloat16):
        loss_B, right = packing.answer_losses(model, tokenizer.encode(template.before).ids, pictures, scripts)
    asked_B = loss_B.new_tensor([len(of_picture) for of_picture in asked])
    return (loss_B * asked_B).sum() / asked_B.sum(), float(right)
