"""One process writes a run at a time.

The kernel holds the lock (flock), so it is released when its process ends in any way; the file's text only tells others
who holds it, and which point and sample that process is at. Where a process ended without releasing it, the file stays
and says where that was.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from harness.errors import ResultsError
from harness.files import why

_TEXT_BYTES = 512


class Lock:
    """The lock of a run's folder, a hidden file beside it; ResultsError, naming the holder, if it is taken.

    ``left_at`` is where the process was that held it last and did not release it; empty if it did, or was nowhere.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f".{folder.name}.lock")
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise ResultsError(f"{self.path}: the lock of {folder} cannot be made: {why(error)}") from None
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder, place = self._read()
                os.close(self._descriptor)
                at = f" and is at {place}" if place else ""
                raise ResultsError(
                    f"{folder}: process {holder or 'unknown'} is writing this run{at}; wait for it to end, or run "
                    "under another name"
                ) from None
            except OSError as error:
                os.close(self._descriptor)
                raise ResultsError(
                    f"{folder}: its file system does not support locks ({why(error)}), so that two processes could "
                    "write one run; choose a folder on another with --results"
                ) from None
            if self._is_current():
                break
            # Its holder removed the file between the two calls above: this lock is on a file that no longer has a name.
            os.close(self._descriptor)
        _, self.left_at = self._read()
        os.ftruncate(self._descriptor, 0)
        self.tell("")

    def tell(self, place: str) -> None:
        """Writes where the process is that holds the lock: one write of a fixed length, which waits for no disk."""
        text = f"{os.getpid()}\n{place}".encode(errors="backslashreplace")[:_TEXT_BYTES]
        # The text only helps people: a disk that is full ends the run where rows are lost.
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, text.ljust(_TEXT_BYTES), 0)

    def _read(self) -> tuple[str, str]:
        """The process that holds or held the lock, and where it is or was."""
        text = os.pread(self._descriptor, _TEXT_BYTES, 0).decode(errors="replace")
        holder, _, place = text.partition("\n")
        return holder.strip(), place.strip()

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Releases the lock; may be called more than once."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
