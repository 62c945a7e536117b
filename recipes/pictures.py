"""What the small codecs are trained on: streets of the training split, and collages of its textures.

B pictures a batch   P side of a patch in px
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from harness.data import glimpseqa, streetsqa
from harness.data.drawing.canvas import tinted
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.textures import Sheet, bank

PATCH_PX = 256
"""A smaller patch is all border to z: 128 px have 2 x 2 positions, and what is learnt there is dear on pictures."""
BATCH = 1

_COLLAGE_PX = 320
_SHAPES = (8, 40)

Picture = NDArray[np.uint8]


def pictures(books: int) -> list[Picture]:
    """Training pictures, each (height, width, 3) uint8: for each book 64 streets, 32 glimpses and 48 collages."""
    drawn: list[Picture] = []
    for number in range(books):
        pages = (*streetsqa.book("train", number)[:64], *glimpseqa.book("train", number)[:32])
        drawn += [_large_enough(page.scene().image) for page in pages]
        drawn += [collage(SeededRandom("collage", number, index)) for index in range(48)]
    return drawn


def _large_enough(image: Image.Image) -> Picture:
    """The picture, mirrored at its edges until a patch fits into it."""
    pixels = np.asarray(image)
    short = [(0, max(0, PATCH_PX - side)) for side in pixels.shape[:2]]
    return np.pad(pixels, (*short, (0, 0)), "symmetric")


def collage(rng: SeededRandom) -> Picture:
    """Shapes over one another, each plain, shaded or textured at any size and tint: edges and surfaces of all kinds."""
    canvas = Image.fromarray(_surface(rng))
    for _ in range(rng.between(*_SHAPES)):
        mask = Image.new("L", canvas.size)
        _shape(ImageDraw.Draw(mask), rng)
        canvas.paste(Image.fromarray(_surface(rng)), (0, 0), mask)
    if rng.one_in(3):
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.between(2, 8) / 8))
    return np.asarray(canvas)


def _surface(rng: SeededRandom) -> Picture:
    colour = (rng.below(256), rng.below(256), rng.below(256))
    if rng.one_in(3):
        return np.broadcast_to(np.array(colour, np.uint8), (_COLLAGE_PX, _COLLAGE_PX, 3))
    if rng.one_in(3):
        rise, run = rng.between(-96, 96), rng.between(-96, 96)
        y, x = np.ogrid[:_COLLAGE_PX, :_COLLAGE_PX]
        sheet: Sheet = (128 + (y * rise + x * run) // _COLLAGE_PX // 2).astype(np.uint8)
        return tinted(sheet, colour, 100)
    sheets = bank("train")
    sheet = rng.pick(sheets[rng.pick(tuple(sheets))])
    side = rng.between(_COLLAGE_PX // 3, len(sheet))
    piece = Image.fromarray(sheet[:side, :side]).rotate(rng.between(0, 359), Image.Resampling.BILINEAR, fillcolor=128)
    scaled = piece.resize((_COLLAGE_PX, _COLLAGE_PX), Image.Resampling.BICUBIC)
    return tinted(np.asarray(scaled), colour, rng.between(20, 160))


def _shape(draw: ImageDraw.ImageDraw, rng: SeededRandom) -> None:
    """Draw one ellipse, polygon or stroke, larger ones less often."""
    size = _COLLAGE_PX // rng.between(2, 24)
    left, top = rng.between(-size // 2, _COLLAGE_PX), rng.between(-size // 2, _COLLAGE_PX)
    corners = [(left + rng.below(2 * size), top + rng.below(2 * size)) for _ in range(rng.between(3, 6))]
    match rng.below(4):
        case 0:
            draw.ellipse((left, top, left + size, top + rng.between(size // 2, 2 * size)), fill=255)
        case 1:
            draw.line(corners, fill=255, width=rng.between(1, 8))
        case 2:
            draw.rectangle((left, top, left + size, top + rng.between(size // 2, 2 * size)), fill=255)
        case _:
            draw.polygon(corners, fill=255)


def batch(drawn: Sequence[Picture], seed: int, step: int) -> Tensor:
    """Random patches x_B3PP in 0 .. 1, float32; they depend on the seed and the step alone."""
    chance = np.random.default_rng((seed, step))
    patches = []
    for picture in (drawn[index] for index in chance.integers(0, len(drawn), BATCH)):
        top = chance.integers(0, picture.shape[0] - PATCH_PX + 1)
        left = chance.integers(0, picture.shape[1] - PATCH_PX + 1)
        patch = picture[top : top + PATCH_PX, left : left + PATCH_PX]
        patches.append(patch[:, ::-1] if chance.integers(0, 2) else patch)
    x_BPP3 = torch.from_numpy(np.stack(patches)).float() / 255
    return x_BPP3.permute(0, 3, 1, 2)
