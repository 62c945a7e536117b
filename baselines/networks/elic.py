"""ELIC (He et al., arXiv 2203.10886): y in groups of channels, each in two passes given z and what was coded before.

         h_a       entropy bottleneck     h_s
y ----------> z --------------------> z_hat ---> side parameters
                                                      |
groups before this one --- channel context ----------+--> scales, means: first pass, then second
this group's first pass -- spatial context ----------+

B batch (1 where strings are made)   C channels   H, W height and width of y   K channels of parameters
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from baselines.networks.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from baselines.networks.layers import (
    AttentionBlock,
    CheckerboardConv2d,
    ResidualBottleneckBlock,
    conv,
    deconv,
    round_straight_through,
)
from baselines.networks.network import MULTIPLE_PX, Y_STRIDE, Network, size
from harness.errors import CheckpointError

FULL_CONTEXT = (224, 128)
"""Channels inside the channel context of the published model."""
_Y_OF_Z = MULTIPLE_PX // Y_STRIDE


def _passes(y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The two colours of a checkerboard, each squeezed to half the width."""
    first, second = (y_BCHW.new_empty((*y_BCHW.shape[:3], y_BCHW.shape[3] // 2)) for _ in range(2))
    for half, row in ((first, 0), (second, 1)):
        half[:, :, 0::2] = y_BCHW[:, :, 0::2, row::2]
        half[:, :, 1::2] = y_BCHW[:, :, 1::2, 1 - row :: 2]
    return first, second


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Joins what :func:`_passes` split."""
    y_BCHW = first.new_empty((*first.shape[:3], 2 * first.shape[3]))
    for half, row in ((first, 0), (second, 1)):
        y_BCHW[:, :, 0::2, row::2] = half[:, :, 0::2]
        y_BCHW[:, :, 1::2, 1 - row :: 2] = half[:, :, 1::2]
    return y_BCHW


def _only(y_BCHW: Tensor, colour: int) -> Tensor:
    """A copy with the other colour at zero; the first pass has colour 0, which the top left corner has."""
    kept = y_BCHW.clone()
    kept[..., 0::2, 1 - colour :: 2] = 0
    kept[..., 1::2, colour::2] = 0
    return kept


class _Group(nn.Module):
    """One group of channels: its first pass is given the parameters, its second pass also the first."""

    def __init__(self, n_channels: int, aggregation: nn.Sequential, spatial: CheckerboardConv2d) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.entropy_parameters = aggregation
        self.context_prediction = spatial
        self.y = nn.ModuleDict({"gaussian_conditional": GaussianConditional()})

    @property
    def gaussian(self) -> GaussianConditional:
        """The distribution of both passes."""
        found = self.y["gaussian_conditional"]
        assert isinstance(found, GaussianConditional)
        return found

    def _scales_and_means(self, context: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.entropy_parameters(torch.cat((context, parameters), 1)).chunk(2, 1)
        return scales, means

    def _first(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, *size = parameters.shape
        return self._scales_and_means(parameters.new_zeros((batch, 2 * self.n_channels, *size)), parameters)

    def _second(self, first_hat: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        _, context = _passes(self.context_prediction(_joined(first_hat, torch.zeros_like(first_hat))))
        return self._scales_and_means(context, parameters)

    def likelihoods(self, y_BCHW: Tensor, parameters_BKHW: Tensor) -> tuple[Tensor, Tensor]:
        """y_hat with straight-through rounding, and its likelihoods."""
        # Zeros in the memory layout of a response: another layout sums in another order.
        none = torch.zeros_like(self.context_prediction(y_BCHW))
        _, means = self._scales_and_means(none, parameters_BKHW)
        means = _only(means, 0)
        first = _only(round_straight_through(y_BCHW - means) + means, 0)
        context = _only(self.context_prediction(first), 1)
        scales, means = self._scales_and_means(context, parameters_BKHW)
        _, likelihoods = self.gaussian(y_BCHW, scales, means)
        y_hat = round_straight_through(y_BCHW - means) + means
        y_hat[..., 0::2, 0::2] = first[..., 0::2, 0::2]
        y_hat[..., 1::2, 1::2] = first[..., 1::2, 1::2]
        return y_hat, likelihoods

    def encode(self, y_1CHW: Tensor, parameters_1KHW: Tensor) -> tuple[list[bytes], Tensor]:
        """The strings of both passes, and the decoder's values."""
        first, second = _passes(y_1CHW)
        for_first, for_second = _passes(parameters_1KHW)
        of_first, first_hat = self.gaussian.encode(first, *self._first(for_first))
        of_second, second_hat = self.gaussian.encode(second, *self._second(first_hat, for_second))
        return [of_first, of_second], _joined(first_hat, second_hat)

    def decode(self, strings: Sequence[bytes], parameters_1KHW: Tensor) -> Tensor:
        """The group of both strings."""
        of_first, of_second = strings
        for_first, for_second = _passes(parameters_1KHW)
        first_hat = self.gaussian.decode(of_first, *self._first(for_first))
        second_hat = self.gaussian.decode(of_second, *self._second(first_hat, for_second))
        return _joined(first_hat, second_hat)


class _Groups(nn.Module):
    """y group by group, each given all before it."""

    def __init__(self, channel_context: Mapping[str, nn.Module], groups: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.channel_context = nn.ModuleDict(dict(channel_context))
        self.latent_codec = nn.ModuleDict(dict(groups))

    def __iter__(self) -> Iterator[Any]:
        """The groups in their order."""
        return iter(self.latent_codec.values())

    def parameters_of(self, k: int, side: Tensor, before: Sequence[Tensor]) -> Tensor:
        """The parameters of group ``k``: the channel context of the groups before it, and the side parameters."""
        return side if k == 0 else torch.cat((self.channel_context[f"y{k}"](torch.cat(tuple(before), 1)), side), 1)


class _Hyper(nn.Module):
    """Z, and the side parameters that come from it."""

    def __init__(self, N: int, h_a: nn.Sequential, h_s: nn.Sequential) -> None:
        super().__init__()
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.h_a, self.h_s = h_a, h_s


class _Latents(nn.Module):
    """Both entropy models, of y and of z."""

    def __init__(self, y: _Groups, hyper: _Hyper) -> None:
        super().__init__()
        self.y, self.hyper = y, hyper


def _aggregation(n_in: int, n_out: int, fewest: int) -> nn.Sequential:
    """Three 1 x 1 convolutions whose channels go from one number to the other in equal steps, by way of ``fewest``."""
    first, *inner, last = torch.linspace(n_in, n_out, 4, device="cpu").floor().int().tolist()
    a, b = (max(fewest, n) for n in inner)
    return nn.Sequential(conv(first, a, 1, 1), nn.ReLU(), conv(a, b, 1, 1), nn.ReLU(), conv(b, last, 1, 1))


class Elic2022Official(Network):
    """N channels inside, and M of y in groups; compressai's Elic2022Official key for key.

    ``contexts`` are the channels inside the channel context of each group but the first. They are initialised after the
    layers of the published sizes, so that trainings from a seed are unchanged.
    """

    exact = ("latent_codec.hyper.h_s", "latent_codec.y")

    def __init__(
        self,
        N: int = 192,
        M: int = 320,
        groups: Sequence[int] = (16, 16, 32, 64, 192),
        contexts: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        assert sum(groups) == M
        self.groups = list(groups)
        self.n_strings = 2 * len(groups) + 1

        def three(n: int) -> list[nn.Module]:
            return [ResidualBottleneckBlock(n) for _ in range(3)]

        self.g_a = nn.Sequential(
            *(conv(3, N), *three(N), conv(N, N), *three(N), AttentionBlock(N)),
            *(conv(N, N), *three(N), conv(N, M), AttentionBlock(M)),
        )
        self.g_s = nn.Sequential(
            *(AttentionBlock(M), deconv(M, N), *three(N), deconv(N, N), AttentionBlock(N)),
            *(*three(N), deconv(N, N), *three(N), deconv(N, 3)),
        )
        h_a = nn.Sequential(conv(M, N, 3, 1), nn.ReLU(), conv(N, N), nn.ReLU(), conv(N, N))
        h_s = nn.Sequential(deconv(N, N), nn.ReLU(), deconv(N, N * 3 // 2), nn.ReLU(), deconv(N * 3 // 2, 2 * N, 3, 1))
        published = [FULL_CONTEXT] * (len(groups) - 1)
        channel_context = self._channel_context(published)
        spatial = [CheckerboardConv2d(n, 2 * n) for n in groups]
        aggregation = [_aggregation(2 * n + (k > 0) * 2 * n + 2 * N, 2 * n, fewest=2 * N) for k, n in enumerate(groups)]
        coded = {f"y{k}": _Group(n, aggregation[k], spatial[k]) for k, n in enumerate(groups)}
        hyper = _Hyper(N, h_a, h_s)
        if contexts is not None and list(contexts) != published:
            channel_context = self._channel_context(contexts)
        self.latent_codec = _Latents(_Groups(channel_context, coded), hyper)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> tuple[int, int, list[int], list[tuple[int, int]]]:
        """N, M, the groups and the contexts' channels, from the shapes of g_a and of the context model."""
        of_y = "latent_codec.y"
        names = (f"{of_y}.latent_codec.y{k}.context_prediction.weight" for k in count())
        groups = [size(state, name, 1) for name in takewhile(state.__contains__, names)]
        N, M = size(state, "g_a.0.weight", 0), size(state, "g_a.13.weight", 0)
        if sum(groups) != M or len(groups) < 2:
            raise CheckpointError(f"its groups of channels {groups} do not make up the {M} channels of y")
        inside = [
            (size(state, f"{context}.0.weight", 0), size(state, f"{context}.2.weight", 0))
            for context in (f"{of_y}.channel_context.y{k}" for k in range(1, len(groups)))
        ]
        return N, M, groups, inside

    def _channel_context(self, inside: Sequence[tuple[int, int]]) -> dict[str, nn.Module]:
        return {
            f"y{k}": nn.Sequential(
                conv(sum(self.groups[:k]), first, 5, 1),
                nn.ReLU(),
                conv(first, second, 5, 1),
                nn.ReLU(),
                conv(second, 2 * self.groups[k], 5, 1),
            )
            for k, (first, second) in enumerate(inside, 1)
        }

    def likelihoods(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """y_hat, and the likelihoods of ``y`` and ``z``."""
        hyper, y_model = self.latent_codec.hyper, self.latent_codec.y
        z, medians = hyper.h_a(y), hyper.entropy_bottleneck.medians()
        _, of_z = hyper.entropy_bottleneck(z)
        side = hyper.h_s(round_straight_through(z - medians) + medians)
        hats: list[Tensor] = []
        of_y = []
        for k, (group, part) in enumerate(zip(y_model, torch.split(y, self.groups, 1), strict=True)):
            hat, of_part = group.likelihoods(part, y_model.parameters_of(k, side, hats))
            hats.append(hat)
            of_y.append(of_part)
        return torch.cat(hats, 1), {"y": torch.cat(of_y, 1), "z": of_z}

    def encode_y(self, y: Tensor) -> list[bytes]:
        """Two strings for each group, and that of z."""
        hyper, y_model = self.latent_codec.hyper, self.latent_codec.y
        of_z, z_hat = hyper.entropy_bottleneck.encode(hyper.h_a(y))
        side = hyper.h_s(z_hat)
        hats: list[Tensor] = []
        strings: list[bytes] = []
        for k, (group, part) in enumerate(zip(y_model, torch.split(y, self.groups, 1), strict=True)):
            of_group, hat = group.encode(part, y_model.parameters_of(k, side, hats))
            strings += of_group
            hats.append(hat)
        return [*strings, of_z]

    def decode_y(self, strings: Sequence[bytes], height: int, width: int) -> Tensor:
        """y_hat of all strings."""
        hyper, y_model = self.latent_codec.hyper, self.latent_codec.y
        side = hyper.h_s(hyper.entropy_bottleneck.decode(strings[-1], height, width))
        hats: list[Tensor] = []
        for k, group in enumerate(y_model):
            hats.append(group.decode(strings[2 * k : 2 * k + 2], y_model.parameters_of(k, side, hats)))
        return torch.cat(hats, 1)

    def parts(self, height: int, width: int) -> list[tuple[EntropyModel, int]]:
        """Half of the positions of y for each of a group's strings, and all of z's."""
        half = _Y_OF_Z**2 * height * width // 2
        of_y = [(group.gaussian, n * half) for group, n in zip(self.latent_codec.y, self.groups, strict=True)]
        bottleneck = self.latent_codec.hyper.entropy_bottleneck
        return [*(part for part in of_y for _ in range(2)), (bottleneck, bottleneck.channels * height * width)]
