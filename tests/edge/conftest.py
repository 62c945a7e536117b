"""The scenario of the fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge import fake_harness


@pytest.fixture(scope="session")
def fake_scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario of the fake scheme at three points; 3 pictures, 12 questions."""
    path = tmp_path_factory.mktemp("scenario") / "fake.yaml"
    path.write_text(fake_harness.SCENARIO.format(samples=12, timed=3, repeats=4))
    return path


@pytest.fixture(scope="module", autouse=True)
def _fakes() -> Iterator[None]:
    fake_harness.patch()
    yield
    fake_harness.restore()
