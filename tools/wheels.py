"""Has every package that the project needs a wheel, on each kind of machine and each Python that it is to run on?

    python -m tools.wheels [--extra test] [--pin torch==2.8.0]

Requirements are followed from pyproject.toml down, through the metadata of each wheel. Markers are evaluated for the
target machine: pip takes this machine's, even under ``--platform``. Versions are those of constraints.txt; a package
that it does not have is taken at the newest release that fits. The index is the one that pip is configured to use.

The exit status is 1 if a wheel is missing or versions contradict each other, and 3 if the index cannot be reached.
"""

import argparse
import io
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[1]
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
GLIBC_MINOR = 36
"""Debian 12's: the oldest system of the README. JetPack 7 has a newer one."""

_CUDA = re.compile(r"nvidia-(?!ml-py)|cuda-|triton$")
_JSON = "application/vnd.pypi.simple.v1+json"
_PATIENCE_S = 60.0
_CONNECTIONS = 8


class IndexUnavailableError(Exception):
    """The package index gives no answer, or one that cannot be read."""


@dataclass(frozen=True)
class Target:
    """A kind of machine with a Python, under Linux."""

    machine: str
    python: str

    def __str__(self) -> str:
        return f"{self.machine} {self.python}"

    @property
    def environment(self) -> dict[str, str]:
        """The values of the names in a marker there."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.9",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.9",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    @cached_property
    def tags(self) -> dict[Tag, int]:
        """The wheels that install there, the most specific first."""
        version = tuple(int(part) for part in self.python.split("."))
        old = ["manylinux2010", "manylinux1"] if self.machine == "x86_64" else []
        platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in range(GLIBC_MINOR, 4, -1)]
        platforms += [f"{name}_{self.machine}" for name in ("manylinux2014", *old)]
        interpreter = f"cp{self.python.replace('.', '')}"
        tags = itertools.chain(
            cpython_tags(version, platforms=platforms), compatible_tags(version, interpreter, platforms)
        )
        return {tag: rank for rank, tag in enumerate(tags)}

    def takes(self, wheel: "Wheel") -> bool:
        """Whether a wheel installs there."""
        return not wheel.tags.isdisjoint(self.tags) and SpecifierSet(wheel.python).contains(f"{self.python}.9")

    def rank(self, wheel: "Wheel") -> int:
        """The place of a wheel that installs there among such: the smallest is taken."""
        return min(self.tags[tag] for tag in wheel.tags & self.tags.keys())

    def wants(self, requirement: Requirement, extras: Iterable[str] = ("",)) -> bool:
        """Whether a requirement's marker holds there, for any of the extras."""
        marker = requirement.marker
        return marker is None or any(marker.evaluate({**self.environment, "extra": extra}) for extra in extras)


@dataclass(frozen=True)
class Wheel:
    """A file on the index."""

    name: str
    file: str
    url: str
    n_bytes: int
    python: str

    @cached_property
    def version(self) -> Version:
        """The version in the file's name."""
        return _version(self.file.split("-")[1])

    @cached_property
    def tags(self) -> frozenset[Tag]:
        """The Pythons and machines that it is for."""
        return parse_wheel_filename(self.file)[3]


@cache
def _version(text: str) -> Version:
    return Version(text)


@dataclass
class Index:
    """The package index: which wheels there are, and what each requires."""

    url: str
    _wheels: dict[str, list[Wheel]] = field(default_factory=dict)
    _requires: dict[tuple[str, Version], list[Requirement]] = field(default_factory=dict)

    @classmethod
    def of_pip(cls) -> "Index":
        """The index that pip is configured to use; its help prints the default after configuration and environment."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--help"],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "1000"},
            check=True,
        )
        found = re.search(r"--index-url <url>.*\(default (\S+?)\)", done.stdout)
        if found is None:
            raise IndexUnavailableError("pip does not say which package index it is set to")
        return cls(found[1].rstrip("/"))

    def wheels(self, name: str) -> list[Wheel]:
        """Every wheel of a package that is not withdrawn."""
        if name not in self._wheels:
            self._wheels[name] = list(self._list(name))
        return self._wheels[name]

    def requires(self, wheel: Wheel) -> list[Requirement]:
        """What a wheel requires, read out of the wheel without the rest of it."""
        key = (wheel.name, wheel.version)
        if key not in self._requires:
            source = io.BufferedReader(_Remote(wheel.url, wheel.n_bytes), buffer_size=1 << 16)
            with zipfile.ZipFile(source) as archive:
                inside = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
                self._requires[key] = Metadata.from_email(archive.read(inside), validate=False).requires_dist or []
        return self._requires[key]

    def _list(self, name: str) -> Iterator[Wheel]:
        page = f"{self.url}/{name}/"
        try:
            with _open(page, {"Accept": _JSON}) as answer:
                told: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return
            raise
        except ValueError:
            raise IndexUnavailableError(f"{page} does not answer in JSON") from None
        for file in told["files"]:
            if file["filename"].endswith(".whl") and not file.get("yanked"):
                where = urljoin(page, file["url"])
                yield Wheel(name, file["filename"], where, file.get("size") or 0, file.get("requires-python") or "")


class _Remote(io.RawIOBase):
    """A file on a server, of which only the parts that are read are transferred."""

    def __init__(self, url: str, n_bytes: int) -> None:
        self._url, self._n_bytes, self._at = url, n_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._n_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        last = min(self._at + len(buffer), self._n_bytes) - 1
        if last < self._at:
            return 0
        with _open(self._url, {"Range": f"bytes={self._at}-{last}"}) as answer:
            if answer.status != 206:
                raise IndexUnavailableError(f"{self._url}: the server does not send parts of a file")
            part = answer.read()
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _open(url: str, headers: Mapping[str, str]) -> Any:
    request = urllib.request.Request(url, headers=dict(headers))
    return urllib.request.urlopen(request, timeout=_PATIENCE_S, context=_certificates(os.environ.get("PIP_CERT")))


@cache
def _certificates(file: str | None) -> ssl.SSLContext:
    """The certificates that a server's is checked against; reading them takes as long as many requests to the index."""
    return ssl.create_default_context(cafile=file)


@dataclass
class Outcome:
    """What an installation on a target consists of: a wheel for each package, and what is wrong."""

    target: Target
    wheels: dict[str, Wheel] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """The wheels' size."""
        return sum(wheel.n_bytes for wheel in self.wheels.values())

    @property
    def n_bytes_cuda(self) -> int:
        """The size of the wheels that only CUDA needs."""
        return sum(wheel.n_bytes for name, wheel in self.wheels.items() if _CUDA.match(name))


def resolve(target: Target, roots: Sequence[Requirement], pins: Sequence[Requirement], index: Index) -> Outcome:
    """Follows requirements from ``roots`` down on a target, with the versions of ``pins`` where these have one."""
    outcome = Outcome(target)
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins if target.wants(pin)}
    done: set[tuple[str, str]] = set()
    wanted = [(root, "the project") for root in roots if target.wants(root)]
    while wanted:
        requirement, by = wanted.pop(0)
        name = canonicalize_name(requirement.name)
        if name not in outcome.wheels:
            specifier = requirement.specifier & pinned.get(name, SpecifierSet())
            wheel, problem = _best(target, name, specifier, index)
            if wheel is None:
                problem = f"{name} {specifier} (wanted by {by}): {problem}"
                outcome.problems += [problem] if problem not in outcome.problems else []
                continue
            outcome.wheels[name] = wheel
        wheel = outcome.wheels[name]
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            outcome.problems.append(f"{name} {wheel.version} is taken and {by} wants {requirement.specifier}")
        extras = {"", *requirement.extras}
        for extra in sorted(extra for extra in extras if (name, extra) not in done):
            done.add((name, extra))
            wanted += [(below, name) for below in index.requires(wheel) if target.wants(below, [extra])]
    return outcome


def _best(target: Target, name: str, specifier: SpecifierSet, index: Index) -> tuple[Wheel | None, str]:
    """The newest wheel of the most specific kind that fits, or why there is none."""
    fitting: dict[Version, list[Wheel]] = {}
    for wheel in index.wheels(name):
        fitting.setdefault(wheel.version, []).append(wheel)
    versions = sorted(specifier.filter(fitting), reverse=True)
    for version in versions:
        ranked = [(target.rank(wheel), wheel.file, wheel) for wheel in fitting[version] if target.takes(wheel)]
        if ranked:
            return min(ranked)[2], ""
    return None, f"there are wheels, and none for {target}" if versions else "the index has no wheel of such a version"


def project(extras: Sequence[str], root: Path = ROOT) -> list[Requirement]:
    """What the project requires, and what these extras of it do."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = canonicalize_name(table["name"])
    lines: list[str] = list(table["dependencies"])
    for extra in extras:
        lines += table["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) != own:
            found.append(requirement)
            continue
        # The extra of an extra holds where both markers do.
        for below in project(sorted(requirement.extras), root)[len(table["dependencies"]) :]:
            markers = [f"({marker})" for marker in (requirement.marker, below.marker) if marker]
            bare = re.sub(r"\s*;.*", "", str(below))
            found.append(Requirement(f"{bare}; {' and '.join(markers)}") if markers else below)
    return found


def constraints(path: Path) -> list[Requirement]:
    """The lines of a file of constraints."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def _ask(index: Index, pin: Requirement) -> None:
    fitting = [wheel for wheel in index.wheels(canonicalize_name(pin.name)) if pin.specifier.contains(wheel.version)]
    if fitting:
        index.requires(fitting[0])


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each package and a column for each target, then the sizes."""
    names = sorted({name for outcome in outcomes for name in outcome.wheels})
    lines = ["package".ljust(28) + "".join(str(outcome.target).rjust(14) for outcome in outcomes)]
    for name in names:
        cells = [outcome.wheels.get(name) for outcome in outcomes]
        lines.append(name.ljust(28) + "".join((str(cell.version) if cell else "-").rjust(14) for cell in cells))
    lines.append("MB in all".ljust(28) + "".join(f"{outcome.n_bytes / 1e6:14,.0f}" for outcome in outcomes))
    lines.append(
        "MB for CUDA alone".ljust(28) + "".join(f"{outcome.n_bytes_cuda / 1e6:14,.0f}" for outcome in outcomes)
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, then what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml to follow as well")
    parser.add_argument(
        "--pin", action="append", default=[], type=Requirement, help="a version instead of that in constraints.txt"
    )
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only for this Python")
    parser.add_argument("--machine", action="append", choices=MACHINES, help="only for this kind of machine")
    options = parser.parse_args(arguments)
    replaced = {canonicalize_name(pin.name) for pin in options.pin}
    pins = [pin for pin in constraints(ROOT / "constraints.txt") if canonicalize_name(pin.name) not in replaced]
    pins += options.pin
    targets = [
        Target(machine, python) for machine in options.machine or MACHINES for python in options.python or PYTHONS
    ]
    roots = project(options.extra)
    try:
        index = Index.of_pip()
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            # Many packages are requested at a time; following the requirements then finds the responses cached.
            list(pool.map(partial(_ask, index), pins))
        outcomes = [resolve(target, roots, pins, index) for target in targets]
    except (IndexUnavailableError, OSError, HTTPException, zipfile.BadZipFile) as error:
        print(f"the package index cannot be reached: {error}", file=sys.stderr)
        return 3
    print(table(outcomes))
    problems = [f"{outcome.target}: {problem}" for outcome in outcomes for problem in outcome.problems]
    print("\n".join(problems) or f"every package has a wheel for each of {len(targets)} targets")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
