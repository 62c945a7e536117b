"""The installed files: every file that the packages read, and nothing else of the tree."""

from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[1]
READ = {".safetensors", ".json", ".md", ".yaml", ".html", ".js", ".typed"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The data files of a wheel, by their paths in the tree."""
    monkeypatch.chdir(ROOT)
    distribution = setuptools.Distribution({"script_name": "pyproject.toml"})
    distribution.parse_config_files()
    command = distribution.get_command_obj("build_py")
    command.finalize_options()
    return {(Path(folder) / name).as_posix() for _, folder, _, names in command.data_files for name in names}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_file_that_a_package_reads_is_installed(installed: set[str]) -> None:
    """Weights and cards in folders with a dot in their names, too."""
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("harness", "baselines")
        for path in (ROOT / package).rglob("*")
        if path.suffix in READ
    }
    assert any("/lambda-0.1/" in name for name in there)
    assert there - installed == set()
    assert not any(name.startswith(("tests/", "recipes/", "benchmarks/", "tools/")) for name in installed)
