"""Measures the energy of the halves' answers: blocks of one half, each followed by an idle block.

A block runs whole passes over the same timed samples for at least ``block_s``; the idle block after it is as long. The
device half runs alone, and the server half on payloads made before, so that each side's joules are its own, also where
both are one machine. A server on another machine is called over the network: it waits for the link within its blocks,
which is in their gross joules but not in their net ones.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from harness.analysis import Analysis
from harness.analysis.energy import REPEAT_WHERE_READABLE
from harness.errors import placed
from harness.measure import Plan, sent_by
from harness.models.contract import Answer, Untimed
from harness.profiling.clock import synchroniser
from harness.profiling.energy import Meter, Reading
from harness.profiling.telemetry import Telemetry
from harness.records import EnergyRow, PointKey, Side
from harness.reporter import Reporter
from harness.runs.provenance import UNAVAILABLE
from harness.runs.store import Run, Unit
from harness.scenario.model import Energy, Measure

_ATTEMPTS = 3
"""How often a block without a reading is run, such as when a server was restarted meanwhile."""

_SIDES: tuple[Side, ...] = ("device", "server")

Block = tuple[PointKey, Side, int]
"""A block by its half and its number."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The meter of each side that is measured, and the machine's name there."""

    meters: Mapping[Side, Meter]
    machines: Mapping[Side, str]

    @property
    def sources(self) -> dict[str, str]:
        """What each side's energy is read from, or why nothing is."""
        return {side: meter.sources for side, meter in self.meters.items()}


def measure_energy(
    plan: Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    schedule: Measure,
    seed: int,
    sides: Sides,
    device: str,
    telemetry: Telemetry,
) -> None:
    """Commits a row for each rail of each block of each half, if ``schedule`` asks for energy.

    Of the points that are selected, or of all: a single half does not know the score. In a round every half has its
    block, in a new random order. A half that a scheme does not have has none, and a side whose machine reports nothing
    is left out: the manifest says why. Blocks of it that were measured before are still the run's.
    """
    if (wanted := schedule.energy) is None:
        return
    sources = sides.sources
    readable = [side for side in _SIDES if side in sources and is_readable(sources[side])]
    ongoing.record_energy(sources)
    places = plan.timed_places(schedule.timed_samples, seed)
    keys = list(plan.halves)
    if len(sources) == len(_SIDES):
        keys = [key for key in _keys(Analysis(ongoing.so_far()), wanted) if key in plan.halves]
    halves = [(key, side) for key in keys for side in _sides(plan, key, places) if side in sources]
    units: dict[Unit, Block] = {
        _unit(plan, key, side, places, number, schedule): (key, side, number)
        for number in range(wanted.blocks)
        for key, side in _shuffled(halves, seed, number)
    }
    missing = ongoing.expect(units)
    pending = [unit for unit in missing if units[unit][1] in readable]
    for side in _SIDES:
        if side not in readable and any(units[unit][1] == side for unit in missing):
            why = sources[side].removeprefix(UNAVAILABLE)
            reporter.warn(f"The energy of the {side} is not measured: {why}; {REPEAT_WHERE_READABLE}.")
    done = len(units) - len(missing)
    if done or pending:
        reporter.phase("energy", total=done + len(pending), done=done)
    if not pending:
        return
    wait = synchroniser(device) or (lambda: None)
    ongoing.record_conditions("before energy", telemetry.conditions())
    lost = []
    for unit in pending:
        key, side, number = units[unit]
        # A block runs all samples, over and over: the first is as near as an error can be placed.
        with placed(" at ".join(key), plan.samples.names[places[0]].id):
            work = _work(plan, key, side, places)
            work(0)
        wait()
        for _ in range(_ATTEMPTS):
            telemetry.begin()
            with placed(" at ".join(key)):
                block = _block(work, len(places), wanted.block_s, sides.meters[side], wait)
            lowered = [*telemetry.end(), *block.readings[1].lowered]
            ongoing.record_telemetry(telemetry.sources, lowered)
            if block.joules:
                break
        else:
            lost.append(unit.name)
        ongoing.add(unit, energy=_rows(ongoing, unit, key, side, number, block, sides))
        reporter.advance()
    ongoing.record_conditions("after energy", telemetry.conditions())
    if lost:
        reporter.warn(
            f"{len(lost)} of {len(pending)} blocks have no joules, among them {lost[0]}: no sensor was "
            f"readable throughout any of {_ATTEMPTS} attempts."
        )


@dataclass(frozen=True)
class _Block:
    """The requests of a block, and the readings before it, after it and after the idle block."""

    requests: int
    readings: tuple[Reading, Reading, Reading]

    @property
    def joules(self) -> dict[str, float]:
        """The joules of each rail."""
        before, after, _ = self.readings
        return after.since(before)


def unmeasured(run: Analysis, wanted: Energy) -> set[Side]:
    """The sides of a complete run of both halves that lack a block, whether or not a meter was readable."""
    outcomes, rows = run.record.outcomes, run.record.energy
    sent = outcomes.filter(pc.greater(outcomes["payload_bytes"], 0))
    sending = set(zip(sent["pipeline"].to_pylist(), sent["point"].to_pylist(), strict=True))
    columns = (rows[name].to_pylist() for name in ("pipeline", "point", "side", "block"))
    measured = set(zip(*columns, strict=True))
    return {
        side
        for key in _keys(run, wanted)
        for side in (_SIDES if key in sending else _SIDES[:1])
        if any((*key, side, number) not in measured for number in range(wanted.blocks))
    }


def is_readable(sources: str) -> bool:
    """Whether a meter whose :attr:`harness.profiling.energy.Meter.sources` are these reads anything."""
    return not sources.startswith(UNAVAILABLE)


def _keys(run: Analysis, wanted: Energy) -> list[PointKey]:
    """The points of a run whose halves are measured."""
    points = run.points
    chosen = points[points["selected"]] if wanted.points == "selected" else points
    return [(str(pipeline), str(point)) for pipeline, point in chosen[["pipeline", "point"]].itertuples(index=False)]


def _sides(plan: Plan, key: PointKey, places: Sequence[int]) -> tuple[Side, ...]:
    """The sides on which a scheme has work to do: on the server where it sends anything of any sample."""
    for place in places:
        with placed(" at ".join(key), plan.samples.names[place].id):
            sent = sent_by(plan.halves[key], plan.samples[place], Untimed())
        if not isinstance(sent, Answer):
            return _SIDES
    return ("device",)


def _work(plan: Plan, key: PointKey, side: Side, places: Sequence[int]) -> Callable[[int], object]:
    """The work of a half for the sample at a place of ``places``; the server half's payload is made before.

    The server has none for a sample that the device answers.
    """
    half, samples = plan.halves[key], [plan.samples[place] for place in places]
    if side == "device":
        return lambda at: sent_by(half, samples[at], Untimed())
    payloads = [sent_by(half, sample, Untimed()) for sample in samples]

    def again(at: int) -> None:
        if not isinstance(payload := payloads[at], Answer):
            half.again(payload, [samples[at].question])

    return again


def _block(work: Callable[[int], object], n: int, block_s: float, meter: Meter, wait: Callable[[], None]) -> _Block:
    """Whole passes over ``n`` samples until the time is over, then idle for as long."""
    before, requests = meter.read(), 0
    until_s = time.monotonic() + block_s
    while not requests or time.monotonic() < until_s:
        for at in range(n):
            work(at)
        requests += n
    wait()
    after = meter.read()
    time.sleep(max(0.0, after.at_s - before.at_s))
    return _Block(requests, (before, after, meter.read()))


def _shuffled(halves: Sequence[tuple[PointKey, Side]], seed: int, number: int) -> list[tuple[PointKey, Side]]:
    return [halves[index] for index in np.random.default_rng([seed, number]).permutation(len(halves))]


def _unit(plan: Plan, key: PointKey, side: Side, places: Sequence[int], number: int, schedule: Measure) -> Unit:
    assert schedule.energy is not None
    name = f"energy {' '.join(key)}, {side}, block {number}"
    how = {"threads": str(schedule.threads), "block": f"{schedule.energy.block_s:g} s"}
    return Unit(name, {**plan.work_depends(key, places), **how})


def _rows(
    ongoing: Run,
    unit: Unit,
    key: PointKey,
    side: Side,
    number: int,
    block: _Block,
    sides: Sides,
) -> list[EnergyRow]:
    before, after, idle = block.readings
    idle_j = idle.since(after)
    return [
        EnergyRow(
            run=ongoing.manifest.name,
            unit=unit.key,
            pipeline=key[0],
            point=key[1],
            sample=None,
            block=number,
            requests=block.requests,
            side=side,
            rail=rail,
            sensor=after.rails[rail].sensor,
            seconds=after.at_s - before.at_s,
            energy_j=joules,
            idle_s=idle.at_s - after.at_s if rail in idle_j else None,
            idle_j=idle_j.get(rail),
            machine=sides.machines[side],
            source="measured",
        )
        for rail, joules in block.joules.items()
    ]
