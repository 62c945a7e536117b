"""GlimpseQA, the bundled stand-in for MME: small pictures, each with two questions, one true and one not.

A picture fits into one tile. Its two questions belong to one of five of MME's perception subtasks, and MME's score
counts them apart and together. A book has twenty pictures a subtask; the test split is one book.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from harness.data.asking import Asked, Page, is_there, on_side, samples, yes_no
from harness.data.bundled import load_bundled
from harness.data.drawing import things
from harness.data.drawing.dice import Dice
from harness.data.drawing.street import Side, Street
from harness.data.drawing.textures import Split
from harness.data.pictures import MAX_PIXELS
from harness.data.sample import Sample

PAGES_EACH = 20
CHECKSUM = "04b24e87bc6ac8e1c9d94300e540bee9a0a2f49b56f5b4bc7c001820f9d80034"
"""Of the test split's decoded pixels and texts; changes with anything that changes them."""

_SIZES_PX = ((192, 144), (192, 160), (176, 176), (160, 192), (192, 176))
_ZOOM_PERCENT = 80
_SIDES: tuple[Side, Side] = ("left", "right")
_PAINTS = tuple(things.PAINTS)
COUNTS = {1: "is one car", 2: "are two cars", 3: "are three cars"}
THERE = "Not counting the bus, there {} in the picture. Is this right?"
COLOURS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "traffic light": ("Does the traffic light show {}?", things.LAMPS),
    "bus": ("Is the bus {}?", _PAINTS),
    "pedestrian": ("Is the coat of the pedestrian {}?", _PAINTS),
}
NUMBER = "Is the number on the round sign {}?"
_STREET_THINGS = ("traffic light", "round sign", "bus", "pedestrian")


def _street(dice: Dice, *, has: frozenset[str], cars: int, items: Mapping[str, Side]) -> Street:
    """A small street in which the named things and ``items`` stand, and nothing else of their kind."""
    width, height = dice.pick(_SIZES_PX)
    return Street(
        width_px=width,
        height_px=height,
        light=(dice.pick(things.LAMPS), dice.pick(things.ARROWS)) if "traffic light" in has else None,
        sign=dice.pick(things.NUMBERS) if "round sign" in has else None,
        cars=tuple(dice.pick(_PAINTS) for _ in range(cars)),
        bus=dice.pick(_PAINTS) if "bus" in has else None,
        coat=dice.pick(_PAINTS) if "pedestrian" in has else None,
        items=items,
        zoom_percent=_ZOOM_PERCENT,
    )


def _some(dice: Dice, *always: str) -> frozenset[str]:
    return frozenset(always) | {thing for thing in _STREET_THINGS if dice.one_in(2)}


def _sides(dice: Dice, items: list[str]) -> dict[str, Side]:
    return {item: dice.pick(_SIDES) for item in items}


def _existence(dice: Dice) -> tuple[Street, str, str]:
    shuffled = dice.shuffled((*_STREET_THINGS, *things.ITEMS))
    shown, hidden = shuffled[:4], shuffled[4:]
    items = [thing for thing in shown if thing in things.ITEMS]
    street = _street(dice, has=frozenset(shown) - {*items}, cars=dice.below(3), items=_sides(dice, items))
    return street, is_there(shown[0]), is_there(hidden[0])


def _count(dice: Dice) -> tuple[Street, str, str]:
    right, wrong, _ = dice.shuffled((1, 2, 3))
    street = _street(dice, has=_some(dice), cars=right, items=_sides(dice, [dice.pick(things.ITEMS)]))
    return street, THERE.format(COUNTS[right]), THERE.format(COUNTS[wrong])


def _color(dice: Dice) -> tuple[Street, str, str]:
    thing = dice.pick(("bus", "pedestrian", "traffic light"))
    street = _street(dice, has=_some(dice, thing), cars=dice.below(2), items=_sides(dice, [dice.pick(things.ITEMS)]))
    text, values = COLOURS[thing]
    right = {"bus": street.bus, "pedestrian": street.coat, "traffic light": street.light and street.light[0]}[thing]
    wrong = dice.pick([value for value in values if value != right])
    return street, text.format(right), text.format(wrong)


def _position(dice: Dice) -> tuple[Street, str, str]:
    items = _sides(dice, dice.shuffled(things.ITEMS)[:2])
    street = _street(dice, has=_some(dice), cars=dice.below(2), items=items)
    item, side = next(iter(items.items()))
    return street, on_side(item, side), on_side(item, _SIDES[1 - _SIDES.index(side)])


def _ocr(dice: Dice) -> tuple[Street, str, str]:
    street = _street(dice, has=_some(dice, "round sign"), cars=dice.below(3), items={})
    wrong = dice.pick([number for number in things.NUMBERS if number != street.sign])
    return street, NUMBER.format(street.sign), NUMBER.format(wrong)


SUBTASKS: Mapping[str, Callable[[Dice], tuple[Street, str, str]]] = {
    "existence": _existence,
    "count": _count,
    "color": _color,
    "position": _position,
    "OCR": _ocr,
}
"""For each subtask, by its name in MME: a street, a question that is true of it and one that is not."""


def book(split: Split, number: int) -> list[Page]:
    """The pictures of one book, each with its two questions in random order."""
    dice = Dice("glimpseqa", split, number)
    pages: list[Page] = []
    for subtask in dice.shuffled(tuple(SUBTASKS) * PAGES_EACH):
        street, true, false = SUBTASKS[subtask](dice)
        asked: list[Asked] = dice.shuffled([yes_no(true, True, subtask), yes_no(false, False, subtask)])
        pages.append(Page(street, split, ("glimpseqa", number, len(pages)), tuple(asked)))
    return pages


def load(name: str, *, cache: Path, max_pixels: int = MAX_PIXELS) -> list[Sample]:
    """The test split: 200 questions about 100 images, built on first use as a VLMEvalKit TSV in ``cache``.

    Raises DataError where the file there does not hold the samples that the checksum pins.
    """
    return load_bundled(name, cache, CHECKSUM, test_samples, max_pixels=max_pixels)


def test_samples() -> list[Sample]:
    """The test split, drawn anew."""
    return samples(book("test", 0), paired=True)
