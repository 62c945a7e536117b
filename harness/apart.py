"""One half of a run, on a machine without a network to the other: payloads are carried as files.

    device half: <run>/payloads/<key>   the envelope of a picture by a scheme at a point, by the key of its unit
                 stages of the device; the outcomes of schemes that send nothing
    server half: stages of the server, and the outcomes of everything else, from a copy of the device half's folder

Both sides have the benchmark and the model's files; each loads the parts that its own halves need. ``harness join``
makes a run of the two.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from harness import files, loaded, measure, study
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError, ResultsError, ScenarioError, SchemeError, placed
from harness.measure import Parted, Plan
from harness.models.contract import Untimed
from harness.profiling.machine import machine_name, this_machine
from harness.profiling.resources import Need
from harness.records import PointKey, Side
from harness.reporter import Reporter
from harness.runs import disk
from harness.runs.digests import changed, of_file, of_folder
from harness.runs.store import Run
from harness.scenario.model import Scenario
from harness.schemes.contract import Answer, Clock, DeviceHalf, Payload
from harness.schemes.envelope import unpack
from harness.stock import Stock, sample_rows, take_stock
from harness.workers import spread, workers_for

PAYLOADS = "payloads"
"""The folder of a device half's payloads, and the name of their digest."""

_MOST_BYTES = 1 << 30
_ONE_OR_THE_OTHER = (
    "the device half answers some pictures and sends a payload of others; halves that are measured apart do one or the "
    "other. 'harness run' measures such a scheme"
)


def measure_half(
    scenario: Scenario,
    folder: Path,
    half: Side,
    *,
    payloads: Path | None = None,
    reporter: Reporter,
    allow_stand_ins: bool = True,
    fresh: bool = False,
    command: Sequence[str] = (),
) -> None:
    """Measures the device halves of a scenario into ``folder``, or its server halves on another folder's payloads.

    Completes an unfinished half. Raises ScenarioError for a scenario with ``measure.precision``, ResultsError if
    ``payloads`` is not a device half of this scenario, and what :func:`harness.study.run` raises.
    """
    if (precision := scenario.measure.precision) is not None:
        # Each half would stop at a number of pictures of its own, and the two could not be joined.
        raise ScenarioError(
            f"{scenario.name}: measure.precision is {100 * precision:g} %, and a half alone cannot tell when the mean "
            "of both is known so well; give measure.timed_samples instead"
        )
    Run.check_writable(folder)
    Run.refuse_source(folder, *([] if payloads is None else [payloads]), *(one.file for one in scenario.profile))
    stock = take_stock(scenario, allow_stand_ins=allow_stand_ins)
    study.announce(stock, reporter)
    sent = None if payloads is None else _Sent.of(payloads, stock)
    if half == "device":
        stock.refuse_pictures()
    models, device, threads = loaded.load_models(stock)
    halves: dict[PointKey, Parted] = {}
    for key, (scheme, point) in stock.points.items():
        with placed(" at ".join(key)):
            if sent is None:
                halves[key] = _Sending(scheme.kind, scheme.device_half(models, point))
            elif key in sent.files:
                server = scheme.server_half(models, point)
                from_files = _FromFiles(sent.files[key], scheme.kind)
                halves[key] = measure.Split(kind=scheme.kind, device=from_files, server=server)
    machine = {**this_machine(), "torch_threads": threads}
    manifest = stock.manifest(folder.name, machine, command, half=half)
    if sent is not None:
        manifest = manifest.model_copy(update={"digests": {**manifest.digests, PAYLOADS: sent.digest}})
    shown = list(sample_rows(stock))
    plan = loaded.plan_of(stock, halves, shown)
    if sent is not None:
        plan = dataclasses.replace(plan, sent=sent.digests)
    with Run.open_or_create(folder, manifest, fresh=fresh) as ongoing, study.followed(ongoing, reporter):
        ongoing.record_samples(shown)
        answering = (
            plan if sent is not None else dataclasses.replace(plan, halves=_write_payloads(plan, folder, reporter))
        )
        spreading: measure.Spread = functools.partial(spread, workers=workers_for(device, threads), named=measure.named)
        measure.answer(answering, ongoing, reporter, spread=spreading)
        study.profile(stock, plan, ongoing, reporter, device=device, machines={half: machine_name()})
        ongoing.finish([f"holds only the {half} half; 'harness join' makes a run of two"])


def payloads_digest(folder: Path) -> str:
    """The digest of all payloads of a device half, by name and content."""
    return of_folder(folder / PAYLOADS)


def _write_payloads(plan: Plan, folder: Path, reporter: Reporter) -> dict[PointKey, Parted]:
    """Writes the payload of every picture by every scheme; returns the halves that answer instead of sending.

    A payload that exists is complete: its name is the key of everything that it depends on.
    """
    places = (folder / PAYLOADS).glob("*") if (folder / PAYLOADS).is_dir() else ()
    there = {path.name for path in places}
    answering: dict[PointKey, Parted] = {}
    units = {plan.answering(key, places).key: (key, places) for key in plan.halves for places in plan.pictures}
    sending = {units[name][0] for name in there & units.keys()}
    for strange in there - units.keys():
        disk.discard(folder / PAYLOADS / strange)
    reporter.phase("payloads", total=len(units), done=len(there & units.keys()))
    for name, (key, of_picture) in units.items():
        if name in there or key in answering:
            continue
        sample = plan.samples[of_picture[0]]
        with placed(" at ".join(key), sample.id):
            sent = measure.sent_by(plan.halves[key], sample, Untimed())
            if isinstance(sent, Answer) and key in sending:
                raise SchemeError(_ONE_OR_THE_OTHER)
        if isinstance(sent, Answer):
            answering[key] = _Answering(plan.halves[key].kind, plan.halves[key].device)
        else:
            sending.add(key)
            disk.write_bytes(folder / PAYLOADS / name, sent)
        reporter.advance()
    return answering


@dataclasses.dataclass(frozen=True)
class _Sending:
    """A scheme on the device, whose payloads are not answered here."""

    kind: str
    device: DeviceHalf
    near: ClassVar[bool] = True

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], None]:  # noqa: ARG002
        """Nothing: the payload's file is answered on the other machine."""
        return [], None

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """Nothing."""

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:  # noqa: ARG002
        """Nothing that is known here."""
        return []


@dataclasses.dataclass(frozen=True)
class _Answering(_Sending):
    """A scheme that answers on the device, and of which no payload was written."""

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], None]:  # noqa: ARG002
        """Raises SchemeError: it sends a payload after all."""
        raise SchemeError(_ONE_OR_THE_OTHER)


@dataclasses.dataclass(frozen=True)
class _FromFiles:
    """Stands in for a device half: reads the payload that it made of a sample's pictures from its file."""

    files: Mapping[str, Path]
    kind: str

    def __call__(self, sample: Sample, clock: Clock) -> Payload:  # noqa: ARG002
        """The payload; raises BitstreamError for a file that is damaged."""
        path = self.files[sample.id]
        try:
            return unpack(files.read(path, at_most=_MOST_BYTES), self.kind)
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {files.why(error)}") from None
        except BitstreamError as error:
            raise BitstreamError(f"{path}: {error}; copy the folder of the device half again") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sent:
    """What a device half sent: the file of each sample's payload, by scheme and point, and the digest of all.

    ``digests`` are the files' own: a device half that is measured again may send other bytes under the same name.
    """

    files: Mapping[PointKey, Mapping[str, Path]]
    digests: Mapping[PointKey, Mapping[str, str]]
    digest: str

    @classmethod
    def of(cls, folder: Path, stock: Stock) -> "_Sent":
        """What is in the folder of a device half; raises ResultsError for that of another scenario or model."""
        record = Run.read(folder, "device")
        here = stock.manifest("", {"id": "", "name": ""}, ())
        found = [*(["scenario"] if record.manifest.scenario_hash != here.scenario_hash else [])]
        found += [
            f"{name} ({record.manifest.digests.get(name, 'absent')} there, {here.digests.get(name, 'absent')} here)"
            for name in changed(record.manifest.digests, here.digests)
        ]
        found += (
            ["version of the harness's code"] if record.manifest.sessions[-1].code != here.sessions[-1].code else []
        )
        if found:
            raise ResultsError(f"{folder}: was measured with another {', '.join(found)}; give both sides the same")
        by_itself = {
            (row["pipeline"], row["point"]) for row in record.outcomes.select(["pipeline", "point"]).to_pylist()
        }
        plan = loaded.plan_of(stock, {}, list(sample_rows(stock)))
        paths: dict[PointKey, dict[str, Path]] = {}
        digests: dict[PointKey, dict[str, str]] = {}
        for key in stock.points:
            if key in by_itself:
                continue
            for places in plan.pictures:
                path = folder / PAYLOADS / plan.answering(key, places).key
                if not path.is_file():
                    sample = stock.samples.names[places[0]].id
                    raise ResultsError(
                        f"{path}: no such file; it is the payload of {' at '.join(key)} for sample {sample}: copy the "
                        "whole folder of the device half"
                    )
                names = [stock.samples.names[place].id for place in places]
                paths.setdefault(key, {}).update(dict.fromkeys(names, path))
                digests.setdefault(key, {}).update(dict.fromkeys(names, of_file(path)))
        return cls(files=paths, digests=digests, digest=payloads_digest(folder))
