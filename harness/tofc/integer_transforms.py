"""h_a and h_s in integer arithmetic: from features to the symbols of z, from these to the means and scales of y.

    E entropy models   N merged features   Z channels of z   D dimension

h_s has to give the encoder and the decoder the same scales, so its integers are part of a checkpoint. h_a runs in the
encoder only; in integers, it is read in a quarter of the time.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.tofc import laplacian
from harness.tofc.entropy_model import EntropyModels
from harness.tofc.factorized import LIMIT
from harness.tofc.integer_layers import ACTIVATION_BITS, IntegerLayers, quantised

FRACTION_BITS = 12
"""Means are multiples of 2**-12."""


class IntegerAnalysis:
    """h_a and the rounding of z: from features in units of the step to round(z - mu_1/2) (Eq. 8).

    ``tensors`` are derive's; raises ValueError or KeyError for tensors that are not.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
        self.layers = IntegerLayers(tensors, device)

    @staticmethod
    @torch.no_grad()
    def derive(models: EntropyModels) -> dict[str, Tensor]:
        """The integers of a trained h_a, the medians of z folded in."""
        median_EZ = models.density.medians()
        return quantised(models.h_a, torch.ones_like(median_EZ), -median_EZ)

    def __call__(self, u_ND: Tensor, expert_N: Tensor) -> Tensor:
        """The symbols of z under each feature's model, (N, Z), int64 in -LIMIT..LIMIT."""
        symbols_NZ = self.layers((u_ND * 2**ACTIVATION_BITS).round(), expert_N)
        return symbols_NZ.clamp(-LIMIT, LIMIT).to(torch.int64)


class IntegerSynthesis:
    """h_s: from the symbols of z to each element's mean and the level of its scale; ``tensors`` are derive's.

    Raises ValueError or KeyError for tensors that are not.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
        self.layers = IntegerLayers(tensors, device)

    @staticmethod
    @torch.no_grad()
    def derive(models: EntropyModels) -> dict[str, Tensor]:
        """The integers of a trained h_s, the medians of z and the levels' spacing folded in."""
        median_EZ = models.density.medians()
        shape = (models.n_experts, models.dim)
        unit = torch.cat(
            [torch.full(shape, 2.0**FRACTION_BITS), torch.full(shape, 1.0 * laplacian.LEVELS_PER_OCTAVE)], 1
        )
        offset = torch.cat([torch.zeros(shape), torch.full(shape, -laplacian.LOG2_B_MIN)], 1)
        return quantised(models.h_s, unit, offset, median_EZ)

    def __call__(self, z_NZ: Tensor, expert_N: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of each element in units of 2**-12 (int32) and the level of its scale (uint8), (N, D)."""
        mean_ND, level_ND = self.layers(self.inputs(z_NZ), expert_N).chunk(2, -1)
        return mean_ND, level_ND.clamp(0, laplacian.LEVELS - 1).to(torch.uint8)

    @staticmethod
    def inputs(z_NZ: Tensor) -> Tensor:
        """What the layers take for these symbols of z."""
        return z_NZ << ACTIVATION_BITS
