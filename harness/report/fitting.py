"""Tables for a terminal of any width: if the columns do not fit, each row is a block of lines."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

_NAME_COLUMNS = 12
"""A column that folds has room for so many characters of its longest word before the table becomes blocks."""


class Fitting(Table):
    """A table whose rows become blocks where the terminal is narrower than the columns need; nothing is cut.

    A block is a line of the first ``names`` cells. Below it stand the other cells, as a small table where all have as
    many lines (more than one), else each behind its column's head. A column that is ``no_wrap`` needs its longest line,
    any other its longest word.
    """

    def __init__(self, *headers: Column | str, names: int = 1, **options: Any) -> None:
        style: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
        super().__init__(*headers, title_justify="left", **{**style, **options})
        self.names = names

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.needed() <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._blocks(options.max_width)

    def needed(self) -> int:
        """The fewest characters a line in which no number and no name is broken."""
        return sum(map(_needed, self.columns)) + 2 * (len(self.columns) - 1)

    def _blocks(self, width: int) -> Iterator[RenderableType]:
        if self.title:
            yield Text(str(self.title), style="table.title")
        for row in zip(*(column.cells for column in self.columns), strict=True):
            yield Text(", ".join(line for cell in row[: self.names] for line in _lines(cell) if line), style="bold")
            yield self._below(row[self.names :], width)
            yield Text()

    def _below(self, cells: Sequence[RenderableType], width: int) -> RenderableType:
        """What is left of a row, beneath its name."""
        columns = self.columns[self.names :]
        if len({len(_lines(cell)) for cell in cells}) == 1 < len(_lines(cells[0])):
            small = Fitting(*(Column(c.header, justify=c.justify, no_wrap=c.no_wrap) for c in columns), names=0)
            small.add_row(*cells)
            if small.needed() <= width:
                return small
        pairs = Table.grid(padding=(0, 2, 0, 0))
        for column, cell in zip(columns, cells, strict=True):
            pairs.add_row(Text("  " + " ".join(_lines(column.header))), Text(", ".join(_lines(cell)), overflow="fold"))
        return pairs


def _lines(cell: RenderableType) -> list[str]:
    return (cell.plain if isinstance(cell, Text) else str(cell)).splitlines() or [""]


def _needed(column: Column) -> int:
    lines = [line for cell in (column.header, *column.cells) for line in _lines(cell)]
    if column.no_wrap:
        return max(map(cell_len, lines))
    word = max((cell_len(word) for line in lines for word in line.split()), default=0)
    return min(word, _NAME_COLUMNS) if column.overflow == "fold" else word
