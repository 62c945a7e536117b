"""Who answers: this process, processes forked from it, processes that load a model each, or actors of a Ray cluster.

Rows do not depend on it as long as each computes with the same number of threads. A part is the units of one picture,
so that what points share of it is computed once; the parent commits the rows that come back. A worker that loads for
itself compares what it has with the parent, and refuses if a number could differ.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import psutil

from harness.actors import Actors, room
from harness.cluster import check_address, connected
from harness.errors import UnavailableError
from harness.measure import Answered, Answers, Part, named
from harness.profiling import nvml
from harness.reporter import unsaid
from harness.units import format_bytes
from harness.workers import Pool, Processes, hand_out, may_fork, processors, spread, workers_for

Executor: TypeAlias = Literal["processes", "ray"]

PROCESS_BYTES = 600_000_000
"""The memory of a worker besides weights, on the processor: measured, torch and transformers imported."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The number of workers (None: as many as suit the machine), and what runs them."""

    workers: int | None = None
    executor: Executor = "processes"

    def loads(self, device: str, threads: int) -> bool:
        """Whether each worker loads a model of its own."""
        if self.executor == "ray":
            return True
        return self.count(device, threads) > 1 and not may_fork(device, threads)

    def count(self, device: str, threads: int) -> int:
        """The number of workers; one on a cluster whose room is not known yet."""
        return self.workers or (1 if self.executor == "ray" else workers_for(device, threads))

    def at_once(self, device: str, threads: int) -> int:
        """How many of them compute at once: no more than this machine has processors or GPUs."""
        if self.executor == "ray":
            return self.count(device, threads)
        return min(self.count(device, threads), processors() if device == "cpu" else max(1, len(visible_gpus())))

    def refuse_cluster(self) -> None:
        """Raises UnavailableError where the workers are a Ray cluster's and none answers at its address."""
        if self.executor == "ray":
            check_address()


AS_SUITS = Team()
"""As many processes as suit this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """A team at the answers of one study: a :data:`harness.measure.Spread`.

    ``device`` and ``threads`` are those that torch computes with here; threads that the scenario has not ``given`` are
    divided among the workers. ``answerer`` returns, for a number of threads, what a worker calls that loads for itself;
    ``weight_bytes`` what its model takes. ``record`` commits who answers, ``warn`` shows a sentence, ``tell`` a line of
    progress.
    """

    team: Team
    device: str
    threads: int
    given: bool
    answerer: Callable[[int], Callable[[], Answers]]
    weight_bytes: Callable[[], int]
    record: Callable[[Mapping[str, float | str]], None]
    warn: Callable[[str], None]
    tell: Callable[[str], None] = unsaid

    def __call__(self, answers: Answers, parts: Sequence[Part]) -> Answered:
        """Yields each part with its rows as they arrive; ``answers`` is what this process would answer with.

        Raises UnavailableError for more workers than there is memory or, on a cluster, room for, and as
        :func:`harness.workers.hand_out`.
        """
        if self.team.executor == "ray":
            yield from self._over_ray(parts)
        elif self.team.loads(self.device, self.threads):
            yield from self._over_processes(parts)
        else:
            workers = self.team.count(self.device, self.threads)
            self._warn_of_crowds(min(workers, len(parts)), self.threads)
            lost = self._begin(workers, parts)
            yield from spread(answers, parts, workers, named=named, lost=lost)

    def _over_processes(self, parts: Sequence[Part]) -> Answered:
        workers = min(self.team.count(self.device, self.threads), len(parts))
        gpus = visible_gpus() if self.device == "cuda" else []
        threads = self.threads if self.given else max(1, processors() // workers)
        self._warn_of_rounding(threads)
        refuse_memory(workers, self.weight_bytes(), len(gpus) or None, self.warn)
        self._warn_of_crowds(workers, threads)
        pool = Processes(
            self.answerer(threads),
            "spawn",
            lambda place: {_VISIBLE: gpus[place % len(gpus)]} if gpus else {},
        )
        yield from self._handed_out(parts, pool, workers)

    def _over_ray(self, parts: Sequence[Part]) -> Answered:
        on_gpus = self.device == "cuda"
        threads = self.threads if self.given else 1
        self._warn_of_rounding(threads)
        with connected(self.tell) as ray:
            most = room(ray, on_gpus=on_gpus, threads=threads)
            workers = self.team.workers or most
            if workers > most or not most:
                each = "a GPU" if on_gpus else f"{threads} processor{'s' if threads > 1 else ''}"
                helps = f"give --workers {most} or fewer, or add nodes" if most else "add nodes"
                raise UnavailableError(
                    f"the Ray cluster has room for {most} workers of {each} each, not for {max(1, workers)}; {helps}"
                )
            pool = Actors(ray, self.answerer(threads), on_gpus=on_gpus, threads=threads)
            yield from self._handed_out(parts, pool, min(workers, len(parts)))

    def _handed_out(self, parts: Sequence[Part], pool: Pool, workers: int) -> Answered:
        yield from hand_out(parts, pool, workers, named=named, lost=self._begin(workers, parts))

    def _warn_of_crowds(self, workers: int, threads: int) -> None:
        if self.device == "cpu" and workers > 1 and workers * threads > processors():
            self.warn(
                f"{workers} workers of {threads} threads share {processors()} processors; fewer would be as fast."
            )

    def _warn_of_rounding(self, threads: int) -> None:
        if self.device == "cpu" and threads != self.threads:
            self.warn(
                f"Each worker computes with {threads} of {self.threads} threads: rounding, and with it an answer, may "
                "differ from one process's. With measure.threads in the scenario, rows do not depend on the workers."
            )

    def _begin(self, workers: int, parts: Sequence[Part]) -> Callable[[str], None]:
        """Records how many workers answer, and where; returns what to call with each worker that died."""
        workers = min(workers, len(parts))
        conditions: dict[str, float | str] = {"workers": float(workers), "engine": self.team.executor}
        died = 0.0
        if workers > 1 or self.team.executor == "ray":
            self.record(conditions)

        def lost(how: str) -> None:
            nonlocal died
            died += 1
            self.record({**conditions, "died": died})
            self.warn(f"A worker ended, {how}; another takes over its part.")

        return lost


def visible_gpus() -> list[str]:
    """The entry in CUDA_VISIBLE_DEVICES of each GPU that torch sees, without opening any."""
    import torch

    wanted = os.environ.get(_VISIBLE)
    names = [] if wanted is None else [name.strip() for name in wanted.split(",")]
    count = torch.cuda.device_count()
    return names[:count] if wanted is not None else [str(number) for number in range(count)]


def refuse_memory(workers: int, weight_bytes: int, gpus: int | None, warn: Callable[[str], None]) -> None:
    """Raises UnavailableError where the weights of so many workers cannot fit, on the GPUs or in this machine's memory.

    It warns if they fit in the total but not in what is free now. Activations are not counted.
    """
    if gpus is None:
        memory = psutil.virtual_memory()
        total, free, share, each = memory.total, memory.available, workers, weight_bytes + PROCESS_BYTES
        where = "this machine"
    else:
        found = [info for gpu in nvml.gpus()[0] if (info := gpu.ask("MemoryInfo")) is not None]
        if not found:
            return
        total, free = min(info.total for info in found), min(info.free for info in found)
        share, each, where = -(-workers // gpus), weight_bytes, "a GPU"
    needed = share * each
    text = (
        f"{share} worker{'s' if share > 1 else ''} on {where} take at least {format_bytes(needed)} for weights and "
        f"libraries, {format_bytes(each)} each, and "
    )
    if needed > total:
        most = total // each * (gpus or 1)
        helps = f"give --workers {most} or fewer" if most else "a larger one or a smaller model is needed"
        raise UnavailableError(f"{text}it has {format_bytes(total)}; {helps}")
    if needed > free:
        warn(f"{text}{format_bytes(free)} are free now; the system may end some of them.")
