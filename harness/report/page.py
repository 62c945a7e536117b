"""A report: runs as one HTML file that needs no network.

Verdict, who answers first, tables, figures, where every number comes from, how to make them again. All texts are a
user's and are escaped; the one script is the page's own, and the page's policy admits no other.
"""

import base64
import dataclasses
import hashlib
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
import pandas as pd
import yaml

from harness import __version__
from harness.analysis import Analysis, comparison
from harness.errors import HarnessError, ResultsError
from harness.report import table
from harness.report.figures import gallery
from harness.report.figures.sheet import subject
from harness.runs import disk
from harness.runs.provenance import Manifest, Session, utc_now
from harness.scenario.load import as_written
from harness.units import format_bytes, format_seconds

MOST_BYTES = 3_000_000
"""A report is smaller: figures that do not fit are left out, and it says so."""

_RESERVED_BYTES = 100_000
_MOST_ROWS = 400
_EVERY = ("answer", "tables", "figures", "provenance", "again")
_HEADINGS = ("Who answers first", "Tables", "Figures", "Where the numbers come from", "How to make them again")


class Reporter(Protocol):
    """Who is told how far a report is."""

    def phase(self, name: str, total: int, done: int) -> None:
        """A phase of so many steps begins."""

    def advance(self) -> None:
        """One of them is done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
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
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a data address, with what it shows in words."""

    data: str
    alt: str
    caption: str


def write(
    runs: Sequence[Analysis], out: Path, reporter: Reporter | None = None, figures: Sequence[str] | None = None
) -> None:
    """Writes the report of ``runs`` to ``out``, whole or not at all; below :data:`MOST_BYTES`.

    ``figures`` are those of :mod:`harness.report.figures.gallery` by name; without it all that a run's rows can draw.
    Raises ResultsError where there is no run, where the tables alone are too large, and where the disk refuses.
    """
    if not runs:
        raise ResultsError(f"{out}: a report is of one run or more")
    disk.write_text(out, render(runs, reporter, figures))


def render(runs: Sequence[Analysis], reporter: Reporter | None = None, figures: Sequence[str] | None = None) -> str:
    """The report as HTML, as :func:`write` writes it."""
    wanted = [[name for name in gallery.names(run) if figures is None or name in figures] for run in runs]
    if reporter is not None:
        reporter.phase("figures", total=sum(map(len, wanted)), done=0)
    bare = _filled(runs, [[] for _ in runs], [[] for _ in runs])
    left = MOST_BYTES - _RESERVED_BYTES - len(bare.encode())
    if left < 0:
        raise ResultsError(f"the tables of {len(runs)} runs take more than {format_bytes(MOST_BYTES)}; give fewer runs")
    pictures, left_out = _pictures(runs, wanted, left, reporter)
    return _filled(runs, pictures, left_out)


def _pictures(
    runs: Sequence[Analysis], wanted: Sequence[Sequence[str]], left: int, reporter: Reporter | None
) -> tuple[list[list[Picture]], list[list[str]]]:
    """The figures of each run that fit: the first of every run before the second of any."""
    pictures: list[dict[str, Picture]] = [{} for _ in runs]
    left_out: list[list[str]] = [[] for _ in runs]
    for rank in range(max(map(len, wanted), default=0)):
        for place, run in enumerate(runs):
            if rank >= len(wanted[place]):
                continue
            name = wanted[place][rank]
            try:
                picture = _picture(run, name)
            except HarnessError as error:
                left_out[place].append(f"{name}: {error}")
            else:
                if len(picture.data) > left:
                    left_out[place].append(
                        f"{name} is left out for its size; 'harness plot RUN --figure {name}' draws it"
                    )
                else:
                    left -= len(picture.data)
                    pictures[place][name] = picture
            if reporter is not None:
                reporter.advance()
    return [list(of_run.values()) for of_run in pictures], left_out


def _picture(run: Analysis, name: str) -> Picture:
    """The smaller of a figure's two forms; an image of its own, so that nothing in it meets the page's names."""
    with tempfile.TemporaryDirectory() as folder:
        files = gallery.draw(run, name, Path(folder), ("svg", "png"), ("page",))
        kinds = {".svg": "svg+xml", ".png": "png"}
        drawn = min((file for file in files if file.suffix in kinds), key=lambda file: file.stat().st_size)
        data = base64.b64encode(drawn.read_bytes()).decode()
    what = gallery.chart(name).what
    stand_ins = f" ({run.manifest.label})" if run.manifest.label else ""
    return Picture(
        data=f"data:image/{kinds[drawn.suffix]};base64,{data}",
        alt=f"{name} of {subject(run.manifest)}: {what}; its numbers are in the tables above{stand_ins}",
        caption=f"{name}: {what}{stand_ins}",
    )


def _filled(runs: Sequence[Analysis], pictures: Sequence[Sequence[Picture]], left_out: Sequence[Sequence[str]]) -> str:
    here = Path(__file__)
    script = here.with_suffix(".js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(here.with_suffix(".html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    headings = [str(run.manifest.scenario_value("title")) for run in runs]
    return page.render(
        title=headings[0] if len(runs) == 1 else f"{len(runs)} runs",
        made=f"Made by tofc-harness {__version__}, {utc_now()}, from the runs' own rows and manifests.",
        script=jinja2.filters.do_mark_safe(script),
        script_hash=f"sha256-{digest}",
        runs=[_section(place, run, pictures[place], left_out[place]) for place, run in enumerate(runs)],
    )


def _section(place: int, run: Analysis, pictures: Sequence[Picture], left_out: Sequence[str]) -> dict[str, object]:
    manifest, equality = run.manifest, run.equality
    sentences = comparison.first_sentences(run.first) or ["nothing was timed, so no scheme answers first"]
    lean = comparison.bytes_sentence(run.equal_scores, equality.target, equality.reference) if run.scored else ""
    times = [run.session, *run.timing_warnings] if not run.first.empty else []
    return {
        "anchor": f"run-{place + 1}",
        "heading": str(manifest.scenario_value("title")),
        "name": manifest.name,
        "validity": run.validity,
        "judged": ", judged again from its rows." if not run.reasons else ", judged again from its rows, because:",
        "reasons": run.reasons,
        "stand_ins": manifest.label,
        "short_stand_ins": f"{manifest.label[0].upper()}{manifest.label[1:]}. " if manifest.label else "",
        "contents": list(zip(_EVERY, _HEADINGS, strict=True)),
        "sentences": [*sentences, *([lean] if lean else [])],
        "notes": [note for note in (manifest.untuned, table.claimed(run), table.several(run), *times) if note],
        "tables": _tables(run),
        "figures": pictures,
        "left_out": left_out,
        "origins": _origins(run),
        "provenance": _provenance(run),
        "commands": _commands(manifest),
        "scenario": yaml.safe_dump(as_written(manifest.scenario), sort_keys=False, allow_unicode=True, width=100),
    }


_Form = Callable[[float], str]


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
        [*(_cell(row, name, form) for name, (_, form) in columns.items()), *map(Cell, same.values())]
        for row in rows.iloc[:_MOST_ROWS].to_dict("records")
    ]
    more = f"; the first {_MOST_ROWS} of {len(rows)} rows, 'harness plot' writes all" if len(rows) > _MOST_ROWS else ""
    return Grid(caption + more, heads, cells)


def _cell(row: Mapping[Any, Any], name: str, form: _Form | None) -> Cell:
    value = row[name]
    if form is None:
        return Cell("-" if pd.isna(value) else str(value))
    number = float(value)
    if math.isnan(number):
        return Cell("-", "")
    end = next((unit for unit in ("_s", "_j") if name.endswith(unit)), "")
    stem = name.removesuffix(end)
    if f"{stem}_low{end}" not in row:
        return Cell(form(number), repr(number))
    ends = [float(row[f"{stem}_{which}{end}"]) for which in ("low", "high")]
    if ends == [number, number]:
        return Cell(form(number), repr(number))
    return Cell(f"{form(number)} {comparison.between(ends[0], ends[1], form)}", repr(number))


def _tables(run: Analysis) -> list[Grid]:
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
    what = "payloads and scores are measured" if run.scored else f"payloads are {run.bytes_source}"
    return _grid(f"Selected points at each uplink; {what}, link times replayed", rows, columns)


def _first(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "channel": ("uplink", None), "users": ("users", _plain), "pipeline": ("scheme", None), "point": ("point", None),
        "total_mean_s": ("mean latency", format_seconds), "ratio": ("times as long as the first", _plain),
        "reason": ("no interval because", None),
    }  # fmt: skip
    return _grid("Who answers first: means over the first's, within rounds", run.first, columns, _source(run))


def _points(run: Analysis) -> Grid:
    rows = run.points.copy()
    rows["status"] = [
        "reference" if row["reference"] else "selected" if row["selected"] else "admitted" if row["admissible"] else ""
        for row in rows.to_dict("records")
    ]
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None), "point": ("point", None), "payload_bytes": ("mean payload", format_bytes),
    }  # fmt: skip
    if run.bytes_source == "measured":
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
    caption = f"Bytes at equal score, by curves, at {run.equality.target:.0%} of {run.equality.reference}'s score"
    return _grid(caption, run.equal_scores, columns, {"source": run.bytes_source})


def _equal_latencies(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "channel": ("uplink", None), "test": ("scheme", None), "anchor": ("other", None),
        "test_s": ("latency", format_seconds), "anchor_s": ("the other's", format_seconds), "ratio": ("ratio", _plain),
        "reason": ("refused because", None),
    }  # fmt: skip
    return _grid("Latency at equal score, by curves", run.latencies_at_equal_score, columns, _source(run))


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
    sources = ", ".join(sorted(set(run.record.resources["source"].to_pylist())))
    return _grid("Memory and operations of each half", run.resources, columns, {"source": sources})


def _energy(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "pipeline": ("scheme", None), "point": ("point", None), "side": ("side", None), "rail": ("rail", None),
        "net_j": ("J an answer, net of idle", _plain), "gross_j": ("gross", _plain), "sensor": ("sensor", None),
        "source": ("source", None), "machine": ("machine", None),
    }  # fmt: skip
    return _grid("Energy of an answer on each side", run.energy, columns)


def _benchmarks(run: Analysis) -> Grid:
    columns: dict[str, tuple[str, _Form | None]] = {
        "benchmark": ("benchmark", None), "pipeline": ("scheme", None), "point": ("point", None),
        "payload_bytes": ("mean payload", format_bytes), "score": ("score", "{:.1f}".format),
        "metric": ("metric", None),
    }  # fmt: skip
    return _grid("Each benchmark by itself", run.benchmarks, columns, {"source": run.bytes_source})


def _source(run: Analysis) -> dict[str, str]:
    """The sources of the run's stage rows, for tables that rest on them."""
    return {"source": ", ".join(sorted(set(run.record.stages["source"].to_pylist()))) or "none"}


def _origins(run: Analysis) -> list[str]:
    sources = _source(run)["source"]
    manifest = run.manifest
    payloads = f"Payload bytes are {run.bytes_source}, and no question was answered."
    if run.bytes_source == "measured":
        payloads = "Payload bytes and scores are measured: counted on real payloads, judged on real answers."
    return [
        f"{payloads} Stage times are {sources}, on {' and '.join(run.machines) or 'no machine'}. Link times are "
        "replayed: from the bytes and the uplink named. Intervals are over pictures; docs/metrics.md has every "
        "definition.",
        f"Scenario hash {manifest.scenario_hash}, seed {manifest.seed}, code {manifest.commits}, throttling: "
        f"{manifest.throttling}. Finished {manifest.finished_utc or 'not yet'}.",
    ]


def _provenance(run: Analysis) -> list[Grid]:
    manifest = run.manifest
    sessions = []
    for number, session in enumerate(manifest.sessions, 1):
        sides = [("both halves" if session.server is None else "device", session.machine)]
        sides += [("server", session.server.machine)] if session.server is not None else []
        for side, machine in sides:
            commit = f"{session.commit or 'none'}{' and changes' if session.dirty else ''}"
            cells = (str(number), session.started_utc, side, str(machine["name"]), str(machine.get("system", "-")),
                     commit, session.harness_version, _command(session))  # fmt: skip
            sessions.append([Cell(text) for text in cells])
    heads = ("session", "started", "side", "machine", "system", "commit", "version", "command")
    packages = sorted({(name, version) for session in manifest.sessions for name, version in session.packages.items()})
    digests = [*manifest.digests.items(), *((f"the run's {name}", digest) for name, digest in manifest.tables.items())]
    points = [
        (pipeline, label, ", ".join(f"{name}: {value}" for name, value in parameters.items()) or "-")
        for pipeline, labels in manifest.points.items()
        for label, parameters in labels.items()
    ]
    return [
        Grid("Sessions", [Column(head) for head in heads], sessions),
        _texts("Operating points", ("scheme", "point", "parameters"), points),
        _texts("Packages", ("package", "version"), packages),
        _texts("Digests of what the rows depend on, and of the run's files", ("of", "digest"), digests),
    ]


def _texts(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    return Grid(caption, [Column(head) for head in heads], [[Cell(text) for text in row] for row in rows])


def _command(session: Session) -> str:
    """The command without the place that the harness was started from."""
    return shlex.join(["harness", *session.command[1:]])


def _commands(manifest: Manifest) -> str:
    commits = [session.commit for session in manifest.sessions if session.commit]
    first = [f"git checkout {commits[-1]}", "make .venv/installed"] if commits else []
    if not commits:
        first = [f"pip install tofc-harness=={manifest.sessions[-1].harness_version}"]
    harness = ".venv/bin/harness" if commits else "harness"
    if any(session.dirty for session in manifest.sessions):
        first.append("# The code had changes that are in no commit: the numbers cannot be made again exactly.")
    name = shlex.quote(manifest.name)
    again = []
    if all(session.command[1:2] == ("run",) for session in manifest.sessions):
        # Values that replaced the scenario's own are in it as it is below.
        server = "" if manifest.sessions[-1].server is None else " --server http://SERVER:8000"
        again = ["# The scenario below, saved as scenario.yaml:", f"{harness} run scenario.yaml --name {name}{server}"]
    return "\n".join(
        [
            *first,
            "# What was run:",
            *dict.fromkeys(f"#   {_command(session)}" for session in manifest.sessions),
            *again,
            f"{harness} show results/runs/{name}",
            f"{harness} plot results/runs/{name} --all",
            f"{harness} report results/runs/{name} --out report.html",
        ]
    )
