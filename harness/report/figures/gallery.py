"""All figures of a run, or of every run in a folder."""

from pathlib import Path

from harness.analysis import Analysis, comparison
from harness.errors import ResultsError
from harness.report import table
from harness.report.figures import latency_bars, provenance, rate_performance, style
from harness.runs import disk
from harness.runs.provenance import MANIFEST, read


def draw_all(path: Path, out: Path | None = None) -> list[Path]:
    """Draws each complete run under ``path``, and writes its table as CSV and Markdown; returns the files.

    ``comparison.md`` sets the schemes against each other. ``categories.csv`` has every point's score in each category;
    of several benchmarks, ``benchmarks.csv`` has every point in each of them by itself. ``first.csv`` says who answers
    first, ``equal_score.csv`` and ``latency_at_equal_score.csv`` have each two schemes at equal score by their curves.
    Where no score is claimed only latency is drawn.

    They go to a folder ``figures`` in the run, or to ``out``, in a folder for each run where ``path`` is not a run.
    Raises ResultsError where ``path`` holds no complete run, or a damaged one.
    """
    if (path / MANIFEST).exists():
        return _draw(Analysis.read(path), out or path / "figures")
    runs = sorted(manifest.parent for manifest in path.rglob(MANIFEST)) if path.is_dir() else []
    complete = [run for run in runs if read(run / MANIFEST).status == "complete"]
    if not complete:
        raise ResultsError(f"{path}: neither a complete run nor a folder of runs; 'harness run SCENARIO' makes one")
    return [file for run in complete for file in _draw(Analysis.read(run), out / run.name if out else run / "figures")]


def _draw(run: Analysis, out: Path) -> list[Path]:
    equality, first = run.equality, run.points.iloc[0]
    score = (
        f"Intervals at {100 * equality.confidence:g} % over {first['questions']} questions in {first['clusters']} "
        f"independent groups. {_sentence(table.claimed(run))}"
    )
    if average := table.several(run):
        score += f". {average[0].upper()}{average[1:]}"
    replayed = "Link times replayed from the bytes of all questions and the uplink named"
    doubts = [_sentence(text) for text in (run.session, *run.elsewhere, *run.timing_warnings) if text]
    said = comparison.first_sentences(run.first)
    with style.styled():
        files = []
        if run.scored:
            lean = comparison.bytes_sentence(run.equal_scores, equality.target, equality.reference)
            about = provenance.of(run, "score against payload", [score, *([_sentence(lean)] if lean else [])])
            files += style.save(rate_performance.draw(run.points, about), out, "rate_performance")
        about = provenance.of(run, "latency at each uplink, and score", [score, replayed, *said, *doubts])
        files += style.save(latency_bars.draw(run.numbers, run.parts, about, scored=run.scored), out, "latency_bars")
    written = [out / "table.csv", out / "table.md"]
    for path in written:
        table.write(run, path)
    written.append(out / "comparison.md")
    table.write_comparison(run, written[-1])
    parts = {"categories": run.categories, "first": run.first} | ({"benchmarks": run.benchmarks} if average else {})
    if not run.energy.empty:
        parts["energy"] = run.energy
    if run.scored:
        parts |= {"equal_score": run.equal_scores, "latency_at_equal_score": run.latencies_at_equal_score}
    for name, part in parts.items():
        written.append(out / f"{name}.csv")
        disk.write_text(written[-1], part.to_csv(index=False, lineterminator="\n"))
    return [*files, *written]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
