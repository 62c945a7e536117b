"""The made-up run that the tests of tables and figures have, drawn here."""

import pytest
from made_up_run import make

from harness.runs.store import Record


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A complete, valid run in which one scheme was estimated and one does not reach the target."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    return make(folder, sources={"server_only": "estimated"})
