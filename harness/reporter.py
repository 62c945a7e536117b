"""Where progress goes, and what must be known before a number is read."""

from typing import Protocol


class Progress(Protocol):
    """Shows a reader how far the work is."""

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase of ``total`` steps, ``done`` of which an earlier process did."""
        ...

    def advance(self) -> None:
        """One step of the phase is done."""
        ...


class Reporter(Progress, Protocol):
    """Shows a reader how far the work is, and what else must be seen."""

    def warn(self, text: str) -> None:
        """Shows what must be known before a number is read."""
        ...


def unsaid(text: str) -> None:
    """Shows a line to nobody."""
