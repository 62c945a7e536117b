"""A folder that takes long to make and that tests only read, made once for all workers of the test runner."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which the first worker that wants it makes while others that want it wait.

    A folder whose making failed is there for nobody: the next that wants it makes it again.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp("made") / name
        make(folder)
        return folder
    # Each worker has a folder of its own in that of the session.
    made, folder = base.parent / f"{name} is made", base.parent / "made" / name
    with (base.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder
