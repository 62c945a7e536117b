"""Drawn streets as the vision tower sees them: tiles, and the class of what each feature covers.

P patches (the thumbnail first, then the tiles row by row)   V features a patch
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.backbones.tiling import Tiling, fitted, grids_up_to
from harness.data import glimpseqa, streetsqa
from harness.data.asking import Page
from harness.data.drawing.dice import Dice
from harness.data.drawing.things import LABELS, SURFACES

TILE_PX, PATCH_PX, MAX_GRID, MAX_TILES = 192, 16, 6, 9
GRID = TILE_PX // PATCH_PX
TILING = Tiling(patch=TILE_PX, grids=grids_up_to(MAX_GRID))

CLASSES = 1 + len(LABELS) - len(SURFACES)
"""Background is one class, 0, so that nothing asks the tower to tell its parts from one another."""
CLASS_NAMES = ("background", *LABELS[len(SURFACES) :])

_THING_WEIGHT = 7
_SMALL = [index for index, name in enumerate(CLASS_NAMES) if name.startswith(("light", "sign"))]
_BOOKS = 1000


def classes_seen(label_HW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class of every feature of a picture: the thing that covers an eighth of it or more, else background."""
    tiles_PYX = _label_tiles(label_HW)
    classes = np.maximum(tiles_PYX.astype(np.int64) - len(SURFACES) + 1, 0)
    classes = classes.reshape(-1, GRID, PATCH_PX, GRID, PATCH_PX).transpose(0, 1, 3, 2, 4).reshape(-1, PATCH_PX**2)
    rows = np.arange(len(classes))[:, None] * CLASSES
    counts = np.bincount((rows + classes).ravel(), minlength=len(classes) * CLASSES).reshape(len(classes), CLASSES)
    counts[:, 1:] *= _THING_WEIGHT
    classes_PV: NDArray[np.int64] = counts.argmax(1).reshape(-1, GRID * GRID)
    return classes_PV


def _label_tiles(label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label map cut as its picture is, each pixel the label of the nearest one."""
    height, width = label_HW.shape
    n_h, n_w = TILING.grid(height, width)
    canvas = _onto(label_HW, n_h * TILE_PX, n_w * TILE_PX)
    tiles = canvas.reshape(n_h, TILE_PX, n_w, TILE_PX).transpose(0, 2, 1, 3).reshape(-1, TILE_PX, TILE_PX)
    return np.concatenate([_onto(label_HW, TILE_PX, TILE_PX)[None], tiles])


def _onto(label_HW: NDArray[np.uint8], canvas_h: int, canvas_w: int) -> NDArray[np.uint8]:
    height, width = fitted(label_HW.shape[0], label_HW.shape[1], canvas_h, canvas_w)
    canvas = Image.new("L", (canvas_w, canvas_h))
    resized = Image.fromarray(label_HW, "L").resize((width, height), Image.Resampling.NEAREST)
    canvas.paste(resized, ((canvas_w - width) // 2, (canvas_h - height) // 2))
    return np.asarray(canvas)


def _close_up(page: Page, dice: Dice) -> Page:
    """A page with fewer and larger things, in which a small detail is seen before it is learnt to be small."""
    street = dataclasses.replace(
        page.street,
        cars=page.street.cars[:1],
        items=dict(list(page.street.items.items())[:1]),
        zoom_percent=page.street.zoom_percent * dice.between(110, 170) // 100,
    )
    return dataclasses.replace(page, street=street)


class TileBatches(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Endless batches of training tiles (P, 3, 192, 192) with the classes of their features, from batch ``first`` on.

    ``details`` keeps, for most pictures, only the tiles that show part of the traffic light or the round sign.
    """

    def __init__(self, tiles: int, first: int, *, details: bool = False) -> None:
        self.tiles, self.first, self.details = tiles, first, details

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            yield self._batch(Dice("details" if self.details else "tower", number))
            number += 1

    def _batch(self, dice: Dice) -> tuple[torch.Tensor, torch.Tensor]:
        pixels: list[torch.Tensor] = []
        classes: list[torch.Tensor] = []
        book = glimpseqa.book if dice.one_in(6) else streetsqa.book
        pages = book("train", dice.below(_BOOKS))
        while len(pixels) < self.tiles:
            page = dice.pick(pages)
            scene = (_close_up(page, dice) if book is streetsqa.book and dice.one_in(3) else page).scene()
            pixels_PCHW, seen_PV = TILING(scene.image).pixels_PCHW, classes_seen(scene.label_HW)
            # Tiles with many things first, those that need sharp eyes before others: an empty tile teaches little.
            worth = [len(np.unique(seen_V)) * 4 + 10 * int(np.isin(seen_V, _SMALL).any()) for seen_V in seen_PV]
            order = np.argsort([-w - dice.below(8) for w in worth], kind="stable")
            if self.details and not dice.one_in(4):
                order = np.array([index for index in order if np.isin(seen_PV[index], _SMALL).any()], dtype=np.int64)
            for index in order[:5]:
                pixels.append(pixels_PCHW[index])
                classes.append(torch.from_numpy(seen_PV[index]))
        return torch.stack(pixels[: self.tiles]), torch.stack(classes[: self.tiles])
