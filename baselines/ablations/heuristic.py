"""The heuristic Laplacian (Fig. 12): one mean and one scale an image, taken from its quantised features.

A linear scaling maps the 99.9 % percentile of the features' magnitudes to the largest integer of ``bits`` bits; what
lies beyond is clipped. Mean and scale are the Laplacian's maximum likelihood estimates of the integers, their median
and their mean distance from it, and are sent with the scaling in the stream: the paper takes them from "each batch",
and at inference a batch is one image. Nothing is learned.

P patches   C clusters   N = P C merged features   D dimension
"""

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.errors import BitstreamError, FeaturesError
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Budget, ModelTables, SideInformation, Symbols
from harness.tofc.entropy_model import round_straight_through
from harness.tofc.factorized import LIMIT
from harness.tofc.feature_codec import Coded, FeatureCodec, FrozenCodec
from harness.tofc.level_order import Levels

PERCENTILE = 0.999

_SIDE = struct.Struct("<fhB")
"""The step, the median, the level of the scale."""
_MOST = float(np.finfo(np.float32).max)


class HeuristicConfig(BaseModel):
    """``dim`` is d_v; ``bits`` is the bit length of the quantiser, with which the paper traverses the curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(ge=1, le=4096)
    bits: int = Field(ge=2, le=15)

    @property
    def largest(self) -> int:
        """The largest integer: 2**(bits - 1) - 1."""
        return int(2 ** (self.bits - 1) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """An image's step, and the median and the scale's level of its integers."""

    step: float
    median: int
    level: int


class HeuristicCodec(FeatureCodec):
    """Scales, rounds and clips all features alike; a Laplacian over the integers gives the length of the stream."""

    FORMAT: ClassVar[str] = "heuristic-codec-1"
    Config: ClassVar[type[BaseModel]] = HeuristicConfig

    config: HeuristicConfig

    def forward(self, y_PCD: Tensor, temperature: float) -> Coded:  # noqa: ARG002
        """Quantise by the statistics of this batch."""
        y_ND = self._flat(y_PCD)
        step = self._step(y_ND)
        q_ND = self._quantised(y_ND, step)
        distance_ND = q_ND - q_ND.detach().median()
        log2_b = distance_ND.abs().mean().clamp(min=2**laplacian.LOG2_B_MIN).log2()
        bits_N = laplacian.bits(distance_ND, log2_b).sum(-1)
        y_bar_PCD = (q_ND * step).view(y_PCD.shape).to(y_PCD.dtype)
        return Coded(y_bar_PCD, bits_N, bits_N.new_ones(len(bits_N), 1))

    def derive(self, y_ND: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The Laplacian's tables."""
        levels = [laplacian.table(level) for level in range(laplacian.LEVELS)]
        return {"y": torch.from_numpy(np.concatenate(levels)).to(torch.int32)}

    def thaw(self, digest: str, tensors: Mapping[str, Tensor]) -> FrozenCodec:
        """The Laplacian's tables, ready for coding."""
        y_levels = laplacian.split(tensors["frozen.y"].to(torch.int64).numpy())
        one, none = np.array([laplacian.TABLE_TOTAL]), np.zeros((1, 0, 2 * LIMIT + 1), np.int64)
        return FrozenCodec(digest, tensors, ModelTables(one, none, y_levels, _SIDE.size))

    def statistics(self, y_PCD: Tensor) -> Statistics:
        """The statistics that :meth:`compress` computes from an image's features and sends with them."""
        y_ND = self._flat(y_PCD)
        step = self._step(y_ND)
        q_ND = self._quantised(y_ND, step)
        median = q_ND.median()
        b = float((q_ND - median).double().abs().mean())
        level = (math.log2(max(b, 2**laplacian.LOG2_B_MIN)) - laplacian.LOG2_B_MIN) * laplacian.LEVELS_PER_OCTAVE
        return Statistics(float(step), int(median), min(round(level), laplacian.LEVELS - 1))

    @torch.no_grad()
    def symbols(self, y_PCD: Tensor) -> tuple[Symbols, Levels]:
        """Distances of the integers from their median, all at one level."""
        if not torch.isfinite(y_PCD).all():
            raise FeaturesError("the merged features hold infinite or undefined values")
        found = self.statistics(y_PCD)
        y_ND = self._flat(y_PCD)
        symbol_ND = self._quantised(y_ND, y_ND.new_tensor(found.step)).to(torch.int64) - found.median
        n_features = len(symbol_ND)
        nothing = np.zeros(n_features, np.int64), np.zeros((n_features, 0), np.int64)
        side = _SIDE.pack(found.step, found.median, found.level)
        return Symbols(*nothing, symbol_ND.cpu().numpy(), side), np.full(symbol_ND.shape, found.level, np.uint8)

    def features(self, side: SideInformation) -> tuple[Tensor, Budget]:
        """The integers times the step that came with them."""
        step, median, level = _SIDE.unpack(side.side)
        largest = self.config.largest
        if not (0 < step <= _MOST / largest and abs(median) <= largest and level < laplacian.LEVELS):
            raise BitstreamError(f"a step of {step}, a median of {median} and a scale of {level} are not valid")
        level_ND = np.full((side.header.n_features, self.config.dim), level, np.uint8)
        symbol_ND, budget = bitstream.read_y(side, self.frozen.tables, level_ND)
        if np.abs(symbol_ND + median).max() > largest:
            raise BitstreamError(f"a symbol is out of the range of {self.config.bits} bits")
        y_ND = torch.from_numpy((symbol_ND + median) * float(step)).float()
        return y_ND.to(self.device), budget

    def _step(self, y_ND: Tensor) -> Tensor:
        """The size of one integer: the percentile of the magnitudes over the largest integer; it has no gradient."""
        magnitude_M = y_ND.detach().abs().flatten()
        place = max(1, math.ceil(PERCENTILE * len(magnitude_M)))
        return (magnitude_M.kthvalue(place).values / self.config.largest).clamp(min=1e-20)

    def _quantised(self, y_ND: Tensor, step: Tensor) -> Tensor:
        return round_straight_through(y_ND / step).clamp(-self.config.largest, self.config.largest)
