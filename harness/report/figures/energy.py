"""Energy of an answer: the joules of each rail of device and server, and how many of them are beyond idle."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis import Analysis
from harness.report.energy import notes
from harness.report.figures import style
from harness.report.figures.sheet import NARROW_IN, Chart, Rows, Sheet, grid, of
from harness.units import three_digits

_COLOURS = {"device": style.PARTS["device"], "server": style.PARTS["server"]}


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and the rows of :attr:`harness.analysis.Analysis.energy` at the selected points."""
    data = _selected(run)
    names = [name for name in style.looks(run.manifest) if name in set(data["pipeline"])]
    narrow = width_in < NARROW_IN
    table = Rows.of(names, narrow=narrow)
    panels = list(data.groupby(["side", "rail"], sort=False))
    titles = [f"{side}: {rail}" for (side, rail), _ in panels]
    boxes, body_in = grid(
        width_in, len(panels), most=1 if narrow else 3, high_in=table.high_in, left_in=table.left_in, gap_in=0.22,
        right_in=0.2, titles=titles,
    )  # fmt: skip
    sources = set(data["source"])
    handles = [
        *(Patch(facecolor=_COLOURS[side], label=side) for side in _COLOURS if side in set(data["side"])),
        Patch(facecolor="#BBBBBB", label="pale: gross"),
        Patch(facecolor="white", edgecolor=style.INK, linewidth=0.8, label="framed: net of idle"),
        *(
            Patch(facecolor="white", edgecolor=style.INK, hatch=hatch, label=source)
            for source, hatch in style.HATCHES.items()
            if hatch and source in sources
        ),
    ]
    about = of(run, "energy of an answer", notes(run, data, "whiskers:"))
    sheet = Sheet(width_in, body_in, about, handles)
    for (box, first, last), title, ((side, _), rows) in zip(boxes, titles, panels, strict=True):
        axes = sheet.axes(*box)
        most = max(float(np.nanmax([1e-12, *rows["gross_j"], *rows["gross_high_j"]])), 1e-12)
        least = min(0.0, float(np.nanmin([0.0, *rows["net_j"], *rows["net_low_j"]])))
        for name in names:
            y = table.at[name]
            own = rows[rows["pipeline"] == name]
            if own.empty:
                axes.text(0.02 * most, y, "not measured", ha="left", va="center", fontsize=6.0, color=style.GREY)
                continue
            row = own.iloc[0]
            hatch, colour = style.HATCHES.get(str(row["source"])), _COLOURS.get(str(side), style.GREY)
            pale: dict[str, Any] = {
                "color": colour,
                "alpha": 0.45,
                "hatch": hatch,
                "edgecolor": style.GREY,
                "linewidth": 0,
            }
            axes.barh(y, row["gross_j"], height=table.bar_in, **pale)
            if np.isfinite(row["net_j"]):
                axes.barh(y, row["net_j"], height=table.bar_in, facecolor="none", edgecolor=style.INK, linewidth=0.8)
            end = row["gross_j"]
            if np.isfinite(row["gross_low_j"]):
                spread = [[row["gross_j"] - row["gross_low_j"]], [row["gross_high_j"] - row["gross_j"]]]
                axes.errorbar(row["gross_j"], y, xerr=spread, color=style.INK, elinewidth=0.8, capsize=1.5)
                end = row["gross_high_j"]
            axes.text(end + 0.02 * most, y, three_digits(row["gross_j"]), ha="left", va="center", fontsize=6.0)
        axes.set_xlim(1.05 * least, 1.3 * most)
        table.put(axes, named=first)
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(style.shortened(title, box[2], 7.0), fontsize=7.0, pad=3)
        if last:
            axes.set_xlabel("energy of an answer (J)")
    return sheet.figure, data


def _selected(run: Analysis) -> pd.DataFrame:
    shown = run.points.loc[run.points["selected"], ["pipeline", "point"]]
    return shown.merge(run.energy, on=["pipeline", "point"])


def _missing(run: Analysis) -> str:
    if run.record.energy.num_rows and len(_selected(run)):
        return ""
    return (
        "no energy was measured; 'harness run' of a scenario with 'measure: energy:' measures it where the machine has "
        "a sensor, which 'harness doctor' reports"
    )


ENERGY = Chart(what="energy of an answer, on each rail", missing=_missing, draw=draw)
