"""A run beside its reference: to the bit where it must be, counted elsewhere, refused where nothing can be compared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness.analysis import regression
from harness.analysis.regression import Check, Comparison, Limit
from harness.errors import ResultsError
from harness.reference import as_reference
from harness.runs import disk, replayed
from harness.runs.provenance import package_versions
from harness.runs.store import Record, Run
from tests.made_up_run import small

HERE: dict[str, Any] = {
    "here": {"name": "a processor, 2 cores"},
    "packages": package_versions(),
    "links": Path("scenarios"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A made-up run whose requests are those that the replay makes of its rows."""
    return small(tmp_path_factory.mktemp("runs") / "tonight")


def changed(record: Record, column: str, row: int, change: Callable[[Any], Any], kind: str = "outcomes") -> Record:
    """The run with one value of a table changed."""
    table: pa.Table = getattr(record, kind)
    values = table[column].to_pylist()
    values[row] = change(values[row])
    place = table.schema.get_field_index(column)
    moved = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    return dataclasses.replace(record, **{kind: moved})


def elsewhere(record: Record, **machine: Any) -> Record:
    """The run as another machine would have made it."""
    (session,) = record.manifest.sessions
    session = session.model_copy(update={"machine": {**session.machine, **machine}})
    return dataclasses.replace(record, manifest=record.manifest.model_copy(update={"sessions": (session,)}))


def compare(reference: Record, candidate: Record, **how: Any) -> tuple[Comparison, dict[str, Check]]:
    """The comparison, and its checks by quantity."""
    found = regression.compare(reference, candidate, **{**HERE, **how})
    return found, {check.quantity: check for check in found.checks}


@pytest.mark.slow
def test_a_run_equals_itself(run: Record) -> None:
    """Everything is the same, to the bit, and everything was compared."""
    found, checks = compare(run, run)
    assert not found.regressed
    assert not found.basis
    assert {check.status for check in checks.values()} == {"same"}
    assert checks["bytes"].compared == run.outcomes.num_rows
    assert checks["replay"].compared == run.requests.num_rows
    assert checks["selection"].compared == 2


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, -1])
def test_one_changed_byte_fails_and_is_named(run: Record, row: int) -> None:
    """One byte more in one payload of thousands: the point, the question and both numbers are named."""
    found, checks = compare(run, changed(run, "payload_bytes", row, lambda n: n + 1))
    was = run.outcomes.slice(row % run.outcomes.num_rows, 1).to_pylist()[0]
    assert found.regressed
    assert checks["bytes"].differing == 1
    assert checks["bytes"].details == (
        f"{was['pipeline']} at {was['point']}: 1 differ, first in question {was['sample']}: payload_bytes was "
        f"{was['payload_bytes']}, is {was['payload_bytes'] + 1}",
    )
    assert [c.quantity for c in found.checks if c.fails] == ["bytes"]


@pytest.mark.slow
def test_a_changed_answer_fails_with_its_score(run: Record) -> None:
    """Of an answer that became wrong, the answer and the score of its point differ."""
    wrong = changed(run, "answer", 5, lambda _: "B")
    right = wrong.outcomes["correct"].to_pylist()[5]
    found, checks = compare(run, changed(wrong, "correct", 5, lambda _: not right))
    assert {c.quantity for c in found.checks if c.fails} >= {"answers", "scores"}
    assert "answer was A, is B" in checks["answers"].details[0]
    assert checks["scores"].differing == 1


@pytest.mark.slow
def test_another_replay_fails_and_names_the_request(run: Record) -> None:
    """A request that was answered a picosecond later than this harness replays it."""
    found, checks = compare(changed(run, "answered_s", 7, lambda s: s + 1e-12, kind="requests"), run)
    assert [c.quantity for c in found.checks if c.fails] == ["replay"]
    assert checks["replay"].differing == 1
    assert "answered_s was" in checks["replay"].details[0]


@pytest.mark.slow
def test_limits_decide_what_fails(run: Record) -> None:
    """A byte is tolerated under a limit on shares, or on another quantity alone."""
    one = changed(run, "payload_bytes", 3, lambda n: n + 1)
    assert not compare(run, one, wanted={"bytes": Limit(0.01, share=True)})[0].regressed
    assert not compare(run, one, wanted={"bytes": Limit(1, share=False)})[0].regressed
    assert not compare(run, one, wanted={"answers": Limit(0, share=False)})[0].regressed
    assert compare(run, one, wanted={"bytes": Limit(0, share=True)})[0].regressed


@pytest.mark.slow
def test_on_another_processor_differences_are_counted(run: Record) -> None:
    """A few bytes and an answer do not fail there; quantities that must be equal to the bit are not comparable."""
    other = elsewhere(
        changed(changed(run, "payload_bytes", 3, lambda n: n + 1), "answer", 9, lambda _: "B"), processor="b"
    )
    found, checks = compare(run, other)
    assert found.basis == ("processor b, reference's None",)
    assert not found.regressed
    assert (checks["bytes"].status, checks["bytes"].differing) == ("counted", 1)
    assert (checks["answers"].status, checks["answers"].differing) == ("counted", 1)
    assert checks["selection"].status == checks["scores"].status == "not comparable"


@pytest.mark.slow
@pytest.mark.parametrize(("percent", "tolerance", "fails"), [(0.2, 0.01, True), (0.8, 0.01, False), (None, 0.01, False),
                                                             (None, 0.002, True), (0.2, 0.1, True)])  # fmt: skip
def test_elsewhere_a_limit_on_mean_bytes_is_the_one_asked_for(
    run: Record, percent: float | None, tolerance: float, fails: bool
) -> None:
    """Half a percent more bytes of every payload, of some thousand bytes each."""
    table = run.outcomes
    grown = [round(n * 1.005) for n in table["payload_bytes"].to_pylist()]
    place = table.schema.get_field_index("payload_bytes")
    more = dataclasses.replace(run, outcomes=table.set_column(place, table.schema.field(place), pa.array(grown)))
    wanted = {"bytes": Limit(0, share=False) if percent is None else Limit(percent / 100, share=True)}
    _, checks = compare(run, elsewhere(more, processor="b"), wanted=wanted, tolerance=tolerance)
    assert checks["bytes"].fails == fails


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [False, True], ids=["candidate", "reference"])
def test_a_run_that_was_begun_elsewhere_is_counted(run: Record, swapped: bool) -> None:
    """Its answers may be of the first machine, though the last is the other run's."""
    (here,), (there,) = run.manifest.sessions, elsewhere(run, processor="b").manifest.sessions
    moved = dataclasses.replace(run, manifest=run.manifest.model_copy(update={"sessions": (there, here)}))
    found, checks = compare(moved, run) if swapped else compare(run, moved)
    assert found.basis == (("processor None, reference's b",) if swapped else ("processor b, reference's None",))
    assert checks["answers"].status == "counted"


@pytest.mark.slow
def test_elsewhere_lost_answers_and_moved_bytes_fail(run: Record) -> None:
    """Of one point 30 right answers lost and none won, or 3 % more bytes: no rounding does that."""
    of_point = np.flatnonzero((run.outcomes["pipeline"].to_numpy() == "tofc") & run.outcomes["correct"].to_numpy())
    point = run.outcomes["point"].to_numpy()[of_point[0]]
    lost = [row for row in of_point if run.outcomes["point"].to_numpy()[row] == point][:30]
    worse = run
    for row in lost:
        worse = changed(worse, "correct", int(row), lambda _: False)
    found, checks = compare(run, elsewhere(worse, processor="b"))
    assert [c.quantity for c in found.checks if c.fails] == ["answers"]
    assert checks["answers"].details[0].startswith(f"tofc at {point}: 30 right answers lost and 0 won")
    table = run.outcomes
    grown = [int(n * 1.03) for n in table["payload_bytes"].to_pylist()]
    place = table.schema.get_field_index("payload_bytes")
    more = dataclasses.replace(run, outcomes=table.set_column(place, table.schema.field(place), pa.array(grown)))
    found, checks = compare(run, elsewhere(more, processor="b"))
    assert [c.quantity for c in found.checks if c.fails] == ["bytes"]
    assert "mean bytes moved by +" in checks["bytes"].details[0]


@pytest.mark.slow
def test_equal_answers_judged_otherwise_differ(run: Record) -> None:
    """One question lost and one won at a point leave its score and every answer as they were."""
    points, verdicts = run.outcomes["point"].to_pylist(), run.outcomes["correct"].to_pylist()
    lost = next(row for row, right in enumerate(verdicts) if right)
    won = next(row for row, right in enumerate(verdicts) if not right and points[row] == points[lost])
    swapped = changed(changed(run, "correct", lost, lambda _: False), "correct", won, lambda _: True)
    found, checks = compare(run, swapped)
    assert [c.quantity for c in found.checks if c.fails] == ["answers"]
    assert (checks["answers"].differing, checks["scores"].differing) == (2, 0)
    assert checks["answers"].details[0].endswith(": correct was True, is False")


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["answers", "tokens"])
def test_elsewhere_a_share_that_was_asked_for_is_a_limit_too(run: Record, quantity: str) -> None:
    """Thirty answers that became right, or one token longer, are no regression by themselves."""
    wrong = np.flatnonzero(~run.outcomes["correct"].to_numpy(zero_copy_only=False))[:30]
    other = elsewhere(run, processor="b")
    for row in map(int, wrong):
        other = changed(other, "answer", row, lambda _: "C")
        other = changed(changed(other, "correct", row, lambda _: True), "answer_tokens", row, lambda n: n + 1)
    share = 30 / run.outcomes.num_rows
    assert not compare(run, other)[0].regressed
    assert not compare(run, other, wanted={quantity: Limit(share, share=True)})[0].regressed
    found, _ = compare(run, other, wanted={quantity: Limit(0.9 * share, share=True)})
    assert [c.quantity for c in found.checks if c.fails] == [quantity]


@pytest.mark.slow
def test_counted_answers_raise_no_more_false_alarms_than_stated(run: Record) -> None:
    """Answers that flip in both directions by chance fail in at most 5 % of seeded comparisons of all points."""
    rng = np.random.default_rng(0)
    frame = run.outcomes.to_pandas()
    rows = frame.rename(columns={n: f"{n}_was" for n in ("answer", "correct")})
    alarms = 0
    for _ in range(40):
        flips = rng.random(len(rows)) < 0.02
        after = rows["correct_was"] ^ flips
        both = rows.assign(answer_now=rows["answer_was"], correct_now=after)
        # Most answers are right, and a flip makes them wrong: only as many are flipped in each direction as are wrong.
        share = rows.groupby(["pipeline", "point"])["correct_was"].transform("mean")
        keep = rng.random(len(rows)) < np.where(rows["correct_was"], (1 - share) / share.clip(lower=0.5), 1)
        both["correct_now"] = np.where(keep, both["correct_now"], both["correct_was"])
        alarms += regression._answers(both, False, regression.DEFAULT).fails
    assert alarms <= 5


def test_a_foreign_run_is_refused(run: Record) -> None:
    """Other questions, another scoring, another scenario, or no point in common: one sentence says which."""
    facts = run.manifest.model_dump()
    for change, words in (
        (
            {"digests": {**facts["digests"], "questions": "0"}},
            r"questions are 0 and None; it asks (\d+) questions and its reference \1; \1 have the same name in both",
        ),
        ({"benchmarks": ("MME",)}, "their benchmarks are MME and StreetsQA"),
        ({"scenario": {**facts["scenario"], "scoring": "vlmevalkit-2024"}}, "answers are scored by vlmevalkit-2024"),
        ({"points": {"other": {"-": {}}}}, "no operating point is in both"),
    ):
        foreign = dataclasses.replace(run, manifest=run.manifest.model_copy(update=change))
        with pytest.raises(ResultsError, match=f"cannot be compared with its reference: .*{words}"):
            compare(run, foreign)


def test_an_edited_scenario_is_compared_in_what_is_left(run: Record) -> None:
    """A new point is reported and not compared; selections from two lists of points are not comparable."""
    points = {**run.manifest.points, "new": {"-": {}}}
    edited = dataclasses.replace(run, manifest=run.manifest.model_copy(update={"points": points}))
    found, checks = compare(run, edited)
    assert found.notes == ("new at -: not in the reference",)
    assert checks["bytes"].status == checks["scores"].status == "same"
    assert checks["selection"].status == "not comparable"


def test_limits_are_read_and_mistakes_explained() -> None:
    """``device>10%,bytes>0`` is two limits; anything else is refused with the right form."""
    assert regression.limits("device>10%, bytes>0,answers>0.5%") == (
        {"bytes": Limit(0, share=False), "answers": Limit(0.005, share=True)},
        {"device": 0.1},
    )
    for text, words in (
        ("device", "'device' is not a limit; write it as in"),
        ("device>10", "needs a share above 0"),
        ("byte>0", "did you mean 'bytes'"),
        ("bytes>1.2.3", "'1.2.3' is not a number"),
    ):
        with pytest.raises(ResultsError, match=words):
            regression.limits(text)


@pytest.mark.slow
def test_a_reference_is_its_run_without_what_is_replayed_and_who_made_it(run: Record, tmp_path: Path) -> None:
    """It reads as a run with the same requests; it does not identify a computer; a changed row changes a digest."""
    (session,) = run.manifest.sessions
    known = {**session.machine, "id": "0123abcd", "instance_id": "feed", "host": "secret", "processor": "p"}
    named = session.model_copy(update={"machine": known, "command": ("/home/somebody/bin/harness", "run")})
    manifest = run.manifest.model_copy(update={"sessions": (named,)})
    content = as_reference(dataclasses.replace(run, manifest=manifest), Path("scenarios"))
    assert "requests.parquet" not in content
    disk.write_folder(tmp_path / "tonight", content)
    text = (tmp_path / "tonight" / "manifest.json").read_text(encoding="utf-8")
    assert not any(word in text for word in ("0123abcd", "feed", "secret", "somebody"))
    reference = Run.read(tmp_path / "tonight")
    assert reference.requests.equals(run.requests)
    assert not compare(reference, elsewhere(run, processor="p"), here={**HERE["here"], "processor": "p"})[0].regressed
    digests = replayed.digests(run.requests)
    later = changed(run, "answered_s", 5, lambda s: s + 1e-12, kind="requests").requests
    n, differing, where = replayed.first_difference(digests, replayed.digests(later))
    assert (n, differing) == (run.requests.num_rows, 1)
    assert where.endswith("seed 0, request 5")
    (tmp_path / "tonight" / "replayed.parquet").write_bytes(b"else")
    with pytest.raises(ResultsError, match="is damaged or was edited"):
        Run.read(tmp_path / "tonight")
    (tmp_path / "tonight" / "replayed.parquet").unlink()
    with pytest.raises(ResultsError, match=r"replayed\.parquet: cannot be read"):
        Run.read(tmp_path / "tonight")


def in_two_benchmarks(record: Record, *, reference_right: bool) -> Record:
    """The run with its second half of questions in another benchmark, which the reference scheme fails or passes."""
    names = record.samples["sample"].to_pylist()
    moved = set(names[len(names) // 2 :])
    place = record.samples.schema.get_field_index("benchmark")
    benchmarks = pa.array(["MMStar" if name in moved else "StreetsQA" for name in names])
    samples = record.samples.set_column(place, record.samples.schema.field(place), benchmarks)
    place = record.outcomes.schema.get_field_index("correct")
    correct = [
        reference_right if row["pipeline"] == "server_only" and row["sample"] in moved else row["correct"]
        for row in record.outcomes.select(["pipeline", "sample", "correct"]).to_pylist()
    ]
    outcomes = record.outcomes.set_column(place, record.outcomes.schema.field(place), pa.array(correct))
    manifest = record.manifest.model_copy(update={"benchmarks": ("StreetsQA", "MMStar")})
    return dataclasses.replace(record, manifest=manifest, samples=samples, outcomes=outcomes)


@pytest.mark.slow
def test_undefined_scores_are_no_regression(run: Record) -> None:
    """With a reference of score 0 no score is a number: a run equals itself, and one that has scores does not."""
    without = in_two_benchmarks(run, reference_right=False)
    found, checks = compare(without, without)
    assert not found.regressed
    assert (checks["scores"].status, checks["scores"].compared) == ("not comparable", 0)
    assert checks["scores"].details[0].startswith("no score is claimed in either run")
    _, checks = compare(
        without, in_two_benchmarks(run, reference_right=True), wanted={"scores": Limit(0.5, share=True)}
    )
    assert checks["scores"].fails
    assert checks["scores"].change == np.inf
