"""Where a scene is painted: its colours, and beside them the class of what covers each pixel."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.textures import Sheet

Colour: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]
"""left, top, right, bottom in px; right and bottom are not included."""

_BLUR = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1))


def jittered(rng: SeededRandom, colour: Colour, spread: int) -> Colour:
    """The colour, each channel moved by at most ``spread``."""
    red, green, blue = (min(255, max(0, channel + rng.between(-spread, spread))) for channel in colour)
    return red, green, blue


def tinted(sheet: Sheet, colour: Colour, contrast_percent: int) -> NDArray[np.uint8]:
    """A grey sheet as a surface of the colour, (height, width, 3) uint8; the sheet scales the colour's brightness."""
    gain = 128 + (np.arange(256) - 128) * contrast_percent // 100
    table: NDArray[np.uint8] = np.clip(np.array(colour)[None, :] * gain[:, None] // 128, 0, 255).astype(np.uint8)
    return np.take(table, sheet, axis=0)


def plain(colour: Colour, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """A surface of one colour."""
    return np.full((height_px, width_px, 3), colour, np.uint8)


class Canvas:
    """A picture that is being painted: ``image`` (RGB) and ``label`` (one class a pixel), always of the same size."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self.image = Image.new("RGB", (width_px, height_px))
        self.label = Image.new("L", (width_px, height_px))

    def fill(self, box: Box, surface: NDArray[np.uint8], label: int) -> None:
        """Cover a box with a surface of the box's size."""
        self.image.paste(Image.fromarray(surface, "RGB"), box[:2])
        self.label.paste(label, box)

    def fill_where(
        self, corner: tuple[int, int], mask: NDArray[np.bool_], surface: NDArray[np.uint8], label: int
    ) -> None:
        """Cover the pixels of a mask, whose top left corner is given, with a surface of the mask's size."""
        stencil = Image.fromarray(mask.astype(np.uint8) * 255, "L")
        self.image.paste(Image.fromarray(surface, "RGB"), corner, stencil)
        self.label.paste(label, (*corner, corner[0] + mask.shape[1], corner[1] + mask.shape[0]), stencil)

    def stamp(self, sprite: Image.Image, box: Box, label: int) -> None:
        """Put an RGBA sprite, resized, into a box; its opaque part takes the label."""
        fitted = sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
        alpha = fitted.getchannel("A")
        self.image.paste(fitted.convert("RGB"), box[:2], alpha)
        self.label.paste(label, box, alpha.point([255 if a > 127 else 0 for a in range(256)]))

    def shade(self, box: Box, keep_percent: int) -> None:
        """Darken an ellipse, as the shadow under a car."""
        width, height = box[2] - box[0], box[3] - box[1]
        if width < 2 or height < 2:
            return
        y, x = np.mgrid[-height + 1 : height : 2, -width + 1 : width : 2]
        inside = x * x * height * height + y * y * width * width < width * width * height * height
        mask = Image.fromarray(inside.astype(np.uint8) * (255 - 255 * keep_percent // 100), "L")
        self.image.paste((12, 12, 16), box, mask)

    def photograph(self, rng: SeededRandom, grain: Sheet) -> Image.Image:
        """The picture as a camera records it: uneven light, a white balance, a soft lens, a noisy sensor."""
        height, width = self.height_px, self.width_px
        light = np.linspace(rng.between(224, 272), rng.between(224, 272), width).astype(np.int32)[None, :]
        light = light + (grain.astype(np.int32) - 128) * rng.between(22, 40) // 100
        gains = np.array([rng.between(236, 272), 256, rng.between(236, 272)])
        scene = np.asarray(self.image.filter(_BLUR), dtype=np.int32)
        lit = scene * (light[:, :, None] * gains >> 8) >> 8
        first, second = rng.octets(2, height, width, 3).astype(np.int16)
        sensor = first + second - 255
        noisy = lit + (sensor * rng.between(4, 9) >> 7)
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8), "RGB")
