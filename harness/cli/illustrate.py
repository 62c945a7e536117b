"""``harness illustrate``: what some figures show of a run besides its rows."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import Limit, Name, Overrides, RunsFolder, given


def illustrate(
    scenario: Annotated[Path, typer.Argument(help="The scenario of a complete run.")],
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    results: RunsFolder = Path("results/runs"),
    pictures: Annotated[
        int, typer.Option(min=1, max=10_000, help="Over how many pictures densities and bits are taken.")
    ] = 8,
) -> None:
    """Compute what three figures show of a run besides its rows, and write it into the run.

    With the scenario's pictures and the model that ran, at the run's selected points:

    - **fig4**: the density of visual features before and after merging, with fitted Gaussian, Laplacian and Cauchy.

    - **bits**: to which parts of their payloads the schemes' bits go.

    - **fig9**: questions that TOFC answers and JPEG of as many bytes does not, with what JPEG leaves of the picture.

    Nothing is timed, and no row of the run changes. Of a run whose scenario had values replaced, give them again.

        harness illustrate scenarios/realworldqa_lowrate.yaml

        harness plot results/runs/realworldqa_lowrate --figure fig4 --figure fig9 --figure bits
    """
    from harness.cli.display import Display, terminal
    from harness.illustrate import illustrate as work

    console = terminal()
    wanted, own_name = given(scenario, overrides, limit)
    folder = results / (name or own_name)
    with Display(console) as display:
        made = work(wanted, folder, pictures=pictures, reporter=display)
    console.print(f"Illustrations: {made}")
    console.print(f"Figures: harness plot {folder} --figure fig4 --figure fig9 --figure bits")
