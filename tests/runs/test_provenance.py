"""The manifest: its statements are checked, and no other file is read as one."""

import base64
import hashlib
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.errors import ResultsError
from harness.records import SCHEMA_VERSION
from harness.runs import provenance
from harness.runs.provenance import Manifest, read, released, to_json


def test_reads_what_it_writes(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """A saved manifest is read back unchanged, with its packages and commit."""
    written = manifest()
    (tmp_path / "manifest.json").write_text(to_json(written))
    assert read(tmp_path / "manifest.json") == written
    assert written.schema_version == SCHEMA_VERSION
    assert written.sessions[0].packages["numpy"] == np.__version__
    assert written.label == "stand-ins: StreetsQA for RealWorldQA"
    assert manifest(stand_ins={}).label == ""
    several = manifest(stand_ins={"RealWorldQA": "StreetsQA", "MME": "GlimpseQA", "MMStar": "StreetsQA"})
    assert several.label == "stand-ins: StreetsQA for RealWorldQA, MMStar; GlimpseQA for MME"
    assert manifest(benchmarks=["StreetsQA", "a, b"]).benchmarks == ("StreetsQA", "a, b")


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_distinguishes_its_own_checkout_from_another(tmp_path: Path) -> None:
    """The commit and the dirty flag are the checkout's own; inside another repository they are null."""
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "a.py").write_text("a = 1\n")
    assert provenance.checkout(tmp_path) == (None, None)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert provenance.checkout(tmp_path) == (commit, False)
    (tmp_path / "results.txt").write_text("not code\n")
    assert provenance.checkout(tmp_path) == (commit, False)
    (tmp_path / "harness" / "a.py").write_text("a = 2\n")
    assert provenance.checkout(tmp_path) == (commit, True)
    assert provenance.uncommitted(tmp_path) == ["harness/a.py"]
    _git(tmp_path, "checkout", "-q", "harness")
    for name in ("README.md", "scenarios/new.yaml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new\n")
    assert provenance.uncommitted(tmp_path) == []
    assert provenance.uncommitted(tmp_path, provenance.REMADE_FROM) == ["constraints.txt", "scenarios/"]
    assert provenance.checkout(tmp_path / "harness") == (None, None), "an installed package in a user's repository"


def test_git_cannot_hang_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that does not answer costs five seconds at most and then counts as absent."""
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "_GIT_PATIENCE_S", 0.2)
    started = time.monotonic()
    assert provenance.checkout(tmp_path) == (None, None)
    assert time.monotonic() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": "seven"}, "seed is 'seven': input should be a valid integer"),
        ({"status": "paused"}, "status is 'paused': input should be 'running' or 'complete'"),
        ({"colour": "blue"}, "unknown key 'colour'"),
        ({"sessions": []}, r"sessions is \[\]"),
        ({"schema_version": "1"}, "schema_version is '1'"),
        ({"schema_version": SCHEMA_VERSION + 1}, "run the scenario again"),
        ({"status": "complete"}, "'validity' and 'finished_utc' are null in a running run"),
        (
            {"status": "complete", "validity": "INVALID", "finished_utc": "2026-01-01T00:00:00+00:00"},
            "an INVALID run has 'reasons'",
        ),
    ],
)
def test_refuses_a_manifest_that_is_not_one(
    tmp_path: Path, manifest: Callable[..., Manifest], change: dict[str, object], sentence: str
) -> None:
    """A wrong value, an unknown key, and states that contradict each other are named with the file."""
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(to_json(manifest())), **change}))
    with pytest.raises(ResultsError, match=sentence) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path))


def test_an_edited_manifest_is_found(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """Whatever value is changed by hand, deep inside or at the top, the seal no longer fits; space is no content."""
    path, data = tmp_path / "manifest.json", json.loads(to_json(manifest()))
    path.write_text(json.dumps(data))
    assert read(path) == manifest().model_copy(update={"sessions": read(path).sessions})
    scenario = {**data["scenario"], "title": "Another"}
    for change in (
        {"seed": data["seed"] + 1},
        {"scenario": scenario},
        {"points": {"webp": {}, "jpeg": {"quality=10": {"quality": 11}}}},
        {"sessions": [{**data["sessions"][0], "machine": {"id": "0", "name": "a faster one"}}]},
        {"seal": "0" * 16},
        {"seal": None},
    ):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(ResultsError, match="was edited after the run wrote it") as refusal:
            read(path)
        assert str(refusal.value).startswith(str(path))


@pytest.mark.slow
def test_says_what_changed(manifest: Callable[..., Manifest]) -> None:
    """Every difference of two manifests that decides a number is named; another machine is not one."""
    old = manifest()
    assert provenance.changes(old, manifest(machine={"id": "1", "name": "another"}, command=["x"])) == []
    digests = {"benchmark StreetsQA": "0123456789abcdef", "codec": "0000000000000000", "trace": "1111111111111111"}
    assert provenance.changes(old, manifest(scenario_hash="x", digests=digests)) == ["the scenario", "codec", "trace"]
    session = old.sessions[0]
    packages = {**session.packages, "numpy": "0.1"}
    other = session.model_copy(update={"code": "0" * 16, "packages": packages})
    found = provenance.changes(old, old.model_copy(update={"sessions": (other,)}))
    assert found == ["the harness's own code", f"numpy ({session.packages['numpy']} before, 0.1 now)"]
    (what,) = provenance.changes(old, manifest(benchmarks=["MME"]))
    assert what == "what runs (StreetsQA, mini-onevision before, MME, mini-onevision now)"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON"),
        (b"[1]", "holds a list; a manifest is a JSON object"),
        (b"\xff\xfe", "is not text"),
        (b"{}", "the key 'schema_version' is missing"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes, sentence: str) -> None:
    """A file that is no manifest at all is refused in one sentence."""
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ResultsError, match=sentence):
        read(tmp_path / "manifest.json")


def test_says_which_scenario_key_is_missing(manifest: Callable[..., Manifest]) -> None:
    """A value of the scenario is found by its path; for an absent path the error names the present keys."""
    run = manifest()
    assert run.scenario_value("selection", "reference") == "server_only"
    with pytest.raises(ResultsError, match=r"no key 'target' in scenario\.selection; it has: reference"):
        run.scenario_value("selection", "target")


def test_an_installed_release_is_known_by_the_digests_that_it_was_built_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All Python files are as they were built: an edited or new one makes it no release."""
    code = tmp_path / "harness" / "study.py"
    code.parent.mkdir()
    code.write_text("answer = 42\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(code.read_bytes()).digest()).rstrip(b"=").decode()
    info = tmp_path / "tofc_harness-0.1.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(f"harness/study.py,sha256={digest},12\n{info.name}/RECORD,,\n")
    found = importlib.metadata.PathDistribution(info)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: found)
    assert released(tmp_path)
    code.write_text("answer = 43\n")
    assert not released(tmp_path)
    code.write_text("answer = 42\n")
    (tmp_path / "harness" / "new.py").write_text("")
    assert not released(tmp_path)
