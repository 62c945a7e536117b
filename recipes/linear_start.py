"""A transform coder to start training from: principal components, and a Gaussian of fixed scale for each of them.

From random weights a small codec spends most of its training on learning that low frequencies matter. Here every
strided convolution of g_a begins as the principal components of the 2 x 2 blocks that it sees, the transposed one of
g_s as their inverse, and all that stands between them as nearly the identity.

    B batch   C channels   H, W height and width   M channels of y
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_unshuffle

from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.layers import AttentionBlock, ResidualBottleneckBlock

GAIN = 0.5
"""Of every layer but the last, which keeps activations where GDN is nearly linear."""
_FAINT = 0.1
_SHUT = -6.0
"""What an attention's gate begins with: its sigmoid is 0.0025."""


def steps_per_unit(lambda_: float) -> float:
    """Quantisation steps in an orthonormal coefficient of 1, where pixels are 0 .. 1, by the high-rate approximation.

    A step of s costs s^2 / 12 in error and gains log2(s) bits: lambda * 255^2 / 3 * s^2 / 6 = log2(e).
    """
    return 255 * math.sqrt(lambda_ / (18 * math.log2(math.e)))


@torch.no_grad()
def start(net: Any, x_B3HW: Tensor, lambda_: float) -> None:
    """Set a ScaleHyperprior or Elic2022Official in place, from pictures; the rest keeps its random weights."""
    down: list[Any] = [layer for layer in net.g_a if isinstance(layer, nn.Conv2d)]
    up: list[Any] = [layer for layer in net.g_s if isinstance(layer, nn.ConvTranspose2d)][::-1]
    last_gain = steps_per_unit(lambda_) / GAIN ** (len(down) - 1)
    x_BCHW = x_B3HW
    for index, (analysis, synthesis) in enumerate(zip(down, up, strict=True)):
        basis_OC22 = _principal_components(x_BCHW, analysis.out_channels)
        gain = last_gain if index == len(down) - 1 else GAIN
        n_out, n_in = basis_OC22.shape[:2]
        for layer, factor in ((analysis, gain), (synthesis, 1 / gain)):
            layer.weight.mul_(_FAINT * factor)
            nn.init.zeros_(layer.bias)
            layer.weight[:n_out, :n_in] = 0
            layer.weight[:n_out, :n_in, 2:4, 2:4] = factor * basis_OC22
        x_BCHW = conv2d(x_BCHW, gain * basis_OC22, stride=2)
    for module in (*net.g_a.modules(), *net.g_s.modules()):
        if isinstance(module, ResidualBottleneckBlock):
            for parameter in module.conv3.parameters():
                parameter.zero_()
        if isinstance(module, AttentionBlock):
            gate: Any = module.conv_b[-1]
            gate.weight.mul_(_FAINT)
            gate.bias.fill_(_SHUT)
    if not isinstance(net, ScaleHyperprior):
        _keep_signals_alive(net.latent_codec)
    y_BMHW = net.g_a(x_B3HW)
    _expect(y_BMHW, _parameter_layers(net))
    rms_M = y_BMHW.square().mean((0, 2, 3)).sqrt()
    for layer, first in _reading_layers(net):
        layer.weight.div_(rms_M[first : first + layer.in_channels, None, None])


@torch.no_grad()
def rescale(net: Any, factor: float) -> None:
    """Scale y and all that the entropy model predicts by ``factor``: the same codec, another quantisation step."""
    synthesis = next(layer for layer in net.g_s.modules() if isinstance(layer, nn.ConvTranspose2d))
    for layer in (synthesis, *(layer for layer, _ in _reading_layers(net))):
        layer.weight.div_(factor)
    analysis: Any = [layer for layer in net.g_a if isinstance(layer, nn.Conv2d)][-1]
    for layer in (analysis, *_parameter_layers(net)):
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)


def _reading_layers(net: Any) -> list[tuple[Any, int]]:
    """The layers of the entropy model that read y, each with the first channel that it reads."""
    if isinstance(net, ScaleHyperprior):
        return [(net.h_a[0], 0)]
    model = net.latent_codec.y
    spatial = [(model.latent_codec[f"y{k}"].context_prediction, sum(net.groups[:k])) for k in range(len(net.groups))]
    return [(net.latent_codec.hyper.h_a[0], 0), *((c[0], 0) for c in model.channel_context.values()), *spatial]


def _parameter_layers(net: Any) -> list[Any]:
    """The layers that end in the scales of y's channels, and in their means where they have twice as many channels."""
    if isinstance(net, ScaleHyperprior):
        return [net.h_s[-2]]
    return [net.latent_codec.y.latent_codec[f"y{k}"].entropy_parameters[-1] for k in range(len(net.groups))]


def _principal_components(x_BCHW: Tensor, most: int) -> Tensor:
    """An orthonormal basis_OC22 of 2 x 2 blocks, the largest second moment first, and at most ``most`` of it."""
    n_channels = x_BCHW.shape[1]
    blocks = pixel_unshuffle(x_BCHW, 2).transpose(0, 1).flatten(1).double()
    _, vectors = torch.linalg.eigh(blocks @ blocks.T)
    basis_OC22: Tensor = vectors.T.flip(0)[:most].float().reshape(-1, n_channels, 2, 2)
    return basis_OC22


def _keep_signals_alive(entropy_model: nn.Module) -> None:
    """Draw weights by He's rule: torch's own draws vanish over the nine layers from y to its scales."""
    for layer in entropy_model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            strides = layer.stride[0] * layer.stride[1] if isinstance(layer, nn.ConvTranspose2d) else 1
            fan_in = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] / strides
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))


def _expect(y_BMHW: Tensor, layers: Sequence[Any]) -> None:
    """Have the entropy model begin with each channel's deviation and mean; where it has no means, its second moment."""
    with_means = sum(layer.out_channels for layer in layers) == 2 * y_BMHW.shape[1]
    first = 0
    for layer in layers:
        count = layer.out_channels // 2 if with_means else layer.out_channels
        y = y_BMHW[:, first : first + count].transpose(0, 1).flatten(1)
        expected = torch.cat([y.std(1), y.mean(1)]) if with_means else y.square().mean(1).sqrt()
        layer.weight.mul_(_FAINT)
        layer.bias.copy_(expected)
        first += count
