"""What the tests of results share."""

from collections.abc import Callable

import pytest
from made_up_run import make
from study_rows import Unit, units

from harness.results.provenance import Manifest, begin
from harness.results.store import Record


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """A manifest of a run that begins now, with anything in it changed by keyword."""

    def make(**changes: object) -> Manifest:
        facts: dict[str, object] = {
            "name": "tonight",
            "scenario": {"title": "A study", "selection": {"reference": "server_only"}},
            "scenario_hash": "abc123",
            "resolved": {"benchmark": "StreetsQA", "backbone": "mini-onevision"},
            "stand_ins": {"RealWorldQA": "StreetsQA"},
            "seed": 7,
            "command": ["harness", "run", "scenario.yaml"],
            "machine": {"id": "01234567", "name": "a processor, 2 cores", "cores": 2},
        }
        return begin(**{**facts, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def study_units() -> list[Unit]:
    """The units as a list."""
    return list(units())


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A complete run with an estimated scheme, one that does not reach, and a reason of the telemetry's against it."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    return make(folder, reasons=("throttled: GPU at 95 C",), sources={"server_only": "estimated"})
