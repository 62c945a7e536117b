"""Where files go that are written at run time and can be made again: benchmarks, compiled kernels, digests."""

import os
import tempfile
from functools import cache
from pathlib import Path


@cache
def cache_folder() -> Path | None:
    """The folder, made if it is absent; None where none can be written.

    ``$TOFC_HARNESS_CACHE``, or else ``tofc-harness`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    for folder in _candidates():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _candidates() -> list[Path]:
    if chosen := os.environ.get("TOFC_HARNESS_CACHE"):
        return [Path(chosen)]
    found = [Path(xdg) / "tofc-harness"] if (xdg := os.environ.get("XDG_CACHE_HOME")) else []
    try:
        return [*found, Path.home() / ".cache" / "tofc-harness"]
    except RuntimeError:
        return found
