"""The order in which y is coded: level by level of its scale, so that each table's symbols are one run.

    M elements of y, in their order   L levels

A counting sort, fused with the shift of each symbol into its table: the numpy form takes as long as the coder itself.
"""

import numpy as np
from numpy.typing import NDArray

from harness.kernels import kernel, warm_up

Ints = NDArray[np.int64]
Levels = NDArray[np.uint8]
Indices = NDArray[np.int32]


@kernel
def starts(level_M: Levels, n_levels: int) -> Ints:
    """Where each level's run starts and, last, where all end: L + 1 positions. Raises ValueError for another level."""
    start_L = np.zeros(n_levels + 1, np.int64)
    for level in level_M:
        if level < 0 or level >= n_levels:
            raise ValueError("an element's level of scale has no table")
        start_L[level + 1] += 1
    for level in range(n_levels):
        start_L[level + 1] += start_L[level]
    return start_L


@kernel
def to_runs(y_M: Ints, level_M: Levels, reach_L: Ints) -> tuple[Indices, Ints, Ints]:
    """Indices into the levels' tables, run after run; where the runs start; the positions in y of what escaped.

    A symbol from -reach to reach has index symbol + reach; any other has the escape's, 2 reach + 1. Escapes keep the
    order of their runs.
    """
    start_L = starts(level_M, len(reach_L))
    next_L = start_L.copy()
    index_M = np.empty(len(y_M), np.int32)
    n_escaped = 0
    for m in range(len(y_M)):
        level = level_M[m]
        reach = reach_L[level]
        index = y_M[m] + reach
        if index < 0 or index > 2 * reach:
            index = 2 * reach + 1
            n_escaped += 1
        index_M[next_L[level]] = index
        next_L[level] += 1
    return index_M, start_L, _escapes(index_M, level_M, reach_L, start_L, n_escaped)


@kernel
def _escapes(index_M: Indices, level_M: Levels, reach_L: Ints, start_L: Ints, n_escaped: int) -> Ints:
    escaped = np.empty(n_escaped, np.int64)
    if n_escaped > 0:
        next_L = start_L.copy()
        # The position in y of each place in the runs; most images have no escape and do not need it.
        source = np.empty(len(index_M), np.int64)
        for m in range(len(level_M)):
            source[next_L[level_M[m]]] = m
            next_L[level_M[m]] += 1
        found = 0
        for slot in range(len(index_M)):
            if index_M[slot] > 2 * reach_L[level_M[source[slot]]]:
                escaped[found] = source[slot]
                found += 1
    return escaped


@kernel
def from_runs(index_M: Indices, level_M: Levels, reach_L: Ints, start_L: Ints) -> tuple[Ints, Ints]:
    """The inverse of :func:`to_runs`: y, with zeros at the escaped positions, which come second."""
    next_L = start_L.copy()
    y_M = np.empty(len(level_M), np.int64)
    n_escaped = 0
    for m in range(len(level_M)):
        level = level_M[m]
        symbol = index_M[next_L[level]] - reach_L[level]
        next_L[level] += 1
        if symbol > reach_L[level]:
            symbol = 0
            n_escaped += 1
        y_M[m] = symbol
    return y_M, _escapes(index_M, level_M, reach_L, start_L, n_escaped)


@warm_up
def prepare() -> None:
    """Compile the sorting's kernels."""
    level_M, reach_L = np.zeros(1, np.uint8), np.ones(1, np.int64)
    index_M, start_L, _ = to_runs(np.zeros(1, np.int64), level_M, reach_L)
    from_runs(index_M, level_M, reach_L, start_L)
    starts(level_M, 1)
