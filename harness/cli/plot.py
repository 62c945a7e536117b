"""``harness plot``: a run's rows as figures."""

import re
import warnings
from pathlib import Path
from typing import Annotated

import typer

_NO_GLYPH = re.compile(r"Glyph (\d+) ")
"""matplotlib's warning, one for every character that no font has."""


def plot(
    path: Annotated[Path, typer.Argument(help="A run's folder, or a folder of runs.")] = Path("results/runs"),
    out: Annotated[
        Path | None, typer.Option(help="Where the figures go.", show_default="a folder 'figures' in each run")
    ] = None,
) -> None:
    """Draw a run's figures as PNG and SVG.

    The rate-performance curves (the paper's Fig. 6) and the latency at each uplink rate with the score (Fig. 8), each
    with its provenance on it.

        harness plot results/runs/realworldqa_lowrate
    """
    from harness.report.figures.gallery import draw_all

    with warnings.catch_warnings(record=True) as caught:
        files = draw_all(path, out)
    for file in files:
        typer.echo(str(file))
    if unseen := sorted({chr(int(found[1])) for w in caught if (found := _NO_GLYPH.match(str(w.message)))}):
        some = "".join(unseen[:40])
        typer.echo(
            f"no font on this machine has {some}: the figures show boxes there; Noto Sans CJK has many", err=True
        )
