"""The manifest: what it says is so, and nothing else is read as one."""

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
from harness.runs.provenance import Manifest, read, to_json


def test_reads_what_it_writes(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    """A manifest survives its file, and says which packages and which commit it ran with."""
    written = manifest()
    (tmp_path / "manifest.json").write_text(to_json(written))
    assert read(tmp_path / "manifest.json") == written
    assert written.schema_version == SCHEMA_VERSION
    assert written.sessions[0].packages["numpy"] == np.__version__
    assert written.label == "stand-ins: StreetsQA for RealWorldQA"
    assert manifest(stand_ins={}).label == ""
    several = manifest(stand_ins={"RealWorldQA": "StreetsQA", "MME": "GlimpseQA", "MMStar": "StreetsQA"})
    assert several.label == "stand-ins: StreetsQA for RealWorldQA, MMStar; GlimpseQA for MME"
    assert manifest(resolved={"benchmark": "StreetsQA, GlimpseQA"}).benchmarks == ("StreetsQA", "GlimpseQA")


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_tells_its_own_checkout_from_another(tmp_path: Path) -> None:
    """The commit and the dirty flag are the checkout's own; inside somebody else's repository they are null."""
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


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON"),
        (b"[1]", "holds a list; a manifest is a JSON object"),
        (b"\xff\xfe", "cannot be read as text"),
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
    """A value of the scenario is found by its path, and a path that is not there names what is."""
    run = manifest()
    assert run.scenario_value("selection", "reference") == "server_only"
    with pytest.raises(ResultsError, match=r"no key 'target' in scenario\.selection; it has: reference"):
        run.scenario_value("selection", "target")
