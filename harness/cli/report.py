"""``harness report``: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer


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
