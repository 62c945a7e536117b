"""``harness estimate``: what the stages of a scenario would take on hardware that is not available."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import ScenarioError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.estimates.estimate import Estimated
    from harness.projection import Projection
    from harness.report.fitting import Fitting

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def estimate(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario file; not needed with --errors.")] = None,
    device: Annotated[str, typer.Option(help="Device, by its name in --machines.")] = "agx-orin",
    server: Annotated[str, typer.Option(help="Server, by its name in --machines.")] = "rtx-4090",
    picture: Annotated[str, typer.Option(metavar="WxH", help="Size of the request's picture in pixels.")] = "1536x1024",
    text_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens of the prompt's text.")] = 60,
    answer_tokens: Annotated[int, typer.Option(min=1, max=10_000, help="Tokens of the answer.")] = 2,
    errors: Annotated[
        bool, typer.Option("--errors", help="Print each published time beside the prediction from the others.")
    ] = False,
    machines: Annotated[bool, typer.Option("--machines", help="Print the data sheets.")] = False,
) -> None:
    r"""Estimate each stage of each scheme at full size, with its error, from counted work and data sheets.

    The model is a roofline with one efficiency for each machine and kind of stage. Efficiencies come from published
    times, never from the time that they are tested against; --errors prints which times were used and which were left
    out. Queues, the network and kernel launches are not included. `harness run` makes a run of a scenario with an
    `estimate:` section.

        harness estimate scenarios/realworldqa_lowrate.yaml \
          --device agx-orin-30w --server h100
        harness estimate --errors
    """
    from harness.cli.display import terminal
    from harness.scenario.load import load

    console = terminal()
    if not (scenario or errors or machines):
        raise typer.BadParameter("give one, or --errors or --machines", param_hint="SCENARIO")
    if machines:
        _print_machines(console)
    if errors:
        _print_errors(console)
    if scenario is None:
        return
    wanted = load(scenario)
    if (match := _SIZE.fullmatch(picture)) is None:
        raise typer.BadParameter(f"{picture!r} is not a size such as 1536x1024", param_hint="--picture")
    from harness.estimates.backbone import CountedBackbone
    from harness.estimates.estimate import Estimator
    from harness.estimates.stages import NominalRequest, work_of

    estimator = Estimator(device, server)
    size = int(match[1]), int(match[2])
    asked = NominalRequest(width_px=size[0], height_px=size[1], text_tokens=text_tokens, answer_tokens=answer_tokens)
    backbone = CountedBackbone(wanted.backbone)
    console.print(
        f"{wanted.backbone}, {asked.width_px} x {asked.height_px} px ({backbone.patches(*size)} patches), "
        f"{text_tokens} text tokens, {answer_tokens} answer tokens; device {device}, server {server}. All times are "
        "ESTIMATED."
    )
    seen: set[tuple[str, ...]] = set()
    used: dict[str, None] = {}
    for spec in wanted.pipelines:
        for point, works in work_of(spec, backbone, asked):
            stages = estimator.stages(works)
            # Points that differ in what does not change the work are one table.
            if (key := (spec.name, *map(str, stages))) in seen:
                continue
            seen.add(key)
            for work in works:
                if (found := estimator.roofline.efficiency(estimator.machines[work.side], work.kind)) is not None:
                    used |= dict.fromkeys(found.used)
            console.print("", _stage_table(f"{spec.name} at {point.label}", stages))
    console.print(
        "\n95 %: from the residuals of published times (--errors); none: no published time to judge by. Sources:"
    )
    for line in estimator.sheets.cited(estimator.machines.values(), used):
        console.print(f"- {line}", soft_wrap=True)


def show_projection(found: "Projection", console: "Console") -> None:
    """Prints a projection: each pipeline over each uplink with its error, and what is claimed beside it."""
    section = found.section
    table = _table(f"Estimated seconds on {section.device} and {section.server}, 95 % by the estimates' errors")
    for heading in ("uplink", "scheme"):
        table.add_column(heading)
    waits = any(row.wait_s > 0 for row in found.totals)
    for heading in ("payload", "device", "link", *(["wait"] if waits else []), "server", "total", "95 %"):
        table.add_column(heading, justify="right")
    n_bytes = {p.pipeline: p.payload_bytes for p in reversed(found.projected)}
    for row in sorted(found.totals, key=lambda row: _place(row.channel, (t.channel for t in found.totals))):
        error = f"{row.low_s:.2f} to {row.high_s:.2f}" + ("" if row.complete else " *")
        parts = (row.device_s, row.link_s, *([row.wait_s] if waits else []), row.server_s, row.seconds)
        sent = f"{n_bytes[row.pipeline]:,} B"
        table.add_row(row.channel, row.pipeline, sent, *(f"{part:.3f}" for part in parts), error)
    console.print("", table)
    if not all(row.complete for row in found.totals):
        console.print("*: without the error of some stages, for which no time is published")
    console.print("\nPayloads, none measured:")
    for name, payload in section.payloads.items():
        console.print(f"- {name}: {section.payload_bytes(name):,} B; {payload.says}")
    verdicts = list(found.verdicts())
    if not verdicts:
        return
    table = _table("What is claimed, beside the estimates")
    for heading in ("claim", "claimed", "uplink"):
        table.add_column(heading, no_wrap=True)
    for heading in ("estimated", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("agrees")
    said = None
    for v in verdicts:
        over = f" over {v.claim.over}" if v.claim.over else ", s"
        # A claim is printed once, for all the rows below it.
        name = "" if v.claim is said else f"{v.claim.of}{over}"
        claimed = "" if v.claim is said else _range(v.claim.low, v.claim.high)
        said = v.claim
        table.add_row(name, claimed, v.channel, f"{v.value:.2f}", f"{v.low:.2f} to {v.high:.2f}", v.agrees)
    console.print("", table)
    for claim in found.section.claims:
        console.print(f"- {claim.of}{f' over {claim.over}' if claim.over else ''}: {claim.says}")
    agreed = sum(v.agrees == "yes" for v in verdicts)
    near = sum(v.agrees == "within the error" for v in verdicts)
    console.print(
        f"{agreed} of {len(verdicts)} claims agree with the estimates, {near} more within their error; an estimate "
        "reproduces no claim"
    )


def write_projection(found: "Projection", folder: Path) -> list[Path]:
    """Writes the totals and the claims as CSV; returns the files."""
    import csv
    import io

    from harness.runs import disk

    totals: list[tuple[object, ...]] = [
        (t.channel, t.pipeline, "estimated", t.device_s, t.link_s, t.wait_s, t.server_s, t.seconds, t.low_s, t.high_s)
        for t in found.totals
    ]
    claims: list[tuple[object, ...]] = [
        (c.of, c.over or "", c.says, v.channel, c.low, c.high, v.value, v.low, v.high, v.agrees)
        for v in found.verdicts()
        for c in (v.claim,)
    ]
    heads: dict[str, tuple[str, ...]] = {
        "projection": (
            "uplink", "pipeline", "source", "device_s", "link_s", "wait_s", "server_s", "total_s", "low_s", "high_s",
        ),
        "claims": ("of", "over", "says", "uplink", "claimed_low", "claimed_high", "value", "low", "high", "agrees"),
    }  # fmt: skip
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for (name, head), rows in zip(heads.items(), (totals, claims), strict=True):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        disk.write_text(folder / f"{name}.csv", text.getvalue())
        written.append(folder / f"{name}.csv")
    return written


def _print_machines(console: "Console") -> None:
    from harness.estimates.sheets import sheets

    data = sheets()
    table = _table("Data sheets: dense operations a second, bytes a second, clock of a core")
    table.add_column("machine")
    for heading in ("16-bit, T/s", "fp32, T/s", "GB/s", "GHz"):
        table.add_column(heading, justify="right")
    for name, machine in data.machines.items():
        numbers = (machine.tensor_ops / 1e12, machine.fp32_ops / 1e12, machine.bandwidth / 1e9, machine.cpu_hz / 1e9)
        table.add_row(name, *(f"{number:.3g}" for number in numbers))
    console.print(table, "")
    for line in data.cited(data.machines):
        console.print(f"- {line}", soft_wrap=True)


def _print_errors(console: "Console") -> None:
    from harness.estimates.estimate import roofline

    found = roofline()
    table = _table("Published times, each predicted from the others")
    table.add_column("machine, kind, what was timed")
    for heading in ("published", "predicted", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("predicted from")
    for test in found.tests():
        predicted = _time(test.predicted_s) if math.isfinite(test.predicted_s) else "-"
        ratio = f"{test.ratio:.2f}" if math.isfinite(test.ratio) else "-"
        row = test.row
        used = f"{test.how}: {'; '.join(test.used)}" if test.used else test.how
        table.add_row(f"{row.machine}, {row.kind}: {row.name}", _time(row.seconds), predicted, ratio, used)
    console.print(table)
    table = _table("Efficiencies used by the estimates, and by what factor a time may be off (95 %)")
    for heading in ("machine", "kind"):
        table.add_column(heading)
    for heading in ("efficiency", "factor"):
        table.add_column(heading, justify="right")
    table.add_column("from")
    data = found.sheets
    for machine in (name for name, sheet in data.machines.items() if not sheet.same_efficiency_as):
        for kind in data.kinds:
            if (had := found.efficiency(machine, kind)) is not None:
                factor = f"{had.factor:.2f}" if math.isfinite(had.factor) else "none"
                table.add_row(machine, kind, f"{had.value:.3g}", factor, f"{had.how} ({len(had.used)} times)")
    console.print("", table, "\nPublished, but not used:")
    for left in data.left_out:
        console.print(f"- {left.what}: {left.why}")


def _stage_table(title: str, stages: Sequence["Estimated"]) -> "Fitting":
    table = _table(title)
    for heading in ("side", "stage"):
        table.add_column(heading)
    for heading in ("G op", "MB", "estimated", "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bound by; efficiency")
    for stage in stages:
        error = f"{_time(stage.low_s)} to {_time(stage.high_s)}" if math.isfinite(stage.low_s) else "none"
        work = f"{stage.operations / 1e9:.3g}", f"{stage.n_bytes / 1e6:.3g}"
        table.add_row(stage.side, stage.stage, *work, _time(stage.seconds), error, f"{stage.bound}; {stage.how}")
    return table


def _table(title: str) -> "Fitting":
    from harness.report.fitting import Fitting

    return Fitting(title=title)


def _time(seconds: float) -> str:
    from harness.units import format_seconds

    return format_seconds(seconds)


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"up to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def _place(name: str, among: Iterable[str]) -> int:
    return list(dict.fromkeys(among)).index(name)


def refuse_options(scenario: Path, **given: object) -> None:
    """Raises ScenarioError for measuring options with a scenario that measures nothing."""
    if wrong := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise ScenarioError(f"{scenario}: has an 'estimate:' section and measures nothing; drop {' and '.join(wrong)}")
