"""Everything that is printed of a run: its closing table, and a table for each further measurement."""

import math
from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
from rich.console import Group, RenderableType
from rich.text import Text

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.report.energy import energy_table
from harness.report.fitting import Fitting
from harness.report.table import labels, table
from harness.units import format_bytes, format_seconds

_NEEDS = {
    "weights_bytes": ("weights,\nMB", 1e6),
    "peak_memory_bytes": ("peak,\nMB", 1e6),
    "operations": ("GFLOP", 1e9),
}


def sections(run: Analysis) -> Iterator[RenderableType]:
    """The tables of a run, one after the other."""
    yield table(run)
    if run.record.links.num_rows:
        yield links_table(run.record.links)
    if (pacing := pacing_table(run)) is not None:
        yield pacing
    if (energy := energy_table(run)) is not None:
        yield energy


def link_times(links: pa.Table) -> pd.DataFrame:
    """Means of a run's link rows for each pipeline and point.

    ``link_s`` is T_link, up and down: the round trip less the server's residence. ``channel_s`` is the replay's sum for
    the bytes that crossed, ``error`` how far that is from ``link_s``, relative to it; both are null where nothing
    shaped the sending. ``set_up_s`` is the mean over the requests that opened a connection, ``opened`` how many did.
    """
    rows = links.to_pandas()
    rows["link_s"] = rows["round_trip_s"] - rows["residence_s"]
    found = rows.groupby(["pipeline", "point"], sort=False).agg(
        requests=("link_s", "size"),
        payload_bytes=("payload_bytes", "mean"),
        sent_bytes=("sent_bytes", "mean"),
        link_s=("link_s", "mean"),
        queue_s=("queue_s", "mean"),
        shaped=("channel_s", "count"),
        channel_s=("channel_s", "mean"),
        opened=("set_up_s", "count"),
        set_up_s=("set_up_s", "mean"),
    )
    # A mean over other requests than those of link_s cannot be compared with it.
    found["channel_s"] = found["channel_s"].where(found.pop("shaped") == found["requests"])
    found["error"] = found["channel_s"] / found["link_s"] - 1
    means: pd.DataFrame = found.reset_index()
    return means


def links_table(links: pa.Table) -> Fitting:
    """The measured T_link of each scheme and point."""
    title = "T_link, measured: round trip less the server's residence; means"
    table = Fitting(title=title, names=2)
    for column in ("scheme", "point"):
        table.add_column(column, overflow="fold")
    for column in ("requests", "sent", "T_link", "replayed", "error", "set-up"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in link_times(links).to_dict("records"):
        channel_s, opened = row["channel_s"], "-"
        replayed = ("-", "-") if pd.isna(channel_s) else (format_seconds(channel_s), f"{row['error']:+.1%}")
        if row["opened"]:
            opened = f"{format_seconds(row['set_up_s'])} x {row['opened']}"
        sent, link = format_bytes(row["sent_bytes"]), format_seconds(row["link_s"])
        table.add_row(row["pipeline"], row["point"], str(row["requests"]), sent, link, *replayed, opened)
    return table


def pacing_table(run: Analysis) -> RenderableType | None:
    """A row for each point and side that was timed both ways; nothing where none was."""
    found = run.pacing
    if found.empty:
        return None
    title = "Timed as the study's requests arrive, over back to back; means"
    drawn = Fitting(title=title, names=2)
    drawn.add_column("scheme, point", overflow="fold")
    drawn.add_column("side")
    for head in ("back to back", "at arrivals", "ratio", "interval"):
        drawn.add_column(head, justify="right", no_wrap=True)
    for row in found.to_dict("records"):
        none = math.isnan(row["ratio_low"])
        interval = "none" if none else f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"
        times = [format_seconds(row[f"{way}_s"]) for way in ("back_to_back", "paced")]
        drawn.add_row(f"{row['pipeline']} at {row['point']}", row["side"], *times, f"{row['ratio']:.3f}", interval)
    notes = [
        "at arrivals: one user, with the machine idle between requests and while the payload crosses the study's first "
        "uplink; the ratio is within rounds, over the whole benchmark; the requests timed back to back are replayed",
        *sorted({reason for reason in found["reason"] if reason}),
    ]
    return Group(drawn, *(Text(note, style="dim") for note in notes))


def resources_table(run: Analysis) -> Group:
    """A row a point, both halves side by side; raises ResultsError for a run that measured none of it."""
    found = run.resources
    if found.empty:
        raise ResultsError(f"{run.record.folder}: nothing was measured of memory and operations")
    drawn = Fitting()
    drawn.add_column("scheme, point", overflow="fold")
    for side in ("device", "server"):
        for head, _ in _NEEDS.values():
            drawn.add_column(f"{side}\n{head}", justify="right", no_wrap=True)
    for _, row in found.iterrows():
        cells = [
            _cell(row[f"{side}/{name}"] / unit) for side in ("device", "server") for name, (_, unit) in _NEEDS.items()
        ]
        drawn.add_row(f"{row['pipeline']}\n{row['point']}", *cells)
    notes = (
        "weights: all tensors and arrays that a half holds; peak: these and the most memory beyond them in one request",
        "GFLOP: floating-point operations of one request in torch; a multiplication and an addition are two; what "
        "torch does not compute (entropy coding, clustering on a CPU, picture codecs) is not counted",
        f"{run.resources_source} on {'; '.join(sorted(set(run.record.resources['machine'].to_pylist())))}, on sample "
        f"{run.record.resources['sample'][0].as_py()}",
    )
    title = f"{run.manifest.scenario_value('title')}: memory and operations"
    return Group(
        Text(title, style="bold"), *labels(run), Text(), drawn, Text(), *(Text(note, style="dim") for note in notes)
    )


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
