"""``make weights`` with another program in place of Python."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("lambda-0.03", "lambda-0.1")
PYTHON = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/ran"
case "$*" in "-m harness train"*) ;; *) exit 0;; esac
case "$*" in *--fresh*) exit 9;; esac
out=$(echo "$*" | sed 's/.*out=//; s/ .*//')
mkdir -p "$out"
case "$out" in *lambda-0.1) test -f "$out/unfinished" || { touch "$out/unfinished"; exit 1; }; rm "$out/unfinished"
esac
echo new > "$out/codec.safetensors"
echo step > "$out/log.jsonl"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

Make = Callable[[str], int]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a target in a folder with two bundled codecs; returns make's status."""
    for name in NAMES:
        codec = _codec(tmp_path, name)
        codec.parent.mkdir(parents=True)
        codec.write_text("old\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text(PYTHON)
    (programs / "python").chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in (".venv", "baselines", "recipes", "training"):
        (tmp_path / folder).mkdir()
    for needed in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (tmp_path / needed).touch()
    codecs = "CODECS=" + " ".join(f"mini-onevision/{name}" for name in NAMES)

    def run(target: str) -> int:
        command = ["make", "-o", ".venv/installed", target, f"BIN={programs}", codecs]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    return run


def _codec(folder: Path, name: str) -> Path:
    return folder / "harness" / "zoo" / "tofc" / "mini-onevision" / name / "codec.safetensors"


def _codecs(folder: Path) -> list[str]:
    return [_codec(folder, name).read_text().strip() for name in NAMES]


def test_a_bundled_codec_is_replaced_by_a_complete_training_alone(make: Make, tmp_path: Path) -> None:
    """A stopped training does not replace the existing one; the repeated command resumes it."""
    seen = [(make("weights") != 0, _codecs(tmp_path)) for _ in range(2)]
    assert seen == [(True, ["new", "old"]), (False, ["new", "new"])]
    assert not _codec(tmp_path, "lambda-0.1").with_name("log.jsonl").exists()
    assert _codec(tmp_path, "merging").exists()


def test_what_learns_from_a_miniature_comes_after_it(make: Make, tmp_path: Path) -> None:
    """The order in which the commands run; all of them do."""
    while make("weights"):
        pass
    ran = (tmp_path / "bin" / "ran").read_text().splitlines()

    def at(*words: str) -> int:
        return next(index for index, line in enumerate(ran) if all(word in line.split() for word in words))

    onevision, llava15 = at("recipes.mini_onevision"), at("recipes.mini_llava15")
    codecs = at("training/mini_onevision.yaml")
    assert onevision < min(llava15, codecs, at("recipes.mini_nano"), at("recipes.ablations"))
    assert llava15 < at("training/mini_llava15.yaml", "merging")
    assert at("recipes.image_codecs") > at("pip", "download")
    assert not any("--steps" in line or "steps=" in line for line in ran)


def test_a_trial_trains_a_few_steps_of_everything_in_a_copy(make: Make, tmp_path: Path) -> None:
    """The zoo stays as it was; every training is given the few steps."""
    make("weights-trial")
    assert _codecs(tmp_path) == ["old", "old"]
    assert _codecs(tmp_path / "build" / "trial") == ["new", "old"]
    ran = (tmp_path / "bin" / "ran").read_text().splitlines()
    assert all("--steps 2" in line or "--set steps=2" in line for line in ran if "pip download" not in line)
