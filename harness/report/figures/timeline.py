"""One request over time: the stages on the device, the link, the stages on the server, a row for each scheme.

All schemes have the same picture, the one whose timed stages are the median of all that were answered in the replay;
each scheme's stages are those of the round in which it took its own median time on it. A scheme whose request of that
picture was never answered at an uplink has no stages there.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis import Analysis, latency
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Rows, Sheet, end_of_axis, grid, of
from harness.units import three_digits

COLOURS: Mapping[str, str] = {
    "preprocess": "#B9D6E8",
    "vision_encode": "#1B4965",
    "merge": "#5FA8D3",
    "encode": "#2A9D8F",
    "link": style.PARTS["link"],
    "wait": style.PARTS["wait"],
    "decode": "#C6A15B",
    "project": "#F4D58D",
    "prefill": "#E3A008",
    "generate": "#9B2226",
}
"""The colours of the stages, in the order of the legend."""

_OTHER = "#7F7F7F"


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its stretches: ``begin_s`` and ``seconds`` of each stage of each scheme's request."""
    data = _stretches(run)
    timed = {pipeline for pipeline, _ in run.selected_keys}
    schemes = [name for name in style.looks(run.manifest) if name in timed]
    stages = [name for name in COLOURS if name in set(data["stage"])]
    stages += [name for name in dict.fromkeys(data["stage"]) if name not in COLOURS]
    handles = [Patch(facecolor=COLOURS.get(name, _OTHER), label=name) for name in stages]
    handles.append(Patch(facecolor="white", edgecolor=style.INK, linewidth=1.0, label="framed: on the server"))
    found = set(data["source"])
    handles += [
        Patch(facecolor="white", edgecolor=style.INK, hatch=hatch, label=source)
        for source, hatch in style.HATCHES.items()
        if hatch and source in found
    ]
    panels = list(data.groupby("channel", sort=False))
    narrow = width_in < NARROW_IN
    table = Rows.of(schemes, narrow=narrow, slot_in=0.19)
    boxes, body_in = grid(
        width_in, len(panels), most=1 if narrow else 2, high_in=table.high_in, left_in=table.left_in, gap_in=0.2,
        titles=[str(channel) for channel, _ in panels],
    )  # fmt: skip
    sample = str(data["sample"].iloc[0])
    notes = [
        f"timed question {sample}, of median latency over all schemes, among those that most of them answered",
        "the link's time is replayed from the bytes that were sent" if (data["stage"] == "link").any() else "",
    ]
    sheet = Sheet(width_in, body_in, of(run, "one request of each scheme", notes), handles)
    for (box, first, last), (channel, rows) in zip(boxes, panels, strict=True):
        axes = sheet.axes(*box)
        ends = rows.assign(end=rows["begin_s"] + rows["seconds"]).groupby("pipeline")["end"].max()
        limit_s = end_of_axis(ends, ends)
        for name in schemes:
            _row(axes, table.at[name], rows[rows["pipeline"] == name], limit_s, table.bar_in, box[2])
        axes.set_xlim(0, limit_s)
        table.put(axes, named=first)
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(style.shortened(str(channel), box[2], 7.0), fontsize=7.0, pad=3)
        if last:
            axes.set_xlabel("time since the question (s)")
    return sheet.figure, data


def _row(axes: Axes, y: float, rows: pd.DataFrame, limit_s: float, bar_in: float, wide_in: float) -> None:
    if rows.empty:
        axes.text(0.04 / wide_in * limit_s, y, "not answered", ha="left", va="center", fontsize=6.0, color=style.GREY)
        return
    end_s = 0.0
    for row in rows.to_dict("records"):
        begin_s, seconds = float(row["begin_s"]), float(row["seconds"])
        end_s = begin_s + seconds
        hatch = style.HATCHES.get(str(row["source"]))
        axes.barh(
            y, max(min(end_s, limit_s) - begin_s, 0.0), left=begin_s, height=bar_in, hatch=hatch,
            color=COLOURS.get(str(row["stage"]), _OTHER),
            edgecolor=style.INK if row["side"] == "server" else style.GREY if hatch else "white",
            linewidth=0.7 if row["side"] == "server" else 0.0,
        )  # fmt: skip
    words = f"{three_digits(end_s)} s"
    if end_s > limit_s:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.92}
        x = limit_s * (1 - 0.04 / wide_in)
        axes.text(x, y, f"{words} \u2192", ha="right", va="center", fontsize=6.0, bbox=box, zorder=5)
    else:
        axes.text(end_s + 0.04 / wide_in * limit_s, y, words, ha="left", va="center", fontsize=6.0)


def _stretches(run: Analysis) -> pd.DataFrame:
    """The stages of one request of every selected point, at the slowest uplink and at the fastest."""
    points = run.points[run.points["selected"]][["pipeline", "point"]]
    stages = run.record.stages.to_pandas().merge(points, on=["pipeline", "point"])
    channels = _channels(run)
    sample = _sample(run, stages, channels)
    columns = ["sample", "channel", "pipeline", "point", "side", "stage", "begin_s", "seconds", "source"]
    rows = []
    for channel in channels:
        for pipeline, point in points.itertuples(index=False):
            own = stages[(stages["pipeline"] == pipeline) & (stages["sample"] == sample)]
            spent = latency.link_and_wait(run.selected_requests, str(pipeline), str(point), channel, sample)
            if own.empty or spent is None:
                continue
            ranked = own.groupby("repeat")["seconds"].sum().sort_values(kind="stable")
            own = own[own["repeat"] == ranked.index[(len(ranked) - 1) // 2]]
            at_s = 0.0
            steps = [(side, s, t, src) for side, s, t, src in own[["side", "stage", "seconds", "source"]].to_numpy()]
            # A side's rows are in the order in which its stages happened.
            steps.sort(key=lambda step: step[0] == "server")
            between = [("", name, spent[name], "") for name in ("link", "wait") if spent[name] > 0]
            here = sum(step[0] == "device" for step in steps)
            for side, stage, seconds, source in [*steps[:here], *between, *steps[here:]]:
                rows.append(
                    dict(
                        zip(
                            columns, (sample, channel, pipeline, point, side, stage, at_s, seconds, source), strict=True
                        )
                    )
                )
                at_s += seconds
    return pd.DataFrame(rows, columns=columns)


def _channels(run: Analysis) -> list[str]:
    """The slowest uplink and the fastest."""
    channels = [str(cell["channel"]) for cell, _ in run.spent()]
    return list(dict.fromkeys([channels[0], channels[-1]]))


def _sample(run: Analysis, stages: pd.DataFrame, channels: Sequence[str]) -> str:
    """The timed question of median latency among those that most schemes had answered in the replay."""
    totals = stages.groupby(["pipeline", "sample", "repeat"])["seconds"].sum()
    of_sample = totals.groupby(["pipeline", "sample"]).median().groupby("sample").median().sort_values()
    answered = latency.times_answered(run.selected_requests, channels)
    of_sample = of_sample[[answered.get(sample, 0) == max(answered.values()) for sample in of_sample.index]]
    return str(of_sample.index[(len(of_sample) - 1) // 2])


def _missing(run: Analysis) -> str:
    if not run.record.requests.num_rows:
        return "nothing was replayed; 'harness run SCENARIO' replays a scenario"
    if not run.selected_requests.num_rows:
        return "no scheme that was replayed reaches the target"
    answered = latency.times_answered(run.selected_requests, _channels(run))
    return "" if answered else "no request was answered at the slowest and the fastest uplink"


TIMELINE = Chart(what="one request of each scheme, stage by stage", missing=_missing, draw=draw)
