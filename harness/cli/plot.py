"""``harness plot``: a run's rows as figures."""

from pathlib import Path
from typing import Annotated

import typer


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

    for file in draw_all(path, out):
        typer.echo(str(file))
