"""The ledger's verdict on each claim follows the rows, however they are altered."""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.analysis import Analysis
from harness.analysis.means import Estimate
from harness.analysis.precision import when_stopped
from harness.claims import ledger, metrics, model, shown
from harness.claims.evaluation import Evaluation
from harness.claims.verdict import Item, Verdict
from harness.records import ResourceRow, to_table
from harness.runs import illustrations
from harness.scenario.load import hash_of
from harness.tofc.trained import find_codec
from tests.made_up_run import MACHINE, POINTS

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
def full(made_up: Analysis) -> Analysis:
    """The made-up run as one of the real benchmark and backbone, VALID."""
    manifest = made_up.manifest
    pipelines = [{"scheme": name, "name": name} for name in POINTS]
    scenario = {
        **manifest.scenario, "benchmark": "RealWorldQA", "backbone": "llava-onevision-7b", "pipelines": pipelines
    }  # fmt: skip
    changed = {"scenario": scenario, "scenario_hash": hash_of(scenario), "stand_ins": {}}
    found = _as(made_up, **changed, validity="VALID", reasons=())
    assert found.reasons == ()
    return found


@pytest.fixture(scope="module")
def standing(full: Analysis) -> Analysis:
    """The same on a stand-in."""
    return _as(full, stand_ins={"RealWorldQA": "StreetsQA"}, name="stand-in")


def _as(run: Analysis, **changes: object) -> Analysis:
    """The run with another manifest."""
    return Analysis(dataclasses.replace(run.record, manifest=run.manifest.model_copy(update=changes)))


def _verdicts(run: Analysis, claims: model.Claims) -> list[Verdict]:
    return [entry.verdict for entry in ledger.entries(claims, [run])]


def _altered(run: Analysis, table: str, column: str, pipeline: str, change: Callable[[Any], Any]) -> Analysis:
    """The run with a column of a pipeline's rows changed."""
    rows: pa.Table = getattr(run.record, table)
    changed = pc.if_else(pc.equal(rows["pipeline"], pipeline), change(rows[column]), rows[column])
    rows = rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), changed)
    return Analysis(dataclasses.replace(run.record, **{table: rows}))


@pytest.mark.slow
def test_intervals_of_times_are_wider_where_timing_stopped_early(full: Analysis) -> None:
    """Those of bytes are not: they do not depend on which pictures were timed."""
    measure = {**full.manifest.scenario["measure"], "precision": 0.05}
    stopped = _as(full, scenario={**full.manifest.scenario, "measure": measure})
    found = {}
    for metric in ("latency_ratio", "bytes_ratio"):
        test = model.Criterion.model_validate({"metric": metric, "of": "tofc", "over": "jpeg", "below": 1})
        found[metric] = [Evaluation(run=run, test=test, alpha=0.05).confidence(2) for run in (full, stopped)]
    assert found["latency_ratio"] == [0.975, when_stopped(0.975)]
    assert found["bytes_ratio"] == [0.975, 0.975]
    assert stopped.timed_mean("tofc", "n_c=8,lambda=0.003").low < full.timed_mean("tofc", "n_c=8,lambda=0.003").low


def test_a_miniature_has_no_published_architecture() -> None:
    """Claims counted on it cannot be tested, and the other claims are unchanged."""
    tests = ({"metric": "features_share", "at": {"n_c": 16}, "value": 0.022, "give": 0.0005},) * 2
    claims = _claims(*tests)
    studies = {**claims.studies, "small": claims.studies["street"].model_copy(update={"backbone": "mini-onevision"})}
    small = claims.claims[1].model_copy(update={"study": "small"})
    found = ledger.entries(claims.model_copy(update={"studies": studies, "claims": (claims.claims[0], small)}), [])
    assert [entry.verdict for entry in found] == [Verdict.REPRODUCED, Verdict.NOT_TESTABLE]
    assert "unknown full-size LLaVA-OneVision 'mini-onevision'" in found[1].why


@pytest.mark.slow
def test_altered_bytes_flip_a_verdict(full: Analysis) -> None:
    """A number that is in the rows is reproduced; ten times the bytes refute it, and every form of the claim."""
    bare = {"of": "jpeg", "over": "webp"}
    asked = _claims({"metric": "mean_bytes_ratio", **bare, "above": 0}, {"metric": "bytes_ratio", **bare, "above": 0})
    mean, each = (entry.tested[0].items for entry in ledger.entries(asked, [full]))
    value = mean[0].estimate.value
    assert 1.2 < value < 1.4
    ratios = [item.estimate.value for item in each]
    assert len(ratios) == 3
    claims = _claims(
        {"metric": "mean_bytes_ratio", **bare, "value": value, "give": 0.005},
        {"metric": "mean_bytes_change", **bare, "value": value - 1, "give": 0.005},
        {"metric": "mean_bytes_ratio", **bare, "above": 1},
        {"metric": "bytes_ratio", **bare, "above": 0.8},
        {"metric": "bytes_ratio", **bare, "where": "most", "above": 1},
    )
    assert _verdicts(full, claims) == [Verdict.REPRODUCED] * 5
    more = _altered(full, "outcomes", "payload_bytes", "webp", lambda n: pc.multiply(n, 10))
    assert _verdicts(more, claims) == [Verdict.NOT_REPRODUCED] * 5
    # A range holds or fails as a whole.
    ends = [8 / max(ratios), 12 / min(ratios)]
    of_webp = {"metric": "bytes_ratio", "of": "webp", "over": "jpeg", "between": ends}
    assert _verdicts(more, _claims(of_webp)) == [Verdict.REPRODUCED]
    assert _verdicts(full, _claims(of_webp)) == [Verdict.NOT_REPRODUCED]


@pytest.mark.slow
def test_a_scheme_without_a_curve_is_bounded_by_its_selected_point(full: Analysis, standing: Analysis) -> None:
    """TOFC's one point with n_c = 8 is certified; what WebP sends for that score is bounded by its curve.

    The bound is one-sided, grows with the point's bytes, and supports only a direction.
    """
    apart = {label: {"n_c": place} for place, label in enumerate(full.manifest.points["tofc"])}
    points = {**full.manifest.points, "tofc": apart}
    run = _as(full, points=points)
    assert not any(pipeline == "tofc" for pipeline, _ in run.ladders)
    (found,) = _items(run, metric="bytes_ratio", of="tofc", over="webp", below=1)
    (other,) = _items(run, metric="bytes_ratio", of="webp", over="tofc", above=1)
    assert 0 == found.estimate.low < found.estimate.value < found.estimate.high < 1
    assert (other.estimate.low, other.estimate.high) == pytest.approx((1 / found.estimate.high, math.inf))
    more = _altered(run, "outcomes", "payload_bytes", "tofc", lambda n: pc.multiply(n, 2))
    (twice,) = _items(more, metric="bytes_ratio", of="tofc", over="webp", below=1)
    assert twice.estimate.high == pytest.approx(2 * found.estimate.high, rel=0.01)
    mean = {"metric": "mean_bytes_change", "of": "tofc", "over": "webp", "value": -0.3}
    (entry,) = ledger.entries(_claims(mean), [_as(standing, points=points)])
    assert (entry.verdict, entry.why) == (Verdict.HOLDS, "the direction; the number itself is left open")
    assert _verdicts(run, _claims(mean)) == [Verdict.NOT_TESTABLE]


@pytest.mark.slow
def test_altered_times_flip_a_verdict(full: Analysis) -> None:
    """TOFC is ahead of raw features at 25 KB/s; a hundred times the seconds, and it is not.

    Whether a saving grows with the rate has the sign of the latencies' ratios at the lowest and the highest rate.
    """
    pair = {"of": "tofc", "over": "raw_features"}
    claims = _claims(
        {"metric": "latency_ratio", **pair, "where": "lowest_rate", "below": 0.5},
        {"metric": "latency_change", **pair, "where": "lowest_rate", "below": -0.5},
        {"metric": "latency_s", "of": "tofc", "where": "lowest_rate", "below": 0.5},
        {"metric": "rate_gain", **pair, "above": 1},
    )
    slower, faster = (
        _altered(full, "stages", "seconds", "tofc", functools.partial(pc.multiply, by)) for by in (100.0, 0.01)
    )
    assert _verdicts(full, claims) == [Verdict.REPRODUCED] * 4
    assert _verdicts(slower, claims)[:3] == [Verdict.NOT_REPRODUCED] * 3
    for run in (full, faster):
        ratios, *_, gain = (entry.tested[0].items for entry in ledger.entries(claims, [run]))
        values = [item.estimate.value for item in ratios]
        assert (gain[0].estimate.value < 1) == (values[-1] < values[0])
    assert gain[0].estimate.high < 1


def _in_system(run: Analysis, **replay: Any) -> Analysis:
    """The run with another replay section."""
    given = run.manifest.scenario
    scenario = {**given, "replay": {**given["replay"], **replay}}
    return _as(run, scenario=scenario, scenario_hash=hash_of(scenario))


@pytest.mark.slow
def test_waiting_for_a_batch_is_no_part_of_the_links_share(full: Analysis) -> None:
    """A lone request waits out the window: T_link / T has it below the line, and not above."""
    batches = {"max_batch": 4, "window_s": 2.0, "marginal": 0.5, "together": ["prefill"]}
    waiting = _in_system(full, batching=batches)
    share, total = (
        model.Criterion.model_validate({"metric": metric, "of": "server_only", "above": 0.1})
        for metric in ("link_share", "latency_s")
    )
    shares, totals_s, plain_s = (
        [item.estimate.value for item in metrics.of_run(Evaluation(run=run, test=test, alpha=0.05))]
        for run, test in ((waiting, share), (waiting, total), (full, total))
    )
    own_s = full.timed_mean("server_only", "-").value
    assert totals_s == pytest.approx([total_s + 2.0 for total_s in plain_s])
    expected = [(plain - own_s) / total for plain, total in zip(plain_s, totals_s, strict=True)]
    assert shares == pytest.approx(expected)


def test_over_links_that_take_more_than_bits_the_rates_gain_is_open(full: Analysis) -> None:
    """With T = c + p + 8 b / r the ratio of two latencies may grow with the rate where it falls with p = 0."""
    claims = _claims({"metric": "rate_gain", "of": "tofc", "over": "jpeg", "above": 1})
    far = [{**uplink, "wire": {"propagation_s": 1.0}} for uplink in full.manifest.scenario["replay"]["uplinks"]]
    (entry,) = ledger.entries(claims, [_in_system(full, uplinks=far)])
    assert entry.verdict is Verdict.NOT_TESTABLE
    assert "the links take more than bits over the rate" in entry.why


@pytest.mark.slow
def test_altered_answers_flip_a_verdict(full: Analysis) -> None:
    """Raw features keep four fifths of the score; with three of four answers wrong they do not."""
    claims = _claims({"metric": "score_share", "of": "raw_features", "at": {"merge_to": 0.044}, "above": 0.8})
    assert _verdicts(full, claims) == [Verdict.REPRODUCED]
    early = pc.less(full.record.outcomes["sample"], "q060")
    wrong = _altered(full, "outcomes", "correct", "raw_features", lambda right: pc.and_(right, early))
    assert _verdicts(wrong, claims) == [Verdict.NOT_REPRODUCED]
    # A scheme that does not reach the target has no point to compare with, which is reported.
    unreached = _claims({"metric": "latency_ratio", "of": "tofc", "over": "device_only", "below": 1})
    (entry,) = ledger.entries(unreached, [full])
    assert entry.verdict is Verdict.NOT_TESTABLE
    assert "device_only has no point that is certified" in entry.why


@pytest.mark.slow
def test_a_stand_in_reproduces_nothing(full: Analysis, standing: Analysis) -> None:
    """A benchmark, random weights, another machine, estimated times: each makes it *holds on the stand-in*.

    For a claim on two schemes it shows the direction, and is labelled so.
    """
    test = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    estimated = {**test, "over": "server_only"}
    assert _verdicts(full, _claims(test, estimated)) == [Verdict.REPRODUCED, Verdict.HOLDS]
    assert _verdicts(full, _claims(test, machines={"device": "AGX Orin"})) == [Verdict.HOLDS]
    assert _verdicts(full, _claims(test, machines={"device": "a processor"})) == [Verdict.REPRODUCED]
    slower = {**test, "of": "raw_features", "over": "tofc"}
    seconds = {"metric": "latency_s", "of": "tofc", "below": 1}
    entries = ledger.entries(_claims(test, slower, {**test, "below": 0.01}, seconds), [standing])
    assert [entry.verdict for entry in entries] == [
        Verdict.HOLDS, Verdict.FAILS, Verdict.HOLDS, Verdict.NOT_TESTABLE
    ]  # fmt: skip
    assert entries[2].why == "the direction; the number itself is not met"
    assert "full-size" in entries[3].why


@pytest.mark.slow
@pytest.mark.parametrize("machines", [None, {"device": "Orin"}, {"device": "a processor", "server": "a processor"}])
def test_schemes_timed_on_different_machines_are_not_compared(full: Analysis, machines: Mapping[str, str]) -> None:
    """Times of one scheme's device, recorded elsewhere, say nothing beside another's that were measured here."""
    stages = full.record.stages
    moved = pc.and_(pc.equal(stages["pipeline"], "tofc"), pc.equal(stages["side"], "device"))
    for column, value in (("machine", "AGX Orin"), ("source", "recorded")):
        place = stages.schema.get_field_index(column)
        given = pc.if_else(moved, value, stages[column]).cast(stages.schema.field(place).type)
        stages = stages.set_column(place, stages.schema.field(place), given)
    scenario = {**full.manifest.scenario, "profile": [{"path": "orin.csv", "pipeline": "tofc", "side": "device"}]}
    manifest = full.manifest.model_copy(update={"scenario": scenario, "scenario_hash": hash_of(scenario)})
    apart = Analysis(dataclasses.replace(full.record, manifest=manifest, stages=stages))
    assert apart.reasons == ()
    mixed = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    tests = [
        mixed, {**mixed, "metric": "rate_gain"}, {**mixed, "metric": "latency_change", "of": "jpeg", "over": "tofc"},
        {**mixed, "metric": "server_time_ratio"}, {**mixed, "over": "server_only"},
        {**mixed, "of": "webp", "over": "jpeg"}, {**mixed, "metric": "bytes_ratio", "over": "jpeg"},
    ]  # fmt: skip
    entries = ledger.entries(_claims(*tests, machines=machines), [apart])
    for entry in entries[:3]:
        assert entry.verdict is Verdict.NOT_TESTABLE
        assert entry.why.startswith("the device stages were timed on different machines: ")
        assert "tofc on AGX Orin" in entry.why
        assert MACHINE in entry.why
        assert not entry.tested[0].items
    assert not any("machines" in entry.why for entry in entries[3:])
    # A machine of a scheme that is not compared stands in for nothing.
    assert (not entries[5].tested[0].stand_ins) == (machines != {"device": "Orin"})


@pytest.mark.slow
def test_runs_timed_on_different_machines_are_not_divided(full: Analysis) -> None:
    """A ratio of times of one study over that of another is one of two machines too."""
    studies = {**STUDIES, "other": {"benchmarks": "MME", "backbone": "llava-1.5-7b"}}
    test = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "versus": "other", "below": 2}
    listed = [{"id": 1, "where": "here", "says": "so", "study": "street", "tests": [test]}]
    claims = model.Claims.model_validate({"title": "Ours", "studies": studies, "claims": listed})
    scenario = {**full.manifest.scenario, "benchmark": "MME", "backbone": "llava-1.5-7b"}
    other = _as(full, scenario=scenario, scenario_hash=hash_of(scenario), name="other")
    (entry,) = ledger.entries(claims, [full, other])
    assert entry.verdict is Verdict.REPRODUCED, entry.why
    place = other.record.stages.schema.get_field_index("machine")
    field = other.record.stages.schema.field(place)
    stages = other.record.stages.set_column(place, field, pa.array(["b"] * other.record.stages.num_rows, field.type))
    (entry,) = ledger.entries(claims, [full, Analysis(dataclasses.replace(other.record, stages=stages))])
    assert entry.verdict is Verdict.NOT_TESTABLE
    assert entry.why == (
        f"the device stages were timed on different machines: tofc in tonight on {MACHINE}; raw_features in tonight on "
        f"{MACHINE}; tofc in other on b; raw_features in other on b"
    )


@pytest.mark.slow
def test_an_invalid_run_shows_no_time_and_its_bytes_where_these_are_beyond_doubt(full: Analysis) -> None:
    """A disturbed run keeps its answers; with code that cannot be restored nothing counts."""
    timed = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    counted = {"metric": "score_share", "of": "raw_features", "above": 0.8}
    hot = _as(full, validity="INVALID", reasons=("throttled: GPU at 95 C",))
    first, second = ledger.entries(_claims(timed, counted), [hot])
    assert (first.verdict, second.verdict) == (Verdict.NOT_TESTABLE, Verdict.REPRODUCED)
    assert "INVALID: throttled" in first.why
    session = full.manifest.sessions[0].model_copy(update={"dirty": True})
    (entry,) = ledger.entries(_claims(counted), [_as(full, sessions=(session,))])
    assert entry.verdict is Verdict.NOT_TESTABLE


@pytest.mark.slow
def test_what_is_missing_is_named(full: Analysis) -> None:
    """A run of another backbone, a scheme that did not run, a metric of which there are no rows."""
    claims = _claims(
        {"metric": "bytes_ratio", "of": "tofc", "over": "elic", "below": 1},
        {"metric": "neighbours_share", "of": "tofc", "inside": [0.9, 1.1]},
        {"metric": "operations_ratio", "of": "tofc", "over": "jpeg", "side": "server", "below": 1},
    )
    whys = [entry.why for entry in ledger.entries(claims, [full])]
    assert whys[0] == "tonight has no elic (scenario realworldqa)"
    assert "neighbours" in whys[1]
    assert "operations of tofc's server half was not measured" in whys[2]
    (entry,) = ledger.entries(_claims({"metric": "z_share", "of": "tofc", "below": 1}), [])
    assert entry.why == "none of the runs is of RealWorldQA with llava-onevision-7b (scenario realworldqa)"
    assert "RealWorldQA with llava-onevision-7b" in entry.at_full_size


@pytest.mark.slow
def test_rows_that_contradict_each_other_leave_the_other_claims(full: Analysis) -> None:
    """A scheme with unequal numbers of timings has no latency, and its scores are still reported."""
    rows = full.record.stages
    lost = rows.filter(pc.invert(pc.and_(pc.equal(rows["repeat"], 2), pc.equal(rows["sample"], "q000"))))
    run = Analysis(dataclasses.replace(full.record, stages=lost))
    timed = {"metric": "latency_ratio", "of": "tofc", "over": "raw_features", "below": 1}
    first, second = ledger.entries(_claims(timed, {"metric": "score_share", "of": "raw_features", "above": 0.8}), [run])
    assert (first.verdict, second.verdict) == (Verdict.NOT_TESTABLE, Verdict.REPRODUCED)
    assert first.why


@pytest.mark.slow
def test_every_test_of_a_claim_has_to_hold(full: Analysis) -> None:
    """One that is refuted refutes it; one that does not decide is shown separately."""
    yes = {"metric": "score_share", "of": "raw_features", "above": 0.7}
    no = {**yes, "above": 2}
    claim = {"id": "a", "where": "here", "says": "so", "study": "street"}

    def verdict(*tests: Mapping[str, Any]) -> Verdict:
        given = {"title": "Ours", "studies": STUDIES, "claims": [{**claim, "tests": list(tests)}]}
        return _verdicts(full, model.Claims.model_validate(given))[0]

    assert verdict(yes, yes) is Verdict.REPRODUCED
    assert verdict(yes, no) is Verdict.NOT_REPRODUCED
    assert verdict(yes, {**no, "decides": False}) is Verdict.REPRODUCED


@pytest.mark.slow
def test_a_run_at_full_size_is_preferred_to_a_stand_in_whatever_they_found(full: Analysis, standing: Analysis) -> None:
    """The order in which they are given does not matter."""
    claims = _claims({"metric": "score_share", "of": "raw_features", "above": 0.8})
    for given in ([full, standing], [standing, full]):
        assert ledger.entries(claims, given)[0].tested[0].run == "tonight"


def _items(run: Analysis, **test: object) -> Sequence[Item]:
    (entry,) = ledger.entries(_claims(test), [run])
    return entry.tested[0].items


@pytest.mark.slow
def test_operations_and_memory_of_halves_are_those_of_the_rows(full: Analysis) -> None:
    """A side or some of its stages, the weights taken off; a peak is known to 0.3 MB."""
    quantities = {
        "tofc": {("", "peak_memory_bytes"): 7e6, ("", "weights_bytes"): 5e6, ("prefill", "operations"): 2e9},
        "jpeg": {("", "peak_memory_bytes"): 9e6, ("", "weights_bytes"): 5e6, ("prefill", "operations"): 5e9,
                 ("vision_encode", "operations"): 15e9},
    }  # fmt: skip
    rows = [
        ResourceRow(
            run="r", unit="u", pipeline=name, point=next(iter(POINTS[name])), sample=None, side="server", stage=stage,
            quantity=quantity, value=value, machine="m", source="measured",
        )
        for name, of in quantities.items()
        for (stage, quantity), value in of.items()
    ]  # fmt: skip
    first = {name: {"n_c": 2} if name == "tofc" else {"quality": 2} for name in quantities}
    run = Analysis(dataclasses.replace(full.record, resources=to_table(ResourceRow, rows)))
    pair = {"of": "tofc", "over": "jpeg", "at": first["tofc"], "over_at": first["jpeg"], "side": "server", "below": 1}
    assert _items(run, metric="operations_ratio", **pair)[0].estimate == Estimate(0.1, 0.1, 0.1)
    assert _items(run, metric="operations_ratio", stages=["prefill"], **pair)[0].estimate.value == pytest.approx(0.4)
    # One of the two schemes may lack a stage; a name that both lack is a mistake.
    both = ["prefill", "vision_encode"]
    assert _items(run, metric="operations_ratio", stages=both, **pair)[0].estimate.value == pytest.approx(0.1)
    found = _items(run, metric="operations_ratio", stages=["prefill", "vision_encod"], **pair)[0].estimate
    assert math.isnan(found.value)
    assert found.reason == "neither tofc nor jpeg has a server stage vision_encod"
    found = _items(run, metric="memory_ratio", **pair)[0].estimate
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 1.7 / 4.3, 2.3 / 3.7))
    little = [dataclasses.replace(row, value=5.1e6) if row.value == 7e6 else row for row in rows]
    of_little = Analysis(dataclasses.replace(full.record, resources=to_table(ResourceRow, little)))
    found = _items(of_little, metric="memory_ratio", **pair)[0].estimate
    assert (found.value, found.low, found.high) == pytest.approx((0.025, 0.0, 0.4 / 3.7))
    claims = _claims({"metric": "operations_ratio", **pair})
    assert _verdicts(run, claims) == [Verdict.REPRODUCED]
    counted = to_table(ResourceRow, [dataclasses.replace(row, source="estimated") for row in rows])
    estimated = Analysis(dataclasses.replace(full.record, resources=counted))
    (entry,) = ledger.entries(claims, [estimated])
    assert (entry.verdict, entry.tested[0].source) == (Verdict.HOLDS, "estimated")


@pytest.mark.slow
def test_what_a_codecs_training_recorded_is_its_manifests(
    full: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of z, of the experts' indices, and how many experts code a feature, at each n_c."""
    bundled = find_codec("mini-onevision", "lambda-0.3").parent
    manifest = json.loads((bundled / "manifest.json").read_text())
    held_out = manifest["held_out"]
    monkeypatch.chdir(tmp_path)
    counted, uncounted = (Path("codecs/mini-onevision") / name for name in ("counted", "uncounted"))
    for row in held_out["rows"]:
        row["expert_bits"] = 0.02 * 8 * row["bytes_per_image"]
    shutil.copytree(bundled, counted)
    (counted / "manifest.json").write_text(json.dumps(manifest))
    for row in held_out["rows"]:
        del row["expert_bits"]
    shutil.copytree(bundled, uncounted)
    (uncounted / "manifest.json").write_text(json.dumps(manifest))

    def of(codec: str, metric: str) -> Sequence[Item]:
        points = {**full.manifest.points, "tofc": {f"codec={codec}": {"codec": codec}}}
        return _items(_as(full, points=points, backbone="mini-onevision"), metric=metric, of="tofc", below=1)

    assert [item.estimate.value for item in of("counted", "z_share")] == [row["z_share"] for row in held_out["rows"]]
    assert [item.estimate.value for item in of("counted", "experts_share")] == pytest.approx([0.02] * 2)
    # Where no bits were recorded, the share is between that of the use's entropy and that of all indices in full.
    for item, row in zip(of("uncounted", "experts_share"), held_out["rows"], strict=True):
        bits = 8 * row["bytes_per_image"] * held_out["pictures"] / sum(row["expert_use"])
        assert 0 < item.estimate.low < item.estimate.high == pytest.approx(4 / bits)
    used = of("uncounted", "experts_used")
    assert used[0].estimate.value == sum(n > 0 for n in held_out["rows"][0]["expert_use"]) / 16


@pytest.mark.slow
def test_illustrations_of_a_run_are_preferred_to_what_a_training_recorded(full: Analysis, tmp_path: Path) -> None:
    """Where the bits of pictures went, and under which density their features are likelier."""

    def histogram(lead: float) -> illustrations.Histogram:
        fits = {"Gaussian": -1.0, "Laplacian": -1.0 + lead, "Cauchy": -2.0}
        return illustrations.Histogram(
            elements=100, edges=(0.0, 1.0), density=(1.0,),
            fits={name: illustrations.Fit(location=0, scale=1, log_likelihood=ll) for name, ll in fits.items()},
        )  # fmt: skip

    of: Any = {"pipeline": "tofc", "point": "p", "pictures": 9}
    bits = [illustrations.Bits(**of, part=part, bits=n) for part, n in (("y", 96.0), ("z", 3.0), ("experts", 1.0))]
    density = illustrations.Density(**of, unmerged=histogram(0.2), merged=histogram(-0.1))
    found = illustrations.Illustrations(
        run=illustrations.identity(full.manifest), machine="m", density=density, bits=tuple(bits)
    )
    illustrations.write(tmp_path, found, {})
    run = Analysis(dataclasses.replace(full.record, folder=tmp_path))
    tested = {"of": "tofc", "above": 0}
    assert [i.estimate.value for i in _items(run, metric="likelihood_lead", **tested)] == pytest.approx([0.2, -0.1])
    assert [i.estimate.value for i in _items(run, metric="z_share", **tested)] == [0.03]
    assert [i.estimate.value for i in _items(run, metric="experts_share", **tested)] == [0.01]
    claims = _claims({"metric": "likelihood_lead", **tested}, {"metric": "z_share", "of": "tofc", "below": 0.02})
    assert _verdicts(run, claims) == [Verdict.NOT_REPRODUCED] * 2
    assert "harness illustrate" in ledger.entries(claims, [full])[0].why


@pytest.mark.slow
def test_other_numbers_of_neighbours_are_compared_with_five(full: Analysis) -> None:
    """Points that differ in K alone; the score of one is over that of the other."""
    labels = list(full.manifest.points["tofc"])
    alike = {label: {"codec": "x", "neighbours": k} for label, k in zip(labels, (5, 7, 9, 11, 13), strict=True)}
    run = _as(full, points={**full.manifest.points, "tofc": alike})
    found = _items(run, metric="neighbours_share", of="tofc", inside=[0.9, 1.1])
    scores = [run.scores.score(("tofc", label)) for label in labels]
    assert [item.estimate.value for item in found] == pytest.approx([score / scores[0] for score in scores[1:]])


@pytest.mark.slow
def test_a_number_of_one_study_is_divided_by_that_of_another(full: Analysis) -> None:
    """The share of visual tokens, exact in both; two intervals are combined in their logarithms."""
    studies = {**STUDIES, "other": {"benchmarks": "MME", "backbone": "llava-1.5-7b"}}
    test = {"metric": "visual_share", "of": "server_only", "versus": "other", "value": 1}
    listed = [{"id": 1, "where": "here", "says": "so", "study": "street", "tests": [test]}]
    claims = model.Claims.model_validate({"title": "Ours", "studies": studies, "claims": listed})
    (entry,) = ledger.entries(claims, [full])
    assert entry.why == "none of the runs is of MME with llava-1.5-7b"
    other = _as(full, scenario={**full.manifest.scenario, "benchmark": "MME", "backbone": "llava-1.5-7b"}, name="other")
    (entry,) = ledger.entries(claims, [full, other])
    assert entry.tested[0].items[0].estimate == Estimate(1.0, 1.0, 1.0)
    assert entry.tested[0].run == "tonight and other"
    one = Item(label="a", estimate=Estimate(2.0, 1.0, 4.0))
    (joined,) = metrics.quotient([one], [one])
    assert joined.estimate.value == 1.0
    assert joined.estimate.high == pytest.approx(1 / joined.estimate.low) == pytest.approx(2 ** (2**0.5))


@pytest.mark.slow
def test_counts_of_the_architecture_need_no_run() -> None:
    """729 features of SigLIP; the trainable parameters are some 300 million, on layer sizes that are inferred."""
    paper = model.load()
    chosen = paper.model_copy(update={"claims": tuple(claim for claim in paper.claims if claim.id in ("4", "9", "49"))})
    four, nine, forty_nine = ledger.entries(chosen, [])
    assert (four.verdict, nine.verdict, forty_nine.verdict) == (Verdict.REPRODUCED, Verdict.HOLDS, Verdict.REPRODUCED)
    assert [item.label for one in four.tested for item in one.items] == ["8 of 729", "32 of 729"]
    assert abs(nine.tested[0].items[0].estimate.value - 300e6) < 10e6


@pytest.mark.slow
def test_all_forms_agree(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """A terminal, Markdown and JSON: every claim with its verdict, and the summary line; names are text."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: <script>alert(1)</script> | ours\nstudies: { s: { benchmarks: RealWorldQA, backbone: mini-nano } }\n"
        "claims:\n- { id: a|b, where: here, says: 'so [bold]', study: s, tests: [{ metric: bytes_ratio, of: tofc, "
        "over: jpeg, below: 1 }] }\n- { id: 2, where: there, says: never, missing: a judge }\n"
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
    assert [run["name"] for run in data["runs"]] == ["tonight"]
    assert [claim["verdict"] for claim in data["claims"]] == ["not testable here"] * 2
    assert shown.notes(ledger.entries(model.load(path), []), [])[0].startswith("2 claims:")
