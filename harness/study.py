"""The flow of a study: take stock, prepare, answer, time, replay.

    scenario --take_stock--> Stock --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Taking stock finds everything that a scenario names, or its stand-in, and its digest, without loading any of it.
Preparing makes the halves of its schemes (``harness/loaded.py``). Each later step reads rows and writes rows
(``harness/records.py``); nothing else passes between them. Selecting operating points and drawing use only those rows,
at any later time (``harness/analysis``, ``harness/report``).
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import cost, loaded, measure, timing
from harness.analysis import Analysis, validity
from harness.channel.channel import unrecorded
from harness.edge.client import Peer, PeerMeter, PeerTelemetry, Remote
from harness.energy import Sides, is_readable, measure_energy, unmeasured
from harness.errors import PeerError, telling
from harness.profiling.energy import Meter, Meters
from harness.profiling.machine import machine_name, this_machine
from harness.profiling.telemetry import Telemetry
from harness.records import PointKey, SampleRow, Side, to_table
from harness.replay import Profile, sweep
from harness.replay.sweep import refuse_unknown_stages
from harness.reporter import Reporter, unsaid
from harness.runs import digests, provenance
from harness.runs.store import Run, Unit
from harness.scenario.model import Scenario
from harness.scenario.replay import Replay
from harness.stock import Stock, sample_rows, take_stock
from harness.team import AS_SUITS, Team


def run(
    scenario: Scenario,
    folder: Path,
    *,
    reporter: Reporter,
    allow_stand_ins: bool = True,
    fresh: bool = False,
    command: Sequence[str] = (),
    remote: Remote | None = None,
    team: Team = AS_SUITS,
    tell: Callable[[str], None] = unsaid,
) -> None:
    """Runs a scenario into ``folder``, or completes the run that is there.

    A complete run of which nothing has changed is not touched; otherwise what depends on a change is computed again.
    Times over a network depend on what shapes the sending.
    Energy that was not measured is measured as soon as its meter is readable.
    With a ``remote`` its server runs the server halves, called only by this process; without one a ``team`` answers.
    Timing is always done by this process. ``tell`` is called with lines on what the work takes and on what is awaited.
    Raises UnavailableError where something that the scenario names is not installed and has no stand-in, or no Ray
    cluster answers, ResultsError where the folder holds another study or a run made of others' rows, and PeerError if
    the server is absent or differs, or a worker does.
    """
    Run.check_writable(folder)
    Run.refuse_source(folder, *(recording.file for recording in scenario.profile))
    stock = take_stock(scenario, allow_stand_ins=allow_stand_ins)
    shape = {} if remote is None else remote.shape
    if not fresh and (folder / provenance.MANIFEST).exists():
        earlier = provenance.read(folder / provenance.MANIFEST)
        Run.refuse_derived(folder)
        # Which server it is now is checked when it is called, if there is anything to do.
        server = earlier.sessions[-1].server if remote is not None else None
        now = stock.manifest(folder.name, {"id": "", "name": ""}, command, server, shape)
        differs = provenance.changes(earlier, now)
        if (
            earlier.status == "complete"
            and not differs
            and not _lacks_readable_energy(stock, folder, remote, reporter, tell)
        ):
            return
        if differs:
            reporter.warn(f"Since this run was last worked on, these changed: {', '.join(differs)}.")
    team.refuse_cluster()
    announce(stock, reporter)
    stock.refuse_pictures()
    with contextlib.ExitStack() as leaving:
        peer = None if remote is None else leaving.enter_context(remote.connected(loaded.describe(stock), tell))
        _work(stock, folder, peer, shape, reporter=reporter, fresh=fresh, command=command, team=team, tell=tell)


def _lacks_readable_energy(
    stock: Stock, folder: Path, remote: Remote | None, reporter: Reporter, tell: Callable[[str], None]
) -> bool:
    """Whether a complete run lacks energy of a side whose meter is readable now."""
    if (wanted := stock.scenario.measure.energy) is None:
        return False
    lacking = unmeasured(Analysis.read(folder), wanted)
    if lacking if remote is None else "device" in lacking:
        with Meters() as meters:
            if is_readable(meters.sources):
                return True
    if remote is None or "server" not in lacking:
        return False
    try:
        with remote.connected(loaded.describe(stock), tell) as peer:
            return is_readable(PeerMeter(peer).sources)
    except PeerError as error:
        # The run is complete without it.
        reporter.warn(f"The energy of the server is not measured: {error}.")
        return False


def announce(stock: Stock, reporter: Reporter) -> None:
    """Warns of stand-ins, and says why they run."""
    if stock.stand_ins:
        wanted_of: dict[str, list[str]] = {}
        for wanted, ran in stock.stand_ins.items():
            wanted_of.setdefault(ran, []).append(wanted)
        swaps = [f"{ran} runs instead of {' and '.join(wanted)}." for ran, wanted in wanted_of.items()]
        reporter.warn("\n".join([*stock.absent, *swaps, "Every table and figure of this run says so."]))
    if stock.untuned:
        reporter.warn("\n".join([*stock.untuned, "Every table and figure of this run says so."]))


def _work(
    stock: Stock,
    folder: Path,
    peer: Peer | None,
    shape: Mapping[str, str],
    *,
    reporter: Reporter,
    fresh: bool,
    command: Sequence[str],
    team: Team,
    tell: Callable[[str], None],
) -> None:
    """Measures and replays what is left to do, and completes the run."""
    scenario = stock.scenario
    _, device, threads = loaded.load_models(stock)
    halves = loaded.StudyHalves(stock, peer)
    loads = peer is None and team.loads(device, threads)
    if not loads:
        halves.make()
    machine = {**this_machine(), "torch_threads": threads}
    server = None if peer is None else peer.info.provenance()
    manifest = stock.manifest(folder.name, machine, command, server, shape)
    with Run.open_or_create(folder, manifest, fresh=fresh) as ongoing, followed(ongoing, reporter):
        shown = list(sample_rows(stock))
        ongoing.record_samples(shown)
        plan = dataclasses.replace(loaded.plan_of(stock, halves, shown), shape=shape)
        if tell is not unsaid:
            for line in cost.lines(
                stock,
                plan,
                folder,
                missing=ongoing.missing,
                workers=1 if peer is not None else team.count(device, threads),
                at_once=1 if peer is not None else team.at_once(device, threads),
                remote=peer is not None,
            ):
                tell(line)
        if peer is not None:
            measure.answer(plan, ongoing, reporter)  # A connection is one process's.
        else:
            measure.answer(
                plan, ongoing, reporter, spread=loaded.answering(stock, team, device, threads, ongoing, reporter, tell)
            )
        halves.make()
        machines: dict[Side, str] = {
            "device": machine_name(),
            "server": machine_name() if server is None else server.machine["name"],
        }
        profile(stock, plan, ongoing, reporter, device=device, machines=machines, peer=peer)
        replay(halves, scenario.replay, stock.links, to_table(SampleRow, shown), ongoing, reporter)
        ongoing.finish(validity.reasons(Analysis(ongoing.so_far())))


def profile(
    stock: Stock,
    plan: measure.Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    device: str,
    machines: Mapping[Side, str],
    peer: Peer | None = None,
) -> None:
    """Times the halves on the sides that ``machines`` names, and measures their memory, operations and energy."""
    scenario = stock.scenario
    telemetry = Telemetry() if peer is None else PeerTelemetry(peer)
    timing.time(
        plan,
        ongoing,
        reporter,
        schedule=scenario.measure,
        seed=scenario.seed,
        machines=machines,
        device=device,
        telemetry=telemetry,
        pacing=loaded.paced(stock),
    )
    measure.weigh(plan, ongoing, reporter, seed=scenario.seed, machines=machines, device=device)
    if scenario.measure.energy is None:
        return
    with Meters() as meters:
        of_sides: dict[Side, Meter] = dict.fromkeys(machines, meters)
        if peer is not None:
            of_sides["server"] = PeerMeter(peer)
        measure_energy(
            plan,
            ongoing,
            reporter,
            schedule=scenario.measure,
            seed=scenario.seed,
            sides=Sides(meters=of_sides, machines=machines),
            device=device,
            telemetry=telemetry,
        )


@contextlib.contextmanager
def followed(ongoing: Run, reporter: Reporter) -> Iterator[None]:
    """Tells in the run where this process is, and warns if an earlier one was ended: nothing else may have said so."""
    if ongoing.left_at:
        reporter.warn(
            f"The process that worked on this run before was ended at {ongoing.left_at}: by the code that ran there, "
            "by the system, where memory was short, or by hand. What was finished before is kept."
        )
    with telling(ongoing.tell):
        yield


def replay(
    keys: Iterable[PointKey],
    spec: Replay,
    links: Mapping[str, str],
    samples: pa.Table,
    ongoing: Run,
    reporter: Reporter,
) -> None:
    """Replays schemes at operating points over a section's uplinks, from the rows that are committed.

    ``links`` are the digests of the files that the section names, ``samples`` what the questions show and ask.
    """
    system = {**links, "replay": digests.of_data(spec.model_dump(mode="json"))}
    stages, outcomes = ongoing.table("stages"), ongoing.table("outcomes")
    refuse_unknown_stages(spec, stages)
    units = {
        Unit(f"replay {pipeline} {point}", {**system, **_rows_digest(stages, outcomes, pipeline, point)}): (
            pipeline,
            point,
        )
        for pipeline, point in keys
    }
    pending = ongoing.expect(units)
    if pending and (gaps := unrecorded(spec)):
        reporter.warn("\n".join(gaps))
    reporter.phase("replay", total=len(units), done=len(units) - len(pending))
    for unit in pending:
        profile = Profile.from_tables(stages, outcomes, *units[unit], samples=samples if spec.question_text else None)
        ongoing.add(unit, requests=sweep([profile], spec))
        reporter.advance()


def _rows_digest(stages: Any, outcomes: Any, pipeline: str, point: str) -> Mapping[str, str]:
    """Which rows a replay draws from: the units that they come from."""
    import pyarrow.compute as pc

    units = set()
    for table in (stages, outcomes):
        own = pc.and_(pc.equal(table["pipeline"], pipeline), pc.equal(table["point"], point))
        units |= set(pc.unique(table["unit"].filter(own)).to_pylist())
    return {"rows": digests.of_data(sorted(units))}
