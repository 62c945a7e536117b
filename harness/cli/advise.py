"""``harness advise``, ``crossover`` and ``max-users``: what to choose, from a run's own rows."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.quantities import PER_SECOND, RATE, SECONDS
from harness.errors import ExitCode, ResultsError

if TYPE_CHECKING:
    from harness.analysis.means import Estimate

_NAME_COLUMNS = 24


class Sharing(StrEnum):
    """How users share uplinks."""

    own = "own"
    fifo = "fifo"
    processor = "processor"


RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]
Rate = Annotated[float, typer.Option(help="The uplink's rate.", **RATE)]


def advise(
    path: RunFolder,
    rate: Rate,
    deadline: Annotated[float, typer.Option(help="When an answer is wanted.", **SECONDS)],
    min_score: Annotated[float, typer.Option(min=0.0, help="The least score, as a share of the reference's.")] = 0.9,
    min_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share to be answered in time.")] = 0.95,
) -> None:
    """Say which scheme at which operating point to use over an uplink.

    Every point of the run is replayed over the rate. Those that score enough and answer often enough in time come
    first, the fastest at the top; the others follow with the reason. The status is 1 if none will do.

        harness advise results/runs/realworldqa_lowrate --rate "50 KB/s" --deadline 1s --min-score 0.9
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from harness.analysis import Analysis, whatif
    from harness.cli.display import terminal
    from harness.scenario.replay import Replay
    from harness.units import format_rate, format_seconds

    analysis = Analysis.read(path)
    points = analysis.points
    if not analysis.scored:
        raise ResultsError(
            f"{path}: the reference {analysis.equality.reference} scores 0, so that no point scores a share of it; "
            "'harness show' and 'harness crossover' compare latencies alone"
        )
    keys = zip(points["pipeline"], points["point"], strict=True)
    scores = dict(zip(keys, points["relative_score"].astype(float), strict=True))
    spec = Replay.model_validate({"uplinks": [{"kind": "constant", "rate": f"{rate} bit/s"}]})
    found = whatif.advise(
        analysis.profiles(),
        scores,
        spec,
        spec.uplinks[0],
        deadline_s=deadline,
        min_score=min_score,
        min_share=min_share,
        population=analysis.population,
    )
    console = terminal()
    console.print(
        f"over {format_rate(rate)}, {min_share:.0%} within {format_seconds(deadline)}; scores over the reference's"
    )
    names = [f"{advice.pipeline}\n" + advice.point.replace(",", "\n") for advice in found]
    # At 80 columns a name keeps its line, and the verdict is what is broken into several.
    widest = max(len(line) for name in names for line in name.splitlines())
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, leading=1)
    table.add_column("scheme, point", overflow="fold", no_wrap=widest <= _NAME_COLUMNS)
    for column in ("score", "mean, its 95 %", "p95", "in time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, advice in zip(names, found, strict=True):
        mean, share = advice.mean_s, advice.deadline_share
        table.add_row(
            name,
            f"{advice.score:.1%}",
            f"{format_seconds(mean.value)}\n{_span(mean)}" if math.isfinite(mean.value) else "none",
            format_seconds(advice.p95_s.value) if math.isfinite(advice.p95_s.value) else "none",
            f"{share.value:.1%}",
            advice.rejected or "will do",
        )
    console.print(table)
    for reason in dict.fromkeys(part.reason for advice in found for part in (advice.mean_s, advice.p95_s)):
        if reason:
            console.print(f"none: {reason}")
    best = found[0]
    if best.rejected:
        console.print("No point of this run will do.")
        raise typer.Exit(ExitCode.NEGATIVE)
    console.print(f"Use {best.pipeline} at {best.point}.")


def crossover(
    path: RunFolder,
    first: Annotated[str, typer.Argument(help="A pipeline of the run.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    low: Annotated[float, typer.Option(help="The slowest uplink looked at.", **RATE)] = "1 KB/s",  # type: ignore[assignment]
    high: Annotated[float, typer.Option(help="The fastest.", **RATE)] = "100 MB/s",  # type: ignore[assignment]
) -> None:
    """Say from which uplink rate on one scheme answers before the other.

    Each scheme is taken at its operating point of equal score; the interval at 95 % holds the rates at which the timed
    pictures leave open which scheme is faster.

        harness crossover results/runs/crossover webp raw_features
    """
    from harness.analysis import Analysis, whatif
    from harness.scenario.replay import Replay
    from harness.units import format_rate

    analysis = Analysis.read(path)
    one, other = (analysis.selected_profile(name) for name in (first, second))
    spec = Replay.model_validate({"uplinks": [{"kind": "constant", "rate": "1 MB/s"}]})
    found = whatif.crossover(one, other, spec, low_bps=low, high_bps=high, population=analysis.population)
    span = f"between {format_rate(low)} and {format_rate(high)}"
    if found.rate_bps is None:
        doubt = "" if found.sure else "; the timed pictures leave open whether they do"
        typer.echo(f"{found.faster_throughout} answers first at every rate {span}: they do not cross there{doubt}")
        return
    faster_above = other.pipeline if found.faster_below == one.pipeline else one.pipeline
    rate = found.rate_bps
    lowest = format_rate(rate.low) if rate.low > 0 else f"below {format_rate(low)}"
    highest = format_rate(rate.high) if math.isfinite(rate.high) else f"beyond {format_rate(high)}"
    interval = "no interval" if rate.reason else f"[{lowest}, {highest}]"
    typer.echo(f"{found.faster_below} answers first below {format_rate(rate.value)} {interval}, {faster_above} above")
    if rate.reason:
        typer.echo(f"no interval: {rate.reason}")


def max_users(
    path: RunFolder,
    pipeline: Annotated[str, typer.Argument(help="A pipeline of the run, taken at its selected point.")],
    rate: Rate,
    limit: Annotated[float, typer.Option(help="What the percentile of T must not exceed.", **SECONDS)],
    per_user: Annotated[
        float, typer.Option(help="How often each user asks, such as '0.2 /s'.", **PER_SECOND)
    ] = "0.2 /s",  # type: ignore[assignment]
    servers: Annotated[int, typer.Option(min=1, max=10_000, help="How many servers answer.")] = 1,
    sharing: Annotated[
        Sharing, typer.Option(help="Each user a link, or one for all in turn, or evenly.")
    ] = Sharing.own,
    percentile: Annotated[float, typer.Option(min=1, max=100, help="Which percentile of T.")] = 99.0,
    requests: Annotated[int, typer.Option(min=10, max=10_000_000, help="How many requests each user makes.")] = 500,
    seeds: Annotated[int, typer.Option(min=2, max=10_000, help="Random streams; at least 20 are taken.")] = 20,
) -> None:
    """Say how many users the servers carry within a limit on the tail of the latency.

    Users ask at random. The upper end of the percentile's interval over the timed pictures must stay within the limit;
    where they certify none, the percentile itself must, and the answer says so.

        harness max-users results/runs/realworldqa_lowrate jpeg --rate "1 MB/s" --limit 2s --servers 2
    """
    from harness.analysis import Analysis, whatif
    from harness.scenario.replay import Replay
    from harness.units import format_seconds

    parts = {
        "uplinks": [{"kind": "constant", "rate": f"{rate} bit/s"}],
        "arrivals": {"kind": "poisson", "rate": f"{per_user} /s"},
        "servers": servers,
        "sharing": sharing.value,
        "requests": requests,
        "seeds": seeds,
    }
    spec = Replay.model_validate(parts)
    profile = Analysis.read(path).selected_profile(pipeline)
    users, seen = whatif.max_users(profile, spec, spec.uplinks[0], limit_s=limit, q=percentile)
    typer.echo(f"{profile.pipeline} at {profile.point}: {users} users within {format_seconds(limit)}")
    for asked in sorted(seen):
        tail = seen[asked]
        shown = format_seconds(tail.value) if math.isfinite(tail.value) else "none"
        interval = f"({tail.reason})" if tail.reason else f"[{_span(tail)}]"
        typer.echo(f"  {asked:5} users: p{percentile:g} {shown} {interval}")


def _span(estimate: "Estimate") -> str:
    """``1.2 s to 1.4 s``, or that there is no interval."""
    from harness.units import format_seconds

    if math.isnan(estimate.low):
        return "no interval"
    return f"{format_seconds(max(0.0, estimate.low))} to {format_seconds(estimate.high)}"
