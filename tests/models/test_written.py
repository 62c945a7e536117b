"""Where files of tensors and folders with one are written: in one step, and in place of nothing else."""

import errno
import os
import threading
from pathlib import Path

import pytest

from harness.models import files


def _folder_with(file: Path, text: str = "") -> None:
    file.parent.mkdir()
    file.write_text(text)


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


def test_a_folder_is_there_at_every_moment(tmp_path: Path) -> None:
    """Whoever is killed while one replaces another has the old or the new one: a reader always finds one of them."""
    path = tmp_path / "state"
    _folder_with(path / "number", "0")
    found, ended = set[str](), threading.Event()

    def read() -> None:
        while not ended.is_set():
            found.add("there" if path.is_dir() else "absent")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 300):
            with files.written(path) as unfinished:
                _folder_with(unfinished / "number", str(number))
    finally:
        ended.set()
        reader.join()
    assert found == {"there"}
    assert (path / "number").read_text() == "299"


def test_a_folder_that_cannot_be_replaced_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two folders do not change places in one step, the first of two steps is taken back."""
    path = tmp_path / "state"
    _folder_with(path / "old")
    replace = Path.replace

    def refusing(self: Path, target: Path) -> Path:
        if target == path and (self / "new").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(self, target)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "replace", refusing)
    with pytest.raises(OSError, match="Input/output error"), files.written(path) as unfinished:
        _folder_with(unfinished / "new")
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("in_one_step", [True, False])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_replaces_a_folder_and_a_link_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool, in_one_step: bool
) -> None:
    """What a link points to stays."""
    if not in_one_step:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
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
