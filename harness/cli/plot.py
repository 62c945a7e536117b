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
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure by name, such as fig8; repeat it for more.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every figure that the run's rows can draw.")] = False,
) -> None:
    """Draw a run's figures as PNG, SVG and PDF, for a page and for a column, with their data as CSV.

    Without a name: score against payload (the paper's Fig. 6, or 7, 10 or 12) and the latency at each uplink
    (Fig. 8 or 11), and the run's tables as CSV and Markdown.

        harness plot results/runs/realworldqa_lowrate

        harness plot results/runs/crossover --figure crossover --figure timeline
    """
    from harness.report.figures.gallery import draw_all

    with warnings.catch_warnings(record=True) as caught:
        files = draw_all(path, out, figure, everything)
    for file in files:
        typer.echo(str(file))
    if unseen := sorted({chr(int(found[1])) for w in caught if (found := _NO_GLYPH.match(str(w.message)))}):
        some = "".join(unseen[:40])
        typer.echo(
            f"no font on this machine has {some}: the figures show boxes there; Noto Sans CJK has many", err=True
        )
