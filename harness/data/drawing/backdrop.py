"""The street itself, without the things that questions are about: sky, houses, trees, road and pavement."""

import dataclasses

import numpy as np

from harness.data.drawing.canvas import Canvas, Colour, jittered, plain, tinted
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.textures import SIDE_PX, Split, cut
from harness.data.drawing.things import LABEL

_WALLS: tuple[Colour, ...] = (
    (168, 92, 70), (196, 176, 146), (150, 146, 140), (120, 98, 82), (206, 196, 180), (130, 134, 146), (176, 140, 104),
)  # fmt: skip
_SKIES: tuple[Colour, ...] = ((150, 182, 216), (178, 190, 200), (120, 158, 206), (198, 186, 176))
_FOLIAGE: tuple[Colour, ...] = ((70, 104, 48), (52, 86, 52), (98, 116, 52), (118, 100, 52))


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """Where the road lies: its edges run straight from the horizon to the picture's lower edge."""

    horizon_px: int
    height_px: int
    far_px: tuple[int, int]
    near_px: tuple[int, int]

    def road(self, y_px: int) -> tuple[int, int]:
        """The road's left and right edge at a height in the picture, in px."""
        depth, reach = y_px - self.horizon_px, self.height_px - self.horizon_px
        left = self.far_px[0] + (self.near_px[0] - self.far_px[0]) * depth // reach
        right = self.far_px[1] + (self.near_px[1] - self.far_px[1]) * depth // reach
        return left, right


def paint_backdrop(canvas: Canvas, rng: SeededRandom, split: Split) -> Ground:
    """Paint the background, and return where the road lies."""
    width, height = canvas.width_px, canvas.height_px
    horizon = height * rng.between(44, 52) // 100
    middle = width * rng.between(42, 58) // 100
    ground = Ground(
        horizon,
        height,
        (middle - width * rng.between(7, 11) // 100, middle + width * rng.between(7, 11) // 100),
        (width * rng.between(2, 12) // 100, width * rng.between(88, 98) // 100),
    )
    _sky(canvas, rng, split, horizon)
    _houses(canvas, rng, split, horizon)
    _ground(canvas, rng, split, ground)
    for _ in range(rng.between(2, 4)):
        _tree(canvas, rng, split, ground)
    _clutter(canvas, rng, ground)
    return ground


def _sky(canvas: Canvas, rng: SeededRandom, split: Split, horizon: int) -> None:
    sheet = cut(rng, split, "sky", horizon, canvas.width_px)
    sky = tinted(sheet, jittered(rng, rng.pick(_SKIES), 12), rng.between(30, 70)).astype(np.int32)
    fade = np.arange(horizon)[:, None, None] * rng.between(10, 50) // horizon
    canvas.fill((0, 0, canvas.width_px, horizon), np.minimum(sky + fade, 255).astype(np.uint8), LABEL["sky"])


def _houses(canvas: Canvas, rng: SeededRandom, split: Split, horizon: int) -> None:
    left = -rng.below(40)
    while left < canvas.width_px:
        right = left + canvas.width_px * rng.between(18, 36) // 100
        top = horizon * rng.between(4, 62) // 100
        if not rng.one_in(7):
            _house(canvas, rng, split, (max(left, 0), top, min(right, canvas.width_px), horizon + 4))
        left = right + rng.pick((0, 0, 2, 10))


def _house(canvas: Canvas, rng: SeededRandom, split: Split, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    if right - left < 8 or bottom - top < 8:
        return
    sheet = cut(rng, split, "wall", bottom - top, right - left)
    wall = jittered(rng, rng.pick(_WALLS), 16)
    canvas.fill(box, tinted(sheet, wall, rng.between(60, 100)), LABEL["wall"])
    pane_w, pane_h = rng.between(9, 16), rng.between(13, 22)
    gap_x, gap_y = pane_w + rng.between(7, 14), pane_h + rng.between(9, 16)
    frame = rng.pick([(226, 224, 218), (64, 58, 54), (120, 92, 70)])
    columns = range(left + 6, right - pane_w - 3, gap_x)
    rows = range(top + 8, bottom - pane_h - 6, gap_y)
    if not columns or not rows:
        return
    glass = tinted(cut(rng, split, "sky", bottom - top, right - left), jittered(rng, (62, 74, 90), 20), 120)
    y, x = np.mgrid[0 : bottom - top, 0 : right - left]
    row, column = y - (rows[0] - top), x - (columns[0] - left)
    y_in, x_in = row % gap_y, column % gap_x
    on_grid = (row >= 0) & (column >= 0) & (row // gap_y < len(rows)) & (column // gap_x < len(columns))
    framed = on_grid & (y_in < pane_h) & (x_in < pane_w)
    pane = framed & (y_in >= 2) & (x_in >= 2) & (y_in < pane_h - 2) & (x_in < pane_w - 2) & (y_in != pane_h // 2)
    lights = rng.octets(len(rows), len(columns)).astype(np.int32)
    cell = lights[np.clip(row // gap_y, 0, len(rows) - 1), np.clip(column // gap_x, 0, len(columns) - 1)]
    blind = y_in < pane_h * (cell % 5) // 6
    canvas.fill_where((left, top), framed, plain(frame, *framed.shape), LABEL["window"])
    canvas.fill_where((left, top), pane, glass, LABEL["window"])
    drawn = pane & blind & (cell > 110)
    canvas.fill_where((left, top), drawn, plain((196, 184, 156), *pane.shape), LABEL["window"])


def _ground(canvas: Canvas, rng: SeededRandom, split: Split, ground: Ground) -> None:
    width, reach = canvas.width_px, canvas.height_px - ground.horizon_px
    y = np.arange(reach)
    # Farther rows step over more of the sheet: the texture shrinks towards the horizon.
    rows = np.cumsum(1 + 2 * (reach - y) // reach) - 1
    spread = 64 + 128 * (reach - y) // reach
    columns = (np.arange(width)[None, :] - width // 2) * spread[:, None] // 64 + SIDE_PX // 2
    for label, colour in (("pavement", (158, 152, 144)), ("road", (98, 98, 102))):
        sheet = cut(rng, split, "ground", SIDE_PX, SIDE_PX)
        piece = sheet[rows[:, None] % SIDE_PX, columns % SIDE_PX]
        surface = tinted(piece, jittered(rng, colour, 16), rng.between(60, 95))
        if label == "pavement":
            canvas.fill((0, ground.horizon_px, width, canvas.height_px), surface, LABEL[label])
            continue
        edges = np.array([ground.road(ground.horizon_px + int(row)) for row in y])
        x = np.arange(width)[None, :]
        on_road = (x >= edges[:, :1]) & (x < edges[:, 1:])
        kerb = np.abs(x - edges[:, :1]) <= 1 + (y[:, None] > reach // 2)
        kerb |= np.abs(x - edges[:, 1:]) <= 1 + (y[:, None] > reach // 2)
        canvas.fill_where((0, ground.horizon_px), on_road, surface, LABEL[label])
        stone = plain((186, 182, 174), *on_road.shape)
        canvas.fill_where((0, ground.horizon_px), kerb, stone, LABEL["pavement"])
        middle, half = edges.sum(axis=1, keepdims=True) // 2, 1 + y[:, None] * 3 // reach
        dashes = (rows[:, None] // 24 % 2 == 0) & (np.abs(x - middle) < half)
        canvas.fill_where((0, ground.horizon_px), dashes, plain((206, 204, 196), *on_road.shape), LABEL[label])


def _tree(canvas: Canvas, rng: SeededRandom, split: Split, ground: Ground) -> None:
    radius_x = min(canvas.width_px, canvas.height_px) * rng.between(9, 17) // 100
    radius_y = radius_x * rng.between(90, 140) // 100
    foot = ground.horizon_px + rng.between(2, (canvas.height_px - ground.horizon_px) // 4)
    road_left, road_right = ground.road(foot)
    x = (
        rng.below(max(1, road_left - 4))
        if rng.one_in(2)
        else rng.between(min(road_right + 4, canvas.width_px), canvas.width_px)
    )
    crown_y = foot - radius_y - rng.between(8, 30)
    half = max(2, radius_x // 12)
    trunk = (max(0, x - half), max(0, crown_y), min(canvas.width_px, x + half), foot)
    if trunk[2] > trunk[0]:
        bark = cut(rng, split, "foliage", trunk[3] - trunk[1], trunk[2] - trunk[0])
        canvas.fill(trunk, tinted(bark, (84, 66, 50), 70), LABEL["tree"])
    left, top = max(0, x - radius_x), max(0, crown_y - radius_y)
    right, bottom = min(canvas.width_px, x + radius_x), min(canvas.height_px, crown_y + radius_y)
    if right - left < 4 or bottom - top < 4:
        return
    sheet = cut(rng, split, "foliage", bottom - top, right - left)
    dy, dx = np.mgrid[top - crown_y : bottom - crown_y, left - x : right - x]
    nearness = 256 - 256 * dx * dx // (radius_x * radius_x) - 256 * dy * dy // (radius_y * radius_y)
    crown = nearness + (sheet.astype(np.int32) - 128) * 2 > 60
    leaves = tinted(sheet, jittered(rng, rng.pick(_FOLIAGE), 12), 110)
    canvas.fill_where((left, top), crown, leaves, LABEL["tree"])


def _clutter(canvas: Canvas, rng: SeededRandom, ground: Ground) -> None:
    """Lamp posts, awnings, posters, drain covers and leaves: detail that no question is about."""
    width, height, horizon = canvas.width_px, canvas.height_px, ground.horizon_px
    for _ in range(rng.between(1, 3)):
        x, top = rng.below(width - 4), horizon * rng.between(20, 50) // 100
        post = plain(jittered(rng, (74, 76, 78), 14), horizon + 8 - top, 3)
        canvas.fill((x, top, x + 3, horizon + 8), post, LABEL["clutter"])
    for _ in range(rng.between(3, 7)):
        w, h = rng.between(8, 26), rng.between(5, 12)
        x, y = rng.below(width - w), horizon * rng.between(40, 94) // 100
        speckle = rng.octets(h, w, 3).astype(np.int32) - 128
        poster = np.clip(np.array(jittered(rng, (130, 124, 120), 60)) + speckle // 3, 0, 255).astype(np.uint8)
        canvas.fill((x, y, x + w, y + h), poster, LABEL["clutter"])
    for _ in range(rng.between(6, 14)):
        y = rng.between(horizon + 6, height - 6)
        x, w = rng.below(width - 12), rng.between(3, 10)
        canvas.shade((x, y, x + w, y + max(2, w // 3)), rng.between(40, 75))
