"""Where files of tensors and folders with one are written: in one step, and in place of nothing else."""

import os
from pathlib import Path

import pytest

from harness.models import files


def test_a_file_replaces_no_folder(tmp_path: Path) -> None:
    """What is in the folder is the user's."""
    path = tmp_path / "codec.safetensors"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with (
        pytest.raises(OSError, match="Is a directory; a file is expected") as raised,
        files.written(path) as unfinished,
    ):
        unfinished.write_text("new")
    assert raised.value.filename == str(path)
    assert (path / "mine.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_replaces_a_folder_and_a_link_to_one(tmp_path: Path, is_link: bool) -> None:
    """What a link points to stays."""
    path, real = tmp_path / "out" / "adapter", tmp_path / ("real" if is_link else "out/adapter")
    real.mkdir(parents=True)
    (real / "old").write_text("old")
    if is_link:
        path.parent.mkdir()
        path.symlink_to(real)
    with files.written(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "new").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]
    assert (real / "old").exists() == is_link


def test_two_writers_of_one_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes in two containers that share a folder may have one number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "features.safetensors"
    with files.written(path) as first:
        first.write_text("first")
        with files.written(path) as second:
            second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
