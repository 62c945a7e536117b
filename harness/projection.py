"""A run of estimates: a scenario with an ``estimate:`` section, for other hardware.

    work of each stage --roofline--> StageRow (estimated)
    payloads as reported or derived -> OutcomeRow          --replay--> RequestRow

Everything that reads runs reads it. No score is claimed, and the run is INVALID, because nothing in it was measured.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from harness import study
from harness.analysis import Analysis, validity
from harness.analysis.latency import part_s
from harness.channel.channel import unreadable_files
from harness.errors import ResultsError, ScenarioError
from harness.estimates.estimate import Estimated, Estimator, total
from harness.estimates.sheets import digest
from harness.profiling.machine import this_machine
from harness.records import OutcomeRow, ResourceRow, SampleRow, StageRow, to_table
from harness.replay import Profile, sweep
from harness.reporter import Reporter
from harness.runs import digests, provenance
from harness.runs.store import Run, Unit
from harness.scenario.estimate import ClaimedTime, EstimateSection
from harness.scenario.load import as_given, scenario_hash
from harness.scenario.model import Scenario
from harness.scenario.replay import ClosedLoop

REASON = "nothing was measured: times are estimated, payloads are reported or derived, and no score is known"
_SAMPLE = "nominal request"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Projected:
    """A pipeline's point: its payload, and its stages with their errors."""

    pipeline: str
    point: Any
    payload_bytes: int
    stages: Sequence[Estimated]

    @property
    def label(self) -> str:
        """The point's name."""
        return str(self.point.label)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A pipeline's seconds over an uplink with the ends of their error; ``complete`` if all stages have one.

    They are those of a request that meets no other; it waits (``wait_s``) only for a batch to be filled.
    """

    pipeline: str
    channel: str
    device_s: float
    link_s: float
    wait_s: float
    server_s: float
    seconds: float
    low_s: float
    high_s: float
    complete: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JudgedClaim:
    """A claim beside the estimate over each uplink: the value, its ends, and how the two agree."""

    claim: ClaimedTime
    channel: str
    value: float
    low: float
    high: float
    agrees: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """All estimates of a scenario."""

    scenario: Scenario
    estimator: Estimator
    projected: Sequence[Projected]
    totals: Sequence[Total]

    @property
    def section(self) -> EstimateSection:
        """The scenario's own."""
        assert self.scenario.estimate is not None
        return self.scenario.estimate

    def verdicts(self) -> Iterator[JudgedClaim]:
        """Each claim over each uplink."""
        of = {(row.pipeline, row.channel): row for row in self.totals}
        for claim in self.section.claims:
            for channel in dict.fromkeys(row.channel for row in self.totals):
                one = of[claim.of, channel]
                value, low, high = one.seconds, one.low_s, one.high_s
                if claim.over is not None:
                    other = of[claim.over, channel]
                    value, low, high = value / other.seconds, low / other.high_s, high / other.low_s
                agrees = _agrees(claim, value, low, high)
                yield JudgedClaim(claim=claim, channel=channel, value=value, low=low, high=high, agrees=agrees)


def project(scenario: Scenario) -> Projection:
    """The estimates of a scenario with an ``estimate:`` section.

    Raises ScenarioError for machines without a data sheet, schemes whose work is not counted, pipelines without a
    payload that send one, and recorded links that cannot be read.
    """
    section = scenario.estimate
    assert section is not None
    if wrong := unreadable_files(scenario.replay):
        raise ScenarioError("\n".join(wrong))
    estimator = Estimator(section.device, section.server)
    # Imported late: counting imports torch, and the names above are checked without it.
    from harness.estimates.backbone import CountedBackbone
    from harness.estimates.stages import NominalRequest, work_of

    backbone = CountedBackbone(scenario.backbone)
    picture = section.picture
    asked = NominalRequest(
        width_px=picture.width_px,
        height_px=picture.height_px,
        text_tokens=section.text_tokens,
        answer_tokens=section.answer_tokens,
    )
    projected = []
    for spec in scenario.pipelines:
        for point, works in work_of(spec, backbone, asked):
            sends = any(work.side == "server" for work in works)
            n_bytes = section.payload_bytes(spec.name)
            if sends and n_bytes is None:
                raise ScenarioError(
                    f"{spec.name} has stages on the server and no payload; give it one under estimate.payloads, as "
                    "'size: 14 kB', or 'times: 2' and 'of: another pipeline', with who 'says' so"
                )
            projected.append(
                Projected(
                    pipeline=spec.name,
                    point=point,
                    payload_bytes=(n_bytes or 0) if sends else 0,
                    stages=estimator.stages(works),
                )
            )
    return Projection(
        scenario=scenario, estimator=estimator, projected=projected, totals=list(_totals(scenario, projected))
    )


def run(
    scenario: Scenario, folder: Path, *, reporter: Reporter, fresh: bool = False, command: Sequence[str] = ()
) -> Projection:
    """Makes the run of a projection in ``folder``; an existing one is replaced, because nothing in it was measured.

    Raises what :func:`project` raises, and ResultsError where the folder holds another study, or measured rows.
    """
    Run.check_writable(folder)
    if (there := (folder / provenance.MANIFEST).exists()) and not fresh:
        _refuse_other(folder, scenario)
    reporter.warn(f"{scenario.name}: {REASON}. Every table and figure of this run says so.")
    found = project(scenario)
    begun = provenance.begin(
        name=folder.name,
        scenario=as_given(scenario),
        scenario_hash=scenario_hash(scenario),
        benchmarks=[wanted.name for wanted in scenario.wanted],
        backbone=scenario.backbone,
        stand_ins={},
        points={
            name: {p.label: p.point.model_dump(mode="json") for p in found.projected if p.pipeline == name}
            for name in dict.fromkeys(p.pipeline for p in found.projected)
        },
        digests={"data sheets and published times": digest(), "scenario": scenario_hash(scenario)}
        | digests.of_links(scenario.replay.files),
        seed=scenario.seed,
        command=command,
        machine=this_machine(),
    )
    with Run.open_or_create(folder, begun, fresh=fresh or there) as ongoing:
        ongoing.record_samples([_sample(scenario)])
        for of_point in found.projected:
            unit = Unit(f"estimates {of_point.pipeline} {of_point.label}", {"sheets": digest(), **_depends(of_point)})
            ongoing.add(
                unit,
                stages=list(_stage_rows(folder.name, unit.key, of_point, found)),
                outcomes=[_outcome(folder.name, unit.key, of_point)],
                resources=list(_resource_rows(folder.name, unit.key, of_point, found)),
            )
        keys = [(p.pipeline, p.label) for p in found.projected]
        links = {name: value for name, value in begun.digests.items() if name.startswith("link ")}
        study.replay(keys, scenario.replay, links, to_table(SampleRow, [_sample(scenario)]), ongoing, reporter)
        ongoing.finish([REASON, *validity.reasons(Analysis(ongoing.so_far()))])
    return found


def _refuse_other(folder: Path, scenario: Scenario) -> None:
    """Raises ResultsError for a folder whose run is not a projection of this scenario."""
    given = provenance.read(folder / provenance.MANIFEST).scenario
    choose = "choose another --name, or replace it with --fresh"
    if given.get("name") != scenario.name:
        raise ResultsError(f"{folder}: holds a run of another scenario; {choose}")
    if given.get("estimate") is None:
        raise ResultsError(f"{folder}: holds a run that was measured; {choose}")


def _totals(scenario: Scenario, projected: Sequence[Projected]) -> Iterator[Total]:
    """Each pipeline's first point over each uplink, for a single request."""
    alone = {"requests": None, "users": (1,), "arrivals": ClosedLoop(kind="closed_loop")}
    spec = scenario.replay.model_copy(update=alone)
    first = {p.pipeline: p for p in reversed(projected)}
    for of_point in (p for p in projected if first[p.pipeline] is p):
        rows = sweep([_profile(of_point)], spec)
        for uplink in spec.uplinks:
            request = rows.filter(pc.equal(rows["channel"], uplink.label)).slice(0, 1)
            device, server = (
                sum(stage.seconds for stage in of_point.stages if stage.side == side) for side in ("device", "server")
            )
            link_s, wait_s = (float(part_s(request, part)[0]) for part in ("link", "wait"))
            seconds, low_s, high_s, complete = total(of_point.stages, link_s + wait_s)
            yield Total(
                pipeline=of_point.pipeline,
                channel=uplink.label,
                device_s=device,
                link_s=link_s,
                wait_s=wait_s,
                server_s=server,
                seconds=seconds,
                low_s=low_s,
                high_s=high_s,
                complete=complete,
            )


def _profile(of_point: Projected) -> Profile:
    run = "projection"
    rows = [StageRow(**_stage(run, "", of_point, stage), machine="", source="estimated") for stage in of_point.stages]
    outcomes = to_table(OutcomeRow, [_outcome(run, "", of_point)])
    return Profile.from_tables(to_table(StageRow, rows), outcomes, of_point.pipeline, of_point.label)


def _stage(run: str, unit: str, of_point: Projected, stage: Estimated) -> dict[str, Any]:
    return {
        "run": run,
        "unit": unit,
        "pipeline": of_point.pipeline,
        "point": of_point.label,
        "sample": _SAMPLE,
        "repeat": 0,
        "round": 0,
        "start": 0,
        "side": stage.side,
        "stage": stage.stage,
        "seconds": stage.seconds,
        "cpu_s": None,
    }


def _stage_rows(run: str, unit: str, of_point: Projected, found: Projection) -> Iterator[StageRow]:
    machines = found.estimator.machines
    for stage in of_point.stages:
        yield StageRow(**_stage(run, unit, of_point, stage), machine=machines[stage.side], source="estimated")


def _resource_rows(run: str, unit: str, of_point: Projected, found: Projection) -> Iterator[ResourceRow]:
    for stage in of_point.stages:
        yield ResourceRow(
            run=run,
            unit=unit,
            pipeline=of_point.pipeline,
            point=of_point.label,
            sample=_SAMPLE,
            side=stage.side,
            stage=stage.stage,
            quantity="operations",
            value=stage.operations,
            machine=found.estimator.machines[stage.side],
            source="estimated",
        )


def _outcome(run: str, unit: str, of_point: Projected) -> OutcomeRow:
    """The payloads; nothing is answered, so no verdict is right and no score is claimed."""
    return OutcomeRow(
        run=run,
        unit=unit,
        pipeline=of_point.pipeline,
        point=of_point.label,
        sample=_SAMPLE,
        payload_bytes=of_point.payload_bytes,
        visual_tokens=0,
        prompt_tokens=0,
        answer_tokens=0,
        answer="",
        truth="",
        correct=False,
    )


def _sample(scenario: Scenario) -> SampleRow:
    from harness.models.patches import patches_of_all

    section = scenario.estimate
    assert section is not None
    picture = section.picture
    size = picture.width_px, picture.height_px
    return SampleRow(
        sample=_SAMPLE,
        benchmark=scenario.wanted[0].name,
        id=_SAMPLE,
        picture=_SAMPLE,
        pictures=1,
        category="",
        group="",
        width_px=picture.width_px,
        height_px=picture.height_px,
        patches=patches_of_all([size], scenario.backbone, "random"),
        file_bytes=picture.file_bytes,
        text_bytes=0,
    )


def _depends(of_point: Projected) -> Mapping[str, str]:
    rows = [[stage.side, stage.stage, stage.seconds] for stage in of_point.stages]
    return {"stages": digests.of_data(rows), "payload": str(of_point.payload_bytes)}


def _agrees(claim: ClaimedTime, value: float, low: float, high: float) -> str:
    """``yes``; ``within the error``, where the interval reaches the claimed range; ``no``."""
    least, most = claim.low if claim.low is not None else -math.inf, claim.high if claim.high is not None else math.inf
    if least <= value <= most:
        return "yes"
    return "within the error" if low <= most and high >= least else "no"
