"""The scale hyperprior (Balle et al., arXiv 1802.01436) as compressai builds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
from compressai.models import ScaleHyperprior
from torch import Tensor

from baselines.exact_convolution import make_exact
from baselines.neural_codec import NeuralCodec
from baselines.neural_weights import size


class Hyperprior(NeuralCodec):
    """The ScaleHyperprior of compressai: y is coded with zero-mean Gaussians whose scales h_s finds from z."""

    kind = "hyperprior"
    n_strings = 2

    @staticmethod
    def network_of(path: Path, state: Mapping[str, Tensor]) -> ScaleHyperprior:
        """N channels inside and M of y, from the first and the last convolution of g_a."""
        return ScaleHyperprior(size(path, state, "g_a.0.weight", 0), size(path, state, "g_a.6.weight", 0))

    @staticmethod
    def make_exact(net: Any) -> None:
        """The scales come from h_s."""
        make_exact(net.h_s)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of z."""
        return height, width
