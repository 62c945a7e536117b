"""Fixtures that all tests share."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from harness.analysis import Analysis
from harness.runs import provenance
from harness.runs.provenance import Manifest, begin
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.scenario.model import Scenario
from tests.made_once import made_once
from tests.made_up_run import make
from tests.silent import Silent
from tests.study_rows import Work, units

# A deadline would measure the machine's load; speed is measured by the benchmarks.
hypothesis.settings.register_profile("harness", deadline=None)
hypothesis.settings.load_profile("harness")


def pytest_collection_finish() -> None:
    """Leaves what is imported and collected out of later garbage collections, of which trainings ask for many."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def harness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in an empty folder, as the console script would: its status, its output, its errors."""
    from harness.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as left:
            status = int(left.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def checked_out() -> tuple[str | None, bool | None]:
    """The commit of this checkout and whether it is dirty, read once: that takes two processes of git."""
    return provenance.checkout(Path(__file__).parents[1])


@pytest.fixture
def manifest(checked_out: tuple[str | None, bool | None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Manifest]:
    """A manifest of a run that begins now, with anything in it changed by keyword."""
    monkeypatch.setattr(provenance, "checkout", lambda _: checked_out)

    def make(**changes: object) -> Manifest:
        facts: dict[str, object] = {
            "name": "tonight",
            "scenario": {"name": "study", "title": "A study", "selection": {"reference": "server_only"}},
            "scenario_hash": "abc123",
            "benchmarks": ["StreetsQA"],
            "backbone": "mini-onevision",
            "points": {name: {"quality=10": {"quality": 10}} for name in ("webp", "jpeg")},
            "digests": {"benchmark StreetsQA": "0123456789abcdef", "codec": "fedcba9876543210"},
            "stand_ins": {"RealWorldQA": "StreetsQA"},
            "seed": 7,
            "command": ["harness", "run", "scenario.yaml"],
            "machine": {"id": "01234567", "name": "a processor, 2 cores", "cores": 2},
        }
        return begin(**{**facts, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def study_units() -> list[Work]:
    """The units as a list."""
    return list(units())


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A complete run with an estimated scheme, one that misses the target, and a reason of the telemetry's."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    return Analysis(make(folder, reasons=("throttled: GPU at 95 C",), sources={"server_only": "estimated"}))


@pytest.fixture(scope="session")
def smoke_scenario() -> Scenario:
    """The smoke scenario on the first 16 questions, with a few timed requests."""
    smoke = load(Path(__file__).parents[1] / "scenarios" / "smoke.yaml")
    few = smoke.measure.model_copy(update={"timed_samples": 2})
    return smoke.model_copy(update={"samples": 16, "measure": few})


@pytest.fixture(scope="session")
def smoke(smoke_scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """One uninterrupted run of it: real models, real bytes; one for all workers of the test runner."""
    from harness.study import run

    base = tmp_path_factory.getbasetemp()
    return Run.read(made_once(base, "smoke", lambda folder: run(smoke_scenario, folder, reporter=Silent())))


@pytest.fixture(scope="session")
def compressai() -> ModuleType:
    """The peer of hyperprior, ELIC and the density of z, where it is installed."""
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision

    return pytest.importorskip("compressai", reason="the extra [compressai] is not installed")
