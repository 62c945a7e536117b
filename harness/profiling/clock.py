"""Times stages, with the accelerator idle on both edges of each.

Work on an accelerator is queued: a clock that does not wait for it measures the queueing. Public code that forgot was
off by a factor of two to five.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageClock:
    """Collects how long each stage of one half took, in the order in which they began.

    ``seconds`` is wall time, ``cpu_s`` the processor time of all of the process's threads. ``synchronise`` waits until
    the accelerator is idle; on a CPU there is nothing to wait for. A stage that is entered twice in one request counts
    once, with its times added.
    """

    def __init__(self, synchronise: Callable[[], None] | None = None) -> None:
        self._synchronise = synchronise or (lambda: None)
        self.seconds: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times its body; a stage whose body raises leaves no time behind."""
        self._synchronise()
        cpu_ns, start_ns = time.process_time_ns(), time.perf_counter_ns()
        yield
        self._synchronise()
        end_ns, cpu_end_ns = time.perf_counter_ns(), time.process_time_ns()
        self.seconds[name] = self.seconds.get(name, 0.0) + (end_ns - start_ns) * 1e-9
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + (cpu_end_ns - cpu_ns) * 1e-9


def synchroniser(device: str) -> Callable[[], None] | None:
    """What waits for ``device`` (a torch device's name) to finish; None where work is done when a call returns."""
    if not device.startswith("cuda"):
        return None
    import torch

    return lambda: torch.cuda.synchronize(device)
