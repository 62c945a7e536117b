"""Latency at each uplink (the paper's Fig. 8): its parts stacked for every scheme, the score above."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.provenance import Provenance, of

_PANELS_A_ROW = 3
_LEFT_IN, _RIGHT_IN, _GAP_IN = 0.7, 0.75, 0.3
_BARS_IN, _SCORE_IN, _CAPTION_IN, _LEGEND_IN = 2.3, 0.75, 0.32, 0.3
_BAR_IN, _LETTER_IN, _NARROWEST_IN = 0.42, 0.068, 6.5


def bars(numbers: pd.DataFrame, parts: Sequence[str], provenance: Provenance, *, scored: bool = True) -> Figure:
    """A panel an uplink from :attr:`harness.analysis.Analysis.numbers`; ``parts`` are those to show, with the total.

    Below, the mean seconds of the parts, stacked, with the interval of the total and its value; a bar much longer than
    the others is cut, and its value stands at the cut. A part whose source is neither measured nor recorded is hatched.
    Above, on the right axis, the score of the selected point with its interval. Where a scheme has no such point,
    ``does not reach`` is written in the bar's place; with ``scored`` false no score is claimed or drawn.
    To be called inside :func:`harness.report.figures.style.styled`.
    """
    pipelines = _names(numbers)
    # A scheme whose selected point was not replayed has no uplink.
    replayed = numbers[numbers["requests"] > 0]
    colours = {part: colour for part, colour in style.PARTS.items() if part in parts}
    uplinks = replayed[["replay", "channel", "users"]].drop_duplicates(ignore_index=True)
    n_columns = min(_PANELS_A_ROW, max(len(uplinks), 1))
    n_rows = max(math.ceil(len(uplinks) / n_columns), 1)

    panel_in = max(_BAR_IN * len(pipelines), 2.0, (_NARROWEST_IN - _LEFT_IN - _RIGHT_IN) / n_columns - _GAP_IN)
    slot_in = panel_in / len(pipelines)
    left_in = max(_LEFT_IN, *(0.77 * _LETTER_IN * len(name) - slot_in * i for i, name in enumerate(pipelines)))
    names_in = 0.25 + _LETTER_IN * 0.7 * max(map(len, pipelines))
    row_in = _CAPTION_IN + _SCORE_IN + _BARS_IN + names_in
    width_in = left_in + n_columns * panel_in + (n_columns - 1) * _GAP_IN + _RIGHT_IN
    head_in, foot_in = provenance.head_in(width_in), provenance.foot_in(width_in)
    height_in = head_in + _LEGEND_IN + n_rows * row_in + foot_in
    figure = style.page(width_in, height_in)

    limit_s = _limit_s(replayed)
    for index, uplink in uplinks.iterrows():
        row, column = divmod(int(str(index)), n_columns)
        x = (left_in + column * (panel_in + _GAP_IN)) / width_in
        y_in = height_in - head_in - _LEGEND_IN - row * row_in - _CAPTION_IN - _SCORE_IN - _BARS_IN
        bars = figure.add_axes((x, y_in / height_in, panel_in / width_in, _BARS_IN / height_in))
        score = figure.add_axes((x, (y_in + _BARS_IN) / height_in, panel_in / width_in, _SCORE_IN / height_in))
        here = (numbers[list(uplink.index)] == uplink).all(axis=1)
        _bars(bars, numbers[here].set_index("pipeline"), pipelines, colours, limit_s)
        if scored:
            _scores(score, numbers.drop_duplicates("pipeline").set_index("pipeline"), pipelines)
        else:
            _no_scores(score, len(pipelines))
        count = int(uplink["users"])
        users = f", {count} user{'s' * (count > 1)}" if uplinks["users"].nunique() > 1 else ""
        score.set_title(f"{uplink['channel']}{users}", fontsize=9.5, pad=4)
        bars.tick_params(labelleft=column == 0)
        score.tick_params(labelright=scored and column == n_columns - 1)
        if column == 0:
            bars.set_ylabel("mean latency (s)")
        if scored and column == n_columns - 1:
            score.set_ylabel(str(numbers["metric"].iloc[0]).replace(" (", "\n("), color=style.SCORE, fontsize=8)

    if uplinks.empty:
        middle = (head_in + _LEGEND_IN + 0.4 * row_in) / height_in
        why = "nothing was replayed" if numbers["shown"].any() else "no scheme reaches the target"
        figure.text(0.5, 1 - middle, why, ha="center", color="#666666")
    handles = [Patch(facecolor=colour, label=part) for part, colour in colours.items()]
    if any(not _is_timed(source) for part in colours for source in numbers[f"{part}_source"].dropna()):
        unfirm = Patch(facecolor="white", edgecolor="#333333", hatch=style.NOT_MEASURED_HATCH, label="not measured")
        handles.append(unfirm)
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), bbox_to_anchor=(0.0, 1 - head_in / height_in),
        borderaxespad=0.2, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
    provenance.write(figure)
    return figure


def missing(run: Analysis) -> str:
    """Why a run's rows cannot draw it."""
    return "" if run.record.requests.num_rows else "nothing was replayed; 'harness run SCENARIO' replays a scenario"


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the numbers that it shows."""
    about = of(run, "latency at each uplink, and score", [])
    return bars(run.numbers, run.parts, about, scored=run.scored), run.numbers


def _names(numbers: pd.DataFrame) -> dict[str, str]:
    """Each pipeline, and what is written in the place of a bar that it does not have."""
    reaches = numbers.drop_duplicates("pipeline").set_index("pipeline")["shown"]
    return {str(name): "not replayed" if reached else "does not reach" for name, reached in reaches.items()}


def _bars(
    axes: Axes, rows: pd.DataFrame, pipelines: Mapping[str, str], colours: Mapping[str, str], limit_s: float
) -> None:
    axes.spines["right"].set_visible(False)
    for x, (pipeline, instead) in enumerate(pipelines.items()):
        if pipeline not in rows.index:
            _instead(axes, x, instead, limit_s)
            continue
        row, bottom_s = rows[rows.index == pipeline].iloc[0], 0.0
        if not row["total_done"]:
            _instead(axes, x, "none answered", limit_s)
            continue
        if np.isnan(row["total_mean_s"]):
            _instead(axes, x, str(row["total_reason"]).partition(":")[0], limit_s)
            continue
        for part, colour in colours.items():
            seconds = float(row[f"{part}_mean_s"])
            hatch = None if _is_timed(row[f"{part}_source"]) else style.NOT_MEASURED_HATCH
            axes.bar(
                x, seconds, bottom=bottom_s, width=0.68, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4
            )
            bottom_s += seconds
        _total(axes, x, row, limit_s)
    axes.set_xlim(-0.6, len(pipelines) - 0.4)
    axes.set_ylim(0, limit_s)
    names = list(pipelines)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.tick_params(axis="x", length=0)


def _instead(axes: Axes, x: int, words: str, limit_s: float) -> None:
    """Writes why there is no bar in its place."""
    axes.text(x, 0.03 * limit_s, words, rotation=90, ha="center", va="bottom", fontsize=8, color="#666666")


def _total(axes: Axes, x: int, row: "pd.Series[float]", limit_s: float) -> None:
    """Writes the total on its bar; a bar that passes the limit is cut open below its value."""
    total_s, low_s, high_s = row["total_mean_s"], row["total_mean_low_s"], row["total_mean_high_s"]
    digits = 3 if total_s < 0.0995 else 2 if total_s < 9.995 else 1 if total_s < 99.95 else 0
    value = f"{total_s:.{digits}f}"
    if total_s > limit_s:
        cut = 0.86 * limit_s
        for shift in (0.0, 0.03 * limit_s):
            axes.plot(
                [x - 0.4, x + 0.4],
                [cut + shift - 0.012 * limit_s, cut + shift + 0.012 * limit_s],
                "-",
                color="white",
                lw=2,
            )
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(x, 0.985 * limit_s, value, ha="center", va="top", fontsize=7.5, bbox=box, zorder=5)
        return
    top_s = total_s
    if np.isfinite(low_s):
        axes.errorbar(
            x, total_s, [[max(total_s - low_s, 0)], [max(high_s - total_s, 0)]], color="#222222", elinewidth=0.9
        )
        top_s = max(high_s, total_s)
    axes.text(x, top_s + 0.015 * limit_s, value, ha="center", va="bottom", fontsize=7.5)


def _scores(axes: Axes, rows: pd.DataFrame, pipelines: Mapping[str, str]) -> None:
    """The score line; a scheme that does not reach is shown hollow, with its best score, and off the line."""
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color("#CCCCCC")
    x = np.arange(len(pipelines))
    table = rows.loc[list(pipelines)]
    score, reaches = table["score"].to_numpy(), table["reaches"].to_numpy(dtype=bool)
    low, high = table["score_low"].to_numpy(), table["score_high"].to_numpy()
    spread = np.nan_to_num([np.clip(score - low, 0, None), np.clip(high - score, 0, None)])
    axes.errorbar(x, score, spread, linestyle="none", color=style.SCORE, elinewidth=0.8, alpha=0.6)
    axes.plot(x[reaches], score[reaches], color=style.SCORE, linewidth=1.1, marker="o", markersize=4)
    axes.plot(x[~reaches], score[~reaches], "o", color=style.SCORE, markersize=4, fillstyle="none", linestyle="none")
    axes.set_xlim(-0.6, len(pipelines) - 0.4)
    axes.margins(y=0.15)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", labelsize=7.5, colors=style.SCORE)
    axes.locator_params(axis="y", nbins=3)


def _no_scores(axes: Axes, n_pipelines: int) -> None:
    """Says in the place of the score line that there is none."""
    axes.set_axis_off()
    axes.set_xlim(-0.6, n_pipelines - 0.4)
    axes.text(0.5, 0.5, "no score is claimed", transform=axes.transAxes, ha="center", fontsize=8, color="#666666")


def _limit_s(rows: pd.DataFrame) -> float:
    """The end of the time axis: above every bar, with its interval and value, that is at most thrice the median one.

    A bar that ends below that gets its room too, so that none loses its interval or value without being cut.
    """
    total_s, high_s = rows["total_mean_s"], rows[["total_mean_s", "total_mean_high_s"]].max(axis="columns")
    shown, wanted = total_s < 0, total_s <= 3 * total_s.median()
    limit_s = 0.0
    while (wanted & ~shown).any():
        shown |= wanted
        limit_s = 1.12 * float(high_s[shown].max())
        wanted = total_s <= limit_s
    return limit_s or 1.0


def _is_timed(source: object) -> bool:
    """Whether a part was timed by somebody; the link has no source, being replayed from bytes and the rate named."""
    return source in ("measured", "recorded") or source is None or source != source
