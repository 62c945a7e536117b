"""The ledger says of each claim what the rows say, whichever way they are altered."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_run import POINTS

from harness.analysis import Analysis
from harness.claims import ledger, model, shown
from harness.claims.verdict import Verdict
from harness.runs.provenance import Session
from harness.runs.store import Record

Run = Callable[..., tuple[int, str, str]]

STUDIES = {"street": {"benchmarks": ["RealWorldQA"], "backbone": "llava-onevision-7b", "scenario": "realworldqa"}}


def _claims(*tests: Mapping[str, Any], machines: Mapping[str, str] | None = None) -> model.Claims:
    listed = [
        {"id": place, "where": "here", "says": "so", "study": "street", "tests": [test]}
        for place, test in enumerate(tests)
    ]
    given = {"title": "Ours", "studies": STUDIES, "machines": machines or {}, "claims": listed}
    return model.Claims.model_validate(given)


@pytest.fixture(scope="module")
def full(made_up: Analysis) -> Record:
    """The made-up run as one of the real benchmark and backbone, VALID."""
    manifest = made_up.manifest
    pipelines = [{"scheme": name, "name": name} for name in POINTS]
    scenario = {
        **manifest.scenario, "benchmark": "RealWorldQA", "backbone": "llava-onevision-7b", "pipelines": pipelines
    }  # fmt: skip
    from harness.scenario.load import hash_of

    changed = {"scenario": scenario, "scenario_hash": hash_of(scenario), "stand_ins": {}}
    valid = {"validity": "VALID", "reasons": ()}
    record = dataclasses.replace(made_up.record, manifest=manifest.model_copy(update={**changed, **valid}))
    assert Analysis(record).reasons == ()
    return record


def _verdicts(record: Record, claims: model.Claims) -> list[Verdict]:
    return [entry.verdict for entry in ledger.entries(claims, [Analysis(record)])]


def _with_bytes(record: Record, pipeline: str, factor: float) -> Record:
    rows = record.outcomes
    more = pc.cast(pc.multiply(pc.cast(rows["payload_bytes"], pa.float64()), factor), pa.int64(), safe=False)
    column = pc.if_else(pc.equal(rows["pipeline"], pipeline), more, rows["payload_bytes"])
    place = rows.schema.get_field_index("payload_bytes")
    return dataclasses.replace(record, outcomes=rows.set_column(place, "payload_bytes", column))


def _with_seconds(record: Record, pipeline: str, factor: float) -> Record:
    rows = record.stages
    column = pc.if_else(pc.equal(rows["pipeline"], pipeline), pc.multiply(rows["seconds"], factor), rows["seconds"])
    place = rows.schema.get_field_index("seconds")
    return dataclasses.replace(record, stages=rows.set_column(place, "seconds", column))


def test_altered_bytes_flip_a_verdict(full: Record) -> None:
    """A number that is in the rows is reproduced; three times the bytes refute it, and every form of the claim."""
    bare = {"of": "jpeg", "over": "webp"}
    mean = ledger.entries(_claims({"metric": "mean_bytes_ratio", **bare, "above": 0}), [Analysis(full)])[0]
    value = mean.tested[0].items[0].estimate.value
    assert 1.0 < value < 2.0
    claims = _claims(
        {"metric": "mean_bytes_ratio", **bare, "value": value, "give": 0.005},
        {"metric": "mean_bytes_change", **bare, "value": value - 1, "give": 0.005},
        {"metric": "bytes_ratio", **bare, "above": 1},
        {"metric": "bytes_ratio", **bare, "between": [1.0, 2.0]},
    )
    assert _verdicts(full, claims) == [Verdict.REPRODUCED] * 3 + [_verdicts(full, claims)[3]]
    assert _verdicts(full, claims)[3] is not Verdict.NOT_REPRODUCED
    assert _verdicts(_with_bytes(full, "webp", 3.0), claims) == [Verdict.NOT_REPRODUCED] * 4


def test_altered_times_flip_a_verdict(full: Record) -> None:
    """TOFC is ahead of raw features at 25 KB/s; a hundred times the seconds, and it is not."""
    claims = _claims(
        {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "where": "lowest_rate", "below": 0.5},
        {"metric": "latency_change", "of": "tofc", "over": "raw_features", "where": "lowest_rate", "below": -0.5},
        {"metric": "latency_s", "of": "tofc", "where": "lowest_rate", "below": 0.5},
    )
    assert _verdicts(full, claims) == [Verdict.REPRODUCED] * 3
    assert _verdicts(_with_seconds(full, "tofc", 100.0), claims) == [Verdict.NOT_REPRODUCED] * 3


def test_whether_a_saving_grows_with_the_rate_is_told_by_times_and_bytes(full: Record) -> None:
    """The sign of the closed form is that of the latencies' ratios at the lowest and the highest rate."""
    pair = {"of": "tofc", "over": "webp"}
    claims = _claims({"metric": "rate_gain", **pair, "below": 1}, {"metric": "latency_ratio", **pair, "above": 0})
    for record in (full, _with_seconds(full, "tofc", 0.01)):
        gain, ratios = (entry.tested[0].items for entry in ledger.entries(claims, [Analysis(record)]))
        low, *_, high = (item.estimate.value for item in ratios)
        assert (gain[0].estimate.value < 1) == (high < low)
    assert gain[0].estimate.high < 1


def test_altered_answers_flip_a_verdict(full: Record) -> None:
    """Raw features score above device-only; where they are always wrong they do not."""
    claims = _claims({"metric": "score_share", "of": "raw_features", "at": {"merge_to": 0.044}, "over": "device_only",
                      "over_at": {}, "above": 1})  # fmt: skip
    # Device-only is not selected: it has no point to be set against, and what is missing is named.
    (entry,) = ledger.entries(claims, [Analysis(full)])
    assert entry.verdict is Verdict.NOT_TESTABLE
    claims = _claims({"metric": "score_share", "of": "raw_features", "at": {"merge_to": 0.044}, "above": 0.9})
    assert _verdicts(full, claims) == [Verdict.REPRODUCED]
    rows = full.outcomes
    wrong = pc.and_(rows["correct"], pc.or_(pc.not_equal(rows["pipeline"], "raw_features"), pc.less(
        rows["sample"], "q060")))  # fmt: skip
    place = rows.schema.get_field_index("correct")
    assert _verdicts(
        dataclasses.replace(full, outcomes=rows.set_column(place, "correct", wrong)), claims
    ) == [Verdict.NOT_REPRODUCED]  # fmt: skip


def test_a_stand_in_reproduces_nothing(full: Record) -> None:
    """A benchmark, random weights, another machine, estimated times: each makes it *holds on the stand-in*."""
    manifest = full.manifest
    test = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    standing = manifest.model_copy(update={"stand_ins": {"RealWorldQA": "StreetsQA"}})
    assert _verdicts(dataclasses.replace(full, manifest=standing), _claims(test)) == [Verdict.HOLDS]
    assert _verdicts(full, _claims(test, machines={"device": "AGX Orin"})) == [Verdict.HOLDS]
    assert _verdicts(full, _claims(test, machines={"device": "a processor"})) == [Verdict.REPRODUCED]
    estimated = {**test, "over": "server_only"}
    assert _verdicts(full, _claims(estimated)) == [Verdict.HOLDS]
    assert _verdicts(dataclasses.replace(full, manifest=standing), _claims({**test, "above": 1.5, "below": None})) == [
        Verdict.FAILS
    ]
    (entry,) = ledger.entries(
        _claims({**test, "below": 0.01}), [Analysis(dataclasses.replace(full, manifest=standing))]
    )
    assert (entry.verdict, entry.why) == (Verdict.HOLDS, "the direction; the number itself is not met")
    seconds = {"metric": "latency_s", "of": "tofc", "below": 1}
    (entry,) = ledger.entries(_claims(seconds), [Analysis(dataclasses.replace(full, manifest=standing))])
    assert entry.verdict is Verdict.NOT_TESTABLE
    assert "full-size" in entry.why


def test_an_invalid_run_shows_no_time_and_its_bytes_where_these_are_beyond_doubt(full: Record) -> None:
    """What was disturbed keeps its answers; code that cannot be had again keeps nothing."""
    timed = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    counted = {"metric": "bytes_ratio", "of": "jpeg", "over": "webp", "above": 1}
    manifest = full.manifest
    hot = manifest.model_copy(update={"validity": "INVALID", "reasons": ("throttled: GPU at 95 C",)})
    first, second = ledger.entries(_claims(timed, counted), [Analysis(dataclasses.replace(full, manifest=hot))])
    assert (first.verdict, second.verdict) == (Verdict.NOT_TESTABLE, Verdict.REPRODUCED)
    assert "INVALID: throttled" in first.why
    session: Session = manifest.sessions[0].model_copy(update={"dirty": True})
    dirty = manifest.model_copy(update={"sessions": (session,)})
    (entry,) = ledger.entries(_claims(counted), [Analysis(dataclasses.replace(full, manifest=dirty))])
    assert entry.verdict is Verdict.NOT_TESTABLE


def test_what_is_missing_is_named(full: Record, made_up: Analysis) -> None:
    """A run of another backbone, a scheme that did not run, a metric of which there are no rows."""
    claims = _claims(
        {"metric": "bytes_ratio", "of": "tofc", "over": "elic", "below": 1},
        {"metric": "neighbours_share", "of": "tofc", "inside": [0.9, 1.1]},
        {"metric": "operations_ratio", "of": "tofc", "over": "jpeg", "side": "server", "below": 1},
    )
    whys = [entry.why for entry in ledger.entries(claims, [Analysis(full)])]
    assert whys[0] == "tonight has no elic (scenario realworldqa)"
    assert "neighbours" in whys[1]
    assert "operations of tofc's server half was not measured" in whys[2]
    (entry,) = ledger.entries(_claims({"metric": "z_share", "of": "tofc", "below": 1}), [])
    assert entry.why == "no run given is of RealWorldQA with llava-onevision-7b (scenario realworldqa)"
    assert "RealWorldQA with llava-onevision-7b" in entry.at_full_size


def test_every_test_of_a_claim_has_to_hold(full: Record) -> None:
    """One that is refuted refutes it; one that does not decide is shown alone."""
    yes = {"metric": "bytes_ratio", "of": "jpeg", "over": "webp", "above": 1}
    no = {**yes, "above": 50}
    claim = {"id": "a", "where": "here", "says": "so", "study": "street"}

    def verdict(*tests: Mapping[str, Any]) -> Verdict:
        given = {"title": "Ours", "studies": STUDIES, "claims": [{**claim, "tests": list(tests)}]}
        return _verdicts(full, model.Claims.model_validate(given))[0]

    assert verdict(yes, yes) is Verdict.REPRODUCED
    assert verdict(yes, no) is Verdict.NOT_REPRODUCED
    assert verdict(yes, {**no, "decides": False}) is Verdict.REPRODUCED


def test_a_run_at_full_size_goes_before_a_stand_in_whatever_they_found(full: Record, made_up: Analysis) -> None:
    """And a VALID one before another: the order in which they are given does not matter."""
    claims = _claims({"metric": "bytes_ratio", "of": "jpeg", "over": "webp", "above": 1})
    standing = full.manifest.model_copy(update={"stand_ins": {"RealWorldQA": "StreetsQA"}, "name": "stand-in"})
    runs = [Analysis(dataclasses.replace(full, manifest=standing)), Analysis(full)]
    for given in (runs, runs[::-1]):
        assert ledger.entries(claims, given)[0].tested[0].run == "tonight"


def test_counts_of_the_architecture_need_no_run() -> None:
    """729 features of SigLIP; the trainable parameters are some 300 million, on layer sizes that are inferred."""
    paper = model.load()
    chosen = paper.model_copy(update={"claims": tuple(claim for claim in paper.claims if claim.id in ("4", "9", "49"))})
    four, nine, forty_nine = ledger.entries(chosen, [])
    assert (four.verdict, nine.verdict, forty_nine.verdict) == (Verdict.REPRODUCED, Verdict.HOLDS, Verdict.REPRODUCED)
    assert [item.label for one in four.tested for item in one.items] == ["8 of 729", "32 of 729"]
    assert abs(nine.tested[0].items[0].estimate.value - 300e6) < 10e6


def test_all_forms_say_the_same(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """A terminal, Markdown and JSON: every claim with its verdict, and the summary line; names are text."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: <script>alert(1)</script> | ours\nstudies: { s: { benchmarks: RealWorldQA, backbone: mini-nano } }\n"
        "claims:\n- { id: a|b, where: here, says: so [bold], study: s, tests: [{ metric: bytes_ratio, of: tofc, over: "
        "jpeg, below: 1 }] }\n- { id: 2, where: there, says: never, missing: a judge }\n"
    )
    outputs = {}
    for form in ("terminal", "markdown", "json"):
        status, outputs[form], err = harness("claims", made_up.record.folder, "--claims", path, "--format", form)
        assert (status, err) == (0, "")
        assert "2 claims: 0 reproduced" in " ".join(outputs[form].split())
        assert "2 not testable here" in " ".join(outputs[form].split())
    assert all(len(line) <= 80 for line in outputs["terminal"].splitlines())
    assert "so [bold]" in outputs["terminal"]
    assert "<script>" not in outputs["markdown"]
    assert r"a\|b" in outputs["markdown"]
    data = json.loads(outputs["json"])
    assert [claim["verdict"] for claim in data["claims"]] == ["not testable here"] * 2
    assert shown.notes(ledger.entries(model.load(path), []))[0].startswith("2 claims:")
