"""A training's log: what a line of it averages, and what is cut off where a training resumes."""

import json
import time
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - accelerate may import transformers
import torch
from accelerate import Accelerator
from torch import Tensor

from harness import files

LOG = "log.jsonl"


class Window:
    """Sums of the losses since the last line of the log."""

    NAMES = ("loss", "D", "R", "balance", "right")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    def _reset(self) -> None:
        self._sums = torch.zeros(len(self.NAMES), device=self._device)
        self._count, self._since = 0, time.monotonic()

    def add(self, *losses: Tensor) -> None:
        """Adds a micro-batch's losses, in the order of :attr:`NAMES`."""
        self._sums += torch.stack([loss.detach().float() for loss in losses])
        self._count += 1

    def means(self, accelerator: Accelerator) -> tuple[dict[str, float], float]:
        """The means over the window and all processes, and the seconds a micro-batch; begins a new window."""
        total: Any = accelerator.reduce(self._sums / self._count, "mean")
        seconds = (time.monotonic() - self._since) / self._count
        self._reset()
        return {name: round(value, 5) for name, value in zip(self.NAMES, total.tolist(), strict=True)}, seconds


def cut_log(log: Path, done: int) -> None:
    """Remove from a log what follows step ``done``, and a line that a kill left incomplete; it may be absent."""
    try:
        lines = log.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    files.write_whole(log, lambda file: file.write(b"".join(line for line in lines if 0 <= _step(line) <= done)))


def _step(line: bytes) -> int:
    """The step of a log's line; -1 for one that is not whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1
