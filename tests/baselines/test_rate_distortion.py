"""Rate, distortion and the distance between two curves, on examples computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.pillow_codecs import Jpeg, JpegPoint
from benchmarks.rate_distortion import RateDistortion, bd_rate_percent, mean_rate_distortion, psnr_db

CURVE = [RateDistortion(bpp, 30 + 6 * math.log2(bpp)) for bpp in (0.1, 0.2, 0.5, 1.0)]


@given(st.floats(0.2, 5))
def test_a_curve_of_scaled_rates_needs_that_many_more_bytes(factor: float) -> None:
    """Every rate times c is c - 1 more, whatever the curve."""
    scaled = [RateDistortion(point.bpp * factor, point.psnr_db) for point in CURVE]
    assert bd_rate_percent(scaled, CURVE) == pytest.approx(100 * (factor - 1))


def test_the_order_of_points_does_not_matter() -> None:
    """A curve is a set."""
    costlier = [RateDistortion(2 * point.bpp, point.psnr_db) for point in CURVE]
    assert bd_rate_percent(costlier[::-1], CURVE) == pytest.approx(100)


def test_curves_that_share_no_quality_are_not_compared() -> None:
    """There is no extrapolation."""
    better = [RateDistortion(point.bpp, point.psnr_db + 100) for point in CURVE]
    assert bd_rate_percent(better, CURVE) is None


def test_psnr_of_a_known_error() -> None:
    """Every pixel off by 5 is 34.15 dB; equal pictures are infinitely near."""
    grey, brighter = Image.new("RGB", (9, 7), (100, 100, 100)), Image.new("RGB", (9, 7), (105, 105, 105))
    assert psnr_db(grey, brighter) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_db(grey, grey) == math.inf


def test_rate_is_what_is_sent() -> None:
    """Bits per pixel are the file's own, averaged over pictures and not over pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    images = [Image.fromarray(noise), Image.fromarray(noise[:8, :8])]
    codec = Jpeg(JpegPoint(quality=50))
    expected = np.mean([8 * len(codec.encode(image)) / (image.width * image.height) for image in images])
    assert mean_rate_distortion(codec, images).bpp == pytest.approx(expected)
