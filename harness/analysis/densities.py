"""How visual features are distributed (the paper's Fig. 4): fitted densities, and how likely they make the features.

    Gaussian    mean and standard deviation
    Laplacian   median m and b = mean |x - m|
    Cauchy      the most likely location and scale, by the weights 2 / (1 + ((x - m) / s)^2) until they stay

All are fitted by maximum likelihood. A log-likelihood is the mean over the features' elements, in nats.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FAMILIES = ("Gaussian", "Laplacian", "Cauchy")

_STEPS, _STILL = 500, 1e-10


def fit(values: ArrayLike, family: str) -> tuple[float, float]:
    """Location and scale of a family of :data:`FAMILIES`; ``values`` are finite and not all alike.

    Raises ValueError otherwise.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size < 2 or not np.isfinite(x).all() or x.min() == x.max():
        raise ValueError(f"{x.size} values cannot be fitted; they must be finite and not all alike")
    match family:
        case "Gaussian":
            return float(x.mean()), float(x.std())
        case "Laplacian":
            middle = float(np.median(x))
            return middle, float(np.abs(x - middle).mean())
        case "Cauchy":
            return _cauchy(x)
    raise ValueError(f"{family} is not a family that is fitted; known: {', '.join(FAMILIES)}")


def density(x: ArrayLike, family: str, location: float, scale: float) -> Floats:
    """The density of a family at x."""
    return np.asarray(np.exp(_log_density(np.asarray(x, dtype=np.float64), family, location, scale)))


def log_likelihood(values: ArrayLike, family: str, location: float, scale: float) -> float:
    """The mean log density of the values, in nats."""
    return float(_log_density(np.asarray(values, dtype=np.float64), family, location, scale).mean())


def _log_density(x: Floats, family: str, location: float, scale: float) -> Floats:
    z = (x - location) / scale
    match family:
        case "Gaussian":
            return np.asarray(-0.5 * z**2 - math.log(scale * math.sqrt(2 * math.pi)))
        case "Laplacian":
            return np.asarray(-np.abs(z) - math.log(2 * scale))
        case "Cauchy":
            return np.asarray(-np.log1p(z**2) - math.log(math.pi * scale))
    raise ValueError(f"{family} is not a family that is fitted; known: {', '.join(FAMILIES)}")


def _cauchy(x: Floats) -> tuple[float, float]:
    low, location, high = np.quantile(x, [0.25, 0.5, 0.75])
    # Half the distance of the quartiles is a Cauchy's scale; where they coincide, any scale that is not 0 begins.
    scale = float(high - low) / 2 or float(x.std())
    location = float(location)
    for _ in range(_STEPS):
        weight = 2 / (1 + ((x - location) / scale) ** 2)
        moved = float((weight * x).sum() / weight.sum())
        spread = math.sqrt(float((weight * (x - moved) ** 2).mean()))
        if spread == 0.0:
            break
        still = abs(moved - location) + abs(spread - scale) < _STILL * scale
        location, scale = moved, spread
        if still:
            break
    return location, scale
