"""Runs the schemes: what they answer and how many bytes they send, then how long their stages take.

Two passes, because they want opposite things. Answers want every sample and no waste: the questions about one picture
share its payload, which changes no answer. Times want one request after the other, as a user would send them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from harness.data.gathered import Gathered
from harness.data.sample import Question, Sample
from harness.data.scoring import DEFAULT_SCORING, judge
from harness.edge.client import Transfer
from harness.models.contract import Answer, Clock, Untimed
from harness.profiling.clock import StageClock, synchroniser
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import spread
from harness.records import LinkRow, OutcomeRow, Side, StageRow
from harness.runs.store import Run, Unit
from harness.scenario.model import Measure
from harness.schemes.contract import DeviceHalf, ServerHalf
from harness.schemes.envelope import receive, send

_PICTURES_A_PART = 10
"""Pictures whose answers are committed together: a killed run loses the work on fewer than these."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A scheme at one point: its two halves, and the kind of payload that passes between them."""

    kind: str
    device: DeviceHalf
    server: ServerHalf

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], None]:
        """What the server half answers about an envelope; nothing is under way."""
        return receive(self.server, data, questions, clock, kind=self.kind), None


class Parted(Protocol):
    """A scheme at one point, wherever its server half is: a :class:`Split`, or one of :mod:`harness.edge.client`."""

    @property
    def device(self) -> DeviceHalf:
        """The device half."""
        ...

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], Transfer | None]:
        """The answers about an envelope, and how long it was under way where there was a way."""
        ...


Key = tuple[str, str]
Halves = Mapping[Key, Parted]
"""By pipeline and point."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: halves and samples, with the digests of what their rows depend on."""

    halves: Halves
    samples: Gathered
    sample_digests: Sequence[str]
    depends: Mapping[Key, Mapping[str, str]]
    scoring: str = DEFAULT_SCORING

    @functools.cached_property
    def pictures(self) -> Sequence[Sequence[int]]:
        """The places of the samples that show the same pictures, benchmark by benchmark."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, name in enumerate(self.samples.names):
            found.setdefault((name.benchmark, name.image_id), []).append(place)
        return list(found.values())

    def answering(self, key: Key, places: Sequence[int]) -> Unit:
        """The answers of a scheme to all questions about one picture."""
        name = f"answers {' '.join(key)}, {self.samples.names[places[0]].id}"
        return Unit(name, {**self.depends[key], **self._questions(places), "scoring": self.scoring})

    def timing(self, key: Key, repeat: int, place: int, schedule: Measure) -> Unit:
        """The times of one request of a scheme."""
        name = f"times {' '.join(key)}, {self.samples.names[place].id}, repeat {repeat}"
        how = {"threads": str(schedule.threads), "warmup": str(schedule.warmup)}
        return Unit(name, {**self.depends[key], **self._questions([place]), **how})

    def _questions(self, places: Sequence[int]) -> dict[str, str]:
        return {self.samples.names[place].id: self.sample_digests[place] for place in places}


class Reporter(Protocol):
    """Shows a reader how far the work is."""

    def warn(self, text: str) -> None:
        """Shows what must be known before a number is read."""
        ...

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase of ``total`` steps, ``done`` of which an earlier process did."""
        ...

    def advance(self) -> None:
        """One step of the phase is done."""
        ...


def answer(plan: Plan, ongoing: Run, reporter: Reporter, *, workers: int = 1) -> None:
    """Lets every scheme answer every sample, in ``workers`` processes, and commits an outcome row for each.

    Units that an earlier process finished are left as they are.
    """
    units = {plan.answering(key, places): (key, places) for key in plan.halves for places in plan.pictures}
    pending = ongoing.expect(units)
    reporter.phase("answers", total=len(units), done=len(units) - len(pending))
    parts = [
        part
        for _, of_key in itertools.groupby(pending, key=lambda unit: units[unit][0])
        for part in _batches(list(of_key))
    ]
    run = ongoing.manifest.name

    def outcomes(part: Sequence[Unit]) -> list[OutcomeRow]:
        return [row for unit in part for row in _outcomes(plan, *units[unit], run=run, unit=unit.key)]

    for part, rows in spread(outcomes, parts, workers):
        ongoing.add(part, outcomes=rows)
        for _ in part:
            reporter.advance()


def time(
    plan: Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    schedule: Measure,
    seed: int,
    machine: str,
    device: str,
    telemetry: Telemetry,
    server: str | None = None,
    sides: Sequence[Side] = ("device", "server"),
) -> None:
    """Times every scheme on ``schedule.timed_samples`` samples, in ``schedule.repeats`` rounds.

    In a round every scheme takes its turn on a sample before the next sample comes, in an order drawn anew each time,
    so that drift hits all alike; ``telemetry`` watches the clocks meanwhile. A row is committed for each stage, all of
    a turn together, and one for the way of each request over a network. ``machine`` runs the device halves, ``server``
    the server halves, without it the same; rows of ``sides`` are kept. Whenever a process begins to time,
    ``schedule.warmup`` requests of each scheme that it times are run and dropped.
    """
    timed = _timed_places(plan, schedule.timed_samples)
    turns = [
        {plan.timing(key, repeat, place, schedule): key for key in plan.halves}
        for repeat, place in itertools.product(range(schedule.repeats), timed)
    ]
    pending = set(ongoing.expect(unit for turn in turns for unit in turn))
    reporter.phase("times", total=len(turns), done=sum(not pending & turn.keys() for turn in turns))
    warm = False
    for (repeat, (number, place)), turn in zip(
        itertools.product(range(schedule.repeats), enumerate(timed)), turns, strict=True
    ):
        order = np.random.default_rng([seed, repeat, number]).permutation(len(turn))
        left = [unit for unit in (list(turn)[index] for index in order) if unit in pending]
        if not left:
            continue
        sample = plan.samples[place]
        if not warm:
            _warm_up(plan, [turn[unit] for unit in left], timed, schedule.warmup, device)
            warm = True
            ongoing.record_telemetry(telemetry.sources)
        rows: list[StageRow] = []
        links: list[LinkRow] = []
        telemetry.begin()
        for unit in left:
            pipeline, point = turn[unit]
            clocks, transfer = _request(plan.halves[pipeline, point], sample, device)
            machines: dict[Side, str] = {"device": machine, "server": server or machine}
            facts: dict[str, Any] = {
                "run": ongoing.manifest.name,
                "unit": unit.key,
                "pipeline": pipeline,
                "point": point,
                "sample": sample.id,
                "repeat": repeat,
                "start": ongoing.start,
                "source": "measured",
            }
            if transfer is not None:
                way = dataclasses.asdict(transfer)
                links.append(LinkRow(**facts, **way, machine=machine, server=machines["server"]))
            rows += [
                StageRow(
                    **facts,
                    round=repeat,
                    side=side,
                    stage=stage,
                    seconds=seconds,
                    cpu_s=clock.cpu_s[stage],
                    machine=machines[side],
                )
                for side, clock in clocks.items()
                if side in sides
                for stage, seconds in clock.seconds.items()
            ]
            telemetry.look()
        if lowered := telemetry.end():
            ongoing.record_telemetry(telemetry.sources, lowered)
        ongoing.add(left, stages=rows, links=links)
        reporter.advance()
    if warm:
        ongoing.record_telemetry(telemetry.sources)


def _batches(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    for start in range(0, len(units), _PICTURES_A_PART):
        yield units[start : start + _PICTURES_A_PART]


def _warm_up(plan: Plan, keys: Sequence[Key], timed: Sequence[int], requests: int, device: str) -> None:
    for place in itertools.islice(itertools.cycle(timed), requests):
        for key in keys:
            _request(plan.halves[key], plan.samples[place], device)


def _timed_places(plan: Plan, wanted: int) -> list[int]:
    """One sample of each of ``wanted`` pictures spread evenly over a benchmark, its questions taking turns.

    Of several benchmarks each gives the same number, rounded up.
    """
    of_benchmark: dict[str, list[Sequence[int]]] = {}
    for places in plan.pictures:
        of_benchmark.setdefault(plan.samples.names[places[0]].benchmark, []).append(places)
    timed: list[int] = []
    for pictures in of_benchmark.values():
        n = min(-(-wanted // len(of_benchmark)), len(pictures))
        chosen = np.linspace(0, len(pictures) - 1, n).round().astype(int)
        timed += [pictures[picture][turn % len(pictures[picture])] for turn, picture in enumerate(chosen)]
    return timed


def _outcomes(plan: Plan, key: Key, places: Sequence[int], *, run: str, unit: str) -> Iterator[OutcomeRow]:
    """The outcomes of all questions about one picture."""
    split, samples = plan.halves[key], [plan.samples[place] for place in places]
    sent = send(split.device, samples[0], Untimed())
    if isinstance(sent, Answer):
        others = (send(split.device, sample, Untimed()) for sample in samples[1:])
        n_bytes, answers = 0, [sent, *(answer for answer in others if isinstance(answer, Answer))]
    else:
        questions = [sample.question for sample in samples]
        n_bytes, (answers, _) = len(sent), split.serve(sent, questions, Untimed())
    for sample, answer in zip(samples, answers, strict=True):
        yield OutcomeRow(
            run=run,
            unit=unit,
            pipeline=key[0],
            point=key[1],
            sample=sample.id,
            payload_bytes=n_bytes,
            visual_tokens=answer.visual_tokens,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=answer.answer_tokens,
            answer=answer.text,
            truth=sample.truth,
            correct=judge(sample.question, sample.truth, answer.text, plan.scoring),
        )


def _request(split: Parted, sample: Sample, device: str) -> tuple[dict[Side, StageClock], Transfer | None]:
    """One request through both halves, each with its own clock, and its way between them."""
    clocks: dict[Side, StageClock] = {
        "device": StageClock(synchroniser(device)),
        "server": StageClock(synchroniser(device)),
    }
    sent = send(split.device, sample, clocks["device"])
    transfer = None if isinstance(sent, Answer) else split.serve(sent, [sample.question], clocks["server"])[1]
    return clocks, transfer
