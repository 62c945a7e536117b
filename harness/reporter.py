"""The interface for progress, and for warnings that must be read before a number."""

from typing import Protocol


class Progress(Protocol):
    """Shows a reader how far the work is."""

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase of ``total`` steps, ``done`` of which an earlier process completed."""
        ...

    def advance(self) -> None:
        """One step of the phase is done."""
        ...


class Reporter(Progress, Protocol):
    """Shows a reader how far the work is, and warnings."""

    def warn(self, text: str) -> None:
        """Shows a warning that must be read before a number."""
        ...


def unsaid(text: str) -> None:
    """Discards a line."""
