"""The small backbones that the tests of backbones have."""

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[1] / "models" / "conftest.py"


@pytest.fixture(scope="session")
def backbone():
    """A OneVision of random weights with 4 x 4 features a tile."""
    spec = importlib.util.spec_from_file_location("small_backbones", _FILE)
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    return builders.make_backbone()
