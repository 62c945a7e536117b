"""``harness pack``: a run as an archive for a reviewer."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import Limit, Overrides, given


def pack(
    run: Annotated[Path, typer.Argument(help="A complete run's folder.")],
    scenario: Annotated[Path, typer.Argument(help="Scenario that the run was made with.")],
    overrides: Overrides = None,
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option(help="Archive to write.", show_default="the run's name and .tar.gz")] = None,
) -> None:
    """Write a run as an archive that a reviewer can read and rerun without a network.

    It contains the rows and the manifest, the scenario and its recorded links, the figures with their data, the
    versions of all packages, `numbers.tex` with a LaTeX macro for every number of the table (with its interval and its
    source), and a README with the commands.

        harness pack results/runs/smoke scenarios/smoke.yaml
    """
    from harness.report.pack import pack as pack_run

    wanted, _ = given(scenario, overrides, limit)
    changes = (*(overrides or ()), *([] if limit is None else [f"samples={limit}"]))
    archive = out or Path(f"{run.resolve().name}.tar.gz")
    pack_run(run, scenario, wanted, changes, archive)
    typer.echo(str(archive))
