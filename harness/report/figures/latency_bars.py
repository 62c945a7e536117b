"""Latency at each uplink (the paper's Figs. 8 and 11): its parts stacked for every scheme, and the score once."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis import Analysis, comparison
from harness.report.figures import style
from harness.report.figures.rate_performance import of_llava15
from harness.report.figures.sheet import NARROW_IN, Chart, Provenance, Rows, Sheet, end_of_axis, grid, of

_VALUE_PT = 6.0
_LABEL_FREE_IN = 0.13
"""The end of a time axis without ticks: half of a label and half of the next panel's first are wider than the gap."""
_EDGE_IN, _MARK_IN, _BEFORE_IN = 0.04, 0.09, 0.06
"""At the end of a bar that is cut: beyond its value, the mark of the cut, and the least of the bar before that."""
_MOST_SENTENCES = 4
"""On who answers first: more would be a page of small type."""
_ONE_AXIS = 4.0
"""Panels have one time axis where the longest of their bars differ by no more than this factor."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the numbers that it shows."""
    payloads = f"payloads that are {run.bytes_source}" if run.is_estimated else "the bytes of all questions"
    whole = f"means over the whole benchmark; link times replayed from {payloads} and the uplink named"
    own = "means of the replayed requests, with their own bytes"
    notes = [
        *([whole] if run.met != "all" else []),
        *([own] if run.met == "all" else [f"where requests meet or a rate varies, {own}"] if run.met == "some" else []),
        *([] if run.is_estimated else [f"intervals at {100 * run.equality.confidence:g} %"]),
        *(_first(run) if width_in >= NARROW_IN else []),
        *[text for text in (run.session, *run.timing_warnings[:1]) if text],
    ]
    about = of(run, "latency at each uplink" + (", and score" if run.scored else "; no score is claimed"), notes)
    # The bytes of an estimated run's links are not measured.
    numbers = run.numbers.assign(link_source="reported") if run.is_estimated else run.numbers
    return bars(numbers, run.parts, about, width_in, scored=run.scored, target=run.equality.target), numbers


def _first(run: Analysis) -> list[str]:
    """Who answers first at each uplink; of many, at the first three, and where the others are."""
    found = comparison.first_sentences(run.first, run.numbers)
    if len(found) <= _MOST_SENTENCES:
        return found
    others = len(found) - _MOST_SENTENCES + 1
    more = f"who answers first at the other {others} uplinks is in first.csv, and 'harness show' prints it"
    return [*found[: _MOST_SENTENCES - 1], more]


def bars(
    numbers: pd.DataFrame,
    parts: Sequence[str],
    about: Provenance,
    width_in: float = style.WIDTHS_IN["page"],
    *,
    scored: bool = True,
    target: float = 1.0,
) -> Figure:
    """A panel an uplink from :attr:`harness.analysis.Analysis.numbers`; ``parts`` are those to show, with the total.

    A row a scheme: the mean seconds of the parts, stacked, with the interval of the total and its value. A bar much
    longer than the others is cut, with its value and its interval at the cut. A part whose source is not this run's own
    timing is hatched. The first panel has each scheme's score with its interval, hollow where it does not reach the
    target; with ``scored`` false there is none. If a scheme has no bar, the reason is written in its place. To be
    called inside :func:`harness.report.figures.style.styled`.
    """
    pipelines = _names(numbers)
    # A scheme whose selected point was not replayed has no uplink.
    replayed = numbers[numbers["requests"] > 0]
    colours = {part: colour for part, colour in style.PARTS.items() if part in parts}
    uplinks = replayed[["replay", "channel", "users"]].drop_duplicates(ignore_index=True)
    narrow = width_in < NARROW_IN
    n_panels = max(len(uplinks), 1) + scored
    rows = Rows.of(pipelines, narrow=narrow, slot_in=0.165 if len(pipelines) <= 8 else 0.13)
    gap_in, right_in = 0.12 if narrow else 0.16, 0.16
    # A panel has room for the value of a bar that is cut, with its interval.
    longest = [f"{_digits(total_s)} \u00b1{_digits(total_s)}" for total_s in replayed["total_mean_s"].tolist()]
    cut_in = _EDGE_IN + _MARK_IN + _BEFORE_IN
    least_in = cut_in + max((style.width_of(words, _VALUE_PT) for words in longest), default=0.5)
    most = min(
        3 if narrow else 5 if n_panels > 8 else 4, int((width_in - rows.left_in - right_in) / (least_in + gap_in))
    )
    labels = [_label(uplink, uplinks) for _, uplink in uplinks.iterrows()]
    boxes, body_in = grid(
        width_in, n_panels, most=max(most, 1), high_in=rows.high_in, left_in=rows.left_in, below_in=0.34,
        gap_in=gap_in, right_in=right_in, titles=["score", *labels] if scored else labels,
    )  # fmt: skip
    wide_in = boxes[0][0][2]
    sheet = Sheet(width_in, body_in, about, _legend(numbers, colours))

    def panel(place: int) -> Axes:
        box, first, _ = boxes[place]
        axes = sheet.axes(*box)
        rows.put(axes, named=first)
        return axes

    if scored:
        _scores(panel(0), numbers.drop_duplicates("pipeline").set_index("pipeline").loc[list(pipelines)], rows, target)
    ends = [_end_s(_at(replayed, uplink)) for _, uplink in uplinks.iterrows()]
    together = bool(ends) and max(ends) <= _ONE_AXIS * min(ends)
    for place, (_, uplink) in enumerate(uplinks.iterrows()):
        axes = panel(place + scored)
        limit_s = _end_s(replayed) if together else ends[place]
        _bars(axes, _at(numbers, uplink), pipelines, colours, limit_s, rows, wide_in)
        axes.set_title(style.shortened(labels[place], wide_in, 7.0), fontsize=7.0, pad=3)
        if boxes[place + scored][2]:
            whole = style.width_of("mean latency (s)", 7.5) <= wide_in
            axes.set_xlabel("mean latency (s)" if whole else "latency (s)")
    if uplinks.empty:
        why = "nothing was replayed" if numbers["shown"].any() else "no scheme reaches the target"
        sheet.text(rows.left_in + scored * (wide_in + gap_in), boxes[0][0][1], why, color=style.GREY)
    return sheet.figure


def _at(numbers: pd.DataFrame, uplink: "pd.Series[float]") -> pd.DataFrame:
    return numbers[(numbers[list(uplink.index)] == uplink).all(axis=1)]


def _label(uplink: "pd.Series[float]", uplinks: pd.DataFrame) -> str:
    count = int(uplink["users"])
    label = f"{uplink['channel']}"
    if uplinks["users"].nunique() > 1:
        label += f", {count} user{'s' * (count > 1)}"
    return label if uplinks["replay"].nunique() == 1 else f"{label}, {uplink['replay']}"


def _names(numbers: pd.DataFrame) -> dict[str, str]:
    """Each pipeline, and what is written in the place of a bar that it does not have."""
    reaches = numbers.drop_duplicates("pipeline").set_index("pipeline")["shown"]
    return {str(name): "not replayed" if reached else "does not reach" for name, reached in reaches.items()}


def _legend(numbers: pd.DataFrame, colours: Mapping[str, str]) -> list[Patch]:
    handles = [Patch(facecolor=colour, label=part) for part, colour in colours.items()]
    found = {_source(source) for part in colours for source in numbers[f"{part}_source"].dropna()}
    return handles + [
        Patch(facecolor="white", edgecolor=style.INK, hatch=hatch, label=source)
        for source, hatch in style.HATCHES.items()
        if hatch and source in found
    ]


def _source(source: object) -> str:
    """Where a part's times come from; the link has no source, being replayed from bytes and the rate named."""
    return source if isinstance(source, str) else "measured"


def ticks(limit_s: float, wide_in: float) -> list[float]:
    """At least two ticks from 0 on, none so near to the end that its label would meet the next panel's first."""
    last_s = limit_s * (1 - _LABEL_FREE_IN / wide_in)
    for nbins in itertools.count(max(2, int(wide_in / 0.42))):
        found = [float(at) for at in MaxNLocator(nbins=nbins).tick_values(0, limit_s) if at <= last_s]
        if len(found) > 1:
            return found
    raise AssertionError


def _bars(
    axes: Axes,
    numbers: pd.DataFrame,
    pipelines: Mapping[str, str],
    colours: Mapping[str, str],
    limit_s: float,
    rows: Rows,
    wide_in: float,
) -> None:
    axes.set_xlim(0, limit_s)
    axes.set_xticks(ticks(limit_s, wide_in))
    # Plain mappings: one row after the other out of a wide table takes longer than all the drawing.
    found: Mapping[str, Mapping[str, Any]] = {str(row["pipeline"]): row for row in numbers.to_dict("records")}  # type: ignore[misc]
    for pipeline, instead in pipelines.items():
        y = rows.at[pipeline]
        if pipeline not in found:
            _instead(axes, y, instead, limit_s, wide_in)
            continue
        row, left_s = found[pipeline], 0.0
        if not row["total_done"]:
            _instead(axes, y, "none answered", limit_s, wide_in)
            continue
        if np.isnan(row["total_mean_s"]):
            _instead(axes, y, str(row["total_reason"]).partition(":")[0], limit_s, wide_in)
            continue
        for part, colour in colours.items():
            seconds = float(row[f"{part}_mean_s"])
            hatch = style.HATCHES.get(_source(row[f"{part}_source"]))
            # Hatches are drawn in the edge's colour: dark on light parts, light on dark ones.
            ink = "white" if part in ("device", "wait") else style.GREY
            edge: dict[str, Any] = (
                {"hatch": hatch, "edgecolor": ink, "linewidth": 0}
                if hatch
                else {"edgecolor": "white", "linewidth": 0.3}
            )
            axes.barh(y, seconds, left=left_s, height=rows.bar_in, color=colour, **edge)
            left_s += seconds
        _total(axes, y, row, limit_s, rows.bar_in, wide_in)


def _instead(axes: Axes, y: float, words: str, limit_s: float, wide_in: float) -> None:
    """Writes why there is no bar in its place."""
    size = _VALUE_PT
    axes.text(0.04 / wide_in * limit_s, y, words, ha="left", va="center", fontsize=size, color=style.GREY)


def _digits(seconds: float) -> str:
    digits = 3 if seconds < 0.0995 else 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0
    return f"{seconds:.{digits}f}"


def _like(seconds: float, value: str) -> str:
    """A time with as many decimals as another has, rounded up."""
    decimals = len(value.partition(".")[2])
    return f"{math.ceil(seconds * 10**decimals) / 10**decimals:.{decimals}f}"


def _total(axes: Axes, y: float, row: Mapping[str, Any], limit_s: float, bar_in: float, wide_in: float) -> None:
    """Writes the total beside its bar; a bar that passes the limit is cut open, its value and interval at the cut."""
    total_s, low_s, high_s = (float(row[f"total_mean{end}_s"]) for end in ("", "_low", "_high"))
    value = _digits(total_s)
    if total_s > limit_s:
        if np.isfinite(low_s):
            ends = f"{value} [{_digits(low_s)}, {_digits(high_s)}]"
            # Where both ends have no room it is the longer side; the mark of the cut always has room.
            side = f"{value} \u00b1{_like(max(total_s - low_s, high_s - total_s), value)}"
            room_in = wide_in - _EDGE_IN - _MARK_IN - _BEFORE_IN
            value = next((words for words in (ends, side) if style.width_of(words, _VALUE_PT) <= room_in), value)
        right = limit_s * (1 - _EDGE_IN / wide_in)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.92}
        axes.text(right, y, value, ha="right", va="center", fontsize=_VALUE_PT, bbox=box, zorder=5)
        cut = right - (style.width_of(value, _VALUE_PT) + _MARK_IN) / wide_in * limit_s
        for shift in (0.0, 0.035 / wide_in * limit_s):
            slant = 0.015 / wide_in * limit_s
            axes.plot(
                [cut + shift - slant, cut + shift + slant],
                [y + 0.6 * bar_in, y - 0.6 * bar_in],
                "-",
                color="white",
                lw=1.4,
            )
        return
    end_s = total_s
    if np.isfinite(low_s):
        spread = [[max(total_s - low_s, 0)], [max(high_s - total_s, 0)]]
        axes.errorbar(total_s, y, xerr=spread, color=style.INK, elinewidth=0.8, capsize=1.5, capthick=0.6)
        end_s = max(high_s, total_s)
    axes.text(end_s + 0.04 / wide_in * limit_s, y, value, ha="left", va="center", fontsize=_VALUE_PT)


def _scores(axes: Axes, table: pd.DataFrame, rows: Rows, target: float) -> None:
    """The score of each scheme's point with its interval; hollow, and off the line, where it does not reach."""
    y = np.array([rows.at[str(name)] for name in table.index])
    score, reaches = table["score"].to_numpy(float), table["reaches"].to_numpy(dtype=bool)
    low, high = table["score_low"].to_numpy(float), table["score_high"].to_numpy(float)
    spread = np.nan_to_num([np.clip(score - low, 0, None), np.clip(high - score, 0, None)])
    axes.errorbar(score, y, xerr=spread, linestyle="none", color=style.SCORE, elinewidth=0.8, alpha=0.6)
    axes.plot(score[reaches], y[reaches], color=style.SCORE, linewidth=0.9, marker="o", markersize=3.5)
    axes.plot(score[~reaches], y[~reaches], "o", color=style.SCORE, markersize=3.5, fillstyle="none", linestyle="none")
    if table["reference"].any():
        aim = target * float(table.loc[table["reference"], "score"].iloc[0])
        axes.axvline(aim, color=style.GREY, linestyle=":", linewidth=0.9, zorder=1)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(axis="x", colors=style.SCORE)
    axes.set_title("score", fontsize=7.0, pad=3, color=style.SCORE)
    axes.set_xlabel(str(table["metric"].iloc[0]), color=style.SCORE)


def _end_s(rows: pd.DataFrame) -> float:
    """The end of a time axis: there is room for the interval and the value of every bar that is not cut."""
    return end_of_axis(rows["total_mean_s"], rows[["total_mean_s", "total_mean_high_s"]].max(axis="columns"))


def _missing(run: Analysis) -> str:
    return "" if run.record.requests.num_rows else "nothing was replayed; 'harness run SCENARIO' replays a scenario"


def _not_llava15(run: Analysis) -> str:
    if not of_llava15(run):
        return (
            f"the run's backbone is {run.manifest.backbone}, and this figure is for LLaVA-1.5; "
            "'harness run scenarios/llava15.yaml' makes one"
        )
    return _missing(run)


FIG8 = Chart(what="latency at each uplink by its parts, and score", missing=_missing, draw=draw)
FIG11 = Chart(what="the same with LLaVA-1.5", missing=_not_llava15, draw=draw)
