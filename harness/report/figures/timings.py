"""How well the times are known: how each scheme's time moved from round to round, and the interval of its mean."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Rows, Sheet, of


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: each scheme's ``level`` in each round over its mean, and its mean's interval."""
    levels, means = run.levels, _means(run)
    looks = style.looks(run.manifest)
    names = [name for name in looks if name in set(levels["pipeline"])]
    handles = [
        Line2D([], [], color=looks[name].colour, marker=looks[name].marker, markersize=4.5, label=name)
        for name in names
    ]
    narrow = width_in < NARROW_IN
    table = Rows.of(names, narrow=narrow)
    named_in = table.left_in
    left_in, right_in, high_in = 0.46, 0.16, max(1.6, table.high_in)
    notes = [
        "times of device and server together, at the selected points",
        f"{'in the lower panel' if narrow else 'on the right'}: the {100 * run.equality.confidence:g} % interval of "
        "the mean, over the mean, without the link",
        *run.timing_warnings[:2],
        f"{more} more warnings; see 'harness show'" if (more := len(run.timing_warnings) - 2) > 0 else "",
        run.session,
    ]
    about = of(run, "interval and drift of the timings", notes)
    if narrow:
        wide_in = width_in - left_in - right_in
        boxes = [
            (left_in, 0.2, wide_in, high_in),
            (named_in, 0.2 + high_in + 0.62, width_in - named_in - right_in, table.high_in),
        ]
        body_in = high_in + table.high_in + 1.2
    else:
        wide_in = (width_in - left_in - named_in - 2 * right_in) / 2
        boxes = [
            (left_in, 0.2, wide_in, high_in),
            (left_in + wide_in + right_in + named_in, 0.2, wide_in, table.high_in),
        ]
        body_in = high_in + 0.6
    sheet = Sheet(width_in, body_in, about, handles)
    drift, spread = sheet.axes(*boxes[0]), sheet.axes(*boxes[1])
    for place, name in enumerate(names):
        own, look = levels[levels["pipeline"] == name].sort_values("round"), looks[name]
        # Offset a little, so that schemes that moved alike are all visible.
        beside = 0.3 * (place / max(len(names) - 1, 1) - 0.5)
        drift.plot(
            own["round"] + 1 + beside, 100 * (own["level"] - 1), color=look.colour, marker=look.marker, markersize=4.5
        )
    drift.axhline(0, color=style.GREY, linewidth=0.7)
    drift.set_xticks(sorted(set(levels["round"] + 1)) if levels["round"].nunique() <= 12 else drift.get_xticks())
    drift.set_xlim(levels["round"].min() + 0.6, levels["round"].max() + 1.4)
    drift.set_xlabel("round")
    drift.set_ylabel("level over the mean (%)")
    drift.set_title("drift from round to round", fontsize=7.0, pad=3)
    for name in names:
        y, row = table.at[name], means[means["pipeline"] == name].iloc[0]
        look = looks[name]
        if np.isnan(row["low"]):
            spread.text(0, y, "no interval", fontsize=6.0, ha="center", va="center", color=style.GREY)
            continue
        ends = [[100 * (1 - row["low"])], [100 * (row["high"] - 1)]]
        spread.errorbar(
            0, y, xerr=ends, color=look.colour, marker=look.marker, markersize=4.5, elinewidth=1.2, capsize=2
        )
    most = max(100 * float(np.nanmax([0.01, *(means["high"] - 1), *(1 - means["low"])])), 1.0)
    spread.set_xlim(-1.15 * most, 1.15 * most)
    spread.axvline(0, color=style.GREY, linewidth=0.7)
    table.put(spread)
    spread.set_xlabel("interval over the mean (%)")
    spread.set_title("interval of the mean", fontsize=7.0, pad=3)
    return sheet.figure, pd.concat([levels.assign(kind="level"), means.assign(kind="mean")], ignore_index=True)


def _means(run: Analysis) -> pd.DataFrame:
    rows = []
    for pipeline, of_scheme in run.levels.groupby("pipeline", sort=False):
        estimate = run.timed_mean(str(pipeline), str(of_scheme["point"].iloc[0]))
        rows.append({"pipeline": pipeline, "point": of_scheme["point"].iloc[0], "mean_s": estimate.value,
                     "low": estimate.low / estimate.value, "high": estimate.high / estimate.value,
                     "reason": estimate.reason})  # fmt: skip
    return pd.DataFrame(rows)


def _missing(run: Analysis) -> str:
    return "" if len(run.levels) else "no selected point was timed; 'harness run SCENARIO' times them"


TIMINGS = Chart(what="interval of the mean times, and their drift from round to round", missing=_missing, draw=draw)
