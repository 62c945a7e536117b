"""``harness sweep``: a run's rows replayed in another system, without measuring again."""

import functools
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import ExecutorName

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.analysis.means import Estimate


def sweep(
    path: Annotated[Path, typer.Argument(help="A run's folder.")],
    scenario: Annotated[Path, typer.Argument(help="A scenario; only its replay section is used.")],
    out: Annotated[Path | None, typer.Option(help="Write the request rows to this .parquet or .csv file.")] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(help="Replay only this pipeline; may be repeated.", show_default="all of the run"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    engine: Annotated[
        ExecutorName, typer.Option(help="Replay in processes on this machine, or on a Ray cluster.")
    ] = ExecutorName.processes,
) -> None:
    """Replay a run's schemes over all uplinks, users and seeds of a scenario's replay section.

    Nothing is measured again: the stage times are those of the run, and the intervals are over its timed pictures,
    rounds and starts of the process. The numbers do not depend on the engine or the number of workers.

        harness sweep results/runs/smoke scenarios/multi_user.yaml --workers 4
    """
    from harness.analysis import Analysis, whatif
    from harness.analysis.loads import unstable_cells
    from harness.analysis.setting import level_of
    from harness.channel.channel import unreadable_files, unrecorded
    from harness.cli.display import print_labels, terminal
    from harness.errors import ScenarioError
    from harness.replay import sweep as replay_sweep
    from harness.replay.sweep import refuse_unknown_stages, server_stages
    from harness.report.fitting import Fitting
    from harness.scenario.load import load
    from harness.units import format_seconds

    if out is not None:
        _check(out)
    run = Analysis.read(path)
    spec = load(scenario, stages=server_stages(run.record.stages)).replay
    if wrong := unreadable_files(spec):
        raise ScenarioError("\n".join(f"{scenario}: {sentence}" for sentence in wrong))
    refuse_unknown_stages(spec, run.record.stages)
    found = run.profiles(pipeline, question_text=spec.question_text)
    rows = replay_sweep(found, spec, workers="ray" if engine is ExecutorName.ray else workers, tell=_tell)
    if out is not None:
        _write(rows, out)
    levels = {(profile.pipeline, profile.point): level_of(profile) for profile in found}
    summary = whatif.cell_summaries(
        rows,
        spec.deadline_s,
        confidence=run.latency_confidence,
        levels=levels,
        unstable=unstable_cells(found, spec),
    )
    console = terminal()
    print_labels(run, console)
    for sentence in unrecorded(spec):
        console.print(sentence)
    for (scheme, point), of_point in itertools.groupby(summary, key=lambda row: (row.pipeline, row.point)):
        table = Fitting(title=f"{scheme} at {point}", names=2)
        table.add_column("uplink", overflow="fold")  # A long name is wrapped; numbers are never cut.
        for column in ("users", "mean", "p50", "p99", "answered"):
            table.add_column(column, justify="right", no_wrap=True)
        if spec.deadline_s is not None:
            table.add_column(f"in {format_seconds(spec.deadline_s)}", justify="right", no_wrap=True)
        for cell in of_point:
            spread = [_shown(cell.mean_s), _middle(cell.p50_s), _shown(cell.p99_s)]
            in_time = [] if cell.in_time is None else [_share(cell.in_time.value)]
            table.add_row(cell.channel, str(cell.users), *spread, f"{cell.answered:.1%}", *in_time)
        console.print(table, "")
    console.print(f"±: {100 * run.equality.confidence:g} % over the timed pictures, rounds and starts of the process")
    for reason in dict.fromkeys(part.reason for cell in summary for part in (cell.mean_s, cell.p50_s, cell.p99_s)):
        if reason:
            console.print(f"no interval, or none claimed (-): {reason}")
    if any(cell.answered < 1 for cell in summary):
        console.print("means are of answered requests; for p50 and p99 a request that is never answered is the slowest")


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _check(out: Path) -> None:
    """Raises ResultsError where rows could not be written, before they are made."""
    from harness.errors import ResultsError
    from harness.runs import disk

    if out.suffix not in (".parquet", ".csv"):
        raise ResultsError(f"{out}: rows are written to a file whose name ends in .parquet or .csv")
    disk.check_writable(out)


def _write(rows: "pa.Table", out: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet as pq

    from harness import files
    from harness.errors import ResultsError

    write = pyarrow.csv.write_csv if out.suffix == ".csv" else functools.partial(pq.write_table, compression="zstd")
    try:
        files.write_whole(out, lambda file: write(rows, file))
    except OSError as error:
        raise ResultsError(f"{out}: cannot be written: {files.why(error)}") from None


def _shown(estimate: "Estimate") -> str:
    """The middle and the half-width in its unit: ``74.3 ± 0.3 ms``."""
    middle = _middle(estimate)
    half_s = estimate.high - estimate.value
    if not math.isfinite(half_s) or not math.isfinite(estimate.value) or half_s < 5e-4 * estimate.value:
        return middle
    number, unit = middle.split()
    half = half_s / {"s": 1.0, "ms": 1e-3, "us": 1e-6}[unit]
    return f"{number} ± {half:.2g} {unit}" if half < 100 else f"{number} ± {half:.0f} {unit}"


def _share(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _middle(estimate: "Estimate") -> str:
    from harness.units import format_seconds

    if math.isnan(estimate.value):
        return "-"
    return format_seconds(estimate.value) if math.isfinite(estimate.value) else "never"
