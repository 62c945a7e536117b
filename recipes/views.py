"""Drawn streets as the vision tower sees them: tiles, and the class of what each feature covers.

P patches (the thumbnail first, then the tiles row by row)   V features a patch
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.data import glimpseqa, streetsqa
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Scene
from harness.data.drawing.things import LABELS, SURFACES
from harness.data.questions import Page
from harness.models.llava15 import CLIP_MEAN, CLIP_STD
from harness.models.patches import grids_up_to
from harness.models.tiling import PaddedTile, Tiling, fitted

TILE_PX, PATCH_PX, MAX_GRID, MAX_TILES = 192, 16, 6, 9
GRID = TILE_PX // PATCH_PX
TILING = Tiling(patch=TILE_PX, grids=grids_up_to(MAX_GRID))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a tower is shown of a picture, and which of its states are the features that a backbone hands on.

    ``tiling`` cuts the picture, ``patch_px`` is the side of what one feature covers in a tile; ``layer`` is the index
    of the hidden states, ``drop_cls`` says that the first of them is a class token.
    """

    tiling: Tiling | PaddedTile
    patch_px: int
    layer: int
    drop_cls: bool

    @property
    def side(self) -> int:
        """Features along the side of a tile."""
        return self.tiling.patch // self.patch_px


ONEVISION = Sight(tiling=TILING, patch_px=PATCH_PX, layer=-1, drop_cls=False)
LLAVA15 = Sight(tiling=PaddedTile(patch=288, mean=CLIP_MEAN, std=CLIP_STD), patch_px=PATCH_PX, layer=-2, drop_cls=True)

CLASSES = 1 + len(LABELS) - len(SURFACES)
"""Background is one class, 0, so that nothing asks the tower to tell its parts from one another."""
CLASS_NAMES = ("background", *LABELS[len(SURFACES) :])

_THING_WEIGHT = 7
_SMALL = [index for index, name in enumerate(CLASS_NAMES) if name.startswith(("light", "sign"))]
_BOOKS = 1000


def classes_seen(label_HW: NDArray[np.uint8], sight: Sight = ONEVISION) -> NDArray[np.int64]:
    """The class of every feature of a picture: the thing that covers an eighth of it or more, else background."""
    tiles_PYX = _label_tiles(label_HW, sight.tiling)
    side, px = sight.side, sight.patch_px
    classes = np.maximum(tiles_PYX.astype(np.int64) - len(SURFACES) + 1, 0)
    classes = classes.reshape(-1, side, px, side, px).transpose(0, 1, 3, 2, 4).reshape(-1, px**2)
    rows = np.arange(len(classes))[:, None] * CLASSES
    counts = np.bincount((rows + classes).ravel(), minlength=len(classes) * CLASSES).reshape(len(classes), CLASSES)
    counts[:, 1:] *= _THING_WEIGHT
    classes_PV: NDArray[np.int64] = counts.argmax(1).reshape(-1, side * side)
    return classes_PV


def _label_tiles(label_HW: NDArray[np.uint8], tiling: Tiling | PaddedTile) -> NDArray[np.uint8]:
    """A label map cut as its picture is, each pixel the label of the nearest one."""
    p, tiles = tiling.patch, []
    for n_h, n_w in tiling.canvases(*label_HW.shape):
        canvas = _onto(label_HW, n_h * p, n_w * p)
        tiles.append(canvas.reshape(n_h, p, n_w, p).transpose(0, 2, 1, 3).reshape(-1, p, p))
    return np.concatenate(tiles)


def _onto(label_HW: NDArray[np.uint8], canvas_h: int, canvas_w: int) -> NDArray[np.uint8]:
    height, width = fitted(label_HW.shape[0], label_HW.shape[1], canvas_h, canvas_w)
    canvas = Image.new("L", (canvas_w, canvas_h))
    resized = Image.fromarray(label_HW, "L").resize((width, height), Image.Resampling.NEAREST)
    canvas.paste(resized, ((canvas_w - width) // 2, (canvas_h - height) // 2))
    return np.asarray(canvas)


def _close_up(page: Page, rng: SeededRandom) -> Page:
    """A page with fewer and larger things, on which a detail is learned before it has to be found at its true size."""
    street = dataclasses.replace(
        page.street,
        cars=page.street.cars[:1],
        items=dict(list(page.street.items.items())[:1]),
        zoom_percent=page.street.zoom_percent * rng.between(110, 170) // 100,
    )
    return dataclasses.replace(page, street=street)


def _cut_out(scene: Scene, side: int, rng: SeededRandom, *, small: bool) -> Scene:
    """A square of a picture, ``side`` pixels or as many as there are, around one of its things: ``small`` ones only.

    A tower that is given whole pictures learns from parts of them, in which things are larger, what to look for.
    """
    wanted = np.isin(np.maximum(scene.label_HW.astype(int) - len(SURFACES) + 1, 0), _SMALL)
    rows, columns = np.nonzero(wanted if small and wanted.any() else scene.label_HW >= len(SURFACES))
    if not len(rows):
        return scene
    at = rng.below(len(rows))
    height, width = scene.label_HW.shape
    side = min(side, height, width)
    top = min(max(0, int(rows[at]) - rng.below(side)), height - side)
    left = min(max(0, int(columns[at]) - rng.below(side)), width - side)
    return dataclasses.replace(
        scene,
        image=scene.image.crop((left, top, left + side, top + side)),
        label_HW=scene.label_HW[top : top + side, left : left + side],
    )


class TileBatches(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Endless batches of training tiles (P, 3, p, p) with the classes of their features, from batch ``first`` on.

    ``details`` keeps, for most pictures, only the tiles that show part of the traffic light or the round sign.
    """

    def __init__(self, tiles: int, first: int, *, details: bool = False, sight: Sight = ONEVISION) -> None:
        self.tiles, self.first, self.details, self.sight = tiles, first, details, sight

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            yield self._batch(SeededRandom("details" if self.details else "tower", number))
            number += 1

    def _batch(self, rng: SeededRandom) -> tuple[torch.Tensor, torch.Tensor]:
        pixels: list[torch.Tensor] = []
        classes: list[torch.Tensor] = []
        book = glimpseqa.book if rng.one_in(6) else streetsqa.book
        pages = book("train", rng.below(_BOOKS))
        while len(pixels) < self.tiles:
            page = rng.pick(pages)
            scene = (_close_up(page, rng) if book is streetsqa.book and rng.one_in(3) else page).scene()
            pixels_PCHW, seen_PV = self._seen(scene, rng)
            # Tiles with many things first, those that need sharp eyes before others: an empty tile teaches little.
            worth = [len(np.unique(seen_V)) * 4 + 10 * int(np.isin(seen_V, _SMALL).any()) for seen_V in seen_PV]
            order = np.argsort([-w - rng.below(8) for w in worth], kind="stable")
            if self.details and not rng.one_in(4):
                order = np.array([index for index in order if np.isin(seen_PV[index], _SMALL).any()], dtype=np.int64)
            for index in order[:5]:
                pixels.append(pixels_PCHW[index])
                classes.append(torch.from_numpy(seen_PV[index]))
        return torch.stack(pixels[: self.tiles]), torch.stack(classes[: self.tiles])

    def _seen(self, scene: Scene, rng: SeededRandom) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """The tiles of a picture, and where the tower is only given whole ones those of two parts of it."""
        shown = [scene]
        if isinstance(self.sight.tiling, PaddedTile):
            sides = (rng.between(120, 200), rng.between(200, 288))
            shown += [_cut_out(scene, side, rng, small=self.details) for side in sides]
        pixels = torch.cat([self.sight.tiling(one.image).pixels_PCHW for one in shown])
        return pixels, np.concatenate([classes_seen(one.label_HW, self.sight) for one in shown])
