"""The flow of a study: take stock, prepare, answer, time, replay.

    scenario --take_stock--> Stock --prepare--> Study --answer--> outcomes --time--> stages --replay--> requests

Taking stock finds everything that a scenario names, or its stand-in, and its digest, without loading any of it. Each
later step reads rows and writes rows (``harness/records.py``); nothing else passes between them. Selecting operating
points and drawing work on those rows alone, whenever they are wanted (``harness/analysis``, ``harness/report``).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import catalog, measure
from harness.analysis import Analysis, validity
from harness.measure import Halves, Reporter
from harness.profiling.machine import fingerprint, machine_name
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import workers_for
from harness.records import SampleRow, to_table
from harness.replay import Profile, sweep
from harness.runs import digests, provenance
from harness.runs.store import Run, Unit
from harness.scenario.model import Scenario
from harness.stock import Stock, sample_rows, take_stock


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
    stock.refuse_pictures()
    study = prepare(stock)

    import torch

    machine = {**fingerprint(), "torch_threads": torch.get_num_threads()}
    with Run.open_or_create(folder, stock.manifest(folder.name, machine, command), fresh=fresh) as ongoing:
        shown = list(sample_rows(stock))
        ongoing.record_samples(shown)
        plan = measure.Plan(
            halves=study.halves,
            samples=stock.samples,
            sample_digests=stock.sample_digests,
            depends=stock.depends,
            patches=[row.patches for row in shown],
            scoring=scenario.scoring,
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
        measure.weigh(plan, ongoing, reporter, seed=scenario.seed, machine=machine_name(), device=study.device)
        replay(study, ongoing, reporter)
        ongoing.finish(validity.reasons(Analysis(ongoing.so_far())))


def prepare(stock: Stock) -> Study:
    """Makes both halves of every scheme at every point."""
    import torch

    scenario = stock.scenario
    if scenario.measure.threads is not None:
        torch.set_num_threads(scenario.measure.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load = catalog.load("backbone", stock.backbone, catalog.BACKBONES)
    models = load(stock.backbone, device=device, weights=scenario.weights, max_pixels=scenario.max_pixels)
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
    samples = to_table(SampleRow, sample_rows(study.stock)) if spec.question_text else None
    pending = ongoing.expect(units)
    reporter.phase("replay", total=len(units), done=len(units) - len(pending))
    for unit in pending:
        profile = Profile.from_tables(stages, outcomes, *units[unit], samples=samples)
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
