"""The flow of a study: take stock, prepare, answer, time, replay.

    scenario --take_stock--> Stock --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Taking stock finds everything that a scenario names, or its stand-in, and its digest, without loading any of it. Each
later step reads rows and writes rows (``harness/records.py``); nothing else passes between them. Selecting operating
points and drawing work on those rows alone, whenever they are wanted (``harness/analysis``, ``harness/report``).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness import catalog, measure
from harness.analysis import Analysis, validity
from harness.cache import cache_folder
from harness.data.gathered import Gathered, gather
from harness.data.sample import Sample
from harness.errors import UnavailableError
from harness.measure import Halves, Reporter
from harness.models import files
from harness.profiling.machine import fingerprint, machine_name
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import workers_for
from harness.records import SampleRow
from harness.replay import Profile, sweep
from harness.runs import digests, provenance
from harness.runs.store import Run, Unit
from harness.scenario.load import as_given, scenario_hash
from harness.scenario.model import Scenario
from harness.schemes.contract import OperatingPoint, Scheme

Thing = TypeVar("Thing")
Key = tuple[str, str]
"""A pipeline and the label of one of its points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stock:
    """What a scenario names, as far as it is here.

    ``benchmarks`` are those that run: a stand-in for several that are wanted runs once. ``stand_ins`` maps what was
    wanted to what runs instead; ``absent`` has the sentence on each thing that is not here. ``points`` are the schemes
    with their operating points, ``depends`` the digests of what the rows of each depend on besides the samples, and
    ``links`` those of recorded links and arrivals.
    """

    scenario: Scenario
    benchmarks: Mapping[str, Sequence[Sample]]
    backbone: str
    stand_ins: Mapping[str, str]
    absent: Sequence[str]
    points: Mapping[Key, tuple[type[Scheme], OperatingPoint]]
    depends: Mapping[Key, Mapping[str, str]]
    links: Mapping[str, str]

    @functools.cached_property
    def samples(self) -> Gathered:
        """The questions that are asked, in all benchmarks."""
        return gather(self.benchmarks, self.scenario.samples, self.scenario.seed)

    @functools.cached_property
    def sample_digests(self) -> Sequence[str]:
        """A digest of each question: its pictures, its words, its truth."""
        return [_sample_digest(sample) for sample in self.samples]

    def manifest(self, name: str, machine: Mapping[str, Any], command: Sequence[str]) -> provenance.Manifest:
        """The manifest of a run of all this that begins now."""
        points: dict[str, dict[str, dict[str, Any]]] = {}
        for (pipeline, label), (_, point) in self.points.items():
            points.setdefault(pipeline, {})[label] = point.model_dump(mode="json")
        of_points = {name: digest for depends in self.depends.values() for name, digest in depends.items()}
        return provenance.begin(
            name=name,
            scenario=as_given(self.scenario),
            scenario_hash=scenario_hash(self.scenario),
            benchmarks=tuple(self.benchmarks),
            backbone=self.backbone,
            stand_ins=self.stand_ins,
            points=points,
            digests={**of_points, **self.links, "questions": digests.of_data(self.sample_digests)},
            seed=self.scenario.seed,
            command=command,
            machine=machine,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A scenario with everything that it names loaded: both halves of each scheme at each point."""

    stock: Stock
    halves: Halves
    device: str


def run(
    scenario: Scenario,
    folder: Path,
    *,
    reporter: Reporter,
    allow_stand_ins: bool = True,
    fresh: bool = False,
    command: Sequence[str] = (),
) -> None:
    """Runs a scenario into ``folder``, or completes the run that is there.

    A complete run of which nothing has changed is left alone; of another, what depends on a change is worked again.
    Raises UnavailableError where something that the scenario names is not installed and has no stand-in, and
    ResultsError where the folder holds another study.
    """
    stock = take_stock(scenario, allow_stand_ins=allow_stand_ins)
    if not fresh and (folder / provenance.MANIFEST).exists():
        earlier = provenance.read(folder / provenance.MANIFEST)
        differs = provenance.changes(earlier, stock.manifest(folder.name, {"id": "", "name": ""}, command))
        if earlier.status == "complete" and not differs:
            return
        if differs:
            reporter.warn(f"Since this run was last worked on, these changed: {', '.join(differs)}.")
    if stock.stand_ins:
        wanted_of: dict[str, list[str]] = {}
        for wanted, ran in stock.stand_ins.items():
            wanted_of.setdefault(ran, []).append(wanted)
        swaps = [f"{ran} runs instead of {' and '.join(wanted)}." for ran, wanted in wanted_of.items()]
        reporter.warn("\n".join([*stock.absent, *swaps, "Every table and figure of this run says so."]))
    study = prepare(stock)

    import torch

    machine = {**fingerprint(), "torch_threads": torch.get_num_threads()}
    with Run.open_or_create(folder, stock.manifest(folder.name, machine, command), fresh=fresh) as ongoing:
        ongoing.record_samples(sample_rows(stock.samples))
        plan = measure.Plan(
            halves=study.halves, samples=stock.samples, sample_digests=stock.sample_digests, depends=stock.depends
        )
        workers = workers_for(study.device, torch.get_num_threads())
        measure.answer(plan, ongoing, reporter, workers=workers)
        measure.time(
            plan,
            ongoing,
            reporter,
            schedule=scenario.measure,
            seed=scenario.seed,
            machine=machine_name(),
            device=study.device,
            telemetry=Telemetry(),
        )
        replay(study, ongoing, reporter)
        ongoing.finish(validity.reasons(Analysis(ongoing.so_far())))


def take_stock(scenario: Scenario, *, allow_stand_ins: bool = True) -> Stock:
    """Finds what a scenario names, or its stand-ins, with the digests of what its rows depend on. Imports no torch.

    Raises UnavailableError with a sentence for each thing that is absent and has no stand-in, and what opening the
    recorded links and arrivals raises.
    """
    stand_in = scenario.stand_in if allow_stand_ins else type(scenario.stand_in)()
    absent: list[str] = []
    load_benchmark = functools.cache(_load_benchmark)
    ran: dict[str, str] = {}
    samples: dict[str, Sequence[Sample] | None] = {}
    for wanted in scenario.wanted:
        instead = wanted.stand_in if allow_stand_ins else None
        ran[wanted.name], found = _first_at_hand(wanted.name, instead, load_benchmark, absent)
        samples[ran[wanted.name]] = found
    backbone, model = _first_at_hand(
        scenario.backbone, stand_in.backbone, lambda name: _model_digests(name, scenario.weights), absent
    )
    at_hand = {name: found for name, found in samples.items() if found is not None}
    if len(at_hand) < len(samples) or model is None:
        raise UnavailableError("\n".join(absent))
    points: dict[Key, tuple[type[Scheme], OperatingPoint]] = {}
    depends: dict[Key, dict[str, str]] = {}
    for spec in scenario.pipelines:
        scheme = catalog.load("scheme", spec.scheme, catalog.SCHEMES)
        for point in spec.operating_points():
            key = spec.name, point.label
            points[key] = scheme, point
            depends[key] = {**model, **_scheme_digests(scheme, backbone, point)}
    swaps = {**ran, scenario.backbone: backbone}
    smaller = catalog.ON_DEVICE.get(backbone)
    if backbone != scenario.backbone and any(f"tower of {smaller}" in of_point for of_point in depends.values()):
        swaps[catalog.ON_DEVICE.get(scenario.backbone, scenario.backbone)] = str(smaller)
    return Stock(
        scenario=scenario,
        benchmarks=at_hand,
        backbone=backbone,
        stand_ins={name: instead for name, instead in swaps.items() if name != instead},
        absent=absent,
        points=points,
        depends=depends,
        links={f"link {path.name}": digests.of_file(path) for path in scenario.replay.files},
    )


def prepare(stock: Stock) -> Study:
    """Makes both halves of every scheme at every point."""
    import torch

    scenario = stock.scenario
    if scenario.measure.threads is not None:
        torch.set_num_threads(scenario.measure.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = catalog.load("backbone", stock.backbone, catalog.BACKBONES)
    models = load(stock.backbone, device=device, weights=scenario.weights)
    halves: Halves = {
        key: measure.Split(
            kind=scheme.kind, device=scheme.device_half(models, point), server=scheme.server_half(models, point)
        )
        for key, (scheme, point) in stock.points.items()
    }
    return Study(stock=stock, halves=halves, device=device)


def replay(study: Study, ongoing: Run, reporter: Reporter) -> None:
    """Replays every scheme at every operating point over the scenario's uplinks, from the rows that are committed."""
    spec = study.stock.scenario.replay
    system = {**study.stock.links, "replay": digests.of_data(spec.model_dump(mode="json"))}
    stages, outcomes = ongoing.table("stages"), ongoing.table("outcomes")
    units = {
        Unit(f"replay {pipeline} {point}", {**system, **_rows_digest(stages, outcomes, pipeline, point)}): (
            pipeline,
            point,
        )
        for pipeline, point in study.halves
    }
    pending = ongoing.expect(units)
    reporter.phase("replay", total=len(units), done=len(units) - len(pending))
    for unit in pending:
        profile = Profile.from_tables(stages, outcomes, *units[unit])
        ongoing.add(unit, requests=sweep([profile], spec))
        reporter.advance()


def sample_rows(samples: Gathered) -> Iterator[SampleRow]:
    """What each question shows and asks."""
    for name in samples.names:
        yield SampleRow(
            sample=name.id,
            benchmark=name.benchmark,
            id=name.own_id,
            picture=name.image_id,
            pictures=len(name.sizes_px),
            category=name.category,
            group=name.group,
            width_px=name.width_px,
            height_px=name.height_px,
            file_bytes=name.original_bytes,
            text_bytes=name.text_bytes,
        )


def _rows_digest(stages: Any, outcomes: Any, pipeline: str, point: str) -> Mapping[str, str]:
    """Which rows a replay draws from: the units that they come from."""
    import pyarrow.compute as pc

    units = set()
    for table in (stages, outcomes):
        own = pc.and_(pc.equal(table["pipeline"], pipeline), pc.equal(table["point"], point))
        units |= set(pc.unique(table["unit"].filter(own)).to_pylist())
    return {"rows": digests.of_data(sorted(units))}


def _sample_digest(sample: Sample) -> str:
    question = dataclasses.asdict(sample.question)
    return digests.of_data([sample.image_id, question, sample.truth, sample.category, sample.group])


def _scheme_digests(scheme: type[Scheme], backbone: str, point: OperatingPoint) -> dict[str, str]:
    """Those of a point: the scheme and its parameters, the files and further models that it names."""
    found = {f"parameters of {scheme.kind} at {point.label}": digests.of_data(point.model_dump(mode="json"))}
    if named := getattr(scheme, "files", None):
        found |= {name: digests.of_file(path) for name, path in named(backbone, point).items()}
    if others := getattr(scheme, "other_models", None):
        for name, weights in others(backbone, point).items():
            found |= _model_digests(name, weights)
    return found


def _model_digests(name: str, weights: str | None) -> dict[str, str]:
    """The fingerprint of each part of a model; raises UnavailableError where it is not here."""
    if weights == "random":
        return {f"model {name}": weights}
    folder = files.locate(name, files.SOURCES[name] if weights is None else weights)
    return {f"{part} of {name}": files.fingerprint(folder, part) for part in files.PARTS}


def _first_at_hand(
    wanted: str, stand_in: str | None, load: Callable[[str], Thing], absent: list[str]
) -> tuple[str, Thing | None]:
    """What was wanted or else its stand-in; the sentences on what is absent are added to ``absent``."""
    for name in (wanted, stand_in):
        if name is not None:
            try:
                return name, load(name)
            except UnavailableError as error:
                absent.append(str(error))
    return wanted, None


def _load_benchmark(name: str) -> Sequence[Sample]:
    if (cache := cache_folder()) is None:
        raise UnavailableError(f"{name}: no cache folder can be written; name one in TOFC_HARNESS_CACHE")
    samples: Sequence[Sample] = catalog.load("benchmark", name, catalog.BENCHMARKS)(name, cache=cache)
    return samples
