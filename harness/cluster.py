"""A Ray cluster: the one that is there, or else one of this machine alone."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from harness.errors import UnavailableError


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """The module ``ray``, connected to a cluster; one that was started for it ends afterwards.

    Raises UnavailableError where Ray is not installed, and where a cluster can be neither reached nor started.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UnavailableError("Ray is not installed; 'pip install tofc-harness[ray]' adds it") from None
    ours = not ray.is_initialized()
    if ours:
        # A cluster of our own tells nobody that it was used; one that is there already has been asked.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises no narrower one.
            reason = str(error).partition("\n")[0]
            raise UnavailableError(f"a Ray cluster can be neither reached nor started here: {reason}") from None
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
