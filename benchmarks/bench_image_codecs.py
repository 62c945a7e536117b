"""Every image codec on held-out streets and on the Kodak pictures: bytes, quality, time, and the distance from JPEG.

Run with OMP_NUM_THREADS=1 for the times of one core.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from baselines.elic import Elic
from baselines.hyperprior import Hyperprior
from baselines.jpeg import Jpeg, JpegPoint
from baselines.neural_codec import NeuralPoint
from baselines.neural_codec import bundled
from baselines.rate_distortion import RateDistortion, bd_rate_percent, psnr_db
from baselines.webp import WebP, WebPPoint
from harness.data import streetsqa
from harness.schemes.image_codec import ImageCodec

STREETS = 8
KODAK = Path(__file__).parents[2] / "shared" / "data" / "images" / "kodak"
QUALITIES = (5, 10, 20, 30, 50, 70, 85)
WEBP_QUALITIES = (1, 10, 30, 50, 75)


def codecs() -> Mapping[str, Sequence[tuple[str, ImageCodec]]]:
    """The points of every curve, the reference first."""
    return {
        "jpeg": [(f"q{q}", Jpeg(None, JpegPoint(quality=q))) for q in QUALITIES],
        **{
            f"webp m{method}": [(f"q{q}", WebP(None, WebPPoint(quality=q, method=method))) for q in WEBP_QUALITIES]
            for method in (0, 4, 6)
        },
        "hyperprior": [(f"{at:g}", Hyperprior(None, NeuralPoint(weights=at))) for at in bundled("hyperprior")],
        "elic": [(f"{at:g}", Elic(None, NeuralPoint(weights=at))) for at in bundled("elic")],
    }


def curve(name: str, points: Sequence[tuple[str, ImageCodec]], images: Sequence[Image.Image]) -> list[RateDistortion]:
    """Print a row for each point of a curve: means over pictures, median times."""
    found = []
    for label, codec in points:
        codec.decode(codec.encode(images[0]))
        bpps, psnrs, encode_s, decode_s = [], [], [], []
        for image in images:
            start = time.perf_counter()
            body = codec.encode(image)
            middle = time.perf_counter()
            decoded = codec.decode(body)
            decode_s.append(time.perf_counter() - middle)
            encode_s.append(middle - start)
            assert decoded.size == image.size
            bpps.append(8 * len(body) / (image.width * image.height))
            psnrs.append(psnr_db(image, decoded))
        found.append(RateDistortion(statistics.fmean(bpps), statistics.fmean(psnrs)))
        times = f"{1e3 * statistics.median(encode_s):>9.1f}{1e3 * statistics.median(decode_s):>9.1f}"
        print(f"{name:<12}{label:>8}{found[-1].bpp:>8.3f}{found[-1].psnr_db:>9.2f}{times}")
    return found


def report(title: str, images: Sequence[Image.Image]) -> None:
    """Print the table of one set of pictures, and each curve's BD-rate against JPEG."""
    print(f"\n{title}: {len(images)} pictures, {torch.get_num_threads()} thread(s)")
    print(f"{'codec':<12}{'point':>8}{'bpp':>8}{'PSNR dB':>9}{'enc ms':>9}{'dec ms':>9}")
    curves = {name: curve(name, points, images) for name, points in codecs().items()}
    for name, points in curves.items():
        difference = bd_rate_percent(points, curves["jpeg"])
        shown = "shares no PSNR with JPEG" if difference is None else f"{difference:+.1f} % bytes against JPEG"
        print(f"{name:<12}{shown}")
    difference = bd_rate_percent(curves["elic"], curves["hyperprior"])
    if difference is not None:
        print(f"elic        {difference:+.1f} % bytes against hyperprior")


def main() -> None:
    """Print one table for the streets, and one for the Kodak pictures where they are beside the checkout."""
    torch.set_num_threads(1)
    report("StreetsQA, test split", [page.scene().image for page in streetsqa.book("test", 0)[:STREETS]])
    files = sorted(KODAK.glob("*.png"))
    if files:
        report("Kodak", [Image.open(file).convert("RGB") for file in files])
    else:
        print("Kodak: the pictures are not beside this checkout")


if __name__ == "__main__":
    main()
