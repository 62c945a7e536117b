"""``harness compare``: a run beside its reference, or this checkout's times beside a commit's."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import SHARE, SOME_SECONDS, Form

if TYPE_CHECKING:
    from harness.report.regressions import Found
    from harness.runs.store import Record


def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="REFERENCE CANDIDATE | SCENARIO", help="Runs, or folders of runs.")
    ],
    against: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Time this checkout against a commit, on a scenario.")
    ] = None,
    fail_if: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="Limits, separated by commas, beyond which the command fails: 'bytes>1%'; 'time>15%' with --against.",
            show_default="any difference; a stage more than 10 % slower",
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", metavar="FORM", help="Format of the output: terminal, markdown or json.")
    ] = Form.TERMINAL,
    out: Annotated[Path | None, typer.Option(help="Write the result to this file instead.")] = None,
    bytes_tolerance: Annotated[
        float,
        typer.Option(
            **SHARE, help="Accepted change of a point's mean bytes on another machine, without a limit on it."
        ),
    ] = "1 %",  # type: ignore[assignment]
    links: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the recorded links.")] = Path("scenarios"),
    pairs: Annotated[int, typer.Option(min=10, metavar="N", help="With --against: restarted pairs in a set.")] = 20,
    turns: Annotated[int, typer.Option(min=1, metavar="N", help="With --against: timed turns of a pair.")] = 12,
    pictures: Annotated[int, typer.Option(min=1, metavar="N", help="With --against: pictures that the turns use.")] = 3,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="With --against: seed of the order in which the sides take turns.")
    ] = 0,
    floor: Annotated[
        float, typer.Option(**SOME_SECONDS, help="With --against: stages shorter than this are tested together.")
    ] = "5 ms",  # type: ignore[assignment]
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of timed pairs, from which the command is resumed.")
    ] = Path("results/timed"),
) -> None:
    r"""Compare a run with its reference: bytes, answers, scores, selection and replay, to the bit.

    The exit status is 0 if nothing regressed, 1 for a regression, and 2 if two runs cannot be compared. In folders of
    runs, those of the same name are compared. With another processor, other packages or other weights, differences are
    counted instead: see docs/metrics.md. An INVALID run is noted, which does not change the status: no times are
    compared here.

        harness compare results/reference results/runs
        harness compare results/reference/smoke results/runs/smoke \
          --fail-if 'bytes>1%,answers>0'

    With `--against` this checkout is timed against a commit, in restarted pairs on this machine. A stage fails if it is
    significantly more than 10 % slower in a first set of pairs and again in a second. Repeat the command to resume. A
    limit that only the other form uses is skipped, with a note.

        harness compare --against v0.3 scenarios/smoke.yaml \
          --fail-if 'device>15%'
    """
    from harness.analysis import regression
    from harness.cli.display import terminal
    from harness.report import regressions
    from harness.runs import disk

    limits, effects = regression.limits(fail_if) if fail_if is not None else (dict(regression.DEFAULT), {})
    if out is not None:
        disk.check_writable(out)
    if against is None:
        if len(paths) != 2:
            raise typer.BadParameter("give two runs, or folders of runs; or --against COMMIT and a scenario")
        stages = _stages(paths[0]) if effects.keys() - set(regression.TIMED) else set()
        unknown = [name for name in effects if name not in stages.union(regression.TIMED)]
        if unknown or (effects and not limits):
            raise typer.BadParameter(
                f"{next(iter(unknown or effects))!r} is none of {', '.join(regression.QUANTITIES)}; times are "
                "compared with --against",
                param_hint="--fail-if",
            )
        found = compared(paths[0], paths[1], limits, bytes_tolerance, links)
        left, other = list(effects), "times are compared with --against COMMIT"
    else:
        if len(paths) != 1:
            raise typer.BadParameter("give one scenario with --against", param_hint="SCENARIO")
        if fail_if is not None and limits and not effects:
            raise typer.BadParameter(
                f"{next(iter(limits))!r} is not compared with --against, which compares only times; "
                "a time is expected, such as device>10%",
                param_hint="--fail-if",
            )
        how = {"pairs": pairs, "turns": turns, "pictures": pictures, "seed": seed}
        found = _commits(paths[0], against, how, effects, floor, results)
        left, other = (
            list(limits) if fail_if is not None else [],
            "these are compared between two runs, without --against",
        )
    if left:
        note = f"--fail-if: not compared here: {', '.join(left)}; {other}"
        found = dataclasses.replace(found, notes=[*found.notes, note])
    if out is not None:
        text = regressions.text(found, "json" if form is Form.JSON else "markdown")
        disk.write_text(out, text)
        typer.echo(f"{out}: {found.sentence}")
    elif form is Form.TERMINAL:
        terminal().print(regressions.terminal(found))
    else:
        typer.echo(regressions.text(found, "json" if form is Form.JSON else "markdown"), nl=False)
    raise typer.Exit(found.code)


def compared(reference: Path, candidate: Path, limits: Any, tolerance: float, links: Path) -> "Found":
    """What comparing two runs, or the runs of two folders, finds."""
    from harness.analysis import regression
    from harness.errors import ResultsError
    from harness.profiling.machine import this_machine
    from harness.report.regressions import Found
    from harness.runs.provenance import package_versions
    from harness.runs.store import Run

    runs, refused, notes = [], [], []
    how = {"here": this_machine(), "packages": package_versions(), "links": links}
    for old, new in _pairs(reference, candidate):
        if new is None:
            notes.append(f"{old}: there is no run of this name in {candidate}; it is not compared")
            continue
        try:
            both = {"reference": Run.read(old), "candidate": Run.read(new)}
            of_pair = regression.compare(**both, wanted=limits, tolerance=tolerance, **how)  # type: ignore[arg-type]
            doubts = [sentence for side, record in both.items() for sentence in _doubts(side, record)]
            runs.append(dataclasses.replace(of_pair, notes=(*of_pair.notes, *doubts)))
        except ResultsError as error:
            refused.append(str(error))
    if left := _without_reference(reference, candidate):
        notes.append(f"{reference}: there is no run of this name; not compared: {', '.join(left)}")
    if not runs and not refused:
        raise ResultsError(f"{candidate}: has no run with the name of one in {reference}, so nothing is compared")
    return Found(runs=runs, refused=refused, notes=notes)


def _doubts(side: str, record: "Record") -> Iterator[str]:
    """A sentence on an INVALID run: which of the two it is, and why."""
    from harness.analysis import Analysis

    if reasons := Analysis(record).reasons:
        of = f" (the first of {len(reasons)} reasons)" if len(reasons) > 1 else ""
        yield f"the {side} is INVALID: {reasons[0]}{of}"


def _stages(folder: Path) -> set[str]:
    """The stages of a run, or of the runs of a folder."""
    from harness.runs.provenance import MANIFEST
    from harness.runs.store import Run

    runs = [folder] if (folder / MANIFEST).exists() else [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    return {str(name) for run in runs for name in Run.read(run).stages["stage"].unique().to_pylist()}


def _pairs(reference: Path, candidate: Path) -> Iterator[tuple[Path, Path | None]]:
    """The runs of two folders, paired by name; two runs are a pair whatever their names."""
    from harness.errors import ResultsError
    from harness.files import no_folder
    from harness.runs.provenance import MANIFEST

    # The name of "." is that of the folder it is.
    reference_name, candidate_name = (folder.absolute().name for folder in (reference, candidate))
    if (reference / MANIFEST).exists():
        own = candidate / reference_name
        yield reference, candidate if (candidate / MANIFEST).exists() or not (own / MANIFEST).exists() else own
        return
    for folder in (reference, candidate):
        if not folder.is_dir():
            raise ResultsError(f"{folder}: {no_folder(folder)}; a run or a folder of runs is expected")
    names = sorted(path.parent.name for path in reference.glob(f"*/{MANIFEST}"))
    if not names:
        raise ResultsError(f"{reference}: neither a run nor a folder of runs; 'harness run' makes one")
    if (candidate / MANIFEST).exists():
        if candidate_name not in names:
            raise ResultsError(f"{reference}: has no run named {candidate_name}; it has: {', '.join(names)}")
        yield reference / candidate_name, candidate
        return
    for name in names:
        there = candidate / name
        yield reference / name, there if (there / MANIFEST).exists() else None


def _without_reference(reference: Path, candidate: Path) -> list[str]:
    """The names of the runs of a folder that have none in the other."""
    from harness.runs.provenance import MANIFEST

    if any((folder / MANIFEST).exists() for folder in (reference, candidate)):
        return []
    names = sorted(path.parent.name for path in candidate.glob(f"*/{MANIFEST}"))
    return [name for name in names if not (reference / name / MANIFEST).exists()]


def _commits(
    scenario: Path, commit: str, how: dict[str, int], effects: dict[str, float], floor_s: float, results: Path
) -> "Found":
    from harness import paired
    from harness.analysis.slowdown import Gate
    from harness.cli.display import Display, terminal
    from harness.report.regressions import Found
    from harness.scenario.load import load

    load(scenario)
    effect = effects.pop("time", None)
    gate = Gate(effects=effects, floor_s=floor_s) if effect is None else Gate(minimum_effect=effect, floor_s=floor_s)
    if effect is not None and effects:
        raise typer.BadParameter("'time' covers every stage; give it without other stages", param_hint="--fail-if")
    # Progress must not mix with the result: Markdown and JSON go to standard output.
    with Display(terminal(stderr=True)) as display:
        found = paired.compare(scenario, commit, results, design=paired.Design(**how), gate=gate, reporter=display)
    return Found(timed=[found])
