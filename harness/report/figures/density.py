"""The density of visual features before and after merging (the paper's Fig. 4), against fitted densities."""

import itertools
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis import Analysis, densities
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, grid, of
from harness.runs.illustrations import Density

_LINES: Mapping[str, tuple[str, Any]] = {
    "Gaussian": ("#0072B2", "--"),
    "Laplacian": ("#D55E00", "-"),
    "Cauchy": ("#009E73", ":"),
}


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: the densities, and the fits with their log-likelihoods."""
    found = _found(run)
    assert found is not None
    handles: list[Any] = [Patch(facecolor="#C9CFD3", label="features")]
    handles += [Line2D([], [], color=colour, linestyle=dash, label=name) for name, (colour, dash) in _LINES.items()]
    notes = [
        f"elements of the features of {found.pictures} pictures in {found.pipeline} at {found.point}; fits by maximum "
        "likelihood",
        "LL: mean log-likelihood per element, in nats; the best is marked",
        "computed, not timed",
    ]
    boxes, body_in = grid(width_in, 2, most=1 if width_in < NARROW_IN else 2, high_in=1.9, left_in=0.5, gap_in=0.55)
    sheet = Sheet(width_in, body_in, of(run, "density of visual features", notes), handles)
    rows: list[dict[str, object]] = []
    for (box, _, _), name in zip(boxes, ("unmerged", "merged"), strict=True):
        histogram = getattr(found, name)
        edges, density = np.array(histogram.edges), np.array(histogram.density)
        axes = sheet.axes(*box)
        axes.stairs(density, edges, fill=True, color="#C9CFD3")
        fine = np.linspace(edges[0], edges[-1], 400)
        best = max(histogram.fits, key=lambda family: histogram.fits[family].log_likelihood)
        for family, fit in histogram.fits.items():
            colour, dash = _LINES[family]
            axes.plot(fine, densities.density(fine, family, fit.location, fit.scale), color=colour, linestyle=dash)
            rows.append({"features": name, "family": family, **fit.model_dump()})
        middles = (edges[1:] + edges[:-1]) / 2
        rows += [{"features": name, "family": "", "x": x, "density": y} for x, y in zip(middles, density, strict=True)]
        for line, (family, fit) in enumerate(histogram.fits.items()):
            mark = " *" if family == best else ""
            axes.text(
                0.98, 0.97 - 0.075 * line, f"{family} LL {fit.log_likelihood:.3f}{mark}",
                transform=axes.transAxes, ha="right", va="top", fontsize=6.5, color=_LINES[family][0],
                fontweight="bold" if family == best else "normal",
            )  # fmt: skip
        peaks = [
            densities.density(fine, family, fit.location, fit.scale).max() for family, fit in histogram.fits.items()
        ]
        tallest = max(float(density.max()), *map(float, peaks))
        axes.set_ylim(0, 1.08 * tallest)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("element's value")
        axes.set_ylabel("density")
        axes.set_title(name, fontsize=7.0, pad=3)
    return sheet.figure, pd.DataFrame(rows)


def _found(run: Analysis) -> Density | None:
    return None if run.illustrations is None else run.illustrations.density


def command(run: Analysis) -> str:
    """The command that computes a run's illustrations."""
    given = run.manifest.sessions[0].command
    scenario = next((word for word in given if word.endswith((".yaml", ".yml"))), "SCENARIO")
    named = run.manifest.name
    name = (
        "" if scenario == "SCENARIO" or scenario.rpartition("/")[2].partition(".")[0] == named else f" --name {named}"
    )
    # Values in place of the scenario's are a part of what the run is of.
    changed = [word for word in given[1:] if "=" in word and not word.startswith("-")]
    changed += [f"samples={n}" for flag, n in itertools.pairwise(given) if flag == "--limit"]
    return f"'harness illustrate {' '.join([scenario, *map(shlex.quote, changed)])}{name}'"


def missing_part(run: Analysis, part: str, what: str) -> str:
    """Why a part of the run's illustrations is not there; empty where it is."""
    if run.illustrations is None:
        return f"{what} are not in the run's rows; {command(run)} computes them"
    if not getattr(run.illustrations, part):
        why = run.illustrations.absent.get(part, "there were none")
        return f"{what} could not be computed ({why}); {command(run)} computes them where they can be"
    return ""


def _missing(run: Analysis) -> str:
    return missing_part(run, "density", "densities of features")


FIG4 = Chart(what="density of visual features, with fitted densities", missing=_missing, draw=draw)
