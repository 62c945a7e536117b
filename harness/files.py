"""Files: read with a limit, and written atomically.

A file is written under a name that no reader uses, flushed to the disk, and renamed in one step, so that it is there
complete or not at all even if the process dies or the power fails. A failure is an OSError, which the caller puts into
a sentence.
"""

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from hashlib import _Hash

UNFINISHED = ".unfinished-"
"""The prefix of every file or folder that is unfinished, or about to be removed."""

Write = Callable[[BinaryIO], object]

Stamp = tuple[int, int, int, int]
"""What changes with a file's content: see :func:`stamp`."""

_CHUNK_BYTES = 1 << 20


def opened(path: Path) -> io.BufferedReader:
    """A file open for reading; OSError for a folder, or for a device, whose end may never come."""
    file = path.open("rb")
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a device, not a file", str(path))


def read(path: Path, at_most: int) -> bytes:
    """The bytes of a file; OSError where it cannot be read, or holds more than ``at_most``."""
    with opened(path) as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(errno.EFBIG, f"it has more than {at_most} bytes", str(path))
    return content


def stamp(path: Path) -> Stamp:
    """A file's size, inode, and times of modification and of last change (ns); OSError if it is not there.

    A copy or an archive may set the modification time to that of the file it replaces, but not the time of last change.
    """
    facts = path.stat()
    return facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns


def hexdigest(path: Path, digest: "_Hash", n_bytes: int | None = None) -> str:
    """Updates ``digest`` with a file, or with its first bytes, and returns it in hexadecimal; OSError if unreadable."""
    left = path.stat().st_size if n_bytes is None else n_bytes
    with path.open("rb") as file:
        while chunk := file.read(min(left, _CHUNK_BYTES)):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def write_whole(path: Path, write: Write) -> None:
    """Writes ``path`` with ``write``, replacing it; OSError if it cannot be written."""
    write_all_whole({path: write})


def write_all_whole(files: Mapping[Path, Write]) -> None:
    """Writes all ``files``, none of which gets its name before every one is written; OSError if that fails.

    Folders that are absent are made.
    """
    unfinished: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            make_folder(path.parent)
            unfinished[path] = hidden = _unfinished(path)
            with hidden.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path, hidden in unfinished.items():
            rename(hidden, path)
        for folder in {path.parent for path in files}:
            flush_folder(folder)
    finally:
        for hidden in unfinished.values():
            hidden.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raises OSError if ``path`` could not be written now; called before computing, not after.

    No folder is created: a missing one is more likely a typing mistake.
    """
    if not path.parent.exists():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {path.parent}; make it first", str(path))
    if not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    hidden = _unfinished(path)
    # An empty file can be created on a full disk, so a block is written.
    with hidden.open("xb") as file:
        try:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
        finally:
            hidden.unlink()


def check_folder(folder: Path) -> None:
    """Raises OSError if no file could be written in ``folder``, which is made where it is absent.

    Called before computing, not after; nothing is made: the nearest folder that is there is written into.
    """
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    check_writable(nearest / UNFINISHED)


def rename(old: Path, new: Path) -> None:
    """Gives a file or folder its name, in one step, in place of a file that had it."""
    old.replace(new)


def flush_folder(folder: Path) -> None:
    """Waits until renames in ``folder`` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why(error: OSError, wanted: str = "") -> str:
    """What went wrong, without the number and the path that Python puts around it; ``wanted`` was expected there."""
    if isinstance(error, IsADirectoryError):
        return f"Is a directory; {wanted or 'a file'} is expected"
    if isinstance(error, NotADirectoryError):
        said = "Not a directory: a part of this path is a file, and a folder is expected there"
    elif isinstance(error, FileExistsError):
        said = "File exists: a folder is expected there"
    else:
        said = error.strerror or str(error)
    return f"{said}; {wanted} is expected" if wanted else said


def no_folder(path: Path) -> str:
    """What there is at ``path``, which is no folder: a file or nothing."""
    return "is a file" if path.exists() else "there is no such folder"


def make_folder(folder: Path) -> None:
    """Makes a folder, and those that it is in, unless it is there; OSError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def _unfinished(path: Path) -> Path:
    # A short fixed length: the name by itself may already have the 255 bytes that a file system allows.
    return path.with_name(f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}")
