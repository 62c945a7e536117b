"""Workers that are actors of a Ray cluster: on its GPUs, one each, or else on its processors."""

from collections.abc import Callable
from typing import Any

from harness.errors import UnavailableError
from harness.workers import Died, Finished, Ready, Reply, Work, reply_of

_PATIENCE_S = 600.0
"""How long the cluster may take to find room for the first worker."""


def room(ray: Any, *, on_gpus: bool, threads: int) -> int:
    """How many workers a cluster has room for: its GPUs, or its processors over the threads of each."""
    there = ray.cluster_resources()
    return int(there.get("GPU", 0)) if on_gpus else int(there.get("CPU", 0)) // threads


class Actors:
    """A pool of actors, each with a GPU or with ``threads`` processors; ``make``, called in each, gives its work.

    The nodes need the harness, and all that ``make`` reads under the same paths.
    """

    def __init__(self, ray: Any, make: Callable[[], Work[Any, Any]], *, on_gpus: bool, threads: int) -> None:
        self._ray, self._make = ray, make
        needs = {"num_gpus": 1, "num_cpus": 1} if on_gpus else {"num_cpus": threads}
        # The loop that hands out tasks starts a new one, and counts how many have died.
        self._kind = ray.remote(max_restarts=0, **needs)(_Actor)
        self._actors: dict[int, Any] = {}
        self._awaited: dict[Any, int] = {}
        self._unplaced: dict[Any, int] = {}

    def start(self, place: int) -> None:
        """Requests an actor from the cluster."""
        self._actors[place] = self._kind.remote()
        self._unplaced[self._actors[place].here.remote()] = place

    def give(self, place: int, task: Any) -> None:
        """Sends a task."""
        self._awaited[self._actors[place].reply.remote(task)] = place

    def wait(self) -> tuple[int, Reply]:
        """The next reply; raises UnavailableError if the cluster has found no room for any actor in ten minutes."""
        while True:
            patience_s = None if self._awaited else _PATIENCE_S
            done, _ = self._ray.wait([*self._awaited, *self._unplaced], num_returns=1, timeout=patience_s)
            if not done:
                raise UnavailableError(
                    f"the Ray cluster started no worker within {_PATIENCE_S:.0f} s; 'ray status' says why"
                )
            reference = done[0]
            is_here = reference in self._unplaced
            place = (self._unplaced if is_here else self._awaited).pop(reference)
            try:
                reply: Reply = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._actors.pop(place)
                return place, Died(f"as Ray reports: {_first_line(error)}")
            if not is_here:
                return place, reply
            self._awaited[self._actors[place].load.remote(self._make)] = place

    def stop(self) -> None:
        """Kills the actors: what was finished has been received."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()


class _Actor:
    """One worker; its replies are those of :mod:`harness.workers`."""

    _work: Work[Any, Any]

    def here(self) -> None:
        """Replies once it has been placed."""

    def load(self, make: Callable[[], Work[Any, Any]]) -> Reply:
        made = reply_of(make)
        if isinstance(made, Finished):
            self._work = made.result
            return Ready()
        return made

    def reply(self, task: Any) -> Reply:
        return reply_of(self._work, task)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
