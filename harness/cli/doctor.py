"""``harness doctor``: what this machine can run, and what is missing."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import Overrides, given
from harness.errors import ExitCode


def doctor(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario file.")] = None,
    overrides: Overrides = None,
    no_stand_in: Annotated[
        bool,
        typer.Option(
            "--no-stand-in", help="Look only for the scenario's own benchmark and backbone, not their stand-ins."
        ),
    ] = False,
) -> None:
    """Describe this machine, and list which halves of a scenario's schemes it can run.

    The memory shown is that of the weights, counted from the checkpoint; activations and adapters are not included. If
    something is missing, the command that installs it is printed. The exit status is 1 if the scenario cannot run here.

        harness doctor scenarios/realworldqa_lowrate.yaml --no-stand-in
    """
    from harness.doctor import examine
    from harness.units import format_bytes

    wanted = None if scenario is None else given(scenario, overrides)[0]
    found = examine(wanted, allow_stand_ins=not no_stand_in)
    for line in found.facts:
        typer.echo(line)
    for half in found.halves:
        size = f"{', '.join(half.parts)}: {format_bytes(half.weight_bytes)}" if half.parts else "no model"
        verdict = "runs" if half.fits(found.memory_bytes) else "does not run"
        if half.refused is None and verdict != "runs":
            verdict = f"does not fit into {format_bytes(found.memory_bytes)}"
        typer.echo(f"  {half.pipeline} at {half.point}, {half.side} half: {verdict} ({size})")
    for line in found.notes:
        typer.echo(f"note: {line}")
    for line in found.wrong:
        typer.echo(f"missing: {line}")
    sides = {half.side for half in found.halves}
    able = {side for side in sides if all(half.fits(found.memory_bytes) for half in found.halves if half.side == side)}
    if wanted is None:
        return
    if wanted.estimate is not None and not found.wrong:
        typer.echo(f"{wanted.name}: it can run here; its stages are estimated, and no model is loaded")
        return
    if found.wrong or able != {"device", "server"}:
        part = f"only its {next(iter(able))} halves can" if len(able) == 1 and not found.wrong else "it cannot"
        typer.echo(f"{wanted.name}: {part} run here")
        raise typer.Exit(ExitCode.NEGATIVE)
    typer.echo(f"{wanted.name}: it can run here, both halves of every scheme")
