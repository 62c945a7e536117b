"""All figures of a run, or of every run in a folder."""

from pathlib import Path

from harness.analysis import breakdown, comparison
from harness.analysis.select import Equality, select_run
from harness.errors import ResultsError
from harness.report import summary
from harness.report.figures import latency_bars, provenance, rate_performance, style
from harness.runs import disk
from harness.runs.provenance import MANIFEST, read
from harness.runs.store import Record, Run


def draw_all(path: Path, out: Path | None = None) -> list[Path]:
    """Draws each complete run under ``path``, and writes its table as CSV and Markdown; returns the files.

    ``comparison.md`` sets the schemes against each other. ``categories.csv`` has every point's score in each category;
    of several benchmarks, ``benchmarks.csv`` has every point in each of them by itself.

    They go to a folder ``figures`` in the run, or to ``out``, in a folder for each run where ``path`` is not a run.
    Raises ResultsError where ``path`` holds no complete run, or a damaged one.
    """
    if (path / MANIFEST).exists():
        return _draw(Run.read(path), out or path / "figures")
    runs = sorted(manifest.parent for manifest in path.rglob(MANIFEST)) if path.is_dir() else []
    complete = [run for run in runs if read(run / MANIFEST).status == "complete"]
    if not complete:
        raise ResultsError(f"{path}: neither a complete run nor a folder of runs; 'harness run SCENARIO' makes one")
    return [file for run in complete for file in _draw(Run.read(run), out / run.name if out else run / "figures")]


def _draw(run: Record, out: Path) -> list[Path]:
    points, numbers = select_run(run), summary.frame_run(run)
    machines = list(dict.fromkeys(run.stages["machine"].to_pylist()))
    equality, first = Equality.of(run.manifest), points.iloc[0]
    score = (
        f"Intervals at {100 * equality.confidence:g} % over {first['questions']} questions in {first['clusters']} "
        f"independent groups. Selected: the fewest bytes not below {equality.target:g} of {equality.reference}'s score "
        f"by more than {equality.margin:g} of it"
    )
    several = len(names := run.manifest.benchmarks) > 1
    if several:
        score += f". Normalised: the mean of {' and '.join(names)}, each over {equality.reference}'s own score there"
    replayed = "Link times replayed from the bytes sent and the uplink named"
    with style.styled():
        about = provenance.of(run.manifest, "score against payload", machines, [score])
        curves = rate_performance.draw(points, about)
        about = provenance.of(run.manifest, "latency at each uplink, and score", machines, [score, replayed])
        bars = latency_bars.draw(numbers, about)
        files = [*style.save(curves, out, "rate_performance"), *style.save(bars, out, "latency_bars")]
    tables = [out / "table.csv", out / "table.md"]
    for table in tables:
        summary.write(run, table)
    tables.append(out / "comparison.md")
    comparison.write(run, tables[-1])
    parts = {"categories": breakdown.by_category(run)} | (
        {"benchmarks": breakdown.by_benchmark(run)} if several else {}
    )
    for name, part in parts.items():
        tables.append(out / f"{name}.csv")
        disk.write_text(tables[-1], part.to_csv(index=False, lineterminator="\n"))
    return [*files, *tables]
