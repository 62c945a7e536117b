"""Makes the small codecs' weights again: ``python -m baselines.training``.

Training starts from a transform coder, at the highest rate; each lower rate starts from the one above it. Rate and
distortion are weighed as in compressai: bits a pixel + lambda * 255^2 * mean squared error.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import harness.backbones.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import CheckerboardLatentCodec
from compressai.models import CompressionModel, ScaleHyperprior
from torch import Tensor, nn

from baselines import elic
from baselines.linear_start import rescale, start
from baselines.neural_weights import BUNDLED, save
from baselines.training_pictures import Picture, batches, pictures
from harness.zoo.training import train

BOOKS = 1
SEED = 20

NETWORKS: Mapping[str, Callable[[], CompressionModel]] = {
    "hyperprior": lambda: ScaleHyperprior(32, 48),
    "elic": lambda: elic.network(32, 48, (4, 4, 8, 16, 16), (32, 24)),
}
ROUNDS: Mapping[str, Sequence[tuple[float, int]]] = {
    "hyperprior": ((0.02, 1200), (0.006, 400), (0.0018, 400)),
    "elic": ((0.02, 800), (0.006, 300), (0.0018, 300)),
}
"""Lambda and steps of every round, in order."""
_RELATIVE_RATE, _SMALLEST_RMS = 2e-3, 0.01
_START_BATCHES = 8
_MEDIANS_EVERY_STEPS = 50


def rate_distortion(net: nn.Module, x_B3PP: Tensor, lambda_: float) -> tuple[Tensor, float]:
    """The loss of a batch, and its PSNR in dB."""
    out = net(x_B3PP)
    n_pixels = x_B3PP.numel() / 3
    bpp = sum(-likelihoods.log2().sum() for likelihoods in out["likelihoods"].values()) / n_pixels
    error = (out["x_hat"] - x_B3PP).square().mean()
    return bpp + lambda_ * 255**2 * error, -10 * math.log10(float(error.detach()))


def _in_bfloat16(transform: nn.Module) -> None:
    """Run a transform in bfloat16, half the time of float32; what the entropy models see stays float32."""
    full = transform.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = full(x).float()
        return y

    transform.forward = forward


def _losses(
    net: nn.Module, drawn: list[Picture], lambda_: float, number: int, first: int
) -> Iterator[tuple[Tensor, float]]:
    """The loss of every step of a round from ``first`` on; patches and noise depend on round and step alone."""
    seed = SEED + 1_000_000 * number
    bottlenecks = [module for module in net.modules() if isinstance(module, EntropyBottleneck)]
    for step, x_B3PP in enumerate(batches(drawn, seed, first), first):
        if step % _MEDIANS_EVERY_STEPS == 0:
            for bottleneck in bottlenecks:
                bottleneck._update_quantiles()
        torch.manual_seed(seed + step)
        yield rate_distortion(net, x_B3PP, lambda_)


def _rates(net: nn.Module) -> dict[str, float]:
    """A peak learning rate for every tensor, relative to its own size: weights differ a thousandfold at the start."""
    return {
        name: _RELATIVE_RATE * max(_SMALLEST_RMS, float(p.detach().square().mean().sqrt()))
        for name, p in net.named_parameters()
        if not name.endswith("quantiles")
    }


def make(codec: str, work: Path, folder: Path) -> None:
    """Train one codec at every lambda, and write ``folder/<codec>-<lambda>.safetensors`` after each round.

    ``work`` holds the newest state of each round: what was stopped is taken up again, what is finished is not repeated.
    """
    torch.manual_seed(SEED)
    net = NETWORKS[codec]()
    _in_bfloat16(net.g_a)
    _in_bfloat16(net.g_s)
    for module in net.modules():
        if isinstance(module, CheckerboardLatentCodec):
            module.forward_method = "twopass_faster"
    drawn = pictures(BOOKS)
    first = batches(drawn, SEED, 0)
    lambda_before = ROUNDS[codec][0][0]
    start(net, torch.cat([next(first) for _ in range(_START_BATCHES)]), lambda_before)
    for number, (lambda_, steps) in enumerate(ROUNDS[codec]):
        rescale(net, math.sqrt(lambda_ / lambda_before))
        lambda_before = lambda_
        losses = functools.partial(_losses, net, drawn, lambda_, number)
        train(f"{codec}-{number}", work, net, _rates(net), steps, losses)
        trained = NETWORKS[codec]()
        trained.load_state_dict(net.state_dict())
        save(folder / f"{codec}-{lambda_}.safetensors", trained)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", choices=tuple(NETWORKS), action="append", help="this one alone (repeatable)")
    parser.add_argument("--work", type=Path, default=Path("build/codecs"), help="states of unfinished training")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="where the weights go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for codec in arguments.codec or NETWORKS:
        since_s = time.process_time()
        make(codec, arguments.work, arguments.out)
        print(f"{codec}: {time.process_time() - since_s:.0f} s of one core")


if __name__ == "__main__":
    main()
