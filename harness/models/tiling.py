"""How images are cut: the any-resolution tiling of the paper's section III, InternVL's, and a single tile.

    P patches   C colour channels   H, W the side of a patch in pixels, both p

The paper's: an image is enlarged to the smallest grid of n_h x n_w patches that holds it, its aspect ratio kept, and
padded around with black. In front of the tiles goes a thumbnail: the image padded to a square (the paper's way;
transformers' processor squashes it) and resized to p x p. The others are as the models' processors cut.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.models.contract import Layout, Tiles
from harness.models.patches import best_grid, closest_grid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a backbone cuts images: ``patch`` is p, ``grids`` the (n_h, n_w) to choose from.

    ``mean`` and ``std`` are of pixels scaled to [0, 1]; SigLIP's are 0.5.
    """

    patch: int
    grids: tuple[tuple[int, int], ...]
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(n_h, n_w) of an image; see :func:`harness.models.patches.best_grid`."""
        return best_grid(height, width, self.patch, self.grids)

    def n_patches(self, n_h: int, n_w: int) -> int:
        """P of a grid: its tiles and the thumbnail."""
        return n_h * n_w + 1

    def max_patches(self, max_pixels: int) -> int:
        """The most patches of a picture of up to ``max_pixels``: a canvas has at most a row and a column to spare."""
        longest = max(max(grid) for grid in self.grids)
        needed = max_pixels / self.patch**2 + 2 * longest
        return int(min(needed, max(n_h * n_w for n_h, n_w in self.grids))) + 1

    def __call__(self, image: Image.Image) -> Tiles:
        """The thumbnail and the tiles of an RGB image, (n_h * n_w + 1, 3, p, p)."""
        n_h, n_w = self.grid(image.height, image.width)
        thumbnail_HWC = np.asarray(self._thumbnail(image))
        canvas_HWC = np.asarray(self._canvas(image, n_h, n_w))
        p = self.patch
        pixels_PHWC = np.empty((n_h * n_w + 1, p, p, 3), np.uint8)
        pixels_PHWC[0] = thumbnail_HWC
        pixels_PHWC[1:] = canvas_HWC.reshape(n_h, p, n_w, p, 3).transpose(0, 2, 1, 3, 4).reshape(-1, p, p, 3)
        layout = Layout((n_h, n_w), (image.height, image.width))
        return Tiles(normalised(pixels_PHWC, self.mean, self.std), layout)

    def canvases(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grids onto which an image is fitted, in the order of their patches: the thumbnail's, the tiles'."""
        return (1, 1), self.grid(height, width)

    def _canvas(self, image: Image.Image, n_h: int, n_w: int) -> Image.Image:
        height, width = n_h * self.patch, n_w * self.patch
        fitted_h, fitted_w = fitted(image.height, image.width, height, width)
        canvas = Image.new("RGB", (width, height))
        resized = image.resize((fitted_w, fitted_h), Image.Resampling.BICUBIC)
        canvas.paste(resized, ((width - fitted_w) // 2, (height - fitted_h) // 2))
        return canvas

    def _thumbnail(self, image: Image.Image) -> Image.Image:
        return squared(image).resize((self.patch, self.patch), Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StretchedTiling:
    """InternVL's way: the image is stretched to the grid of at most ``max_tiles`` whose aspect ratio is closest.

    The thumbnail, the whole image stretched to one patch, comes last, and is left out where there is one tile.
    """

    patch: int
    min_tiles: int = 1
    max_tiles: int = 12
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(n_h, n_w) of an image; see :func:`harness.models.patches.closest_grid`."""
        return closest_grid(height, width, self.patch, self.min_tiles, self.max_tiles)

    def n_patches(self, n_h: int, n_w: int) -> int:
        """P of a grid: its tiles, and the thumbnail where they are several."""
        return n_h * n_w + (n_h * n_w > 1)

    def max_patches(self, max_pixels: int) -> int:  # noqa: ARG002
        """The most patches of any picture: the grid follows its aspect ratio, whatever its size."""
        return self.n_patches(1, self.max_tiles)

    def __call__(self, image: Image.Image) -> Tiles:
        """The tiles of an RGB image row by row, and the thumbnail: (P, 3, p, p)."""
        n_h, n_w = self.grid(image.height, image.width)
        p, n_tiles = self.patch, n_h * n_w
        canvas_HWC = np.asarray(image.resize((n_w * p, n_h * p), Image.Resampling.BICUBIC))
        pixels_PHWC = np.empty((self.n_patches(n_h, n_w), p, p, 3), np.uint8)
        pixels_PHWC[:n_tiles] = canvas_HWC.reshape(n_h, p, n_w, p, 3).transpose(0, 2, 1, 3, 4).reshape(-1, p, p, 3)
        if n_tiles > 1:
            pixels_PHWC[n_tiles] = np.asarray(image.resize((p, p), Image.Resampling.BICUBIC))
        layout = Layout((n_h, n_w), (image.height, image.width), stretched=True)
        return Tiles(normalised(pixels_PHWC, self.mean, self.std), layout)

    def canvases(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grids onto which an image is fitted, in the order of their patches: the tiles', the thumbnail's."""
        grid = self.grid(height, width)
        return (grid,) if grid == (1, 1) else (grid, (1, 1))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OneTile(abc.ABC):
    """The whole image is one patch of side ``patch``; a subclass says how it becomes a square."""

    stretches: ClassVar[bool] = False
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def grid(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        """The grid of every image."""
        return 1, 1

    def n_patches(self, n_h: int, n_w: int) -> int:  # noqa: ARG002
        """P: the one patch."""
        return 1

    def max_patches(self, max_pixels: int) -> int:  # noqa: ARG002
        """P of every picture."""
        return 1

    def __call__(self, image: Image.Image) -> Tiles:
        """An RGB image as (1, 3, p, p)."""
        layout = Layout((1, 1), (image.height, image.width), stretched=self.stretches)
        return Tiles(normalised(np.array(self._tile(image))[None], self.mean, self.std), layout)

    def canvases(self, height: int, width: int) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        """The one grid onto which every image is fitted."""
        return ((1, 1),)

    @abc.abstractmethod
    def _tile(self, image: Image.Image) -> Image.Image:
        """The image as a square of side ``patch``."""


class PaddedTile(OneTile):
    """LLaVA-1.5's way: the image is padded to a square in the colour ``mean``."""

    __slots__ = ()

    def _tile(self, image: Image.Image) -> Image.Image:
        fill = (int(255 * self.mean[0]), int(255 * self.mean[1]), int(255 * self.mean[2]))
        return squared(image, fill).resize((self.patch, self.patch), Image.Resampling.BICUBIC)


class StretchedTile(OneTile):
    """Gemma 3's way: the image is stretched to a square, its aspect ratio lost."""

    __slots__ = ()
    stretches: ClassVar[bool] = True

    def _tile(self, image: Image.Image) -> Image.Image:
        return image.resize((self.patch, self.patch), Image.Resampling.BILINEAR)


AnyTiling = Tiling | StretchedTiling | OneTile


def fitted(height: int, width: int, canvas_h: int, canvas_w: int) -> tuple[int, int]:
    """The (height, width) of an image resized to fit a canvas, its aspect ratio kept; the shorter side rounds up."""
    scale_h, scale_w = canvas_h / height, canvas_w / width
    if scale_w < scale_h:
        return min(math.ceil(height * scale_w), canvas_h), canvas_w
    return canvas_h, min(math.ceil(width * scale_h), canvas_w)


def squared(image: Image.Image, fill: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """The image centred on a square of its longer side."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def normalised(pixels_PHWC: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """8-bit pixels as float32 (P, C, H, W): (value / 255 - mean) / std, a channel at a time."""
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
    pixels_PCHW = torch.from_numpy(pixels_PHWC).permute(0, 3, 1, 2)
    return pixels_PCHW.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(shift)
