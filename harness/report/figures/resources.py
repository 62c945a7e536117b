"""What each half needs besides time: memory on the device and on the server, and floating-point operations."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Rows, Sheet, grid, of
from harness.units import three_digits

_COLOURS = {"device": style.PARTS["device"], "server": style.PARTS["server"]}


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the rows of :attr:`harness.analysis.Analysis.resources` at the selected points."""
    data = _selected(run)
    narrow = width_in < NARROW_IN
    rows = Rows.of(data["pipeline"], narrow=narrow)
    boxes, body_in = grid(
        width_in, 3, most=1 if narrow else 3, high_in=rows.high_in, left_in=rows.left_in, gap_in=0.22, right_in=0.2
    )
    handles = [
        Patch(facecolor=_COLOURS["device"], label="device"),
        Patch(facecolor=_COLOURS["server"], label="server"),
        Patch(facecolor="white", edgecolor=style.INK, linewidth=0.8, label="framed: weights"),
    ]
    source = run.resources_source
    edge: dict[str, Any] = {}
    if hatch := style.HATCHES.get(source):
        edge = {"hatch": hatch, "edgecolor": style.GREY, "linewidth": 0}
        handles.append(Patch(facecolor="white", edgecolor=style.INK, hatch=hatch, label=source))
    sample = run.record.resources["sample"].to_pandas().dropna()
    notes = [
        "memory is the most that a half needs during one request, including its weights",
        "operations are counted in torch; a multiplication and an addition are two; entropy coding, clustering on a "
        "CPU and picture codecs are not counted",
        f"{source} on question {sample.iloc[0]}" if len(sample) else "",
    ]
    sheet = Sheet(width_in, body_in, of(run, "memory and operations of one request", notes), handles)
    y = np.array(list(rows.at.values()))
    for (box, first, _), what in zip(boxes, ("device", "server", "operations"), strict=True):
        axes = sheet.axes(*box)
        if what == "operations":
            sides = [data[f"{side}/operations"].to_numpy(float) / 1e9 for side in _COLOURS]
            left = np.zeros(len(data))
            for values, colour in zip(sides, _COLOURS.values(), strict=True):
                axes.barh(y, np.nan_to_num(values), left=left, height=rows.bar_in, color=colour, **edge)
                left += np.nan_to_num(values)
            total, title = np.where(np.isnan(sides).all(axis=0), np.nan, left), "operations (GFLOP)"
        else:
            total = data[f"{what}/peak_memory_bytes"].to_numpy(float) / 1e6
            weights = data[f"{what}/weights_bytes"].to_numpy(float) / 1e6
            axes.barh(y, np.nan_to_num(total), height=rows.bar_in, color=_COLOURS[what], alpha=0.55, **edge)
            axes.barh(
                y, np.nan_to_num(weights), height=rows.bar_in, facecolor="none", edgecolor=style.INK, linewidth=0.8
            )  # fmt: skip
            title = f"memory on the {what} (MB)"
        most = float(np.nanmax(total)) if np.isfinite(total).any() else 1.0
        for place, value in zip(y, total, strict=True):
            words = "not measured" if np.isnan(value) else three_digits(value)
            axes.text(np.nan_to_num(value) + 0.015 * most, place, words, ha="left", va="center", fontsize=6.0,
                      color=style.GREY if np.isnan(value) else style.INK)  # fmt: skip
        axes.set_xlim(0, 1.3 * most or 1.0)
        rows.put(axes, named=first)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(title, fontsize=7.0, pad=3)
    return sheet.figure, data


def _selected(run: Analysis) -> pd.DataFrame:
    shown = run.points.loc[run.points["selected"], ["pipeline", "point"]]
    return shown.merge(run.resources, on=["pipeline", "point"])


def _missing(run: Analysis) -> str:
    if run.record.resources.num_rows and len(_selected(run)):
        return ""
    return "nothing was measured of memory and operations; 'harness run SCENARIO' measures both in one process"


MEMORY = Chart(what="memory and operations of each half", missing=_missing, draw=draw)
