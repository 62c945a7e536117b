"""Tables for a terminal of any width: if the columns do not fit, each row is a block of lines."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text


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
            self._share(options.max_width)
            yield from super().__rich_console__(console, options)
        else:
            yield from self._blocks(options.max_width)

    def needed(self) -> int:
        """The fewest characters a line in which no number and no name is broken."""
        return sum(map(_needed, self.columns)) + 2 * (len(self.columns) - 1)

    def _share(self, width: int) -> None:
        """Gives each column its longest word, and what room is left to those whose lines are longer."""
        least, most = list(map(_needed, self.columns)), list(map(_longest, self.columns))
        spare = width - sum(least) - 2 * (len(self.columns) - 1)
        wanted = [long - short for long, short in zip(most, least, strict=True)]
        for column, short, more in zip(self.columns, least, wanted, strict=True):
            column.width = short + (more if sum(wanted) <= spare else spare * more // sum(wanted))

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
        heads = [" ".join(_lines(column.header)) for column in columns]
        texts = [", ".join(_lines(cell)) for cell in cells]
        beside = max(map(cell_len, heads)) + 4
        if beside + max(map(_word, texts)) > width:
            # A word that has no room beside the heads has a line below its own.
            return Group(
                *(Padding(Text(text, overflow="fold"), (0, 0, 0, left))
                  for head, text in zip(heads, texts, strict=True)
                  for left, text in ((2, head), (4 if _word(text) + 4 <= width else 0, text)) if text)
            )  # fmt: skip
        pairs = Table.grid(padding=(0, 2, 0, 0))
        for head, text in zip(heads, texts, strict=True):
            pairs.add_row(Text("  " + head, no_wrap=True), Text(text, overflow="fold"))
        return pairs


def _lines(cell: RenderableType) -> list[str]:
    return (cell.plain if isinstance(cell, Text) else str(cell)).splitlines() or [""]


def _word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _longest(column: Column) -> int:
    return max(cell_len(line) for cell in (column.header, *column.cells) for line in _lines(cell))


def _needed(column: Column) -> int:
    if column.no_wrap:
        return _longest(column)
    return max(_word(line) for cell in (column.header, *column.cells) for line in _lines(cell))
