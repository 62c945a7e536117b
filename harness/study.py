"""The flow of a study: prepare, answer, time, replay.

    scenario --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Each step reads rows and writes rows (``harness/records.py``); nothing else passes between them. Selecting operating
points and drawing work on those rows alone, whenever they are wanted (``harness/results``, ``harness/report/figures``).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from harness import catalog, measure
from harness.analysis import validity
from harness.data.gathered import Gathered, gather
from harness.data.sample import Sample
from harness.errors import UnavailableError
from harness.measure import Reporter, Schemes
from harness.models.contract import Backbone
from harness.profiling.machine import fingerprint, machine_name
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import workers_for
from harness.replay import Profile, sweep
from harness.runs import provenance
from harness.runs.store import Run
from harness.scenario.load import as_given, scenario_hash
from harness.scenario.model import Scenario

Thing = TypeVar("Thing")


@dataclasses.dataclass(frozen=True)
class Study:
    """A scenario with everything that it names at hand.

    ``benchmarks`` are those that run: a stand-in for several that are wanted runs once. ``stand_ins`` maps what was
    wanted to what runs instead; ``absent`` has the sentence on each thing that is not here.
    """

    scenario: Scenario
    benchmarks: Sequence[str]
    backbone: Backbone
    samples: Gathered
    schemes: Schemes
    stand_ins: Mapping[str, str]
    absent: Sequence[str]


def run(
    scenario: Scenario,
    folder: Path,
    *,
    reporter: Reporter,
    allow_stand_ins: bool = True,
    fresh: bool = False,
    command: Sequence[str] = (),
) -> None:
    """Runs a scenario into ``folder``, or takes up there where an earlier process stopped.

    A complete run is left alone. Raises UnavailableError where something that the scenario names is not installed and
    has no stand-in, and ResultsError where the folder holds another study.
    """
    if not fresh and _is_complete(folder, scenario):
        return
    study = prepare(scenario, allow_stand_ins=allow_stand_ins)
    if study.stand_ins:
        wanted_of: dict[str, list[str]] = {}
        for wanted, ran in study.stand_ins.items():
            wanted_of.setdefault(ran, []).append(wanted)
        swaps = [f"{ran} runs instead of {' and '.join(wanted)}." for ran, wanted in wanted_of.items()]
        reporter.warn("\n".join([*study.absent, *swaps, "Every table and figure of this run says so."]))
    manifest = provenance.begin(
        name=folder.name,
        scenario=as_given(scenario),
        scenario_hash=scenario_hash(scenario),
        resolved={"benchmark": ", ".join(study.benchmarks), "backbone": study.backbone.name},
        stand_ins=study.stand_ins,
        seed=scenario.seed,
        command=command,
        machine={**fingerprint(), "torch_threads": torch.get_num_threads()},
    )
    with Run.open_or_create(folder, manifest, fresh=fresh) as ongoing:
        names = study.samples.names
        ongoing.record_images({name.id: name.image_id for name in names}, {name.id: name.benchmark for name in names})
        workers = workers_for(study.backbone.device.type, torch.get_num_threads())
        measure.answer(study.schemes, study.samples, ongoing, reporter, workers=workers)
        measure.time(
            study.schemes,
            study.samples,
            ongoing,
            reporter,
            plan=scenario.measure,
            seed=scenario.seed,
            machine=machine_name(),
            device=str(study.backbone.device),
            telemetry=Telemetry(),
        )
        replay(study, ongoing, reporter)
        ongoing.finish(validity.reasons(ongoing))


def prepare(scenario: Scenario, *, allow_stand_ins: bool = True) -> Study:
    """Loads what a scenario names, or its stand-ins.

    Raises UnavailableError with a sentence for each thing that is absent and has no stand-in.
    """
    if scenario.measure.threads is not None:
        torch.set_num_threads(scenario.measure.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
        scenario.backbone,
        stand_in.backbone,
        lambda name: catalog.load("backbone", name, catalog.BACKBONES)(name, device=device, weights=scenario.weights),
        absent,
    )
    at_hand = {name: found for name, found in samples.items() if found is not None}
    if len(at_hand) < len(samples) or model is None:
        raise UnavailableError("\n".join(absent))
    schemes: Schemes = {
        (spec.name, point.label): catalog.load("scheme", spec.scheme, catalog.SCHEMES)(model, point)
        for spec in scenario.pipelines
        for point in spec.operating_points()
    }
    swaps = {**ran, scenario.backbone: backbone}
    on_device = catalog.ON_DEVICE.get(backbone)
    if backbone != scenario.backbone and any(scheme.backbone.name == on_device for scheme in schemes.values()):
        swaps[catalog.ON_DEVICE.get(scenario.backbone, scenario.backbone)] = str(on_device)
    return Study(
        scenario=scenario,
        benchmarks=tuple(at_hand),
        backbone=model,
        samples=gather(at_hand, scenario.samples, scenario.seed),
        schemes=schemes,
        stand_ins={name: instead for name, instead in swaps.items() if name != instead},
        absent=absent,
    )


def replay(study: Study, ongoing: Run, reporter: Reporter) -> None:
    """Replays every scheme at every operating point over the scenario's uplinks, from the rows that have landed."""
    stages, outcomes = ongoing.table("stages"), ongoing.table("outcomes")
    schemes = [scheme for scheme in study.schemes if not ongoing.done(_replay_unit(*scheme))]
    reporter.phase("replay", total=len(study.schemes), done=len(study.schemes) - len(schemes))
    for pipeline, point in schemes:
        profile = Profile.from_tables(stages, outcomes, pipeline, point)
        ongoing.add(_replay_unit(pipeline, point), requests=sweep([profile], study.scenario.replay))
        reporter.advance()


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
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tofc-harness"
    samples: Sequence[Sample] = catalog.load("benchmark", name, catalog.BENCHMARKS)(name, cache=cache)
    return samples


def _is_complete(folder: Path, scenario: Scenario) -> bool:
    if not (folder / provenance.MANIFEST).exists():
        return False
    manifest = provenance.read(folder / provenance.MANIFEST)
    return manifest.status == "complete" and manifest.scenario_hash == scenario_hash(scenario)


def _replay_unit(pipeline: str, point: str) -> str:
    return f"replay {pipeline} {point}"
