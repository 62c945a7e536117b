"""Files: written whole or not at all, and never read without end."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from baselines.networks import convert, weights
from harness import files
from harness.data import benchmarks, download, tsv
from harness.errors import HarnessError
from harness.models import files as checkpoints
from harness.runs import digests, tables
from harness.scenario import source
from harness.training import conversations


def _fails(file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_written_to_its_end_leaves_the_one_before(tmp_path: Path) -> None:
    """The old content remains, and no unfinished file is beside it."""
    path = tmp_path / "rows.csv"
    files.write_whole(path, lambda file: file.write(b"old"))
    with pytest.raises(OSError, match="No space"):
        files.write_whole(path, _fails)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]


def test_of_several_files_none_is_there_when_one_fails(tmp_path: Path) -> None:
    """The first, which could be written, does not get its name."""
    with pytest.raises(OSError, match="No space"):
        files.write_all_whole({tmp_path / "a": lambda file: file.write(b"a"), tmp_path / "b": _fails})
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_that_a_file_system_has_is_written(tmp_path: Path) -> None:
    """255 bytes of name leave no room for the prefix of an unfinished file."""
    path = tmp_path / ("n" * 255)
    files.check_writable(path)
    files.write_whole(path, lambda file: file.write(b"1"))
    assert path.read_bytes() == b"1"


def test_checking_whether_a_file_can_be_written_leaves_no_trace(tmp_path: Path) -> None:
    """No folder is made, an old file stays; a name in no folder, below a file, or a folder's own, is refused."""
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*new; make it first"):
        files.check_writable(tmp_path / "new" / "rows.csv")
    files.check_writable(tmp_path / "rows.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"old")
    files.check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(NotADirectoryError):
        files.check_writable(tmp_path / "file" / "rows.csv")
    with pytest.raises(IsADirectoryError):
        files.check_writable(tmp_path)


def test_checking_whether_a_folder_can_be_written_makes_none(tmp_path: Path) -> None:
    """It may be absent, with those that it is in; a file on its way is refused."""
    for folder in (tmp_path, tmp_path / "new", tmp_path / "new" / "newer"):
        files.check_folder(folder)
    files.check_folder(Path("new/newer"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"old")
    for folder in (tmp_path / "file", tmp_path / "file" / "new" / "newer"):
        with pytest.raises(NotADirectoryError) as caught:
            files.check_folder(folder)
        assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_a_file(device: str) -> None:
    """A file without end or content is refused before a byte of it is read."""
    with pytest.raises(OSError, match="device, not a file"):
        files.read(Path(device), at_most=10)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """One byte more is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert files.read(path, at_most=10) == b"0123456789"
    with pytest.raises(OSError, match="more than 9 bytes"):
        files.read(path, at_most=9)


def test_a_failure_is_said_once(tmp_path: Path) -> None:
    """A file in a folder's place, a folder in a file's, and anything else; with what was expected, or without."""
    codes = (errno.ENOTDIR, errno.EISDIR, errno.ENOSPC)
    below, folder, full = (OSError(code, os.strerror(code), str(tmp_path)) for code in codes)
    assert files.why(below) == "Not a directory: a part of this path is a file, and a folder is expected there"
    assert files.why(folder) == "Is a directory; a file is expected"
    assert files.why(folder, "a CSV") == "Is a directory; a CSV is expected"
    assert files.why(full) == "No space left on device"
    assert files.why(full, "a CSV") == "No space left on device; a CSV is expected"
    assert files.why(OSError("no number")) == "no number"
    assert files.no_folder(tmp_path / "absent") == "there is no such folder"
    (tmp_path / "file").touch()
    assert files.no_folder(tmp_path / "file") == "is a file"


def _benchmark(path: Path) -> None:
    benchmarks.check_md5(next(iter(benchmarks.BENCHMARKS.values())), path)


def _part(path: Path) -> None:
    with download._opened(path):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "JSON of a checkpoint": checkpoints.read_json,
    "weights": checkpoints.refuse_unreadable,
    "digest": digests.of_file,
    "table": lambda path: tables.read("stages", path),
    "TSV": lambda path: tsv.read_tsv(path, "RealWorldQA"),
    "benchmark": _benchmark,
    "download": _part,
    "conversations": conversations._read,
    "networks": weights.read,
    "pickle": lambda path: convert.convert(path, path.parent / "out.safetensors"),
    "scenario": source.read,
}


@pytest.mark.parametrize("what", READERS)
def test_a_file_in_a_folders_place_is_said_to_be_one(tmp_path: Path, what: str) -> None:
    """By everything that reads or writes a file whose path comes from a user."""
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match=r"below(\.part)?:? cannot be \w+: .*a part of this path is a file"):
        READERS[what](tmp_path / "file" / "below")


def test_no_module_words_a_failure_of_the_system_by_itself() -> None:
    """:func:`harness.files.why` does: only there is an error's own text read."""
    root = Path(files.__file__).parents[1]
    modules = [path for top in ("harness", "baselines", "recipes") for path in (root / top).rglob("*.py")]
    assert [path.name for path in modules if ".strerror" in path.read_text().replace("os.strerror", "")] == ["files.py"]
