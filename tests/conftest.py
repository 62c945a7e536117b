"""What every test shares."""

import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# A deadline measures the machine's load; speed is the benchmarks' business.
hypothesis.settings.register_profile("harness", deadline=None)
hypothesis.settings.load_profile("harness")


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
