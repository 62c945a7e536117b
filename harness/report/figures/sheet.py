"""The sheet that a figure is drawn on: its title and labels, a legend, panels, and where its numbers come from.

All lengths are in inches. The width is given, a page's or a column's; the height follows from what is on the sheet.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.analysis import Analysis
from harness.report.figures import style
from harness.runs.provenance import Manifest

NARROW_IN = 5.0
"""A sheet that is narrower is a column's: smaller type, fewer panels beside each other."""

_EDGE_IN, _GAP_IN = 0.06, 0.05
_LEADING = 1.25 / 72
_FOOT_PT, _NAME_PT = 6.0, 7.0
_TITLE_LINE_IN = 0.11
"""The height of each further line of a panel's title."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """An entry of the gallery: a figure.

    ``what`` is a phrase for its users. ``missing(run)`` is empty where the run's rows can draw it; else a sentence says
    what is missing and which command makes it. ``draw(run, width_in)`` gives the figure and the data that it shows;
    ``texts(run)`` what is written beside it, by the file's ending.
    """

    what: str
    missing: Callable[[Analysis], str]
    draw: Callable[[Analysis, float], tuple[Figure, pd.DataFrame]]
    texts: Callable[[Analysis], Mapping[str, str]] = lambda _: {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The title, what a reader must know before the first number, and the sources, as texts."""

    title: str
    stand_ins: str
    warnings: Sequence[str]
    sources: str
    untuned: str = ""


def of(run: Analysis, subtitle: str, notes: Sequence[str] = (), benchmarks: Sequence[str] | None = None) -> Provenance:
    """What a run's manifest, the machines that it was timed on, and a figure's own title and notes say.

    The title begins with the benchmark that the numbers are of, and with what it stands in for.
    """
    manifest, reasons = run.manifest, run.reasons
    warnings = [f"INVALID: {reason}" for reason in reasons[:1]]
    if more := len(reasons) - 1 if reasons else 0:
        warnings[0] += f" (and {more} more reason{'s' * (more > 1)}; see 'harness show')"
    times = [*run.elsewhere, run.times_source]
    which = f"Run {manifest.name}, {run.validity if manifest.validity else 'unfinished'}"
    what = f"scenario {manifest.scenario_hash} ({manifest.scenario_value('title')}), code {manifest.commits}"
    finished = f"finished {manifest.finished_utc}" if manifest.finished_utc else "unfinished"
    return Provenance(
        title=f"{subject(manifest, benchmarks)}: {subtitle}",
        stand_ins=manifest.label,
        untuned=manifest.untuned,
        warnings=warnings,
        sources=". ".join(map(_capital, [*filter(None, notes), *times, f"{which}, {what}, {finished}"])) + ".",
    )


def subject(manifest: Manifest, benchmarks: Sequence[str] | None = None) -> str:
    """``StreetsQA (stand-in for RealWorldQA)``; of several benchmarks, all of them."""
    return " and ".join(benchmark_name(manifest, name) for name in benchmarks or manifest.benchmarks)


def benchmark_name(manifest: Manifest, name: str) -> str:
    """A benchmark, with what it stands in for."""
    wanted = [wanted for wanted, ran in manifest.stand_ins.items() if ran == name]
    return f"{name} (stand-in for {', '.join(wanted)})" if wanted else name


class Sheet:
    """A figure with its texts and its legend, and room for ``body_in`` of panels between."""

    def __init__(self, width_in: float, body_in: float, about: Provenance, legend: Sequence[Any] = ()) -> None:
        self.width_in, self.narrow = width_in, width_in < NARROW_IN
        self._title_pt, self._label_pt = (7.5, 6.5) if self.narrow else (9.0, 7.0)
        # A little less than all: vector formats set type a hair wider.
        inner_in = 0.985 * (width_in - 2 * _EDGE_IN)
        lines = [
            (line, self._title_pt, style.INK, True)
            for line in style.wrapped(about.title, inner_in, self._title_pt, bold=True)
        ]
        labels = [
            (about.stand_ins, "#8A5A00"),
            (about.untuned, "#8A5A00"),
            *((warning, "#B00020") for warning in about.warnings),
        ]
        lines += [
            (line, self._label_pt, colour, False)
            for text, colour in labels
            for line in style.wrapped(text, inner_in, self._label_pt)
        ]
        foot = [(line, _FOOT_PT, "#555555", False) for line in style.wrapped(about.sources, inner_in, _FOOT_PT)]
        head_in, foot_in = (_EDGE_IN + sum(size * _LEADING for _, size, _, _ in part) for part in (lines, foot))
        rows = _rows(legend, inner_in)
        legend_in = sum(high_in for _, high_in in rows) + (_GAP_IN if rows else 0.0)
        self._body_top_in = head_in + legend_in
        self.height_in = self._body_top_in + body_in + _GAP_IN + foot_in + _EDGE_IN
        self.figure = style.page(width_in, self.height_in)
        self._write(lines, _EDGE_IN)
        self._write(foot, self.height_in - foot_in)
        top_in = head_in + 0.02
        for row, high_in in rows:
            anchor = (_EDGE_IN / width_in, 1 - top_in / self.height_in)
            self.figure.legend(
                handles=row, loc="upper left", ncols=len(row), bbox_to_anchor=anchor, borderaxespad=0.0, **_LEGEND
            )
            top_in += high_in

    def axes(self, left_in: float, top_in: float, width_in: float, height_in: float, **how: Any) -> Axes:
        """Axes in the body, ``top_in`` below its upper edge."""
        bottom_in = self.height_in - self._body_top_in - top_in - height_in
        box = (
            left_in / self.width_in,
            bottom_in / self.height_in,
            width_in / self.width_in,
            height_in / self.height_in,
        )
        return self.figure.add_axes(box, **how)

    def text(self, left_in: float, top_in: float, words: str, size: float = 7.0, **how: Any) -> None:
        """Words in the body, their upper left corner ``top_in`` below its upper edge."""
        y = 1 - (self._body_top_in + top_in) / self.height_in
        self.figure.text(left_in / self.width_in, y, words, **{"fontsize": size, "va": "top", **how})

    def _write(self, lines: Sequence[tuple[str, float, str, bool]], top_in: float) -> None:
        for words, size, colour, bold in lines:
            weight = "bold" if bold else "normal"
            y = 1 - top_in / self.height_in
            x = _EDGE_IN / self.width_in
            self.figure.text(x, y, words, fontsize=size, color=colour, fontweight=weight, va="top")
            top_in += size * _LEADING


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A row for each name, one below the other: axes of :attr:`high_in` whose unit is an inch, downwards from 0.

    ``at`` has the middle of each, ``bar_in`` how high a bar in it is, ``left_in`` the room that the names take.
    """

    labels: Mapping[str, str]
    at: Mapping[str, float]
    high_in: float
    bar_in: float
    left_in: float

    @classmethod
    def of(cls, names: Iterable[str], *, narrow: bool, slot_in: float = 0.165) -> "Rows":
        """Rows of at least ``slot_in``; a name is wrapped where it is long, and has as many lines as it needs."""
        wrapped = {name: style.wrapped(name, 0.95 if narrow else 1.4, _NAME_PT) or [name] for name in names}
        at: dict[str, float] = {}
        top_in = 0.0
        for name, lines in wrapped.items():
            row_in = max(slot_in, 0.105 * len(lines) + 0.03)
            at[name] = top_in + row_in / 2
            top_in += row_in
        widest_in = max((style.width_of(line, _NAME_PT) for lines in wrapped.values() for line in lines), default=0.5)
        labels = {name: "\n".join(lines) for name, lines in wrapped.items()}
        return cls(labels=labels, at=at, high_in=max(top_in, slot_in), bar_in=0.68 * slot_in, left_in=0.12 + widest_in)

    def put(self, axes: Axes, *, named: bool = True) -> None:
        """Gives axes the rows, with their names on the left if ``named``."""
        axes.set_ylim(self.high_in, 0.0)
        axes.set_yticks(list(self.at.values()), list(self.labels.values()), fontsize=_NAME_PT, linespacing=1.0)
        axes.tick_params(axis="y", length=0, labelleft=named)
        axes.grid(axis="y", visible=False)


Box = tuple[float, float, float, float]
"""Left, top, width and height of axes in the body, in inches."""


def grid(
    width_in: float,
    n_panels: int,
    *,
    most: int,
    high_in: float,
    left_in: float,
    above_in: float = 0.2,
    below_in: float = 0.36,
    gap_in: float = 0.16,
    right_in: float = 0.14,
    titles: Sequence[str] = (),
) -> tuple[list[tuple[Box, bool, bool]], float]:
    """Panels in rows of at most ``most``, as few rows as possible, and the height of all of them.

    Each with whether it is its row's first, and whether no other is below it. ``titles`` of 7 points are wrapped to the
    width of their panels: each row has room above it for the lines of its own longest, ``above_in`` for one.
    """
    n_rows = math.ceil(max(n_panels, 1) / most)
    in_a_row = math.ceil(max(n_panels, 1) / n_rows)
    wide_in = (width_in - left_in - right_in - (in_a_row - 1) * gap_in) / in_a_row
    lines = [len(style.wrapped(title, wide_in, 7.0)) for title in titles]
    found, top_in = [], 0.0
    for first in range(0, n_rows * in_a_row, in_a_row):
        top_in += above_in + _TITLE_LINE_IN * (max([1, *lines[first : first + in_a_row]]) - 1)
        for place in range(first, min(first + in_a_row, n_panels)):
            box = (left_in + (place - first) * (wide_in + gap_in), top_in, wide_in, high_in)
            found.append((box, place == first, place + in_a_row >= n_panels))
        top_in += high_in + below_in
    return found, top_in


def end_of_axis(values: "pd.Series[float]", highs: "pd.Series[float]") -> float:
    """The end of an axis: beyond every bar, with its interval and value, that is at most thrice the median one.

    A bar that ends below that gets its room too, so that none loses its interval or value without being cut.
    """
    shown, wanted = values < 0, values <= 3 * values.median()
    end = 0.0
    while (wanted & ~shown).any():
        shown |= wanted
        end = 1.35 * float(highs[shown].max())
        wanted = values <= end
    return end or 1.0


def left_of(low: float, high: float) -> float:
    """The room that a logarithmic vertical axis between these takes on its left: for its labels and its name."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return 0.3 + max(style.width_of(f"{10.0**n:g}", 7.0) for n in powers)


def logarithmic(axis: Any, length_in: float, form: Callable[[float], str] = "{:g}".format) -> None:
    """Labels of a logarithmic axis as plain numbers: at 1, 2 and 5 where there is room, else at 1, or some 1."""
    low, high = sorted(axis.get_view_interval())
    decades = max(math.log10(high / low), 1e-3)
    powers = [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)] or [low]
    widest_in = max(style.width_of(form(5 * power), 7.0) for power in (powers[0] / 10, *powers[:-1], powers[-1] / 5))
    each_in = 0.16 if axis.axis_name == "y" else widest_in + 0.08
    # The nearest neighbours of 1, 2 and 5 are 0.3 of a decade apart.
    apart = {(1.0, 2.0, 5.0): 0.301, (1.0, 3.0): 0.477, (1.0,): 1.0}
    subs = next((subs for subs, share in apart.items() if share * length_in / decades >= each_in), (1.0,))
    each = max(1, math.ceil(each_in * decades / length_in)) if subs == (1.0,) else 1
    axis.set_major_locator(LogLocator(base=10.0**each, subs=subs, numticks=40))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_locator(LogLocator(subs=[n for n in range(1, 10) if n not in subs or each > 1], numticks=40))
    axis.set_minor_formatter(NullFormatter())


_LEGEND_PT = 7.0
_LEGEND: Mapping[str, Any] = {"handlelength": 1.8, "columnspacing": 1.2, "handletextpad": 0.5, "borderpad": 0.0}
_HANDLE_IN, _BETWEEN_IN, _LINE_IN = (1.8 + 0.5) * _LEGEND_PT / 72, 1.2 * _LEGEND_PT / 72, 0.145


def _rows(handles: Sequence[Any], width_in: float) -> list[tuple[list[Any], float]]:
    """A legend's rows, as full as they can be, each with its height; a label that is wider than a row is wrapped."""
    rows: list[tuple[list[Any], float]] = []
    left_in = width_in
    for handle in handles:
        room_in = width_in - _HANDLE_IN
        lines = [
            part for line in str(handle.get_label()).split("\n") for part in style.wrapped(line, room_in, _LEGEND_PT)
        ]
        handle.set_label("\n".join(lines))
        wide_in = _HANDLE_IN + max((style.width_of(line, _LEGEND_PT) for line in lines), default=0.0)
        high_in = _LINE_IN * max(len(lines), 1)
        if not rows or left_in + _BETWEEN_IN + wide_in > width_in:
            rows.append(([handle], high_in))
            left_in = wide_in
        else:
            row, before_in = rows[-1]
            rows[-1] = ([*row, handle], max(before_in, high_in))
            left_in += _BETWEEN_IN + wide_in
    return rows


def _capital(text: str) -> str:
    """A note as a sentence; the name of a scheme or an uplink before a colon is left as it is."""
    return text if text.split()[0].endswith(":") else f"{text[0].upper()}{text[1:]}"
