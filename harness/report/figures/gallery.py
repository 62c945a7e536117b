"""The figures of a run by name: which its rows can draw, and drawing them."""

import functools
import importlib
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness import files
from harness.analysis import Analysis
from harness.errors import ResultsError, unknown_name
from harness.report import table
from harness.report.figures import style
from harness.report.figures.sheet import Chart
from harness.runs import disk
from harness.runs.provenance import MANIFEST
from harness.runs.store import complete_runs
from harness.workers import spread, workers_for

FIGURES: Mapping[str, str] = {
    "fig4": "density:FIG4",
    "fig6": "rate_performance:FIG6",
    "fig7": "rate_performance:FIG7",
    "fig10": "rate_performance:FIG10",
    "fig12": "rate_performance:FIG12",
    "fig8": "latency_bars:FIG8",
    "fig11": "latency_bars:FIG11",
    "fig9": "cases:FIG9",
    "table1": "table_one:TABLE1",
    "crossover": "crossing:CROSSOVER",
    "ecdf": "distribution:ECDF",
    "timeline": "timeline:TIMELINE",
    "memory": "resources:MEMORY",
    "users": "users:USERS",
    "bits": "bits:BITS",
    "timings": "timings:TIMINGS",
    "energy": "energy:ENERGY",
}
"""Every figure's name, and the :class:`harness.report.figures.sheet.Chart` that draws it, in the order of drawing."""

_SAME: Mapping[str, Sequence[str]] = {"fig6": ("fig12", "fig10"), "fig8": ("fig11",)}
"""Figures that show of some runs what another, under the paper's own number for it, shows."""

_SCORES, _LATENCIES = ("fig12", "fig10", "fig7", "fig6"), ("fig11", "fig8")


def names(run: Analysis) -> list[str]:
    """The figures that this run's rows can draw, in order.

    Of two that would be alike, only the paper's own for such a run is listed.
    """
    found = [name for name in FIGURES if not chart(name).missing(run)]
    alike = {
        name
        for name, others in _SAME.items()
        if set(others) & set(found) and (name != "fig6" or len(run.manifest.benchmarks) == 1)
    }
    return [name for name in found if name not in alike]


def usual(run: Analysis) -> list[str]:
    """The figures drawn by default: score against payload, where a score is claimed, and latency."""
    found = names(run)
    firsts = [next((name for name in group if name in found), None) for group in (_SCORES, _LATENCIES)]
    return [name for name in firsts if name]


def chart(name: str) -> Chart:
    """The figure of this name; raises ResultsError, listing the known names, for any other."""
    if name not in FIGURES:
        raise ResultsError(unknown_name("figure", name, FIGURES))
    module, _, attribute = FIGURES[name].partition(":")
    found: Chart = getattr(importlib.import_module(f"harness.report.figures.{module}"), attribute)
    return found


def draw(
    run: Analysis,
    name: str,
    out: Path,
    formats: Sequence[str] = style.FORMATS,
    widths: Sequence[str] = tuple(style.WIDTHS_IN),
) -> list[Path]:
    """Writes a figure into the folder ``out``, with its data as CSV beside it; returns the files.

    ``NAME.png``, ``.svg`` and ``.pdf`` are as wide as a page, ``NAME_column.png`` as a column; ``NAME.csv`` is the
    data, labelled as the figure is. Raises ResultsError for an unknown name, for a figure that the run's rows cannot
    draw, and where the disk refuses.
    """
    wanted = chart(name)
    if missing := wanted.missing(run):
        raise ResultsError(f"{run.record.folder}: {name} cannot be drawn: {missing}")
    written: list[Path] = []
    with style.styled():
        for width in widths:
            figure, data = wanted.draw(run, style.WIDTHS_IN[width])
            written += style.save(figure, out, name if width == "page" else f"{name}_{width}", formats)
    texts = {"csv": table.as_csv(run, data), **wanted.texts(run)}
    for ending, text in texts.items():
        disk.write_text(out / f"{name}.{ending}", text)
    return [*written, *(out / f"{name}.{ending}" for ending in texts)]


def draw_all(
    path: Path,
    out: Path | None = None,
    figures: Sequence[str] | None = None,
    everything: bool = False,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[Path]:
    """Draws each complete run under ``path``, and writes its tables as CSV and Markdown; yields the files as written.

    ``figures`` names those to draw, ``everything`` means all that each run's rows can draw, and without either it is
    the :func:`usual` ones. Named figures are drawn without the tables:

    ``comparison.md`` sets the schemes against each other. ``categories.csv`` has every point's score in each category;
    of several benchmarks, ``benchmarks.csv`` has every point in each of them separately. ``first.csv`` says who answers
    first, ``equal_score.csv`` and ``latency_at_equal_score.csv`` have each two schemes at equal score by their curves.
    ``joules.csv`` has the energy of every point that was measured.

    They go to a folder ``figures`` in the run, or to ``out``, where ``path`` is not a run in the folder of each run
    under it. The figures of a run are drawn by as many processes as there are processors. ``note`` is called with what
    was left out, and why. Raises ResultsError where ``path`` holds no complete run, or a damaged one, where no run can
    draw a figure that was named, and where the disk refuses.
    """
    for name in figures or ():
        chart(name)
    if out is not None:
        disk.check_folder(out)
    if (path / MANIFEST).exists():
        folders = {path: out or path / "figures"}
    else:
        folders = {run: out / run.relative_to(path) if out else run / "figures" for run in complete_runs(path)}
    refused: list[ResultsError] = []
    drawn = False
    for folder, target in folders.items():
        run = Analysis.read(folder)
        absent = {name: f"{folder}: {name} cannot be drawn: {why}" for name, why in _absent(run, figures, everything)}
        if everything:
            wanted = names(run)
        else:
            wanted = [name for name in figures if name not in absent] if figures else usual(run)
            refused += [ResultsError(sentence) for sentence in absent.values()]
        # For one run, what cannot be drawn is reported before anything is drawn; for several, the others are drawn.
        if refused and len(folders) == 1:
            raise refused[0]
        for sentence in absent.values():
            note(sentence)
        # They take nearly all quantities, which the processes that draw inherit.
        tables = [] if figures and not everything else _tables(run, target)
        for file in itertools.chain(tables, _drawn(run, wanted, target)):
            drawn = True
            yield file
    if not drawn:
        raise refused[0]


def _drawn(run: Analysis, wanted: Sequence[str], out: Path) -> Iterator[Path]:
    """The files of figures, each drawn by one of several processes; their warnings are issued here.

    The processes write to a folder of this one's, which leaves nothing behind when they are killed.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def made(name: str) -> tuple[list[Path], list[str]]:
            with warnings.catch_warnings(record=True) as caught:
                found = draw(run, name, Path(scratch))
            return found, [str(warning.message) for warning in caught]

        for name, (found, heard) in spread(made, wanted, workers_for("cpu", 1)):
            for sentence in heard:
                warnings.warn(sentence, stacklevel=2)
            written = {out / file.name: functools.partial(_copied, file.read_bytes()) for file in found}
            try:
                files.write_all_whole(written)
            except OSError as error:
                raise ResultsError(f"{out}: the figure {name} cannot be written: {files.why(error)}") from None
            yield from written


def _copied(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _absent(run: Analysis, figures: Sequence[str] | None, everything: bool) -> list[tuple[str, str]]:
    """Of the requested figures, those that the run's rows cannot draw, and why."""
    asked = FIGURES if everything else figures or ()
    return [(name, missing) for name in asked if (missing := chart(name).missing(run))]


def _tables(run: Analysis, out: Path) -> list[Path]:
    written = [out / "table.csv", out / "table.md"]
    for path in written:
        table.write(run, path)
    written.append(out / "comparison.md")
    table.write_comparison(run, written[-1])
    parts = {"categories": run.categories, "first": run.first}
    if len(run.manifest.benchmarks) > 1:
        parts["benchmarks"] = run.benchmarks
    if not run.energy.empty:
        # The figure's data, energy.csv, are those of the selected points.
        parts["joules"] = run.energy
    if run.scored:
        parts |= {"equal_score": run.equal_scores, "latency_at_equal_score": run.latencies_at_equal_score}
    for name, part in parts.items():
        written.append(out / f"{name}.csv")
        disk.write_text(written[-1], table.as_csv(run, part))
    return written
