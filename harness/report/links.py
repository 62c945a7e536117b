"""How long requests were under way over a real network, beside what a replay says of the same bytes."""

import pandas as pd
import pyarrow as pa

from harness.report.fitting import Fitting
from harness.units import format_bytes, format_seconds


def link_times(links: pa.Table) -> pd.DataFrame:
    """Means of a run's link rows for each pipeline and point.

    ``link_s`` is T_link, up and down: the round trip less the server's residence. ``channel_s`` is the replay's sum for
    the bytes that crossed, ``error`` how far that is from ``link_s``, relative to it; both are null where nothing paced
    the sending. ``set_up_s`` is the mean over the requests that opened a connection, ``opened`` how many did.
    """
    rows = links.to_pandas()
    rows["link_s"] = rows["round_trip_s"] - rows["residence_s"]
    found = rows.groupby(["pipeline", "point"], sort=False).agg(
        requests=("link_s", "size"),
        payload_bytes=("payload_bytes", "mean"),
        sent_bytes=("sent_bytes", "mean"),
        link_s=("link_s", "mean"),
        queue_s=("queue_s", "mean"),
        paced=("channel_s", "count"),
        channel_s=("channel_s", "mean"),
        opened=("set_up_s", "count"),
        set_up_s=("set_up_s", "mean"),
    )
    # A mean over other requests than those of link_s would be compared with it in vain.
    found["channel_s"] = found["channel_s"].where(found.pop("paced") == found["requests"])
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
