"""The factorized entropy model (Fig. 12): the density that TOFC learns for z, for y itself; there is no hyperprior.

P patches   C clusters   N = P C merged features   D dimension   A symbols of a table
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.errors import FeaturesError
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Budget, ModelTables, SideInformation, Symbols
from harness.tofc.entropy_model import round_straight_through
from harness.tofc.factorized import LIMIT, FactorizedDensity
from harness.tofc.feature_codec import Coded, FeatureCodec, FrozenCodec, scale_of
from harness.tofc.integer_transforms import FRACTION_BITS


class FactorizedConfig(BaseModel):
    """``dim`` is d_v."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(ge=1, le=4096)


class FactorizedCodec(FeatureCodec):
    """A learned density for each channel of y, in units of the quantiser's step, which is learned like TOFC's."""

    FORMAT: ClassVar[str] = "factorized-codec-1"
    Config: ClassVar[type[BaseModel]] = FactorizedConfig

    config: FactorizedConfig

    def __init__(self, config: FactorizedConfig) -> None:
        super().__init__(config)
        self.offset_D = nn.Parameter(torch.zeros(config.dim))
        self.log_step_D = nn.Parameter(torch.zeros(config.dim))
        self.density = FactorizedDensity(1, config.dim)

    @torch.no_grad()
    def fit_scale(self, y_PCD: Tensor, steps_per_deviation: float = 2.0) -> None:
        """Start offset and step from data: zero mean, and a standard deviation of ``steps_per_deviation`` steps."""
        offset_D, log_step_D = scale_of(self._flat(y_PCD), steps_per_deviation)
        self.offset_D.copy_(offset_D)
        self.log_step_D.copy_(log_step_D)

    def scale_parameters(self) -> list[nn.Parameter]:
        """Offset and step."""
        return [self.offset_D, self.log_step_D]

    def forward(self, y_PCD: Tensor, temperature: float) -> Coded:  # noqa: ARG002
        """Quantise around the medians (Eq. 8, for y), with straight-through gradients and noise-free rates."""
        y_ND = self._flat(y_PCD)
        step_D = self.log_step_D.exp()
        median_D = self.density.medians()[0]
        u_ND = round_straight_through((y_ND - self.offset_D) / step_D - median_D) + median_D
        bits_N = self.density.bits(u_ND[None])[0].sum(-1)
        y_bar_PCD = (u_ND * step_D + self.offset_D).view(y_PCD.shape).to(y_PCD.dtype)
        return Coded(y_bar_PCD, bits_N, bits_N.new_ones(len(bits_N), 1))

    def derive(self, y_ND: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """A table for each channel, its escape last, and the medians in units of 2**-12."""
        median_1D = (self.density.medians() * 2**FRACTION_BITS).round().to(torch.int64)
        masses_DA = self.density.masses_and_escape(median_1D / 2**FRACTION_BITS)[0].cpu().numpy()
        return {
            "step_D": self.log_step_D.exp(),
            "median_D": median_1D[0],
            "y": torch.from_numpy(laplacian.frequencies(masses_DA)).to(torch.int32),
        }

    def thaw(self, digest: str, tensors: Mapping[str, Tensor]) -> FrozenCodec:
        """The channels' tables, ready for coding: each is a level of its own."""
        one, none = np.array([laplacian.TABLE_TOTAL]), np.zeros((1, 0, 2 * LIMIT + 1), np.int64)
        y_levels = list(tensors["frozen.y"].to(torch.int64).numpy())
        if len(y_levels) != self.config.dim:
            raise ValueError(f"{len(y_levels)} tables for {self.config.dim} channels")
        return FrozenCodec(digest, tensors, ModelTables(one, none, y_levels))

    @torch.no_grad()
    def symbols(self, y_PCD: Tensor) -> tuple[Symbols, Any]:
        """The integers around the medians, each at the level of its channel."""
        y_ND = self._flat(y_PCD)
        step_D, median_D = self._scale()
        symbol_ND = ((y_ND - self.offset_D).double() / step_D - median_D).round()
        if not torch.isfinite(symbol_ND).all():
            raise FeaturesError("the merged features hold infinite or undefined values")
        if symbol_ND.abs().max() > bitstream.SYMBOL_LIMIT:
            raise FeaturesError("a merged feature lies 2**30 steps or more from its median: it cannot be coded")
        n_features = len(symbol_ND)
        nothing = np.zeros(n_features, np.int64), np.zeros((n_features, 0), np.int64)
        return Symbols(*nothing, symbol_ND.to(torch.int64).cpu().numpy()), self._channels(n_features)

    def features(self, side: SideInformation) -> tuple[Tensor, Budget]:
        """The integers and their medians, in units of the step."""
        symbol_ND, budget = bitstream.read_y(side, self.frozen.tables, self._channels(side.header.n_features))
        step_D, median_D = self._scale()
        u_ND = torch.from_numpy(symbol_ND).to(self.device) + median_D
        return (u_ND * step_D + self.offset_D.detach().double()).float(), budget

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Step and median of each channel, float64."""
        tensors = self.frozen.tensors
        median_D = tensors["frozen.median_D"].to(self.device).double() / 2**FRACTION_BITS
        return tensors["frozen.step_D"].to(self.device).double(), median_D

    def _channels(self, n_features: int) -> Any:
        return np.broadcast_to(np.arange(self.config.dim, dtype=np.uint16), (n_features, self.config.dim))
