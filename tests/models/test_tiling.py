"""The any-resolution tiling, against transformers' own processor."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from harness.models.llava15 import CLIP_MEAN, CLIP_STD
from harness.models.patches import best_grid, grids_up_to
from harness.models.tiling import PaddedTile, StretchedTile, StretchedTiling, Tiling, fitted, normalised, squared

patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no reason to fail."""

PINPOINTS = [[h * 384, w * 384] for h in range(1, 7) for w in range(1, 7)]
PROCESSOR = LlavaOnevisionImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, image_grid_pinpoints=PINPOINTS)
FULL = Tiling(patch=384, grids=grids_up_to(6))
ONE_TILE = PaddedTile(patch=336, mean=CLIP_MEAN, std=CLIP_STD)
LLAVA15_PROCESSOR = LlavaImageProcessorPil(
    do_pad=True,
    size={"height": 336, "width": 336},
    do_center_crop=False,
    image_mean=list(CLIP_MEAN),
    image_std=list(CLIP_STD),
)
PHOTOS = Path(__file__).parents[2] / "../shared/data/images"

PHOTOGRAPHS = [
    (768, 512),
    (512, 768),
    (1280, 720),
    (1536, 1405),
    (626, 418),
    (640, 480),
    (1920, 1080),
    (384, 384),
    (385, 384),
    (383, 769),
    (100, 75),
    (1, 1),
    (385, 1),
    (3000, 200),
    (200, 3000),
    (2400, 700),
]


def noise(width, height):
    """A picture in which every pixel matters."""
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), PHOTOGRAPHS)
def test_tiles_are_the_processors(width: int, height: int) -> None:
    """Resize, padding, order and normalisation of every tile are transformers', to float32 rounding."""
    image = noise(width, height)
    theirs_PCHW = PROCESSOR(image, return_tensors="pt")["pixel_values"][0]
    ours = FULL(image)
    assert ours.layout.image_size == (height, width)
    assert ours.pixels_PCHW.dtype == torch.float32
    assert ours.pixels_PCHW.is_contiguous()
    torch.testing.assert_close(ours.pixels_PCHW[1:], theirs_PCHW[1:], atol=5e-7, rtol=0)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (448, 448), (900, 300), (1, 1), (30, 1000)])
def test_stretched_tiles_are_the_processors(width, height):
    """InternVL's canvas, its tiles' order, the thumbnail after them or none after a single tile; Gemma's square."""
    image = noise(width, height)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = GotOcr2ImageProcessorPil(
        size={"height": 112, "width": 112}, crop_to_patches=True, image_mean=list(mean), image_std=list(std)
    )(image, return_tensors="pt")
    tiling = StretchedTiling(patch=112, mean=mean, std=std)
    ours = tiling(image)
    assert len(ours.pixels_PCHW) == int(theirs["num_patches"][0]) == tiling.n_patches(*ours.layout.grid)
    assert sum(n_h * n_w for n_h, n_w in tiling.canvases(height, width)) == len(ours.pixels_PCHW)
    torch.testing.assert_close(ours.pixels_PCHW, theirs["pixel_values"], atol=1e-6, rtol=0)
    theirs = Gemma3ImageProcessorPil(size={"height": 112, "width": 112})(image, return_tensors="pt")
    tile = StretchedTile(patch=112, mean=(0.5,) * 3, std=(0.5,) * 3)(image)
    torch.testing.assert_close(tile.pixels_PCHW, theirs["pixel_values"], atol=1e-6, rtol=0)
    assert ours.layout.stretched
    assert tile.layout.stretched


@patient
@given(st.integers(1, 2304), st.integers(1, 2304))
def test_grid_is_the_papers_where_it_fits(height: int, width: int) -> None:
    """Up to six patches a side the grid is ceil(h / p) x ceil(w / p)."""
    assert FULL.grid(height, width) == (math.ceil(height / 384), math.ceil(width / 384))


@patient
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([96, 384]))
def test_grid_is_the_processors_everywhere(height: int, width: int, patch) -> None:
    """Any size has the grid that transformers would pick among the same canvases."""
    canvases = [(h * patch, w * patch) for h, w in grids_up_to(6)]
    theirs = select_best_resolution((height, width), canvases)
    ours = best_grid(height, width, patch, grids_up_to(6))
    assert (ours[0] * patch, ours[1] * patch) == theirs


@patient
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_an_image_fills_its_canvas_in_one_direction(height: int, width: int) -> None:
    """The fitted image touches two opposite edges, exceeds none, and keeps its aspect ratio to the pixel."""
    n_h, n_w = FULL.grid(height, width)
    new_h, new_w = fitted(height, width, 384 * n_h, 384 * n_w)
    assert new_h <= 384 * n_h
    assert new_w <= 384 * n_w
    assert new_h == 384 * n_h or new_w == 384 * n_w
    scale = min(384 * n_h / height, 384 * n_w / width)
    assert abs(new_h - height * scale) <= 1
    assert abs(new_w - width * scale) <= 1


def test_thumbnail_is_padded_not_squashed() -> None:
    """A circle in a wide picture is a circle in its thumbnail, with black above and below."""
    wide = Image.new("RGB", (400, 100), "white")
    thumbnail_CHW = Tiling(patch=96, grids=grids_up_to(6))(wide).pixels_PCHW[0]
    assert thumbnail_CHW.shape == (3, 96, 96)
    assert (thumbnail_CHW[:, :34] == -1).all()
    assert (thumbnail_CHW[:, 40:56] == 1).all()
    assert (thumbnail_CHW[:, -34:] == -1).all()


def test_a_square_image_is_not_padded() -> None:
    """A square is not padded; otherwise the fill surrounds the picture."""
    assert squared(noise(5, 5)).tobytes() == noise(5, 5).tobytes()
    assert np.asarray(squared(Image.new("RGB", (3, 1), "white"), (1, 2, 3)))[:, 0].tolist() == [
        [1, 2, 3],
        [255, 255, 255],
        [1, 2, 3],
    ]


def test_normalisation_is_per_channel() -> None:
    """(value / 255 - mean) / std with each channel's own numbers."""
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    wanted = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(normalised(pixels, mean, std).numpy(), wanted, rtol=1e-6, atol=1e-7)


def photographs():
    """One photograph of each available size."""
    of_size: dict[tuple[int, int], Path] = {}
    for path in sorted(PHOTOS.glob("*/*")):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as opened:
                of_size.setdefault(opened.size, path)
    for path in of_size.values():
        with Image.open(path) as opened:
            yield opened.convert("RGB")


@pytest.mark.skipif(not PHOTOS.exists(), reason="../shared/data/images does not exist")
def test_real_photographs() -> None:
    """Photographs of every available size, 0.4 to 15 megapixels, are cut as the two processors cut them."""
    sizes = set()
    for image in photographs():
        sizes.add(image.size)
        theirs_PCHW = PROCESSOR(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(FULL(image).pixels_PCHW[1:], theirs_PCHW[1:], atol=5e-7, rtol=0)
        theirs_PCHW = LLAVA15_PROCESSOR(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ONE_TILE(image).pixels_PCHW, theirs_PCHW, atol=1e-6, rtol=0)
    assert len(sizes) >= 5
