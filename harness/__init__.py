"""Latency studies of multimodal inference that is split between a device and an edge server."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.profiling.logger import Recorder

__version__ = "0.1.0"


def record(
    path: Path | str, *, machine: str | None = None, synchronise: Callable[[], None] | None = None
) -> "Recorder":
    """Records the stages of a user's own code in a Parquet file of rows; see :mod:`harness.profiling.logger`."""
    # Loaded by name, so that reading the version does not import what times stages.
    recorder: type[Recorder] = importlib.import_module("harness.profiling.logger").Recorder
    return recorder(path, machine=machine, synchronise=synchronise)
