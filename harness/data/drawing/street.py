"""A street scene: what stands in it, and its picture with a class for every pixel."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.drawing import things
from harness.data.drawing.backdrop import Ground, paint_backdrop
from harness.data.drawing.canvas import Box, Canvas, plain
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.textures import Split, cut
from harness.data.drawing.things import LABEL

Side = Literal["left", "right"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """What stands in a scene; None and emptiness mean that it does not.

    ``light`` is a lamp's colour and its arrow; ``items`` maps an item to the side of the road that it stands on.
    ``zoom_percent`` scales everything that stands in the street.
    """

    width_px: int
    height_px: int
    light: tuple[str, str] | None = None
    sign: int | None = None
    cars: tuple[str, ...] = ()
    bus: str | None = None
    coat: str | None = None
    items: Mapping[str, Side] = dataclasses.field(default_factory=dict)
    zoom_percent: int = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """A drawn street: ``image`` as the camera saw it, and ``label_HW``, uint8, indices into ``things.LABELS``."""

    street: Street
    image: Image.Image
    label_HW: NDArray[np.uint8]


class _Room:
    """The boxes that are taken: no thing that a question is about hides another."""

    def __init__(self, canvas: Canvas) -> None:
        self._bounds = (canvas.width_px, canvas.height_px)
        self._taken: list[Box] = []

    def free(self, box: Box) -> bool:
        left, top, right, bottom = box
        if left < 1 or top < 1 or right >= self._bounds[0] or bottom >= self._bounds[1]:
            return False
        return all(right + 2 <= b[0] or b[2] + 2 <= left or bottom + 2 <= b[1] or b[3] + 2 <= top for b in self._taken)

    def take(self, box: Box) -> Box:
        self._taken.append(box)
        return box


def draw(street: Street, split: Split, *seed: str | int) -> Scene:
    """The picture of a street, the same for the same seed on every machine."""
    for attempt in range(20):
        rng = SeededRandom("street", split, *seed, attempt)
        canvas = Canvas(street.width_px, street.height_px)
        ground = paint_backdrop(canvas, rng, split)
        placed = _place(street, canvas, ground, rng)
        if placed is not None:
            for _, sprite, box, label in sorted(placed, key=lambda thing: thing[0]):
                if label < LABEL["car red"]:
                    _pole(canvas, ground, box)
                else:
                    canvas.shade((box[0] - 3, box[3] - (box[3] - box[1]) // 8, box[2] + 3, box[3] + 3), 45)
                canvas.stamp(sprite, box, label)
            grain = cut(rng, split, "sky", street.height_px, street.width_px)
            return Scene(street, canvas.photograph(rng, grain), np.asarray(canvas.label, dtype=np.uint8))
    raise AssertionError(f"no room for {street}")


_Placed = tuple[int, Image.Image, Box, int]


def _place(street: Street, canvas: Canvas, ground: Ground, rng: SeededRandom) -> list[_Placed] | None:
    """A box for everything, with the picture's row that decides what is in front; None where the room runs out."""
    room = _Room(canvas)
    placed: list[_Placed] = []
    # Heights in px of the things at the picture's lower edge; they shrink to 60 % towards the horizon.
    wanted: list[tuple[Image.Image, int, str, str]] = []
    if street.bus:
        wanted.append((things.bus(rng, street.bus), rng.between(62, 84), "road", f"bus {street.bus}"))
    wanted += [(things.car(rng, paint), rng.between(38, 54), "road", f"car {paint}") for paint in street.cars]
    if street.light:
        lamp, arrow = street.light
        wanted.append((things.traffic_light(rng, lamp, arrow), rng.between(44, 56), "pole", f"light {lamp} {arrow}"))
    if street.sign:
        wanted.append((things.round_sign(rng, street.sign), rng.between(34, 42), "pole", f"sign {street.sign}"))
    if street.coat:
        wanted.append((things.pedestrian(rng, street.coat), rng.between(46, 62), "pavement", f"coat {street.coat}"))
    for item, side in street.items.items():
        wanted.append((things.ITEM_SPRITES[item](rng), rng.between(26, 36), side, f"{item} {side}"))
    for sprite, size_px, where, label in wanted:
        for trial in range(150):
            shrink = 100 - trial // 3
            height = size_px * street.zoom_percent * shrink // 10_000
            box = _spot(canvas, ground, rng, where, sprite, height)
            if box is not None and room.free(box):
                placed.append((box[3] if where != "pole" else 0, sprite, room.take(box), LABEL[label]))
                break
        else:
            return None
    return placed


def _spot(
    canvas: Canvas, ground: Ground, rng: SeededRandom, where: str, sprite: Image.Image, height_px: int
) -> Box | None:
    """A random box for a thing of this height in the part of the street where it belongs."""
    if where == "pole":
        width = sprite.width * height_px // sprite.height
        x = rng.between(2, canvas.width_px - width - 3)
        y = rng.between(canvas.height_px // 12, max(canvas.height_px // 12, ground.horizon_px - height_px + 8))
        return x, y, x + width, y + height_px
    reach = canvas.height_px - ground.horizon_px
    foot = ground.horizon_px + rng.between(reach * 12 // 100, reach - 3)
    height = height_px * (60 + 40 * (foot - ground.horizon_px) // reach) // 100
    width = sprite.width * height // sprite.height
    road_left, road_right = ground.road(foot)
    if where == "pavement":
        where = rng.pick(("left", "right"))
    # Feet near the kerb may overhang the road by a quarter of the thing.
    low, high = {
        "road": (road_left + 2, road_right - width - 2),
        "left": (2, road_left - width * 3 // 4),
        "right": (road_right - width // 4, canvas.width_px - width - 3),
    }[where]
    if high < low:
        return None
    x = rng.between(low, high)
    return x, foot - height, x + width, foot


def _pole(canvas: Canvas, ground: Ground, head: Box) -> None:
    """A pole from the head down to the ground."""
    x = (head[0] + head[2]) // 2
    foot = max(head[3] + 1, ground.horizon_px + (canvas.height_px - ground.horizon_px) // 8)
    steel = plain((112, 114, 116), foot - head[3], 3)
    canvas.fill((x - 1, head[3], x + 2, foot), steel, LABEL["clutter"])
