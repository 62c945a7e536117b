"""Small random models of the real classes."""

import pytest

from tests.small_models import make_backbone, make_backbone15, make_tokenizer


@pytest.fixture(scope="session")
def tiny():
    """A OneVision with 4 x 4 features a tile."""
    return make_backbone()


@pytest.fixture(scope="session")
def tiny15():
    """A LLaVA-1.5 with 4 x 4 features."""
    return make_backbone15()


@pytest.fixture(scope="session")
def real_grid():
    """A OneVision with the real one's 27 x 27 features a tile."""
    return make_backbone(tile=384, patch=14)


@pytest.fixture(scope="session")
def build():
    """The builder of a OneVision, for tests that want a model of their own."""
    return make_backbone


@pytest.fixture(scope="session")
def tokenizer():
    """The byte-level tokenizer."""
    return make_tokenizer()
