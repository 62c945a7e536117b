"""Fitted densities: the closed forms, and for the Cauchy scipy as an oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import densities

SCIPY = {"Gaussian": scipy.stats.norm, "Laplacian": scipy.stats.laplace, "Cauchy": scipy.stats.cauchy}


def draws(rng: np.random.Generator) -> dict[str, Callable[..., np.ndarray]]:
    """What draws values of each family."""
    return {"Gaussian": rng.normal, "Laplacian": rng.laplace, "Cauchy": rng.standard_cauchy}


@pytest.mark.parametrize("family", densities.FAMILIES)
def test_density_and_likelihood_are_scipys(family: str) -> None:
    """The density at any x, and the mean of its log, are those of scipy."""
    x = np.linspace(-30, 30, 101)
    assert densities.density(x, family, 0.5, 2.0) == pytest.approx(SCIPY[family].pdf(x, 0.5, 2.0))
    wanted = SCIPY[family].logpdf(x, 0.5, 2.0).mean()
    assert densities.log_likelihood(x, family, 0.5, 2.0) == pytest.approx(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("family", densities.FAMILIES)
@given(seed=st.integers(0, 2**32 - 1), location=st.floats(-5, 5), scale=st.floats(0.01, 100))
@settings(max_examples=30)
def test_a_fit_is_the_likeliest(family: str, seed: int, location: float, scale: float) -> None:
    """No density near the fit makes the values likelier, whatever family they came from."""
    rng = np.random.default_rng(seed)
    values = location + scale * draws(rng)[densities.FAMILIES[seed % 3]](size=200)
    centre, width = densities.fit(values, family)
    best = densities.log_likelihood(values, family, centre, width)
    for moved, spread in ((0.01, 1.0), (-0.01, 1.0), (0.0, 1.01), (0.0, 0.99)):
        assert densities.log_likelihood(values, family, centre + moved * width, spread * width) <= best + 1e-9


def test_the_family_that_drew_the_values_is_found() -> None:
    """Of many values the likeliest family is the one that they came from, with its own location and scale."""
    rng = np.random.default_rng(0)
    for family, draw in draws(rng).items():
        values = 3 + 2 * draw(size=20_000)
        fits = {name: densities.fit(values, name) for name in densities.FAMILIES}
        likelihoods = {name: densities.log_likelihood(values, name, *fit) for name, fit in fits.items()}
        assert max(likelihoods, key=likelihoods.__getitem__) == family
        assert fits[family] == pytest.approx((3, 2), rel=0.05)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [1.0, np.nan], [1.0, np.inf]])
def test_what_cannot_be_fitted_is_refused(values: list[float]) -> None:
    """Values that are equal, too few or not finite have no fit."""
    with pytest.raises(ValueError, match="cannot be fitted"):
        densities.fit(values, "Cauchy")
