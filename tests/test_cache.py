"""Where files written at run time go, and that kernels are compiled wherever nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cache import cache_folder

ROOT = Path(__file__).parents[1]

CODE = """
from harness.cache import cache_folder
from harness.kernels import compile_all
from harness.tofc import rans
compile_all()
print(cache_folder())
print(sum(rans._push.stats.cache_hits.values()), sum(rans._push.stats.cache_misses.values()))
"""


def run(package: Path, **variables: str) -> list[str]:
    """Compile and use kernels in a process of its own, of the package in this folder; what it printed."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment = {**inherited, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    environment = {key: value for key, value in environment.items() if value}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_first_folder_that_is_set_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The project's own variable, else XDG's, else the home folder's .cache; the folder is made."""
    own, shared, home = (tmp_path / name for name in ("own", "shared", "home"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    monkeypatch.setenv("TOFC_HARNESS_CACHE", str(own))
    assert cache_folder() == own
    assert own.is_dir()
    monkeypatch.delenv("TOFC_HARNESS_CACHE")
    assert cache_folder() == shared / "tofc-harness"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == home / ".cache" / "tofc-harness"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == home / ".cache" / "tofc-harness"


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nothing", "file/below"])
def test_a_folder_that_cannot_be_written_is_none(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file, a file system that takes none and a path through a file give None, and no other folder is tried."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOFC_HARNESS_CACHE", str(tmp_path / place))
    assert cache_folder() is None
    assert not (tmp_path / "home").exists()


def test_a_second_process_reads_what_the_first_compiled(tmp_path: Path) -> None:
    """Kernels are cached in the folder that is set, not beside the sources, and found there."""
    folder = tmp_path / "cache"
    assert run(ROOT, TOFC_HARNESS_CACHE=str(folder)) == [str(folder), "0", "1"]
    assert list(folder.glob("kernels/tofc-*/**/rans._push-*.nbc"))
    assert run(ROOT, TOFC_HARNESS_CACHE=str(folder)) == [str(folder), "1", "0"]


@pytest.mark.parametrize("home", ["/dev/null", "/proc/nobody"])
def test_kernels_run_without_any_place_to_write(home: str, tmp_path: Path) -> None:
    """From sources that cannot be written beside, and with no usable home folder, kernels are compiled and run."""
    package = tmp_path / "installed"
    shutil.copytree(ROOT / "harness", package / "harness", ignore=shutil.ignore_patterns("__pycache__", "zoo"))
    for folder in (package / "harness").rglob("*"):
        if folder.is_dir():
            # A file where numba would write: root, too, can make no folder of it.
            (folder / "__pycache__").touch()
    assert run(package, HOME=home, TOFC_HARNESS_CACHE="") == ["None", "0", "1"]


def test_a_disk_that_fills_up_costs_the_cache_and_not_the_run(tmp_path: Path) -> None:
    """A kernel whose folder vanishes after it was found is compiled all the same."""
    code = """
import pathlib, shutil
from harness.cache import cache_folder
from harness.tofc import rans
shutil.rmtree(cache_folder() / "kernels")
(cache_folder() / "kernels").touch()
rans.prepare()
print("compiled")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOFC_HARNESS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "compiled\n", done.stderr
