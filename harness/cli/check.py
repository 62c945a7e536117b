"""``harness check`` and ``harness schema``: what a scenario may contain, without running it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.run import RunsFolder

if TYPE_CHECKING:
    from harness.scenario.model import Scenario


def check(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|KEY=VALUE", help="Scenario files, and values that replace their own, as `run` takes them."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another such value; may be repeated."),
    ] = None,
    no_stand_in: Annotated[
        bool,
        typer.Option(
            "--no-stand-in",
            help="Look only for the scenarios' own benchmarks, backbone, codecs and networks, not their stand-ins.",
        ),
    ] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also print what a run will take: units, hours, disk. Reads the benchmarks.")
    ] = False,
    results: RunsFolder = Path("results/runs"),
) -> None:
    """Validate scenarios without running them.

    Every mistake is reported with the file, the line, the key path and the value; the exit status is 2 if there is one.
    The files that a scenario names are opened: recorded links and arrivals, codecs, weights. If the backbone is not
    installed, those of its stand-in are opened, unless `--no-stand-in` is given. `harness data check` reads benchmarks.
    Points whose settings differ from the training of their weights are named, as in every table of the run.

        harness check scenarios/*.yaml

        harness check scenarios/realworldqa.yaml --no-stand-in

        harness check scenarios/realworldqa.yaml measure.repeats=6

    With `--cost`, hours are those of one process. They are recorded if a run in the results folder has timed requests
    of the same points, weights and machine; else estimated if this machine has a GPU with a data sheet; else unknown.

        harness check scenarios/realworldqa.yaml --cost
    """
    from harness.channel.channel import unrecorded
    from harness.errors import ResultsError, ScenarioError
    from harness.scenario.load import load, scenario_hash
    from harness.stock import missing, running_points

    changes = [one for one in given if "=" in one and not Path(one).exists()]
    files = [Path(one) for one in given if one not in changes]
    if not files:
        raise typer.BadParameter(f"{changes[0]} is a value; give a scenario file too", param_hint="FILE")
    if results.is_file():
        raise ResultsError(f"{results}: is a file; the folder of the runs is expected")
    mistakes = []
    for file in files:
        try:
            scenario = load(file, [*changes, *(overrides or ())])
        except ScenarioError as error:
            mistakes.append(str(error))
            continue
        if wrong := missing(scenario, allow_stand_ins=not no_stand_in):
            mistakes += [f"{file}: {sentence}" for sentence in wrong]
            continue
        points, untuned = running_points(scenario, allow_stand_ins=not no_stand_in)
        typer.echo(
            f"{file}: {scenario.name} {scenario_hash(scenario)}: {len(scenario.pipelines)} schemes, "
            f"{points} operating points, {len(scenario.replay.uplinks)} uplinks"
        )
        for sentence in (*untuned, *unrecorded(scenario.replay)):
            typer.echo(f"  {sentence}")
        if cost and scenario.estimate is None:
            for line in _cost(scenario, results, no_stand_in):
                typer.echo(f"  {line}")
    if mistakes:
        raise ScenarioError("\n".join(mistakes))


def _cost(scenario: "Scenario", results: Path, no_stand_in: bool) -> "list[str]":
    """What a new run of a scenario takes."""
    from harness.cost import lines
    from harness.loaded import planned
    from harness.stock import take_stock

    stock = take_stock(scenario, allow_stand_ins=not no_stand_in)
    return list(lines(stock, planned(stock), results / scenario.name))


def schema() -> None:
    """Print the JSON Schema of a scenario file.

    Point your editor at it and it completes and checks as you type. For VS Code's YAML extension, put this on a
    scenario's first line:

        # yaml-language-server: $schema=scenario.schema.json
    """
    from harness.scenario.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
