"""The rate-performance curves (the paper's Fig. 6): what a scheme scores for the bytes that it sends."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.provenance import Provenance, of

_WIDTH_IN, _AXES_IN = 8.0, 3.9
_LEFT_IN, _RIGHT_IN, _BELOW_IN = 0.75, 2.15, 0.55


def curves(points: pd.DataFrame, provenance: Provenance) -> Figure:
    """One curve a scheme from the rows of :func:`harness.analysis.select.select`.

    Mean payload in KB (1000 bytes, logarithmic) against the benchmark's score, with the score's interval at each point.
    The point selected at equal score is ringed. The reference's score is a dashed line; that of a scheme that sends
    nothing is a dotted one. To be called inside :func:`harness.report.figures.style.styled`.
    """
    foot_in, head_in = provenance.foot_in(_WIDTH_IN), provenance.head_in(_WIDTH_IN)
    height_in = foot_in + _BELOW_IN + _AXES_IN + head_in
    figure = style.page(_WIDTH_IN, height_in)
    axes = figure.add_axes(
        (
            _LEFT_IN / _WIDTH_IN,
            (foot_in + _BELOW_IN) / height_in,
            (_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / _WIDTH_IN,
            _AXES_IN / height_in,
        )
    )
    axes.spines["right"].set_visible(False)
    handles = [
        _curve(axes, str(pipeline), of_pipeline) for pipeline, of_pipeline in points.groupby("pipeline", sort=False)
    ]
    reference = points[points["reference"]].iloc[0]
    axes.axhline(
        reference["score"], color=style.look(reference["pipeline"]).colour, linestyle="--", linewidth=1.1, zorder=1
    )

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda kilobytes, _: f"{kilobytes:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("mean payload (KB)")
    axes.set_ylabel(str(reference["metric"]))
    axes.margins(x=0.06, y=0.06)

    ring = Line2D([], [], linestyle="none", marker="o", markersize=12, fillstyle="none", color="#333333")
    dashed = Line2D([], [], linestyle="--", linewidth=1.1, color=style.look(reference["pipeline"]).colour)
    labels = [*(str(handle.get_label()) for handle in handles), "score of the reference", "selected"]
    axes.legend(
        [*handles, dashed, ring],
        labels,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        borderaxespad=0,
        labelspacing=0.7,
    )
    provenance.write(figure)
    return figure


def _curve(axes: Axes, pipeline: str, points: pd.DataFrame) -> Line2D:
    """Draws one scheme and returns its legend entry."""
    look = style.look(pipeline)
    sent = points[points["payload_bytes"] > 0].sort_values("payload_bytes")
    for _, silent in points[points["payload_bytes"] == 0].iterrows():
        axes.axhline(silent["score"], color=look.colour, linestyle=":", linewidth=1.4, zorder=1)
    kilobytes = sent["payload_bytes"] / 1000
    spread = [(sent["score"] - sent["score_low"]).clip(lower=0), (sent["score_high"] - sent["score"]).clip(lower=0)]
    axes.errorbar(
        kilobytes, sent["score"], spread, color=look.colour, linestyle="none", elinewidth=0.8, alpha=0.45, zorder=2
    )
    axes.plot(kilobytes, sent["score"], color=look.colour, marker=look.marker, markersize=5.5, zorder=3)
    selected = sent[sent["selected"]]
    axes.plot(
        selected["payload_bytes"] / 1000,
        selected["score"],
        linestyle="none", marker="o", markersize=12, fillstyle="none", color=look.colour, markeredgewidth=1.4, zorder=4,
    )  # fmt: skip
    remarks = ([] if points["selected"].any() else ["does not reach"]) + (["sends nothing"] if sent.empty else [])
    label = "\n".join([*textwrap.wrap(pipeline, 19), *(f"({remark})" for remark in remarks)])
    if sent.empty:
        return Line2D([], [], color=look.colour, linestyle=":", label=label)
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle="-" if len(sent) > 1 else "none",
        marker=look.marker,
        markersize=5.5,
        label=label,
    )


def missing(run: Analysis) -> str:
    """Why a run's rows cannot draw it."""
    return "" if run.scored else f"no score is claimed, for {run.equality.reference} scores 0; see 'harness show'"


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the points that it shows."""
    return curves(run.points, of(run, "score against payload", [])), run.points
