"""What is taken of a run's features for a figure."""

import numpy as np
import pytest

from harness.illustrate import histogram


@pytest.mark.slow
@pytest.mark.parametrize("channel", [0, 7])
def test_a_histogram_of_many_elements_has_every_channel_in_it(channel: int) -> None:
    """One channel of 1152 that is large counts as much as it is, whichever it is."""
    dim, n_features = 1152, 7_000
    values = np.random.default_rng(1).normal(size=(n_features, dim))
    values[:, channel] += 50.0
    found = histogram(values.ravel())
    assert found.elements <= 2_000_000
    assert found.fits["Gaussian"].location == pytest.approx(50.0 / dim, abs=0.01)
    assert found.fits["Gaussian"].scale == pytest.approx(values.std(), rel=0.02)
