"""Score against payload (the paper's Figs. 6, 7, 10 and 12): what a scheme scores for the bytes that it sends.

A line is a ladder, the points of a scheme that differ only in their rate, and the line is the curve that
:mod:`harness.analysis.curves` fits to them; the points themselves are marked, with the interval of their score.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis import Analysis, comparison
from harness.analysis.curves import Ladder
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, benchmark_name, logarithmic, of
from harness.report.figures.style import SchemeLook

_DASHES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_FILLS: Sequence[Any] = ("full", "none", "left", "top", "right", "bottom")
"""Of a scheme's ladders: the dashes of each one's line and how its markers are filled."""

_BEYOND = 3.0
"""A point of a scheme without a curve is drawn at the edge where its payload is so many times beyond the curves'."""

ENTROPY_SCHEMES = frozenset({"tofc_selective", "tofc_single", "tofc_heuristic", "tofc_factorized"})


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """What one pair of axes shows: its points, their curves by pipeline and ladder, the target score, a title."""

    points: pd.DataFrame
    ladders: Mapping[tuple[str, str], Ladder]
    target: float
    title: str = ""


def by_benchmark(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """A panel for each benchmark."""
    names = run.manifest.benchmarks
    panels = []
    for name in names:
        points = run.benchmarks[run.benchmarks["benchmark"] == name]
        title = benchmark_name(run.manifest, name) if len(names) > 1 else ""
        panels.append(Panel(points, run.ladders_in(name), _target(points, run), title))
    return curves(run, panels, width_in), run.benchmarks


def on_average(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """One panel, of the run's score: of several benchmarks the average of each over the reference's own."""
    return curves(run, [Panel(run.points, run.ladders, _target(run.points, run))], width_in), run.points


def curves(run: Analysis, panels: Sequence[Panel], width_in: float) -> Figure:
    """The panels beside and below each other, with one legend."""
    looks = style.looks(run.manifest)
    legend = _legend(panels, looks, run)
    equality, first = run.equality, panels[0].points.iloc[0]
    notes = [
        f"intervals at {100 * equality.confidence:g} % over {first['clusters']} independent groups of "
        f"{first['questions']} questions",
        "a line is the curve fitted to the points that differ only in their rate; it is pale if the score is not "
        "established to grow with the bytes",
        f"a ring marks the point with the fewest bytes at a score certified to be at least "
        f"{100 * equality.certified:.3g} % of {equality.reference}'s",
    ]
    if width_in >= NARROW_IN:
        notes.append(comparison.bytes_sentence(run.equal_scores, equality.target, equality.reference))
    several = len(run.manifest.benchmarks) > 1 and len(panels) == 1
    what = (
        "average score, each benchmark's over the reference's own, against payload"
        if several
        else "score against payload"
    )
    about = of(run, what, notes)
    narrow = width_in < NARROW_IN
    in_a_row = 1 if narrow or len(panels) == 1 else 2
    left_in, right_in, below_in = 0.48, 0.14, 0.38
    high_in = 2.1 if narrow else 3.1 if in_a_row == 1 else 2.2
    wide_in = (width_in - in_a_row * (left_in + right_in)) / in_a_row
    # Each row has room for the lines of its own titles.
    lines = [len(style.wrapped(panel.title, wide_in, 7.5)) for panel in panels]
    rows = range(0, len(panels), in_a_row)
    above_in = [0.08 + 0.13 * max(lines[first : first + in_a_row]) for first in rows]
    sheet = Sheet(width_in, sum(above_in) + len(rows) * (high_in + below_in), about, legend)
    for place, panel in enumerate(panels):
        row, column = divmod(place, in_a_row)
        top_in = sum(above_in[: row + 1]) + row * (high_in + below_in)
        axes = sheet.axes(left_in + column * (left_in + wide_in + right_in), top_in, wide_in, high_in)
        _draw(axes, panel, looks, wide_in)
    return sheet.figure


def _draw(axes: Axes, panel: Panel, looks: Mapping[str, SchemeLook], wide_in: float) -> None:
    points = panel.points
    low, high = limits(points)
    # Room for a marker's half and its ring on either side.
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.set_xscale("log")
    for (pipeline, ladder), rungs, place in _ladders(points):
        _ladder(axes, rungs, panel.ladders.get((pipeline, ladder)), looks[pipeline], place, (low, high))
    reference = points[points["reference"]].iloc[0]
    axes.axhline(
        reference["score"], color=looks[str(reference["pipeline"])].colour, linestyle="--", linewidth=0.9, zorder=1
    )
    axes.axhline(panel.target, color=style.GREY, linestyle=":", linewidth=0.9, zorder=1)
    logarithmic(axes.xaxis, wide_in)
    axes.set_xlabel("mean payload (KB)")
    axes.set_ylabel(str(reference["metric"]))
    axes.margins(y=0.06)
    sent = points.loc[points["payload_bytes"] > 0, "payload_bytes"] / 1000
    for beyond, x in (((sent < low).any(), 0.012), ((sent > high).any(), 0.975)):
        # The axis is broken where something far beyond it is drawn at its edge.
        for shift in (0.0, 0.012) if beyond else ():
            slant = [x + shift - 0.004, x + shift + 0.004]
            axes.plot(
                slant, [-0.02, 0.02], "-", color=style.INK, lw=0.8, clip_on=False, transform=axes.transAxes, zorder=6
            )
    if panel.title:
        axes.set_title(style.shortened(panel.title, wide_in, 7.5), fontsize=7.5, pad=3)


def _ladder(
    axes: Axes, rungs: pd.DataFrame, ladder: Ladder | None, look: SchemeLook, place: int, limits_kb: tuple[float, float]
) -> None:
    """One ladder: its curve, its points with their intervals; what lies beyond the axis is an arrow at its edge."""
    dash, fill = _DASHES[place % len(_DASHES)], _FILLS[place % len(_FILLS)]
    for score in rungs.loc[rungs["payload_bytes"] == 0, "score"]:
        axes.axhline(score, color=look.colour, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    sent = rungs[rungs["payload_bytes"] > 0].sort_values("payload_bytes")
    kilobytes = sent["payload_bytes"].to_numpy(float) / 1000
    if ladder is not None:
        u = np.linspace(0, 1, 64)
        alpha = 1.0 if ladder.slope_established else 0.35
        kilobytes_U = np.exp(ladder.curve.log_bytes(u)) / 1000
        axes.plot(kilobytes_U, ladder.curve.at(u)[0], color=look.colour, linestyle=dash, alpha=alpha, zorder=2)
    low, high = limits_kb
    edge = np.where(kilobytes > high, axes.get_xlim()[1], np.where(kilobytes < low, axes.get_xlim()[0], kilobytes))
    score = sent["score"].to_numpy(float)
    spread = [np.clip(score - sent["score_low"], 0, None), np.clip(sent["score_high"] - score, 0, None)]
    axes.errorbar(
        edge, score, np.nan_to_num(spread), color=look.colour, linestyle="none", elinewidth=0.7, alpha=0.5, zorder=2,
        clip_on=False,
    )  # fmt: skip
    axes.plot(
        edge, score, linestyle="none", marker=look.marker, markersize=5, color=look.colour, fillstyle=fill,
        markerfacecoloralt="white", markeredgewidth=0.8, zorder=4, clip_on=False,
    )  # fmt: skip
    chosen = sent["selected"].to_numpy(bool)
    axes.plot(
        edge[chosen], score[chosen], linestyle="none", marker="o", markersize=10, fillstyle="none", color=look.colour,
        markeredgewidth=1.1, zorder=3, clip_on=False,
    )  # fmt: skip


def limits(points: pd.DataFrame) -> tuple[float, float]:
    """The least and the largest payload on the axis, in KB: those of the curves, and points that are not far beyond.

    A scheme of a single point, such as one that sends the original picture, does not squeeze the curves into a corner.
    """
    sent = points[points["payload_bytes"] > 0]
    rungs = sent.groupby(["pipeline", "ladder"])["payload_bytes"].transform("nunique")
    on_curves = sent.loc[rungs > 1, "payload_bytes"] if (rungs > 1).any() else sent["payload_bytes"]
    if on_curves.empty:
        return 0.1, 10.0
    low, high = float(on_curves.min()), float(on_curves.max())
    near = sent["payload_bytes"].between(low / _BEYOND, high * _BEYOND)
    shown = sent.loc[near, "payload_bytes"]
    return float(shown.min()) / 1000, float(shown.max()) / 1000


def _ladders(points: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame, int]]:
    """Each ladder's pipeline and name, its points, and its place among those of its scheme."""
    found, place = [], dict[str, int]()
    for (pipeline, ladder), rungs in points.groupby(["pipeline", "ladder"], sort=False):
        name = str(pipeline)
        found.append(((name, str(ladder)), rungs, place.setdefault(name, 0)))
        place[name] += 1
    return found


def _beyond(points: pd.DataFrame, pipeline: str, ladder: str) -> list[float]:
    """The payloads of a ladder, in KB, that are beyond the axis."""
    low, high = limits(points)
    own = points[(points["pipeline"] == pipeline) & (points["ladder"] == ladder) & (points["payload_bytes"] > 0)]
    kilobytes = own["payload_bytes"] / 1000
    return [float(value) for value in kilobytes[(kilobytes < low) | (kilobytes > high)]]


def _legend(panels: Sequence[Panel], looks: Mapping[str, SchemeLook], run: Analysis) -> list[Any]:
    """An entry a ladder, with what cannot be seen in the axes; then what the lines and the ring mean."""
    points = panels[0].points
    several = points.groupby("pipeline")["ladder"].nunique()
    handles = []
    for (pipeline, ladder), rungs, place in _ladders(points):
        name = f"{pipeline}, {ladder}" if several[pipeline] > 1 else pipeline
        remarks = []
        if not (rungs["payload_bytes"] > 0).any():
            remarks.append("sends nothing")
        beyond = [value for panel in panels for value in _beyond(panel.points, pipeline, ladder)]
        if len(panels) == 1:
            remarks += [f"at the edge: {value:.3g} KB" for value in beyond]
        elif beyond:
            remarks.append("some beyond the axis, drawn at its edge")
        if not any(panel.points.loc[panel.points["pipeline"] == pipeline, "selected"].any() for panel in panels):
            # The average of several benchmarks may reach where no single one has the questions to certify it.
            remarks.append("does not reach" if len(panels) == 1 else "does not reach on any one benchmark")
        dotted = not (rungs["payload_bytes"] > 0).any()
        handles.append(
            Line2D(
                [],
                [],
                color=looks[pipeline].colour,
                markersize=5,
                markeredgewidth=0.8,
                markerfacecoloralt="white",
                linestyle=(0, (1, 2)) if dotted else _DASHES[place % len(_DASHES)] if len(rungs) > 1 else "none",
                marker="none" if dotted else looks[pipeline].marker,
                fillstyle=_FILLS[place % len(_FILLS)],
                label=name + (f" ({'; '.join(remarks)})" if remarks else ""),
            )
        )
    reference = run.equality.reference
    colour = looks[reference].colour if reference in looks else style.INK
    return [
        *handles,
        Line2D([], [], linestyle="--", linewidth=0.9, color=colour, label=f"score of {reference}"),
        Line2D([], [], linestyle=":", linewidth=0.9, color=style.GREY, label=f"{100 * run.equality.target:g} % of it"),
        Line2D(
            [], [], linestyle="none", marker="o", markersize=9, fillstyle="none", color=style.INK, label="selected"
        ),
    ]  # fmt: skip


def _target(points: pd.DataFrame, run: Analysis) -> float:
    return run.equality.target * float(points.loc[points["reference"], "score"].iloc[0])


def of_llava15(run: Analysis) -> bool:
    """Whether the run's backbone is of the family of LLaVA-1.5."""
    return "llava15" in run.manifest.backbone or "llava-1.5" in run.manifest.backbone


def _unscored(run: Analysis) -> str:
    if run.scored:
        return ""
    return (
        f"no score is claimed, because {run.equality.reference} scores 0 in some benchmark; ask more questions "
        "('samples' in the scenario) and 'harness run' it again"
    )


def _no_average(run: Analysis) -> str:
    if len(run.manifest.benchmarks) < 2:
        return (
            "the run has one benchmark, and the figure is of several; "
            "'harness run scenarios/rate_performance.yaml' makes one"
        )
    return _unscored(run)


def _not_llava15(run: Analysis) -> str:
    if not of_llava15(run):
        return (
            f"the run's backbone is {run.manifest.backbone}, and this figure is for LLaVA-1.5; "
            "'harness run scenarios/llava15_benchmarks.yaml' makes one"
        )
    return _unscored(run)


def _no_ablation(run: Analysis) -> str:
    schemes = {str(pipeline.get("scheme")) for pipeline in run.manifest.scenario.get("pipelines", ())}
    if len(schemes & ENTROPY_SCHEMES) < 2:
        return (
            "the run does not compare ways of coding features with each other; "
            "'harness run scenarios/ablation_entropy.yaml' makes one that does"
        )
    return _unscored(run)


FIG6 = Chart(what="score against payload, in each benchmark", missing=_unscored, draw=by_benchmark)
FIG7 = Chart(what="score against payload, average of several benchmarks", missing=_no_average, draw=on_average)
FIG10 = Chart(what="score against payload with LLaVA-1.5", missing=_not_llava15, draw=on_average)
FIG12 = Chart(what="score against payload, ways of coding features", missing=_no_ablation, draw=on_average)
