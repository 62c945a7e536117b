"""``harness plan``: how much to measure, from a run's own variances."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.run import RunsFolder

Percent = Annotated[float, typer.Option(min=0.01, max=1000, help="Percent of a mean latency to resolve.")]


def plan(
    path: Annotated[Path, typer.Argument(help="Folder of a run, or a scenario that was run.")],
    latency: Percent = 5.0,
    payload: Annotated[
        float, typer.Option("--bytes", min=0.01, max=1000, help="Percent of the bytes at equal score to resolve.")
    ] = 10.0,
    score: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Points of score to resolve, in the metric's unit.")
    ] = 2.0,
    results: RunsFolder = Path("results/runs"),
) -> None:
    r"""Estimate how many pictures, rounds and questions resolve a latency, bytes at equal score, and a score.

    The variances are those of a run at its selected points. Six timed pictures give the scatter, and so the plan,
    within a factor of about two; a pilot of twelve pictures in three rounds is better.

        harness plan scenarios/realworldqa_lowrate.yaml --latency 5 --bytes 10 \
          --score 2
    """
    import numpy as np

    from harness.analysis import Analysis
    from harness.analysis.precision import plan as plan_of
    from harness.cli.display import print_reasons, terminal
    from harness.report.fitting import Fitting
    from harness.scenario.load import load

    folder = path if path.is_dir() else results / load(path).name
    run = Analysis.read(folder)
    found = plan_of(run, latency=latency / 100, payload=payload / 100, score=score)
    console = terminal()
    print_reasons(run, console)
    table = Fitting()
    table.add_column("scheme", overflow="fold")
    heads = (f"{latency:g} % of the latency", f"{payload:g} % of the bytes", f"{score:g} points of score")
    for head in heads:
        table.add_column(head, justify="right")
    for row in found.to_dict("records"):
        timed = f"{row['pictures']} pictures x {row['rounds']} rounds" if row["pictures"] else "-"
        if row["starts"]:
            timed += f" over {row['starts']} starts"
        table.add_row(row["pipeline"], timed, _questions(row["bytes_pictures"]), _questions(row["score_pictures"]))
    console.print(table)
    answered = int(run.points["clusters"].iloc[0])
    console.print(f"now: {run.timed_pictures} timed pictures x {run.rounds} rounds; {answered} pictures with questions")
    if found["starts"].any():
        console.print("to add a start of the process, raise measure.repeats by its rounds and repeat the run")
    elif run.session:
        console.print(
            "the scatter between starts of the process is not known; with three or more starts the plan includes it"
        )
    if run.equality.reference in set(found["pipeline"]):
        console.print(
            f"bytes: over the next scheme's at equal score; score: the difference from {run.equality.reference}"
        )
    for what in ("latency", "bytes"):
        reasons = found.groupby(f"{what}_reason", sort=False)["pipeline"]
        for reason, schemes in ((str(reason), schemes) for reason, schemes in reasons):
            if reason:
                console.print(f"no number for the {what} of {', '.join(schemes)}: {reason}")
    wanted = found[["pictures", "bytes_pictures", "score_pictures"]].to_numpy(float)
    if wanted[np.isfinite(wanted)].max(initial=0) > answered:
        console.print(f"this run asked about {answered} pictures only; raise 'samples' in the scenario for more")
    if pictures := int(found["pictures"].max()):
        rounds = int(found["rounds"].max())
        console.print(
            f"for every latency above: measure: {{timed_samples: {pictures}, repeats: {rounds}}}, or "
            f"measure: {{precision: {latency:g} %}}, which stops when that is reached",
            markup=False,
        )


def _questions(pictures: float) -> str:
    """``1,400 pictures``; infinity means that no number is enough."""
    if pictures != pictures:
        return "-"
    return "none do" if pictures == float("inf") else f"{pictures:,.0f} pictures"
