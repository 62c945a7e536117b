"""The flow of a study: take stock, prepare, answer, time, replay.

    scenario --take_stock--> Stock --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Taking stock finds everything that a scenario names, or its stand-in, and its digest, without loading any of it. Each
later step reads rows and writes rows (``harness/records.py``); nothing else passes between them. Selecting operating
points and drawing work on those rows alone, whenever they are wanted (``harness/analysis``, ``harness/report``).
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import catalog, measure, timing
from harness.analysis import Analysis, validity
from harness.edge.client import Peer, PeerMeter, PeerTelemetry, Remote, RemoteSplit
from harness.edge.protocol import VERSION, Info
from harness.edge.server import ServerLimits, Service
from harness.energy import Sides, measure_energy
from harness.measure import Halves, Parted
from harness.models.contract import Models
from harness.profiling.disturbance import Watch
from harness.profiling.energy import Meter, Meters
from harness.profiling.machine import machine_name, this_machine
from harness.profiling.pacing import Pacing
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import workers_for
from harness.records import PointKey, SampleRow, Side, to_table
from harness.replay import Profile, sweep
from harness.reporter import Reporter
from harness.runs import digests, provenance
from harness.runs.store import Run, Unit
from harness.scenario.model import Scenario
from harness.scenario.replay import Replay
from harness.stock import Stock, sample_rows, take_stock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A scenario with everything that it names loaded: both halves of each scheme at each point.

    ``device`` is torch's name of what computes, ``threads`` how many processor threads its networks may use.
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
) -> None:
    """Runs a scenario into ``folder``, or completes the run that is there.

    A complete run of which nothing has changed is left alone; of another, what depends on a change is worked again.
    With a ``remote`` its server runs the server halves. Raises UnavailableError where something that the scenario names
    is not installed and has no stand-in, ResultsError where the folder holds another study, and PeerError where the
    server is absent or another than it must be.
    """
    stock = take_stock(scenario, allow_stand_ins=allow_stand_ins)
    if not fresh and (folder / provenance.MANIFEST).exists():
        earlier = provenance.read(folder / provenance.MANIFEST)
        # Which server it is now is seen when it is asked, if there is anything to do.
        server = earlier.sessions[-1].server if remote is not None else None
        now = stock.manifest(folder.name, {"id": "", "name": ""}, command, server)
        differs = provenance.changes(earlier, now)
        if earlier.status == "complete" and not differs:
            return
        if differs:
            reporter.warn(f"Since this run was last worked on, these changed: {', '.join(differs)}.")
    announce(stock, reporter)
    stock.refuse_pictures()
    with contextlib.ExitStack() as leaving:
        peer = None if remote is None else leaving.enter_context(remote.connected(describe(stock)))
        _work(prepare(stock, peer), folder, peer, reporter=reporter, fresh=fresh, command=command)


def announce(stock: Stock, reporter: Reporter) -> None:
    """Says what runs instead of what was wanted, and why, if anything does."""
    if stock.stand_ins:
        wanted_of: dict[str, list[str]] = {}
        for wanted, ran in stock.stand_ins.items():
            wanted_of.setdefault(ran, []).append(wanted)
        swaps = [f"{ran} runs instead of {' and '.join(wanted)}." for ran, wanted in wanted_of.items()]
        reporter.warn("\n".join([*stock.absent, *swaps, "Every table and figure of this run says so."]))


def _work(
    study: Study, folder: Path, peer: Peer | None, *, reporter: Reporter, fresh: bool, command: Sequence[str]
) -> None:
    """Measures and replays what is left to do, and completes the run."""
    stock, scenario = study.stock, study.stock.scenario
    machine = {**this_machine(), "torch_threads": study.threads}
    server = None if peer is None else peer.info.provenance()
    manifest = stock.manifest(folder.name, machine, command, server)
    with Run.open_or_create(folder, manifest, fresh=fresh) as ongoing:
        shown = list(sample_rows(stock))
        ongoing.record_samples(shown)
        plan = plan_of(stock, study.halves, shown)
        # A connection is one process's, and a server answers one request at a time.
        workers = 1 if peer is not None else workers_for(study.device, study.threads)
        measure.answer(plan, ongoing, reporter, workers=workers)
        telemetry = Telemetry() if peer is None else PeerTelemetry(peer)
        server_machine = None if server is None else server.machine["name"]
        timing.time(
            plan,
            ongoing,
            reporter,
            schedule=scenario.measure,
            seed=scenario.seed,
            machine=machine_name(),
            device=study.device,
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
            device=study.device,
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
                    device=study.device,
                    telemetry=telemetry,
                )
        replay(study.halves, scenario.replay, stock.links, to_table(SampleRow, shown), ongoing, reporter)
        ongoing.finish(validity.reasons(Analysis(ongoing.so_far())))


def plan_of(stock: Stock, halves: Halves, shown: Sequence[SampleRow]) -> measure.Plan:
    """What is measured of some halves; ``shown`` are the rows of the samples."""
    return measure.Plan(
        halves=halves,
        samples=stock.samples,
        sample_digests=stock.sample_digests,
        depends=stock.depends,
        patches=[row.patches for row in shown],
        scoring=stock.scenario.scoring,
        recorded=stock.recorded,
    )


def paced(stock: Stock) -> timing.Paced | None:
    """How requests come in the scenario's own study, where it wants them timed so."""
    scenario = stock.scenario
    if scenario.measure.pacing == "back_to_back":
        return None
    given = scenario.replay.model_dump(mode="json", include={"arrivals", "uplinks", "users"})
    arrivals = digests.of_data([given["arrivals"], given["uplinks"][0], given["users"][0], scenario.seed])
    return timing.Paced(pacing=Pacing(scenario.replay, scenario.seed), depends={**stock.links, "arrivals": arrivals})


def describe(stock: Stock, *, telemetry: Mapping[str, str] | None = None) -> Info:
    """What decides the answers and times of this side, for the other side to compare itself with. Imports no torch."""
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
        machine=here.machine,
        telemetry=dict(telemetry or {}),
        backbone=stock.backbone,
        max_pixels=scenario.max_pixels,
        threads=scenario.measure.threads,
        kinds={pipeline: scheme.kind for (pipeline, _), (scheme, _) in stock.points.items()},
        points=stock.parameters,
        depends=depends,
    )


def prepare(stock: Stock, peer: Peer | None = None) -> Study:
    """Makes both halves of every scheme at every point, or the device halves alone where a server has the others."""
    models, device, threads = load_models(stock)
    halves: dict[PointKey, Parted] = {}
    for key, (scheme, point) in stock.points.items():
        here = scheme.device_half(models, point)
        if peer is None:
            halves[key] = measure.Split(kind=scheme.kind, device=here, server=scheme.server_half(models, point))
        else:
            halves[key] = RemoteSplit(here, peer, key)
    return Study(stock=stock, halves=halves, device=device, threads=threads)


def load_models(stock: Stock) -> tuple[Models, str, int]:
    """The parts of the scenario's model, none of which is read yet; what computes them, in how many threads."""
    import torch

    scenario = stock.scenario
    if scenario.measure.threads is not None:
        torch.set_num_threads(scenario.measure.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = catalog.load("backbone", stock.backbone, catalog.BACKBONES)
    models = load(stock.backbone, device=device, weights=scenario.weights, max_pixels=scenario.max_pixels)
    return models, device, torch.get_num_threads()


def service(stock: Stock, *, token: str | None, limits: ServerLimits) -> Service:
    """The server halves of every scheme at every point, loaded and ready to be served."""
    models, device, _ = load_models(stock)
    halves = {key: scheme.server_half(models, point) for key, (scheme, point) in stock.points.items()}
    return Service(
        halves,
        describe(stock, telemetry=Telemetry().sources),
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
