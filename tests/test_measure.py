"""Timing: which pictures, how many of them, and the treatment of disturbed requests."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import measure, timing
from harness.analysis import Analysis
from harness.analysis.validity import disturbance, reasons
from harness.data.gathered import gather
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.dependencies import of_sample as sample_digest
from harness.models.contract import Answer, Clock, Request
from harness.profiling.clock import StageClock
from harness.profiling.disturbance import Watch
from harness.profiling.telemetry import Telemetry
from harness.records import SampleRow, Side
from harness.runs.provenance import Manifest
from harness.runs.store import Record, Run
from harness.scenario.load import hash_of
from harness.scenario.model import Measure
from harness.schemes.contract import Payload
from harness.schemes.fake import Fake, FakeModels, FakePoint
from harness.schemes.steps import TokenServer

PATCHES = [3, 5, 13]
"""Strata of the made-up pictures, in turn."""


class Told:
    """A reporter that records its calls, and may stop the work when a phase begins."""

    def __init__(self, stop_at: int = 0) -> None:
        self.warnings: list[str] = []
        self.phases: list[tuple[str, int, int]] = []
        self.stop_at = stop_at

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def phase(self, name: str, total: int, done: int) -> None:
        self.phases.append((name, total, done))
        if len(self.phases) == self.stop_at:
            raise KeyboardInterrupt

    def advance(self) -> None:
        """Does nothing."""


@pytest.fixture(scope="module")
def asked() -> list[Sample]:
    """Two questions about each of eighteen pictures."""
    pages = samples(book("test", 0)[:18], paired=False)
    of_picture: Counter[str] = Counter()
    kept = []
    for sample in pages:
        of_picture[sample.image_id] += 1
        if of_picture[sample.image_id] <= 2:
            kept.append(sample)
    return kept


def plan_of(benchmarks: dict[str, Sequence[Sample]], *levels: int) -> measure.Plan:
    """The fake scheme at some points, asked about these samples."""
    models = FakeModels()
    halves = {
        ("fake", point.label): measure.Split(
            kind="fake", device=Fake.device_half(models, point), server=Fake.server_half(models, point)
        )
        for point in (FakePoint(levels=number) for number in levels)
    }
    gathered = gather(benchmarks)
    pictures = {image_id: n for n, image_id in enumerate(dict.fromkeys(name.image_id for name in gathered.names))}
    return measure.Plan(
        halves=halves,
        samples=gathered,
        sample_digests=[sample.image_id + sample.id for sample in gathered],
        depends={key: {"scheme": "fake"} for key in halves},
        patches=[PATCHES[pictures[name.image_id] % len(PATCHES)] for name in gathered.names],
    )


class Repeating(TokenServer):
    """A server half that only makes tokens: of a body its bytes; the side answers with the first of them."""

    def __init__(self, language: Any) -> None:
        self.language = language

    def tokens(self, payload: Payload, clock: Clock) -> Any:
        return [np.frombuffer(body, np.uint8)[:, None] for body in payload.bodies]


class Counting:
    """A language side that counts the requests of each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def answer(self, requests: Sequence[Request], clocks: Sequence[Clock]) -> list[Answer]:
        self.calls.append(len(requests))
        return [
            Answer(f"{request.pictures[0][0, 0]} {request.question.text}", 1, number, 1)
            for number, (request, _) in enumerate(zip(requests, clocks, strict=True))
        ]


@pytest.mark.slow
def test_what_points_ask_of_one_language_side_is_asked_at_once(asked: list[Sample]) -> None:
    """One call a side for a picture; each question at each point gets its own answer, whatever else is asked beside."""
    plan = plan_of({"a": asked[:4]}, 2, 4, 256)
    one, other = Counting(), Counting()
    halves: dict[Any, Any] = dict(plan.halves)
    for label in ("levels=2", "levels=4"):
        halves["fake", label] = dataclasses.replace(halves["fake", label], server=Repeating(one))
    halves["fake", "apart"] = dataclasses.replace(halves["fake", "levels=256"], server=Repeating(other))
    plan = dataclasses.replace(plan, halves=halves, depends={key: {"scheme": "fake"} for key in halves})
    answers = measure.answers_of(plan, "run")
    units = plan.to_answer
    part = [unit for unit, (_, places) in units.items() if places == plan.pictures[0]]
    rows = answers(part)
    assert (one.calls, other.calls) == ([4], [2])
    one_by_one = [row for unit in part for row in answers([unit])]
    assert [dataclasses.replace(row, prompt_tokens=0) for row in rows] == [
        dataclasses.replace(row, prompt_tokens=0) for row in one_by_one
    ]
    assert [row.prompt_tokens for row in rows if row.point in ("levels=2", "levels=4")] == [0, 1, 2, 3]


def begin(manifest: Callable[..., Manifest], schedule: Measure) -> Manifest:
    """The manifest of a run that is timed so."""
    scenario = {
        "title": "A study",
        "measure": schedule.model_dump(mode="json"),
        "selection": {"reference": "fake", "target": 0.5, "margin": 0.4, "confidence": 0.8, "resamples": 200},
        "replay": {"question_text": False},
    }
    return manifest(scenario=scenario, scenario_hash=hash_of(scenario), points={"fake": {"-": {}, "levels=4": {}}})


def time(folder: Path, begun: Manifest, plan: measure.Plan, schedule: Measure, reporter: Told) -> Record:
    """Times a plan like a process that begins or resumes the run."""
    with Run.open_or_create(folder, begun) as run:
        run.record_samples(
            SampleRow(
                sample=name.id, benchmark=name.benchmark, id=name.own_id, picture=name.image_id, pictures=1,
                category="", group=name.group, width_px=name.width_px, height_px=name.height_px, patches=patches,
                file_bytes=name.original_bytes, text_bytes=name.text_bytes,
            )
            for name, patches in zip(plan.samples.names, plan.patches, strict=True)
        )  # fmt: skip
        measure.answer(plan, run, Told())
        where: dict[str, Any] = {"machines": {"device": "here", "server": "here"}, "device": "cpu"}
        timing.time(plan, run, reporter, schedule=schedule, seed=3, telemetry=Telemetry(), **where)
        return run.so_far()


@pytest.mark.slow
def test_pictures_to_time_are_spread_over_strata(asked: list[Sample]) -> None:
    """Each picture occurs once; any prefix has each stratum's share to within one; questions take turns."""
    plan = plan_of({"StreetsQA": asked}, 16)
    order = [place for places in plan.to_time(seed=5) for place in places]
    names = plan.samples.names
    assert sorted(names[place].image_id for place in order) == sorted({name.image_id for name in names})
    for n in range(1, len(order) + 1):
        counts = Counter(plan.patches[place] for place in order[:n])
        assert all(abs(counts[stratum] - n / len(PATCHES)) < 2 for stratum in PATCHES)
    assert plan.to_time(seed=5) == plan.to_time(seed=5) != plan.to_time(seed=6)
    asked_first = {names[place].id for place in order} & {samples_of[0] for samples_of in _by_picture(plan)}
    assert 0 < len(asked_first) < len(order)


def _by_picture(plan: measure.Plan) -> list[list[str]]:
    return [[plan.samples.names[place].id for place in places] for places in plan.pictures]


@pytest.mark.slow
def test_several_benchmarks_give_as_many_pictures_each(asked: list[Sample]) -> None:
    """In turns, as long as each has some."""
    plan = plan_of({"StreetsQA": asked[:20], "MMStar": asked[20:26]}, 16)
    order = plan.to_time(seed=0)
    assert [len(places) for places in order] == [2] * 3 + [1] * 7
    for places in order[:3]:
        assert {plan.samples.names[place].benchmark for place in places} == {"StreetsQA", "MMStar"}


class Scripted(Watch):
    """A watch that returns the given loads in turn."""

    loads: "list[float | None]" = []  # noqa: RUF012

    def load(self) -> float | None:
        """The next one; the machine's own pressure and delays are left out of it."""
        return self.loads.pop(0) if self.loads else 0.0

    def delays_ns(self) -> dict[str, int]:
        return {}

    def stood_still_ns(self, begin_ns: int, end_ns: int) -> int:
        return 0


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that take a millisecond, to within 5 %, whatever the machine does."""
    rng, now = np.random.default_rng(0), itertools.count()
    at_ns = np.cumsum(1e6 * rng.lognormal(0, 0.05, 1_000_000)).astype(np.int64)
    monkeypatch.setattr("time.perf_counter_ns", lambda: int(at_ns[next(now)]))
    monkeypatch.setattr(timing, "Watch", Scripted)


@pytest.mark.slow
def test_timing_ends_when_it_is_precise(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest], steady: None
) -> None:
    """A precision that the first look reaches times twelve pictures; one that none reaches times all, and warns."""
    plan = plan_of({"StreetsQA": asked}, 16, 4)
    easy, hard = Measure(precision=0.5, repeats=2), Measure(precision=1e-6, repeats=2, at_most=16)
    told = Told()
    record = time(tmp_path / "easy", begin(manifest, easy), plan, easy, told)
    assert told.warnings == []
    assert len(set(record.stages["sample"].to_pylist())) == 12
    assert [phase[:2] for phase in told.phases] == [("times", 24)]
    told = Told()
    record = time(tmp_path / "hard", begin(manifest, hard), plan, hard, told)
    assert len(set(record.stages["sample"].to_pylist())) == 16
    assert "fake at -: 0.0% was not reached: " in told.warnings[0]
    assert "after 16 pictures, the most that were to be timed" in told.warnings[0]
    assert any("was not reached" in reason for reason in reasons(Analysis(record)))


@pytest.mark.slow
def test_timing_until_precise_is_resumed(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest]
) -> None:
    """A run that stopped between two looks ends with the same requests as one that did not, each timed once."""
    plan, hard = plan_of({"StreetsQA": asked}, 16), Measure(precision=1e-6, repeats=1, at_most=18)
    whole = time(tmp_path / "whole", begin(manifest, hard), plan, hard, Told())
    with pytest.raises(KeyboardInterrupt):
        time(tmp_path / "parts", begin(manifest, hard), plan, hard, Told(stop_at=2))
    told = Told()
    parts = time(tmp_path / "parts", begin(manifest, hard), plan, hard, told)
    assert told.phases == [("times", 12, 12), ("times", 4, 0), ("times", 2, 0)]
    key = ["pipeline", "point", "sample", "repeat", "side", "stage"]
    assert parts.stages.select(key).equals(whole.stages.select(key))
    assert set(parts.stages["start"].to_pylist()) == {0, 1}


@pytest.mark.slow
def test_every_point_is_warm_before_it_is_timed(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run that was edited, too: a point of which only late turns are left has its own warm-up requests first."""
    plan = plan_of({"StreetsQA": asked}, 16, 4)
    old, new = plan.halves
    few, more = Measure(timed_samples=6, repeats=1, warmup=3), Measure(timed_samples=8, repeats=1, warmup=3)
    before = dataclasses.replace(plan, halves={old: plan.halves[old]})
    time(tmp_path / "run", begin(manifest, few), before, few, Told())
    seen: list[tuple[Any, bool]] = []
    request, key_of = timing._request, {id(half): key for key, half in plan.halves.items()}

    def noted(half: Any, sample: Sample, device: str, delays: Any = None, pacing: Any = None) -> Any:
        seen.append((key_of[id(half)], delays is None))
        return request(half, sample, device, delays, pacing)

    monkeypatch.setattr(timing, "_request", noted)
    monkeypatch.setattr(timing, "Watch", Scripted)
    time(tmp_path / "run", begin(manifest, more), plan, more, Told())
    for key, n in ((old, 2), (new, 8)):
        assert [dropped for point, dropped in seen if point == key] == [True] * 3 + [False] * n


@pytest.mark.slow
def test_one_sample_eleven_times_certifies_nothing(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest]
) -> None:
    """Repeats of a picture do not count as pictures: the run is INVALID, however many its requests."""
    plan, schedule = plan_of({"StreetsQA": asked}, 16), Measure(timed_samples=1, repeats=11)
    found = reasons(Analysis(time(tmp_path / "run", begin(manifest, schedule), plan, schedule, Told())))
    assert any(reason.startswith("timed on 1 picture, where 6 are needed") for reason in found)


@pytest.mark.slow
def test_a_stopped_clock_is_found(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of 0 s make a run INVALID."""
    monkeypatch.setattr("time.perf_counter_ns", lambda: 1)
    plan, schedule = plan_of({"StreetsQA": asked}, 16), Measure(timed_samples=6, repeats=2)
    found = reasons(Analysis(time(tmp_path / "run", begin(manifest, schedule), plan, schedule, Told())))
    assert "the clock stood still: 12 of 12 timed requests took 0 s" in found


@pytest.mark.slow
def test_truths_changed_before_a_resumption_are_not_mixed(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest]
) -> None:
    """A sample's digest changes with its truth, so that it is answered again: no point keeps another truth."""
    schedule = Measure(timed_samples=6, repeats=1)
    with pytest.raises(KeyboardInterrupt):
        time(tmp_path / "run", begin(manifest, schedule), _judged(asked, 16), schedule, Told(stop_at=1))
    exchanged = [dataclasses.replace(sample, truth="B" if sample.truth == "A" else "A") for sample in asked]
    record = time(tmp_path / "run", begin(manifest, schedule), _judged(exchanged, 16, 4), schedule, Told())
    truths = record.outcomes.to_pandas().groupby("sample")["truth"].agg(set)
    assert truths.to_dict() == {sample.id: {sample.truth} for sample in exchanged}


def _judged(asked: Sequence[Sample], *levels: int) -> measure.Plan:
    """A plan whose samples have the digests that a study gives them."""
    return dataclasses.replace(
        plan_of({"StreetsQA": asked}, *levels), sample_digests=[sample_digest(sample) for sample in asked]
    )


@pytest.mark.slow
def test_disturbed_requests_are_run_again_and_counted(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most twice more; the last run is committed with what disturbed it; nothing is dropped silently."""
    monkeypatch.setattr(timing, "Watch", Scripted)
    plan, schedule = plan_of({"StreetsQA": asked}, 16, 4), Measure(timed_samples=6, repeats=9, warmup=1)
    # The first turn recovers at its third run, the second never does.
    Scripted.loads = [0.5, 0.6, 0.01, 0.7, 0.8, 0.9]
    record = time(tmp_path / "run", begin(manifest, schedule), plan, schedule, Told())
    (session,) = record.manifest.sessions
    assert session.disturbed == {"others kept processors busy": 2 + 2 + 2 + 2}
    requests = record.stages.to_pandas().groupby(["point", "sample", "repeat"])["load"].agg(["min", "max"])
    assert len(requests) == 2 * 6 * 9
    assert Counter(requests["max"]) == {0.01: 2, 0.9: 2, 0.0: 2 * 6 * 9 - 4}
    found = [reason for reason in reasons(Analysis(record)) if "disturbed" in reason]
    assert found == [], "2 of 108 requests are under 2 %"


@pytest.mark.slow
def test_a_disturbed_run_is_not_repeated_without_end(
    asked: list[Sample], tmp_path: Path, manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more requests stay disturbed than a VALID run may have, none is run again; the run says how many were."""
    monkeypatch.setattr(timing, "Watch", Scripted)
    plan, schedule = plan_of({"StreetsQA": asked}, 16), Measure(timed_samples=6, repeats=4, warmup=1)
    Scripted.loads = list(itertools.repeat(0.5, 100))
    record = time(tmp_path / "run", begin(manifest, schedule), plan, schedule, Told())
    assert len(Scripted.loads) == 100 - (3 + 23)
    Scripted.loads = []
    (told,) = (reason for reason in reasons(Analysis(record)) if "disturbed" in reason)
    assert told.startswith("24 of 24 timed requests were disturbed (0 kept from running, 24 while others kept")
    assert told.endswith("after 2 disturbed ones were repeated")


@pytest.mark.parametrize(
    ("lost", "again", "disturbed"), [(0.01, False, False), (0.03, True, False), (0.06, True, True)]
)
def test_a_request_that_lost_more_than_the_limit_is_run_again(lost: float, again: bool, disturbed: bool) -> None:
    """A request that lost 2 to 5 % of its time is run again, so that no run is INVALID through unnoticed losses."""
    clocks: dict[Side, StageClock] = {"device": StageClock(), "server": StageClock()}
    clocks["device"].seconds["encode"] = 0.1
    request = timing._Request(clocks, {"device": {"encode": 0.1 * lost}, "server": {}})
    assert bool(request.why_again) == again
    assert bool(disturbance(0.1, 0.1 * lost, None)) == disturbed
