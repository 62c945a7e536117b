"""What a running study shows: one bar a phase, with the time left, and the sentences that a reader must not miss."""

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from harness.errors import telling
from harness.units import format_bytes, format_duration

if TYPE_CHECKING:
    from harness.analysis import Analysis

_EVERY_S = 60.0
"""Interval between the progress lines of a phase, without a terminal."""
LINE_EVERY_S = 15.0
"""Interval between the progress lines of a file or a list, without a terminal."""
_STILL_S = 120.0
"""How long no step is done before a line says so."""
_LOOK_EVERY_S = 10.0
_SPEED_OF_S = 3600.0
"""Window over which the speed of a bar is averaged: a step may take minutes."""


def terminal(**how: Any) -> Console:
    """A console that prints names literally: ``[lte]`` is not markup, ``:up:`` not an emoji."""
    return Console(markup=False, emoji=False, **how)


def print_labels(run: "Analysis", console: Console) -> None:
    """Prints what the numbers of a run are to be read with: its stand-ins, why it is INVALID, what it did not time."""
    from harness.report.table import invalid, labels

    for line in (*labels(run), *invalid(run), *run.elsewhere):
        console.print(line)


def bar(console: Console) -> BarColumn:
    """A progress bar that leaves room for a name, an amount and two times."""
    return BarColumn(bar_width=max(4, min(40, console.width - 56)))


class Display:
    """A study's reporter on a terminal; if output goes to a file, messages and a line of progress a minute.

    Where no step was done for minutes, it prints for how long and at which point and sample: a scheme's code may hang.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<24}", markup=False),
            bar(console),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_SPEED_OF_S,
        )
        self._task: TaskID | None = None
        self._name, self._steps, self._left = "", 0, 0
        self._began_s = self._told_s = self._moved_s = 0.0
        self._patience_s, self._at = _STILL_S, ""
        self._open = contextlib.ExitStack()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._progress.start()
        self._open.enter_context(telling(self._is_at))
        threading.Thread(target=self._watch, name="display", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._open.close()
        self._progress.stop()

    def _is_at(self, place: str) -> None:
        self._at = place

    def _watch(self) -> None:
        """Prints that no step is done, at intervals that double."""
        while not self._ended.wait(_LOOK_EVERY_S):
            still_s = time.monotonic() - self._moved_s
            if self._left > 0 and still_s >= self._patience_s:
                self._patience_s *= 2
                at = f", at {self._at}" if self._at else ""
                self.line(f"{self._name}: no step for {format_duration(still_s)}{at}")

    def warn(self, text: str) -> None:
        """Shows what the reader must know before reading a number."""
        self._console.print(Panel(text, border_style="yellow", title="warning", title_align="left"))

    def line(self, text: str) -> None:
        """Shows a line of a log, unchanged."""
        self._console.print(text, markup=False, highlight=False)

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a bar of ``total`` steps, ``done`` of which an earlier session did."""
        if not self._console.is_terminal:
            before = f", {done} of them done before" if done else ""
            self._console.print(f"{name}: {total} steps{before}")
        self._name, self._steps, self._left = name, 0, total - done
        self._began_s = self._told_s = self._moved_s = time.monotonic()
        self._patience_s = _STILL_S
        self._task = self._progress.add_task(name, total=total, completed=done)

    def advance(self) -> None:
        """One step of the phase is done."""
        if self._task is not None:
            self._progress.advance(self._task)
        self._steps += 1
        self._left -= 1
        now_s = self._moved_s = time.monotonic()
        self._patience_s = _STILL_S
        if not self._console.is_terminal and self._left > 0 and now_s - self._told_s >= _EVERY_S:
            self._told_s = now_s
            left_s = (now_s - self._began_s) / self._steps * self._left
            self._console.print(f"{self._name}: {self._left} steps left, about {format_duration(left_s)}")


class Bar:
    """The progress of one task, in bytes or in steps: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, console: Console, name: str, *, sized: bool) -> None:
        amount = (DownloadColumn(), TransferSpeedColumn()) if sized else (MofNCompleteColumn(),)
        columns = (TextColumn("{task.description:<15}", markup=False), bar(console), *amount, TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(name, total=None)
        self._console, self._name, self._sized = console, name, sized
        self._said_s = time.monotonic()

    def __enter__(self) -> Callable[[int, int | None], None]:
        self._progress.start()
        return self._told

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _told(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)
        if self._console.is_terminal or (now_s := time.monotonic()) < self._said_s + LINE_EVERY_S:
            return
        self._said_s = now_s
        form = format_bytes if self._sized else str
        whole = "" if total is None else f" of {form(total)}" + (f", {100 * done // total} %" if total else "")
        self._console.print(f"{self._name}: {form(done)}{whole}", soft_wrap=True, highlight=False)
