"""The flow of a study: take stock, prepare, answer, time, replay.

    scenario --take_stock--> Stock --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Taking stock finds everything that a scenario names, or its stand-in, and its digest, without loading any of it. Each
later step reads rows and writes rows (``harness/records.py``); nothing else passes between them. Selecting operating
points and drawing use only those rows, at any later time (``harness/analysis``, ``harness/report``).
"""

import contextlib
import dataclasses
import functools
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from harness import catalog, cost, measure, timing
from harness.analysis import Analysis, validity
from harness.edge.client import Peer, PeerMeter, PeerTelemetry, Remote, RemoteSplit
from harness.edge.protocol import VERSION, Info, differences
from harness.energy import Sides, is_readable, measure_energy, unmeasured
from harness.errors import PeerError, placed, telling
from harness.measure import Halves, Parted
from harness.model_probe import elements_of
from harness.models.contract import Models
from harness.profiling.disturbance import Watch
from harness.profiling.energy import Meter, Meters
from harness.profiling.machine import machine_name, this_machine
from harness.profiling.pacing import Pacing
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
from harness.team import AS_SUITS, Answering, Team

if TYPE_CHECKING:
    from harness.edge.server import ServerLimits, Service


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A scenario with everything that it names loaded: both halves of each scheme at each point.

    ``device`` is torch's name of the device, ``threads`` how many processor threads its networks may use.
    """

    stock: Stock
    halves: Halves
    device: str
    threads: int


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
        peer = None if remote is None else leaving.enter_context(remote.connected(describe(stock), tell))
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
        with remote.connected(describe(stock), tell) as peer:
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
    _, device, threads = load_models(stock)
    halves = _Halves(stock, peer)
    loads = peer is None and team.loads(device, threads)
    if not loads:
        halves.make()
    machine = {**this_machine(), "torch_threads": threads}
    server = None if peer is None else peer.info.provenance()
    manifest = stock.manifest(folder.name, machine, command, server, shape)
    with Run.open_or_create(folder, manifest, fresh=fresh) as ongoing, followed(ongoing, reporter):
        shown = list(sample_rows(stock))
        ongoing.record_samples(shown)
        plan = dataclasses.replace(plan_of(stock, halves, shown), shape=shape)
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
                plan, ongoing, reporter, spread=_answering(stock, team, device, threads, ongoing, reporter, tell)
            )
        halves.make()
        telemetry = Telemetry() if peer is None else PeerTelemetry(peer)
        server_machine = None if server is None else server.machine["name"]
        timing.time(
            plan,
            ongoing,
            reporter,
            schedule=scenario.measure,
            seed=scenario.seed,
            machine=machine_name(),
            device=device,
            telemetry=telemetry,
            server=server_machine,
            pacing=paced(stock),
        )
        measure.weigh(
            plan,
            ongoing,
            reporter,
            seed=scenario.seed,
            machine=machine_name(),
            device=device,
            server=server_machine,
        )
        if scenario.measure.energy is not None:
            with Meters() as meters:
                told: dict[Side, Meter] = {"device": meters, "server": meters if peer is None else PeerMeter(peer)}
                machines: dict[Side, str] = {"device": machine_name(), "server": server_machine or machine_name()}
                measure_energy(
                    plan,
                    ongoing,
                    reporter,
                    schedule=scenario.measure,
                    seed=scenario.seed,
                    sides=Sides(meters=told, machines=machines),
                    device=device,
                    telemetry=telemetry,
                )
        replay(halves, scenario.replay, stock.links, to_table(SampleRow, shown), ongoing, reporter)
        ongoing.finish(validity.reasons(Analysis(ongoing.so_far())))


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


def plan_of(stock: Stock, halves: Halves, shown: Sequence[SampleRow]) -> measure.Plan:
    """What is measured of some halves; ``shown`` are the rows of the samples."""
    return measure.Plan(
        halves=halves,
        samples=stock.samples,
        sample_digests=stock.sample_digests,
        depends=stock.depends,
        patches=[row.patches for row in shown],
        scoring=stock.scenario.scoring,
        threads=stock.scenario.measure.threads,
        recorded=stock.recorded,
    )


def planned(stock: Stock) -> measure.Plan:
    """What is measured of a study; its halves are made when the first of them is needed."""
    return plan_of(stock, _Halves(stock), list(sample_rows(stock)))


def paced(stock: Stock) -> timing.Paced | None:
    """The pacing of requests by the scenario's own arrivals, if it asks for that."""
    scenario = stock.scenario
    if scenario.measure.pacing == "back_to_back":
        return None
    given = scenario.replay.model_dump(mode="json", include={"arrivals", "uplinks", "users"})
    arrivals = digests.of_data([given["arrivals"], given["uplinks"][0], given["users"][0], scenario.seed])
    return timing.Paced(pacing=Pacing(scenario.replay, scenario.seed), depends={**stock.links, "arrivals": arrivals})


def describe(stock: Stock, *, telemetry: Mapping[str, str] | None = None, threads: int | None = None) -> Info:
    """What decides the answers and times of this side, for the other side to compare itself with. Imports no torch.

    ``threads`` is the number of processor threads that its networks use, where that is known.
    """
    scenario = stock.scenario
    here = stock.manifest("", this_machine(), ()).sessions[-1]
    depends: dict[str, dict[str, dict[str, str]]] = {}
    for (pipeline, label), of_point in stock.depends.items():
        depends.setdefault(pipeline, {})[label] = dict(of_point)
    return Info(
        protocol=VERSION,
        version=here.harness_version,
        code=here.code,
        commit=here.commit,
        dirty=here.dirty,
        packages=here.packages,
        machine={**here.machine, **({} if threads is None else {"torch_threads": threads})},
        telemetry=dict(telemetry or {}),
        backbone=stock.backbone,
        max_pixels=scenario.max_pixels,
        threads=scenario.measure.threads,
        kinds={pipeline: scheme.kind for (pipeline, _), (scheme, _) in stock.points.items()},
        points=stock.parameters,
        depends=depends,
    )


def prepare(stock: Stock, peer: Peer | None = None) -> Study:
    """Makes both halves of every scheme at every point, or only the device halves if a server has the others."""
    _, device, threads = load_models(stock)
    halves = _Halves(stock, peer)
    halves.make()
    return Study(stock=stock, halves=halves, device=device, threads=threads)


class _Halves(Mapping[PointKey, Parted]):
    """The halves of every scheme at every point, made when they are first needed."""

    def __init__(self, stock: Stock, peer: Peer | None = None) -> None:
        self._stock, self._peer = stock, peer

    def make(self) -> None:
        """Makes them now."""
        _ = self._made

    @functools.cached_property
    def _made(self) -> dict[PointKey, Parted]:
        models, _, _ = load_models(self._stock)
        halves: dict[PointKey, Parted] = {}
        for key, (scheme, point) in self._stock.points.items():
            with placed(" at ".join(key)):
                here = scheme.device_half(models, point)
                if self._peer is not None:
                    halves[key] = RemoteSplit(scheme.kind, here, self._peer, key)
                    continue
                there = scheme.server_half(models, point)
            halves[key] = measure.Split(kind=scheme.kind, device=here, server=there)
        return halves

    def __getitem__(self, key: PointKey) -> Parted:
        return self._made[key]

    def __iter__(self) -> Iterator[PointKey]:
        return iter(self._stock.points)

    def __len__(self) -> int:
        return len(self._stock.points)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order to a worker that loads for itself: the study, and what it depends on in the parent.

    ``folder`` is where relative paths count from, ``computes`` names the processor or GPU there, ``threads`` says how
    many the worker's networks may use.
    """

    scenario: Scenario
    run: str
    folder: Path
    asked_by: Info
    computes: str
    threads: int


def answers_for(order: Order) -> measure.Answers:
    """Loads a study in a worker, and gives what answers its parts.

    Raises PeerError if code, packages, model files, schemes or the processor differ from the parent's: rows could
    differ.
    """
    with contextlib.suppress(FileNotFoundError):
        os.chdir(order.folder)
    stock = take_stock(order.scenario)
    here = describe(stock)
    packages = {name: (order.asked_by.packages.get(name), here.packages.get(name)) for name in provenance.PACKAGES}
    found = [
        *differences(order.asked_by, here),
        *(f"{name} is {asker} here and {own} there" for name, (asker, own) in packages.items() if asker != own),
    ]
    _refuse_worker(found)
    study = prepare(stock)
    if (computes := computes_on(study.device)) != order.computes:
        _refuse_worker([f"{order.computes} computes here and {computes} there"])
    if study.threads != order.threads:
        import torch

        torch.set_num_threads(order.threads)
    return measure.answers_of(plan_of(stock, study.halves, list(sample_rows(stock))), order.run)


def _refuse_worker(differs: Sequence[str]) -> None:
    if differs:
        raise PeerError(
            f"a worker on {platform.node()} could give other rows: {'; '.join(differs)}; give all workers the same "
            "harness, packages, scenario, model files and kind of processor"
        )


def computes_on(device: str) -> str:
    """The name of the GPU, or of the processor, that computes."""
    if device != "cuda":
        return str(this_machine()["processor"])
    import torch

    return torch.cuda.get_device_name()


def _answering(
    stock: Stock,
    team: Team,
    device: str,
    threads: int,
    ongoing: Run,
    reporter: Reporter,
    tell: Callable[[str], None] = unsaid,
) -> Answering:
    """A team at the answers of a study."""

    def answerer(each: int) -> Callable[[], measure.Answers]:
        order = Order(
            scenario=stock.scenario,
            run=ongoing.manifest.name,
            folder=Path.cwd(),
            asked_by=describe(stock),
            computes=computes_on(device),
            threads=each,
        )
        return functools.partial(answers_for, order)

    return Answering(
        team=team,
        device=device,
        threads=threads,
        given=stock.scenario.measure.threads is not None,
        answerer=answerer,
        weight_bytes=lambda: elements_of(stock) * (2 if device == "cuda" else 4),
        record=functools.partial(ongoing.record_conditions, "answers"),
        warn=reporter.warn,
        tell=tell,
    )


def load_models(stock: Stock) -> tuple[Models, str, int]:
    """The parts of the scenario's model, none of which is read yet; the device, and the number of threads."""
    import torch

    scenario = stock.scenario
    if scenario.measure.threads is not None:
        torch.set_num_threads(scenario.measure.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = catalog.load("backbone", stock.backbone, catalog.BACKBONES)
    models = load(stock.backbone, device=device, weights=scenario.weights, max_pixels=scenario.max_pixels)
    return models, device, torch.get_num_threads()


def service(stock: Stock, *, token: str | None, limits: "ServerLimits") -> "Service":
    """The server halves of every scheme at every point, loaded and ready to be served."""
    from harness.edge.server import Service  # Imports a web server, which only this needs.

    models, device, threads = load_models(stock)
    halves = {}
    for key, (scheme, point) in stock.points.items():
        with placed(" at ".join(key)):
            halves[key] = scheme.server_half(models, point)
    return Service(
        halves,
        describe(stock, telemetry=Telemetry().sources, threads=threads),
        device=device,
        token=token,
        limits=limits,
        watch=Watch(),
        meters=None if stock.scenario.measure.energy is None else Meters,
    )


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
