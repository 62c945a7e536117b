"""Runs the schemes: what they answer and how many bytes they send, then how long their stages take.

Two passes, because they want opposite things. Answers want every sample and no waste: the questions about one picture
share its payload, which changes no answer. Times want one request after the other, as a user would send them.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from harness.analysis.means import draw_by_strata
from harness.analysis.precision import looks
from harness.analysis.validity import MOST_DISTURBED, MOST_WAITED_IN_ALL, disturbance, looked_at
from harness.data.gathered import Gathered
from harness.data.sample import Question, Sample
from harness.data.scoring import DEFAULT_SCORING, judge
from harness.edge.client import Transfer
from harness.errors import PeerError
from harness.models.contract import Answer, Clock, Sharing, Untimed
from harness.profiling.clock import Delays, StageClock, synchroniser
from harness.profiling.disturbance import Watch
from harness.profiling.resources import Need, half_needs
from harness.profiling.spacing import Spacing
from harness.profiling.telemetry import Telemetry
from harness.records import LinkRow, OutcomeRow, ResourceRow, Side, StageRow
from harness.runs.recorded import Recorded
from harness.runs.store import Run, Unit
from harness.scenario.model import Measure
from harness.schemes.contract import DeviceHalf, ServerHalf
from harness.schemes.envelope import receive, send


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A scheme at one point: its two halves, and the kind of payload that passes between them."""

    kind: str
    device: DeviceHalf
    server: ServerHalf
    near: ClassVar[bool] = True

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], None]:
        """What the server half answers about an envelope; nothing is under way."""
        return receive(self.server, data, questions, clock, kind=self.kind), None

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """The server half's work on an envelope once more, whatever it answers."""
        self.serve(data, questions, Untimed())

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:
        """What the server half needs for an envelope."""
        return list(half_needs(self.server, lambda clock: self.serve(data, questions, clock), device))


class Parted(Protocol):
    """A scheme at one point, wherever its server half is: a :class:`Split`, or one of :mod:`harness.edge.client`."""

    near: ClassVar[bool]
    """Whether nothing is under way to the server half, so that the time has to be waited for."""

    @property
    def device(self) -> DeviceHalf:
        """The device half."""
        ...

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], Transfer | None]:
        """The answers about an envelope, and how long it was under way where there was a way."""
        ...

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """The server half's work on an envelope once more, as fast as it can be sent, whatever it answers."""
        ...

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:
        """What the server half needs for an envelope: stage, quantity and value; ``device`` is where torch computes."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spaced:
    """When requests begin that are timed as the study's come, and what that depends on."""

    spacing: Spacing
    depends: Mapping[str, str]


_Way: TypeAlias = Literal["stages", "paced"]
"""The table to which the rows of one way of timing go."""

_ATTEMPTS = 3
"""How often a request is run that is disturbed each time."""

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
    patches: Sequence[int]
    """Into how many patches each sample's pictures are cut: the strata from which timed pictures are drawn."""
    scoring: str = DEFAULT_SCORING
    recorded: Mapping[tuple[str, str, Side], Recorded] = dataclasses.field(default_factory=dict)
    """Stage times that take the place of measured ones."""

    @functools.cached_property
    def pictures(self) -> Sequence[Sequence[int]]:
        """The places of the samples that show the same pictures, benchmark by benchmark."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, name in enumerate(self.samples.names):
            found.setdefault((name.benchmark, name.image_id), []).append(place)
        return list(found.values())

    def to_time(self, seed: int) -> list[tuple[int, ...]]:
        """The places of samples to time, one of each picture, in the order in which they are taken.

        Of every benchmark its next picture, drawn by strata of patches (:func:`harness.analysis.means.draw_by_strata`);
        the questions about pictures take turns.
        """
        of_benchmark: dict[str, list[Sequence[int]]] = {}
        for places in self.pictures:
            of_benchmark.setdefault(self.samples.names[places[0]].benchmark, []).append(places)
        drawn = []
        for pictures in of_benchmark.values():
            order = draw_by_strata([self.patches[places[0]] for places in pictures], len(pictures), seed)
            drawn.append([pictures[picture][turn % len(pictures[picture])] for turn, picture in enumerate(order)])
        taken = itertools.zip_longest(*drawn)
        return [tuple(place for place in places if place is not None) for places in taken]

    def timed_places(self, n: int, seed: int) -> list[int]:
        """The first ``n`` of :meth:`to_time`, as many of each benchmark, rounded up."""
        order = self.to_time(seed)
        return [place for places in order[: -(-n // len(order[0]))] for place in places]

    def answering(self, key: Key, places: Sequence[int]) -> Unit:
        """The answers of a scheme to all questions about one picture."""
        name = f"answers {' '.join(key)}, {self.samples.names[places[0]].id}"
        return Unit(name, {**self.depends[key], **self._questions(places), "scoring": self.scoring})

    @functools.cached_property
    def to_answer(self) -> Mapping[Unit, tuple[Key, Sequence[int]]]:
        """The units of all answers, with the point and the places of the samples of each.

        Picture after picture, so that points that share a tower share what it makes of each.
        """
        return {self.answering(key, places): (key, places) for places in self.pictures for key in self.halves}

    def timing(
        self, key: Key, repeat: int, place: int, schedule: Measure, spaced: Mapping[str, str] | None = None
    ) -> Unit:
        """The times of one request of a scheme; ``spaced`` is what they depend on if not timed back to back."""
        name = f"times {' '.join(key)}, {self.samples.names[place].id}, repeat {repeat}"
        how = {"threads": str(schedule.threads), "warmup": str(schedule.warmup)}
        profiles = {
            f"profile of the {side}": recorded.identity
            for (*of_key, side), recorded in self.recorded.items()
            if tuple(of_key) == key
        }
        return Unit(name, {**self.timing_depends(key, [place]), **how, **profiles, **(spaced or {})})

    def timing_depends(self, key: Key, places: Sequence[int]) -> dict[str, str]:
        """What the work on some samples by a scheme depends on."""
        return {**self.depends[key], **self._questions(places)}

    def weighing(self, key: Key, place: int, device: str) -> Unit:
        """What a scheme needs besides time, for one request."""
        name = f"resources {' '.join(key)}, {self.samples.names[place].id}"
        return Unit(name, {**self.depends[key], **self._questions([place]), "device": device})

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


Part: TypeAlias = Sequence[Unit]
"""Units of one picture, which are answered together and committed together."""
Answers: TypeAlias = Callable[[Part], list[OutcomeRow]]
"""What answers a part."""
Answered: TypeAlias = Generator[tuple[Part, list[OutcomeRow]], None, None]
"""Each part with its rows, as they are there."""
Spread: TypeAlias = Callable[[Answers, Sequence[Part]], Answered]
"""What has parts answered, wherever that is."""


def one_by_one(answers: Answers, parts: Sequence[Part]) -> Answered:
    """Has this process answer the parts in their order."""
    for part in parts:
        yield part, answers(part)


def answer(plan: Plan, ongoing: Run, reporter: Reporter, *, spread: Spread = one_by_one) -> None:
    """Lets every scheme answer every sample, wherever ``spread`` has it done, and commits an outcome row for each.

    Units that an earlier process finished are left as they are.
    """
    units = plan.to_answer
    pending = ongoing.expect(units)
    reporter.phase("answers", total=len(units), done=len(units) - len(pending))
    parts = [list(of_picture) for _, of_picture in itertools.groupby(pending, key=lambda unit: units[unit][1])]
    if not parts:
        return
    with contextlib.closing(spread(answers_of(plan, ongoing.manifest.name), parts)) as answered:
        for part, rows in answered:
            ongoing.add(part, outcomes=rows)
            for _ in part:
                reporter.advance()


def answers_of(plan: Plan, run: str) -> Answers:
    """What answers parts of a plan, for a run of this name.

    Raises PeerError for a unit that is not the plan's, as where another process asks that depends on other things.
    """
    units = plan.to_answer

    def answers(part: Part) -> list[OutcomeRow]:
        for unit in part:
            if unit not in units:
                raise PeerError(f"{unit.name}: depends on other things here than where it is asked for")
        return [row for unit in part for row in _outcomes(plan, *units[unit], run=run, unit=unit.key)]

    return answers


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
    spacing: Spaced | None = None,
) -> None:
    """Times every scheme on ``schedule.timed_samples`` samples, in ``schedule.repeats`` rounds.

    In a round every scheme takes its turn on a sample before the next sample comes, in an order drawn anew each time,
    so that drift hits all alike; ``telemetry`` watches the clocks meanwhile. A row is committed for each stage, all of
    a turn together, and one for the way of each request over a network. ``machine`` runs the device halves, ``server``
    the server halves, without it the same; rows of ``sides`` are kept. Whenever a process begins to time,
    ``schedule.warmup`` requests of each scheme that it times are run and dropped. Of several benchmarks each gives the
    same number of samples, rounded up.

    A request that was disturbed (:func:`harness.analysis.validity.disturbance`), or lost more of its time than all
    together may lose, is run again at the end of its turn, at most twice, and counted in the session; what is committed
    is its last run, with what disturbed that. With
    ``schedule.precision`` pictures are timed block by block (:func:`harness.analysis.precision.looks`) until the mean
    of every point is that precise. ``schedule.pacing`` other than ``back_to_back`` needs the ``spacing``. Where the
    plan has recorded times of a side, these are committed in the place of measured ones.
    """
    order = plan.to_time(seed)
    if schedule.precision is None:
        blocks = [plan.timed_places(schedule.timed_samples, seed)]
    else:
        places = [place for of_each in order for place in of_each]
        ends = looks(min(schedule.at_most, len(places)))
        blocks = [places[begin:end] for begin, end in itertools.pairwise([0, *ends])]
    for recorded in plan.recorded.values():
        recorded.refuse_missing(plan.samples.names[place].id for block in blocks for place in block)
    with Watch() as watch:
        machines: dict[Side, str] = {"device": machine, "server": server or machine}
        ways: dict[_Way, Spaced | None] = {}
        if schedule.pacing != "arrivals":
            ways["stages"] = None
        if schedule.pacing != "back_to_back":
            assert spacing is not None
            ways["paced" if ways else "stages"] = spacing
        timing = _Timing(plan, ongoing, reporter, schedule, seed, machines, device, telemetry, watch, sides, ways)
        timing.most_spoilt = MOST_DISTURBED * sum(map(len, blocks)) * schedule.repeats * len(plan.halves)
        for number, block in enumerate(blocks):
            timing.time(block, number)
            if schedule.precision is not None and (sentence := _precise(ongoing, schedule)) is not None:
                if sentence:
                    reporter.warn(sentence)
                break
        timing.record()
        if timing.warm:
            ongoing.record_conditions("after timing", telemetry.conditions())


def weigh(
    plan: Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    seed: int,
    machine: str,
    device: str,
    server: str | None = None,
    sides: Sequence[Side] = ("device", "server"),
) -> None:
    """Commits what each half of every scheme needs besides time, on the first of the timed samples.

    Of ``sides`` alone; ``server`` is the machine of the server halves, if another. It says itself what they need.

    Each half runs once before, so that what it loads or compiles once is not counted; once for its memory, and once for
    its operations.
    """
    place = plan.to_time(seed)[0][0]
    units = {plan.weighing(key, place, device): key for key in plan.halves}
    pending = ongoing.expect(units)
    reporter.phase("memory and operations", total=len(units), done=len(units) - len(pending))
    for unit in pending:
        needs = _needs(plan.halves[units[unit]], plan.samples[place], device)
        rows = [
            ResourceRow(
                run=ongoing.manifest.name,
                unit=unit.key,
                pipeline=units[unit][0],
                point=units[unit][1],
                sample=plan.samples.names[place].id,
                side=side,
                stage=stage,
                quantity=quantity,
                value=float(value),
                machine=machine if side == "device" else server or machine,
                source="measured",
            )
            for side, (stage, quantity, value) in needs
            if side in sides
        ]
        ongoing.add(unit, resources=rows)
        reporter.advance()


def _needs(split: Parted, sample: Sample, device: str) -> Iterator[tuple[Side, Need]]:
    """Side, stage, quantity and value of all that the halves need for a request."""
    sent = send(split.device, sample, Untimed())
    for need in half_needs(split.device, lambda clock: send(split.device, sample, clock), device):
        yield "device", need
    if not isinstance(sent, Answer):
        for need in split.needs(sent, [sample.question], device):
            yield "server", need


def _precise(ongoing: Run, schedule: Measure) -> str | None:
    """None where more pictures are to be timed; else empty, or which precision was not reached."""
    assert schedule.precision is not None
    record = ongoing.so_far()
    found = looked_at(record.stages, record.samples, precision=schedule.precision, at_most=schedule.at_most)
    if any(look.go_on_to for look in found.values()):
        return None
    return "; ".join(f"{' at '.join(key)}: {look.sentence}" for key, look in found.items() if not look.precise)


@dataclasses.dataclass
class _Timing:
    """Timing in progress."""

    plan: Plan
    ongoing: Run
    reporter: Reporter
    schedule: Measure
    seed: int
    machines: Mapping[Side, str]
    device: str
    telemetry: Telemetry
    watch: Watch
    sides: Sequence[Side]
    ways: Mapping[_Way, "Spaced | None"]
    most_spoilt: float = 0.0
    """Once more requests than these stay disturbed the run is INVALID, and to run them again is of no use."""
    spoilt: int = 0
    warm: bool = False
    again: "Counter[str]" = dataclasses.field(default_factory=Counter)

    def time(self, timed: Sequence[int], block: int) -> None:
        """The rounds over a block of samples that are not timed yet."""
        plan, schedule = self.plan, self.schedule
        rounds = list(itertools.product(range(schedule.repeats), enumerate(timed)))
        turns = [
            {
                plan.timing(key, repeat, place, schedule, None if way is None else way.depends): (key, table)
                for table, way in self.ways.items()
                for key in plan.halves
            }
            for repeat, (_, place) in rounds
        ]
        pending = set(self.ongoing.expect(unit for turn in turns for unit in turn))
        self.reporter.phase("times", total=len(turns), done=sum(not pending & turn.keys() for turn in turns))
        for (repeat, (number, place)), turn in zip(rounds, turns, strict=True):
            draw = [self.seed, repeat, number] if block == 0 else [self.seed, repeat, number, block]
            shuffled = np.random.default_rng(draw).permutation(len(turn))
            of_turn = [unit for unit in (list(turn)[index] for index in shuffled) if unit in pending]
            # The one way first in even rounds, the other in odd ones.
            for table in list(self.ways)[:: -1 if repeat % 2 else 1]:
                if left := {unit: turn[unit][0] for unit in of_turn if turn[unit][1] == table}:
                    when = {"repeat": repeat, "round": repeat, "start": self.ongoing.start}
                    self._take(table, left, place, when, timed, turn=repeat * len(timed) + number)
            if of_turn:
                self.reporter.advance()

    def _take(
        self,
        table: _Way,
        left: Mapping[Unit, Key],
        place: int,
        when: Mapping[str, int],
        timed: Sequence[int],
        *,
        turn: int,
    ) -> None:
        """Commits the units of a turn; a scheme of which all is recorded is not run."""
        plan = self.plan
        to_run = {
            unit: key for unit, key in left.items() if not all((*key, side) in plan.recorded for side in self.sides)
        }
        taken: dict[Unit, _Request] = {}
        if to_run:
            if not self.warm:
                self.ongoing.record_conditions("before timing", self.telemetry.conditions())
                self.watch.begin()
                _warm_up(plan, list(to_run.values()), timed, self.schedule.warmup, self.device)
                self.warm = True
                self.record()
            self.telemetry.begin()
            taken = self._turn(to_run, plan.samples[place], self.ways[table])
            lowered = self.telemetry.end()
            if lowered or self.again:
                self.record(lowered)
        rows = [row for unit, key in left.items() for row in self._rows(unit, key, place, taken.get(unit), when, turn)]
        links = [
            self._link(unit, left[unit], place, request.transfer, when["repeat"])
            for unit, request in taken.items()
            if request.transfer is not None and table == "stages"
        ]
        self.ongoing.add(list(left), links=links, **{table: rows})

    def record(self, lowered: Sequence[str] = ()) -> None:
        """Commits what was seen of the machine; nothing where this process timed nothing."""
        if self.warm:
            self.ongoing.record_telemetry(
                self.telemetry.sources,
                lowered,
                watched=self.watch.sources,
                disturbed=self.again,
                pressure=self.watch.pressure(),
            )
            self.again = Counter()

    def _turn(self, left: Mapping[Unit, Key], sample: Sample, spaced: "Spaced | None") -> dict[Unit, "_Request"]:
        """Each scheme's request once, and those that were disturbed again, at most twice."""
        taken: dict[Unit, _Request] = {}
        waiting, seen = list(left), list[str]()
        for attempt in range(_ATTEMPTS):
            self.watch.begin(anew=attempt > 0)
            for unit in waiting:
                half = self.plan.halves[left[unit]]
                taken[unit] = _request(
                    half, sample, self.device, self.watch, None if spaced is None else spaced.spacing
                )
                self.telemetry.look()
            load = self.watch.load()
            for unit in waiting:
                taken[unit] = dataclasses.replace(taken[unit], load=load)
            why = {unit: taken[unit].why_again for unit in waiting}
            waiting = [unit for unit in waiting if why[unit]]
            if not waiting or attempt == _ATTEMPTS - 1 or self.spoilt > self.most_spoilt:
                break
            seen += [why[unit] for unit in waiting]
        self.spoilt += len(waiting)
        self.again.update(seen)
        return taken

    def _rows(
        self, unit: Unit, key: Key, place: int, request: "_Request | None", when: Mapping[str, int], turn: int
    ) -> Iterator[StageRow]:
        sample = self.plan.samples.names[place].id
        common: dict[str, Any] = {
            "run": self.ongoing.manifest.name,
            "unit": unit.key,
            "pipeline": key[0],
            "point": key[1],
            "sample": sample,
            **when,
        }
        for side in self.sides:
            if (recorded := self.plan.recorded.get((*key, side))) is not None:
                origin: dict[str, Any] = {"machine": recorded.machine, "source": recorded.source}
                for stage, seconds, cpu_s in recorded.stages(sample, when["repeat"], turn):
                    yield StageRow(**common, side=side, stage=stage, seconds=seconds, cpu_s=cpu_s, **origin)
                continue
            assert request is not None
            clock, tells = request.clocks[side], request.told_by(side, self.watch)
            for stage, seconds in clock.seconds.items():
                yield StageRow(
                    **common,
                    side=side,
                    stage=stage,
                    seconds=seconds,
                    cpu_s=clock.cpu_s[stage],
                    waited_s=request.waited_s[side].get(stage) if tells else None,
                    load=request.load,
                    machine=self.machines[side],
                    source="measured",
                )

    def _link(self, unit: Unit, key: Key, place: int, transfer: Transfer, repeat: int) -> LinkRow:
        return LinkRow(
            run=self.ongoing.manifest.name,
            unit=unit.key,
            pipeline=key[0],
            point=key[1],
            sample=self.plan.samples.names[place].id,
            repeat=repeat,
            start=self.ongoing.start,
            **dataclasses.asdict(transfer),
            machine=self.machines["device"],
            server=self.machines["server"],
            source="measured",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """A timed request: its clocks, and what is known of its disturbance."""

    clocks: Mapping[Side, StageClock]
    waited_s: Mapping[Side, Mapping[str, float]]
    transfer: Transfer | None = None
    load: float | None = None

    def told_by(self, side: Side, watch: Watch) -> bool:
        """Whether it is known how long a side's stages waited: another machine says so itself, or says nothing."""
        return watch.tells or (side == "server" and self.transfer is not None)

    @property
    def why_again(self) -> str:
        """Why it is to be run again; empty where it is not.

        It may have lost no more of its time than all requests together may: many that each lost a little less than a
        disturbed one would add up to a run that is INVALID, and none of them had been run again.
        """
        seconds = sum(sum(clock.seconds.values()) for clock in self.clocks.values())
        waited_s = sum(sum(of_side.values()) for of_side in self.waited_s.values())
        return disturbance(seconds, waited_s, self.load, most_waited=MOST_WAITED_IN_ALL)


def _warm_up(plan: Plan, keys: Sequence[Key], timed: Sequence[int], requests: int, device: str) -> None:
    for place in itertools.islice(itertools.cycle(timed), requests):
        for key in keys:
            _request(plan.halves[key], plan.samples[place], device)


def _outcomes(plan: Plan, key: Key, places: Sequence[int], *, run: str, unit: str) -> Iterator[OutcomeRow]:
    """The outcomes of all questions about one picture."""
    split, samples = plan.halves[key], [plan.samples[place] for place in places]
    sent = send(split.device, samples[0], Sharing())
    if isinstance(sent, Answer):
        others = (send(split.device, sample, Sharing()) for sample in samples[1:])
        n_bytes, answers = 0, [sent, *(answer for answer in others if isinstance(answer, Answer))]
    else:
        questions = [sample.question for sample in samples]
        n_bytes, (answers, _) = len(sent), split.serve(sent, questions, Sharing())
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


def _request(
    split: Parted, sample: Sample, device: str, delays: Delays | None = None, spacing: Spacing | None = None
) -> _Request:
    """One request through both halves, each with its own clock, and its way between them; ``spacing`` idles around."""
    clocks: dict[Side, StageClock] = {
        "device": StageClock(synchroniser(device), delays),
        "server": StageClock(synchroniser(device), delays),
    }
    if spacing is not None:
        spacing.wait()
    sent = send(split.device, sample, clocks["device"])
    if spacing is not None and not isinstance(sent, Answer) and split.near:
        spacing.cross(len(sent))
    transfer = None if isinstance(sent, Answer) else split.serve(sent, [sample.question], clocks["server"])[1]
    return _Request(clocks, {side: clock.waited_s() for side, clock in clocks.items()}, transfer)
