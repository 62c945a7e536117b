"""``harness plan``: how much to measure, from a run's own variances."""

import math
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.run import RunsFolder

if TYPE_CHECKING:
    import pandas as pd

    from harness.analysis import Analysis

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

    The variances are those of a run at its selected points. In brackets is the interval (95 %, or the scenario's
    confidence) of the number of pictures that the true variances need in as many rounds. After six timed pictures it is
    wide: plan from twelve or more. Where it says "or more", the run does not rule out that its rounds drift by more
    than was seen, and then more pictures or rounds are needed. Bytes at equal score have no interval: a run does not
    show how well it knows the slope of the score over the bytes.

    About half of the studies of the planned size reach the precision. To be sure of it, write `measure: {precision:
    5 %}` into the scenario: pictures are then timed until it is reached.

        harness plan scenarios/realworldqa_lowrate.yaml --latency 5 --bytes 10 \
          --score 2
    """
    from harness.analysis import Analysis
    from harness.analysis.planning import plan as plan_of
    from harness.cli.display import print_labels, terminal
    from harness.errors import ResultsError
    from harness.report.fitting import Fitting
    from harness.scenario.load import load
    from harness.scenario.source import suggested

    if not path.exists():
        raise ResultsError(
            f"{path}: there is no such folder or file; {suggested(path)}a run's folder is expected, or the scenario (a "
            "YAML file) of a run"
        )
    folder = path if path.is_dir() else results / load(path).name
    run = Analysis.read(folder)
    found = plan_of(run, latency=latency / 100, payload=payload / 100, score=score)
    answered = int(run.points["clusters"].iloc[0])
    console = terminal()
    print_labels(run, console)
    table = Fitting()
    table.add_column("scheme", overflow="fold")
    for head in (
        f"latency to {latency:g} %", "rounds", f"bytes to {payload:g} %", f"score to {score:g} points"
    ):  # fmt: skip
        table.add_column(head, justify="right")
    for row in found.to_dict("records"):
        payloads = _bytes(row["bytes_pictures"], answered)
        table.add_row(row["pipeline"], _latency(row), _rounds(row), payloads, _score(row))
    console.print(table)
    for sentence in (*_on_intervals(run, found), *_on_numbers(run, found, answered)):
        console.print(sentence, markup=False)
    if pictures := int(found["pictures"].max()):
        rounds = int(found["rounds"].max())
        console.print(
            f"for every latency above: measure: {{timed_samples: {pictures}, repeats: {rounds}}}, or "
            f"measure: {{precision: {latency:g} %}}, which stops when that is reached",
            markup=False,
        )


def _on_intervals(run: "Analysis", found: "pd.DataFrame") -> Iterator[str]:
    """What the numbers in brackets are, and what has none."""
    if found[["pictures_low", "score_pictures_low"]].notna().any(axis=None):
        yield (
            f"numbers of pictures, in brackets the {100 * run.equality.confidence:g} % interval of the number that the "
            "true variances need; about half of the studies of the planned size reach the precision"
        )
    if (found["pictures_high"] == math.inf).any():
        drifting = "starts of the process scatter" if found["starts"].any() else "rounds drift"
        yield f"or more: if the {drifting} by more than was seen, which this run does not rule out"
    if found["bytes_pictures"].notna().any():
        yield "bytes have no interval: a run does not show how well it knows the slope of the score over the bytes"


def _on_numbers(run: "Analysis", found: "pd.DataFrame", answered: int) -> Iterator[str]:
    """What they are of, beside what the run has, and why some are not there."""
    yield f"now: {run.timed_pictures} timed pictures x {run.rounds} rounds; {answered} pictures with questions"
    if found["starts"].any():
        yield "to add a start of the process, raise measure.repeats by its rounds and repeat the run"
    elif run.session:
        yield "the scatter between starts of the process is not known; with three or more starts the plan includes it"
    if run.equality.reference in set(found["pipeline"]):
        yield f"bytes: over the next scheme's at equal score; score: the difference from {run.equality.reference}"
    for what in ("latency", "bytes"):
        reasons = found.groupby(f"{what}_reason", sort=False)["pipeline"]
        for reason, schemes in ((str(reason), schemes) for reason, schemes in reasons):
            if reason:
                yield f"no number for the {what} of {', '.join(schemes)}: {reason}"
    wanted = found[["pictures", "bytes_pictures", "score_pictures"]].to_numpy(float)
    if ((wanted > answered) & (wanted < math.inf)).any():
        yield f"this run asked about {answered} pictures only; raise 'samples' in the scenario for more"


def _latency(row: Mapping[Hashable, Any]) -> str:
    """``22 (13 to 48)``; ``or more`` where the upper end is that at the run's own drift only."""
    if not row["pictures"]:
        return "-"
    high = row["pictures_high"]
    if high == math.inf:
        bounded = math.isfinite(row["pictures_high_same_drift"])
        upper = f" to {row['pictures_high_same_drift']:,.0f} or more" if bounded else " or more"
    else:
        upper = f" to {high:,.0f}"
    return f"{row['pictures']:,} ({row['pictures_low']:,.0f}{upper})"


def _rounds(row: Mapping[Hashable, Any]) -> str:
    """``3``, or ``9 in 3 starts`` where the scatter between starts of the process is known."""
    if not row["pictures"]:
        return "-"
    return f"{row['rounds']} in {row['starts']} starts" if row["starts"] else f"{row['rounds']}"


def _bytes(pictures: float, answered: int) -> str:
    """``about 1,400``; an interval that is unbounded now shows only that more pictures are needed than were asked."""
    if math.isnan(pictures):
        return "-"
    return f"more than {answered:,}" if pictures == math.inf else f"about {pictures:,.0f}"


def _score(row: Mapping[Hashable, Any]) -> str:
    """``1,400 (900 to 2,300)``; infinity means that no number is enough."""
    if math.isnan(row["score_pictures"]):
        return "-"
    value, low, high = (
        f"{row[name]:,.0f}" if math.isfinite(row[name]) else "none do"
        for name in ("score_pictures", "score_pictures_low", "score_pictures_high")
    )
    return f"{value} ({low} to {high})"
