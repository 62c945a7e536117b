"""A complete run for the tests of what is computed from one."""

import pytest
from made_up_run import make

from harness.runs.store import Record


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A complete run with an estimated scheme, one that does not reach, and a reason of the telemetry's against it."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    return make(folder, reasons=("throttled: GPU at 95 C",), sources={"server_only": "estimated"})
