"""Where the bits go: each scheme's payload by its parts."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis import Analysis
from harness.report.figures import style
from harness.report.figures.density import missing_part
from harness.report.figures.sheet import NARROW_IN, Chart, Rows, Sheet, of
from harness.units import format_bytes

_COLOURS = {
    "envelope": "#000000", "header": "#4D4D4D",
    "experts": "#9B2226", "tables": "#E69F00", "quantisation": "#E69F00", "Huffman tables": "#F4D58D",
    "modes": "#E69F00", "z": "#2A9D8F", "y": "#1B4965", "coefficients": "#5FA8D3", "features": "#1B4965",
    "file": "#B9C4CC", "all": "#B9C4CC",
}  # fmt: skip
_OTHERS = ("#882255", "#44AA99", "#AA4499", "#999933", "#661100", "#6699CC", "#88CCEE", "#CC6677")
_LEAST = 0.03
"""A part is named on the bar from this share on, if its name has room."""


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: the mean bits of each part, and its ``share`` of the payload."""
    data = _data(run)
    parts = list(dict.fromkeys(data["part"]))
    others = [part for part in parts if part not in _COLOURS]
    colours = {part: _COLOURS.get(part) or _OTHERS[others.index(part) % len(_OTHERS)] for part in parts}
    parts.sort(key=lambda part: (list(_COLOURS).index(part) if part in _COLOURS else len(_COLOURS), part))
    handles = [Patch(facecolor=colours[part], label=part) for part in parts]
    names = [name for name in style.looks(run.manifest) if name in set(data["pipeline"])]
    narrow, right_in = width_in < NARROW_IN, 0.72
    table = Rows.of(names, narrow=narrow, slot_in=0.2)
    wide_in = width_in - table.left_in - right_in
    n = data["pictures"].iloc[0]
    notes = [
        f"the mean payload of {n} pictures at the selected points, with its size and its parts as decoded; computed, "
        "not timed"
    ]  # fmt: skip
    sheet = Sheet(width_in, table.high_in + 0.5, of(run, "where the bits of a request go", notes), handles)
    axes = sheet.axes(table.left_in, 0.06, wide_in, table.high_in)
    for name in names:
        y, own, left = table.at[name], data[data["pipeline"] == name], 0.0
        order = sorted(own.to_dict("records"), key=lambda row: parts.index(row["part"]))
        for row in order:
            share = float(row["share"])
            colour = colours[str(row["part"])]
            axes.barh(
                y, 100 * share, left=100 * left, height=table.bar_in, color=colour, edgecolor="white", linewidth=0.4
            )
            words = f"{row['part']} {100 * share:.0f} %"
            if share >= _LEAST and style.width_of(words, 6.0) < share * wide_in - 0.04:
                ink = "white" if np.dot(_rgb(colour), (0.3, 0.59, 0.11)) < 0.55 else style.INK
                axes.text(100 * (left + share / 2), y, words, ha="center", va="center", fontsize=6.0, color=ink)
            left += share
        axes.text(102, y, format_bytes(own["bits"].sum() / 8), ha="left", va="center", fontsize=6.5)
    axes.set_xlim(0, 100)
    table.put(axes)
    axes.set_xlabel("share of the payload (%)" if not narrow else "share of payload (%)")
    return sheet.figure, data


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))  # type: ignore[return-value]


def _data(run: Analysis) -> pd.DataFrame:
    assert run.illustrations is not None
    rows = pd.DataFrame([row.model_dump() for row in run.illustrations.bits])
    # Schemes call the same by one name.
    rows["part"] = rows["part"].replace({"headers": "header", "frame header": "header", "container": "header"})
    keys = ["pipeline", "point", "part", "pictures"]
    rows = rows.groupby(keys, sort=False)[["bits"]].sum().reset_index()
    rows["share"] = rows["bits"] / rows.groupby("pipeline")["bits"].transform("sum")
    return rows


def _missing(run: Analysis) -> str:
    return missing_part(run, "bits", "the parts of payloads")


BITS = Chart(what="where the bits of each scheme's payload go", missing=_missing, draw=draw)
