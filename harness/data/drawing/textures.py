"""Surfaces: grey sheets of noise and pattern, cut and tinted by the scene.

A training scene and a test scene never share a family of textures: the held-out split has walls, grounds, skies and
foliage of its own. All arithmetic is on integers.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.drawing.seeded_random import SeededRandom

Split = Literal["train", "test"]
Surface = Literal["wall", "ground", "sky", "foliage"]
Sheet = NDArray[np.uint8]

SIDE_PX = 640
"""A sheet is a square of this side; no scene is larger than a sheet."""
SHEETS_EACH = 3

_BICUBIC = Image.Resampling.BICUBIC


def _noise(rng: SeededRandom, cell_y_px: int, cell_x_px: int) -> NDArray[np.int32]:
    """Smooth noise around 0, within -128 .. 127, one random value a cell."""
    coarse = rng.octets(SIDE_PX // cell_y_px + 2, SIDE_PX // cell_x_px + 2)
    field = Image.fromarray(coarse, "L").resize((SIDE_PX, SIDE_PX), _BICUBIC)
    return np.asarray(field, dtype=np.int32) - 128


def _fractal(rng: SeededRandom, *octaves: tuple[int, int]) -> NDArray[np.int32]:
    """A sum of smooth noises, each given as (cell in px, weight in percent)."""
    return sum((_noise(rng, cell, cell) * weight for cell, weight in octaves), np.int32(0)) // 100  # type: ignore[return-value]


def _grid(
    rng: SeededRandom, height_px: int, width_px: int, *, stagger: bool, joint_px: int, spread: int
) -> NDArray[np.int32]:
    """Blocks of one shade each between dark joints, every other course moved by half a block where they stagger."""
    y = np.arange(SIDE_PX)[:, None]
    course = y // height_px
    x = np.arange(SIDE_PX)[None, :] + (course % 2) * (width_px // 2 if stagger else 0)
    shades = rng.octets(SIDE_PX // height_px + 2, SIDE_PX // width_px + 3).astype(np.int32) - 128
    blocks = shades[course, x // width_px] * spread // 128
    joints = (y % height_px < joint_px) | (x % width_px < joint_px)
    return np.where(joints, -60, blocks)


def _sheet(field: NDArray[np.int32]) -> Sheet:
    return np.clip(field + 128, 0, 255).astype(np.uint8)


def _brick(rng: SeededRandom) -> Sheet:
    return _sheet(
        _grid(rng, rng.between(5, 8), rng.between(13, 20), stagger=True, joint_px=1, spread=34)
        + _fractal(rng, (2, 22), (60, 30))
    )


def _plaster(rng: SeededRandom) -> Sheet:
    return _sheet(_fractal(rng, (1, 10), (4, 16), (24, 24), (110, 45)))


def _planks(rng: SeededRandom) -> Sheet:
    boards = _grid(rng, SIDE_PX, rng.between(7, 12), stagger=False, joint_px=1, spread=26)
    return _sheet(boards + _noise(rng, 40, 2) * 24 // 100 + _fractal(rng, (80, 25)))


def _stone(rng: SeededRandom) -> Sheet:
    blocks = _grid(rng, rng.between(14, 20), rng.between(26, 38), stagger=True, joint_px=2, spread=30)
    return _sheet(blocks + _fractal(rng, (2, 18), (9, 34), (70, 25)))


def _cladding(rng: SeededRandom) -> Sheet:
    ramp = np.arange(SIDE_PX)[:, None] % rng.between(9, 13) * 5
    return _sheet(28 - ramp + _noise(rng, 2, 30) * 22 // 100 + _fractal(rng, (50, 35)))


def _concrete(rng: SeededRandom) -> Sheet:
    panels = _grid(rng, rng.between(50, 70), rng.between(60, 90), stagger=False, joint_px=2, spread=18)
    return _sheet(panels + _noise(rng, 90, 9) * 40 // 100 + _fractal(rng, (1, 14), (6, 18)))


def _roughcast(rng: SeededRandom) -> Sheet:
    return _sheet(np.maximum(_fractal(rng, (3, 62), (5, 40)), -25) + _fractal(rng, (90, 40)))


def _asphalt(rng: SeededRandom) -> Sheet:
    return _sheet(_fractal(rng, (1, 34), (3, 22), (50, 40)))


def _cobbles(rng: SeededRandom) -> Sheet:
    stones = _grid(rng, rng.between(9, 13), rng.between(10, 15), stagger=True, joint_px=2, spread=30)
    return _sheet(stones + _fractal(rng, (2, 24), (60, 30)))


def _patched(rng: SeededRandom) -> Sheet:
    patches = np.where(_noise(rng, 110, 90) > 26, -34, 0) + np.where(np.abs(_noise(rng, 60, 45)) < 4, -40, 0)
    return _sheet(patches + _fractal(rng, (1, 28), (5, 22)))


def _slabs(rng: SeededRandom) -> Sheet:
    slabs = _grid(rng, rng.between(26, 34), rng.between(26, 40), stagger=False, joint_px=1, spread=22)
    return _sheet(slabs + _fractal(rng, (2, 26), (30, 36)))


def _cumulus(rng: SeededRandom) -> Sheet:
    return _sheet(_fractal(rng, (10, 14), (30, 30), (120, 80)))


def _haze(rng: SeededRandom) -> Sheet:
    return _sheet(_fractal(rng, (60, 24), (200, 50)))


def _streaks(rng: SeededRandom) -> Sheet:
    return _sheet(_noise(rng, 16, 120) * 55 // 100 + _noise(rng, 60, 300) * 60 // 100 + _fractal(rng, (8, 10)))


def _leaves(rng: SeededRandom) -> Sheet:
    return _sheet(_fractal(rng, (2, 40), (5, 55), (18, 40)))


def _needles(rng: SeededRandom) -> Sheet:
    return _sheet(_noise(rng, 7, 2) * 70 // 100 + _fractal(rng, (14, 45)))


def _boughs(rng: SeededRandom) -> Sheet:
    return _sheet(_noise(rng, 2, 6) * 60 // 100 + np.abs(_fractal(rng, (8, 80))) + _fractal(rng, (24, 50)) - 20)


FAMILIES: Mapping[Split, Mapping[Surface, tuple[Callable[[SeededRandom], Sheet], ...]]] = {
    "train": {
        "wall": (_brick, _plaster, _planks, _stone),
        "ground": (_asphalt, _cobbles),
        "sky": (_cumulus, _haze),
        "foliage": (_leaves, _needles),
    },
    "test": {
        "wall": (_cladding, _concrete, _roughcast),
        "ground": (_patched, _slabs),
        "sky": (_streaks,),
        "foliage": (_boughs,),
    },
}
"""The textures of each split: the two have no family in common."""


@functools.cache
def bank(split: Split) -> Mapping[Surface, tuple[Sheet, ...]]:
    """The sheets of a split, uint8, SIDE_PX square, mean about 128; drawn once a process."""
    return {
        surface: tuple(
            family(SeededRandom("texture", split, surface, which, number))
            for which, family in enumerate(families)
            for number in range(SHEETS_EACH)
        )
        for surface, families in FAMILIES[split].items()
    }


def cut(rng: SeededRandom, split: Split, surface: Surface, height_px: int, width_px: int) -> Sheet:
    """A random piece of one of the split's sheets, mirrored half of the time."""
    sheet = rng.pick(bank(split)[surface])
    top, left = rng.below(SIDE_PX - height_px + 1), rng.below(SIDE_PX - width_px + 1)
    piece = sheet[top : top + height_px, left : left + width_px]
    return piece[:, ::-1] if rng.one_in(2) else piece
