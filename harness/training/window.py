"""What a line of the log averages."""

import time
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - accelerate may import transformers
import torch
from accelerate import Accelerator
from torch import Tensor


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
