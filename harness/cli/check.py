"""``harness check`` and ``harness schema``: what a scenario may say, without running it."""

import json
from pathlib import Path
from typing import Annotated

import typer


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenario files.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A value in place of the scenarios' own.")
    ] = None,
    no_stand_in: Annotated[
        bool, typer.Option("--no-stand-in", help="Look for the scenarios' own backbone, its codecs and networks.")
    ] = False,
) -> None:
    """Validate scenarios without running them.

    Every mistake is a line with the file, the line, the key path and the value; the status is 2 if there is one.
    What a scenario names is opened: recorded links and arrivals, codecs, weights. Of a backbone that is not installed
    the stand-in's are looked for, unless `--no-stand-in` is given; benchmarks are read by 'harness data check'.

        harness check scenarios/*.yaml

        harness check scenarios/realworldqa.yaml --no-stand-in
    """
    from harness.errors import ScenarioError
    from harness.scenario.load import load, scenario_hash
    from harness.stock import missing

    mistakes = []
    for file in files:
        try:
            scenario = load(file, overrides or ())
        except ScenarioError as error:
            mistakes.append(str(error))
            continue
        if wrong := missing(scenario, allow_stand_ins=not no_stand_in):
            mistakes += [f"{file}: {sentence}" for sentence in wrong]
            continue
        points = sum(1 for pipeline in scenario.pipelines for _ in pipeline.operating_points())
        typer.echo(
            f"{file}: {scenario.name} {scenario_hash(scenario)}: {len(scenario.pipelines)} schemes, "
            f"{points} operating points, {len(scenario.replay.uplinks)} uplinks"
        )
    if mistakes:
        raise ScenarioError("\n".join(mistakes))


def schema() -> None:
    """Print the JSON Schema of a scenario file.

    Point your editor at it and it completes and checks as you type. For VS Code's YAML extension, put this on a
    scenario's first line:

        # yaml-language-server: $schema=scenario.schema.json
    """
    from harness.scenario.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
