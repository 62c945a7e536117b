"""``harness trace``: imports recorded links in the form that a scenario replays."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import SECONDS, SOME_SECONDS, Command, group

app = group(
    "trace",
    """Import, fit and inspect recorded uplinks.

    A scenario replays a recording in the harness's own form (`kind: trace`), or a Markov chain fitted to recordings
    (`kind: markov`).

        harness trace import upload.csv traces/drive.parquet
        harness trace show traces/drive.parquet
        harness trace fit traces/drive.parquet --out traces/drive.json""",
)


class Format(StrEnum):
    """What recorded a trace."""

    auto = "auto"
    mahimahi = "mahimahi"
    iperf3 = "iperf3"
    csv = "csv"
    cellular = "cellular"
    starlink = "starlink"


class Handover(StrEnum):
    """What happens in a handover."""

    measured = "measured"
    outage = "outage"


@app.command("import", cls=Command)
def import_(
    source: Annotated[Path, typer.Argument(help="File of a recorder.")],
    out: Annotated[Path, typer.Argument(help="Recording to write, a .parquet file.")],
    kind: Annotated[
        Format, typer.Option("--format", help="Format of the file; by default it is detected.")
    ] = Format.auto,
    column: Annotated[
        str | None, typer.Option(help="Uplink of a cellular file: ULtput_x (AT&T) or ULtput_y (Verizon).")
    ] = None,
    time: Annotated[str | None, typer.Option(help="CSV column of times, or of dates and times.")] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="Unit of the times (s, ms, us or ns), if the column's name does not say it.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="CSV column of uplink rates.")] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="Unit of the rates, such as Mbit/s or KB/s, if the column's name does not say it."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="CSV column of the time at which a row ends, if there is one.")
    ] = None,
    hold: Annotated[
        float | None, typer.Option(help="Longest duration of a CSV row; what follows is a gap.", **SOME_SECONDS)
    ] = None,
    handover: Annotated[
        Handover, typer.Option(help="Treat a handover in a cellular file as it was measured, or as an outage.")
    ] = Handover.measured,
    skip: Annotated[float, typer.Option(help="Drop this much from the beginning.", **SECONDS)] = "0 s",  # type: ignore[assignment]
    split: Annotated[
        float | None, typer.Option(help="Split at gaps of at least this length, into one file each.", **SOME_SECONDS)
    ] = None,
    bin_: Annotated[
        float | None,
        typer.Option("--bin", help="Convert packets to mean rates over bins of this length.", **SOME_SECONDS),
    ] = None,
) -> None:
    r"""Write a recorded uplink in the harness's own form.

    Reads Mahimahi packet traces, iperf3 -J logs of a client, CSV files of time and rate, and the cellular (PAM 2025)
    and Starlink (Autobahn) sets. An outage is a rate of 0. A gap is where nothing was recorded; the scenario says
    whether it is an outage or keeps the rate before it, and whether the trace repeats at its end.

        harness trace import ATT-LTE-driving-2016.up traces/att.parquet

        harness trace import run.csv traces/run.parquet --column ULtput_x \
          --skip 2s

        harness trace import link.csv traces/link.parquet --time t \
          --time-unit s --rate up_mbps --hold 5s
    """
    from harness.channel.formats import CsvColumns
    from harness.channel.importing import Treatment, import_trace

    chosen = {"time": time, "time_unit": time_unit, "rate": rate, "unit": unit, "end": end, "hold_s": hold}
    given = {name: value for name, value in chosen.items() if value is not None}
    paths = import_trace(
        source,
        out,
        kind=kind.value,
        column=column,
        layout=CsvColumns(**given) if given else None,  # type: ignore[arg-type]
        handover=handover.value,
        treatment=Treatment(skip_s=skip, split_gap_s=split, bin_s=bin_),
    )
    show(paths)


@app.command(cls=Command)
def show(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings.")]) -> None:
    """Print the duration, rates, outages and gaps of recordings.

    They are Parquet files, as `harness trace import` writes them. Rates are over the time that was recorded, outages
    included and gaps not.

        harness trace show traces/*.parquet
    """
    import numpy as np

    from harness.channel.recording import RateRecording, load
    from harness.cli.display import terminal
    from harness.errors import printable
    from harness.report.fitting import Fitting
    from harness.units import format_rate

    notes = []
    table = Fitting("recording", "duration", "mean", "5 % / 50 % / 95 %", "outages", "gaps")
    for file in files:
        found = load(file)
        found.channel(loop=False, gaps="outage")  # It refuses a recording that carries nothing.
        if isinstance(found, RateRecording):
            width_s, rate_bps = np.diff(found.at_s), found.rate_bps
            known = ~np.isnan(rate_bps)
            mean_bps = (width_s * rate_bps)[known].sum() / width_s[known].sum()
            order = np.argsort(rate_bps[known])
            share = np.cumsum(width_s[known][order]) / width_s[known].sum()
            at = np.minimum(np.searchsorted(share, [0.05, 0.5, 0.95]), len(order) - 1)
            spread = " / ".join(format_rate(rate) for rate in rate_bps[known][order][at])
            outages, gaps = (f"{width_s[where].sum():.1f} s" for where in (rate_bps == 0, ~known))
        else:
            mean_bps = 8 * found.packet_bytes * len(found.at_ms) / found.duration_s
            spread, outages, gaps = f"{len(found.at_ms)} packets", "", ""
        notes += [f"{file}: {note}" for note in found.notes]
        mean = format_rate(mean_bps)
        table.add_row(printable(str(file)), f"{found.duration_s:.1f} s", mean, spread, outages, gaps)
    console = terminal(soft_wrap=True)
    console.print(table, soft_wrap=False)
    for note in notes:
        console.print(printable(note))


@app.command(cls=Command)
def fit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings of rates.")],
    out: Annotated[Path, typer.Option(help="Chain to write, a .json file.")],
    states: Annotated[int, typer.Option(min=2, max=64, help="Number of states of the chain.")] = 8,
    step: Annotated[
        float, typer.Option(help="Interval at which the recordings are sampled.", **SOME_SECONDS)
    ] = "500 ms",  # type: ignore[assignment]
    source: Annotated[str | None, typer.Option(help="Source of the recordings, recorded in the file.")] = None,
) -> None:
    r"""Fit a Markov chain of rates to recordings, and compare its rates with theirs.

    Several recordings make one chain; the step from the end of one to the beginning of the next is not counted. A
    scenario replays the chain as `{kind: markov, path: FILE}`, with a different sequence for every user and seed.

        harness trace fit traces/run-*.parquet --out traces/cellular.json \
          --states 8
    """
    import numpy as np

    from harness import files as disk
    from harness.channel import markov
    from harness.channel.recording import RateRecording, load
    from harness.errors import TraceError
    from harness.units import format_rate

    if out.suffix != ".json":
        raise TraceError(f"{out}: a chain is written as JSON; give a name that ends in .json")
    try:
        disk.check_writable(out)
    except OSError as error:
        raise TraceError(f"{out}: cannot be written: {disk.why(error)}") from None
    recordings = []
    for file in files:
        found = load(file)
        if not isinstance(found, RateRecording):
            raise TraceError(
                f"{found.source}: holds packets, and a chain is fitted to rates; 'harness trace import FILE "
                "OUT.parquet --bin 100ms' makes rates of the recorder's file"
            )
        recordings.append(found)
    chain = markov.fit(
        recordings, n_states=states, step_s=step, source=source or ", ".join(file.name for file in files)
    )
    chain.save(out)
    carried = sum(r.channel(loop=False, gaps="outage").bits(0.0, r.duration_s) for r in recordings)
    known_s = sum(float(np.diff(r.at_s)[~np.isnan(r.rate_bps)].sum()) for r in recordings)
    typer.echo(f"{out}: {len(chain.rate_bps)} states from {known_s:.0f} s")
    typer.echo(f"mean rate {format_rate(chain.mean_bps())}; the recordings' {format_rate(carried / known_s)}")
    for rate_bps, hold_s, share in zip(chain.rate_bps, chain.hold_s, chain.share_of_time(), strict=True):
        typer.echo(f"  {format_rate(rate_bps):>10} for {hold_s:6.2f} s at a time, {share:6.1%} of all time")
