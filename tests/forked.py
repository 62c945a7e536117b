"""A process that begins as a copy of this one, with everything imported, and may be killed."""

import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from typing import Any


def forked(work: Callable[..., None], *arguments: Any) -> ForkProcess:
    """A process in which ``work`` runs on one thread of torch, as the project's own workers do."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside any thread; those of the test runner hold no lock that the work needs.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    return process
