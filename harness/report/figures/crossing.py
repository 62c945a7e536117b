"""Latency against the uplink's rate, on logarithmic axes, with every rate at which two schemes change places."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, left_of, logarithmic, of
from harness.units import format_rate

_FEWEST_RATES = 3

_Name = tuple[str, float, int]
"""Words, where their middle is in inches, and their line, from 0."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: the means at each rate (``kind`` mean), and the crossings (``kind`` crossing)."""
    rows, looks = _rows(run), style.looks(run.manifest)
    crossings = run.crossovers
    narrow = width_in < NARROW_IN
    names = list(dict.fromkeys(rows["pipeline"]))
    handles = [
        Line2D([], [], color=looks[name].colour, marker=looks[name].marker, markersize=4.5, label=name)
        for name in names
    ]
    leading = crossings[crossings["leads"].astype(bool)].sort_values("rate_bps")
    first = [{str(name): value for name, value in crossing.items()} for crossing in leading.to_dict("records")]
    of_lines = all(_carried_bits(own) is not None for _, own in rows.groupby("pipeline"))
    handles.append(
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=4,
            color="white",
            markeredgecolor=style.INK,
            label="two change places",
        )
    )
    notes = [
        f"means with intervals at {100 * run.equality.confidence:g} %; lines "
        + ("are timed stages + 8 \u00d7 bytes on the wire / rate" if of_lines else "join the means"),
        f"Circles: rates at which two schemes change places ({len(crossings)}); from a labelled rate on another "
        "scheme answers first; the horizontal line at its circle is the rate's interval",
    ]
    shown_s = rows["mean_s"][rows["mean_s"] > 0]
    left_in, right_in, high_in = max(0.5, left_of(shown_s.min(), shown_s.max())), 0.24, 2.5 if narrow else 3.3
    wide_in = width_in - left_in - right_in
    low, high = float(rows["rate_bps"].min()), float(rows["rate_bps"].max())
    limits_bps = low / 1.12, high * 1.12
    named = _named(first, limits_bps, wide_in)
    named_in = 0.06 + 0.115 * (1 + max((line for *_, line in named), default=-1))
    sheet = Sheet(width_in, named_in + high_in + 0.36, of(run, "latency against the uplink's rate", notes), handles)
    axes = sheet.axes(left_in, named_in, wide_in, high_in)
    axes.set_xlim(limits_bps[0] / 8e3, limits_bps[1] / 8e3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    fine = np.geomspace(low, high, 200)
    for name in names:
        own, look = rows[rows["pipeline"] == name].sort_values("rate_bps"), looks[name]
        at, mean_s = own["rate_bps"].to_numpy(float), own["mean_s"].to_numpy(float)
        if of_lines:
            base_s = float((own["mean_s"] - own["link_s"]).mean())
            axes.plot(fine / 8e3, base_s + (_carried_bits(own) or 0.0) / fine, color=look.colour, zorder=2)
        else:
            axes.plot(at / 8e3, mean_s, color=look.colour, zorder=2)
        spread = np.nan_to_num([np.clip(mean_s - own["low_s"], 0, None), np.clip(own["high_s"] - mean_s, 0, None)])
        axes.errorbar(
            at / 8e3, mean_s, spread, linestyle="none", color=look.colour, elinewidth=0.7, alpha=0.5, zorder=2
        )
        axes.plot(at / 8e3, mean_s, linestyle="none", marker=look.marker, color=look.colour, markersize=4.5, zorder=3)
    for crossing in first:
        ends = np.clip([crossing["rate_low_bps"], crossing["rate_high_bps"]], low, high) / 8e3
        axes.plot(ends, [crossing["mean_s"]] * 2, "-", color=style.INK, linewidth=0.8, zorder=4)
    axes.plot(
        crossings["rate_bps"] / 8e3, crossings["mean_s"], linestyle="none", marker="o", markersize=4, color="white",
        markeredgecolor=style.INK, markeredgewidth=0.8, zorder=5,
    )  # fmt: skip
    axes.margins(y=0.06)
    for crossing in first:
        axes.axvline(crossing["rate_bps"] / 8e3, color=style.GREY, linewidth=0.7, linestyle=":", zorder=1)
    for words, middle_in, line in named:
        sheet.text(left_in + middle_in, named_in - 0.05 - 0.115 * line, words, 6.5, ha="center", va="bottom")
    logarithmic(axes.xaxis, wide_in, lambda kilobytes: format_rate(8e3 * kilobytes))
    _own_rates(axes, np.unique(rows["rate_bps"]), wide_in)
    logarithmic(axes.yaxis, high_in)
    axes.set_xlabel("uplink rate")
    axes.set_ylabel("mean latency (s)")
    data = pd.concat([rows.assign(kind="mean"), crossings.assign(kind="crossing")], ignore_index=True)
    return sheet.figure, data


def _own_rates(axes: Axes, rates_bps: "np.ndarray[Any, np.dtype[np.float64]]", wide_in: float) -> None:
    """Labels at the run's own rates, where all of them have room."""
    low, high = axes.get_xlim()
    at_in = np.log(rates_bps / 8e3 / low) / np.log(high / low) * wide_in
    labels = [format_rate(rate) for rate in rates_bps]
    half_in = np.array([style.width_of(label, 7.0) / 2 for label in labels])
    if (np.diff(at_in) > half_in[1:] + half_in[:-1] + 0.05).all():
        axes.set_xticks(rates_bps / 8e3, labels)
        axes.xaxis.set_minor_locator(NullLocator())


def _named(first: Sequence[Mapping[str, Any]], limits_bps: tuple[float, float], wide_in: float) -> list[_Name]:
    """What is written above the axes at the rates from which on another answers first, in lines that do not meet."""
    low, high = limits_bps
    found: list[_Name] = []
    end_in: list[float] = []
    for crossing in first:
        rate_bps = float(crossing["rate_bps"])
        words = f"from {format_rate(rate_bps)} on {crossing['above']} first"
        half_in = style.width_of(words, 6.5) / 2
        at_in = float(np.log(rate_bps / low) / np.log(high / low)) * wide_in
        middle_in = max(min(at_in, wide_in - half_in), half_in)
        line = next((n for n, taken_in in enumerate(end_in) if middle_in - half_in > taken_in + 0.06), len(end_in))
        end_in[line : line + 1] = [middle_in + half_in]
        found.append((words, middle_in, line))
    return found


def _carried_bits(own: pd.DataFrame) -> float | None:
    """The bits on the wire of a scheme's mean request; None where its link takes more than these over the rate."""
    bits = (own["link_s"] * own["rate_bps"]).to_numpy(float)
    return float(bits.mean()) if np.allclose(bits, bits.mean(), rtol=0.01) else None


def _rows(run: Analysis) -> pd.DataFrame:
    """The means of one user, whose requests do not meet, at constant rates."""
    numbers = run.numbers
    rate = {uplink.label: uplink.rate_bps for uplink in run.setting.system.uplinks if hasattr(uplink, "rate_bps")}
    rows = numbers[(numbers["users"] == 1) & numbers["channel"].isin(rate) & numbers["total_mean_s"].notna()]
    alone = {channel: run.setting.alone({"channel": channel, "users": 1}) for channel in set(rows["channel"])}
    rows = rows[rows["channel"].map(alone).astype(bool)].drop_duplicates(["pipeline", "channel"])
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
            f"the run has the latency of a user who waits for nobody at only {n} constant rates, and a curve needs "
            f"{_FEWEST_RATES}; 'harness run scenarios/crossover.yaml' has twelve"
        )
    return ""


CROSSOVER = Chart(
    what="latency against the uplink's rate, and where schemes change places", missing=_missing, draw=draw
)
