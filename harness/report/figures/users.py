"""Many users: the 99th percentile of the latency against their number, and how much work each place receives."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, grid, left_of, logarithmic, of
from harness.units import format_seconds

_LEAST_LOAD = 0.01
"""A place that is busy for less of its time is idle; the axis is for those that are not."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: a row a scheme, uplink and number of users."""
    data, looks = _data(run), style.looks(run.manifest)
    names = [name for name in looks if name in set(data["pipeline"])]
    handles = [
        Line2D([], [], color=looks[name].colour, marker=looks[name].marker, markersize=4.5, label=name)
        for name in names
    ]
    handles += [
        Line2D([], [], color=style.INK, marker="o", fillstyle="none", linestyle="none", markersize=4.5,
               label="hollow: p99 of the replay, not certified: too few pictures"),
        Line2D([], [], color=style.INK, linestyle="--", label="utilisation, dashed: of the uplink"),
        Line2D([], [], color=style.INK, linestyle="-", label="solid: of the servers"),
        Line2D([], [], color=style.INK, linestyle=":", label="dotted: of a user's device"),
    ]  # fmt: skip
    deadline_s = run.deadline_s
    if deadline_s is not None:
        handles.append(
            Line2D([], [], color=style.SCORE, linestyle="--", label=f"deadline {format_seconds(deadline_s)}")
        )
    notes = [
        "a system that receives more work than it can do (utilisation of 1 or more) has no percentile: it would grow "
        "with the replay's length, and is not drawn"
        if run.setting.system.timeout_s is None
        else "utilisation counts all the work that arrives; where it is above 1, requests that are given up keep "
        "queues short",
    ]
    groups = list(data.groupby(["replay", "channel"], sort=False))
    narrow = width_in < NARROW_IN
    upper_in, between_in, lower_in = (1.5, 0.14, 0.8) if narrow else (1.9, 0.14, 0.9)
    stable = data["p99_s"].where(data["reason"] == "").dropna()
    both = [*stable, *([deadline_s] if deadline_s else [])]
    low_s, high_s = (min(both) / 1.4, max(both) * 1.4) if both else (0.1, 1.0)
    loads = data[["device", "uplink", "servers"]].to_numpy(float)
    loads = loads[np.isfinite(loads) & (loads > 0)]
    least_load, most_load = max(_LEAST_LOAD, min([0.1, *loads])) / 1.3, max([1.0, *loads]) * 1.5
    if (loads < _LEAST_LOAD).any():
        notes.append(f"utilisations below {_LEAST_LOAD:g} are not drawn")
    ticks = sorted(set(data["users"]))
    left_in = max(left_of(low_s, high_s), left_of(least_load, most_load))
    boxes, body_in = grid(
        width_in, len(groups), most=2 if narrow else 3, high_in=upper_in + between_in + lower_in, left_in=left_in,
        right_in=0.16, titles=[str(channel) for (_, channel), _ in groups],
    )  # fmt: skip
    sheet = Sheet(width_in, body_in, of(run, "users against the 99th percentile", notes), handles)
    for ((at_in, top_in, wide_in, _), outermost, last), ((_, channel), rows) in zip(boxes, groups, strict=True):
        upper = sheet.axes(at_in, top_in, wide_in, upper_in)
        lower = sheet.axes(at_in, top_in + upper_in + between_in, wide_in, lower_in)
        for name in names:
            own, look = rows[rows["pipeline"] == name].sort_values("users"), looks[name]
            said = own[own["reason"] == ""]
            upper.plot(said["users"], said["p99_s"], color=look.colour)
            for certified, fill in ((True, "full"), (False, "none")):
                some = said[said["certified"] == certified]
                upper.plot(some["users"], some["p99_s"], linestyle="none", marker=look.marker, color=look.colour,
                           fillstyle=fill, markersize=4.5)  # fmt: skip
            for where, dash in (("servers", "-"), ("uplink", "--"), ("device", ":")):
                lower.plot(own["users"], own[where], color=look.colour, linestyle=dash, marker=look.marker,
                           markersize=3)  # fmt: skip
        if deadline_s is not None:
            upper.axhline(deadline_s, color=style.SCORE, linestyle="--", linewidth=0.9)
        lower.axhline(1.0, color=style.GREY, linewidth=0.8, linestyle=":")
        for axes in (upper, lower):
            axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
            axes.set_xscale("log")
            axes.set_xticks(ticks, [str(int(n)) for n in ticks])
            axes.minorticks_off()
        upper.set_ylim(low_s, high_s)
        upper.set_yscale("log")
        logarithmic(upper.yaxis, upper_in)
        lower.set_ylim(least_load, most_load)
        lower.set_yscale("log")
        logarithmic(lower.yaxis, lower_in)
        upper.tick_params(labelbottom=False, labelleft=outermost)
        lower.tick_params(labelleft=outermost)
        upper.set_title(style.shortened(str(channel), wide_in, 7.0), fontsize=7.0, pad=3)
        if outermost:
            upper.set_ylabel("p99 of latency (s)")
            lower.set_ylabel("utilisation")
        if last:
            lower.set_xlabel("users")
    return sheet.figure, data


def _data(run: Analysis) -> pd.DataFrame:
    """The percentiles, those that the pictures certify with their interval, and the loads."""
    keys = ["replay", "channel", "users", "pipeline", "point"]
    total = run.times[run.times["part"] == "total"][[*keys, "p99_s", "p99_low_s", "p99_high_s", "reason"]]
    total = total.rename(columns={"p99_s": "certified_p99_s"})
    found: pd.DataFrame = run.loads.merge(total, on=keys)
    found["certified"] = found["certified_p99_s"].notna()
    found["reason"] = [str(why) if str(why).startswith("unstable") else "" for why in found["reason"]]
    return found


def _missing(run: Analysis) -> str:
    if run.record.requests.num_rows and run.times["users"].nunique() > 1:
        return ""
    return "the run was replayed for one number of users; 'harness run scenarios/multi_user.yaml' has three"


USERS = Chart(what="users against the 99th percentile, and utilisation", missing=_missing, draw=draw)
