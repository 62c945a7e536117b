"""The folder of files written at run time, and kernels that are compiled where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cache import cache_folder

ROOT = Path(__file__).parents[1]

KERNEL = """
from harness.kernels import kernel

@kernel
def triple(n):
    return 3 * n
"""
"""A kernel like all others that compiles quickly."""

CODE = """
from harness.cache import cache_folder
from harness.tofc import rans
from made.small import triple
assert triple(14) == 42
print(cache_folder())
print(sum(triple.stats.cache_hits.values()), sum(triple.stats.cache_misses.values()))
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder of a package of one kernel."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "small.py").write_text(KERNEL)
    return tmp_path


def run(code: str, *packages: Path, **variables: str) -> list[str]:
    """The output of some code in its own process, with the packages in these folders."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    places = {"PYTHONPATH": os.pathsep.join(map(str, packages)), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {key: value for key, value in {**inherited, **places, **variables}.items() if value}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_first_folder_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_second_process_reads_what_the_first_compiled(made: Path) -> None:
    """Kernels are cached in the folder that is set, not beside the sources, and found there."""
    folder = made / "cache"
    assert run(CODE, ROOT, made, TOFC_HARNESS_CACHE=str(folder)) == [str(folder), "0", "1"]
    assert list(folder.glob("kernels/made-*/**/small.triple-*.nbc"))
    assert run(CODE, ROOT, made, TOFC_HARNESS_CACHE=str(folder)) == [str(folder), "1", "0"]
    assert [path.name for path in (made / "made").iterdir()] == ["small.py"]


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/dev/null", "/proc/nobody"])
def test_kernels_run_without_a_writable_folder(home: str, made: Path) -> None:
    """From sources that cannot be written beside, and with no usable home folder, kernels are compiled and run."""
    shutil.copytree(ROOT / "harness", made / "harness", ignore=shutil.ignore_patterns("__pycache__", "zoo"))
    for folder in (made / "harness", made / "made"):
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            # A file where numba would write: even root cannot make a folder there.
            (place / "__pycache__").touch()
    assert run(CODE, made, HOME=home, TOFC_HARNESS_CACHE="") == ["None", "0", "1"]


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_cache_and_not_the_run(made: Path) -> None:
    """A kernel whose folder disappears after it was found is still compiled."""
    code = """
import shutil
from harness.cache import cache_folder
from made.small import triple
shutil.rmtree(cache_folder() / "kernels")
(cache_folder() / "kernels").touch()
print(triple(14))
"""
    assert run(code, ROOT, made, TOFC_HARNESS_CACHE=str(made / "cache")) == ["42"]
