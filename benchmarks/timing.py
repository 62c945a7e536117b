"""How the benchmarks time: calls in turn, medians over rounds, and a line on the machine."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

from harness.profiling.machine import machine_name

ROUNDS = 9

Name = TypeVar("Name", bound=Hashable)


def interleaved_s(calls: Mapping[Name, Callable[[], object]]) -> dict[Name, float]:
    """Take the median time of each call, in seconds, over rounds in which every call takes its turn."""
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def place() -> str:
    """The machine, the number of threads, and the number of rounds of the medians."""
    threads = torch.get_num_threads()
    return f"{machine_name()}, {threads} thread{'s' * (threads > 1)}, medians of {ROUNDS} rounds in turn"
