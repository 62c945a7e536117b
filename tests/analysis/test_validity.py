"""The rules of validity: each is broken once and reported; a sound run breaks none."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import Analysis, means
from harness.analysis.validity import disturbance, looked_at, reasons
from harness.runs.provenance import Manifest, Server, Session
from harness.runs.store import Record, Run, Unit
from harness.scenario.load import hash_of
from tests.made_up_run import make


def _where(table: pa.Table, **values: object) -> pa.ChunkedArray:
    mask = pa.chunked_array([pa.repeat(True, table.num_rows)])
    for name, value in values.items():
        mask = pc.and_(mask, pc.equal(table[name], value))
    return mask


def without(table: pa.Table, **values: object) -> pa.Table:
    """The table without the rows that have all these values."""
    return table.filter(pc.invert(_where(table, **values)))


def with_machine(table: pa.Table, name: str, **values: object) -> pa.Table:
    """The table with another machine in the rows that have all these values."""
    machine = pc.if_else(_where(table, **values), name, table["machine"])
    return table.set_column(table.column_names.index("machine"), "machine", machine)


def scenario(manifest: Manifest, section: str, **changes: object) -> Manifest:
    """The manifest of a run with a section of its scenario changed."""
    changed = {**manifest.scenario, section: {**manifest.scenario[section], **changes}}
    return manifest.model_copy(update={"scenario": changed, "scenario_hash": hash_of(changed)})


def column(table: pa.Table, name: str, value: object, **values: object) -> pa.Table:
    """The table with another value in a column of the rows that have all these values."""
    old = table[name]
    new = pc.if_else(_where(table, **values), pa.scalar(value, old.type), old)
    return table.set_column(table.column_names.index(name), name, new)


def sessions(record: Record, *changes: dict[str, object]) -> dict[str, object]:
    """A run of as many sessions as there are changes, each that of the run with something changed."""
    (session,) = record.manifest.sessions
    changed = tuple(session.model_copy(update=change) for change in changes)
    return {"manifest": record.manifest.model_copy(update={"sessions": changed})}


def second_half(record: Record, **machine: object) -> dict[str, object]:
    """A run whose last round was timed by a second session, on a machine with other facts."""
    found = sessions(record, {}, {"machine": {**record.manifest.sessions[0].machine, **machine}})
    return {**found, "stages": column(record.stages, "start", 1, round=2)}


def server_of(record: Record, **machine: object) -> Server:
    """A server with the software of a run, on a machine with these facts."""
    (session,) = record.manifest.sessions
    facts = {name: getattr(session, name) for name in ("harness_version", "commit", "dirty", "code", "packages")}
    return Server(machine={"id": "1", "name": "another", **machine}, **facts)


def one_picture(record: Record) -> dict[str, object]:
    """A run that timed one sample in twelve rounds."""
    of_one = record.stages.filter(_where(record.stages, sample="q000", repeat=0))
    rounds = [column(column(of_one, "repeat", n), "round", n) for n in range(12)]
    return {"stages": pa.concat_tables(rounds)}


def twice_slower(record: Record) -> dict[str, object]:
    """A run in a part of whose last round the process waited for a processor half of the time."""
    stages = record.stages
    slowed = pc.and_(_where(stages, repeat=2), pc.less(stages["sample"], "q060"))
    waited = pc.if_else(slowed, pc.multiply(stages["seconds"], 0.5), stages["waited_s"])
    return {"stages": stages.set_column(stages.column_names.index("waited_s"), "waited_s", waited)}


def judged(record: Record, **changes: Any) -> list[str]:
    """Why a changed run is not VALID."""
    return reasons(Analysis(dataclasses.replace(record, **changes)))


def test_a_run_that_keeps_every_rule_is_valid(made_up: Analysis) -> None:
    """A run that keeps every rule has no reason against it."""
    assert reasons(made_up) == []


BROKEN: dict[str, tuple[Callable[[Record], dict[str, object]], str]] = {
    "warm-up": (lambda r: {"manifest": scenario(r.manifest, "measure", warmup=0)}, "no warm-up"),
    "too few timed": (
        lambda r: {"stages": r.stages.filter(pc.less(r.stages["sample"], "q060"))},
        "timed in 9 requests, where 11 are needed: .* and 23 more",
    ),
    "never timed": (lambda r: {"stages": without(r.stages, pipeline="tofc")}, "never timed: tofc at .* and 4 more"),
    "unlike the others": (
        lambda r: {"stages": without(r.stages, pipeline="server_only", repeat=2)},
        "not timed on the same samples and repeats as the others: server_only at -$",
    ),
    "not answered": (
        lambda r: {"outcomes": without(r.outcomes, pipeline="raw_features", sample="q000")},
        "timed but not answered: raw_features at merge_to=0.044, sample q000 and 2 more",
    ),
    "not decoded": (
        lambda r: {"stages": without(r.stages, pipeline="raw_features", side="server", sample="q020", repeat=1)},
        "sent a payload that no server stage decoded: raw_features at merge_to=0.044, sample q020$",
    ),
    "other questions": (
        lambda r: {"outcomes": without(r.outcomes, pipeline="server_only", sample="q001")},
        "did not answer all of the 240 questions: server_only at -$",
    ),
    "too few questions": (
        lambda r: {"manifest": scenario(r.manifest, "selection", target=1.0, margin=0.02)},
        "240 questions on 60 pictures cannot certify a score of 1 within 0.02 .* 149 pictures can",
    ),
    "two machines": (
        lambda r: {"stages": with_machine(r.stages, "another", side="server", pipeline="jpeg")},
        "the server stages were timed on 2 machines: a processor, 2 cores; another",
    ),
    "two machines of one name": (
        lambda r: second_half(r, id="89abcdef"),
        r"the device stages were timed on 2 machines: a processor, 2 cores \(01234567\); .*\(89abcdef\)$",
    ),
    "two computers of one kind": (
        lambda r: second_half(r, instance_id="fedcba98"),
        r"the server stages were timed on 2 machines: .*\(01234567, fedcba98\)$",
    ),
    "other threads": (lambda r: second_half(r, torch_threads=8), r"timed on 2 machines: .*\(01234567, 8\)$"),
    "other threads of a server": (
        lambda r: {
            **sessions(r, {"server": server_of(r, torch_threads=1)}, {"server": server_of(r, torch_threads=8)}),
            "stages": column(r.stages, "start", 1, round=2),
        },
        r"the server stages were timed on 2 machines: .*\(1, 8\)$",
    ),
    "warm-up edited": (
        lambda r: {"manifest": r.manifest.model_copy(update={"scenario_hash": "0123456789abcdef"})},
        "the manifest's scenario has the hash .* and the run was made with 0123456789abcdef",
    ),
    "other truths": (
        lambda r: {"outcomes": column(r.outcomes, "truth", "B", pipeline="jpeg", point="quality=90,merge_to=0.044")},
        "different points were judged against different truths: sample q000 and 239 more",
    ),
    "one picture": (one_picture, "timed on 1 picture, where 6 are needed, however often each is repeated: "),
    "another torch": (
        lambda r: sessions(r, {"packages": {"torch": "2.8.0"}}, {"packages": {"torch": "2.9.0"}}),
        "the sessions ran different versions of torch: 2.8.0, 2.9.0",
    ),
    "other code": (lambda r: sessions(r, {}, {"code": "0"}), "the sessions ran 2 versions of the harness's code"),
    "dirty tree": (
        lambda r: sessions(r, {}, {"dirty": True}),
        r"the code had changes that are in no commit \(commit 012345678 and changes\)",
    ),
    "unknown tree": (lambda r: sessions(r, {"dirty": None}), "not known whether the code had changes"),
    "no tree": (
        lambda r: sessions(r, {"commit": None, "dirty": None}),
        "neither a commit's nor an installed release's",
    ),
    "a clock that stands": (
        lambda r: {"stages": column(r.stages, "seconds", 0.0)},
        "the clock stood still: 828 of 828 timed requests took 0 s",
    ),
    "a clock that is slow": (
        lambda r: {
            **sessions(r, {"machine": {"id": "0", "name": "m", "threads": 2}}),
            "stages": column(r.stages, "cpu_s", 1.0),
        },
        "the clock ran slow: 828 of 828 timed requests had more processor time than 2 processors give",
    ),
    "waited": (
        twice_slower,
        r"69 of 828 timed requests were disturbed \(69 kept from running, 0 while others kept .*\), after 0",
    ),
    "loaded": (
        lambda r: {
            **sessions(r, {"disturbed": {"others kept processors busy": 9}}),
            "stages": column(r.stages, "load", 0.5, pipeline="tofc"),
        },
        "180 of 828 timed requests were disturbed .* after 9 disturbed ones were repeated",
    ),
    "slowed throughout": (
        lambda r: {"stages": column(r.stages, "waited_s", 0.3e-3)},
        "the timed requests were kept from running for .* of their time",
    ),
    "pressure": (lambda r: sessions(r, {"pressure": 0.9}), "some task waited for a processor in 90% of the time"),
    "imprecise": (
        lambda r: {"manifest": scenario(r.manifest, "measure", precision=0.001, at_most=12)},
        "a precision of 0.1% was not reached: .* after 12 pictures, the most that were to be timed .*: .* and 22 more",
    ),
}


def test_the_precision_is_that_of_the_means_that_are_shown(made_up: Analysis) -> None:
    """Over all questions of two benchmarks of which one is small, about pictures of 1 to 12 patches."""
    record = made_up.record
    samples = record.samples.to_pandas()
    samples["patches"] = 1 + np.arange(240) // 20
    samples.loc[:39, "benchmark"] = "another"
    changed = dataclasses.replace(
        record,
        manifest=scenario(record.manifest, "measure", precision=0.05, at_most=12),
        samples=pa.Table.from_pandas(samples, schema=record.samples.schema, preserve_index=False),
    )
    run = Analysis(changed)
    found = looked_at(changed.stages, changed.samples, precision=0.05, at_most=12, confidence=0.95)
    assert len(found) > 20
    for key, look in found.items():
        shown = run.timed_mean(*key)
        assert (look.estimate.value, look.estimate.high) == pytest.approx((shown.value, shown.high))
    plain = means.mean_latency(run.setting.timed(key).total_SR)
    assert look.estimate.value != pytest.approx(plain.value, rel=1e-4)


def test_only_questions_of_the_score_can_certify_it(made_up: Analysis) -> None:
    """Of MME's 60 pictures 10 are of perception: 23 are needed."""
    record = made_up.record
    samples = record.samples.to_pandas()
    samples["benchmark"] = "MME"
    samples["category"] = np.where(np.arange(240) < 40, "OCR", "code_reasoning")
    changed = dataclasses.replace(
        record,
        manifest=record.manifest.model_copy(update={"benchmarks": ("MME",)}),
        samples=pa.Table.from_pandas(samples, schema=record.samples.schema, preserve_index=False),
    )
    (found,) = [reason for reason in reasons(Analysis(changed)) if "cannot certify" in reason]
    assert found.startswith("40 questions on 10 pictures cannot certify")


@pytest.mark.slow
@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_reported(made_up: Analysis, rule: str) -> None:
    """One sentence says which rule was broken, and where."""
    change, sentence = BROKEN[rule]
    found = judged(made_up.record, **change(made_up.record))
    assert any(re.search(sentence, reason) for reason in found), found


def replayed(table: pa.Table, **values: object) -> pa.Table:
    """Measured rows, or those of them that have all these values, as a replay calls them."""
    return column(table, "source", "recorded", source="measured", **values)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["waited", "loaded", "two machines", "a clock that is slow", "imprecise"])
def test_measured_rows_are_judged_alike_when_they_are_replayed(made_up: Analysis, rule: str) -> None:
    """A run whose rows another run measured has the reasons of that run, in the same words."""
    changed = {"stages": made_up.record.stages, **BROKEN[rule][0](made_up.record)}
    found = judged(made_up.record, **changed)
    assert found
    assert judged(made_up.record, **{**changed, "stages": replayed(changed["stages"])}) == found


@pytest.mark.slow
def test_what_a_profile_recorded_is_not_judged_as_timed(made_up: Analysis) -> None:
    """Rows of the profile are another machine's; of a scheme and side that it does not name they were measured."""
    stages = column(made_up.record.stages, "load", 0.5, pipeline="tofc", side="device")
    stages = with_machine(stages, "AGX Orin", pipeline="tofc", side="device")
    stages = replayed(stages, pipeline="tofc", side="device")
    named = {"path": "orin.csv", "pipeline": "tofc", "side": "device", "point": None, "machine": "AGX Orin"}

    def of(**entry: object) -> list[str]:
        changed = {**made_up.manifest.scenario, "profile": [{**named, **entry}]}
        manifest = made_up.manifest.model_copy(update={"scenario": changed, "scenario_hash": hash_of(changed)})
        return judged(made_up.record, manifest=manifest, stages=stages)

    assert of() == []
    for entry in ({"side": "server"}, {"pipeline": "jpeg"}):
        assert [reason.split(" timed")[0] for reason in of(**entry)] == ["the device stages were", "180 of 828"]
    assert len(of(point="n_c=2,lambda=0.01")) == 2


def test_a_session_that_only_replayed_lends_no_processors(made_up: Analysis) -> None:
    """A replay on a machine of 64 processors does not explain what ran on two."""
    two, many = ({"id": "0", "name": "m", "threads": threads} for threads in (2, 64))
    changed = sessions(made_up.record, {"machine": two}, {"machine": many})
    found = judged(made_up.record, **changed, stages=replayed(column(made_up.record.stages, "cpu_s", 1.0)))
    assert [reason.partition(":")[0] for reason in found] == ["the clock ran slow"]


def test_the_processors_are_those_of_both_sides(made_up: Analysis) -> None:
    """A server of 1024 processors beside a device of two explains what two do not; a device of two alone does not."""
    for threads, reasons_ in ((1024, []), (2, ["the clock ran slow"])):
        server = server_of(made_up.record, threads=threads)
        changed = sessions(made_up.record, {"machine": {"id": "0", "name": "m", "threads": 2}, "server": server})
        found = judged(made_up.record, **changed, stages=column(made_up.record.stages, "cpu_s", 1.0))
        assert [reason.partition(":")[0] for reason in found] == reasons_


def test_packages_are_compared_within_a_side_of_joined_halves(made_up: Analysis) -> None:
    """A device and a server may have different ones, as over a network; the sessions of one side may not."""
    stages = column(made_up.record.stages, "start", 1, side="server")
    versions: list[dict[str, object]] = [{"packages": {"torch": version}} for version in ("2.8.0", "2.9.0")]
    old, new = versions
    assert judged(made_up.record, **sessions(made_up.record, old, new), stages=stages) == []
    assert judged(made_up.record, **sessions(made_up.record, old, new), stages=replayed(stages)) == []
    different = "the sessions ran different versions of torch: 2.8.0, 2.9.0"
    stages = column(stages, "start", 2, side="server", round=2)
    assert judged(made_up.record, **sessions(made_up.record, old, old, new), stages=stages) == [different]
    stages = column(made_up.record.stages, "start", 1, round=2)
    assert judged(made_up.record, **sessions(made_up.record, old, new), stages=stages) == [different]


@pytest.mark.slow
def test_a_replay_may_run_newer_software(made_up: Analysis) -> None:
    """It measures nothing; two versions that did are a reason, and so is code of the replay that is in no commit."""
    newer: dict[str, object] = {"code": "0", "packages": {"torch": "3.0.0"}}
    stages = replayed(made_up.record.stages)
    assert judged(made_up.record, **sessions(made_up.record, {}, newer), stages=stages) == []
    dirty = judged(made_up.record, **sessions(made_up.record, {}, {**newer, "dirty": True}), stages=stages)
    assert [reason.partition(" (")[0] for reason in dirty] == ["the code had changes that are in no commit"]
    both = column(stages, "start", 1, pipeline="jpeg")
    assert "2 versions" in judged(made_up.record, **sessions(made_up.record, {}, newer), stages=both)[0]


def test_an_installed_release_needs_no_checkout(made_up: Analysis) -> None:
    """Code whose files are those of a release can be installed again without a commit."""
    assert judged(made_up.record, **sessions(made_up.record, {"commit": None, "dirty": None, "released": True})) == []


def test_few_disturbed_requests_and_unknown_ones_break_no_rule(made_up: Analysis) -> None:
    """One in a hundred may remain disturbed; if a system does not report disturbance, nothing is claimed."""
    stages = made_up.record.stages
    slow = column(stages, "waited_s", 0.02, pipeline="tofc", sample="q020", repeat=1)
    assert judged(made_up.record, stages=slow) == []
    blind = column(column(stages, "waited_s", None), "load", None)
    assert judged(made_up.record, stages=blind) == []


@given(st.floats(1e-3, 10), st.floats(0, 1), st.floats(0, 1))
def test_a_request_is_disturbed_by_more_than_a_share_of_its_time(seconds: float, lost: float, load: float) -> None:
    """Whatever its length: beyond 5 % of its time and a quarter of a millisecond, or beside a load above 10 %."""
    waited_s = lost * seconds
    told = bool(disturbance(seconds, waited_s, load))
    assert told == ((waited_s > 0.05 * seconds and waited_s > 0.25e-3) or load > 0.1)
    assert disturbance(seconds, None, None) == ""


@pytest.mark.slow
def test_a_verdict_is_judged_again_on_reading(tmp_path: Path) -> None:
    """A manifest that calls an invalid run VALID is not believed, whatever its seal; its own reasons remain."""
    record = make(tmp_path / "run", measure={"warmup": 0, "repeats": 3, "precision": None})
    assert record.manifest.validity == "VALID"
    found = Analysis(record)
    assert found.validity == "INVALID"
    assert found.reasons == ("no warm-up request was dropped before timing (measure.warmup is 0)",)
    hot = Analysis(make(tmp_path / "hot", reasons=("throttled: GPU at 95 C",)))
    assert hot.reasons == ("throttled: GPU at 95 C",)


def test_throttling_is_reported_over_all_sessions(made_up: Analysis) -> None:
    """Throttling in any session is a reason, with the number of units; missing telemetry is none."""
    (session,) = made_up.manifest.sessions
    hot = session.model_copy(update={"throttled": {"GPU 0: power cap": 1}})
    told = {"counters": "unavailable: no throttling counters"}
    blind = session.model_copy(update={"telemetry": told})

    def of(*sessions: Session) -> list[str]:
        manifest = made_up.manifest.model_copy(update={"sessions": sessions})
        return judged(made_up.record, manifest=manifest)

    assert of(session, blind) == []
    assert of(hot, session) == ["throttled: GPU 0: power cap (1 unit of timed requests)"]
    assert of(hot, blind, hot) == ["throttled: GPU 0: power cap (2 units of timed requests)"]


def test_a_device_that_sends_nothing_needs_no_server(made_up: Analysis) -> None:
    """A scheme whose payload is empty has no server stages, which breaks no rule."""
    stages = made_up.record.stages
    sides = stages.filter(_where(stages, pipeline="device_only"))["side"].unique().to_pylist()
    assert sides == ["device"]
    assert not any("device_only" in reason for reason in reasons(made_up))


@pytest.mark.slow
def test_a_run_is_judged_before_it_is_finished(
    tmp_path: Path, manifest: Callable[..., Manifest], made_up: Analysis
) -> None:
    """The rules read an ongoing run as they would the complete one."""
    done = made_up.record
    begun = manifest(
        scenario=done.manifest.scenario, scenario_hash=done.manifest.scenario_hash, points=done.manifest.points, seed=0
    )
    begun = begun.model_copy(update={"sessions": done.manifest.sessions})
    unit = Unit("everything")
    own = {
        kind: (table := getattr(done, kind)).set_column(
            table.column_names.index("unit"), "unit", pa.repeat(unit.key, table.num_rows)
        )
        for kind in ("stages", "outcomes")
    }
    with Run.open_or_create(tmp_path / "ongoing", begun) as run:
        run.record_samples(done.samples)
        run.add(unit, **own, requests=done.requests)
        ongoing = Analysis(run.so_far())
        assert ongoing.points.equals(made_up.points)
        run.finish(reasons(ongoing))
    assert Run.read(tmp_path / "ongoing").manifest.validity == "VALID"
