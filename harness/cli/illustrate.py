"""``harness illustrate``: the data of figures that a run's rows do not hold."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import Limit, Name, Overrides, RunsFolder, given


def illustrate(
    scenario: Annotated[Path, typer.Argument(help="Scenario of a complete run.")],
    overrides: Overrides = None,
    limit: Limit = None,
    name: Name = None,
    results: RunsFolder = Path("results/runs"),
    pictures: Annotated[int, typer.Option(min=1, max=10_000, help="Number of pictures for densities and bits.")] = 8,
) -> None:
    r"""Compute the data of three figures that a run's rows do not hold, and write it into the run.

    It uses the scenario's pictures and the model that ran, at the run's selected points:

    - **fig4**: the density of visual features before and after merging, with fitted Gaussian, Laplacian and Cauchy.

    - **bits**: how the bits of each scheme's payload divide among its parts.

    - **fig9**: questions that are answered right with TOFC and wrong with a JPEG of as many bytes, with the decoded
      JPEG.

    Nothing is timed, and no row of the run changes. If the run had values replaced on the command line, repeat them.

        harness illustrate scenarios/realworldqa_lowrate.yaml

        harness plot results/runs/realworldqa_lowrate --figure fig4 \
          --figure fig9 --figure bits
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
