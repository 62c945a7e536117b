"""``harness plot``, ``report`` and ``pack``: a run as figures, as a page, as an archive for a reviewer."""

import re
import warnings
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import Limit, Overrides, given

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
      average, with LLaVA-1.5, of ways of coding; **fig8**, **fig11** latency at each uplink; **fig9** example
      questions; **table1** methods against benchmarks, also as Markdown and LaTeX

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
        for file in draw_all(path, out, figure, everything, note=lambda sentence: typer.echo(sentence, err=True)):
            typer.echo(str(file))
    if unseen := sorted({chr(int(found[1])) for w in caught if (found := _NO_GLYPH.match(str(w.message)))}):
        some = "".join(unseen[:40])
        typer.echo(
            f"no font on this machine has {some}: the figures show boxes there; Noto Sans CJK has many", err=True
        )


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or folders that hold runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a timeline for Perfetto to this file.", show_default=False),
    ] = None,
) -> None:
    """Write runs as one HTML file that needs no network, under 3 MB.

    It contains the verdict on each run, which scheme answers first and by how much, sortable tables, the figures, the
    source of every number, and the commands that repeat them. Several runs have a table of contents.

        harness report results/runs/realworldqa_lowrate --out realworldqa.html

    With `--trace`, the replayed requests and the measured stages of the selected points are written as a timeline in
    the Trace Event Format; open it at ui.perfetto.dev, or in any viewer of that format.

        harness report results/runs --out runs.html --trace runs.json
    """
    from harness.analysis import Analysis
    from harness.cli.display import Display, terminal
    from harness.report import chrome_trace, page
    from harness.runs import disk

    console = terminal()
    for path in filter(None, (out, trace)):
        disk.check_writable(path)
    found = Analysis.read_all(runs)
    with Display(console) as display:
        page.write(found, out, display)
    typer.echo(str(out))
    if trace is not None:
        disk.write_text(trace, chrome_trace.trace(found))
        typer.echo(str(trace))


def pack(
    run: Annotated[Path, typer.Argument(help="A complete run's folder.")],
    scenario: Annotated[
        Path, typer.Argument(help="Scenario that the run was made with; for a replayed run, that of the replay.")
    ],
    overrides: Overrides = None,
    limit: Limit = None,
    out: Annotated[
        Path | None, typer.Option(help="Archive to write.", show_default="the run's name and .tar.gz")
    ] = None,
) -> None:
    """Write a run as an archive that a reviewer can read and rerun without a network.

    It contains the rows and the manifest, the scenario with its recorded links and stage times and the code of your own
    schemes, the figures with their data, the versions of all packages, `numbers.tex` with a LaTeX macro for every
    number of the table (with its interval and its source), and a README with the commands. Your own benchmark is not in
    it; the README says so.

        harness pack results/runs/smoke scenarios/smoke.yaml

    For a run made by `harness replay`, the archive has the scenario of the replayed run with the new replay section.

        harness pack results/runs/over_lte scenarios/trace_cellular.yaml
    """
    from harness.replay.sweep import server_stages
    from harness.report.pack import pack as pack_run
    from harness.runs import disk
    from harness.runs.store import Run

    archive = out or Path(f"{run.resolve().name}.tar.gz")
    disk.check_writable(archive)
    wanted, _ = given(scenario, overrides, limit, server_stages(Run.read(run).stages))
    changes = (*(overrides or ()), *([] if limit is None else [f"samples={limit}"]))
    pack_run(run, scenario, wanted, changes, archive)
    typer.echo(str(archive))
