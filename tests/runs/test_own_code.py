"""A run depends on all code of one's own: what a scheme's module imports, however indirectly, is digested with it."""

import importlib
import importlib.machinery
import py_compile
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.runs import own_code
from harness.runs.own_code import of_own_code, own_files

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


def _compiled(path: Path, text: str) -> None:
    """A module without its source."""
    path.with_suffix(".py").write_text(text)
    py_compile.compile(str(path.with_suffix(".py")), cfile=str(path), doraise=True)
    path.with_suffix(".py").unlink()


def _archive(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("own_zipped.py", text)


def test_whatever_can_be_imported_is_digested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a link, without a source, in an archive, or by the name of one of Python's modules; and nothing else."""
    (folder / "elsewhere").mkdir()
    (folder / "own_c" / "linked").symlink_to(folder / "elsewhere")
    (folder / "own_c" / "around").symlink_to(folder / "own_c")
    for name in (".venv", "__pycache__"):
        (folder / "own_c" / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(folder / "own.zip"), *sys.path])
    (folder / "own_a.py").write_text("import own_c, own_zipped, this\n")

    def found(text: str) -> dict[str, str]:
        (folder / "elsewhere" / "deep.py").write_text(text)
        (folder / "this.py").write_text(text)
        _compiled(folder / "own_c" / "bare.pyc", text)
        _archive(folder / "own.zip", text)
        (folder / "own_c" / ".venv" / "other.py").write_text(text)
        (folder / "own_c" / "__pycache__" / "cached.pyc").write_text(text)
        importlib.invalidate_caches()
        return of_own_code(["own_a"])

    first = found("A = 1\n")
    assert list(first) == ["code of own_a", "code of own_c", "code of own_zipped", "code of this"]
    assert [name for name, digest in found("A = 2\n").items() if digest != first[name]] == list(first)[1:]
    assert {name for name in own_files(["own_a"]) if name.startswith("own_c/")} == {
        "own_c/__init__.py", "own_c/bare.pyc", "own_c/broken.py", "own_c/linked/deep.py",
    }  # fmt: skip


def test_links_that_lead_to_each_other_end(folder: Path) -> None:
    """Each folder is read once on a way; a walk that goes round as long as names allow would take years."""
    for name, other in (("left", "right"), ("right", "left")):
        (folder / "own_c" / name).mkdir()
        (folder / "own_c" / name / "deep.py").write_text("A = 1\n")
        for link in ("over", "again"):
            (folder / "own_c" / name / link).symlink_to(folder / "own_c" / other)
    (folder / "own_a.py").write_text("import own_c\n")
    found = [name for name in own_files(["own_a"]) if name.endswith("deep.py")]
    assert sorted(found) == [
        f"own_c/{name}/{link}deep.py" for name in ("left", "right") for link in ("again/", "", "over/")
    ]  # fmt: skip


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
