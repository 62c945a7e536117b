"""Every image codec on held-out streets and on the Kodak pictures: bytes, quality, time, and the distance from JPEG.

Where compressai is installed, hyperprior and ELIC run beside its classes with the same weights: whole pictures, and the
entropy coding of y alone. Run with OMP_NUM_THREADS=1 for the times of one core.
"""

import functools
import importlib.util
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from baselines.networks.elic import Elic2022Official
from baselines.networks.network import Network
from baselines.networks.pictures import padded
from baselines.networks.weights import load, ready
from baselines.neural_codec import Elic, Hyperprior, NeuralPoint, bundled
from baselines.pillow_codecs import Jpeg, JpegPoint, WebP, WebPPoint
from benchmarks.rate_distortion import RateDistortion, bd_rate_percent, psnr_db
from benchmarks.timing import interleaved_s, place
from harness.data import streetsqa
from harness.schemes.image_codec import ImageCodec

STREETS = 8
KODAK = Path(__file__).parents[2] / "shared" / "data" / "images" / "kodak"
QUALITIES = (5, 10, 20, 30, 50, 70, 85)
WEBP_QUALITIES = (1, 10, 30, 50, 75)


def codecs() -> Mapping[str, Sequence[tuple[str, ImageCodec]]]:
    """The points of every curve, the reference first."""
    return {
        "jpeg": [(f"q{q}", Jpeg(JpegPoint(quality=q))) for q in QUALITIES],
        **{
            f"webp m{method}": [(f"q{q}", WebP(WebPPoint(quality=q, method=method))) for q in WEBP_QUALITIES]
            for method in (0, 4, 6)
        },
        "hyperprior": [(f"{at:g}", Hyperprior(NeuralPoint(weights=at))) for at in bundled("hyperprior")],
        "elic": [(f"{at:g}", Elic(NeuralPoint(weights=at))) for at in bundled("elic")],
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


def peer_of(net: Network) -> Any:
    """Make compressai's class with the weights and tables of ours."""
    from compressai.models import Elic2022Official as TheirElic
    from compressai.models import ScaleHyperprior as TheirHyperprior

    n, m = net.sizes(net.state_dict())[:2]
    if isinstance(net, Elic2022Official):
        peer = TheirElic(n, m, groups=net.groups)
        context = peer.latent_codec["y"].channel_context
        for name, layers in net.latent_codec.y.channel_context.items():
            context[name] = layers
    else:
        peer = TheirHyperprior(n, m)
    load(Path("ours"), peer, net.state_dict())
    return peer


@torch.inference_mode()
def beside_compressai(image: Image.Image) -> None:
    """Print the times of both codecs beside compressai's, whose strings are the same.

    "ours" are the networks as compressai computes them; "exact" is the scheme, whose scales come from whole numbers so
    that any machine decodes them: compressai has nothing like it.
    """
    x_13HW = padded(image)
    height, width = x_13HW.shape[2:]
    print(f"\nbeside compressai: one street of {image.width} x {image.height} px, {place()}")
    print(f"{'codec':<12}{'':>8}{'ours ms':>10}{'compressai ms':>15}{'ratio':>8}{'exact ms':>10}")
    for codec, scheme in (("hyperprior", Hyperprior), ("elic", Elic)):
        at = list(bundled(codec))[1]
        net, exact = ready(codec, at), scheme(NeuralPoint(weights=at))
        peer = peer_of(net)
        strings, out = net.compress(x_13HW), peer.compress(x_13HW)
        assert [[string] for string in strings] == out["strings"]
        body = exact.encode(image)
        seconds = interleaved_s(
            {
                "encode": functools.partial(net.compress, x_13HW),
                "their encode": functools.partial(peer.compress, x_13HW),
                "exact encode": functools.partial(exact.encode, image),
                "decode": functools.partial(net.decompress, strings, height, width),
                "their decode": functools.partial(peer.decompress, out["strings"], out["shape"]),
                "exact decode": functools.partial(exact.decode, body),
            }
        )
        for what in ("encode", "decode"):
            ours, theirs, whole = (1e3 * seconds[name] for name in (what, f"their {what}", f"exact {what}"))
            print(f"{codec:<12}{what:>8}{ours:>10.1f}{theirs:>15.1f}{theirs / ours:>8.2f}{whole:>10.1f}")
        if codec == "hyperprior":
            entropy_coding(net, peer, x_13HW)


def entropy_coding(net: Any, peer: Any, x_13HW: torch.Tensor) -> None:
    """Print the times of encoding and decoding the string of hyperprior's y."""
    y = net.g_a(x_13HW)
    scales = net.h_s(net.entropy_bottleneck.encode(net.h_a(y.abs()))[1])
    ours, theirs, index = net.gaussian_conditional, peer.gaussian_conditional, net.gaussian_conditional.index(scales)
    symbols = y.round().int().numpy()
    string, _ = ours.encode(y, scales)
    assert theirs.compress(y, theirs.build_indexes(scales)) == [string]
    seconds = interleaved_s(
        {
            "encode": lambda: ours.encode(y, scales),
            "their encode": lambda: theirs.compress(y, theirs.build_indexes(scales)),
            "decode": lambda: ours.decode(string, scales),
            "their decode": lambda: theirs.decompress([string], theirs.build_indexes(scales)),
            "choose tables": lambda: ours.index(scales),
            "their choose tables": lambda: theirs.build_indexes(scales),
            "coder encode": lambda: ours.coder.encode(symbols, index.numpy()),
            "coder decode": lambda: ours.coder.decode(string, index.numpy()),
        }
    )
    for what in ("encode", "decode", "choose tables"):
        mine, peer_s = seconds[what], seconds[f"their {what}"]
        print(f"  y: {what:<14}{1e3 * mine:>9.2f}{1e3 * peer_s:>15.2f}{peer_s / mine:>8.2f}")
    rates = (y.numel() / seconds[f"coder {what}"] / 1e6 for what in ("encode", "decode"))
    print(
        f"  y: {y.numel()} symbols in {len(string)} bytes; the coder alone "
        + " and ".join(f"{r:.0f}" for r in rates)
        + " million symbols a second"
    )


def main() -> None:
    """Print one table for the streets, and one for the Kodak pictures where they are beside the checkout."""
    torch.set_num_threads(1)
    if importlib.util.find_spec("compressai") is None:
        print("compressai is not installed: no peer of hyperprior and ELIC")
    else:
        import harness.models.torchvision_ops  # noqa: F401

        beside_compressai(next(iter(streetsqa.book("test", 0))).scene().image)
    report("StreetsQA, test split", [page.scene().image for page in streetsqa.book("test", 0)[:STREETS]])
    files = sorted(KODAK.glob("*.png"))
    if files:
        report("Kodak", [Image.open(file).convert("RGB") for file in files])
    else:
        print("Kodak: the pictures are not beside this checkout")


if __name__ == "__main__":
    main()
