"""A folder that takes long to make and that tests only read, made once for all workers of the test runner."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(base: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which the first worker that wants it makes while others that want it wait.

    ``base`` is the worker's folder, in that of the session. If making it failed, the next worker makes it again.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        (base / "made").mkdir(exist_ok=True)
        make(base / "made" / name)
        return base / "made" / name
    made, folder = base.parent / f"{name} is made", base.parent / "made" / name
    with (base.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder
