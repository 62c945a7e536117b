"""``harness measure``, ``join`` and ``replay``: halves on machines without a network; runs made of finished ones."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import folder_name
from harness.cli.run import Limit, Overrides, RunsFolder, given

Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", callback=folder_name, help="Name of the run's folder.", show_default="the scenario's name"
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over and delete the run that is in the folder.")]


class HalfName(StrEnum):
    """A side of a run."""

    device = "device"
    server = "server"


def measure(
    scenario: Annotated[Path, typer.Argument(help="A scenario file, the same on both machines.")],
    half: Annotated[HalfName, typer.Option(help="The half that this machine runs.")],
    overrides: Overrides = None,
    limit: Limit = None,
    payloads: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --half server: the device half's folder, copied to this machine."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=folder_name,
            help="Name of the folder.",
            show_default="the scenario's name and the half",
        ),
    ] = None,
    results: RunsFolder = Path("results/runs"),
    fresh: Fresh = False,
    no_stand_in: Annotated[
        bool,
        typer.Option("--no-stand-in", help="Fail if the scenario's own benchmark or backbone is not installed."),
    ] = False,
) -> None:
    r"""Measure one half of a scenario, for machines that have no network between them.

    The device half times its stages and writes every payload to a file. Copy its folder to the server, whose half
    answers these payloads and times its own stages. `harness join` makes a run of the two. Both machines need the same
    harness, scenario, benchmark and model files. Repeat a command to resume it.

        harness measure scenarios/smoke.yaml --half device

        harness measure scenarios/smoke.yaml --half server \
          --payloads smoke-device

        harness join results/runs/smoke-device results/runs/smoke-server
    """
    from harness.apart import measure_half
    from harness.cli.display import Display, terminal

    if (half is HalfName.server) != (payloads is not None):
        raise typer.BadParameter("is required with --half server, and accepted only there", param_hint="--payloads")
    wanted, own_name = given(scenario, overrides, limit)
    folder = results / (name or f"{own_name}-{half.value}")
    with Display(terminal()) as display:
        measure_half(
            wanted,
            folder,
            half.value,
            payloads=payloads,
            reporter=display,
            allow_stand_ins=not no_stand_in,
            fresh=fresh,
            command=tuple(sys.argv),
        )
    typer.echo(f"{folder}: the {half.value} half is complete")


def join(
    device: Annotated[Path, typer.Argument(help="The folder of the device half.")],
    server: Annotated[Path, typer.Argument(help="The folder of the server half.")],
    name: Name = None,
    results: RunsFolder = Path("results/runs"),
    links: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to which the scenario's paths of recorded links are relative.")
    ] = Path("scenarios"),
    fresh: Fresh = False,
) -> None:
    """Join a device half and a server half into a run, and print its table.

    Halves of different scenarios, models, payloads or code are refused, and the difference is named.

        harness join results/runs/smoke-device results/runs/smoke-server
    """
    from harness.cli.display import Display, terminal
    from harness.derived import join as join_halves
    from harness.runs.store import Run

    folder = results / (name or str(folder_name(str(Run.read_manifest(device, "device").scenario_value("name")))))
    with Display(terminal()) as display:
        join_halves(device, server, folder, links=links, reporter=display, fresh=fresh)
    _print_table(folder)


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a complete run.")],
    scenario: Annotated[Path, typer.Argument(help="A scenario; its replay section, name and title are used.")],
    name: Name = None,
    results: RunsFolder = Path("results/runs"),
    fresh: Fresh = False,
) -> None:
    r"""Make a new run from a finished run's rows and a scenario's replay section, and print its table.

    Nothing is measured: the times are those of the run, and are labelled recorded. `show`, `plot` and all other
    commands accept the new run. `sweep` prints the statistics of such a replay without making a run.

        harness replay results/runs/realworldqa_lowrate \
          scenarios/trace_cellular.yaml --name over_lte
    """
    from harness.cli.display import Display, terminal
    from harness.derived import replay as replay_run
    from harness.replay.sweep import server_stages
    from harness.runs import disk
    from harness.runs.store import Run
    from harness.scenario.load import load

    disk.check_folder(results)
    wanted = load(scenario, stages=server_stages(Run.read(run).stages))
    folder = results / (name or wanted.name)
    with Display(terminal()) as display:
        replay_run(run, wanted, folder, reporter=display, command=tuple(sys.argv), fresh=fresh)
    _print_table(folder)


def _print_table(folder: Path) -> None:
    from harness.analysis import Analysis
    from harness.cli.display import terminal
    from harness.report.sections import sections

    console = terminal()
    for section in sections(Analysis.read(folder)):
        console.print(section)
    console.print(f"Figures: harness plot {folder}")
