"""``harness run`` and ``harness show``: the main job, and its table again."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import ExecutorName, folder_name
from harness.cli.estimate import refuse_options, show_projection, write_projection
from harness.edge import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console

    from harness.edge.client import Remote
    from harness.scenario.model import Scenario

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values to replace the scenario's, such as measure.repeats=2 or replay.users='[1, 8]'.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=folder_name,
        help="Name of the run's folder.",
        show_default="the scenario's name, and its hash where values were replaced",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Ask at most N questions of each benchmark; short for samples=N.")
]
RunsFolder = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder that holds the runs.")]


def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file.")],
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    results: RunsFolder = Path("results/runs"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over and delete the run that is in the folder.")
    ] = False,
    no_stand_in: Annotated[
        bool,
        typer.Option("--no-stand-in", help="Fail if the scenario's own benchmark or backbone is not installed."),
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Run the server halves at this address, where 'harness serve' listens."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="RATE|TRACE", help="With --server: send at this rate, or at the rates of a recorded link."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            metavar="N",
            help="Number of processes that compute answers, spread over the GPUs if there are any.",
            show_default=(
                "one per core if the scenario has measure.threads: 1 and no GPU is used, else one; on a Ray cluster "
                "as many as it has room for"
            ),
        ),
    ] = None,
    engine: Annotated[
        ExecutorName, typer.Option(help="Compute answers in processes on this machine, or in actors of a Ray cluster.")
    ] = ExecutorName.processes,
) -> None:
    r"""Measure a scenario, select operating points at equal score, replay them, and print the table.

    Repeat the command to resume a run that was stopped or killed. Its rows are written to `results/runs/NAME/` as
    Parquet, with a `manifest.json` that says where they come from.

        harness run scenarios/realworldqa_lowrate.yaml

        harness run scenarios/realworldqa_lowrate.yaml measure.repeats=6 \
          --limit 40

    With `--server` this machine runs only the device halves, and the link to the server is measured. Both sides need
    the same harness, scenario and model files. The server's token is read from `TOFC_HARNESS_TOKEN`.

        harness run scenarios/realworldqa_lowrate.yaml \
          --server http://192.168.1.20:8000

    `--workers` spreads the answers, never the timing, over processes of this machine, or with `--engine ray` over a Ray
    cluster, whose nodes need the same harness, scenario and model files under the same paths. The rows do not depend on
    it if the scenario has `measure.threads`. Each worker loads a model of its own, unless it computes on one processor
    thread of this machine; a worker that is killed is replaced.

        harness run scenarios/realworldqa.yaml --workers 4

        RAY_ADDRESS=HEAD:6379 harness run scenarios/realworldqa.yaml \
          --engine ray

    A scenario with an `estimate:` section needs neither weights nor the hardware: its times are estimated.

        harness run scenarios/paper_projection.yaml
    """
    from harness.analysis import Analysis
    from harness.cli.display import Display, terminal
    from harness.report.sections import sections
    from harness.study import run as run_study
    from harness.team import Team

    console = terminal()
    wanted, own_name = given(scenario, overrides, limit)
    folder = results / (name or own_name)
    if wanted.estimate is not None:
        ray = engine is ExecutorName.ray
        refuse_options(scenario, server=server, shape=shape, no_stand_in=no_stand_in, workers=workers, engine=ray)
        _project(wanted, folder, fresh=fresh, console=console)
        return
    remote = _remote(server, shape)
    if remote is not None and ((workers or 1) > 1 or engine is ExecutorName.ray):
        option = "--workers" if engine is ExecutorName.processes else "--engine"
        raise typer.BadParameter(
            "cannot be combined with --server, whose connection belongs to one process", param_hint=option
        )
    with Display(console) as display:
        run_study(
            wanted,
            folder,
            reporter=display,
            allow_stand_ins=not no_stand_in,
            fresh=fresh,
            command=tuple(sys.argv),
            remote=remote,
            team=Team(workers=workers, executor=engine.value),
            tell=display.line,
        )
    for section in sections(Analysis.read(folder)):
        console.print(section)
    console.print(f"Figures: harness plot {folder}")


def given(
    path: Path, overrides: list[str] | None, limit: int | None = None, stages: "Collection[str] | None" = None
) -> "tuple[Scenario, str]":
    """The scenario of a command line, and the default name of its run; ``stages`` as in :func:`load`."""
    from harness.scenario.load import load, scenario_hash

    changes = [*(overrides or ()), *([] if limit is None else [f"samples={limit}"])]
    found = load(path, changes, stages=stages)
    return found, f"{found.name}-{scenario_hash(found)[:8]}" if changes else found.name


def _project(wanted: "Scenario", folder: Path, *, fresh: bool, console: "Console") -> None:
    """Makes a run of estimates, prints its tables and draws its figures."""
    from harness import projection
    from harness.analysis import Analysis
    from harness.cli.display import Display
    from harness.report.figures.gallery import draw_all
    from harness.report.table import table

    with Display(console) as display:
        found = projection.run(wanted, folder, reporter=display, fresh=fresh, command=tuple(sys.argv))
    console.print(table(Analysis.read(folder)))
    show_projection(found, console)
    for file in (*draw_all(folder), *write_projection(found, folder / "figures")):
        console.print(str(file), soft_wrap=True)


def _remote(server: str | None, shape: str | None) -> "Remote | None":
    from harness.edge.client import Remote
    from harness.edge.shaping import Shaper

    if server is None:
        if shape is not None:
            raise typer.BadParameter("shapes what is sent to a server; give one with --server", param_hint="--shape")
        return None
    return Remote(
        url=server,
        token=os.environ.get(TOKEN_VARIABLE, "").strip() or None,
        shaper=None if shape is None else Shaper.of(shape),
    )


def show(
    path: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the table's numbers to this .csv or .md file instead.")
    ] = None,
    resources: Annotated[
        bool, typer.Option("--resources", help="Print the memory and operations of each half instead.")
    ] = False,
) -> None:
    """Print the closing table of a complete run again.

    Its numbers can be written to a file, CSV or Markdown, instead.

        harness show results/runs/realworldqa_lowrate --out table.csv
    """
    from harness.analysis import Analysis
    from harness.cli.display import terminal
    from harness.report.sections import resources_table, sections
    from harness.report.table import write
    from harness.runs import disk

    if out is not None and resources:
        raise typer.BadParameter("cannot be combined with --resources, which is only printed", param_hint="--out")
    if out is not None:
        disk.check_writable(out)
    found = Analysis.read(path)
    if out is None:
        console = terminal()
        for section in [resources_table(found)] if resources else sections(found):
            console.print(section)
    else:
        write(found, out)
