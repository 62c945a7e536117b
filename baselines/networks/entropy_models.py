"""The distributions that y and z are coded with, and their integer tables, as compressai makes them.

B batch (1 where strings are made)   C channels   H, W height and width   T tables   A entries of a table
"""

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn
from torch.nn.functional import softplus

from baselines.networks.layers import LowerBound
from baselines.rans import TOTAL, Rans, quantised_cdf
from harness.errors import CheckpointError

TAIL_MASS = 1e-9
"""The share of a distribution beyond its table, where symbols escape."""
_LIKELIHOOD_MIN = 1e-9
_SCALE_MIN, _SCALE_MAX, _SCALES = 0.11, 256, 64
_FILTERS = (1, 3, 3, 3, 3, 1)
_INIT_SCALE = 10.0
_SEARCH_RADIUS, _RELATIVE, _ABSOLUTE = 1e5, 1e-4, 1e-3


def scale_table(most: float = _SCALE_MAX, levels: int = _SCALES) -> Tensor:
    """The Gaussians' standard deviations: logarithmic steps from 0.11 to ``most``."""
    return torch.exp(torch.linspace(math.log(_SCALE_MIN), math.log(most), levels))


class EntropyModel(nn.Module):
    """A distribution of integers with tables, which :meth:`freeze` hands to the coder."""

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.likelihood_lower_bound = LowerBound(_LIKELIHOOD_MIN)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))
        self._coder: Rans | None = None

    @property
    def has_tables(self) -> bool:
        """Whether there are tables to code with."""
        return self._offset.numel() > 0

    @property
    def coder(self) -> Rans:
        """The coder of the tables."""
        assert self._coder is not None, "freeze() comes first"
        return self._coder

    def freeze(self) -> None:
        """Make the coder of the tables; raises CheckpointError if they are invalid."""
        self._coder = Rans(self._quantized_cdf.numpy(), self._cdf_length.numpy(), self._offset.numpy())

    def _tabulate(self, pmf_TA: Tensor, tail_T1: Tensor, length_T: Tensor, offset_T: Tensor) -> None:
        most = int(length_T.max())
        cdf_TA = np.zeros((len(pmf_TA), most + 2), np.int32)
        for row, pmf_A, tail_1, length in zip(cdf_TA, pmf_TA, tail_T1, length_T.tolist(), strict=True):
            row[: length + 2] = quantised_cdf(torch.cat((pmf_A[:length], tail_1)).numpy())
        self._quantized_cdf = torch.from_numpy(cdf_TA)
        self._cdf_length, self._offset = length_T + 2, offset_T

    def _encode(self, symbols: Tensor, index: Tensor) -> bytes:
        assert symbols.shape == index.shape
        return self.coder.encode(symbols.int().numpy(), index.numpy())

    def _decode(self, string: bytes, index: Tensor) -> Tensor:
        return torch.from_numpy(self.coder.decode(string, index.numpy())).reshape(index.shape).float()


def _noisy(x: Tensor) -> Tensor:
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def _length(extent_T: Tensor) -> Tensor:
    """int32; raises CheckpointError where a table would have more entries than there are frequencies."""
    if not bool((extent_T < TOTAL // 4).all()):
        raise CheckpointError(f"a distribution is {float(extent_T.max()):g} wide; no table holds {TOTAL // 4} or more")
    return extent_T.int()


class EntropyBottleneck(EntropyModel):
    """A density of its own for each channel of z (Balle et al., arXiv 1802.01436, appendix 6.1)."""

    target: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.channels = n_channels
        scale = _INIT_SCALE ** (1 / (len(_FILTERS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in itertools.pairwise(_FILTERS):
            start = float(np.log(np.expm1(1 / scale / n_out)))
            self.matrices.append(nn.Parameter(torch.full((n_channels, n_out, n_in), start)))
            self.biases.append(nn.Parameter(torch.empty(n_channels, n_out, 1).uniform_(-0.5, 0.5)))
            if len(self.matrices) < len(_FILTERS) - 1:
                self.factors.append(nn.Parameter(torch.zeros(n_channels, n_out, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-_INIT_SCALE, 0, _INIT_SCALE]).repeat(n_channels, 1, 1))
        target = float(np.log(2 / TAIL_MASS - 1))
        self.register_buffer("target", torch.tensor([-target, 0, target]))

    def medians(self) -> Tensor:
        """The middle of each channel's density, (C, 1, 1)."""
        return self.quantiles[:, :, 1:2]

    def forward(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Z with noise in training and rounded about the medians otherwise, and the likelihoods of that."""
        z_CBHW = z_BCHW.transpose(0, 1).contiguous()
        z_C1N, medians = z_CBHW.reshape(self.channels, 1, -1), self.medians()
        hat = _noisy(z_C1N) if self.training else (z_C1N - medians).round() + medians
        likelihood = self.likelihood_lower_bound(self._likelihood(hat)[0])
        z_hat, likelihood = (x.reshape(z_CBHW.shape).transpose(0, 1).contiguous() for x in (hat, likelihood))
        return z_hat, likelihood

    def encode(self, z_1CHW: Tensor) -> tuple[bytes, Tensor]:
        """The string of z, and the decoder's z."""
        symbols = (z_1CHW - self.medians()).round().int()
        return self._encode(symbols, self._index(*symbols.shape[2:])), symbols.float() + self.medians()

    def decode(self, string: bytes, height: int, width: int) -> Tensor:
        """Z of a string; raises BitstreamError where the string is not of so many positions."""
        return self._decode(string, self._index(height, width)) + self.medians()

    def freeze(self) -> None:
        """Make the coder of the tables; raises CheckpointError if they are invalid, or not one for each channel."""
        if self._offset.shape != (self.channels,):
            raise CheckpointError(f"its tables are not of {self.channels} rows each, one for each channel")
        super().freeze()

    def _index(self, height: int, width: int) -> Tensor:
        return torch.arange(self.channels, dtype=torch.int32).reshape(1, -1, 1, 1).expand(1, -1, height, width)

    def _logits(self, z_C1N: Tensor, *, frozen: bool = False) -> Tensor:
        """The logits of the cumulative density; with ``frozen`` no gradient reaches its parameters."""

        def value(parameter: Any) -> Tensor:
            found: Tensor = parameter.detach() if frozen else parameter
            return found

        logits = z_C1N
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            logits = torch.matmul(softplus(value(matrix)), logits) + value(bias)
            if layer < len(self.factors):
                logits = logits + torch.tanh(value(self.factors[layer])) * torch.tanh(logits)
        return logits

    def _likelihood(self, z_C1N: Tensor, *, frozen: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The mass of +-0.5 about each value, and the logits of both ends."""
        lower, upper = (self._logits(z_C1N + end, frozen=frozen) for end in (-0.5, 0.5))
        return torch.sigmoid(upper) - torch.sigmoid(lower), lower, upper

    @torch.no_grad()
    def update(self) -> None:
        """Make the tables: a channel's reaches from its lower to its upper quantile."""
        below_C, median_C, above_C = self.quantiles.detach()[:, 0].unbind(1)
        minima_C, maxima_C = (_length(x.ceil().clamp(min=0)) for x in (median_C - below_C, above_C - median_C))
        length_C = maxima_C + minima_C + 1
        samples = torch.arange(int(length_C.max()))[None, :] + (median_C - minima_C)[:, None, None]
        pmf, lower, upper = (x[:, 0] for x in self._likelihood(samples, frozen=True))
        self._tabulate(pmf, torch.sigmoid(lower[:, :1]) + torch.sigmoid(-upper[:, -1:]), length_C, -minima_C)

    @torch.no_grad()
    def update_quantiles(self) -> None:
        """Find by bisection where half of the tail's mass, half of all, and all but half of the tail's lies below."""
        for place, target in enumerate(self.target):
            ends = [torch.full((self.channels, 1, 1), end) for end in (-_SEARCH_RADIUS, _SEARCH_RADIUS)]
            low = torch.where(target <= self._logits(ends[1]), ends[0], ends[1])
            high = torch.where(self._logits(low) <= target, ends[1], low)
            while not torch.isclose(low, high, rtol=_RELATIVE, atol=_ABSOLUTE).all():
                middle = (low + high) / 2
                logits = self._logits(middle)
                low, high = torch.where(logits <= target, middle, low), torch.where(logits >= target, middle, high)
            self.quantiles[:, :, place] = ((low + high) / 2)[:, :, 0]


class GaussianConditional(EntropyModel):
    """A Gaussian for each element of y, whose scale, and perhaps mean, is known to both sides."""

    scale_table: Tensor
    scale_bound: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lower_bound_scale = LowerBound(_SCALE_MIN)
        self.register_buffer("scale_table", torch.zeros(0))
        self.register_buffer("scale_bound", torch.tensor([_SCALE_MIN]))

    def forward(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Y with noise in training and rounded about the means otherwise, and the likelihoods of that."""
        y_hat = _noisy(y) if self.training else self.rounded(y, means)
        distance = (y_hat if means is None else y_hat - means).abs()
        scales = self.lower_bound_scale(scales)
        likelihood = _cumulative((0.5 - distance) / scales) - _cumulative((-0.5 - distance) / scales)
        return y_hat, self.likelihood_lower_bound(likelihood)

    @staticmethod
    def rounded(y: Tensor, means: Tensor | None) -> Tensor:
        """Y to whole steps from its means."""
        return y.round() if means is None else (y - means).round() + means

    def encode(self, y: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[bytes, Tensor]:
        """The string of y, and the decoder's y."""
        symbols = (y if means is None else y - means).round().int()
        string = self._encode(symbols, self.index(scales))
        return string, symbols.float() if means is None else symbols.float() + means

    def decode(self, string: bytes, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """The y of a string; raises BitstreamError where the string is not of so many elements."""
        y_hat = self._decode(string, self.index(scales))
        return y_hat if means is None else y_hat + means

    def index(self, scales: Tensor) -> Tensor:
        """The narrowest table that is as wide as each scale, int32; of the widest where none is."""
        return torch.searchsorted(self.scale_table[:-1], self.lower_bound_scale(scales), out_int32=True)

    @torch.no_grad()
    def update(self, scales_T: Tensor) -> None:
        """Make a table for each scale, all but TAIL_MASS of it."""
        self.scale_table = scales_T
        centre_T = _length((scales_T * -float(ndtri(TAIL_MASS / 2))).ceil())
        length_T = 2 * centre_T + 1
        distance_TA = (torch.arange(int(length_T.max())).int() - centre_T[:, None]).abs().float()
        upper, lower = (_cumulative((end - distance_TA) / scales_T[:, None]) for end in (0.5, -0.5))
        self._tabulate(upper - lower, 2 * lower[:, :1], length_T, -centre_T)

    def freeze(self) -> None:
        """Make the coder of the tables; raises CheckpointError if they are invalid, or not one for each scale."""
        scales_T = self.scale_table
        if scales_T.ndim != 1 or self._offset.shape != scales_T.shape:
            raise CheckpointError(f"its tables are not of {scales_T.numel()} rows each, one for each scale")
        if not bool((scales_T > 0).all()) or not bool((scales_T.diff() >= 0).all()):
            raise CheckpointError("its scales are not above 0 and rising")
        super().freeze()


def _cumulative(x: Tensor) -> Tensor:
    """The standard Gaussian's cumulative density; the complementary error function is exact in the tail."""
    return 0.5 * torch.erfc(-(2**-0.5) * x)
