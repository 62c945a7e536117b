"""Files: written whole or not at all, and never read without end."""

from pathlib import Path
from typing import BinaryIO

import pytest

from harness import files


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
