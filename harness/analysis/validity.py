"""When a run is VALID: the rules, and the reason for each that is broken.

A run is VALID when every rule holds. Each rule is a function here that gives a sentence for what breaks it, from the
rows and from facts that the run recorded; the manifest's own verdict is not used:

1. **warm-up** Every scheme ran at least one request that was dropped before it was timed, and the scenario that says so
   is the one whose hash the manifest holds.
2. **timed pictures** Every point was timed on at least six pictures, fewer than which give no interval of a mean,
   and in at least 11 requests (MLPerf LoadGen's rule for a median), on the same samples and repeats as every other
   point. Repeats of a picture are no pictures. A median is certified by pictures where it is shown
   (:mod:`harness.analysis.percentiles`).
3. **both halves** Every timed request has its answer, and every payload that was sent was decoded by the server half.
4. **same questions** Every point answered the same questions, and its answers were judged against the same truths.
5. **questions** There are enough independent questions, in each benchmark, for the declared target and margin to be
   certified at all.
6. **one machine** All device stages were timed on one machine, and all server stages on one, whatever the number of
   sessions: the same kind of machine, the same computer and system, the same number of threads.
7. **one software** All sessions ran the same code with the same packages, and that code is a commit's, without changes,
   or that of an installed release. The packages of a device and of a server may differ.
8. **no throttling** The telemetry saw no clock lowered for heat or power while stages were timed. A machine without
   telemetry breaks no rule; its manifest says that it was unavailable.
9. **undisturbed** At most 2 % of the timed requests were disturbed, after they were run again, and all requests
   together were kept from running for at most 2 % of their time. A request is disturbed if it was kept from running for
   more than 5 % of its time, and more than 0.25 ms, or if others kept more than 10 % of the machine's processors busy
   around it. In no session did tasks wait for a processor for more than half of the time.
10. **a clock that runs** No timed request took 0 s, and none had more processor time than the machine's processors
    give in its wall time.
11. **precision** Where the scenario asks for a precision of the mean times, it was reached.

A replay of a run (:func:`harness.derived.replay`) is judged by the rows of that run as they were measured, though they
are called recorded. Its own software may be another, but has to be a commit's or a release's. What a scenario's profile
recorded elsewhere is not judged by rules 6 and 9 to 11.

An INVALID run is stored, shown and drawn, and is labelled INVALID wherever it is shown.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis.analysis import Analysis
from harness.analysis.latency import required_samples
from harness.analysis.means import MIN_PICTURES
from harness.analysis.precision import Look, look
from harness.analysis.setting import strata_of_all
from harness.data.scoring import metric
from harness.runs.provenance import Manifest
from harness.runs.store import Record
from harness.scenario.load import hash_of

MOST_WAITED, LEAST_WAITED_S = 0.05, 0.25e-3
"""A request is disturbed that was kept from running for a larger share of its time, and for longer than that: the
scheduler's own work takes a part of a millisecond from time to time on a machine where nothing else runs."""

MOST_LOAD = 0.10
"""A request is disturbed around which others kept a larger share of the machine's processors busy."""

MOST_DISTURBED, MOST_WAITED_IN_ALL = 0.02, 0.02
"""The share of the requests that may have been disturbed, and that of all requests' time which may have been lost."""

MOST_PRESSURE = 0.5

_POINT = ["pipeline", "point"]
_REQUEST = [*_POINT, "sample", "repeat"]


def reasons(run: Analysis) -> list[str]:
    """What keeps a run, complete or not yet, from being VALID, a sentence each; none for a VALID one."""
    record = run.record
    timed = as_timed(record)
    stages = timed.select([*_REQUEST, "side", "machine", "start", "source"]).to_pandas().drop_duplicates()
    outcomes = record.outcomes.select([*_POINT, "sample", "payload_bytes", "truth"]).to_pandas()
    requests = timed_requests(timed)
    return [
        *_warmup(record),
        *edited(record.manifest),
        *_timed_samples(record, stages, outcomes),
        *_both_halves(stages, outcomes),
        *_same_questions(outcomes),
        *_questions(run),
        *_one_machine(record, stages),
        *_one_software(run),
        *_throttled(record),
        *_disturbed(record, requests),
        *_clock(record, requests, set(stages["start"])),
        *_precision(record, timed),
    ]


def reasons_of_answers(run: Analysis) -> list[str]:
    """Those of :func:`reasons` that concern payloads and answers, and not only how long things took."""
    record = run.record
    stages = record.stages.select([*_REQUEST, "side"]).to_pandas().drop_duplicates()
    outcomes = record.outcomes.select([*_POINT, "sample", "payload_bytes", "truth"]).to_pandas()
    return [
        *_both_halves(stages, outcomes),
        *_same_questions(outcomes),
        *_questions(run),
        *_one_software(run),
    ]


def disturbance(seconds: float, waited_s: float | None, load: float | None, *, most_waited: float = MOST_WAITED) -> str:
    """Why a request of so many seconds was disturbed, in a phrase; empty where it was not, or nothing reports it.

    ``most_waited`` is the largest share of its time that it may have been kept from running.
    """
    if waited_s is not None and waited_s > max(LEAST_WAITED_S, most_waited * seconds):
        return "kept from running"
    return "others kept processors busy" if load is not None and load > MOST_LOAD else ""


def as_timed(record: Record) -> pa.Table:
    """The stage rows with their sources when they were timed: what is recorded and in no profile was measured.

    A replay calls the rows that a run measured recorded; those of the scenario's profile were recorded before.
    """
    stages = record.stages
    replayed = pc.equal(stages["source"], "recorded")
    for named in record.manifest.scenario.get("profile") or ():
        of_profile = pc.and_(pc.equal(stages["pipeline"], named["pipeline"]), pc.equal(stages["side"], named["side"]))
        if named.get("point") is not None:
            of_profile = pc.and_(of_profile, pc.equal(stages["point"], named["point"]))
        replayed = pc.and_not(replayed, of_profile)
    source = pc.if_else(replayed, "measured", stages["source"])
    place = stages.column_names.index("source")
    return stages.set_column(place, stages.schema.field("source"), source)


def timed_requests(stages: pa.Table) -> pd.DataFrame:
    """The measured requests of stage rows: ``seconds``, ``cpu_s``, ``waited_s`` and ``load``, NaN where not known.

    ``start`` says in which start of the process each was timed.
    """
    columns = [*_REQUEST, "source", "seconds", "cpu_s", "waited_s", "load", "start"]
    rows = stages.select(columns).to_pandas()
    of_request = rows[rows["source"] == "measured"].groupby(_REQUEST, sort=False)
    sums = of_request[["seconds", "cpu_s", "waited_s"]].sum(min_count=1)
    of_all = {"load": of_request["load"].max(), "start": of_request["start"].min()}
    found: pd.DataFrame = sums.assign(**of_all).reset_index()
    return found


def looked_at(
    stages: pa.Table, samples: pa.Table, *, precision: float, at_most: int, confidence: float
) -> Mapping[tuple[str, str], Look]:
    """By point, whether its mean time is known to within ``precision``: :func:`harness.analysis.precision.look`.

    The mean is the one that is shown, over all questions, of several benchmarks each alike. Pictures whose repeats are
    not all there are left out. ``confidence`` is the scenario's.
    """
    known = samples.to_pandas().set_index("sample")
    population_N, n_pictures = strata_of_all(known), len(known.drop_duplicates(["benchmark", "picture"]))
    found: dict[tuple[str, str], Look] = {}
    for (pipeline, point), of_point in timed_requests(stages).groupby(_POINT):
        seconds_SR = of_point.pivot(index="sample", columns="repeat", values="seconds").dropna()
        start_R = of_point.groupby("repeat")["start"].min()[seconds_SR.columns]
        stratum_S = known.loc[seconds_SR.index, "patches"].to_numpy(float)
        most = min(at_most, n_pictures)
        found[str(pipeline), str(point)] = look(
            seconds_SR.to_numpy(),
            stratum_S,
            population_N,
            precision=precision,
            at_most=most,
            start_R=start_R.tolist(),
            confidence=confidence,
        )
    return found


def edited(manifest: Manifest) -> Iterator[str]:
    """That a manifest's scenario is not the one that the run was made with."""
    if (found := hash_of(manifest.scenario)) != manifest.scenario_hash:
        yield f"the manifest's scenario has the hash {found}, and the run was made with {manifest.scenario_hash}"


def _warmup(record: Record) -> Iterator[str]:
    if record.manifest.scenario_value("measure", "warmup") < 1:
        yield "no warm-up request was dropped before timing (measure.warmup is 0)"


def _timed_samples(record: Record, stages: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[str]:
    timed = {key: set(zip(p["sample"], p["repeat"], strict=True)) for key, p in _points(stages).items()}
    if untimed := [key for key in _points(outcomes) if key not in timed]:
        yield f"answered but never timed: {_first(untimed)}"
    needed = required_samples(0.5)
    if few := [key for key, requests in timed.items() if len(requests) < needed]:
        least = min(len(timed[key]) for key in few)
        yield f"timed in {least} requests, where {needed} are needed: {_first(few)}"
    picture = dict(zip(*(record.samples[name].to_pylist() for name in ("sample", "picture")), strict=True))
    pictures = {key: len({picture.get(sample, sample) for sample, _ in requests}) for key, requests in timed.items()}
    if few := [key for key, n in pictures.items() if n < MIN_PICTURES]:
        least = min(pictures[key] for key in few)
        shown = f"{least} picture{'s' * (least > 1)}"
        yield f"timed on {shown}, where {MIN_PICTURES} are needed, however often each is repeated: {_first(few)}"
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
    truths = outcomes.groupby("sample")["truth"].nunique()
    if several := truths.index[truths > 1].tolist():
        yield f"different points were judged against different truths: sample {_first(several)}"


def _questions(run: Analysis) -> Iterator[str]:
    samples, equality = run.record.samples.to_pandas(), run.equality
    asked = samples[samples["sample"].isin(pc.unique(run.record.outcomes["sample"]).to_pylist())]
    needed = equality.questions_needed()
    for benchmark, of_benchmark in asked.groupby("benchmark"):
        # MME's questions of cognition are asked, and are no part of its score.
        counted = metric(str(benchmark)).counts(of_benchmark["category"].to_numpy().astype(np.str_))
        of_questions = of_benchmark[counted]
        if (independent := of_questions["picture"].nunique()) >= needed:
            continue
        which = f" of {benchmark}" if asked["benchmark"].nunique() > 1 else ""
        yield (
            f"{len(of_questions)} questions{which} on {independent} pictures cannot certify a score of "
            f"{equality.target:g} within {equality.margin:g} at a confidence of {equality.confidence:g}: {needed} "
            "pictures can"
        )


def _one_machine(record: Record, stages: pd.DataFrame) -> Iterator[str]:
    # Machines of one name may differ in what decides speed, and be two computers: their ids, which sessions have, do.
    told = ("id", "instance_id", "torch_threads")

    def named(machine: Mapping[str, object]) -> str:
        return ", ".join(str(machine[key]) for key in told if key in machine)

    sessions = record.manifest.sessions
    ids = {
        "device": {start: named(session.machine) for start, session in enumerate(sessions)},
        "server": {start: named((session.server or session).machine) for start, session in enumerate(sessions)},
    }
    measured = stages[stages["source"] == "measured"]
    for side, of_side in measured.groupby("side"):
        of_side = of_side.assign(id=of_side["start"].map(ids[str(side)]).fillna(""))
        machines = of_side[["machine", "id"]].drop_duplicates()
        if len(machines) > 1:
            names = machines["machine"].drop_duplicates().sort_values()
            listed = names if len(names) == len(machines) else machines["machine"] + " (" + machines["id"] + ")"
            yield f"the {side} stages were timed on {len(machines)} machines: {'; '.join(listed)}"


def _one_software(run: Analysis) -> Iterator[str]:
    sessions = measured = run.manifest.sessions
    starts = {
        side: set(run.record.stages.filter(pc.equal(run.record.stages["side"], side))["start"].to_pylist())
        for side in ("device", "server")
    }
    if run.bytes_source == "recorded":
        # A replay mixes no rows of two versions: its session measured nothing, and all that it replayed is its own.
        measured = sessions[: 1 + max(starts["device"] | starts["server"])]
    if (n := len({session.code for session in measured})) > 1:
        yield f"the sessions ran {n} versions of the harness's code"
    alike = [measured]
    if all(starts.values()) and max(starts["device"]) < min(starts["server"]):
        # Joined halves: the packages of a device and of a server may differ, as they may over a network.
        alike = [measured[: 1 + max(starts["device"])], measured[min(starts["server"]) :]]
    for of_side in alike:
        for name in sorted({name for session in of_side for name in session.packages}):
            if len(versions := list(dict.fromkeys(session.packages.get(name, "none") for session in of_side))) > 1:
                yield f"the sessions ran different versions of {name}: {', '.join(versions)}"
    if dirty := [session for session in sessions if session.commit is not None and session.dirty]:
        yield f"the code had changes that are in no commit (commit {(dirty[0].commit or '')[:9]} and changes)"
    if any(session.commit is not None and session.dirty is None for session in sessions):
        yield "it is not known whether the code had changes that are in no commit"
    if any(session.commit is None and not session.released for session in sessions):
        yield "the code is neither a commit's nor an installed release's: it cannot be obtained again"


def _throttled(record: Record) -> Iterator[str]:
    counts: dict[str, int] = {}
    for session in record.manifest.sessions:
        for sentence, n in session.throttled.items():
            counts[sentence] = counts.get(sentence, 0) + n
    for sentence, n in counts.items():
        yield f"throttled: {sentence} ({n} unit{'s' * (n > 1)} of timed requests)"


def _disturbed(record: Record, requests: pd.DataFrame) -> Iterator[str]:
    known = requests[requests["waited_s"].notna()]
    lost = known["waited_s"].sum() / known["seconds"].sum() if known["seconds"].sum() > 0 else 0.0
    waited = requests["waited_s"] > np.maximum(LEAST_WAITED_S, MOST_WAITED * requests["seconds"])
    loaded = requests["load"] > MOST_LOAD
    n = int((waited | loaded).sum())
    again = sum(count for session in record.manifest.sessions for count in session.disturbed.values())
    if n > MOST_DISTURBED * len(requests):
        yield (
            f"{n} of {len(requests)} timed requests were disturbed ({int(waited.sum())} kept from running, "
            f"{int(loaded.sum())} while others kept processors busy), after {again} disturbed ones were repeated"
        )
    if lost > MOST_WAITED_IN_ALL:
        yield f"the timed requests were kept from running for {lost:.1%} of their time"
    pressures = [session.pressure for session in record.manifest.sessions if session.pressure is not None]
    if max(pressures, default=0.0) > MOST_PRESSURE:
        yield f"some task waited for a processor in {max(pressures):.0%} of the time in which requests were timed"


def _clock(record: Record, requests: pd.DataFrame, starts: Collection[int]) -> Iterator[str]:
    if n := int((requests["seconds"] <= 0).sum()):
        yield f"the clock stood still: {n} of {len(requests)} timed requests took 0 s"
        return
    # A session that only replayed may be another machine's, with more processors.
    sessions = [session for start, session in enumerate(record.manifest.sessions) if start in starts]
    sides = [side for session in sessions for side in (session, session.server) if side is not None]
    most = max((side.machine["threads"] for side in sides if side.machine.get("threads")), default=0)
    # Processor time is counted in ticks on some systems.
    if most and (n := int((requests["cpu_s"] > 1.05 * most * requests["seconds"] + 0.02).sum())):
        yield (
            f"the clock ran slow: {n} of {len(requests)} timed requests had more processor time than {most} processors "
            "give in their wall time"
        )


def _precision(record: Record, timed: pa.Table) -> Iterator[str]:
    wanted = record.manifest.scenario_value("measure")
    if wanted.get("precision") is None or not timed.num_rows:
        return
    found = looked_at(
        timed,
        record.samples,
        precision=wanted["precision"],
        at_most=wanted["at_most"],
        confidence=record.manifest.scenario_value("selection", "confidence"),
    )
    if short := {f"{pipeline} at {point}": of for (pipeline, point), of in found.items() if not of.precise}:
        worst = max(short, key=lambda key: short[key].estimate.half_width / short[key].estimate.value)
        said = short[worst].sentence or f"{wanted['precision']:.1%} was not reached"
        yield f"a precision of {said}: {_first([worst, *(short.keys() - {worst})])}"


def _points(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {f"{pipeline} at {point}": of_point for (pipeline, point), of_point in rows.groupby(["pipeline", "point"])}


def _requests(rows: pd.DataFrame) -> list[str]:
    return [f"{row.pipeline} at {row.point}, sample {row.sample}" for row in rows.itertuples()]


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
