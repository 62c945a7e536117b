"""``harness plot``: the figures of a run."""

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
        Path | None, typer.Option(help="Folder for the figures.", show_default="a folder 'figures' in each run")
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Draw the figure of this name; may be repeated.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Draw every figure for which the run has data.")] = False,
) -> None:
    """Draw a run's figures as PNG, SVG and PDF, for a page and for a column, with their data as CSV.

    Without a name: score against payload and the latency at each uplink with the score, and the run's tables as CSV and
    Markdown. By name, after the paper's:

    - **fig4** density of features; **fig6**, **fig7**, **fig10**, **fig12** score against payload in each benchmark, on
      average, with LLaVA-1.5, of ways of coding; **fig8**, **fig11** latency at each uplink; **fig9** questions to look
      at; **table1** methods against benchmarks, also as Markdown and LaTeX

    And beyond it:

    - **crossover** latency against rate; **ecdf** with deadlines; **timeline** of a request; **memory** and operations;
      **users** against p99; **bits** of payloads; **timings**, their interval and drift; **energy** of an answer

    `harness illustrate` computes the data of fig4, fig9 and bits. A figure for which a run has no data is refused, with
    the command that makes it; with `--all` it is left out, with a note.

        harness plot results/runs/realworldqa_lowrate

        harness plot results/runs/crossover --figure crossover --figure timeline

        harness plot results/runs/multi_user --all
    """
    from harness.report.figures.gallery import draw_all

    with warnings.catch_warnings(record=True) as caught:
        files = draw_all(path, out, figure, everything, note=lambda sentence: typer.echo(sentence, err=True))
    for file in files:
        typer.echo(str(file))
    if unseen := sorted({chr(int(found[1])) for w in caught if (found := _NO_GLYPH.match(str(w.message)))}):
        some = "".join(unseen[:40])
        typer.echo(
            f"no font on this machine has {some}: the figures show boxes there; Noto Sans CJK has many", err=True
        )
