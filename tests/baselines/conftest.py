"""What the tests of the baselines share."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def compressai() -> ModuleType:
    """The package that hyperprior and ELIC are held against, where it is installed."""
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision

    return pytest.importorskip("compressai", reason="the extra [compressai] is not installed")
