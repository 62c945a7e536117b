"""The Laplacian convolved with a uniform (Eq. 5): its rate in training, its integer tables at inference.

A scale is held as log2 b. At inference it is one of ``LEVELS`` values, 1/12 octave apart: a scale that is off by at
most 3 % costs some 0.01 % of the rate.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.tofc import rans

LEVELS = 128
LEVELS_PER_OCTAVE = 12
LOG2_B_MIN = math.log2(0.04)
LOG2_B_MAX = LOG2_B_MIN + (LEVELS - 1) / LEVELS_PER_OCTAVE

TABLE_TOTAL = rans.TOTAL
"""What the entries of every integer table sum to: the precision of the entropy coder."""

_TAIL = 14.0
"""A table reaches this many scales b to each side of the mean; what lies further out (1e-6) escapes."""


def bits(symbol: Tensor, log2_b: Tensor) -> Tensor:
    """-log2 of Eq. 5 at ``symbol`` = y - mu, for a scale b = 2**log2_b clamped to the tables' range.

    Elementwise and differentiable; exact in the tails of float32, where it grows linearly with ``symbol``.
    """
    rate = torch.exp2(-log2_b.clamp(LOG2_B_MIN, LOG2_B_MAX))
    distance = symbol.abs()
    tail = (distance - 0.5) * rate - torch.log(-torch.expm1(-rate)) + math.log(2)
    inner = distance.clamp(max=0.5)
    peak = -torch.log1p(-0.5 * (torch.exp((inner - 0.5) * rate) + torch.exp(-(inner + 0.5) * rate)))
    return torch.where(distance < 0.5, peak, tail) / math.log(2)


def reach(level: int) -> int:
    """The largest |symbol| that the table of a level holds."""
    return max(1, math.ceil(_TAIL * 2 ** (LOG2_B_MIN + level / LEVELS_PER_OCTAVE)))


def table(level: int) -> NDArray[np.int64]:
    """Frequencies of the symbols -reach..reach and, last, of the escape, for one level; they sum to TABLE_TOTAL."""
    log2_b = torch.tensor(LOG2_B_MIN + level / LEVELS_PER_OCTAVE, dtype=torch.float64)
    limit = reach(level)
    symbols = torch.arange(-limit, limit + 1, dtype=torch.float64)
    mass: NDArray[np.float64] = torch.exp2(-bits(symbols, log2_b)).numpy()
    return frequencies(np.append(mass, max(0.0, 1.0 - mass.sum())))


def split(tables: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The tables of all levels, one after the other, as one for each level."""
    sizes = [2 * reach(level) + 2 for level in range(LEVELS)]
    return np.split(tables, np.cumsum(sizes)[:-1])


def frequencies(mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positive integers that sum to TABLE_TOTAL and follow ``mass`` along its last axis."""
    share = mass / mass.sum(-1, keepdims=True)
    counts: NDArray[np.int64] = 1 + np.floor(share * (TABLE_TOTAL - mass.shape[-1])).astype(np.int64)
    likeliest = share.argmax(-1)[..., None]
    spare = TABLE_TOTAL - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, likeliest, np.take_along_axis(counts, likeliest, -1) + spare, -1)
    return counts
