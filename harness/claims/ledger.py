"""Claims compared with finished runs: for each test the run that it uses, the numbers, and the verdict."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from harness.analysis import Analysis, validity
from harness.claims import metrics
from harness.claims.evaluation import Evaluation, has, pipelines_of
from harness.claims.model import Claim, Claims, ClaimStudy, Criterion, Machines, direction
from harness.claims.verdict import ALPHA, Decided, Item, Verdict, judge, picked
from harness.errors import HarnessError
from harness.runs.labels import merges_untuned

Source = Literal["measured", "recorded", "estimated", "reported", "counted", ""]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A test with its result: ``run`` is empty if it needs none, ``stand_ins`` names the stand-ins that ran.

    ``why`` says what is missing where the verdict is *not testable here*, and how much of the claim a stand-in shows.
    """

    test: Criterion
    verdict: Verdict
    items: Sequence[Item] = ()
    run: str = ""
    source: Source = ""
    stand_ins: Sequence[str] = ()
    why: str = ""

    def shown(self) -> Sequence[Item]:
        """The items that the test is about: all, or the joint bounds of the least or largest."""
        return picked(self.test, self.items) if self.items else ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A claim with its verdict, that of all its tests that decide."""

    claim: Claim
    verdict: Verdict
    tested: Sequence[Tested]
    why: str
    at_full_size: str


def entries(claims: Claims, runs: Sequence[Analysis]) -> list[Entry]:
    """Every claim of a file against the runs, in the file's order.

    A test uses one run: of those that ran its scheme on its benchmarks and backbone, or on what stood in for these, one
    at full size before one on stand-ins, a VALID one before another, that of most questions before the others, the
    order given last. The choice does not depend on what the runs found.
    """
    return [_entry(claims, claim, runs) for claim in claims.claims]


def summary(found: Sequence[Entry]) -> str:
    """``54 claims: 3 reproduced, 20 hold on the stand-in...``."""
    counts = Counter(entry.verdict for entry in found)
    return f"{len(found)} claims: {', '.join(f'{counts[verdict]} {verdict}' for verdict in Verdict)}"


def _entry(claims: Claims, claim: Claim, runs: Sequence[Analysis]) -> Entry:
    alpha = ALPHA / max(1, sum(test.decides for test in claim.tests))
    tested = [_tested(claims, claim, test, runs, alpha) for test in claim.tests]
    verdict, why = _of_all([one for one in tested if one.test.decides])
    return Entry(
        claim=claim,
        verdict=verdict,
        tested=tested,
        why=claim.missing or why,
        at_full_size=claim.missing or "; ".join(dict.fromkeys(_at_full_size(claims, claim))),
    )


def _of_all(tested: Sequence[Tested]) -> tuple[Verdict, str]:
    """One *no* refutes a claim; all its tests have to hold for it to hold; at full size only if all are."""
    verdicts = [one.verdict for one in tested]
    for refuted in (Verdict.NOT_REPRODUCED, Verdict.FAILS):
        if refuted in verdicts:
            return refuted, ""
    if Verdict.NOT_TESTABLE in verdicts or not verdicts:
        return Verdict.NOT_TESTABLE, "; ".join(dict.fromkeys(one.why for one in tested if one.why))
    why = "; ".join(dict.fromkeys(one.why for one in tested if one.why))
    return (Verdict.HOLDS if Verdict.HOLDS in verdicts else Verdict.REPRODUCED), why


def _at_full_size(claims: Claims, claim: Claim) -> Iterator[str]:
    """What a test of the claim itself needs."""
    for test in claim.tests:
        if test.about.counted:
            yield "nothing but the published architecture"
            continue
        studies = [claims.study_of(claim, test), *([claims.studies[test.versus]] if test.versus else [])]
        timed = [name for name in (claims.machines.device, claims.machines.server) if name and test.about.timed]
        yield (
            f"{' and '.join(map(str, studies))}, with what is trained on it"
            + (f", timed on {' and '.join(timed)}" if timed else "")
        )


def _tested(claims: Claims, claim: Claim, test: Criterion, runs: Sequence[Analysis], alpha: float) -> Tested:
    study, machines = claims.study_of(claim, test), claims.machines
    if test.about.counted:
        try:
            items = metrics.of_architecture(test, study.backbone)
        except HarnessError as error:
            why = f"{test.metric} is counted on a published architecture: {error}"
            return Tested(test=test, verdict=Verdict.NOT_TESTABLE, why=why)
        stood_in = [_CODEC_SIZES] if test.metric == "trainable_parameters" else []
        return _judged(test, items, "", "counted", stood_in)
    found = _run_for(test, study, runs)
    if isinstance(found, str):
        return Tested(test=test, verdict=Verdict.NOT_TESTABLE, why=found)
    chosen = [found]
    if test.versus is not None:
        other = _run_for(test, claims.studies[test.versus], runs)
        if isinstance(other, str):
            return Tested(test=test, verdict=Verdict.NOT_TESTABLE, why=other)
        chosen.append(other)
    name = " and ".join(run.manifest.name for run in chosen)
    stood_in = list(dict.fromkeys(what for run in chosen for what in _stand_ins(run, test, machines)))
    doubts = itertools.chain((reason for run in chosen for reason in _doubts(run, test)), _two_machines(chosen, test))
    if reason := next(doubts, ""):
        return Tested(test=test, verdict=Verdict.NOT_TESTABLE, run=name, stand_ins=stood_in, why=reason)
    if test.about.absolute and any(run.manifest.stand_ins for run in chosen):
        why = f"{_unit(test)} of a stand-in do not test this claim; the full-size models and benchmarks are missing"
        return Tested(test=test, verdict=Verdict.NOT_TESTABLE, run=name, stand_ins=stood_in, why=why)

    def numbers(of: Criterion) -> Sequence[Item]:
        found = [metrics.of_run(Evaluation(run=run, test=of, alpha=alpha / len(chosen))) for run in chosen]
        return metrics.quotient(*found) if len(found) == 2 else found[0]

    side = direction(test) if stood_in else None
    try:
        items, its_items = numbers(test), [] if side is None else numbers(side)
    except HarnessError as error:
        # A contradiction in the rows of one run says nothing about the others.
        return Tested(test=test, verdict=Verdict.NOT_TESTABLE, run=name, stand_ins=stood_in, why=str(error))
    if side is not None:
        return _directed(test, items, side, its_items, name, _source(chosen, test), stood_in)
    return _judged(test, items, name, _source(chosen, test), stood_in)


def _judged(test: Criterion, items: Sequence[Item], run: str, source: Source, stand_ins: Sequence[str]) -> Tested:
    answer, why = judge(test, items, lambda number: written(test, number))
    verdict = _verdict(answer, bool(stand_ins))
    return Tested(test=test, verdict=verdict, items=items, run=run, source=source, stand_ins=stand_ins, why=why)


def _directed(
    test: Criterion,
    items: Sequence[Item],
    side: Criterion,
    its_items: Sequence[Item],
    run: str,
    source: Source,
    stand_ins: Sequence[str],
) -> Tested:
    """A test on a stand-in, by its direction; its numbers are the direction's where it has none of its own."""
    met, _ = judge(test, items)
    found = _judged(side, its_items, run, source, stand_ins)
    known = any(not math.isnan(item.estimate.low) for item in items)
    why = f"the direction; {_MET[met]}" if found.verdict is Verdict.HOLDS else found.why
    return dataclasses.replace(found, test=test, items=items if known else its_items, why=why)


_MET: Mapping[Decided, str] = {
    "yes": "the number itself is met too",
    "no": "the number itself is not met",
    "open": "the number itself is left open",
}


def _verdict(answer: Decided, on_stand_in: bool) -> Verdict:
    if answer == "open":
        return Verdict.NOT_TESTABLE
    if on_stand_in:
        return Verdict.HOLDS if answer == "yes" else Verdict.FAILS
    return Verdict.REPRODUCED if answer == "yes" else Verdict.NOT_REPRODUCED


_CODEC_SIZES = "the codec's layer sizes, which are not in the paper and were chosen to leave about this total"


def _run_for(test: Criterion, study: ClaimStudy, runs: Sequence[Analysis]) -> Analysis | str:
    """The run that a test uses, or which one is missing."""
    fitting = [run for run in runs if _wanted(run) == (frozenset(study.benchmarks), study.backbone)]
    schemes = {str(test.of), *test.over}
    able = [run for run in fitting if schemes <= pipelines_of(run).keys()]
    if able:
        return max(able, key=_rank)
    what = f"none of the runs is of {study}"
    if fitting:
        lacking = sorted(schemes - pipelines_of(fitting[0]).keys())
        what = f"{fitting[0].manifest.name} has no {' and no '.join(lacking)}"
    return what + (f" (scenario {study.scenario})" if study.scenario else "")


def _rank(run: Analysis) -> tuple[bool, bool, int]:
    return not run.manifest.stand_ins, run.validity == "VALID", int(run.record.samples.num_rows)


def _wanted(run: Analysis) -> tuple[frozenset[str], str]:
    """The benchmarks and the backbone that a run's scenario names, whatever ran."""
    given = run.manifest.scenario
    several = [wanted["name"] for wanted in given.get("benchmarks", ())]
    return frozenset([*several, *filter(None, [given.get("benchmark")])]), str(given.get("backbone"))


def _stand_ins(run: Analysis, test: Criterion, machines: Machines) -> Iterator[str]:
    """The stand-ins of a run on which the test rests."""
    manifest = run.manifest
    yield from (f"{ran} for {wanted}" for wanted, ran in manifest.stand_ins.items())
    if manifest.scenario.get("weights") == "random":
        yield "random weights"
    yield from _untrained(run, test)
    if unfirm := sorted(metrics.sources(run, test) - {"measured", "recorded"}):
        yield f"{'times' if test.about.timed else 'numbers'} that are {' and '.join(unfirm)}"
    if not test.about.timed:
        return
    for side, wanted in (("device", machines.device), ("server", machines.server)):
        ran = list(dict.fromkeys(name for of_scheme in _machines(run, test, side).values() for name in of_scheme))
        if wanted and not all(wanted.casefold() in name.casefold() for name in ran):
            yield f"{' and '.join(ran)} for {wanted}"


def _untrained(run: Analysis, test: Criterion) -> Iterator[str]:
    """The schemes of a test some of whose points run otherwise than their weights were trained."""
    manifest, pipelines = run.manifest, pipelines_of(run)
    for scheme, at in ((str(test.of), test.at), *((other, test.over_at) for other in test.over)):
        pipeline = pipelines.get(scheme, "")
        points = {label: own for label, own in manifest.points.get(pipeline, {}).items() if has(own, at)}
        trained = (manifest.untrained or {}).get(pipeline, {})
        if any(map(merges_untuned, points.values())):
            yield f"{pipeline} not tuned for merging"
        if any(trained.get(label) is not None for label in points):
            yield f"{pipeline} at an n_c that it was not trained for"
        if any(label in trained and trained[label] is None for label in points):
            yield f"{pipeline}, whose training is not known"


def _machines(run: Analysis, test: Criterion, side: str) -> dict[str, list[str]]:
    """The machines that a side of each scheme of a test was timed on; without the schemes that have no stage there."""
    stages, names = run.record.stages, pipelines_of(run)
    rows = stages.group_by(["pipeline", "side", "machine"], use_threads=False).aggregate([]).to_pylist()
    found = {
        scheme: [row["machine"] for row in rows if (row["pipeline"], row["side"]) == (names[scheme], side)]
        for scheme in (str(test.of), *test.over)
    }
    return {scheme: machines for scheme, machines in found.items() if machines}


def _two_machines(runs: Sequence[Analysis], test: Criterion) -> Iterator[str]:
    """Why times that are compared are not those of the schemes alone: a side was not timed on one machine."""
    if not test.about.timed or not (test.over or test.versus):
        return
    for side in ("server",) if test.metric == "server_time_ratio" else ("device", "server"):
        timed = [
            (f"{scheme}{f' in {run.manifest.name}' * (len(runs) > 1)}", on)
            for run in runs
            for scheme, on in _machines(run, test, side).items()
        ]
        if len({name for _, on in timed for name in on}) > 1:
            said = "; ".join(f"{what} on {' and '.join(on)}" for what, on in timed)
            yield f"the {side} stages were timed on different machines: {said}"


def _doubts(run: Analysis, test: Criterion) -> Iterator[str]:
    """What makes an INVALID run unfit for the test: times need a VALID one, answers and bytes what they rest on."""
    if (reasons := run.reasons) and test.about.timed:
        yield f"run {run.manifest.name} is INVALID: {reasons[0]}"
    for reason in validity.reasons_of_answers(run):
        yield f"run {run.manifest.name} is INVALID: {reason}"


def _source(runs: Sequence[Analysis], test: Criterion) -> Source:
    if test.metric in ("z_share", "experts_share", "experts_used"):
        # From the training of a codec, or from the illustrations of a run: not from its rows.
        return "recorded"
    found = set().union(*(metrics.sources(run, test) for run in runs))
    order: tuple[Source, ...] = ("measured", "recorded", "estimated", "reported")
    return max((source for source in order if source in found), key=order.index, default="")


def _unit(test: Criterion) -> str:
    return "seconds" if test.about.unit == "s" else "shares of the latency"


def written(test: Criterion, number: float) -> str:
    """A number in the unit of the test's metric: ``-36.0 %``, ``2.89 x``, ``0.64 s``."""
    if number != number:
        return "-"
    if abs(number) == float("inf"):
        return "unbounded"
    about = test.about
    if about.unit == "%":
        return f"{100 * number:{'+' if about.neutral == 0 and test.metric.endswith('change') else ''}.3g} %"
    if about.unit == "count":
        return f"{number / 1e6:.4g} M"
    return f"{number:.3g} {about.unit}" if abs(number) < 1000 else f"{number:.0f} {about.unit}"


def claimed(test: Criterion) -> str:
    """What a test's claim says in a phrase: ``-52 % to -30 %``, ``below 1 x``."""
    if test.value is not None:
        return ("about " if test.give else "") + written(test, test.value)
    if ends := test.between or test.inside:
        within = "between" if test.between else "within"
        return f"{within} {written(test, ends[0])} and {written(test, ends[1])}"
    limit = test.below if test.below is not None else test.above
    return f"{test.relation} {written(test, float(limit or 0))}"


def number(tested: Tested) -> str:
    """The result in a phrase: one number with its interval, or the least to the largest of several."""
    known = [item for item in tested.shown() if item.estimate.value == item.estimate.value]
    if not known:
        return "-"
    values = [item.estimate.value for item in known]
    low, high = (pick(getattr(item.estimate, end) for item in known) for pick, end in ((min, "low"), (max, "high")))
    said = written(tested.test, values[0])
    if len(known) > 1:
        said = f"{written(tested.test, min(values))} to {written(tested.test, max(values))}"
    if low == high or (low != low and len(known) == 1):
        return said
    return f"{said} [{written(tested.test, low)}, {written(tested.test, high)}]"


def subject(test: Criterion) -> str:
    """The name of a test's number: ``bytes_change of tofc over elic, the least``."""
    at, over_at = (", ".join(f"{name} {_value(value)}" for name, value in of.items()) for of in (test.at, test.over_at))
    found = test.metric
    found += f" of {test.of}" if test.of else ""
    found += f" at {at}" if at else ""
    found += f" over {', '.join(test.over)}" if test.over else ""
    found += f" at {over_at}" if over_at else ""
    found += f" ({': '.join(filter(None, (test.side, ', '.join(test.stages))))})" if test.side else ""
    found += {"each": "", "most": ", the largest"}.get(test.where, f", the {test.where.replace('_', ' ')}")
    return found + (f", over that of {test.versus}" if test.versus else "")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value or "null")


def as_data(claims: Claims, found: Sequence[Entry], runs: Sequence[Analysis]) -> dict[str, Any]:
    """The ledger as plain data; a number that is not available is null, an end without a bound ``unbounded``."""
    listed = [
        {
            "id": entry.claim.id,
            "where": entry.claim.where,
            "says": entry.claim.says,
            "verdict": str(entry.verdict),
            "why": entry.why,
            "at_full_size": entry.at_full_size,
            "note": entry.claim.note,
            "tests": [_test_data(one) for one in entry.tested],
        }
        for entry in found
    ]
    given = [
        {
            "name": run.manifest.name,
            "validity": run.validity,
            "reasons": list(run.reasons),
            "stand_ins": run.manifest.stand_ins,
            "scenario_hash": run.manifest.scenario_hash,
            "code": run.manifest.commits,
            "machines": list(run.machines),
        }
        for run in runs
    ]
    return {"title": claims.title, "summary": summary(found), "runs": given, "claims": listed}


def _test_data(one: Tested) -> Mapping[str, Any]:
    test = one.test
    return {
        **test.model_dump(mode="json", exclude_defaults=True),
        "unit": test.about.unit,
        "verdict": str(one.verdict),
        "decides": test.decides,
        "run": one.run,
        "source": one.source,
        "stand_ins": list(one.stand_ins),
        "why": one.why,
        "numbers": [
            {
                "label": item.label,
                **{end: _plain(getattr(item.estimate, end)) for end in ("value", "low", "high")},
                "reason": item.estimate.reason,
            }
            for item in one.items
        ],
    }


def _plain(value: float) -> float | str | None:
    if value != value:
        return None
    return value if abs(value) != float("inf") else "unbounded"
