"""The closing table: which scheme answers first at equal score, by how much, and whether that may be believed."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.analysis import Analysis, comparison
from harness.errors import ResultsError
from harness.runs import disk
from harness.units import format_bytes, format_seconds

_Form = Callable[[float], str]

_MOST_BESIDE = 5


def table(run: Analysis) -> Group:
    """The closing table of a run for a terminal of 80 columns or more, with its labels above and its sources below."""
    numbers, times = run.numbers, _time_columns(run)
    drawn = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, leading=1)
    # With more times than these, 80 columns have no room for a column that is not one number.
    stacked = len(times) > _MOST_BESIDE
    heads = ["scheme, point,\npayload, score"] if stacked else ["scheme, point", "payload, score"]
    for column in (*heads, "uplink"):
        drawn.add_column(column, no_wrap=True)
    for column in times:
        drawn.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
    drawn.columns[0].no_wrap, drawn.columns[0].overflow = False, "fold"
    for _, rows in numbers.groupby("pipeline", sort=False):
        first = rows.iloc[0]
        interval = _interval(first["score_low"], first["score_high"])
        got = f"{format_bytes(first['payload_bytes'])}\n{first['score']:.1f}\n{interval}"
        name = f"{first['pipeline']}\n" + first["point"].replace(",", "\n")
        got += "" if first["reaches"] else "\ndoes not reach"
        left = [f"{name}\n{got}"] if stacked else [name, got]
        if not first["reaches"]:
            drawn.add_row(*left, *["-"] * (1 + len(times)))
            continue
        uplinks = [_uplink(row) for _, row in rows.iterrows()]
        cells = ["\n".join(form(value) for value in rows[column]) for column, form in times.values()]
        drawn.add_row(*left, "\n".join(uplinks), *cells)
    return Group(*_heading(run), Text(), drawn, Text(), *_footnotes(run))


def write(run: Analysis, path: Path) -> None:
    """The table's numbers as CSV or Markdown, after the path's ending; raises ResultsError for any other ending."""
    if path.suffix == ".csv":
        disk.write_text(path, run.numbers.to_csv(index=False, lineterminator="\n"))
    elif path.suffix == ".md":
        disk.write_text(path, _markdown(run))
    else:
        raise ResultsError(f"{path}: a table is written to a file whose name ends in .csv or .md")


def write_comparison(run: Analysis, path: Path) -> None:
    """The schemes against each other, bytes at equal score and scores at equal tokens, as Markdown."""
    ratios, scores = run.byte_ratios, run.scores_at_tokens
    parts = [
        f"# {run.manifest.scenario_value('title')}",
        *(text.plain for text in _heading(run)[1:]),
        "Bytes at equal score, the row's over the column's. A scheme that does not reach the target is not here.",
        _markdown_of(ratios, "{:.3g}") if len(ratios) else "None reaches the target.",
        f"Score over that of {run.equality.reference}, the best of the points with as many visual tokens on average.",
        _markdown_of((100 * scores).rename(columns="{:g} tokens".format), "{:.1f} %"),
    ]
    disk.write_text(path, "\n\n".join(parts) + "\n")


def _time_columns(run: Analysis) -> dict[str, tuple[str, _Form]]:
    """What the columns right of the uplink are called, which of the numbers they hold, and how these are written."""
    columns: dict[str, tuple[str, _Form]] = {}
    if run.numbers["users"].nunique() > 1:
        columns["users"] = ("users", _count)
    columns |= {part: (f"{part}_mean_s", _seconds) for part in run.parts}
    if run.deadline_s is not None:
        columns[f"in {format_seconds(run.deadline_s)}"] = ("in_time", _share)
    return columns


def _markdown(run: Analysis) -> str:
    numbers, times = run.numbers, _time_columns(run)
    names = ["scheme", "point", "payload", str(numbers["metric"].iloc[0]), "interval", "uplink"]
    header = [*names, *(f"{name} (s)" if form is _seconds else name for name, (_, form) in times.items())]
    lines = []
    for _, row in numbers.iterrows():
        uplink = _uplink(row) if row["reaches"] else "does not reach"
        score = [f"{row['score']:.1f}", _interval(row["score_low"], row["score_high"])]
        cells = [form(row[column]) for column, form in times.values()]
        lines.append([row["pipeline"], row["point"], format_bytes(row["payload_bytes"]), *score, uplink, *cells])
    heading = "\n\n".join(text.plain for text in _heading(run))
    notes = "\n".join(f"- {text.plain}" for text in _footnotes(run))
    return f"{heading}\n\n{_lines(header, lines)}\n\n{notes}\n"


def _markdown_of(of_schemes: pd.DataFrame, form: str) -> str:
    rows = [
        [str(name), *("" if pd.isna(value) else form.format(value) for value in row)]
        for name, row in of_schemes.iterrows()
    ]
    return _lines(["scheme", *map(str, of_schemes.columns)], rows)


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a bar within a cell is no end of it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _heading(run: Analysis) -> Sequence[Text]:
    lines = [Text(str(run.manifest.scenario_value("title")), style="bold")]
    if run.manifest.label:
        lines.append(Text(run.manifest.label, style="yellow"))
    return [*lines, *(Text(f"INVALID: {reason}", style="bold red") for reason in run.reasons)]


def _footnotes(run: Analysis) -> Sequence[Text]:
    equality, manifest, first = run.equality, run.manifest, run.numbers.iloc[0]
    confidence = f"{100 * equality.confidence:g} %"
    notes = [
        f"score: {first['metric']} on {first['questions']} questions in {first['clusters']} independent groups, with "
        f"its {confidence} interval",
        several(run),
        f"equal score: not below {equality.target:g} of {equality.reference}'s by more than {equality.margin:g} of it "
        f"(paired bootstrap, one-sided, {confidence})",
        comparison.leanest(run.byte_ratios),
        _timing(run),
        f"timed on {'; '.join(run.machines) or 'no machine'} (throttling: {manifest.throttling}); links replayed",
        f"run {manifest.name}, {run.validity if manifest.validity else 'unfinished'}; "
        f"scenario {manifest.scenario_hash}; code {manifest.commits}",
    ]
    return [Text(note, style="dim") for note in notes if note]


def several(run: Analysis) -> str:
    """What a normalised score is the average of; nothing where there is one benchmark."""
    if len(names := run.manifest.benchmarks) == 1:
        return ""
    return f"normalised score: the mean of {' and '.join(names)}, each over {run.equality.reference}'s own score there"


def _timing(run: Analysis) -> str:
    numbers = run.numbers
    if not numbers["reaches"].any():
        return "times: none, for no scheme reaches the target"
    replayed = numbers[numbers["requests"] > 0]
    if replayed.empty:
        return "times: none, for nothing was replayed"
    unfirm = sorted(set(replayed["total_source"].dropna()) - {"measured"})
    lost = int((replayed["requests"] - replayed["total_done"]).sum())
    deadline = "" if run.deadline_s is None else f"; in {format_seconds(run.deadline_s)}: the share answered by then"
    return (
        f"times: mean seconds of {_range(replayed['requests'])} requests, drawn from {_range(replayed['timed'])} timed"
        + (f"; some are {' and '.join(unfirm)}" if unfirm else "")
        + (f"; {lost} never answered and not in the means" if lost else "")
        + deadline
    )


def _range(counts: "pd.Series[float]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _uplink(row: "pd.Series[float]") -> str:
    return "not replayed" if pd.isna(row["users"]) else str(row["channel"])


def _interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{low:.1f} to {high:.1f}"


def _seconds(seconds: float) -> str:
    """A time in seconds, four digits at most but three decimals at most: ``0.083``, ``1.234``, ``35.42``."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"


def _share(share: float) -> str:
    """A share in whole percent; all and none are said only where they are."""
    if math.isnan(share):
        return "-"
    text = f"{100 * share:.0f} %"
    return text if share in (0, 1) or text not in ("0 %", "100 %") else ("< 1 %" if share < 0.5 else "> 99 %")


def _count(n: float) -> str:
    return "-" if math.isnan(n) else f"{n:.0f}"
