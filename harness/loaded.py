"""A scenario loaded in this process: its halves, what describes it to another machine, and the workers that load it."""

import contextlib
import dataclasses
import functools
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import catalog, measure, timing
from harness.edge.client import Peer, RemoteSplit
from harness.edge.protocol import VERSION, Info, differences
from harness.errors import PeerError, placed
from harness.measure import Halves, Parted
from harness.model_probe import elements_of
from harness.models.contract import Models
from harness.profiling.disturbance import Watch
from harness.profiling.energy import Meters
from harness.profiling.machine import this_machine
from harness.profiling.pacing import Pacing
from harness.profiling.telemetry import Telemetry
from harness.records import PointKey, SampleRow
from harness.reporter import Reporter, unsaid
from harness.runs import digests, provenance
from harness.runs.store import Run
from harness.scenario.model import Scenario
from harness.stock import Stock, sample_rows, take_stock
from harness.team import Answering, Team

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
    return plan_of(stock, StudyHalves(stock), list(sample_rows(stock)))


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
    halves = StudyHalves(stock, peer)
    halves.make()
    return Study(stock=stock, halves=halves, device=device, threads=threads)


class StudyHalves(Mapping[PointKey, Parted]):
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


def answering(
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
