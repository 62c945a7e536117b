"""The wheels' table, over a package index of the test's own on this machine."""

import io
import json
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tools import wheels
from tools.wheels import Index, Target, project, resolve

ARM, INTEL = Target("aarch64", "3.11"), Target("x86_64", "3.13")


class Files:
    """The wheels on an index: packages' pages in JSON, and parts of files."""

    def __init__(self) -> None:
        self.pages: dict[str, list[dict[str, Any]]] = {}
        self.wheels: dict[str, bytes] = {}
        self.n_sent = 0

    def add(self, name: str, version: str, tag: str, *requires: str, padding: int = 0, **facts: str) -> None:
        """Another wheel, with its metadata and as many bytes of a library."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(f"{name}/library.so", bytes(padding))
            metadata = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
            archive.writestr(
                f"{name}-{version}.dist-info/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
            )
        file = f"{name}-{version}-{tag}.whl"
        self.wheels[file] = content.getvalue()
        self.pages.setdefault(name.replace("_", "-"), []).append(
            {
                "filename": file,
                "url": f"../../files/{file}",
                "size": len(self.wheels[file]),
                **{fact.replace("_", "-"): told for fact, told in facts.items()},
            }
        )


@pytest.fixture
def files() -> Files:
    """An empty index."""
    return Files()


@pytest.fixture
def index(files: Files) -> Iterator[Index]:
    """The index behind a server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, name = self.path.strip("/").split("/")[:2]
            if kind == "files":
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                self.answer(206, files.wheels[name][int(first) : int(last) + 1])
            elif name in files.pages:
                self.answer(200, json.dumps({"files": files.pages[name]}).encode())
            else:
                self.answer(404, b"")

        def answer(self, status: int, content: bytes) -> None:
            files.n_sent += len(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Index(f"http://127.0.0.1:{server.server_port}/simple")
        server.shutdown()


def resolved(index: Index, target: Target, root: str, *pins: str) -> tuple[dict[str, str], list[str]]:
    """The chosen versions, and what is wrong."""
    outcome = resolve(target, [Requirement(root)], [Requirement(pin) for pin in pins], index)
    return {name: str(wheel.version) for name, wheel in outcome.wheels.items()}, outcome.problems


def test_markers_are_the_targets(files: Files, index: Index) -> None:
    """A requirement for another machine or another Python than the target's is not followed, wherever this runs."""
    files.add(
        "one", "1.0", "py3-none-any", 'for_arm; platform_machine == "aarch64"', 'for_new; python_version > "3.12"'
    )
    files.add("for_arm", "2.0", "py3-none-any")
    files.add("for_new", "3.0", "py3-none-any")
    assert resolved(index, ARM, "one") == ({"one": "1.0", "for-arm": "2.0"}, [])
    assert resolved(index, INTEL, "one") == ({"one": "1.0", "for-new": "3.0"}, [])


def test_extras_are_followed_and_others_are_not(files: Files, index: Index) -> None:
    """What a package requires for an extra counts if that extra is requested."""
    files.add("one", "1.0", "py3-none-any", 'more; extra == "all"', 'never; extra == "docs"')
    files.add("more", "1.0", "py3-none-any")
    files.add("two", "1.0", "py3-none-any", "one", "one[all]")
    assert resolved(index, ARM, "one")[0] == {"one": "1.0"}
    assert resolved(index, ARM, "two") == ({"two": "1.0", "one": "1.0", "more": "1.0"}, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "arm", "intel"),
    [
        ("py3-none-any", True, True),
        ("cp311-cp311-manylinux_2_28_aarch64", True, False),
        ("cp313-cp313-manylinux_2_28_x86_64.manylinux2014_x86_64", False, True),
        ("cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64", False, True),
        ("cp311-cp311-manylinux_2_39_aarch64", False, False),
        ("cp313-cp313t-manylinux_2_28_x86_64", False, False),
        ("cp311-cp311-macosx_11_0_arm64", False, False),
    ],
)
def test_a_wheel_is_one_that_the_target_installs(files: Files, index: Index, tag: str, arm: bool, intel: bool) -> None:
    """By Python, ABI, architecture and C library."""
    files.add("one", "1.0", tag)
    for target, installs in ((ARM, arm), (INTEL, intel)):
        taken, problems = resolved(index, target, "one")
        assert bool(taken) == installs
        assert problems == (
            [] if installs else [f"one  (wanted by the project): there are wheels, and none for {target}"]
        )


def test_the_pinned_version_is_used_and_must_satisfy_all_requirements(files: Files, index: Index) -> None:
    """A pin that a package's requirement forbids is a contradiction, named with both sides."""
    for version in ("1.0", "2.0", "3.0rc1"):
        files.add("base", version, "py3-none-any")
    files.add("one", "1.0", "py3-none-any", "base", "other")
    files.add("other", "1.0", "py3-none-any", "base<2")
    assert resolved(index, ARM, "one", "base==1.0") == ({"one": "1.0", "base": "1.0", "other": "1.0"}, [])
    assert resolved(index, ARM, "one")[1] == ["base 2.0 is taken and other wants <2"]
    assert resolved(index, ARM, "one", 'base==1.0; python_version < "3.12"')[0]["base"] == "1.0"
    assert resolved(index, INTEL, "one", 'base==1.0; python_version < "3.12"')[0]["base"] == "2.0"


def test_withdrawn_wheels_and_those_for_other_pythons_do_not_count(files: Files, index: Index) -> None:
    """An older release is taken instead; a source release is no wheel."""
    files.add("one", "1.0", "py3-none-any")
    files.add("one", "2.0", "py3-none-any", requires_python=">=3.12")
    files.add("one", "3.0", "py3-none-any", yanked="broken")
    files.pages["one"].append({"filename": "one-4.0.tar.gz", "url": "../../files/one-4.0.tar.gz"})
    assert resolved(index, ARM, "one")[0] == {"one": "1.0"}
    assert resolved(index, INTEL, "one")[0] == {"one": "2.0"}


def test_of_a_large_wheel_only_the_metadata_is_transferred(files: Files, index: Index) -> None:
    """Torch's has half a gigabyte."""
    files.add("one", "1.0", "py3-none-any", "two", padding=10_000_000)
    files.add("two", "1.0", "py3-none-any")
    assert resolved(index, ARM, "one")[0] == {"one": "1.0", "two": "1.0"}
    assert files.n_sent < 300_000


@pytest.mark.slow
def test_the_command_says_what_is_missing(
    files: Files, index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 and a line for each target that lacks a wheel; 0 if there is one; 3 without an index."""
    monkeypatch.setattr(wheels, "project", lambda _: [Requirement("one>=1")])
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    files.add("one", "1.0", "cp312-cp312-manylinux_2_28_x86_64")
    assert wheels.main(["--python", "3.12"]) == 1
    assert "aarch64 3.12: one >=1 (wanted by the project): there are wheels, and none for" in capsys.readouterr().out
    files.add("one", "1.0", "cp312-cp312-manylinux_2_28_aarch64", padding=2_000_000)
    assert wheels.main(["--python", "3.12"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "one                                    1.0           1.0",
        "MB in all                                0             2",
    ]
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert wheels.main([]) == 3
    assert "the package index cannot be reached" in capsys.readouterr().err


@pytest.mark.slow
def test_an_extra_of_the_project_brings_the_extras_that_it_names() -> None:
    """[test] has [compressai] where that has wheels: the markers of both must hold."""
    found = project(["test"])
    required = {requirement.name for requirement in project([])}
    assert required < {requirement.name for requirement in found}
    (compressai,) = (requirement for requirement in found if requirement.name == "compressai")
    assert Target("x86_64", "3.12").wants(compressai)
    assert not Target("x86_64", "3.13").wants(compressai)
    assert not Target("aarch64", "3.12").wants(compressai)
    assert {"compressai", "constriction"}.isdisjoint(required)


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    """The package's classifiers are those that have wheels, and CI runs the oldest and the newest of them."""
    classifiers = tomllib.loads((wheels.ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    stem = "Programming Language :: Python :: "
    assert [line.removeprefix(stem) for line in classifiers if line.startswith(stem)] == list(wheels.PYTHONS)
    workflow = yaml.safe_load((wheels.ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["ci"]["strategy"]["matrix"]
    run = {*matrix["python"], *(job["python"] for job in matrix["include"])}
    assert {wheels.PYTHONS[0], wheels.PYTHONS[-1]} <= run <= set(wheels.PYTHONS)
