"""The closing table: which scheme answers first at equal score, by how much, and whether that may be believed."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.analysis import comparison, latency
from harness.analysis.latency import PARTS
from harness.analysis.select import Equality, select_run
from harness.errors import ResultsError
from harness.runs import disk
from harness.runs.provenance import Manifest
from harness.runs.store import Record
from harness.units import format_bytes

_UPLINK = ["replay", "channel", "users"]


def frame(points: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """The table's numbers, a row for each pipeline's selected point and uplink, in SI units.

    ``points`` is :func:`harness.analysis.select.select`'s, ``times`` :func:`harness.analysis.latency.summarise`'s. A
    pipeline that does not reach the target has one row, of its best point, ``reaches`` false and without times.
    """
    names = [name for name in times.columns if name.endswith("_s")]
    wide = times.pivot(
        index=[*_UPLINK, "pipeline", "point", "requests", "timed"], columns="part", values=[*names, "done", "source"]
    )
    wide.columns = pd.Index([f"{column[1]}_{column[0]}" for column in wide.columns.to_list()])
    uplinks = times[_UPLINK].drop_duplicates(ignore_index=True)
    wide = uplinks.merge(wide.infer_objects().reset_index(), on=_UPLINK)

    rows = []
    for pipeline, of_pipeline in points.groupby("pipeline", sort=False):
        selected = of_pipeline[of_pipeline["selected"]]
        reaches = len(selected) == 1
        point = selected if reaches else of_pipeline.nlargest(1, "score")
        point = point.drop(columns=["selected", "admissible"]).assign(reaches=reaches)
        timed = wide[wide["pipeline"] == pipeline] if reaches else wide.iloc[:0]
        rows.append(point.merge(timed, on=["pipeline", "point"], how="left"))
    return pd.concat(rows, ignore_index=True)


def frame_run(run: Record) -> pd.DataFrame:
    """:func:`frame` with the selection and the latencies of a run."""
    points = select_run(run)
    chosen = points.loc[points["selected"], ["pipeline", "point"]]
    keys = pa.array([f"{pipeline}\n{point}" for pipeline, point in chosen.to_numpy()], pa.string())
    of_row = pc.binary_join_element_wise(run.requests["pipeline"], run.requests["point"], "\n")
    requests = run.requests.filter(pc.is_in(of_row, keys))
    confidence = Equality.of(run.manifest).confidence
    return frame(points, latency.summarise(requests, run.stages, confidence=confidence))


def table(run: Record) -> Group:
    """The closing table of a run for a terminal of 80 columns or more, with its labels above and its sources below."""
    numbers = frame_run(run)
    several_users = numbers["users"].nunique() > 1
    columns = ("scheme, point", "payload, score", "uplink", *PARTS)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, leading=1)
    for column in columns:
        drawn.add_column(column, justify="right" if column in PARTS else "left", no_wrap=True)
    drawn.columns[0].no_wrap, drawn.columns[0].overflow = False, "fold"
    for _, rows in numbers.groupby("pipeline", sort=False):
        first = rows.iloc[0]
        interval = _interval(first["score_low"], first["score_high"])
        got = f"{format_bytes(first['payload_bytes'])}\n{first['score']:.1f}\n{interval}"
        name = f"{first['pipeline']}\n" + first["point"].replace(",", "\n")
        if not first["reaches"]:
            drawn.add_row(name, f"{got}\ndoes not reach", *["-"] * (1 + len(PARTS)))
            continue
        uplinks = [_uplink(row, several_users) for _, row in rows.iterrows()]
        parts = ["\n".join(_seconds(value) for value in rows[f"{part}_mean_s"]) for part in PARTS]
        drawn.add_row(name, got, "\n".join(uplinks), *parts)
    return Group(*_heading(run.manifest), Text(), drawn, Text(), *_footnotes(run, numbers))


def write(run: Record, path: Path) -> None:
    """The table's numbers as CSV or Markdown, after the path's ending; raises ResultsError for any other ending."""
    numbers = frame_run(run)
    if path.suffix == ".csv":
        disk.write_text(path, numbers.to_csv(index=False, lineterminator="\n"))
    elif path.suffix == ".md":
        disk.write_text(path, _markdown(run, numbers))
    else:
        raise ResultsError(f"{path}: a table is written to a file whose name ends in .csv or .md")


def _markdown(run: Record, numbers: pd.DataFrame) -> str:
    names = ["scheme", "point", "payload", str(numbers["metric"].iloc[0]), "interval", "uplink"]
    header = [*names, *(f"{part} (s)" for part in PARTS)]
    several_users = numbers["users"].nunique() > 1
    lines = [header, ["---"] * len(header)]
    for _, row in numbers.iterrows():
        times = [_seconds(row[f"{part}_mean_s"]) for part in PARTS] if row["reaches"] else ["-"] * len(PARTS)
        uplink = _uplink(row, several_users) if row["reaches"] else "does not reach"
        score = [f"{row['score']:.1f}", _interval(row["score_low"], row["score_high"])]
        lines.append([row["pipeline"], row["point"], format_bytes(row["payload_bytes"]), *score, uplink, *times])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    heading = "\n\n".join(text.plain for text in _heading(run.manifest))
    return f"{heading}\n\n{body}\n\n" + "\n".join(f"- {text.plain}" for text in _footnotes(run, numbers)) + "\n"


def _heading(manifest: Manifest) -> Sequence[Text]:
    lines = [Text(str(manifest.scenario_value("title")), style="bold")]
    if manifest.label:
        lines.append(Text(manifest.label, style="yellow"))
    if manifest.validity == "INVALID":
        lines += [Text(f"INVALID: {reason}", style="bold red") for reason in manifest.reasons]
    return lines


def _footnotes(run: Record, numbers: pd.DataFrame) -> Sequence[Text]:
    equality, first = Equality.of(run.manifest), numbers.iloc[0]
    confidence = f"{100 * equality.confidence:g} %"
    notes = [
        f"score: {first['metric']} on {first['questions']} questions in {first['clusters']} independent groups, with "
        f"its {confidence} interval",
        *_several(run.manifest, equality),
        f"equal score: not below {equality.target:g} of {equality.reference}'s by more than {equality.margin:g} of it "
        f"(paired bootstrap, one-sided, {confidence})",
        *filter(
            None, [comparison.leanest(numbers.drop_duplicates("pipeline").rename(columns={"reaches": "selected"}))]
        ),
        _timing(numbers),
        f"timed on {'; '.join(dict.fromkeys(run.stages['machine'].to_pylist()))} (throttling: "
        f"{run.manifest.throttling}); links replayed",
        f"run {run.manifest.name}, {run.manifest.validity or 'unfinished'}; "
        f"scenario {run.manifest.scenario_hash}; code {run.manifest.code}",
    ]
    return [Text(note, style="dim") for note in notes]


def _several(manifest: Manifest, equality: Equality) -> Sequence[str]:
    """What a normalised score is the average of; nothing where there is one benchmark."""
    if len(names := manifest.benchmarks) == 1:
        return ()
    return (f"normalised score: the mean of {' and '.join(names)}, each over {equality.reference}'s own score there",)


def _timing(numbers: pd.DataFrame) -> str:
    reached = numbers[numbers["reaches"]]
    if reached.empty:
        return "times: none, for no scheme reaches the target"
    note = f"times: mean seconds of {_range(reached['requests'])} requests, drawn from {_range(reached['timed'])} timed"
    unfirm = sorted(set(reached["total_source"].dropna()) - {"measured"})
    lost = int((reached["requests"] - reached["total_done"]).sum())
    return (
        note
        + (f"; some are {' and '.join(unfirm)}" if unfirm else "")
        + (f"; {lost} never answered and not in the means" if lost else "")
    )


def _range(counts: "pd.Series[float]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _uplink(row: "pd.Series[float]", several_users: bool) -> str:
    users = f"{int(row['users'])} user{'s' * (row['users'] > 1)}"
    return f"{row['channel']}, {users}" if several_users else str(row["channel"])


def _interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{low:.1f} to {high:.1f}"


def _seconds(seconds: float) -> str:
    """A time in seconds, four digits at most but three decimals at most: ``0.083``, ``1.234``, ``35.42``."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"
