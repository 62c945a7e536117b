"""``harness validate``: the replay against a real, shaped link."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import RATE
from harness.errors import ExitCode


def validate(
    path: Annotated[Path, typer.Argument(help="Folder of a run; its stage times and payload sizes are used.")],
    rate: Annotated[float, typer.Option(help="Rate of the uplink.", **RATE)] = "2 Mbit/s",  # type: ignore[assignment]
    requests: Annotated[int, typer.Option(min=2, help="Requests of each point.")] = 30,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(help="Validate only this pipeline; may be repeated.", show_default="all of the run"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of requests.")] = 0,
) -> None:
    r"""Send a run's requests over a real TCP link, replay them, and compare stage by stage (Linux, as root).

    Two network namespaces are made with a link between them whose uplink is a token bucket. Device and server wait for
    the recorded time of each stage; the payloads are real bytes. T_link must be within 1 % in the median and 3 % at the
    99th percentile, request by request, and the mean of each stage within 2 %. If the mean of T_link is within its
    limit, errors no larger than the host's own scatter at the same percentile, measured in the same run on repeats of
    one exchange, are reported and do not fail. The namespaces are always removed. The exit status is 1 if a limit is
    missed.

        sudo harness validate results/runs/realworldqa_lowrate \
          --rate "100 KB/s" --pipeline jpeg
    """
    from harness.analysis import Analysis, whatif
    from harness.analysis.latency import PERCENTILES, required_samples
    from harness.cli.display import terminal
    from harness.errors import UnavailableError
    from harness.replay import validation
    from harness.replay.testbed import why_not
    from harness.report.fitting import Fitting
    from harness.scenario.replay import Replay
    from harness.units import format_rate, format_seconds

    if reason := why_not():
        raise UnavailableError(f"a real link cannot be made here: {reason}")
    console, failed = terminal(), False
    uplink = Replay.model_validate({"uplinks": [{"kind": "constant", "rate": f"{rate} bit/s"}]}).uplinks[0]
    for profile in Analysis.read(path).profiles(pipeline):
        found = validation.validate(profile, rate_bps=rate, requests=requests, seed=seed)
        title = f"{profile.pipeline} at {profile.point}, {requests} requests at {format_rate(rate)}"
        table = Fitting("stage", "", "mean", "p50", "p90", "p99", "error of the mean", title=title, names=2)
        for stage, row in found.by_stage().items():
            for side in ("real", "replayed"):
                numbers = [format_seconds(row[f"{side}_mean_s"])]
                for name, p in PERCENTILES.items():
                    claimed = requests >= required_samples(p) and not whatif.certified(profile, uplink, p)
                    numbers.append(format_seconds(row[f"{side}_{name}_s"]) if claimed else "-")
                last = f"{row['mean_error']:+.2%}" if side == "replayed" else ""
                table.add_row(stage if side == "real" else "", side, *numbers, last)
        console.print(table)
        link = found.by_stage()["link"]
        median, tail = link["median_request_error"], link["p99_request_error"]
        console.print(f"T_link, request by request: median error {median:.2%}, 99th percentile {tail:.2%}")
        host = found.host
        off, far_off = (f"{1e6 * seconds:.0f} us" for seconds in host.scatter_s)
        console.print(
            f"the host itself: {1e6 * host.up_s:.0f} us up and {1e6 * host.back_s:.0f} us back; one exchange, repeated "
            f"in between, is {off} from its median in the median, {far_off} at the 99th percentile"
        )
        missed, excused = found.shortfalls(), found.excused()
        within = f", within the host's own scatter: {'; '.join(excused)}" if excused else ""
        console.print(f"verdict: {'FAIL: ' + '; '.join(missed) if missed else 'PASS'}{within}\n")
        failed = failed or bool(missed)
    if failed:
        raise typer.Exit(ExitCode.NEGATIVE)
