"""``harness run`` and ``harness show``: the main job, and its table again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

RunsFolder = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")]


def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file.")],
    name: Annotated[
        str | None, typer.Option(help="The run's folder under the results.", show_default="the scenario's name")
    ] = None,
    results: RunsFolder = Path("results/runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew; the folder's earlier run is deleted.")] = False,
    no_stand_in: Annotated[
        bool,
        typer.Option("--no-stand-in", help="Fail where the scenario's own benchmark or backbone is not installed."),
    ] = False,
) -> None:
    """Measure a scenario, select operating points at equal score, replay them, and print the table.

    A run that was stopped, or killed, takes up where it was: the same command again. Its rows land in
    `results/runs/NAME/` as Parquet, with a `manifest.json` that says where they come from.

        harness run scenarios/realworldqa_lowrate.yaml
    """
    from harness.analysis import Analysis
    from harness.cli.display import Display, terminal
    from harness.report.table import table
    from harness.scenario.load import load
    from harness.study import run as run_study

    console = terminal()
    wanted = load(scenario)
    folder = results / (name or wanted.name)
    with Display(console) as display:
        run_study(
            wanted, folder, reporter=display, allow_stand_ins=not no_stand_in, fresh=fresh, command=tuple(sys.argv)
        )
    console.print(table(Analysis.read(folder)))
    console.print(f"Figures: harness plot {folder}")


def show(
    path: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the table's numbers here instead, as .csv or .md by the file's ending.")
    ] = None,
    resources: Annotated[
        bool, typer.Option("--resources", help="Print what each half needs besides time instead: memory, operations.")
    ] = False,
) -> None:
    """Print the closing table of a complete run again.

    harness show results/runs/realworldqa_lowrate --out table.csv
    """
    from harness.analysis import Analysis
    from harness.cli.display import terminal
    from harness.report.resources import resources_table
    from harness.report.table import table, write

    found = Analysis.read(path)
    if out is None:
        terminal().print(resources_table(found) if resources else table(found))
    else:
        write(found, out)
