"""What tests of baselines share."""

from collections.abc import Iterator

import pytest
import torch

from harness.models.loading import LlavaModels
from harness.models.onevision import load


@pytest.fixture(scope="module")
def models() -> Iterator[LlavaModels]:
    """The parts of the zoo's backbone on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("mini-onevision")
    torch.set_num_threads(threads)
