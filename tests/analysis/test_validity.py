"""The rules of validity: each is broken once, and says so; a sound run breaks none."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.analysis import Analysis
from harness.analysis.validity import reasons
from harness.runs.provenance import Manifest, Session
from harness.runs.store import Record, Run, Unit


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
    """The manifest with a section of its scenario changed."""
    changed = {**manifest.scenario, section: {**manifest.scenario[section], **changes}}
    return manifest.model_copy(update={"scenario": changed})


def elsewhere(record: Record) -> dict[str, object]:
    """A run whose last round a machine of the same name, with other clocks, went on with."""
    machine = {**record.manifest.sessions[0].machine, "id": "89abcdef"}
    other = record.manifest.sessions[0].model_copy(update={"machine": machine})
    start = pc.if_else(pc.equal(record.stages["round"], 2), 1, record.stages["start"])
    stages = record.stages.set_column(record.stages.column_names.index("start"), "start", start)
    sessions = (*record.manifest.sessions, other)
    return {"manifest": record.manifest.model_copy(update={"sessions": sessions}), "stages": stages}


def judged(record: Record, **changes: object) -> list[str]:
    """What keeps a changed run from being VALID."""
    return reasons(Analysis(dataclasses.replace(record, **changes)))


def test_a_run_that_keeps_every_rule_is_valid(made_up: Analysis) -> None:
    """A run that keeps every rule has no reason against it."""
    assert reasons(made_up) == []


BROKEN: dict[str, tuple[Callable[[Record], dict[str, object]], str]] = {
    "warm-up": (lambda r: {"manifest": scenario(r.manifest, "measure", warmup=0)}, "no warm-up"),
    "too few timed": (
        lambda r: {"stages": r.stages.filter(pc.less(r.stages["sample"], "q060"))},
        "timed on 9 requests, where 11 certify a median: .* and 23 more",
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
        elsewhere,
        r"the device stages were timed on 2 machines: a processor, 2 cores \(01234567\); .*\(89abcdef\)$",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_told(made_up: Analysis, rule: str) -> None:
    """The rule that was broken is told in a sentence, with where."""
    change, sentence = BROKEN[rule]
    found = judged(made_up.record, **change(made_up.record))
    assert any(re.search(sentence, reason) for reason in found), found


def test_throttling_is_told_over_all_sessions(made_up: Analysis) -> None:
    """What the telemetry saw in any session is a reason, with the number of units; its absence is none."""
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
    """A scheme whose payload is empty has no server stages, and breaks no rule by it."""
    stages = made_up.record.stages
    sides = stages.filter(_where(stages, pipeline="device_only"))["side"].unique().to_pylist()
    assert sides == ["device"]
    assert not any("device_only" in reason for reason in reasons(made_up))


def test_a_run_is_judged_before_it_is_finished(
    tmp_path: Path, manifest: Callable[..., Manifest], made_up: Analysis
) -> None:
    """The rules read an ongoing run as they would the complete one."""
    done = made_up.record
    begun = manifest(scenario=done.manifest.scenario, points=done.manifest.points, seed=0)
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
