"""Times the stages of schemes, one request after the other, as a user would send them."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from harness.analysis.precision import looks
from harness.analysis.validity import MOST_DISTURBED, MOST_WAITED_IN_ALL, disturbance, looked_at
from harness.data.sample import Sample
from harness.edge.exchange import Transfer
from harness.errors import placed
from harness.measure import Parted, Plan, sent_by
from harness.models.contract import Answer
from harness.profiling.clock import Delays, StageClock, synchroniser
from harness.profiling.disturbance import Watch
from harness.profiling.pacing import Pacing
from harness.profiling.telemetry import Telemetry
from harness.records import LinkRow, PointKey, Side, StageRow
from harness.reporter import Reporter
from harness.runs.store import Run, Unit
from harness.scenario.model import Measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paced:
    """The pacing of requests that are timed at the study's arrival times, and what that depends on."""

    pacing: Pacing
    depends: Mapping[str, str]


_Way: TypeAlias = Literal["stages", "paced"]
"""The table to which the rows of one way of timing go."""

_ATTEMPTS = 3
"""How often a request is run at most if it is disturbed each time."""


def time(
    plan: Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    schedule: Measure,
    seed: int,
    machines: Mapping[Side, str],
    device: str,
    telemetry: Telemetry,
    pacing: Paced | None = None,
) -> None:
    """Times every scheme on ``schedule.timed_samples`` samples, in ``schedule.repeats`` rounds.

    In a round every scheme takes its turn on a sample before the next sample comes, in a new random order each time, so
    that drift affects all alike; ``telemetry`` watches the clocks meanwhile. A row is committed for each stage, all of
    a turn together, and one for each request over a network. ``machines`` names the machine of each side; only rows of
    these sides are stored. Whenever a process begins to time,
    ``schedule.warmup`` requests of each scheme that it times are run and dropped. Of several benchmarks each gives the
    same number of samples, rounded up.

    A request that was disturbed (:func:`harness.analysis.validity.disturbance`), or lost a larger share of its time
    than all requests together may lose, is run again at the end of its turn, at most twice, and counted in the session;
    what is committed is its last run, with what disturbed that. With ``schedule.precision`` pictures are timed block by
    block (:func:`harness.analysis.precision.looks`) until the mean of every point is that precise. ``schedule.pacing``
    other than ``back_to_back`` needs the ``pacing``. Where the plan has recorded times of a side, these are committed
    in place of measured ones.
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
        ways: dict[_Way, Paced | None] = {}
        if schedule.pacing != "arrivals":
            ways["stages"] = None
        if schedule.pacing != "back_to_back":
            assert pacing is not None
            ways["paced" if ways else "stages"] = pacing
        timing = _Timing(plan, ongoing, reporter, schedule, seed, machines, device, telemetry, watch, ways)
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


def _precise(ongoing: Run, schedule: Measure) -> str | None:
    """None if more pictures are to be timed; else empty, or which precision was not reached."""
    assert schedule.precision is not None
    record = ongoing.so_far()
    found = looked_at(
        record.stages,
        record.samples,
        precision=schedule.precision,
        at_most=schedule.at_most,
        confidence=record.manifest.scenario_value("selection", "confidence"),
    )
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
    ways: Mapping[_Way, "Paced | None"]
    most_spoilt: float = 0.0
    """If more requests than this remain disturbed, the run is INVALID, and repeating them is useless."""
    spoilt: int = 0
    warm: set[PointKey] = dataclasses.field(default_factory=set)
    """The points whose warm-up requests this process has run; none of it if it has timed nothing."""
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
            # One way first in even rounds, the other in odd ones.
            for table in list(self.ways)[:: -1 if repeat % 2 else 1]:
                if left := {unit: turn[unit][0] for unit in of_turn if turn[unit][1] == table}:
                    when = {"repeat": repeat, "round": repeat, "start": self.ongoing.start}
                    self._take(table, left, place, when, timed, turn=repeat * len(timed) + number)
            if of_turn:
                self.reporter.advance()

    def _take(
        self,
        table: _Way,
        left: Mapping[Unit, PointKey],
        place: int,
        when: Mapping[str, int],
        timed: Sequence[int],
        *,
        turn: int,
    ) -> None:
        """Commits the units of a turn; a scheme with recorded times on both sides is not run."""
        plan = self.plan
        to_run = {
            unit: key for unit, key in left.items() if not all((*key, side) in plan.recorded for side in self.machines)
        }
        taken: dict[Unit, _Request] = {}
        if to_run:
            # Of a run that was edited and resumed, a turn may lack points that a later turn has.
            if cold := [key for key in to_run.values() if key not in self.warm]:
                if not self.warm:
                    self.ongoing.record_conditions("before timing", self.telemetry.conditions())
                self.watch.begin()
                _warm_up(plan, cold, timed, self.schedule.warmup, self.device)
                self.warm.update(cold)
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
        """Commits what the telemetry saw; nothing if this process timed nothing."""
        if self.warm:
            self.ongoing.record_telemetry(
                self.telemetry.sources,
                lowered,
                watched=self.watch.sources,
                disturbed=self.again,
                pressure=self.watch.pressure(),
            )
            self.again = Counter()

    def _turn(self, left: Mapping[Unit, PointKey], sample: Sample, paced: "Paced | None") -> dict[Unit, "_Request"]:
        """Each scheme's request once, and those that were disturbed again, at most twice."""
        taken: dict[Unit, _Request] = {}
        waiting, seen = list(left), list[str]()
        for attempt in range(_ATTEMPTS):
            self.watch.begin(anew=attempt > 0)
            for unit in waiting:
                half = self.plan.halves[left[unit]]
                pacing = None if paced is None else paced.pacing
                with placed(" at ".join(left[unit]), sample.id):
                    taken[unit] = _request(half, sample, self.device, self.watch, pacing)
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
        self, unit: Unit, key: PointKey, place: int, request: "_Request | None", when: Mapping[str, int], turn: int
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
        for side in self.machines:
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

    def _link(self, unit: Unit, key: PointKey, place: int, transfer: Transfer, repeat: int) -> LinkRow:
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
        """Whether it is known how long a side's stages waited: another machine reports it itself, or not at all."""
        return watch.tells or (side == "server" and self.transfer is not None)

    @property
    def why_again(self) -> str:
        """Why it is to be repeated; empty if it is not.

        It may have lost no larger share of its time than all requests together may: many that each lost a little less
        than a disturbed one would add up to an INVALID run without any of them having been repeated.
        """
        seconds = sum(sum(clock.seconds.values()) for clock in self.clocks.values())
        waited_s = sum(sum(of_side.values()) for of_side in self.waited_s.values())
        return disturbance(seconds, waited_s, self.load, most_waited=MOST_WAITED_IN_ALL)


def _warm_up(plan: Plan, keys: Sequence[PointKey], timed: Sequence[int], requests: int, device: str) -> None:
    for place in itertools.islice(itertools.cycle(timed), requests):
        for key in keys:
            with placed(" at ".join(key), plan.samples.names[place].id):
                _request(plan.halves[key], plan.samples[place], device)


def _request(
    split: Parted, sample: Sample, device: str, delays: Delays | None = None, pacing: Pacing | None = None
) -> _Request:
    """One request through both halves, each with its own clock, and the link; ``pacing`` adds the idle times."""
    clocks: dict[Side, StageClock] = {
        "device": StageClock(synchroniser(device), delays),
        "server": StageClock(synchroniser(device), delays),
    }
    if pacing is not None:
        pacing.wait()
    sent = sent_by(split, sample, clocks["device"])
    if pacing is not None and not isinstance(sent, Answer) and split.near:
        pacing.cross(len(sent))
    transfer = None if isinstance(sent, Answer) else split.serve(sent, [sample.question], clocks["server"])[1]
    return _Request(clocks, {side: clock.waited_s() for side, clock in clocks.items()}, transfer)
