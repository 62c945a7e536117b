"""The tables of a page: a run's quantities in columns that can be sorted."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis import Analysis, comparison, means
from harness.units import format_bytes, format_percent, format_seconds

_MOST_ROWS = 400

_Form = Callable[[float], str]


@dataclasses.dataclass(frozen=True, slots=True)
class TableCell:
    """What a cell shows, and what it is sorted by: a number, empty where it is missing; None for its text."""

    text: str
    key: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column's head, and whether it holds numbers."""

    head: str
    number: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """A table of a page, with its caption."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[TableCell]]


def tables(run: Analysis) -> list[Grid]:
    """The tables of a run, those that have rows."""
    found = [_numbers(run), _first(run), _points(run)]
    if run.scored and not run.equal_scores.empty:
        found.append(_equal_scores(run))
    if run.scored and run.latencies_at_equal_score["ratio"].notna().any():
        found.append(_equal_latencies(run))
    found.append(_stages(run))
    if not run.resources.empty:
        found.append(_resources(run))
    if not run.energy.empty:
        found.append(_energy(run))
    if len(run.manifest.benchmarks) > 1:
        found.append(_benchmarks(run))
    return [grid for grid in found if grid.rows]


def texts(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """A table of texts."""
    return Grid(caption, [Column(head) for head in heads], [[TableCell(text) for text in row] for row in rows])


def how_compared(run: Analysis) -> str:
    """How schemes are compared with the first: within rounds, if they were timed in the same ones."""
    apart = run.first["reason"].fillna("").str.startswith(means.NOT_COMPARABLE)
    return "within rounds" + ("; schemes that were timed apart have no interval" if apart.any() else "")


def source(run: Analysis) -> dict[str, str]:
    """The sources of the run's stage rows, for tables that rest on them."""
    return {"source": ", ".join(sorted(set(run.record.stages["source"].to_pylist()))) or "none"}


def _numbers(run: Analysis) -> Grid:
    rows = run.numbers.copy()
    rows["reaching"] = ["yes" if reaches else "no" for reaches in rows["reaches"]]
    rows["where"] = rows["channel"].where(rows["users"].notna(), "not replayed")
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None),
        "point": ("point", None),
        "reaching": ("reaches the target", None),
        "payload_bytes": ("payload", format_bytes),
        "where": ("uplink", None),
        "users": ("users", _plain),
    }
    if run.scored:
        columns["score"] = (str(rows["metric"].iloc[0]), "{:.1f}".format)
    columns |= {f"{part}_mean_s": (f"{part}, mean", format_seconds) for part in run.parts}
    if run.deadline_s is not None:
        columns["in_time"] = (f"in {format_seconds(run.deadline_s)}", _share)
    columns |= {"total_source": ("source of the times", None), "timed": ("timed requests", _plain)}
    what = f"{'payloads and scores' if run.scored else 'payloads'} are {run.bytes_source}"
    return _grid(f"Selected points at each uplink; {what}, link times replayed", rows, columns)


def _first(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "channel": ("uplink", None), "users": ("users", _plain), "pipeline": ("scheme", None), "point": ("point", None),
        "total_mean_s": ("mean latency", format_seconds), "ratio": ("times as long as the first", _plain),
        "reason": ("no interval because", None), "total_source": ("source", None),
    }  # fmt: skip
    return _grid(f"Who answers first: means over the first's, {how_compared(run)}", run.first, columns)


def _points(run: Analysis) -> Grid:
    rows = run.points.copy()
    rows["status"] = [
        "reference" if row["reference"] else "selected" if row["selected"] else "admitted" if row["admissible"] else ""
        for row in rows.to_dict("records")
    ]
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None), "point": ("point", None), "payload_bytes": ("mean payload", format_bytes),
    }  # fmt: skip
    if not run.is_estimated:
        columns |= {"visual_tokens": ("visual tokens", _plain), "questions": ("questions", _plain)}
    if run.scored:
        columns |= {
            "score": (str(rows["metric"].iloc[0]), "{:.1f}".format),
            "relative_score": ("over the reference's", _share),
            "p_value": ("p", _plain),
        }
    columns["status"] = ("", None)
    what = "bytes and score" if run.scored else "bytes"
    return _grid(f"Every operating point: {what}", rows, columns, {"source": run.bytes_source})


def _equal_scores(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "test": ("scheme", None), "anchor": ("other", None), "ratio": ("bytes over the other's", _plain),
        "least": ("least over scores", _plain), "most": ("largest over scores", _plain), "bd_rate": ("BD-rate", _share),
        "bd_score": ("BD-score", _plain), "reason": ("refused because", None),
    }  # fmt: skip
    caption = (
        f"Bytes at equal score, by curves, at {format_percent(run.equality.target)} of {run.equality.reference}'s score"
    )
    return _grid(caption, run.equal_scores, columns, {"source": run.bytes_source})


def _equal_latencies(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "channel": ("uplink", None), "test": ("scheme", None), "anchor": ("other", None),
        "test_s": ("latency", format_seconds), "anchor_s": ("the other's", format_seconds), "ratio": ("ratio", _plain),
        "reason": ("refused because", None),
    }  # fmt: skip
    return _grid("Latency at equal score, by curves", run.latencies_at_equal_score, columns, source(run))


def _stages(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None), "point": ("point", None), "side": ("side", None), "stage": ("stage", None),
        "mean_s": ("mean", format_seconds), "timed": ("timed requests", _plain), "source": ("source", None),
        "machine": ("machine", None),
    }  # fmt: skip
    chosen = run.points.loc[run.points["selected"], ["pipeline", "point"]]
    rows = run.stage_times.merge(chosen, on=["pipeline", "point"]) if len(run.stage_times) else run.stage_times
    return _grid("Mean time of each stage at the selected points", rows, columns)


def _resources(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {"pipeline": ("scheme", None), "point": ("point", None)}
    for side in ("device", "server"):
        columns |= {
            f"{side}/weights_bytes": (f"{side}: weights", format_bytes),
            f"{side}/peak_memory_bytes": (f"{side}: peak memory", format_bytes),
            f"{side}/operations": (f"{side}: operations", lambda n: f"{n / 1e9:.3g} GFLOP"),
        }
    return _grid("Memory and operations of each half", run.resources, columns, {"source": run.resources_source})


def _energy(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None), "point": ("point", None), "side": ("side", None), "rail": ("rail", None),
        "net_j": ("J an answer, net of idle", _plain), "gross_j": ("gross", _plain), "sensor": ("sensor", None),
        "calibrated": ("calibrated", None), "source": ("source", None), "machine": ("machine", None),
    }  # fmt: skip
    rows = run.energy.assign(calibrated=run.energy["calibrated"].map({True: "by the scenario", False: "no"}))
    return _grid("Energy of an answer on each side", rows, columns)


def _benchmarks(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "benchmark": ("benchmark", None), "pipeline": ("scheme", None), "point": ("point", None),
        "payload_bytes": ("mean payload", format_bytes), "score": ("score", "{:.1f}".format),
        "metric": ("metric", None),
    }  # fmt: skip
    return _grid("Each benchmark separately", run.benchmarks, columns, {"source": run.bytes_source})


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _grid(
    caption: str,
    rows: pd.DataFrame,
    columns: Mapping[str, tuple[str, _Form | None]],
    fixed: Mapping[str, str] | None = None,
) -> Grid:
    """Columns of a frame by name: their head, and how a number is written; ``fixed`` are the same in every row.

    A number with ``_low`` and ``_high`` beside it in the frame is written with its interval.
    """
    same = fixed or {}
    heads = [*(Column(head, form is not None) for head, form in columns.values()), *map(Column, same)]
    cells = [
        [*(_cell(row, name, form) for name, (_, form) in columns.items()), *map(TableCell, same.values())]
        for row in rows.iloc[:_MOST_ROWS].to_dict("records")
    ]
    more = f"; the first {_MOST_ROWS} of {len(rows)} rows, 'harness plot' writes all" if len(rows) > _MOST_ROWS else ""
    return Grid(caption + more, heads, cells)


def _cell(row: Mapping[Any, Any], name: str, form: _Form | None) -> TableCell:
    value = row[name]
    if form is None:
        return TableCell("-" if pd.isna(value) else str(value))
    number = float(value)
    if math.isnan(number):
        return TableCell("-", "")
    end = next((unit for unit in ("_s", "_j") if name.endswith(unit)), "")
    stem = name.removesuffix(end)
    if f"{stem}_low{end}" not in row:
        return TableCell(form(number), repr(number))
    ends = [float(row[f"{stem}_{which}{end}"]) for which in ("low", "high")]
    if ends == [number, number]:
        return TableCell(form(number), repr(number))
    return TableCell(f"{form(number)} {comparison.between(ends[0], ends[1], form)}", repr(number))
