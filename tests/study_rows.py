"""A made-up study's rows, enough to be sorted wrongly."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.records import OutcomeRow, RequestRow, SampleRow, StageRow
from harness.runs.provenance import Manifest
from harness.runs.store import Record, Run, Unit
from harness.runs.tables import ROWS

Work = tuple[Unit, list[StageRow], list[OutcomeRow], list[RequestRow]]


def samples(n: int = 3) -> list[SampleRow]:
    """The questions of the study."""
    return [
        SampleRow(
            sample=f"s{i:03}", benchmark="StreetsQA", id=f"s{i:03}", picture=f"p{i // 2}", pictures=1, category="all",
            group=f"s{i:03}", width_px=64, height_px=48, patches=2, file_bytes=900, text_bytes=20,
        )
        for i in range(n)
    ]  # fmt: skip


def units(
    pipelines: tuple[str, ...] = ("webp", "jpeg"),
    samples: int = 3,
    depends: Mapping[str, str] | None = None,
    repeats: int = 2,
) -> Iterator[Work]:
    """The units of a small study in the order in which they are worked: answers, timings, one replay.

    ``depends`` has what each pipeline's units depend on, by pipeline; the replay depends on all of it.
    """
    depends = depends or {}
    for pipeline in pipelines:
        for sample in range(samples):
            unit = Unit(f"answers {pipeline} quality=10 {sample:04}", {"codec": depends.get(pipeline, "-")})
            outcome = OutcomeRow(
                run="tonight", unit=unit.key, pipeline=pipeline, point="quality=10", sample=f"s{sample:03}",
                payload_bytes=1000 + sample, visual_tokens=32, prompt_tokens=60, answer_tokens=2, answer="A", truth="B",
                correct=False,
            )  # fmt: skip
            yield unit, [], [outcome], []
    for repeat in range(repeats):
        for pipeline in pipelines:
            unit = Unit(f"times {pipeline} round {repeat}", {"codec": depends.get(pipeline, "-")})
            stages = [
                StageRow(
                    run="tonight", unit=unit.key, pipeline=pipeline, point="quality=10", sample="s000", repeat=repeat,
                    round=repeat, start=0, side=side, stage=stage, seconds=0.01 * len(stage), cpu_s=None, machine="m",
                    source="measured",
                )
                for side, stage in (("device", "preprocess"), ("device", "encode"), ("server", "decode"))
            ]  # fmt: skip
            yield unit, stages, [], []
    requests = [
        RequestRow(
            replay="one user", pipeline=pipeline, point="quality=10", sample="s000", channel="25 KB/s", rate_bps=200e3,
            users=1, seed=0, user=0, submitted_s=float(i), device_begun_s=float(i), device_done_s=i + 0.1,
            sent_s=i + 0.1, delivered_s=i + 0.3, server_begun_s=None, server_done_s=None, answered_s=None,
        )
        for pipeline in pipelines
        for i in range(3)
    ]  # fmt: skip
    yield Unit("replay 25 KB/s", {"pipelines": ", ".join(pipelines), **depends}), [], [], requests


def work_on(run: Run, study: Sequence[Work]) -> list[str]:
    """Does what a study does in an open run: every unit that is not done; returns the names of the units worked."""
    run.record_samples(samples())
    pending = {unit.key for unit in run.expect(work[0] for work in study)}
    worked = []
    for unit, stages, outcomes, requests in study:
        if unit.key in pending:
            run.add(unit, stages=stages, outcomes=outcomes, requests=requests)
            worked.append(unit.name)
    return worked


def work(folder: Path, manifest: Manifest, study: Sequence[Work], *, fresh: bool = False) -> list[str]:
    """Does what a study does: every unit that is not done, then the end; returns the names of the units worked."""
    with Run.open_or_create(folder, manifest, fresh=fresh) as run:
        worked = work_on(run, study)
        run.finish()
    return worked


def same_rows(a: Record, b: Record) -> bool:
    """Whether two runs hold the same rows in the same order."""
    return all(getattr(a, kind).equals(getattr(b, kind)) for kind in ROWS)


def parts(folder: Path) -> list[Path]:
    """The parts in a run's folder."""
    return [p for p in (folder / "parts").glob("*") if not p.name.startswith(".")]
