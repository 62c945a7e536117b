"""The CPU's path of feature merging: one symmetric product a patch, then one fused scan over its lower triangle.

    V features   D dimension   C clusters   K neighbours

A float32 product gives squared distances with a rounding error, so the scan carries bounds on every density and score.
Where the bounds leave no doubt about the centres they are exact; where they do (or where the squares leave float32's
range) the patch is scanned again on distances taken as differences in float64, which are exact to float64's last digit.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_BLOCK = 128
"""Columns of the triangle computed by one product: enough to feed the multiplier, few enough to skip the upper half."""

_RANGE = (1e-25, 1e30)
"""Largest squared norm of a patch for which the products of float32 neither vanish nor overflow."""

# Not nnan and not ninf: infinity marks "no denser feature", and a sum that is not a number reveals bad input.
_kernel = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})


def cluster(x_PVD: Tensor, n_clusters: int, k: int) -> tuple[Tensor, Tensor]:
    """Centres (P, C), ascending, and labels (P, V), both int64, of finite float32 or float64 features on the CPU.

    Raises ValueError where a squared norm is not finite.
    """
    n_patches, n_features, dimension = x_PVD.shape
    precision = torch.finfo(x_PVD.dtype).eps
    centres_PC = np.empty((n_patches, n_clusters), np.int64)
    labels_PV = np.empty((n_patches, n_features), np.int64)
    centred_VD = torch.empty((n_features, dimension), dtype=x_PVD.dtype)
    triangle_VV = torch.empty((n_features, n_features), dtype=x_PVD.dtype)
    norm_V = np.empty(n_features, np.float64)
    for patch, x_VD in enumerate(x_PVD):
        x_VD_np = x_VD.contiguous().numpy()
        _centre(x_VD_np, centred_VD.numpy(), norm_V)
        largest = float(norm_V.max())
        if not math.isfinite(largest):
            raise ValueError(f"patch {patch} holds infinite, undefined or huge values; features must be finite")
        twin_V = _twins(centred_VD.numpy(), norm_V)
        sure = False
        if _RANGE[0] < largest < _RANGE[1]:
            _lower_triangle(centred_VD, triangle_VV)
            error = math.sqrt(dimension) * precision
            sure = _scan(x_VD_np, triangle_VV.numpy(), norm_V, twin_V, k, error, centres_PC[patch], labels_PV[patch])
        if not sure:
            exact_VV = np.empty((n_features, n_features), np.float64)
            exact_VD = x_VD_np.astype(np.float64)
            _differences(exact_VD, exact_VV)
            _scan(exact_VD, exact_VV, norm_V, twin_V, k, 0.0, centres_PC[patch], labels_PV[patch])
    return torch.from_numpy(centres_PC), torch.from_numpy(labels_PV)


def _lower_triangle(x_VD: Tensor, out_VV: Tensor) -> None:
    # oneDNN generates code for the processor at hand; the BLAS behind torch.mm leaves half of some processors unused.
    usable = x_VD.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if usable else None
    for start in range(0, x_VD.shape[0], _BLOCK):
        rows, columns = x_VD[start:], x_VD[start : start + _BLOCK]
        product = linear(rows, columns, None, "none", [], "") if linear is not None else rows @ columns.T
        out_VV[start:, start : start + _BLOCK] = product


@_kernel
def _centre(x_VD: Array, centred_VD: Array, norm_V: Array) -> None:
    n_features, dimension = x_VD.shape
    mean_D = np.zeros(dimension, x_VD.dtype)
    for i in range(n_features):
        for d in range(dimension):
            mean_D[d] += x_VD[i, d]
    for d in range(dimension):
        mean_D[d] /= n_features
    for i in range(n_features):
        total = np.float64(0.0)
        for d in range(dimension):
            value = x_VD[i, d] - mean_D[d]
            centred_VD[i, d] = value
            total += np.float64(value) * np.float64(value)
        norm_V[i] = total


@_kernel
def _twins(x_VD: Array, norm_V: Array) -> Array:
    """Find the first feature that equals each feature, or the feature itself."""
    n_features, dimension = x_VD.shape
    order_V = np.argsort(norm_V, kind="mergesort")
    twin_V = np.arange(n_features)
    for position in range(1, n_features):
        i = order_V[position]
        before = position - 1
        while before >= 0 and norm_V[order_V[before]] == norm_V[i]:
            j = order_V[before]
            if twin_V[j] == j:
                equal = True
                for d in range(dimension):
                    if x_VD[i, d] != x_VD[j, d]:
                        equal = False
                        break
                if equal:
                    twin_V[i] = j
                    break
            before -= 1
    return twin_V


@_kernel
def _differences(x_VD: Array, out_VV: Array) -> None:
    """Squared distances, below the diagonal, from differences in float64."""
    for i in range(x_VD.shape[0]):
        for j in range(i):
            out_VV[i, j] = _difference(x_VD, i, j)


@_kernel
def _difference(x_VD: Array, i: int, j: int) -> np.float64:
    total = np.float64(0.0)
    for d in range(x_VD.shape[1]):
        gap = np.float64(x_VD[i, d]) - np.float64(x_VD[j, d])
        total += gap * gap
    return total


@_kernel
def _insert(nearest_K: Array, value: float) -> None:
    slot = nearest_K.shape[0] - 1
    while slot > 0 and nearest_K[slot - 1] > value:
        nearest_K[slot] = nearest_K[slot - 1]
        slot -= 1
    nearest_K[slot] = value


@_kernel
def _scan(
    x_VD: Array,
    square_VV: Array,
    norm_V: Array,
    twin_V: Array,
    k: int,
    error: float,
    centres_C: Array,
    labels_V: Array,
) -> bool:
    """Fill in centres and labels; return False where the rounding of the product leaves the centres in doubt.

    ``square_VV`` holds inner products below the diagonal where ``error`` (their relative bound) is positive, and then
    becomes squared distances; where ``error`` is 0 it holds exact squared distances.
    """
    if error > 0.0:
        _to_squared_distances(square_VV, norm_V, twin_V)
    least_V, most_V = _log_densities(square_VV, norm_V, twin_V, k, error)
    low_V, high_V = _scores(square_VV, norm_V, twin_V, error, least_V, most_V)
    order_V = np.argsort(-low_V, kind="mergesort")
    if error > 0.0 and not _certain(order_V, low_V, high_V, twin_V, centres_C.shape[0]):
        return False
    centres_C[:] = np.sort(order_V[: centres_C.shape[0]])
    _assign(x_VD, square_VV, norm_V, error, centres_C, labels_V)
    return True


@_kernel
def _to_squared_distances(square_VV: Array, norm_V: Array, twin_V: Array) -> None:
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
def _log_densities(square_VV: Array, norm_V: Array, twin_V: Array, k: int, error: float) -> tuple[Array, Array]:
    """Lower and upper bounds on log rho (Eq. 2); a feature that equals an earlier one is given none at all."""
    n_features = square_VV.shape[0]
    nearest_VK = np.full((n_features, k), np.inf, square_VV.dtype)
    worst_V = np.full(n_features, np.inf, square_VV.dtype)
    for i in range(n_features):
        row_V = square_VV[i]
        for j in range(i):
            value = row_V[j]
            if value < worst_V[i]:
                _insert(nearest_VK[i], value)
                worst_V[i] = nearest_VK[i, k - 1]
            if value < worst_V[j]:
                _insert(nearest_VK[j], value)
                worst_V[j] = nearest_VK[j, k - 1]
    largest = norm_V.max()
    least_V = np.full(n_features, -np.inf)
    most_V = np.full(n_features, -np.inf)
    for i in range(n_features):
        if twin_V[i] == i:
            total = 0.0
            for slot in range(k):
                total += nearest_VK[i, slot]
            doubt = _doubt(error, norm_V[i], largest, worst_V[i])
            least_V[i] = -total / k - doubt
            most_V[i] = -total / k + doubt
    return least_V, most_V


@_kernel
def _scores(
    square_VV: Array, norm_V: Array, twin_V: Array, error: float, least_V: Array, most_V: Array
) -> tuple[Array, Array]:
    """Lower and upper bounds on log rho + log delta (Eq. 3): the lower index counts as the denser of two equals."""
    n_features = square_VV.shape[0]
    infinity = square_VV.dtype.type(np.inf)
    # Squared distance to the nearest feature that is denser for sure, and to the nearest that may be denser.
    sure_V = np.full(n_features, infinity)
    maybe_V = np.full(n_features, infinity)
    for i in range(n_features):
        row_V = square_VV[i]
        least, most = least_V[i], most_V[i]
        sure, maybe = infinity, infinity
        for j in range(i):
            value = row_V[j]
            sure = min(sure, value if least_V[j] >= most else infinity)
            maybe = min(maybe, value if most_V[j] >= least else infinity)
            sure_V[j] = min(sure_V[j], value if least > most_V[j] else infinity)
            maybe_V[j] = min(maybe_V[j], value if most > least_V[j] else infinity)
        sure_V[i], maybe_V[i] = sure, maybe

    largest = norm_V.max()
    low_V = np.full(n_features, -np.inf)
    high_V = np.full(n_features, -np.inf)
    for i in range(n_features):
        if twin_V[i] == i:
            sure2, maybe2 = float(sure_V[i]), float(maybe_V[i])
            if sure2 == np.inf:
                sure2 = _row_maximum(square_VV, i)
                maybe2 = min(maybe2, sure2)
            high = sure2 + _doubt(error, norm_V[i], largest, sure2)
            low = maybe2 - _doubt(error, norm_V[i], largest, maybe2)
            high_V[i] = most_V[i] + (0.5 * math.log(high) if high > 0.0 else -np.inf)
            low_V[i] = least_V[i] + (0.5 * math.log(low) if low > 0.0 else -np.inf)
    return low_V, high_V


@_kernel
def _certain(order_V: Array, low_V: Array, high_V: Array, twin_V: Array, n_clusters: int) -> bool:
    """Whether the first ``n_clusters`` in order of their lower bounds are the centres beyond doubt."""
    threshold = low_V[order_V[n_clusters - 1]]
    if threshold > -np.inf:
        return not (high_V[order_V[n_clusters:]] >= threshold).any()
    # Equal features have to serve as centres: all others must be known to come before them.
    return not ((twin_V == np.arange(twin_V.shape[0])) & (low_V == -np.inf)).any()


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
