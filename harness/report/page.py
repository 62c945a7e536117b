"""A report: runs as one HTML file that needs no network.

Verdict, who answers first, tables, figures, where every number comes from, how to make them again. All texts come from
users and are escaped; the only script is the page's own, and its policy admits no other.
"""

import base64
import dataclasses
import hashlib
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml

from harness import __version__
from harness.analysis import Analysis, comparison
from harness.errors import HarnessError, ResultsError
from harness.report import energy, grids, table
from harness.report.figures import gallery
from harness.report.figures.sheet import subject
from harness.reporter import Progress
from harness.runs import disk
from harness.runs.provenance import Manifest, Session, utc_now
from harness.scenario.load import as_written
from harness.units import format_bytes

MOST_BYTES = 3_000_000
"""The limit of a report's size: figures that do not fit are left out, with a note."""

_RESERVED_BYTES = 100_000
_EVERY = ("answer", "tables", "figures", "provenance", "again")
_HEADINGS = ("Who answers first", "Tables", "Figures", "Where the numbers come from", "How to reproduce them")


@dataclasses.dataclass(frozen=True, slots=True)
class FigureImage:
    """A figure as a data address, with what it shows in words."""

    data: str
    alt: str
    caption: str


def write(
    runs: Sequence[Analysis], out: Path, reporter: Progress | None = None, figures: Sequence[str] | None = None
) -> None:
    """Writes the report of ``runs`` to ``out``, atomically; below :data:`MOST_BYTES`.

    ``figures`` are those of :mod:`harness.report.figures.gallery` by name; without it all that a run's rows can draw.
    Raises ResultsError where there is no run, where the tables by themselves are too large, and where the disk refuses.
    """
    if not runs:
        raise ResultsError(f"{out}: a report needs at least one run")
    disk.write_text(out, render(runs, reporter, figures))


def render(runs: Sequence[Analysis], reporter: Progress | None = None, figures: Sequence[str] | None = None) -> str:
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
    runs: Sequence[Analysis], wanted: Sequence[Sequence[str]], left: int, reporter: Progress | None
) -> tuple[list[list[FigureImage]], list[list[str]]]:
    """The figures of each run that fit: the first of every run before the second of any."""
    pictures: list[dict[str, FigureImage]] = [{} for _ in runs]
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
                        f"{name} is left out because of its size; 'harness plot RUN --figure {name}' draws it"
                    )
                else:
                    left -= len(picture.data)
                    pictures[place][name] = picture
            if reporter is not None:
                reporter.advance()
    return [list(of_run.values()) for of_run in pictures], left_out


def _picture(run: Analysis, name: str) -> FigureImage:
    """The smaller of a figure's two forms; an image of its own, so that nothing in it meets the page's names."""
    with tempfile.TemporaryDirectory() as folder:
        files = gallery.draw(run, name, Path(folder), ("svg", "png"), ("page",))
        kinds = {".svg": "svg+xml", ".png": "png"}
        drawn = min((file for file in files if file.suffix in kinds), key=lambda file: file.stat().st_size)
        data = base64.b64encode(drawn.read_bytes()).decode()
    what = gallery.chart(name).what
    stand_ins = f" ({run.manifest.label})" if run.manifest.label else ""
    return FigureImage(
        data=f"data:image/{kinds[drawn.suffix]};base64,{data}",
        alt=f"{name} of {subject(run.manifest)}: {what}; its numbers are in the tables above{stand_ins}",
        caption=f"{name}: {what}{stand_ins}",
    )


def _filled(
    runs: Sequence[Analysis], pictures: Sequence[Sequence[FigureImage]], left_out: Sequence[Sequence[str]]
) -> str:
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


def _section(place: int, run: Analysis, pictures: Sequence[FigureImage], left_out: Sequence[str]) -> dict[str, object]:
    manifest, equality = run.manifest, run.equality
    sentences = comparison.first_sentences(run.first, run.numbers) or ["nothing was timed, so no scheme answers first"]
    lean = comparison.bytes_sentence(run.equal_scores, equality.target, equality.reference) if run.scored else ""
    times = [run.session, *run.elsewhere, *run.timing_warnings] if not run.first.empty else []
    joules = "; ".join(energy.notes(run, run.energy))
    notes = [manifest.untuned, table.claimed(run), table.several(run), *times, joules and f"energy: {joules}"]
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
        "notes": [note for note in notes if note],
        "tables": grids.tables(run),
        "figures": pictures,
        "left_out": left_out,
        "origins": _origins(run),
        "provenance": _provenance(run),
        "commands": _commands(manifest),
        "scenario": yaml.safe_dump(as_written(manifest.scenario), sort_keys=False, allow_unicode=True, width=100),
    }


def _origins(run: Analysis) -> list[str]:
    sources = grids.source(run)["source"]
    manifest = run.manifest
    payloads = f"Payload bytes are {run.bytes_source}, and no question was answered."
    if not run.is_estimated:
        payloads = f"Payload bytes and scores are {run.bytes_source}: counted on real payloads, judged on real answers."
    return [
        f"{payloads} Stage times are {sources}, on {' and '.join(run.machines) or 'no machine'}. Link times are "
        "replayed from the bytes and the uplink. Intervals are over pictures; docs/metrics.md has every "
        "definition.",
        f"Scenario hash {manifest.scenario_hash}, seed {manifest.seed}, code {manifest.commits}, throttling: "
        f"{manifest.throttling}. Finished {manifest.finished_utc or 'not yet'}.",
    ]


def _provenance(run: Analysis) -> list[grids.Grid]:
    manifest = run.manifest
    sessions = []
    for number, session in enumerate(manifest.sessions, 1):
        sides = [("both halves" if session.server is None else "device", session.machine)]
        sides += [("server", session.server.machine)] if session.server is not None else []
        for side, machine in sides:
            commit = f"{session.commit or 'none'}{' and changes' if session.dirty else ''}"
            cells = (str(number), session.started_utc, side, str(machine["name"]), str(machine.get("system", "-")),
                     commit, session.harness_version, _command(session))  # fmt: skip
            sessions.append(cells)
    heads = ("session", "started", "side", "machine", "system", "commit", "version", "command")
    packages = sorted({(name, version) for session in manifest.sessions for name, version in session.packages.items()})
    digests = [*manifest.digests.items(), *((f"the run's {name}", digest) for name, digest in manifest.tables.items())]
    points = [
        (pipeline, label, ", ".join(f"{name}: {value}" for name, value in parameters.items()) or "-")
        for pipeline, labels in manifest.points.items()
        for label, parameters in labels.items()
    ]
    return [
        grids.texts("Sessions", heads, sessions),
        grids.texts("Operating points", ("scheme", "point", "parameters"), points),
        grids.texts("Packages", ("package", "version"), packages),
        grids.texts("Digests of what the rows depend on, and of the run's files", ("of", "digest"), digests),
    ]


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
        first.append("# The code had changes that are in no commit: the numbers cannot be reproduced exactly.")
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
