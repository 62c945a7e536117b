"""What the small codecs are trained on: drawn streets of the training split, collages of its textures, and photographs.

B pictures a batch   P side of a patch in px
"""

import hashlib
import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from harness.data import glimpseqa, streetsqa
from harness.data.drawing.canvas import tinted
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.textures import Sheet, bank
from harness.errors import DataError

PATCH_PX = 256
"""With 128 px z has 2 x 2 positions, all at the border, and what is learnt there costs many bits on whole pictures."""
BATCH = 1

_COLLAGE_PX = 320
_SHAPES = (8, 40)

PHOTOGRAPHS: Mapping[str, str] = {
    "skimage/data/astronaut.png": "88431cd9653ccd53",
    "skimage/data/brick.png": "7966caf324f6ba84",
    "skimage/data/camera.png": "b0793d2adda0fa6a",
    "skimage/data/chelsea.png": "596aa1e7cb875eb7",
    "skimage/data/coffee.png": "cc02f8ca188b167c",
    "skimage/data/grass.png": "b6b6022426b38936",
    "skimage/data/gravel.png": "c48615b451bf1e60",
    "skimage/data/motorcycle_left.png": "db18e9c415761740",
    "skimage/data/rocket.jpg": "c2dd0de7c538df8d",
    "sklearn/datasets/images/china.jpg": "8378025ad2519d64",
    "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afd",
}
"""Photographs in the wheels of scikit-image 0.26.0 and scikit-learn 1.9.1, and the first digits of their SHA-256."""
_SCALES = (1.0, 0.75, 0.5)

Picture = NDArray[np.uint8]


def pictures(books: int, photographs: Path) -> list[Picture]:
    """Training pictures, each (height, width, 3) uint8; one half drawn, the other photographs.

    Each book has 64 streets, 32 glimpses and 48 collages. ``photographs`` is a folder with the wheels that
    :data:`PHOTOGRAPHS` names. Raises DataError where one of the photographs is missing or is another.
    """
    found = [scaled for photograph in _photographs(photographs) for scaled in _scaled(photograph)]
    made = _drawn(books)
    return made + list(itertools.islice(itertools.cycle(found), len(made)))


def _photographs(folder: Path) -> list[Image.Image]:
    found: dict[str, Image.Image] = {}
    for wheel in sorted(folder.glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as archive:
                bodies = {name: archive.read(name) for name in PHOTOGRAPHS.keys() & set(archive.namelist())}
        except zipfile.BadZipFile as error:
            raise DataError(f"{wheel}: is not a complete wheel: {error}; download it again") from None
        for name, body in bodies.items():
            if not hashlib.sha256(body).hexdigest().startswith(PHOTOGRAPHS[name]):
                raise DataError(f"{wheel}: {name} is another picture than the one that the codecs are trained on")
            found[name] = Image.open(io.BytesIO(body)).convert("RGB")
    if missing := sorted(PHOTOGRAPHS.keys() - found.keys()):
        raise DataError(f"{folder}: no wheel in it has {missing[0]}; see the target 'weights' of the Makefile")
    return [found[name] for name in PHOTOGRAPHS]


def _scaled(photograph: Image.Image) -> list[Picture]:
    """The photograph and smaller copies of it, as far as a patch fits: textures of several scales."""
    sides = [(round(scale * photograph.width), round(scale * photograph.height)) for scale in _SCALES]
    copies = [photograph.resize(size, Image.Resampling.LANCZOS) for size in sides if min(size) >= PATCH_PX]
    return [np.asarray(copy) for copy in copies]


def _drawn(books: int) -> list[Picture]:
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
