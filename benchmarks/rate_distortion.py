"""A codec's rate and quality: bits per pixel, PSNR, and the distance between two curves."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

from harness.schemes.image_codec import ImageCodec


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class RateDistortion:
    """Means over pictures: bits per pixel of the bytes that are sent, and PSNR over RGB in dB."""

    bpp: float
    psnr_db: float


def psnr_db(original: Image.Image, decoded: Image.Image) -> float:
    """10 log10(255^2 / mean squared error) over all pixels and channels; infinite for equal pictures."""
    error = np.asarray(original, dtype=np.float64) - np.asarray(decoded, dtype=np.float64)
    mean = float(np.mean(error**2))
    return 10 * math.log10(255**2 / mean) if mean > 0 else math.inf


def mean_rate_distortion(codec: ImageCodec, images: Sequence[Image.Image]) -> RateDistortion:
    """A codec's means over some pictures, each encoded and decoded."""
    rates, psnrs = [], []
    for image in images:
        body = codec.encode(image)
        rates.append(8 * len(body) / (image.width * image.height))
        psnrs.append(psnr_db(image, codec.decode(body)))
    return RateDistortion(float(np.mean(rates)), float(np.mean(psnrs)))


def bd_rate_percent(curve: Sequence[RateDistortion], reference: Sequence[RateDistortion]) -> float | None:
    """How many percent more bytes than the reference a curve needs, on average over the PSNRs that both reach.

    Bjontegaard's difference with piecewise cubics through log(rate) over PSNR. None where the curves share no PSNR.
    """
    low = max(min(p.psnr_db for p in points) for points in (curve, reference))
    high = min(max(p.psnr_db for p in points) for points in (curve, reference))
    if high <= low:
        return None
    mine, theirs = (_log_rate(points).integrate(low, high) for points in (curve, reference))
    return 100 * math.expm1(float(mine - theirs) / (high - low))


def _log_rate(points: Sequence[RateDistortion]) -> PchipInterpolator:
    ordered = sorted(points, key=lambda p: p.psnr_db)
    return PchipInterpolator([p.psnr_db for p in ordered], [math.log(p.bpp) for p in ordered])
