"""The digests of a user's own code: the modules that a scenario names, and those of one's own that they import.

Imports are read from the source, also those inside functions, which are carried out later. Of an installed package that
is none of the harness's dependencies, the version counts. A module that is imported by a computed name is not found,
nor is a file that the code opens: a scheme's ``files`` names these.
"""

import ast
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness.files import Stamp, stamp
from harness.runs.digests import of_data, of_file, of_files

_OURS = ("harness", "baselines")
_DISTRIBUTION = "tofc-harness"
_INSTALLED = {"site-packages", "dist-packages"}
_SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
_PYTHON = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}


def of_own_code(modules: Iterable[str]) -> dict[str, str]:
    """The digest of each of these modules, or of the package that it is in, and of all of one's own that they import.

    By names for people; none for the harness's modules, which have a digest of their own, and for Python's. Raises
    ResultsError for a file that cannot be read.
    """
    found: dict[str, str] = {}
    for top, sources in _reached(modules):
        if sources is None:
            found |= {f"package {name}": version for name, version in _versions(top).items()}
        elif of_places := [_digest(place, paths) for place, paths in sources.items() if paths]:
            found[f"code of {top}"] = of_places[0] if len(of_places) == 1 else of_data(of_places)
    return dict(sorted(found.items()))


def own_files(modules: Iterable[str]) -> dict[str, Path]:
    """The files behind :func:`of_own_code`, by their paths from a folder in which Python would find the modules.

    Those of installed packages are left out.
    """
    found: dict[str, Path] = {}
    for _, sources in _reached(modules):
        for place, paths in (sources or {}).items():
            if not _is_installed(place):
                found |= {path.relative_to(place.parent).as_posix(): path for path in paths}
    return found


def _reached(modules: Iterable[str]) -> Iterator[tuple[str, dict[Path, list[Path]] | None]]:
    """The first name of each module that is reached, with its files by where it is; None for what is only imported.

    That is an installed package. Python's modules and the harness's are left out.
    """
    waiting = [module.partition(".")[0] for module in modules]
    named, seen = set(waiting), set(_OURS)
    while waiting:
        if (top := waiting.pop()) in seen:
            continue
        seen.add(top)
        places = _places(top)
        if top in sys.stdlib_module_names and all(map(_is_pythons, places)):
            continue
        if top not in named and any(map(_is_installed, places)):
            yield top, None
            # A namespace may have a part of one's own too.
            places = [place for place in places if not _is_installed(place)]
        sources = {place: _sources(place) for place in places}
        yield top, sources
        waiting += [name for paths in sources.values() for path in paths for name in _imports(path)]


def _is_installed(place: Path) -> bool:
    return not _INSTALLED.isdisjoint(place.parts)


def _is_pythons(place: Path) -> bool:
    """Whether it is a module of the standard library; one's own may have the name of one."""
    return not _PYTHON.isdisjoint(place.resolve().parents)


def _places(top: str) -> list[Path]:
    """The file of a module, or the folders of a package; of either in an archive that, none where there is no file."""
    module = sys.modules.get(top)
    try:
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations is not None:
        return [_in_files(Path(place)) for place in spec.submodule_search_locations]
    file = getattr(module, "__file__", None) or (spec.origin if spec is not None and spec.has_location else None)
    return [] if file is None else [_in_files(Path(file))]


def _in_files(place: Path) -> Path:
    """A file or folder, or the archive that it is in."""
    return next((path for path in (place, *place.parents) if path.is_file()), place)


def _sources(place: Path) -> list[Path]:
    """The Python files of a module or a package, and what is compiled: what can be imported, also by way of links."""
    if place.is_file():
        return [place]
    found = []
    around = {place: _with_parents(place)}
    for folder, folders, names in os.walk(place, followlinks=True):
        inside = Path(folder)
        above = around.pop(inside)
        # What can be imported by its name (not .venv). A link to a folder above it would be followed for ever.
        named = [name for name in folders if name.isidentifier() and name != "__pycache__"]
        real = {name: (inside / name).resolve() for name in named}
        folders[:] = [name for name in named if real[name] not in above]
        around |= {inside / name: above | _with_parents(real[name]) for name in folders}
        paths = [inside / name for name in names if name.endswith(_SUFFIXES)]
        # Python reads one without its source; those in __pycache__ are made of sources.
        bare = (inside / name for name in names if name.endswith(".pyc") and name[:-1] not in names)
        found += [path for path in (*paths, *bare) if path.is_file()]
    return sorted(found)


def _with_parents(folder: Path) -> frozenset[Path]:
    """Where a folder really is, and every folder above that."""
    real = folder.resolve()
    return frozenset((real, *real.parents))


def _digest(place: Path, paths: Iterable[Path]) -> str:
    return of_file(place) if place.is_file() else of_files(place, paths)


def _imports(path: Path) -> Iterator[str]:
    """The first names of all modules that a file imports, but for those of its own package."""
    if path.suffix == ".py":
        yield from _parsed(path, stamp(path))


@functools.lru_cache(maxsize=4096)
def _parsed(path: Path, facts: Stamp) -> tuple[str, ...]:  # noqa: ARG001 - they say when to parse again
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # It is not imported either.
        return ()
    found: dict[str, None] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0]: None for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found[node.module.partition(".")[0]] = None
    return tuple(found)


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All statements in a body, also in those of functions and branches. Expressions, most of a tree, hold none."""
    for node in body:
        yield node
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            yield from _statements(getattr(node, part, ()))


def _versions(top: str) -> Mapping[str, str]:
    """The versions of the distributions that have a module, but for those that the harness depends on."""
    named = {name for name in _distributions().get(top, ()) if _plain(name) not in _needed()}
    return {name: importlib.metadata.version(name) for name in sorted(named)}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _needed() -> frozenset[str]:
    """The distributions that the harness, or one of its extras, requires: the manifest has what matters of these."""
    try:
        required = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    return frozenset(_plain(found[0]) for line in required if (found := re.match(r"[\w.-]+", line)))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
