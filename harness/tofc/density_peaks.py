"""The CPU's path of feature merging: one symmetric product a patch, then one fused scan over its lower triangle.

    V features   D dimension   C clusters   K neighbours

A product gives squared distances with a rounding error, so the scan carries bounds on every density and score. If the
bounds decide the centres, these are exact. Otherwise the distances of the undecided features are computed again, as
differences in float64, and then, if doubt or a tie is left, those of all others too.
"""

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import blas
from threadpoolctl import ThreadpoolController
from torch import Tensor

from harness.errors import FeaturesError
from harness.kernels import kernel, warm_up

Array = NDArray[Any]

_SAMPLE = 8
"""Distances do not depend on the vector that is taken from all features: the mean of every eighth removes an offset."""

_OFFSET = 0.5
"""Share of the features' energy from which on their offset is subtracted: a smaller one costs one bit at most."""

_BLOCK = 16
"""Squared distances of a row that are compared at once with the largest of the K that the row has kept so far."""

RANGE = {4: (1e-25, 1e30), 8: (1e-280, 1e290)}
"""By the bytes of a number, between which squares neither lose digits nor overflow in a sum."""

_blas = ThreadpoolController().select(internal_api="openblas")

# Not nnan and not ninf: infinity marks "no denser feature", and a sum that is not a number reveals bad input.
_kernel = kernel(fastmath={"reassoc", "contract", "nsz"})


def cluster(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """Centres (P, C), ascending, and labels (P, V), both int64, of finite float32 or float64 features on the CPU.

    Raises FeaturesError where a squared norm is not finite.
    """
    prepare()
    return _cluster(x_PVD, n_clusters, k)


@warm_up
def prepare() -> None:
    """Compile every kernel for every dtype, once a process: a patch in doubt may be timed, and must not wait for it."""
    in_doubt = torch.arange(8.0).view(1, 8, 1)
    for x_PVD in (in_doubt, torch.exp2(in_doubt)):
        _cluster(x_PVD, 3, 2)
        _cluster(x_PVD.double(), 3, 2)


def _cluster(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    n_patches, n_features, dimension = x_PVD.shape
    x_PVD_np = x_PVD.contiguous().numpy()
    dtype = x_PVD_np.dtype
    centres_PC = np.empty((n_patches, n_clusters), np.int64)
    labels_PV = np.empty((n_patches, n_features), np.int64)
    norm_V = np.empty(n_features, np.float64)
    centred_VD, square_VV = np.empty(x_PVD.shape[1:], dtype), np.empty((n_features, n_features), dtype)
    least, most = RANGE[dtype.itemsize]
    # BLAS has its own threads; torch.set_num_threads does not limit them.
    with _blas.limit(limits=torch.get_num_threads()):
        for patch, x_VD in enumerate(x_PVD_np):
            twin_V, largest, is_centred = _centre(x_VD, centred_VD, norm_V)
            if not math.isfinite(largest):
                raise FeaturesError(f"patch {patch} holds infinite, undefined or huge values; features must be finite")
            error = math.inf
            if least < largest < most and is_exact(dtype):
                inner_products(centred_VD if is_centred else x_VD, square_VV)
                to_squared_distances(square_VV, norm_V, twin_V)
                error = rounding(dimension, float(np.finfo(dtype).eps))
            choose(x_VD, square_VV, norm_V, twin_V, k, error, centres_PC[patch], labels_PV[patch])
    return torch.from_numpy(centres_PC), torch.from_numpy(labels_PV)


def rounding(dimension: int, eps: float) -> float:
    """A bound on the error of a squared distance: relative to the sum of both squared norms if from a product.

    If it is from differences, the bound is relative to itself.

    An inner product of D terms is off by more than 8 sqrt(D) u |x| |y|, where u is half of eps, with a probability of
    less than 2 D exp(-32) (Higham and Mary, SIAM J. Sci. Comput. 41, 2019); norms and sums add four roundings.
    """
    return (4.0 * math.sqrt(dimension) + 2.0) * eps


@functools.cache
def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether BLAS's product of whole numbers is right on this machine; checked once a process.

    There are processors on which it is not: the float32 kernels for SVE and SME of OpenBLAS 0.3.30 silently return
    garbage on some. There the clusters come from differences.
    """
    whole_VD = np.random.default_rng(0).integers(-8, 9, (144, 160))
    found_VV = np.zeros((144, 144), dtype)
    inner_products(whole_VD.astype(dtype), found_VV)
    return np.array_equal(np.tril(found_VV), np.tril(whole_VD @ whole_VD.T))


def inner_products(x_VD: Array, out_VV: Array) -> None:
    """Fill in the lower triangle of ``x_VD @ x_VD.T`` by BLAS's symmetric rank-k update."""
    update = blas.ssyrk if x_VD.dtype == np.float32 else blas.dsyrk
    # The lower triangle in the order of rows is the upper one in BLAS's order of columns.
    update(1.0, x_VD.T, trans=1, c=out_VV.T, overwrite_c=1, lower=0)


@_kernel
def _centre(x_VD: Array, centred_VD: Array, norm_V: Array) -> tuple[Array, float, bool]:
    """Fill in the squared norms, of the centred features where the offset is large, which are filled in then.

    Returns the twins, the largest of the norms, and whether they are those of the centred features.
    """
    n_features, dimension = x_VD.shape
    mean_D = np.zeros(dimension, x_VD.dtype)
    energy, offset = np.float64(0.0), np.float64(0.0)
    n_sampled = (n_features + _SAMPLE - 1) // _SAMPLE
    for i in range(0, n_features, _SAMPLE):
        for d in range(dimension):
            mean_D[d] += x_VD[i, d]
            energy += np.float64(x_VD[i, d]) * np.float64(x_VD[i, d])
    for d in range(dimension):
        mean_D[d] /= n_sampled
        offset += np.float64(mean_D[d]) * np.float64(mean_D[d])
    is_centred = not offset * n_sampled < _OFFSET * energy
    for i in range(n_features):
        total = np.float64(0.0)
        if is_centred:
            for d in range(dimension):
                value = x_VD[i, d] - mean_D[d]
                centred_VD[i, d] = value
                total += np.float64(value) * np.float64(value)
        else:
            for d in range(dimension):
                total += np.float64(x_VD[i, d]) * np.float64(x_VD[i, d])
        norm_V[i] = total
    return _twins(x_VD, norm_V), norm_V.max(), is_centred


@_kernel
def _twins(x_VD: Array, norm_V: Array) -> Array:
    """Find the first feature that equals each feature, or the feature itself; equals have equal norms."""
    n_features = x_VD.shape[0]
    twin_V = np.arange(n_features)
    for i in range(n_features):
        candidates = 0
        for j in range(i):
            candidates += norm_V[j] == norm_V[i]
        if candidates > 0:
            for j in range(i):
                if norm_V[j] == norm_V[i] and twin_V[j] == j and _is_equal(x_VD, i, j):
                    twin_V[i] = j
                    break
    return twin_V


@_kernel
def _is_equal(x_VD: Array, i: int, j: int) -> bool:
    for d in range(x_VD.shape[1]):  # noqa: SIM110 - a generator is not compiled
        if x_VD[i, d] != x_VD[j, d]:
            return False
    return True


@_kernel
def _difference(x_VD: Array, i: int, j: int) -> np.float64:
    total = np.float64(0.0)
    for d in range(x_VD.shape[1]):
        gap = np.float64(x_VD[i, d]) - np.float64(x_VD[j, d])
        total += gap * gap
    return total


def choose(
    x_VD: Array,
    square_VV: Array,
    norm_V: Array,
    twin_V: Array,
    k: int,
    error: float,
    centres_C: Array,
    labels_V: Array,
) -> None:
    """Fill in centres and labels from squared distances, below the diagonal of ``square_VV``, which may be changed.

    ``error`` bounds their rounding (:func:`rounding`); it is infinite where they are not to be used.
    """
    error_V = np.full(len(x_VD), error)
    decide = functools.partial(_decided, norm_V=norm_V, twin_V=twin_V, k=k, error_V=error_V, centres_C=centres_C)
    doubtful = anew = np.arange(len(x_VD)) if math.isinf(error) else decide(square_VV)
    if doubtful.size:
        # What was never written is not cast: above the diagonal always, and all of it without a product.
        x_VD = x_VD.astype(np.float64, copy=False)
        is_written = not math.isinf(error)
        square_VV = np.tril(square_VV).astype(np.float64) if is_written else np.zeros(square_VV.shape)
    while doubtful.size and anew.size:
        _take_differences(x_VD, square_VV, error_V, anew)
        error_V[anew] = 0.0
        doubtful, anew = decide(square_VV), np.flatnonzero(error_V)
    _assign(x_VD, square_VV, norm_V, float(error_V.max()), centres_C, labels_V)


def _decided(square_VV: Array, norm_V: Array, twin_V: Array, k: int, error_V: Array, centres_C: Array) -> Array:
    """Fill in the likeliest centres, ascending; returns the features that may or may not be among them."""
    # Numbers that are not negative are in the order of their bits, and minima of integers, which need no care for NaN,
    # take a fraction of the time.
    bits_VV = square_VV.view(np.int32 if square_VV.dtype == np.float32 else np.int64)
    doubtful_V = _scan(square_VV, bits_VV, norm_V, twin_V, k, error_V, centres_C)
    centres_C.sort()
    return np.flatnonzero(doubtful_V)


@_kernel
def _scan(
    square_VV: Array, bits_VV: Array, norm_V: Array, twin_V: Array, k: int, error_V: Array, centres_C: Array
) -> Array:
    infinity = np.full(1, np.inf, square_VV.dtype).view(bits_VV.dtype)[0]
    nearest_KV = _nearest(bits_VV, k, infinity)
    low_V, high_V = _scores(square_VV, bits_VV, nearest_KV, norm_V, twin_V, error_V, infinity)
    _leading(low_V, centres_C)
    return _doubtful(centres_C, low_V, high_V, twin_V)


@_kernel
def to_squared_distances(square_VV: Array, norm_V: Array, twin_V: Array) -> None:
    """Make squared distances of inner products, below the diagonal; those of equal features are 0."""
    zero = square_VV.dtype.type(0.0)
    own_V = norm_V.astype(square_VV.dtype)
    for i in range(square_VV.shape[0]):
        row_V = square_VV[i]
        for j in range(i):
            row_V[j] = max(own_V[i] + own_V[j] - row_V[j] - row_V[j], zero)
        if twin_V[i] != i:
            for j in range(i):
                if twin_V[j] == twin_V[i]:
                    row_V[j] = zero


@_kernel
def _take_differences(x_VD: Array, square_VV: Array, error_V: Array, anew: Array) -> None:
    """Compute the squared distances of some features again, from differences; a feature without error keeps its own."""
    n_features = x_VD.shape[0]
    is_anew_V = np.zeros(n_features, np.bool_)
    for i in anew:
        is_anew_V[i] = True
    # Feature by feature: each is read once for all that are computed again, and each pair is computed once.
    for j in range(n_features):
        if error_V[j] > 0.0:
            for i in anew:
                if j < i or not is_anew_V[j]:
                    square_VV[max(i, j), min(i, j)] = _difference(x_VD, i, j)


@_kernel
def _nearest(bits_VV: Array, k: int, infinity: int) -> Array:
    """The K smallest squared distances of each feature, ascending, as (K, V)."""
    n_features = bits_VV.shape[0]
    nearest_KV = np.full((k, n_features), infinity, bits_VV.dtype)
    row_V = np.empty(n_features + _BLOCK, bits_VV.dtype)
    own_K = np.empty(k, bits_VV.dtype)
    # From the last row up: when a row's turn comes, all later rows have left it so small a K-th smallest that few of
    # its own values are inserted.
    for i in range(n_features - 1, -1, -1):
        # Loops: numba takes seconds to compile the assignment of one slice to another, because of its check of the
        # shapes.
        for j in range(i):
            row_V[j] = bits_VV[i, j]
        row_V[i : i + _BLOCK] = infinity
        for slot in range(k):
            own_K[slot] = nearest_KV[slot, i]
        for start in range(0, i, _BLOCK):
            least = infinity
            for j in range(start, start + _BLOCK):
                least = min(least, row_V[j])
            if least < own_K[k - 1]:
                for j in range(start, start + _BLOCK):
                    if row_V[j] < own_K[k - 1]:
                        _insert(own_K, row_V[j])
        for slot in range(k):
            nearest_KV[slot, i] = own_K[slot]
        # Each value sinks through its column's list, slot by slot; what it displaces sinks on.
        for slot in range(k):
            slot_V = nearest_KV[slot]
            for j in range(i):
                kept, value = slot_V[j], row_V[j]
                slot_V[j] = min(kept, value)
                row_V[j] = max(kept, value)
    return nearest_KV


@_kernel
def _insert(ascending_K: Array, value: int) -> None:
    slot = ascending_K.shape[0] - 1
    while slot > 0 and ascending_K[slot - 1] > value:
        ascending_K[slot] = ascending_K[slot - 1]
        slot -= 1
    ascending_K[slot] = value


@_kernel
def _log_densities(nearest_KV: Array, norm_V: Array, twin_V: Array, error_V: Array) -> tuple[Array, Array]:
    """Lower and upper bounds on log rho (Eq. 2); a feature that equals an earlier one is given none at all."""
    k, n_features = nearest_KV.shape
    largest = norm_V.max()
    infinity = nearest_KV.dtype.type(np.inf)
    least_V = np.full(n_features, -infinity)
    most_V = np.full(n_features, -infinity)
    for i in range(n_features):
        if twin_V[i] == i:
            total = 0.0
            for slot in range(k):
                total += nearest_KV[slot, i]
            doubt = _doubt(error_V[i], norm_V[i], largest, nearest_KV[k - 1, i])
            least_V[i] = -total / k - doubt
            most_V[i] = -total / k + doubt
            if doubt > 0.0:
                least_V[i], most_V[i] = np.nextafter(least_V[i], -infinity), np.nextafter(most_V[i], infinity)
    return least_V, most_V


@_kernel
def _nearest_denser(bits_VV: Array, least_V: Array, most_V: Array, infinity: int) -> tuple[Array, Array]:
    """Squared distance to the nearest feature that is certainly denser, and to the nearest that may be denser.

    The lower index counts as the denser of two equals.
    """
    n_features = bits_VV.shape[0]
    sure_V = np.full(n_features, infinity, bits_VV.dtype)
    maybe_V = np.full(n_features, infinity, bits_VV.dtype)
    for i in range(n_features):
        row_V = bits_VV[i]
        least, most = least_V[i], most_V[i]
        sure, maybe = infinity, infinity
        for j in range(i):
            value = row_V[j]
            sure = min(sure, value if least_V[j] >= most else infinity)
            maybe = min(maybe, value if most_V[j] >= least else infinity)
            sure_V[j] = min(sure_V[j], value if least > most_V[j] else infinity)
            maybe_V[j] = min(maybe_V[j], value if most > least_V[j] else infinity)
        sure_V[i], maybe_V[i] = sure, maybe
    return sure_V, maybe_V


@_kernel
def _scores(
    square_VV: Array,
    bits_VV: Array,
    nearest_KV: Array,
    norm_V: Array,
    twin_V: Array,
    error_V: Array,
    infinity: int,
) -> tuple[Array, Array]:
    """Lower and upper bounds on log rho + log delta (Eq. 3); a feature that equals an earlier one is given none."""
    n_features, dtype = square_VV.shape[0], square_VV.dtype
    least_V, most_V = _log_densities(nearest_KV.view(dtype), norm_V, twin_V, error_V)
    sure_bits_V, maybe_bits_V = _nearest_denser(bits_VV, least_V, most_V, infinity)
    sure_V, maybe_V = sure_bits_V.view(dtype), maybe_bits_V.view(dtype)
    largest = norm_V.max()
    low_V = np.full(n_features, -np.inf)
    high_V = np.full(n_features, -np.inf)
    for i in range(n_features):
        if twin_V[i] == i:
            sure2, maybe2 = float(sure_V[i]), float(maybe_V[i])
            if sure2 == np.inf:
                sure2 = _row_maximum(square_VV, i)
                maybe2 = min(maybe2, sure2)
            high = sure2 + _doubt(error_V[i], norm_V[i], largest, sure2)
            low = maybe2 - _doubt(error_V[i], norm_V[i], largest, maybe2)
            high_V[i] = most_V[i] + (0.5 * math.log(high) if high > 0.0 else -np.inf)
            low_V[i] = least_V[i] + (0.5 * math.log(low) if low > 0.0 else -np.inf)
    return low_V, high_V


@_kernel
def _leading(score_V: Array, centres_C: Array) -> None:
    """Fill in the indices of the largest scores, in their order; of two equals the lower index comes first."""
    n_clusters = centres_C.shape[0]
    found = 0
    for i in range(score_V.shape[0]):
        if found < n_clusters:
            found += 1
        elif not score_V[i] > score_V[centres_C[-1]]:
            continue
        slot = found - 1
        while slot > 0 and score_V[i] > score_V[centres_C[slot - 1]]:
            centres_C[slot] = centres_C[slot - 1]
            slot -= 1
        centres_C[slot] = i


@_kernel
def _doubtful(leading_C: Array, low_V: Array, high_V: Array, twin_V: Array) -> Array:
    """Which features may or may not be among the centres; none where the leaders by ``low_V`` are."""
    n_features = low_V.shape[0]
    threshold = low_V[leading_C[-1]]
    chosen_V = np.zeros(n_features, np.bool_)
    for i in leading_C:
        chosen_V[i] = True
    rival = -np.inf
    for i in range(n_features):
        if not chosen_V[i]:
            rival = max(rival, high_V[i])
    doubtful_V = np.zeros(n_features, np.bool_)
    for i in range(n_features):
        if threshold > -np.inf:
            doubtful_V[i] = low_V[i] <= rival if chosen_V[i] else high_V[i] >= threshold
        else:
            # Equal features have to serve as centres: all others must be known to come before them.
            doubtful_V[i] = low_V[i] == -np.inf and twin_V[i] == i
    return doubtful_V


@_kernel
def _doubt(error: float, norm: float, largest: float, square: float) -> float:
    """How far a computed squared distance from a feature of squared norm ``norm`` can be from the true one.

    The rounding is relative to the sum of both squared norms; the other feature's is at most the patch's largest, and
    at most (|x| + distance)^2.
    """
    return error * (norm + min(largest, (math.sqrt(norm) + math.sqrt(square)) ** 2))


@_kernel
def _row_maximum(square_VV: Array, i: int) -> float:
    largest = 0.0
    for j in range(square_VV.shape[0]):
        if j != i:
            largest = max(largest, float(square_VV[max(i, j), min(i, j)]))
    return largest


@_kernel
def _assign(x_VD: Array, square_VV: Array, norm_V: Array, error: float, centres_C: Array, labels_V: Array) -> None:
    n_clusters = centres_C.shape[0]
    largest = norm_V.max()
    to_centre_C = np.empty(n_clusters)
    for i in range(labels_V.shape[0]):
        best = 0
        for c in range(n_clusters):
            centre = centres_C[c]
            to_centre_C[c] = -1.0 if centre == i else float(square_VV[max(i, centre), min(i, centre)])
            if to_centre_C[c] < to_centre_C[best]:
                best = c
        if error > 0.0 and to_centre_C[best] >= 0.0:
            close = to_centre_C[best] + 2.0 * _doubt(error, norm_V[i], largest, to_centre_C[best])
            rivals = 0
            for c in range(n_clusters):
                rivals += to_centre_C[c] <= close
            if rivals > 1:
                nearest = np.float64(np.inf)
                for c in range(n_clusters):
                    if to_centre_C[c] <= close:
                        exact = _difference(x_VD, i, centres_C[c])
                        if exact < nearest:
                            nearest, best = exact, c
        labels_V[i] = best
