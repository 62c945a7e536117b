"""GlimpseQA, the bundled stand-in for MME: small pictures, each with two questions, one true and one not.

A picture fits into one tile. Its two questions belong to one of five of MME's perception subtasks, and MME's score
counts them both separately and together. A book has twenty pictures a subtask; the test split is one book.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from harness.data.bundled import load_bundled
from harness.data.drawing import things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Side, Street
from harness.data.drawing.textures import Split
from harness.data.pictures import MAX_PIXELS
from harness.data.questions import LabelledQuestion, Page, is_there, on_side, samples, yes_no
from harness.data.sample import Sample
from harness.data.tsv import TsvSamples

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


def _street(rng: SeededRandom, *, has: frozenset[str], cars: int, items: Mapping[str, Side]) -> Street:
    """A small street in which the named things and ``items`` stand, and nothing else of their kind."""
    width, height = rng.pick(_SIZES_PX)
    return Street(
        width_px=width,
        height_px=height,
        light=(rng.pick(things.LAMPS), rng.pick(things.ARROWS)) if "traffic light" in has else None,
        sign=rng.pick(things.NUMBERS) if "round sign" in has else None,
        cars=tuple(rng.pick(_PAINTS) for _ in range(cars)),
        bus=rng.pick(_PAINTS) if "bus" in has else None,
        coat=rng.pick(_PAINTS) if "pedestrian" in has else None,
        items=items,
        zoom_percent=_ZOOM_PERCENT,
    )


def _some(rng: SeededRandom, *always: str) -> frozenset[str]:
    return frozenset(always) | {thing for thing in _STREET_THINGS if rng.one_in(2)}


def _sides(rng: SeededRandom, items: list[str]) -> dict[str, Side]:
    return {item: rng.pick(_SIDES) for item in items}


def _existence(rng: SeededRandom) -> tuple[Street, str, str]:
    shuffled = rng.shuffled((*_STREET_THINGS, *things.ITEMS))
    shown, hidden = shuffled[:4], shuffled[4:]
    items = [thing for thing in shown if thing in things.ITEMS]
    street = _street(rng, has=frozenset(shown) - {*items}, cars=rng.below(3), items=_sides(rng, items))
    return street, is_there(shown[0]), is_there(hidden[0])


def _count(rng: SeededRandom) -> tuple[Street, str, str]:
    right, wrong, _ = rng.shuffled((1, 2, 3))
    street = _street(rng, has=_some(rng), cars=right, items=_sides(rng, [rng.pick(things.ITEMS)]))
    return street, THERE.format(COUNTS[right]), THERE.format(COUNTS[wrong])


def _color(rng: SeededRandom) -> tuple[Street, str, str]:
    thing = rng.pick(("bus", "pedestrian", "traffic light"))
    street = _street(rng, has=_some(rng, thing), cars=rng.below(2), items=_sides(rng, [rng.pick(things.ITEMS)]))
    text, values = COLOURS[thing]
    right = {"bus": street.bus, "pedestrian": street.coat, "traffic light": street.light and street.light[0]}[thing]
    wrong = rng.pick([value for value in values if value != right])
    return street, text.format(right), text.format(wrong)


def _position(rng: SeededRandom) -> tuple[Street, str, str]:
    items = _sides(rng, rng.shuffled(things.ITEMS)[:2])
    street = _street(rng, has=_some(rng), cars=rng.below(2), items=items)
    item, side = next(iter(items.items()))
    return street, on_side(item, side), on_side(item, _SIDES[1 - _SIDES.index(side)])


def _ocr(rng: SeededRandom) -> tuple[Street, str, str]:
    street = _street(rng, has=_some(rng, "round sign"), cars=rng.below(3), items={})
    wrong = rng.pick([number for number in things.NUMBERS if number != street.sign])
    return street, NUMBER.format(street.sign), NUMBER.format(wrong)


SUBTASKS: Mapping[str, Callable[[SeededRandom], tuple[Street, str, str]]] = {
    "existence": _existence,
    "count": _count,
    "color": _color,
    "position": _position,
    "OCR": _ocr,
}
"""For each subtask, by its name in MME: a street, a question that is true of it and one that is not."""


def book(split: Split, number: int) -> list[Page]:
    """The pictures of one book, each with its two questions in random order."""
    rng = SeededRandom("glimpseqa", split, number)
    pages: list[Page] = []
    for subtask in rng.shuffled(tuple(SUBTASKS) * PAGES_EACH):
        street, true, false = SUBTASKS[subtask](rng)
        asked: list[LabelledQuestion] = rng.shuffled([yes_no(true, True, subtask), yes_no(false, False, subtask)])
        pages.append(Page(street, split, ("glimpseqa", number, len(pages)), tuple(asked)))
    return pages


def load(name: str, *, cache: Path, max_pixels: int = MAX_PIXELS) -> TsvSamples:
    """The test split: 200 questions about 100 images, built on first use as a VLMEvalKit TSV in ``cache``.

    Raises DataError where the file there does not hold the samples that the checksum pins.
    """
    return load_bundled(name, cache, CHECKSUM, test_samples, max_pixels=max_pixels)


def test_samples() -> list[Sample]:
    """The test split, drawn again."""
    return samples(book("test", 0), paired=True)
