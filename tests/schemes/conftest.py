"""The small models that the tests of models have, in parts as schemes need them."""

import pytest

from harness.models.onevision import load
from tests.small_models import make_backbone, save


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The parts of a OneVision of random weights with 4 x 4 features a tile."""
    return load("mini-onevision", weights=save(make_backbone(), tmp_path_factory.mktemp("tiny")))
