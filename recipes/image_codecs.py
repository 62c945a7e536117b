"""Makes the small codecs' weights again: ``python -m recipes.image_codecs``.

Training starts from a transform coder, at the highest rate; each lower rate starts from the one above it. Rate and
distortion are weighed as CompressAI does: bits a pixel + lambda * 255^2 * mean squared error.
"""

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.networks.elic import Elic2022Official
from baselines.networks.entropy_models import EntropyBottleneck
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.network import Y_STRIDE, Network
from baselines.networks.weights import save
from baselines.neural_codec import BUNDLED
from harness.cli import guarded
from harness.runs import disk
from recipes import stages
from recipes.linear_start import rescale, start
from recipes.pictures import Picture, batch, pictures
from recipes.stages import train

BOOKS = 2
SEED = 20

NETWORKS: Mapping[str, Callable[[], Network]] = {
    "hyperprior": lambda: ScaleHyperprior(64, 96),
    "elic": lambda: Elic2022Official(48, 96, (8, 8, 16, 32, 32), [(32, 24)] * 4),
}
ROUNDS: Mapping[str, Sequence[tuple[float, int, int]]] = {
    "hyperprior": ((0.02, 2400, 8000), (0.006, 500, 2000), (0.0018, 500, 2000)),
    "elic": ((0.02, 1200, 5000), (0.006, 250, 1200), (0.0018, 250, 1200)),
}
"""In order: lambda, the steps of the entropy model alone on fixed y, and the steps of everything."""
_ENTROPY_RATE, _RATE = 7e-2, 5e-3
"""Peak learning rates of the two, relative to the size of what is learnt."""
_RMS_FROM, _RMS_TO = 0.01, 0.1
_START_BATCHES, _POOL_BATCHES, _POOL_BATCHES_A_STEP = 8, 160, 2
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


def rate(net: Network, y_BMHW: Tensor) -> Tensor:
    """The bits a pixel that y costs, side information included."""
    _, of_all = net.likelihoods(y_BMHW)
    n_pixels = len(y_BMHW) * y_BMHW.shape[2] * y_BMHW.shape[3] * Y_STRIDE**2
    bits = sum((-likelihoods.log2().sum() for likelihoods in of_all.values()), torch.zeros(()))
    return bits / n_pixels


def _steps(net: nn.Module, seed: int, first: int) -> Iterator[int]:
    """Step numbers from ``first`` on; before each the noise is seeded, and now and then the medians of z follow it."""
    bottlenecks = [module for module in net.modules() if isinstance(module, EntropyBottleneck)]
    for step in itertools.count(first):
        if step % _MEDIANS_EVERY_STEPS == 0:
            for bottleneck in bottlenecks:
                bottleneck.update_quantiles()
        torch.manual_seed(seed + step)
        yield step


def _entropy_losses(net: Network, drawn: Sequence[Picture], seed: int, first: int) -> Iterator[tuple[Tensor, float]]:
    """The rate of batches from a pool of y that is made once: g_a stands still, and g_s is not asked."""
    with torch.no_grad():
        pool = [net.g_a(batch(drawn, seed - 1 - index, 0)) for index in range(_POOL_BATCHES)]
    for _ in _steps(net, seed, first):
        chosen = torch.randint(0, len(pool), (_POOL_BATCHES_A_STEP,)).tolist()
        bpp = rate(net, torch.cat([pool[index] for index in chosen]))
        yield bpp, float(bpp.detach())


def _losses(
    net: nn.Module, drawn: Sequence[Picture], lambda_: float, seed: int, first: int
) -> Iterator[tuple[Tensor, float]]:
    """Rate and distortion of fresh patches."""
    for step in _steps(net, seed, first):
        yield rate_distortion(net, batch(drawn, seed, step), lambda_)


def _rates(net: nn.Module, relative: float, *, transforms: bool) -> dict[str, float]:
    """A peak learning rate for every tensor, relative to its own size: weights differ a thousandfold at the start."""
    return {
        name: relative * min(_RMS_TO, max(_RMS_FROM, float(p.detach().square().mean().sqrt())))
        for name, p in net.named_parameters()
        if not name.endswith("quantiles") and (transforms or not name.startswith(("g_a", "g_s")))
    }


def make(codec: str, work: Path, folder: Path, photographs: Path) -> None:
    """Train one codec at every lambda, and write ``folder/<codec>-<lambda>.safetensors`` after each.

    ``work`` holds the newest state of each round: what was stopped is resumed, what is finished is not repeated.
    """
    torch.manual_seed(SEED)
    net = NETWORKS[codec]()
    drawn = pictures(BOOKS, photographs)
    lambda_before = ROUNDS[codec][0][0]
    start(net, torch.cat([batch(drawn, SEED, step) for step in range(_START_BATCHES)]), lambda_before)
    _in_bfloat16(net.g_a)
    _in_bfloat16(net.g_s)
    for number, (lambda_, entropy_steps, steps) in enumerate(ROUNDS[codec]):
        rescale(net, math.sqrt(lambda_ / lambda_before))
        lambda_before = lambda_
        seed = SEED + 1_000_000 * (number + 1)
        stage = f"{codec}-{lambda_}"
        entropy_losses = functools.partial(_entropy_losses, net, drawn, seed)
        train(
            f"{stage}-entropy", work, net, _rates(net, _ENTROPY_RATE, transforms=False), entropy_steps, entropy_losses
        )
        losses = functools.partial(_losses, net, drawn, lambda_, seed)
        train(f"{stage}-all", work, net, _rates(net, _RATE, transforms=True), steps, losses)
        trained = NETWORKS[codec]()
        trained.load_state_dict(net.state_dict())
        save(folder / f"{stage}.safetensors", trained)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", choices=tuple(NETWORKS), action="append", help="this one alone (repeatable)")
    parser.add_argument("--work", type=Path, default=Path("build/codecs"), help="states of unfinished training")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="where the weights go")
    parser.add_argument(
        "--photographs", type=Path, default=Path("build/photographs"), help="folder of the wheels that have photographs"
    )
    parser.add_argument("--steps", type=int, help="at most so many of each round, to try the recipe")
    arguments = parser.parse_args()
    stages.limit(arguments.steps)
    for folder in (arguments.out, arguments.work):
        disk.check_folder(folder)
    torch.set_num_threads(1)
    for codec in arguments.codec or NETWORKS:
        since_s = time.process_time()
        make(codec, arguments.work, arguments.out, arguments.photographs)
        print(f"{codec}: {time.process_time() - since_s:.0f} s of one core")


if __name__ == "__main__":
    guarded(main, "image_codecs", resumes=True)
