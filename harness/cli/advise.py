"""``harness advise``, ``crossover`` and ``max-users``: what to choose, from a run's own rows."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import units
from harness.cli.app import PER_SECOND, RATE, SECONDS, above_0, quantity
from harness.errors import ExitCode, ResultsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from harness.analysis import Analysis
    from harness.analysis.means import Estimate
    from harness.scenario.replay import Replay

_NAME_COLUMNS = 24


class Sharing(StrEnum):
    """How users share uplinks."""

    own = "own"
    fifo = "fifo"
    processor = "processor"


RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]


def _rate(text: str) -> float:
    """A rate; raises BadParameter for anything else, which says of a file where it is given."""
    if Path(text).is_file():
        raise typer.BadParameter(f"{text!r} is a file; a recorded link is given with --link, not --rate")
    return float(quantity(above_0(units.parse_rate_bps))(text))


Rate = Annotated[float | None, typer.Option(help="Rate of the uplink; or give --link.", parser=_rate, metavar="RATE")]
Link = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Use a recorded link, as 'harness trace import' writes it, in a loop."),
]
RoundTrip = Annotated[
    float, typer.Option("--rtt", help="Round-trip time without load, half of it in each direction.", **SECONDS)
]
Servers = Annotated[int, typer.Option(min=1, max=10_000, help="Number of servers.")]
Shared = Annotated[
    Sharing,
    typer.Option(help="Give each user a link (own), or share one in order of arrival (fifo) or evenly (processor)."),
]
PerUser = Annotated[
    float | None,
    typer.Option(
        help="Mean rate at which each user asks, at random times, such as '0.2 /s'.",
        show_default="again when answered",
        **PER_SECOND,
    ),
]
Users = Annotated[int, typer.Option(min=1, max=100_000, help="Number of users.")]
Requests = Annotated[int, typer.Option(min=10, max=10_000_000, help="Requests of each user, where requests may queue.")]


def _system(
    rate: float | None,
    link: Path | None,
    rtt: float,
    *,
    users: int = 1,
    per_user: float | None = None,
    servers: int = 1,
    sharing: Sharing = Sharing.own,
    requests: int | None = None,
    seeds: int = 1,
    rates: str = "--rate",
) -> "Replay":
    """The replay section that the options describe; its one uplink is the rate's or the recorded link's.

    ``rates`` names the options of a command that take a rate.
    """
    from harness.channel.channel import unreadable_files
    from harness.errors import ScenarioError
    from harness.scenario.replay import Replay
    from harness.units import is_rate

    if link is not None and is_rate(str(link)) and not link.exists():
        raise typer.BadParameter(
            f"{str(link)!r} is a rate, and the file of a recorded link is expected; give a rate with {rates}",
            param_hint="--link",
        )
    if (rate is None) == (link is None):
        raise typer.BadParameter("give either the uplink's --rate or a recorded --link")
    wire = {"propagation": f"{rtt / 2} s"}
    uplink = {"kind": "constant", "rate": f"{rate} bit/s"} if link is None else {"kind": "trace", "path": str(link)}
    parts: dict[str, object] = {
        "uplinks": [{**uplink, "wire": wire}],
        "users": [users],
        "servers": servers,
        "sharing": sharing.value,
        "answer": {"propagation": f"{rtt / 2} s"},
        "seeds": seeds,
    }
    if per_user is not None:
        parts["arrivals"] = {"kind": "poisson", "rate": f"{per_user} /s"}
    if requests is not None:
        parts["requests"] = requests
    spec = Replay.model_validate(parts)
    if wrong := unreadable_files(spec):
        raise ScenarioError("\n".join(wrong))
    return spec


def _described(spec: "Replay") -> str:
    """The system in a phrase: the link, and what differs from one user who asks again when answered."""
    from harness.scenario.replay import ConstantUplink, Poisson
    from harness.units import format_rate, format_seconds

    uplink, users = spec.uplinks[0], spec.users[0]
    found = [format_rate(uplink.rate_bps) if isinstance(uplink, ConstantUplink) else f"the link {uplink.label}"]
    if rtt := 2 * uplink.wire.propagation_s:
        found.append(f"a round trip of {format_seconds(rtt)}")
    asks = f" asking {spec.arrivals.rate_hz:g} times a second each" if isinstance(spec.arrivals, Poisson) else ""
    if users > 1 or asks:
        found.append(f"{users} user{'s' * (users > 1)}{asks}, {spec.servers} server{'s' * (spec.servers > 1)}")
    return ", ".join(found)


def _before(run: "Analysis", spec: "Replay", console: "Console") -> None:
    """Prints what the answer has to be read with: the run's labels, and what it replayed otherwise."""
    from harness.channel.channel import unrecorded
    from harness.cli.display import print_labels

    print_labels(run, console)
    for sentence in unrecorded(spec):
        console.print(sentence)
    if left := not_applied(run.manifest.scenario_value("replay"), spec):
        console.print(f"settings of the run's own replay that are not applied here: {', '.join(left)}")


def not_applied(own: "Mapping[str, Any]", spec: "Replay") -> list[str]:
    """The settings of a run's replay section, as its manifest has it, that another system does not have.

    Those that are left at their defaults are none. The question's text is no setting of a system: it is in the bytes of
    the run's profiles.
    """
    from harness.scenario.replay import Replay, Wire

    wire, taken = Wire().model_dump(), spec.uplinks[0].wire.model_dump()
    plain, applied = (one.model_dump(mode="json") for one in (Replay.model_construct(uplinks=()), spec))
    names = ("sharing", "servers", "batching", "arrivals", "timeout_s", "answer")
    differ = [name for name in names if own.get(name, plain[name]) not in (plain[name], applied[name])]
    parts = {
        name.removesuffix("_bytes").removesuffix("_s")
        for uplink in own["uplinks"]
        for name, value in uplink.get("wire", {}).items()
        if value not in (wire.get(name), taken.get(name))
    }
    return [name.removesuffix("_s") for name in differ] + ([f"wire ({', '.join(sorted(parts))})"] if parts else [])


def advise(
    path: RunFolder,
    deadline: Annotated[float, typer.Option(help="Time within which an answer is expected.", **SECONDS)],
    min_score: Annotated[float, typer.Option(min=0.0, help="Lowest score, as a share of the reference's.")] = 0.9,
    min_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of requests that must be answered in time.")
    ] = 0.95,
    rate: Rate = None,
    link: Link = None,
    rtt: RoundTrip = "0 s",  # type: ignore[assignment]
    users: Users = 1,
    per_user: PerUser = None,
    servers: Servers = 1,
    sharing: Shared = Sharing.own,
    requests: Requests = 200,
) -> None:
    r"""Recommend a scheme and operating point for an uplink.

    Every point of the run is replayed over the rate or the recorded link. Points that meet both the score and the
    deadline come first, the fastest at the top; the others follow, each with the reason. The exit status is 1 if no
    point qualifies. A system that receives more work than it can do is called unstable.

        harness advise results/runs/realworldqa_lowrate --rate "50 KB/s" \
          --deadline 1s --min-score 0.9
        harness advise results/runs/mme --link bus.parquet --rtt 60ms \
          --users 8 --per-user "0.1 /s" --deadline 2s
    """
    from harness.analysis import Analysis, whatif
    from harness.cli.display import terminal
    from harness.report.fitting import Fitting
    from harness.units import format_percent, format_seconds

    meet = users > 1 or per_user is not None or link is not None
    spec = _system(
        rate, link, rtt, users=users, per_user=per_user, servers=servers, sharing=sharing,
        requests=requests if meet else None,
    )  # fmt: skip
    analysis = Analysis.read(path)
    points = analysis.points
    if not analysis.scored:
        raise ResultsError(
            f"{path}: the reference {analysis.equality.reference} scores 0, so scores cannot be compared with it; "
            "'harness show' and 'harness crossover' compare only latencies"
        )
    keys = zip(points["pipeline"], points["point"], strict=True)
    scores = dict(zip(keys, points["relative_score"].astype(float), strict=True))
    found = whatif.advise(
        analysis.profiles(),
        scores,
        spec,
        spec.uplinks[0],
        deadline_s=deadline,
        min_score=min_score,
        min_share=min_share,
        population=analysis.population,
        confidence=analysis.latency_confidence,
    )
    console = terminal()
    _before(analysis, spec, console)
    console.print(
        f"over {_described(spec)}, {format_percent(min_share)} within {format_seconds(deadline)}; scores over the "
        "reference's"
    )
    names = [f"{advice.pipeline}\n" + advice.point.replace(",", "\n") for advice in found]
    # At 80 columns names stay on one line, and the verdict is wrapped.
    widest = max(len(line) for name in names for line in name.splitlines())
    table = Fitting(leading=1)
    table.add_column("scheme, point", overflow="fold", no_wrap=widest <= _NAME_COLUMNS)
    for column in ("score", f"mean [{100 * analysis.equality.confidence:g} %]", "p95", "in time"):
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
            advice.rejected or "meets both",
        )
    console.print(table)
    for reason in dict.fromkeys(part.reason for advice in found for part in (advice.mean_s, advice.p95_s)):
        if reason:
            console.print(f"none: {reason}")
    best = found[0]
    if best.rejected:
        console.print("No point of this run meets both the score and the deadline.")
        raise typer.Exit(ExitCode.NEGATIVE)
    console.print(f"Use {best.pipeline} at {best.point}.")


def crossover(
    path: RunFolder,
    first: Annotated[str, typer.Argument(help="A pipeline of the run.")],
    second: Annotated[str, typer.Argument(help="The pipeline to compare it with.")],
    low: Annotated[float, typer.Option(help="Slowest uplink tried.", **RATE)] = "1 KB/s",  # type: ignore[assignment]
    high: Annotated[float, typer.Option(help="Fastest uplink tried.", **RATE)] = "100 MB/s",  # type: ignore[assignment]
    link: Link = None,
    rtt: RoundTrip = "0 s",  # type: ignore[assignment]
    users: Users = 1,
    per_user: PerUser = None,
    servers: Servers = 1,
    sharing: Shared = Sharing.own,
    requests: Requests = 100,
) -> None:
    r"""Find the uplink rate at which two schemes are equally fast.

    Each scheme runs at its operating point of equal score. The interval, at the confidence of the run's scenario, holds
    the rates at which the timed pictures do not decide which scheme is faster. A recorded link is scaled as a whole,
    and the answer is its mean rate. If users queue, rates at which neither scheme keeps up are reported.

        harness crossover results/runs/crossover webp raw_features
        harness crossover results/runs/crossover webp tofc --link bus.parquet \
          --users 8 --per-user "0.1 /s" --servers 2
    """
    from harness.analysis import Analysis, crossings
    from harness.cli.display import terminal
    from harness.units import format_rate

    if first == second:
        raise typer.BadParameter(f"{first} is given twice; name two pipelines of the run", param_hint="SECOND")
    if low >= high:
        raise typer.BadParameter(f"{format_rate(low)} is not below --high, {format_rate(high)}", param_hint="--low")
    meet = users > 1 or per_user is not None or link is not None
    spec = _system(
        None if link else high, link, rtt, users=users, per_user=per_user, servers=servers, sharing=sharing,
        requests=requests if meet else None, rates="--low and --high",
    )  # fmt: skip
    analysis = Analysis.read(path)
    one, other = (analysis.selected_profile(name) for name in (first, second))
    _before(analysis, spec, terminal())
    uplink, confidence = spec.uplinks[0], analysis.latency_confidence
    if meet:
        found = crossings.crossover_of_links(
            one, other, spec, uplink, low_bps=low, high_bps=high, users=users, confidence=confidence
        )
    else:
        found = crossings.crossover(
            one,
            other,
            spec,
            low_bps=low,
            high_bps=high,
            wire=uplink.wire,
            population=analysis.population,
            confidence=confidence,
        )
    span = f"between {format_rate(low)} and {format_rate(high)}"
    if meet:
        typer.echo(f"rates are means of {'a constant link' if link is None else f'the link {uplink.label}, scaled'}")
    if found.unstable_below_bps == math.inf:
        typer.echo(f"unstable: neither {one.pipeline} nor {other.pipeline} keeps up at any rate {span}")
        return
    if found.unstable_below_bps is not None:
        typer.echo(f"unstable: neither keeps up below {format_rate(found.unstable_below_bps)}")
    if found.rate_bps is None:
        if found.sure:
            typer.echo(f"{found.faster_throughout} answers first at every rate {span}: they do not cross there")
        else:
            typer.echo(
                f"{found.faster_throughout} answers first at every rate {span} by the means only: the timed pictures "
                "leave open whether they cross there"
            )
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
    limit: Annotated[float, typer.Option(help="Limit on the percentile of T.", **SECONDS)],
    rate: Rate = None,
    link: Link = None,
    rtt: RoundTrip = "0 s",  # type: ignore[assignment]
    per_user: Annotated[
        float, typer.Option(help="Mean rate at which each user asks, such as '0.2 /s'.", **PER_SECOND)
    ] = "0.2 /s",  # type: ignore[assignment]
    servers: Servers = 1,
    sharing: Shared = Sharing.own,
    percentile: Annotated[float, typer.Option(min=1, max=100, help="Percentile of T that is limited.")] = 99.0,
    requests: Annotated[int, typer.Option(min=10, max=10_000_000, help="Requests of each user.")] = 500,
    seeds: Annotated[int, typer.Option(min=20, max=10_000, help="Number of random streams.")] = 20,
) -> None:
    r"""Find how many users the servers support within a limit on the tail of the latency.

    Users ask at random times. The upper end of the percentile's interval over the timed pictures must stay within the
    limit. If there are too few pictures for an interval, the percentile itself must, and the answer says so.

        harness max-users results/runs/realworldqa_lowrate jpeg \
          --rate "1 MB/s" --limit 2s --servers 2
        harness max-users results/runs/realworldqa_lowrate tofc \
          --link bus.parquet --rtt 60ms --limit 3s
    """
    from harness.analysis import Analysis, whatif
    from harness.cli.display import terminal
    from harness.units import format_seconds

    spec = _system(rate, link, rtt, per_user=per_user, servers=servers, sharing=sharing, requests=requests, seeds=seeds)
    analysis = Analysis.read(path)
    profile = analysis.selected_profile(pipeline)
    _before(analysis, spec, terminal())
    users, seen = whatif.max_users(
        profile,
        spec,
        spec.uplinks[0],
        limit_s=limit,
        q=percentile,
        confidence=analysis.latency_confidence,
    )
    found = f"{users} user{'s' * (users != 1)}"
    if users == whatif.MOST_USERS:
        found = f"at least {found}, the most that are tried,"
    typer.echo(f"{profile.pipeline} at {profile.point}: {found} within {format_seconds(limit)}")
    for asked in sorted(seen):
        tail = seen[asked]
        shown = format_seconds(tail.value) if math.isfinite(tail.value) else "none"
        interval = f"({tail.reason})" if tail.reason else f"[{_span(tail)}]"
        typer.echo(f"  {asked:5} user{'s:' if asked > 1 else ': '} p{percentile:g} {shown} {interval}")


def _span(estimate: "Estimate") -> str:
    """``1.2 s to 1.4 s``, or that there is no interval."""
    from harness.units import format_seconds

    if math.isnan(estimate.low):
        return "no interval"
    return f"{format_seconds(max(0.0, estimate.low))} to {format_seconds(estimate.high)}"
