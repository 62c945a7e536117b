"""The bundled training pages as training data: drawn streets and glimpses, asked anew in every pass."""

from typing import Literal

from PIL import Image
from pydantic import Field

from harness.data.asking import Page
from harness.data.drawing.seeded_random import SeededRandom
from harness.models.prompts import Template
from harness.scenario.fields import Frozen
from harness.training.contract import Example, Turn
from harness.zoo.features import book_of
from harness.zoo.language import questions


class Bundled:
    """Training books of StreetsQA and, every fourth, of GlimpseQA, with the questions that the miniatures learnt from.

    Each question is a dialogue of its own about the picture.
    """

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

    def has_image(self, index: int) -> bool:  # noqa: ARG002
        """Every page has a picture."""
        return True

    def example(self, index: int, draw: int) -> Example:
        """A page, its questions drawn for this pass."""
        page = self._pages[index]
        name = "/".join(map(str, page.seed))
        asked = questions(page, SeededRandom("training questions", name, draw))
        turns = [Turn(self._template.text_of(one.question), one.truth) for one in asked]

        def image() -> Image.Image:
            return page.scene().image

        return Example(name, tuple((turn,) for turn in turns), image)
