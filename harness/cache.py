"""The folder of files that may be deleted at any time: compiled kernels, generated benchmarks."""

import os
import tempfile
from pathlib import Path

VARIABLE = "TOFC_HARNESS_CACHE"


def cache_folder() -> Path | None:
    """The cache folder, made where it is absent; None where it cannot be written.

    It is $TOFC_HARNESS_CACHE, else $XDG_CACHE_HOME/tofc-harness, else ~/.cache/tofc-harness: the first that is set, and
    no other. So $TOFC_HARNESS_CACHE=/dev/null turns caching off.
    """
    try:
        folder = _named()
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions are not enough: a file system may be read-only or full, and root ignores them.
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):
        # RuntimeError: there is no home folder at all.
        return None
    return folder


def _named() -> Path:
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a path that is not absolute is to be ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "tofc-harness"
