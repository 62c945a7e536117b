"""How latencies are distributed: at each uplink the share of requests that are answered within a time."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis import Analysis
from harness.analysis.latency import CELL
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, grid, logarithmic, of
from harness.units import format_seconds

_STEPS = 400
"""A curve of more requests is drawn through so many of its quantiles."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its curves: ``seconds`` that the ``share`` of requests does not exceed."""
    data, looks = _curves(run), style.looks(run.manifest)
    several_users = data["users"].nunique() > 1
    names = [name for name in looks if name in set(data["pipeline"])]
    deadline_s = run.deadline_s
    handles = [
        Line2D([], [], color=looks[name].colour, marker=looks[name].marker, markersize=4, label=name) for name in names
    ]
    if deadline_s is not None:
        handles.append(
            Line2D([], [], color=style.SCORE, linestyle="--", label=f"deadline {format_seconds(deadline_s)}")
        )
    panels = list(data.groupby(["replay", "channel", "users"], sort=False))
    titles = [
        f"{channel}" + (f", {users} user{'s' * (int(str(users)) > 1)}" if several_users else "")
        for (_, channel, users), _ in panels
    ]
    boxes, body_in = grid(
        width_in,
        len(panels),
        most=4 if width_in >= NARROW_IN else 2 if len(panels) < 7 else 3,
        high_in=1.2,
        left_in=0.42,
        titles=titles,
    )
    notes = ["requests that were never answered are beyond the axis", "the requests are replayed from the timed ones"]
    if data["unstable"].any():
        notes.append(
            "Dotted: unstable; more work arrives than can be done, and the times grow with the replay's length"
        )
    if not run.deadline_s:
        notes.append("the scenario declares no deadline ('replay: deadline: 2 s')")
    sheet = Sheet(width_in, body_in, of(run, "share of requests answered within a time", notes), handles)
    finite = data.loc[np.isfinite(data["seconds"]) & (data["seconds"] > 0), "seconds"]
    low, high = float(finite.min()) / 1.15, max(float(finite.max()), deadline_s or 0.0) * 1.15
    for (box, first, last), title, (_, rows) in zip(boxes, titles, panels, strict=True):
        axes = sheet.axes(*box)
        axes.set_xlim(low, high)
        axes.set_xscale("log")
        for name, own in rows.groupby("pipeline", sort=False):
            look = looks[str(name)]
            # The schemes' markers are offset, so that both of two coinciding curves are seen.
            at = 0.15 + 0.7 * names.index(str(name)) / max(len(names) - 1, 1)
            mark = int(np.searchsorted(own["share"].to_numpy(float), at))
            dash = ":" if own["unstable"].any() else "-"
            axes.step(own["seconds"], own["share"], where="post", color=look.colour, linewidth=1.1, linestyle=dash)
            row = own.iloc[min(mark, len(own) - 1)]
            axes.plot(row["seconds"], row["share"], marker=look.marker, color=look.colour, markersize=4)
        if deadline_s is not None:
            axes.axvline(deadline_s, color=style.SCORE, linestyle="--", linewidth=0.9)
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.tick_params(labelleft=first)
        logarithmic(axes.xaxis, box[2])
        axes.set_title(style.shortened(title, box[2], 7.0), fontsize=7.0, pad=3)
        if last:
            axes.set_xlabel("latency (s)")
    return sheet.figure, data


def _curves(run: Analysis) -> pd.DataFrame:
    tables = []
    for cell, seconds_R in run.spent():
        ranked = np.sort(seconds_R)
        n = ranked.size
        place = np.unique(np.linspace(0, n - 1, min(n, _STEPS)).round().astype(int))
        points = {"seconds": ranked[place], "share": (place + 1) / n, "requests": n}
        tables.append(pd.DataFrame({**{name: cell[name] for name in CELL}, **points}))
    found: pd.DataFrame = pd.concat(tables, ignore_index=True)
    total = run.times[run.times["part"] == "total"]
    unstable = total.loc[total["reason"].str.startswith("unstable"), ["channel", "users", "pipeline"]]
    cells = set(unstable.itertuples(index=False, name=None))
    keys = found[["channel", "users", "pipeline"]].itertuples(index=False, name=None)
    found["unstable"] = [key in cells for key in keys]
    return found.replace({"seconds": {math.inf: np.nan}})


def _missing(run: Analysis) -> str:
    if not run.record.requests.num_rows:
        return "nothing was replayed; 'harness run SCENARIO' replays a scenario"
    return "" if run.selected_requests.num_rows else "no scheme that was replayed reaches the target"


ECDF = Chart(what="share of requests answered within a time, with the deadline", missing=_missing, draw=draw)
