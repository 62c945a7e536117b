"""StreetsQA, the bundled stand-in for RealWorldQA: questions about small details in the picture of a street.

A book has 96 streets with four questions each: three with four options, of which one in four is right, and one to be
answered by yes or no. The test split is one book with a seed and textures of its own; training may use any number of
books.
"""

from pathlib import Path

from harness.data.bundled import load_bundled
from harness.data.drawing import things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Side, Street
from harness.data.drawing.textures import Split
from harness.data.pictures import MAX_PIXELS
from harness.data.questions import (
    CHOICES,
    LETTERS,
    LabelledQuestion,
    Page,
    choice,
    deck,
    is_there,
    on_side,
    samples,
    value_of,
    yes_no,
)
from harness.data.sample import Sample
from harness.data.tsv import TsvSamples

PAGES = 96
CHECKSUM = "74de0f5796a216c0940cfbe075b4c231c6a68cf935ef49091e85005b9d18f909"
"""Of the test split's decoded pixels and texts; changes with anything that changes them."""

_SIZES_PX = (
    (384, 288), (448, 320), (512, 384), (576, 384), (320, 320),
    (288, 416), (320, 480), (576, 432), (480, 288), (384, 384),
)  # fmt: skip
_SIDES: tuple[Side, Side] = ("left", "right")
_ITEMS_SHOWN = 3


def book(split: Split, number: int) -> list[Page]:
    """The streets and questions of one book; over a book every category's truths and letters are balanced exactly."""
    rng = SeededRandom("streetsqa", split, number)
    cards = {name: deck(rng, values, LETTERS, PAGES // 2) for name, (_, values) in CHOICES.items()}
    there = deck(rng, things.ITEMS, ("Yes", "No"), PAGES // 2)
    sides = deck(rng, [(item, side) for item in things.ITEMS for side in _SIDES], ("Yes", "No"), PAGES // 2)
    pages: list[Page] = []
    for _ in range(PAGES // 2):
        categories = rng.shuffled(tuple(CHOICES))
        item, truth = there.pop()
        pages.append(
            _page(
                rng,
                split,
                ("streetsqa", number, len(pages)),
                {name: cards[name].pop() for name in categories[:3]},
                present={item: rng.pick(_SIDES)} if truth == "Yes" else {},
                absent=item,
                last=yes_no(is_there(item), truth == "Yes", "existence"),
            )
        )
        (item, side), truth = sides.pop()
        stands = side if (truth == "Yes") else _SIDES[1 - _SIDES.index(side)]
        pages.append(
            _page(
                rng,
                split,
                ("streetsqa", number, len(pages)),
                {name: cards[name].pop() for name in categories[3:]},
                present={item: stands},
                absent=item,
                last=yes_no(on_side(item, side), truth == "Yes", "side"),
            )
        )
    return rng.shuffled(pages)


def _page(
    rng: SeededRandom,
    split: Split,
    seed: tuple[str | int, ...],
    cards: dict[str, tuple[str, str]],
    *,
    present: dict[str, Side],
    absent: str,
    last: LabelledQuestion,
) -> Page:
    """A street in which the dealt truths hold; everything else is random."""
    fixed = {name: value for name, (value, _) in cards.items()}
    paints = tuple(things.PAINTS)
    others = rng.shuffled([item for item in things.ITEMS if item != absent])[: _ITEMS_SHOWN - len(present)]
    width, height = rng.pick(_SIZES_PX)
    street = Street(
        width_px=width - rng.below(24),
        height_px=height - rng.below(24),
        light=(
            fixed.get("light colour") or rng.pick(things.LAMPS),
            fixed.get("light arrow", "").replace("there is no arrow", "none") or rng.pick(things.ARROWS),
        ),
        sign=int(fixed.get("sign number") or rng.pick(things.NUMBERS)),
        cars=tuple(rng.pick(paints) for _ in range(int(fixed.get("car count") or rng.between(1, 4)))),
        bus=fixed.get("bus colour") or rng.pick(paints),
        coat=fixed.get("coat colour") or rng.pick(paints),
        items={**present, **{item: rng.pick(_SIDES) for item in others}},
    )
    asked = tuple(choice(name, value, letter, rng) for name, (value, letter) in cards.items())
    return Page(street, split, seed, (*asked, last))


def ask_everything(street: Street, rng: SeededRandom) -> tuple[LabelledQuestion, ...]:
    """One question of every category about a full street, with random letters and truths, for training."""
    asked = [choice(name, value_of(street, name), rng.pick(LETTERS), rng) for name in CHOICES]
    present = rng.one_in(2)
    item = rng.pick([name for name in things.ITEMS if (name in street.items) == present])
    asked.append(yes_no(is_there(item), present, "existence"))
    item, side = rng.pick(tuple(street.items)), rng.pick(_SIDES)
    asked.append(yes_no(on_side(item, side), street.items[item] == side, "side"))
    return tuple(asked)


def load(name: str, *, cache: Path, max_pixels: int = MAX_PIXELS) -> TsvSamples:
    """The test split: 384 questions about 96 images, built on first use as a VLMEvalKit TSV in ``cache``.

    Raises DataError where the file there does not hold the samples that the checksum pins.
    """
    return load_bundled(name, cache, CHECKSUM, test_samples, max_pixels=max_pixels)


def test_samples() -> list[Sample]:
    """The test split, drawn again."""
    return samples(book("test", 0), paired=False)
