"""The figures of a run by name: which its rows can draw, and drawing them."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.analysis import Analysis
from harness.errors import ResultsError, unknown_name
from harness.report import table
from harness.report.figures import style
from harness.report.figures.sheet import Chart
from harness.runs import disk
from harness.runs.provenance import MANIFEST, read

FIGURES: Mapping[str, str] = {
    "fig6": "rate_performance:FIG6",
    "fig7": "rate_performance:FIG7",
    "fig10": "rate_performance:FIG10",
    "fig12": "rate_performance:FIG12",
    "fig8": "latency_bars:FIG8",
    "fig11": "latency_bars:FIG11",
    "table1": "table_one:TABLE1",
    "crossover": "crossing:CROSSOVER",
    "ecdf": "distribution:ECDF",
    "timeline": "timeline:TIMELINE",
    "memory": "resources:MEMORY",
    "users": "users:USERS",
    "timings": "timings:TIMINGS",
}
"""Every figure's name, and the :class:`harness.report.figures.sheet.Chart` that draws it, in the order of drawing."""

_SAME: Mapping[str, Sequence[str]] = {"fig6": ("fig12", "fig10"), "fig8": ("fig11",)}
"""Figures that show of some runs what another, under the paper's own number for it, shows."""

_SCORES, _LATENCIES = ("fig12", "fig10", "fig7", "fig6"), ("fig11", "fig8")


def names(run: Analysis) -> list[str]:
    """The figures that this run's rows can draw, in order; of two that would be alike, the paper's own for such runs."""
    found = [name for name in FIGURES if not chart(name).missing(run)]
    alike = {
        name
        for name, others in _SAME.items()
        if set(others) & set(found) and (name != "fig6" or len(run.manifest.benchmarks) == 1)
    }
    return [name for name in found if name not in alike]


def usual(run: Analysis) -> list[str]:
    """The figures drawn where none is asked for: score against payload, where a score is claimed, and latency."""
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

    ``NAME.png`` and its like are as wide as a page, ``NAME_column.png`` as a column; ``NAME.csv`` is the data. Raises
    ResultsError for an unknown name, for a figure that the run's rows cannot draw, and where the disk refuses.
    """
    wanted = chart(name)
    _refuse_missing(run, name)
    written: list[Path] = []
    with style.styled():
        for width in widths:
            figure, data = wanted.draw(run, style.WIDTHS_IN[width])
            written += style.save(figure, out, name if width == "page" else f"{name}_{width}", formats)
    texts = {"csv": data.to_csv(index=False, lineterminator="\n"), **wanted.texts(run)}
    for ending, text in texts.items():
        disk.write_text(out / f"{name}.{ending}", text)
    return [*written, *(out / f"{name}.{ending}" for ending in texts)]


def _refuse_missing(run: Analysis, name: str) -> None:
    if missing := chart(name).missing(run):
        raise ResultsError(f"{run.record.folder}: {name} cannot be drawn: {missing}")


def draw_all(
    path: Path, out: Path | None = None, figures: Sequence[str] | None = None, everything: bool = False
) -> list[Path]:
    """Draws each complete run under ``path``, and writes its tables as CSV and Markdown; returns the files.

    ``figures`` names those to draw, ``everything`` means all that each run's rows can draw, and without either it is
    the :func:`usual` ones. Named figures come alone, without the tables:

    ``comparison.md`` sets the schemes against each other. ``categories.csv`` has every point's score in each category;
    of several benchmarks, ``benchmarks.csv`` has every point in each of them by itself. ``first.csv`` says who answers
    first, ``equal_score.csv`` and ``latency_at_equal_score.csv`` have each two schemes at equal score by their curves.

    They go to a folder ``figures`` in the run, or to ``out``, in a folder for each run where ``path`` is not a run.
    Raises ResultsError where ``path`` holds no complete run, or a damaged one, and what :func:`draw` raises.
    """
    for name in figures or ():
        chart(name)
    if (path / MANIFEST).exists():
        return _draw(Analysis.read(path), out or path / "figures", figures, everything)
    runs = sorted(manifest.parent for manifest in path.rglob(MANIFEST)) if path.is_dir() else []
    complete = [run for run in runs if read(run / MANIFEST).status == "complete"]
    if not complete:
        raise ResultsError(f"{path}: neither a complete run nor a folder of runs; 'harness run SCENARIO' makes one")
    return [
        file
        for run in complete
        for file in _draw(Analysis.read(run), out / run.name if out else run / "figures", figures, everything)
    ]


def _draw(run: Analysis, out: Path, figures: Sequence[str] | None, everything: bool) -> list[Path]:
    wanted = names(run) if everything else figures or usual(run)
    if figures and not everything:
        # What cannot be drawn is said before anything is.
        for name in figures:
            _refuse_missing(run, name)
    files = [file for name in wanted for file in draw(run, name, out)]
    return files if figures and not everything else [*files, *_tables(run, out)]


def _tables(run: Analysis, out: Path) -> list[Path]:
    written = [out / "table.csv", out / "table.md"]
    for path in written:
        table.write(run, path)
    written.append(out / "comparison.md")
    table.write_comparison(run, written[-1])
    parts = {"categories": run.categories, "first": run.first}
    if len(run.manifest.benchmarks) > 1:
        parts["benchmarks"] = run.benchmarks
    if run.scored:
        parts |= {"equal_score": run.equal_scores, "latency_at_equal_score": run.latencies_at_equal_score}
    for name, part in parts.items():
        written.append(out / f"{name}.csv")
        disk.write_text(written[-1], part.to_csv(index=False, lineterminator="\n"))
    return written
