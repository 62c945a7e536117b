"""Latency against the uplink's rate, on logarithmic axes, with every rate at which two schemes change places."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, logarithmic, of
from harness.units import format_rate

_FEWEST_RATES = 3


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: the means at each rate (``kind`` mean), and the crossings (``kind`` crossing)."""
    rows, looks = _rows(run), style.looks(run.manifest)
    crossings = run.crossovers
    narrow = width_in < NARROW_IN
    names = list(dict.fromkeys(rows["pipeline"]))
    handles = [
        Line2D([], [], color=looks[name].colour, marker=looks[name].marker, markersize=4.5, label=name) for name in names
    ]
    first = _first(rows, crossings)
    handles.append(
        Line2D([], [], linestyle="none", marker="o", markersize=4, color="white", markeredgecolor=style.INK, label="two change places, with its interval")
    )
    notes = [
        f"means with intervals at {100 * run.equality.confidence:g} %; lines are timed stages + 8 bytes / rate",
        f"{len(crossings)} rates at which two schemes change places; named are those at which another answers first",
    ]
    left_in, right_in, high_in = 0.5, 0.24, 2.5 if narrow else 3.3
    named_in = 0.32 if first else 0.06
    wide_in = width_in - left_in - right_in
    sheet = Sheet(width_in, named_in + high_in + 0.36, of(run, "latency against the uplink's rate", notes), handles)
    axes = sheet.axes(left_in, named_in, wide_in, high_in)
    low, high = rows["rate_bps"].min(), rows["rate_bps"].max()
    axes.set_xlim(low / 8e3 / 1.12, high / 8e3 * 1.12)
    axes.set_xscale("log")
    axes.set_yscale("log")
    fine = np.geomspace(low, high, 200)
    for name in names:
        own, look = rows[rows["pipeline"] == name].sort_values("rate_bps"), looks[name]
        at, mean_s = own["rate_bps"].to_numpy(float), own["mean_s"].to_numpy(float)
        base_s, carried = float((own["mean_s"] - own["link_s"]).mean()), own["link_s"].to_numpy(float) * at
        if np.allclose(carried, carried.mean(), rtol=0.01):
            axes.plot(fine / 8e3, base_s + carried.mean() / fine, color=look.colour, zorder=2)
        else:
            axes.plot(at / 8e3, mean_s, color=look.colour, zorder=2)
        spread = np.nan_to_num([np.clip(mean_s - own["low_s"], 0, None), np.clip(own["high_s"] - mean_s, 0, None)])
        axes.errorbar(at / 8e3, mean_s, spread, linestyle="none", color=look.colour, elinewidth=0.7, alpha=0.5, zorder=2)
        axes.plot(at / 8e3, mean_s, linestyle="none", marker=look.marker, color=look.colour, markersize=4.5, zorder=3)
    ends = crossings[["rate_low_bps", "rate_high_bps"]].clip(lower=low, upper=high).to_numpy(float)
    at = crossings["rate_bps"].to_numpy(float)
    spread = np.nan_to_num([np.clip(at - ends[:, 0], 0, None), np.clip(ends[:, 1] - at, 0, None)]) / 8e3
    axes.errorbar(at / 8e3, crossings["mean_s"], xerr=spread, linestyle="none", color=style.INK, elinewidth=0.7, zorder=4)
    axes.plot(
        crossings["rate_bps"] / 8e3, crossings["mean_s"], linestyle="none", marker="o", markersize=4, color="white",
        markeredgecolor=style.INK, markeredgewidth=0.8, zorder=5,
    )  # fmt: skip
    axes.margins(y=0.06)
    _name(axes, first, wide_in)
    logarithmic(axes.xaxis, wide_in, lambda kilobytes: format_rate(8e3 * kilobytes))
    logarithmic(axes.yaxis, high_in)
    axes.set_xlabel("uplink rate")
    axes.set_ylabel("mean latency (s)")
    data = pd.concat([rows.assign(kind="mean"), crossings.assign(kind="crossing")], ignore_index=True)
    return sheet.figure, data


def _name(axes: "object", first: "list[tuple[float, str, str]]", wide_in: float) -> None:
    """Writes above the axes which rates change who answers first; those without room are marked by a line alone."""
    low, high = axes.get_xlim()  # type: ignore[attr-defined]
    end_in = [-1.0, -1.0, -1.0]
    for rate_bps, _, above in first:
        kilobytes = rate_bps / 8e3
        axes.axvline(kilobytes, color=style.GREY, linewidth=0.7, linestyle=":", zorder=1)  # type: ignore[attr-defined]
        words = f"from {format_rate(rate_bps)} on {above} first"
        half_in = style.width_of(words, 6.5) / 2
        share = float(np.log(kilobytes / low) / np.log(high / low))
        middle_in = min(max(share * wide_in, half_in), wide_in - half_in)
        line = next((n for n, taken_in in enumerate(end_in) if middle_in - half_in > taken_in + 0.06), None)
        if line is None:
            continue
        end_in[line] = middle_in + half_in
        axes.annotate(  # type: ignore[attr-defined]
            words, (middle_in / wide_in, 1), xycoords="axes fraction", xytext=(0, 2 + 7.5 * line),
            textcoords="offset points", ha="center", va="bottom", fontsize=6.5, annotation_clip=False,
        )  # fmt: skip


def _first(rows: pd.DataFrame, crossings: pd.DataFrame) -> "list[tuple[float, str, str]]":
    """The crossings at which who answers first changes: the rate, and the schemes that do below and above it."""
    found = []
    for crossing in crossings.sort_values("rate_bps").to_dict("records"):
        # At the crossing nobody else is faster, by the same sums as the lines.
        others = []
        for _, own in rows[~rows["pipeline"].isin([crossing["below"], crossing["above"]])].groupby("pipeline"):
            carried = float((own["link_s"] * own["rate_bps"]).mean())
            others.append(float((own["mean_s"] - own["link_s"]).mean()) + carried / crossing["rate_bps"])
        if all(other >= crossing["mean_s"] for other in others):
            found.append((float(crossing["rate_bps"]), str(crossing["below"]), str(crossing["above"])))
    return found


def _rows(run: Analysis) -> pd.DataFrame:
    """The means of one user at constant rates."""
    numbers = run.numbers
    rate = {uplink.label: uplink.rate_bps for uplink in run.setting.system.uplinks if hasattr(uplink, "rate_bps")}
    rows = numbers[(numbers["users"] == 1) & numbers["channel"].isin(rate) & numbers["total_mean_s"].notna()]
    rows = rows.drop_duplicates(["pipeline", "channel"])
    found: pd.DataFrame = rows[["pipeline", "point", "channel"]].assign(
        rate_bps=rows["channel"].map(rate).astype(float), mean_s=rows["total_mean_s"], low_s=rows["total_mean_low_s"],
        high_s=rows["total_mean_high_s"], link_s=rows["link_mean_s"],
    )  # fmt: skip
    return found


def _missing(run: Analysis) -> str:
    if not run.record.requests.num_rows:
        return "nothing was replayed; 'harness run scenarios/crossover.yaml' replays a scenario over twelve rates"
    if (n := _rows(run)["channel"].nunique()) < _FEWEST_RATES:
        return (
            f"the run has one user's latency at {n} constant rates, and a curve takes {_FEWEST_RATES}; "
            "'harness run scenarios/crossover.yaml' has twelve"
        )
    return ""


CROSSOVER = Chart(what="latency against the uplink's rate, and where schemes change places", missing=_missing, draw=draw)
