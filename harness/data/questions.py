"""Questions about a drawn street, and decks that balance questions and truths.

A question's text does not reveal its answer: over a full deck every truth is equally frequent, every letter is the
right one equally often with every truth, and the wrong options are drawn from the same values as the right one.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

from harness.data.drawing import things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Scene, Side, Street, draw
from harness.data.drawing.textures import Split
from harness.data.sample import Question, Sample

T = TypeVar("T")

LETTERS = ("A", "B", "C", "D")
_PAINTS = tuple(things.PAINTS)


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question, its truth (a letter, ``Yes`` or ``No``), and what kind of detail it is about."""

    question: Question
    truth: str
    category: str


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A street, the split and seed that draw it, and the questions about it."""

    street: Street
    split: Split
    seed: tuple[str | int, ...]
    questions: tuple[LabelledQuestion, ...]

    def scene(self) -> Scene:
        """The street, drawn."""
        return draw(self.street, self.split, *self.seed)


CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "light colour": ("What colour does the traffic light show?", things.LAMPS),
    "light arrow": (
        "Which way does the arrow of the traffic light point?",
        ("left", "right", "up", "there is no arrow"),
    ),
    "sign number": ("Which number is on the round sign?", tuple(str(number) for number in things.NUMBERS)),
    "car count": ("How many cars are on the road, not counting the bus?", ("1", "2", "3", "4")),
    "bus colour": ("What colour is the bus?", _PAINTS),
    "coat colour": ("What colour is the coat of the pedestrian?", _PAINTS),
}
"""For each category with options: the question, and the values that an option can have."""

_YES_NO = "Please answer yes or no."


def choice(category: str, value: str, letter: str, rng: SeededRandom) -> LabelledQuestion:
    """A question with four options of which ``letter`` is the true ``value``; the others are drawn from the rest."""
    text, values = CHOICES[category]
    wrong = iter(rng.shuffled([other for other in values if other != value])[:3])
    options = {name: value if name == letter else next(wrong) for name in LETTERS}
    return LabelledQuestion(Question(text=text, kind="choice", options=options), letter, category)


def yes_no(text: str, truth: bool, category: str) -> LabelledQuestion:
    """A question that ends with a request for yes or no, as MME's do."""
    return LabelledQuestion(Question(text=f"{text} {_YES_NO}", kind="yes_no"), "Yes" if truth else "No", category)


def is_there(thing: str) -> str:
    """The text that asks whether a thing is in the picture."""
    return f"Is there a {thing} in the picture?"


def on_side(thing: str, side: Side) -> str:
    """The text that asks on which side of the road a thing stands."""
    return f"Is the {thing} on the {side} side of the road?"


def value_of(street: Street, category: str) -> str:
    """The true value of a category's detail in a street that has it."""
    if category in ("light colour", "light arrow"):
        assert street.light is not None
        lamp, arrow = street.light
        return lamp if category == "light colour" else arrow.replace("none", "there is no arrow")
    found = {
        "sign number": str(street.sign),
        "car count": str(len(street.cars)),
        "bus colour": str(street.bus),
        "coat colour": str(street.coat),
    }
    return found[category]


def deck(rng: SeededRandom, values: Sequence[T], others: Sequence[str], size: int) -> list[tuple[T, str]]:
    """``size`` pairs in random order, every value with every other one equally often; ``size`` must divide evenly."""
    pairs = [(value, other) for value in values for other in others]
    copies, rest = divmod(size, len(pairs))
    assert rest == 0, f"{size} cards do not hold {len(pairs)} pairs equally often"
    return rng.shuffled(pairs * copies)


def camera_file(scene: Scene) -> bytes:
    """The picture's file as a camera writes it: JPEG at quality 95 without chroma subsampling."""
    file = io.BytesIO()
    scene.image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def samples(pages: Sequence[Page], *, paired: bool) -> list[Sample]:
    """The pages as samples, numbered from 0, with their pictures drawn; ``paired`` groups the questions on an image."""
    out: list[Sample] = []
    for page in pages:
        file, first = camera_file(page.scene()), str(len(out))
        for one in page.questions:
            index = str(len(out))
            out.append(
                Sample(
                    id=index,
                    image_bytes=file,
                    question=one.question,
                    truth=one.truth,
                    category=one.category,
                    group=first if paired else index,
                )
            )
    return out
