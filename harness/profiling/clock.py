"""Times stages, with the accelerator idle on both edges of each.

Work on an accelerator is queued: a clock that does not wait for it measures the queueing. Public code that forgot was
off by a factor of two to five.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageClock:
    """Collects how long each stage took, in the order in which they ended.

    ``synchronise`` waits until the accelerator is idle; on a CPU there is nothing to wait for. A stage that is entered
    twice in one request (two questions about one image) counts once, with its times added.
    """

    def __init__(self, synchronise: Callable[[], None] | None = None) -> None:
        self._synchronise = synchronise or (lambda: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times its body; a stage whose body raises leaves no time behind."""
        self._synchronise()
        start_ns = time.perf_counter_ns()
        yield
        self._synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + (time.perf_counter_ns() - start_ns) * 1e-9


class Untimed:
    """The clock of a request whose answer alone is wanted."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:  # noqa: ARG002
        """Runs its body."""
        yield


def synchroniser(device: str) -> Callable[[], None] | None:
    """What waits for ``device`` (a torch device's name) to finish; None where work is done when a call returns."""
    if not device.startswith("cuda"):
        return None
    import torch

    return lambda: torch.cuda.synchronize(device)
