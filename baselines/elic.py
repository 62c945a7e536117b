"""ELIC (He et al., arXiv 2203.10886) as compressai builds it."""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
from compressai.models import Elic2022Official
from compressai.models.utils import conv
from torch import Tensor, nn

from baselines.exact_convolution import make_exact
from baselines.neural_codec import NeuralCodec
from baselines.neural_weights import size
from harness.errors import CheckpointError

_Y = "latent_codec.y"
FULL_CONTEXT = (224, 128)
"""Channels inside the channel context of the published model, which compressai does not leave to its callers."""


def network(N: int, M: int, groups: Sequence[int], context: tuple[int, int] = FULL_CONTEXT) -> Elic2022Official:
    """An untrained network: N channels inside, M of y in groups, ``context`` inside each group's channel context."""
    net = Elic2022Official(N, M, groups=groups)
    if context != FULL_CONTEXT:
        first, second = context
        for k in range(1, len(groups)):
            net.latent_codec["y"].channel_context[f"y{k}"] = nn.Sequential(
                conv(sum(groups[:k]), first, kernel_size=5, stride=1),
                nn.ReLU(inplace=True),
                conv(first, second, kernel_size=5, stride=1),
                nn.ReLU(inplace=True),
                conv(second, 2 * groups[k], kernel_size=5, stride=1),
            )
    return net


class Elic(NeuralCodec):
    """The Elic2022Official of compressai: y in groups of channels, each in two passes given z and what went before."""

    kind = "elic"

    @staticmethod
    def network_of(path: Path, state: Mapping[str, Tensor]) -> Elic2022Official:
        """N, M, the groups and the context's channels, from the shapes of g_a and of the context model."""
        names = (f"{_Y}.latent_codec.y{k}.context_prediction.weight" for k in count())
        groups = [size(path, state, name, 1) for name in takewhile(state.__contains__, names)]
        N, M = size(path, state, "g_a.0.weight", 0), size(path, state, "g_a.13.weight", 0)
        if sum(groups) != M or len(groups) < 2:
            raise CheckpointError(f"{path}: its groups of channels {groups} do not make up the {M} channels of y")
        first, second = (size(path, state, f"{_Y}.channel_context.y1.{layer}.weight", 0) for layer in (0, 2))
        return network(N, M, groups, (first, second))

    @staticmethod
    def make_exact(net: Any) -> None:
        """Scales and means come from h_s and from the context model."""
        make_exact(net.latent_codec["hyper"].h_s)
        make_exact(net.latent_codec["y"])

    @property
    def n_strings(self) -> int:
        """Two for each group, and one for z."""
        return 2 * len(self._net.groups) + 1

    def shape(self, height: int, width: int) -> dict[str, Any]:
        """Channels, height and width of every group of y, four times those of z; height and width of z."""
        return {"y": [(channels, 4 * height, 4 * width) for channels in self._net.groups], "hyper": (height, width)}
