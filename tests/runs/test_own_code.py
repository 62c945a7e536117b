"""A run depends on all code of one's own: what a scheme's module imports, however indirectly, is digested with it."""

import importlib
import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.runs import own_code
from harness.runs.own_code import of_own_code

FILES = {
    "own_a.py": "import numpy as np\nfrom harness.errors import SchemeError\n\n\ndef late():\n    import own_b.deep\n",
    "own_b/deep.py": "from . import other\nimport own_c, torch, no_such_module\n",
    "own_b/other.py": "import own_a\n",
    "own_c/__init__.py": "",
    "own_c/broken.py": "this is no Python\n",
    "unrelated.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that imports two packages, one of them in a function, each of which imports another."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield tmp_path
    own_code._distributions.cache_clear()


def test_what_a_module_imports_is_digested_with_it(folder: Path) -> None:
    """Each top package or module by its name; not Python's, the harness's, its dependencies', or what is not there."""
    found = of_own_code(["own_a"])
    assert list(found) == ["code of own_a", "code of own_b", "code of own_c"]
    assert of_own_code(["own_b.deep", "own_a"]) == found
    assert of_own_code(["harness.schemes.fake", "baselines.raw_features", "json"]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("own_a.py", ["code of own_a"]),
        ("own_b/other.py", ["code of own_b"]),
        ("own_c/broken.py", ["code of own_c"]),
        ("own_c/new.py", ["code of own_c"]),
        (f"own_c/fast{importlib.machinery.EXTENSION_SUFFIXES[0]}", ["code of own_c"]),
        ("own_c/notes.txt", []),
        ("unrelated.py", []),
    ],
)
def test_a_change_in_any_of_them_is_a_change(folder: Path, file: str, changed: list[str]) -> None:
    """Of a Python file and of what is compiled, and of no other."""
    before = of_own_code(["own_a"])
    path = folder / file
    path.write_text((path.read_text() if path.exists() else "") + "# changed\n")
    after = of_own_code(["own_a"])
    assert [name for name in after if after[name] != before.get(name)] == changed


@pytest.mark.slow
def test_an_installed_package_counts_by_its_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the harness does not depend on; its files are not read."""
    place = folder / "site-packages"
    for version in ("1.0", "1.1"):
        for name, text in {
            "wavelets.py": "import own_c\n",
            "odd_wavelets.dist-info/METADATA": f"Metadata-Version: 2.1\nName: odd-wavelets\nVersion: {version}\n",
            "odd_wavelets.dist-info/top_level.txt": "wavelets\n",
        }.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        monkeypatch.setattr(sys, "path", [str(folder), str(place), *sys.path])
        importlib.invalidate_caches()
        own_code._distributions.cache_clear()
        (folder / "own_a.py").write_text("import pydantic, wavelets\n")
        found = of_own_code(["own_a"])
        assert list(found) == ["code of own_a", "package odd-wavelets"]
        assert found["package odd-wavelets"] == version
