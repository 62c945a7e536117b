"""``make weights`` with another program in place of ``harness``."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARNESS = """#!/bin/sh
case "$*" in *--fresh*) exit 9;; esac
out=$(echo "$*" | sed 's/.*out=//')
mkdir -p "$out"
case "$out" in *lambda-0.1) test -f "$out/unfinished" || { touch "$out/unfinished"; exit 1; }; rm "$out/unfinished"
esac
echo new > "$out/codec.safetensors"
echo step > "$out/log.jsonl"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_bundled_codec_is_replaced_by_a_complete_training_alone(tmp_path: Path) -> None:
    """A stopped training does not replace the existing one; the repeated command resumes it."""
    zoo = tmp_path / "harness" / "zoo" / "tofc" / "mini-onevision"
    names = ("lambda-0.03", "lambda-0.1")
    for name in names:
        (zoo / name).mkdir(parents=True)
        (zoo / name / "codec.safetensors").write_text("old\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("harness", HARNESS), ("python", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    for needed in ("pyproject.toml", "constraints.txt", ".venv/installed"):
        (tmp_path / needed).touch()
    command = ["make", "-o", ".venv/installed", "weights", f"BIN={programs}"]
    command.append("CODECS=" + " ".join(f"mini-onevision/{name}" for name in names))
    seen = []
    for _ in range(2):
        status = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode
        seen.append((status != 0, [(zoo / name / "codec.safetensors").read_text().strip() for name in names]))
    assert seen == [(True, ["new", "old"]), (False, ["new", "new"])]
    assert not (zoo / "lambda-0.1" / "log.jsonl").exists()
    assert (zoo / "merging" / "codec.safetensors").exists()
