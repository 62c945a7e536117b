"""Latency at each uplink (the paper's Figs. 8 and 11): its parts stacked for every scheme, and the score once."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis import Analysis, comparison
from harness.report.figures import style
from harness.report.figures.rate_performance import of_llava15
from harness.report.figures.sheet import NARROW_IN, Chart, Provenance, Sheet, of

_NAME_PT, _VALUE_PT = 7.0, 6.0
_ONE_AXIS = 4.0
"""Panels have one time axis where the longest of their bars differ by no more than this factor."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the numbers that it shows."""
    notes = [
        "means over the whole benchmark; link times replayed from the bytes of all questions and the uplink named",
        f"intervals at {100 * run.equality.confidence:g} %",
        *(comparison.first_sentences(run.first)[:3] if width_in >= NARROW_IN else []),
        *[text for text in (run.session, *run.timing_warnings[:1]) if text],
    ]
    about = of(run, "latency at each uplink" + (", and score" if run.scored else "; no score is claimed"), notes)
    return bars(run.numbers, run.parts, about, width_in, scored=run.scored, target=run.equality.target), run.numbers


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
    target; with ``scored`` false there is none. Where a scheme has no bar, it is said why in its place.
    To be called inside :func:`harness.report.figures.style.styled`.
    """
    pipelines = _names(numbers)
    # A scheme whose selected point was not replayed has no uplink.
    replayed = numbers[numbers["requests"] > 0]
    colours = {part: colour for part, colour in style.PARTS.items() if part in parts}
    uplinks = replayed[["replay", "channel", "users"]].drop_duplicates(ignore_index=True)
    narrow = width_in < NARROW_IN
    n_panels = len(uplinks) + scored
    in_a_row = _in_a_row(n_panels, 3 if narrow else 5 if n_panels > 8 else 4)
    names = {name: style.wrapped(name, 1.15 if narrow else 1.5, _NAME_PT) for name in pipelines}
    left_in = 0.12 + max(style.width_of(line, _NAME_PT) for lines in names.values() for line in lines)
    gap_in, right_in = 0.12 if narrow else 0.16, 0.16
    wide_in = (width_in - left_in - right_in - (in_a_row - 1) * gap_in) / in_a_row
    slot_in = 0.13 * max(1.0, *(0.85 * len(lines) for lines in names.values()))
    if len(pipelines) <= 8:
        slot_in = max(slot_in, 0.165)
    high_in, above_in, below_in = slot_in * len(pipelines), 0.2, 0.34
    labels = [_label(uplink, uplinks) for _, uplink in uplinks.iterrows()]
    titles = [style.wrapped(label, wide_in, 7.0) for label in labels]
    above_in += 0.11 * (max((len(title) for title in titles), default=1) - 1)
    row_in = above_in + high_in + below_in
    sheet = Sheet(width_in, max(math.ceil(n_panels / in_a_row), 1) * row_in, about, _legend(numbers, colours))

    def panel(place: int) -> Axes:
        row, column = divmod(place, in_a_row)
        axes = sheet.axes(left_in + column * (wide_in + gap_in), row * row_in + above_in, wide_in, high_in)
        axes.set_ylim(len(pipelines) - 0.5, -0.5)
        axes.set_yticks(range(len(pipelines)), ["\n".join(lines) for lines in names.values()], fontsize=_NAME_PT)
        axes.tick_params(axis="y", length=0, labelleft=column == 0)
        axes.grid(axis="y", visible=False)
        return axes

    if scored:
        rows = numbers.drop_duplicates("pipeline").set_index("pipeline").loc[list(pipelines)]
        _scores(panel(0), rows, target)
    ends = [_limit_s(_at(replayed, uplink)) for _, uplink in uplinks.iterrows()]
    together = bool(ends) and max(ends) <= _ONE_AXIS * min(ends)
    for place, (_, uplink) in enumerate(uplinks.iterrows()):
        axes = panel(place + scored)
        limit_s = _limit_s(replayed) if together else ends[place]
        _bars(axes, _at(numbers, uplink).set_index("pipeline"), pipelines, colours, limit_s, wide_in)
        axes.set_title("\n".join(titles[place]), fontsize=7.0, pad=3)
        last = place + scored + in_a_row >= n_panels
        if last:
            axes.set_xlabel("mean latency (s)" if not narrow or in_a_row < 3 else "latency (s)")
    if uplinks.empty:
        why = "nothing was replayed" if numbers["shown"].any() else "no scheme reaches the target"
        sheet.text(width_in / 2 + (wide_in / 2 if scored else 0), above_in, why, ha="center", color=style.GREY)
    return sheet.figure


def _in_a_row(n_panels: int, most: int) -> int:
    """As few rows as there must be, and panels spread evenly over them."""
    rows = math.ceil(max(n_panels, 1) / most)
    return math.ceil(max(n_panels, 1) / rows)


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


def _bars(
    axes: Axes,
    rows: pd.DataFrame,
    pipelines: Mapping[str, str],
    colours: Mapping[str, str],
    limit_s: float,
    wide_in: float,
) -> None:
    axes.set_xlim(0, limit_s)
    # Without a label at the very end, which would meet the next panel's first.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=max(2, int(wide_in / 0.42)), prune="upper"))
    for y, (pipeline, instead) in enumerate(pipelines.items()):
        if pipeline not in rows.index:
            _instead(axes, y, instead, limit_s, wide_in)
            continue
        row, left_s = rows[rows.index == pipeline].iloc[0], 0.0
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
            axes.barh(
                y, seconds, left=left_s, height=0.7, color=colour, hatch=hatch, edgecolor=ink if hatch else "white",
                linewidth=0 if hatch else 0.3,
            )  # fmt: skip
            left_s += seconds
        _total(axes, y, row, limit_s, wide_in)


def _instead(axes: Axes, y: int, words: str, limit_s: float, wide_in: float) -> None:
    """Writes why there is no bar in its place."""
    size = _VALUE_PT
    axes.text(0.04 / wide_in * limit_s, y, words, ha="left", va="center", fontsize=size, color=style.GREY)


def _digits(seconds: float) -> str:
    digits = 3 if seconds < 0.0995 else 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0
    return f"{seconds:.{digits}f}"


def _total(axes: Axes, y: int, row: "pd.Series[float]", limit_s: float, wide_in: float) -> None:
    """Writes the total beside its bar; a bar that passes the limit is cut open, its value and interval at the cut."""
    total_s, low_s, high_s = (float(row[f"total_mean{end}_s"]) for end in ("", "_low", "_high"))
    value = _digits(total_s)
    if total_s > limit_s:
        if np.isfinite(low_s):
            value += f" [{_digits(low_s)}, {_digits(high_s)}]"
        right = limit_s * (1 - 0.04 / wide_in)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.92}
        axes.text(right, y, value, ha="right", va="center", fontsize=_VALUE_PT, bbox=box, zorder=5)
        cut = right - (style.width_of(value, _VALUE_PT) + 0.09) / wide_in * limit_s
        for shift in (0.0, 0.035 / wide_in * limit_s) if cut > 0.05 * limit_s else ():
            slant = 0.015 / wide_in * limit_s
            axes.plot([cut + shift - slant, cut + shift + slant], [y + 0.4, y - 0.4], "-", color="white", lw=1.4)
        return
    end_s = total_s
    if np.isfinite(low_s):
        spread = [[max(total_s - low_s, 0)], [max(high_s - total_s, 0)]]
        axes.errorbar(total_s, y, xerr=spread, color=style.INK, elinewidth=0.8, capsize=1.5, capthick=0.6)
        end_s = max(high_s, total_s)
    axes.text(end_s + 0.04 / wide_in * limit_s, y, value, ha="left", va="center", fontsize=_VALUE_PT)


def _scores(axes: Axes, table: pd.DataFrame, target: float) -> None:
    """The score of each scheme's point with its interval; hollow, and off the line, where it does not reach."""
    y = np.arange(len(table))
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


def _limit_s(rows: pd.DataFrame) -> float:
    """The end of the time axis: beyond every bar, with its interval and value, that is at most thrice the median one.

    A bar that ends below that gets its room too, so that none loses its interval or value without being cut.
    """
    total_s, high_s = rows["total_mean_s"], rows[["total_mean_s", "total_mean_high_s"]].max(axis="columns")
    shown, wanted = total_s < 0, total_s <= 3 * total_s.median()
    limit_s = 0.0
    while (wanted & ~shown).any():
        shown |= wanted
        limit_s = 1.35 * float(high_s[shown].max())
        wanted = total_s <= limit_s
    return limit_s or 1.0


def _missing(run: Analysis) -> str:
    return "" if run.record.requests.num_rows else "nothing was replayed; 'harness run SCENARIO' replays a scenario"


def _not_llava15(run: Analysis) -> str:
    if not of_llava15(run):
        return (
            f"the run's backbone is {run.manifest.backbone}, and the figure is of LLaVA-1.5; "
            "'harness run scenarios/llava15.yaml' makes one"
        )
    return _missing(run)


FIG8 = Chart(what="latency at each uplink by its parts, and score", missing=_missing, draw=draw)
FIG11 = Chart(what="the same with LLaVA-1.5", missing=_not_llava15, draw=draw)
