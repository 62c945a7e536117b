"""What idling between requests changes of their times, as a table."""

import math

from rich.console import Group, RenderableType
from rich.text import Text

from harness.analysis import Analysis
from harness.report.fitting import Fitting
from harness.units import format_seconds


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
        "at arrivals: one user, the machine idle between requests and while the payload is under way over the study's "
        "first uplink; the ratio is within rounds, over the whole benchmark; what is replayed is back to back",
        *sorted({reason for reason in found["reason"] if reason}),
    ]
    return Group(drawn, *(Text(note, style="dim") for note in notes))
