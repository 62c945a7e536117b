"""When a run may be believed: the written rules, and the reason for each that is broken.

A run is VALID when every rule holds. Each rule is a function here that gives a sentence for what breaks it:

1. **warm-up** Every scheme ran at least one request that was dropped before it was timed.
2. **timed samples** Every point was timed often enough to certify its median (11 requests: MLPerf LoadGen's rule), on
   the same samples and repeats as every other point.
3. **both halves** Every timed request has its answer, and every payload that was sent was decoded by the server half.
4. **same questions** Every point answered the same questions.
5. **questions** There are enough independent questions, in each benchmark, for the declared target and margin to be
   certified at all.
6. **one machine** All device stages were timed on one machine, and all server stages on one, whatever the number of
   sessions. (That the code and the packages were the same throughout is no rule: a run of two versions cannot be made.)
7. **no throttling** The telemetry saw no clock lowered for heat or power while stages were timed. A machine without
   telemetry breaks no rule; its manifest says that it was unavailable.

An INVALID run is kept, shown and drawn, and says so wherever it is.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow.compute as pc

from harness.analysis.analysis import Analysis
from harness.analysis.latency import required_samples
from harness.runs.store import Record

_POINT = ["pipeline", "point"]
_REQUEST = [*_POINT, "sample", "repeat"]


def reasons(run: Analysis) -> list[str]:
    """What keeps a run, complete or not yet, from being VALID, a sentence each; none for one that may be believed."""
    record = run.record
    stages = record.stages.select([*_REQUEST, "side", "machine", "start", "source"]).to_pandas().drop_duplicates()
    outcomes = record.outcomes.select([*_POINT, "sample", "payload_bytes"]).to_pandas()
    return [
        *_warmup(record),
        *_timed_samples(stages, outcomes),
        *_both_halves(stages, outcomes),
        *_same_questions(outcomes),
        *_questions(run),
        *_one_machine(record, stages),
        *_throttled(record),
    ]


def _warmup(record: Record) -> Iterator[str]:
    if record.manifest.scenario_value("measure", "warmup") < 1:
        yield "no warm-up request was dropped before timing (measure.warmup is 0)"


def _timed_samples(stages: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[str]:
    timed = {key: set(zip(p["sample"], p["repeat"], strict=True)) for key, p in _points(stages).items()}
    if untimed := [key for key in _points(outcomes) if key not in timed]:
        yield f"answered but never timed: {_first(untimed)}"
    needed = required_samples(0.5)
    if few := [key for key, requests in timed.items() if len(requests) < needed]:
        least = min(len(timed[key]) for key in few)
        yield f"timed on {least} requests, where {needed} certify a median: {_first(few)}"
    everything: set[tuple[str, int]] = set().union(*timed.values())
    if other := [key for key, requests in timed.items() if requests != everything]:
        yield f"not timed on the same samples and repeats as the others: {_first(other)}"


def _both_halves(stages: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[str]:
    server = stages["side"].eq("server").groupby([stages[key] for key in _REQUEST]).any().rename("server").reset_index()
    requests = server.merge(outcomes, on=[*_POINT, "sample"], how="left")
    if unanswered := _requests(requests[requests["payload_bytes"].isna()]):
        yield f"timed but not answered: {_first(unanswered)}"
    if undecoded := _requests(requests[(requests["payload_bytes"] > 0) & ~requests["server"]]):
        yield f"sent a payload that no server stage decoded: {_first(undecoded)}"


def _same_questions(outcomes: pd.DataFrame) -> Iterator[str]:
    asked = {key: set(p["sample"]) for key, p in _points(outcomes).items()}
    everything: set[str] = set().union(*asked.values())
    if other := [key for key, samples in asked.items() if samples != everything]:
        yield f"did not answer all of the {len(everything)} questions: {_first(other)}"


def _questions(run: Analysis) -> Iterator[str]:
    samples, equality = run.record.samples.to_pandas(), run.equality
    asked = samples[samples["sample"].isin(pc.unique(run.record.outcomes["sample"]).to_pylist())]
    needed = equality.questions_needed()
    for benchmark, of_questions in asked.groupby("benchmark"):
        if (independent := of_questions["picture"].nunique()) >= needed:
            continue
        which = f" of {benchmark}" if asked["benchmark"].nunique() > 1 else ""
        yield (
            f"{len(of_questions)} questions{which} on {independent} pictures cannot certify a score of "
            f"{equality.target:g} within {equality.margin:g} at a confidence of {equality.confidence:g}: {needed} "
            "pictures can"
        )


def _one_machine(record: Record, stages: pd.DataFrame) -> Iterator[str]:
    # Machines of one name may differ in what decides speed: their ids, which the sessions have, do then.
    sessions = record.manifest.sessions
    ids = {
        "device": {start: session.machine["id"] for start, session in enumerate(sessions)},
        "server": {start: (session.server or session).machine["id"] for start, session in enumerate(sessions)},
    }
    measured = stages[stages["source"] == "measured"]
    for side, of_side in measured.groupby("side"):
        of_side = of_side.assign(id=of_side["start"].map(ids[str(side)]).fillna(""))
        machines = of_side[["machine", "id"]].drop_duplicates()
        if len(machines) > 1:
            names = machines["machine"].drop_duplicates().sort_values()
            listed = names if len(names) == len(machines) else machines["machine"] + " (" + machines["id"] + ")"
            yield f"the {side} stages were timed on {len(machines)} machines: {'; '.join(listed)}"


def _throttled(record: Record) -> Iterator[str]:
    counts: dict[str, int] = {}
    for session in record.manifest.sessions:
        for sentence, n in session.throttled.items():
            counts[sentence] = counts.get(sentence, 0) + n
    for sentence, n in counts.items():
        yield f"throttled: {sentence} ({n} unit{'s' * (n > 1)} of timed requests)"


def _points(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {f"{pipeline} at {point}": of_point for (pipeline, point), of_point in rows.groupby(["pipeline", "point"])}


def _requests(rows: pd.DataFrame) -> list[str]:
    return [f"{row.pipeline} at {row.point}, sample {row.sample}" for row in rows.itertuples()]


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
