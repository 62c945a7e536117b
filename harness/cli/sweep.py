"""``harness sweep``: a run's rows replayed in another system, without measuring again."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.replay.answers import Estimate


class Engine(StrEnum):
    """Where the cells of a sweep are replayed."""

    processes = "processes"
    ray = "ray"


def sweep(
    path: Annotated[Path, typer.Argument(help="A run's folder.")],
    scenario: Annotated[Path, typer.Argument(help="A scenario; its replay section is what is replayed.")],
    out: Annotated[Path | None, typer.Option(help="Write the request rows here, as .parquet.")] = None,
    pipeline: Annotated[
        list[str] | None, typer.Option(help="Only this pipeline; may be repeated.", show_default="all of the run")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
    engine: Annotated[Engine, typer.Option(help="Processes here, or a Ray cluster.")] = Engine.processes,
) -> None:
    """Replay a run's schemes over all uplinks, users and seeds of a scenario's replay section.

    Nothing is measured again: the stage rows are the run's. The intervals are over the section's seeds. The numbers do
    not depend on the engine or the number of workers.

        harness sweep results/runs/smoke scenarios/multi_user.yaml --workers 4
    """
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.table import Table

    from harness.cli.profiles import profiles
    from harness.replay import answers
    from harness.replay import sweep as replay_sweep
    from harness.scenario.load import load
    from harness.units import format_seconds

    spec = load(scenario).replay
    found = profiles(path, pipeline)
    rows = replay_sweep(found, spec, workers="ray" if engine is Engine.ray else workers)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, out, compression="zstd")
    summary = answers.summarise(rows, spec.deadline_s)
    late = "" if spec.deadline_s is None else f"within {format_seconds(spec.deadline_s)}"
    table = Table("uplink", "users", "scheme", "point", "mean", "p50", "p99", "answered", late)
    for row in summary:
        spread = [_shown(estimate) for estimate in (row.mean_s, row.p50_s, row.p99_s)]
        in_time = "" if row.in_time is None else f"{row.in_time.value:.1%}"
        table.add_row(row.channel, str(row.users), row.pipeline, row.point, *spread, f"{row.answered:.1%}", in_time)
    Console().print(table)


def _shown(estimate: "Estimate") -> str:
    from harness.units import format_seconds

    half_s = estimate.high - estimate.value
    if not math.isfinite(half_s):
        return format_seconds(estimate.value)
    return f"{format_seconds(estimate.value)} ± {format_seconds(half_s) if half_s > 1e-9 else '0'}"
