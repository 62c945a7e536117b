"""Long calibrations: cells of seeded studies, made in pieces over processes, each piece added to a file as it ends.

Repeat a command that was stopped to resume it: a piece that the file has of the same code is read and not made again.
Every study has a random stream of its own, so that what is counted depends neither on the pieces nor on the processes.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np

from benchmarks.tally import Counts

_EVERY_S = 30.0
_PILOT = 0.01
"""The share of a cell's studies that are made first, of all cells: the time of the whole is estimated from them."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of a calibration, or a few from the same studies.

    ``study(number, counts)`` makes study ``number`` and adds what it found; ``lines(counts, studies)`` says what all of
    them found. There are ``times`` as many studies as are asked for, at least ``least``.
    """

    section: str
    name: str
    study: Callable[[int, Counts], None]
    lines: Callable[[Counts, int], Iterable[str]]
    times: float = 1.0
    least: int = 1

    @property
    def key(self) -> str:
        """Its name, which no other has."""
        return f"{self.section}: {self.name}"

    def studies(self, asked: int) -> int:
        """How many studies it has where so many are asked for."""
        return max(round(self.times * asked), self.least)


class Piece(NamedTuple):
    """The studies of a cell from ``first`` up to ``last``, which is not among them."""

    key: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Made:
    """A piece that was made: how long it took, and what it counted."""

    seconds: float
    counts: Counts


CellsOf = Callable[[], Iterable[Cell]]


def run(cells_of: CellsOf, wanted: Sequence[str], asked: int, *, file: Path, digest: str, processes: int = 1) -> None:
    """Make what the file lacks of the ``wanted`` sections and print every cell, in order, as soon as it is complete.

    ``cells_of`` is a function of a module, which each process calls for itself. ``digest`` is that of all that the
    counts depend on. Progress goes to standard error.
    """
    cells = [cell for cell in cells_of() if cell.section in wanted]
    pieces = {cell.key: pieces_of(cell, asked) for cell in cells}
    made = read(file, digest)
    todo = [piece for of_cell in pieces.values() for piece in of_cell if piece not in made]
    # The first piece of every cell comes first: then the time of all can be estimated.
    todo.sort(key=lambda piece: piece.first > 0)
    progress = _Progress(pieces, made, todo, processes)
    waiting = list(cells)

    def print_complete() -> None:
        while waiting and all(piece in made for piece in pieces[waiting[0].key]):
            cell = waiting.pop(0)
            counts = Counts()
            for piece in pieces[cell.key]:
                counts.merge(made[piece].counts)
            print(*cell.lines(counts, cell.studies(asked)), sep="\n", flush=True)
            if not waiting or waiting[0].section != cell.section:
                of_section = [piece for one in cells if one.section == cell.section for piece in pieces[one.key]]
                print(f"-- {cell.section}: {sum(made[piece].seconds for piece in of_section):.0f} s", flush=True)

    print_complete()
    if not todo:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        # A line that a kill cut short stays a line of its own.
        out.write("\n" if out.tell() else "")
        for piece, one in _made(cells_of, todo, processes):
            data = {"code": digest, **piece._asdict(), "seconds": one.seconds, **one.counts.as_data()}
            out.write(json.dumps(data) + "\n")
            out.flush()
            made[piece] = one
            progress.advance(piece)
            print_complete()


def pieces_of(cell: Cell, asked: int) -> list[Piece]:
    """A cell's studies in pieces: a hundredth, then up to twentieths."""
    n = cell.studies(asked)
    bounds = np.unique(np.rint(n * np.r_[0.0, _PILOT, np.linspace(0.05, 1.0, 20)]).astype(int)).tolist()
    return [Piece(cell.key, first, last) for first, last in itertools.pairwise(bounds)]


def read(file: Path, digest: str) -> dict[Piece, Made]:
    """The pieces in a file that the code of ``digest`` made; a line that a kill cut short is ignored."""
    found: dict[Piece, Made] = {}
    if not file.exists():
        return found
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            data = json.loads(text)
        except json.JSONDecodeError:
            continue
        if data["code"] == digest:
            piece = Piece(data["key"], data["first"], data["last"])
            found[piece] = Made(data["seconds"], Counts.of_data(data))
    return found


def _made(cells_of: CellsOf, pieces: Sequence[Piece], processes: int) -> Iterator[tuple[Piece, Made]]:
    """The pieces as they finish."""
    if processes == 1:
        for piece in pieces:
            yield piece, _make(cells_of, piece)
        return
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    signal.signal(signal.SIGTERM, _terminated)
    # Spawned, not forked: Arrow and BLAS have threads by now. Ctrl-C is this process's to handle.
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        of_future = {pool.submit(_make, cells_of, piece): piece for piece in pieces}
        for future in concurrent.futures.as_completed(of_future):
            yield of_future[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _terminated(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _make(cells_of: CellsOf, piece: Piece) -> Made:
    cell, counts = _by_key(cells_of)[piece.key], Counts()
    begun = time.perf_counter()
    for number in range(piece.first, piece.last):
        cell.study(number, counts)
    return Made(time.perf_counter() - begun, counts)


@functools.cache
def _by_key(cells_of: CellsOf) -> Mapping[str, Cell]:
    return {cell.key: cell for cell in cells_of()}


class _Progress:
    """Prints at intervals, on standard error, how much is done and an estimate of the time left."""

    def __init__(
        self, pieces: Mapping[str, Sequence[Piece]], made: Mapping[Piece, Made], todo: Sequence[Piece], processes: int
    ) -> None:
        self._pieces, self._made, self._processes = pieces, made, processes
        self._left = dict.fromkeys(todo)
        self._pilots = sum(piece.first == 0 for piece in todo)
        self._begun = self._told = time.monotonic()
        self._estimated = False
        n = sum(map(len, pieces.values()))
        self._say(f"{n} pieces of {len(pieces)} cells, {n - len(todo)} of them made before")

    def advance(self, piece: Piece) -> None:
        """Counts a finished piece."""
        del self._left[piece]
        self._pilots -= piece.first == 0
        known = not self._pilots
        if known and not self._estimated:
            self._estimated = True
            total_s = time.monotonic() - self._begun + self._left_s()
            self._say(f"about {total_s / 60:.0f} min in all, with {self._processes} processes")
        elif time.monotonic() - self._told > _EVERY_S:
            n = sum(map(len, self._pieces.values()))
            left = f", about {self._left_s() / 60:.0f} min left" if known else ""
            self._say(f"{n - len(self._left)} of {n} pieces{left}; made last: {piece.key}")

    def _left_s(self) -> float:
        """How long the remaining pieces take; each of their cells has one that is made."""
        cost_s: dict[str, float] = {}
        for key in {piece.key for piece in self._left}:
            done = [piece for piece in self._pieces[key] if piece in self._made]
            # What is loaded and computed once is in the first piece's time.
            of = done[1:] or done
            cost_s[key] = sum(self._made[piece].seconds for piece in of) / sum(p.last - p.first for p in of)
        return sum(cost_s[piece.key] * (piece.last - piece.first) for piece in self._left) / self._processes

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"[{(self._told - self._begun) / 60:5.1f} min] {text}", file=sys.stderr, flush=True)
