"""What stands in a street: the vocabulary of the questions, and a sprite for each thing.

Each thing has a class in the label map. Things with an attribute that questions are about (a lamp's colour and arrow, a
number, a car's colour) have one class for each of its values, so that a model can be trained to see it.
"""

from collections.abc import Callable, Mapping

from PIL import Image, ImageDraw

from harness.data.drawing.canvas import Colour, jittered
from harness.data.drawing.seeded_random import SeededRandom

PAINTS: Mapping[str, Colour] = {
    "red": (188, 34, 34),
    "blue": (36, 74, 190),
    "green": (34, 132, 58),
    "yellow": (232, 194, 40),
    "white": (234, 234, 230),
    "black": (34, 34, 38),
}
LAMPS = ("red", "red and amber", "amber", "green")
ARROWS = ("left", "right", "up", "none")
NUMBERS = (1, 2, 4, 5, 7, 8)
SIDES = ("left", "right")
ITEMS = ("bicycle", "dog", "bench", "hydrant", "letter box", "bin")

SURFACES = ("void", "sky", "wall", "window", "road", "pavement", "tree", "clutter")
LABELS: tuple[str, ...] = (
    *SURFACES,
    *(f"light {lamp} {arrow}" for lamp in LAMPS for arrow in ARROWS),
    *(f"sign {number}" for number in NUMBERS),
    *(f"car {paint}" for paint in PAINTS),
    *(f"bus {paint}" for paint in PAINTS),
    *(f"coat {paint}" for paint in PAINTS),
    *(f"{item} {side}" for item in ITEMS for side in SIDES),
)
"""The classes of a label map; a pixel holds an index into this. The first ones are background."""

LABEL: Mapping[str, int] = {name: index for index, name in enumerate(LABELS)}

_CLEAR = (0, 0, 0, 0)
_LIT: Mapping[str, Colour] = {"red": (255, 44, 30), "amber": (255, 178, 20), "green": (40, 240, 120)}

# Five columns by seven rows, a number of five bits a row.
_DIGITS: Mapping[int, tuple[int, ...]] = {
    1: (4, 12, 4, 4, 4, 4, 14),
    2: (14, 17, 1, 2, 4, 8, 31),
    4: (2, 6, 10, 18, 31, 2, 2),
    5: (31, 16, 30, 1, 1, 17, 14),
    7: (31, 1, 2, 4, 8, 8, 8),
    8: (14, 17, 17, 14, 17, 17, 14),
}


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sprite = Image.new("RGBA", (width, height), _CLEAR)
    return sprite, ImageDraw.Draw(sprite)


def _darker(colour: Colour, percent: int) -> Colour:
    return colour[0] * percent // 100, colour[1] * percent // 100, colour[2] * percent // 100


def traffic_light(rng: SeededRandom, lamp: str, arrow: str) -> Image.Image:
    """Three lamps in a dark head; those that are lit are round or show an arrow."""
    sprite, draw = _blank(44, 120)
    draw.rounded_rectangle((0, 0, 43, 119), 8, fill=jittered(rng, (24, 26, 26), 8), outline=(70, 72, 70), width=2)
    for name, top in (("red", 5), ("amber", 43), ("green", 81)):
        box = (5, top, 38, top + 33)
        draw.ellipse(box, fill=_darker(_LIT[name], 16))
        if name not in lamp:
            continue
        if arrow == "none":
            draw.ellipse(box, fill=_LIT[name])
        else:
            draw.ellipse(box, fill=(6, 6, 6))
            draw.polygon(_arrow(arrow, 21, top + 16), fill=_LIT[name])
    return sprite


def _arrow(direction: str, x: int, y: int) -> list[tuple[int, int]]:
    up = [(0, -17), (16, 0), (6, 0), (6, 16), (-6, 16), (-6, 0), (-16, 0)]
    turned = {"up": up, "right": [(-b, a) for a, b in up], "left": [(b, -a) for a, b in up]}
    return [(x + a, y + b) for a, b in turned[direction]]


def round_sign(rng: SeededRandom, number: int) -> Image.Image:
    """A round white sign with a red rim and a black digit, as one that limits the weight of lorries."""
    sprite, draw = _blank(96, 96)
    draw.ellipse((0, 0, 95, 95), fill=jittered(rng, (196, 26, 34), 14))
    draw.ellipse((9, 9, 86, 86), fill=jittered(rng, (240, 240, 236), 10))
    for row, bits in enumerate(_DIGITS[number]):
        for column in range(5):
            if bits >> (4 - column) & 1:
                x, y = 26 + column * 9, 19 + row * 8
                draw.rectangle((x, y, x + 9, y + 8), fill=(14, 14, 16))
    return sprite


def car(rng: SeededRandom, paint: str) -> Image.Image:
    """A car seen from behind."""
    sprite, draw = _blank(96, 80)
    body = jittered(rng, PAINTS[paint], 12)
    glass = jittered(rng, (70, 86, 100), 18)
    draw.rectangle((8, 60, 24, 79), fill=(18, 18, 18))
    draw.rectangle((71, 60, 87, 79), fill=(18, 18, 18))
    draw.polygon([(20, 3), (75, 3), (88, 34), (7, 34)], fill=body)
    draw.polygon([(25, 8), (70, 8), (79, 31), (16, 31)], fill=glass)
    draw.polygon([(25, 8), (42, 8), (34, 31), (16, 31)], fill=_darker(glass, 135))
    draw.rounded_rectangle((2, 30, 93, 70), 8, fill=body)
    draw.rectangle((4, 58, 91, 68), fill=_darker(body, 62))
    for left in (6, 74):
        draw.rectangle((left, 38, left + 15, 47), fill=(150, 20, 20), outline=(60, 12, 12))
    draw.rectangle((34, 50, 61, 59), fill=(206, 206, 196))
    return sprite


def bus(rng: SeededRandom, paint: str) -> Image.Image:
    """A bus seen from the front: tall, with one large pane and a dark number box."""
    sprite, draw = _blank(96, 124)
    body = jittered(rng, PAINTS[paint], 12)
    glass = jittered(rng, (58, 72, 84), 14)
    draw.rectangle((8, 108, 26, 123), fill=(18, 18, 18))
    draw.rectangle((69, 108, 87, 123), fill=(18, 18, 18))
    draw.rounded_rectangle((2, 0, 93, 115), 8, fill=body)
    draw.rectangle((22, 5, 73, 17), fill=(20, 20, 16))
    for x in range(26, 66, 12):
        draw.rectangle((x, 8, x + rng.between(3, 8), 14), fill=(240, 170, 40))
    draw.rounded_rectangle((8, 22, 87, 66), 4, fill=glass)
    draw.polygon([(12, 24), (40, 24), (22, 64), (10, 64)], fill=_darker(glass, 140))
    draw.line((48, 22, 48, 66), fill=(22, 24, 26), width=2)
    for left in (8, 72):
        draw.ellipse((left, 86, left + 15, 98), fill=(246, 240, 208))
    draw.rectangle((6, 102, 89, 112), fill=_darker(body, 60))
    return sprite


def pedestrian(rng: SeededRandom, paint: str) -> Image.Image:
    """A person in a coat."""
    sprite, draw = _blank(44, 112)
    coat = jittered(rng, PAINTS[paint], 12)
    legs = jittered(rng, (52, 54, 66), 16)
    stride = rng.between(2, 8)
    draw.polygon([(14, 70), (22, 70), (20 - stride, 111), (10 - stride, 111)], fill=legs)
    draw.polygon([(22, 70), (31, 70), (34 + stride, 111), (24 + stride, 111)], fill=_darker(legs, 80))
    draw.polygon([(12, 24), (32, 24), (38, 82), (6, 82)], fill=coat)
    draw.polygon([(12, 24), (6, 30), (1, 62), (8, 63)], fill=_darker(coat, 80))
    draw.polygon([(32, 24), (38, 30), (43, 62), (36, 63)], fill=_darker(coat, 80))
    draw.ellipse((13, 1, 31, 24), fill=rng.pick([(224, 178, 148), (168, 118, 84), (98, 66, 48)]))
    draw.pieslice((12, 0, 32, 20), 180, 360, fill=rng.pick([(40, 30, 24), (120, 84, 40), (60, 58, 56)]))
    return sprite


def _bicycle(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(120, 76)
    frame = jittered(rng, (30, 150, 160), 24)
    for left in (2, 72):
        draw.ellipse((left, 30, left + 45, 75), outline=(20, 20, 22), width=6)
    for line in (
        (24, 52, 46, 20),
        (46, 20, 86, 20),
        (46, 20, 58, 52),
        (58, 52, 86, 20),
        (24, 52, 58, 52),
        (94, 52, 84, 8),
    ):
        draw.line(line, fill=frame, width=6)
    draw.line((36, 14, 56, 14), fill=(20, 20, 20), width=7)
    draw.line((76, 6, 96, 8), fill=(20, 20, 20), width=6)
    return sprite


def _dog(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(110, 80)
    coat = rng.pick([(150, 98, 50), (186, 140, 84), (110, 70, 42)])
    for left in (22, 34, 68, 80):
        draw.rectangle((left, 46, left + 8, 79), fill=_darker(coat, 84))
    draw.ellipse((14, 26, 94, 58), fill=coat)
    draw.polygon([(16, 40), (0, 14), (6, 12), (26, 32)], fill=coat)
    draw.ellipse((76, 8, 104, 36), fill=coat)
    draw.rectangle((94, 22, 109, 32), fill=_darker(coat, 76))
    draw.polygon([(80, 10), (86, 0), (92, 12)], fill=_darker(coat, 60))
    return sprite


def _bench(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(130, 72)
    wood = jittered(rng, (176, 116, 58), 14)
    for top in (2, 16, 38):
        draw.rectangle((2, top, 127, top + 9), fill=wood)
    for left in (12, 110):
        draw.rectangle((left, 0, left + 7, 71), fill=(40, 40, 42))
    return sprite


def _hydrant(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(60, 96)
    paint = jittered(rng, (240, 140, 24), 12)
    draw.rectangle((16, 22, 43, 88), fill=paint)
    draw.pieslice((14, 2, 45, 42), 180, 360, fill=_darker(paint, 84))
    draw.rectangle((2, 40, 57, 56), fill=_darker(paint, 74))
    draw.rectangle((8, 84, 51, 95), fill=_darker(paint, 64))
    draw.ellipse((22, 40, 37, 56), fill=(70, 60, 50))
    return sprite


def _letter_box(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(56, 110)
    paint = jittered(rng, (150, 30, 110), 10)
    draw.rectangle((6, 14, 49, 100), fill=paint)
    draw.ellipse((2, 0, 53, 28), fill=_darker(paint, 118))
    draw.rectangle((14, 34, 41, 40), fill=(12, 12, 12))
    draw.rectangle((18, 50, 37, 68), fill=(232, 230, 220))
    draw.rectangle((2, 96, 53, 109), fill=(26, 24, 28))
    return sprite


def _bin(rng: SeededRandom) -> Image.Image:
    sprite, draw = _blank(60, 92)
    paint = jittered(rng, (70, 92, 84), 10)
    draw.polygon([(6, 18), (53, 18), (48, 91), (11, 91)], fill=paint)
    for x in range(14, 48, 8):
        draw.line((x, 22, x, 88), fill=_darker(paint, 60), width=2)
    draw.rounded_rectangle((0, 6, 59, 20), 5, fill=_darker(paint, 70))
    draw.rectangle((20, 44, 39, 58), fill=(226, 226, 80))
    return sprite


ITEM_SPRITES: Mapping[str, Callable[[SeededRandom], Image.Image]] = {
    "bicycle": _bicycle,
    "dog": _dog,
    "bench": _bench,
    "hydrant": _hydrant,
    "letter box": _letter_box,
    "bin": _bin,
}
