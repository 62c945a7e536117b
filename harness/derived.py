"""Runs made of the rows of finished runs: two halves joined, a run replayed in another system. Nothing is measured.

device half + server half --join--> run
run + replay section -----replay--> run, whose rows are *recorded*
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness import study
from harness.analysis import Analysis, validity
from harness.apart import PAYLOADS, payloads_digest
from harness.channel.channel import unreadable_files
from harness.errors import ResultsError, ScenarioError
from harness.profiling.machine import this_machine
from harness.records import Side
from harness.replay.sweep import refuse_unknown_stages
from harness.reporter import Reporter
from harness.runs import digests, provenance, recorded
from harness.runs.provenance import MANIFEST, Manifest
from harness.runs.recorded import RecordedTimes
from harness.runs.store import MEASURED, Record, Run, Unit
from harness.runs.tables import Kind
from harness.scenario.load import as_given, hash_of, replay_from_given
from harness.scenario.model import Scenario
from harness.scenario.replay import Replay
from harness.stock import profile_digests, profiles_of

Tables = Mapping[Kind, pa.Table]

_OF_ORIGIN = "in the replayed run: "
"""How a reason begins that is against the run whose rows are replayed."""


def join(device: Path, server: Path, folder: Path, *, links: Path, reporter: Reporter, fresh: bool) -> None:
    """Makes a run of a device half and a server half, and replays it; relative links count from ``links``.

    Raises ResultsError, naming the difference, for halves that are not of one run.
    """
    Run.check_writable(folder)
    Run.refuse_source(folder, device, server)
    ours, theirs = Run.read(device, "device"), Run.read(server, "server")
    if differs := list(_differences(ours, theirs)):
        raise ResultsError(f"{device} and {server} are not halves of one run: {'; '.join(differs)}")
    spec = replay_from_given(ours.manifest.scenario, links)
    _refuse_links(spec)
    # Sessions are identified by their number, and the server's come after the device's.
    offset = len(ours.manifest.sessions)
    rows: Tables = {
        kind: pa.concat_tables([getattr(ours, kind), _later(getattr(theirs, kind), offset)]) for kind in MEASURED
    }
    sessions = (*ours.manifest.sessions, *theirs.manifest.sessions)
    manifest = _begun(ours.manifest, folder, sessions=sessions, digests=_digests(ours.manifest, spec), half=None)
    unit = Unit("joined", {"device": _digest(ours), "server": _digest(theirs)})
    _write(folder, manifest, ours.samples, rows, unit, spec, reporter=reporter, fresh=fresh)


def replay(
    source: Path, scenario: Scenario, folder: Path, *, reporter: Reporter, command: Sequence[str], fresh: bool
) -> None:
    """Makes a run of a finished run's rows and the replay section of a scenario, whose name and title it has.

    What was measured is recorded in the new run; weaker sources are unchanged. Stage times of the scenario's profile
    take the place of the run's. What makes the run INVALID is a reason against the new one too, unless it is of times
    that the profile replaces. Raises ScenarioError where the section's links or the profile cannot be read, or where
    the section names a server stage that there is not.
    """
    Run.check_writable(folder)
    Run.refuse_source(folder, source, *(recording.file for recording in scenario.profile))
    record = Run.read(source)
    spec = scenario.replay
    _refuse_links(spec)
    profiles, wrong = profiles_of(scenario)
    if wrong:
        raise ScenarioError("\n".join(wrong))
    given = as_given(scenario)
    changed = ("name", "title", "replay", *(["profile"] if profiles else []))
    of_run = {**record.manifest.scenario, **{name: given[name] for name in changed}}
    if profiles:
        of_run["profile"] = [*given["profile"], *_not_replaced(record.manifest, profiles)]
    session = provenance.session(command=command, machine=this_machine())
    manifest = _begun(
        record.manifest,
        folder,
        scenario=of_run,
        scenario_hash=hash_of(of_run),
        digests={**_digests(record.manifest, spec), **profile_digests(profiles)},
        sessions=(*record.manifest.sessions, session),
    )
    rows: Tables = {kind: _recorded(getattr(record, kind)) for kind in MEASURED}
    rows = {**rows, "stages": recorded.put(rows["stages"], profiles)}
    unit = Unit(f"rows of {record.manifest.name}", {"run": _digest(record), **profile_digests(profiles)})
    against = _against(record)
    _write(folder, manifest, record.samples, rows, unit, spec, reporter=reporter, fresh=fresh, against=against)


def _write(
    folder: Path,
    manifest: Manifest,
    samples: pa.Table,
    rows: Tables,
    unit: Unit,
    spec: Replay,
    *,
    reporter: Reporter,
    fresh: bool,
    against: Sequence[str] = (),
) -> None:
    """Writes the run; an unfinished earlier attempt is replaced, because nothing in it was measured.

    Raises ResultsError, unless it is ``fresh``, where the folder has a complete run, or rows that were measured.
    It is INVALID for what is ``against`` the run that it replays as well as for its own reasons.
    """
    refuse_unknown_stages(spec, rows["stages"])
    if not fresh:
        Run.refuse_measured(folder)
    with Run.open_or_create(folder, manifest, fresh=(folder / MANIFEST).exists()) as ongoing:
        ongoing.record_samples(samples)
        ongoing.add(unit, **{str(kind): _of_unit(table, unit, folder.name) for kind, table in rows.items()})
        stages = ongoing.table("stages")
        pairs = stages.group_by(["pipeline", "point"], use_threads=False).aggregate([]).to_pylist()
        timed = {(pair["pipeline"], pair["point"]) for pair in pairs}
        keys = [(name, point) for name, points in manifest.points.items() for point in points if (name, point) in timed]
        links = {name: value for name, value in manifest.digests.items() if name.startswith("link ")}
        study.replay(keys, spec, links, samples, ongoing, reporter)
        own = validity.reasons(Analysis(ongoing.so_far()))
        ongoing.finish([*own, *(_OF_ORIGIN + reason for reason in against if reason not in own)])


def _against(record: Record) -> list[str]:
    """What is against a run whose rows are replayed, and cannot be seen in the new run.

    These are reasons that only its manifest has, and an edited scenario. The new run has its rows, its sessions and the
    rest of its scenario, and is judged by them, as far as a profile does not replace times.
    """
    shown = validity.reasons(Analysis(record))
    told = [reason.removeprefix(_OF_ORIGIN) for reason in record.manifest.reasons if reason not in shown]
    return list(dict.fromkeys([*told, *validity.edited(record.manifest)]))


def _not_replaced(
    manifest: Manifest, profiles: Mapping[tuple[str, str, Side], RecordedTimes]
) -> Iterator[Mapping[str, Any]]:
    """The recordings in a run's rows that a profile does not replace, as the run's scenario names them."""
    for named in manifest.scenario.get("profile") or ():
        pipeline, point = named["pipeline"], named.get("point")
        labels = list(manifest.points.get(pipeline, ())) if point is None else [point]
        left = [label for label in labels if (pipeline, label, named["side"]) not in profiles]
        yield from [named] if len(left) == len(labels) else [{**named, "point": label} for label in left]


def _begun(manifest: Manifest, folder: Path, **changes: Any) -> Manifest:
    """A manifest as that of a new run."""
    begun = {"name": folder.name, "status": "running", "validity": None, "reasons": (), "finished_utc": None}
    return Manifest.model_validate({**dict(manifest), **begun, "tables": {}, **changes})


def _digests(manifest: Manifest, spec: Replay) -> dict[str, str]:
    """What the rows of a run depend on, and the links that a section names."""
    kept = {name: value for name, value in manifest.digests.items() if not name.startswith("link ")}
    return {**kept, **digests.of_links(spec.files)}


def _differences(device: Record, server: Record) -> Iterator[str]:
    ours, theirs = device.manifest, server.manifest
    if ours.scenario_hash != theirs.scenario_hash:
        yield f"their scenarios differ ({ours.scenario_hash} and {theirs.scenario_hash})"
    for name in digests.changed(ours.digests, {n: v for n, v in theirs.digests.items() if n != PAYLOADS}):
        yield f"{name} is {ours.digests.get(name, 'absent')} and {theirs.digests.get(name, 'absent')}"
    if ours.sessions[-1].code != theirs.sessions[-1].code:
        yield "the harness's code differs"
    if (sent := payloads_digest(device.folder)) != (had := theirs.digests.get(PAYLOADS)):
        yield f"the server half answered other payloads ({had}) than the device half made ({sent})"


def _refuse_links(spec: Replay) -> None:
    if wrong := unreadable_files(spec):
        raise ScenarioError("\n".join(wrong))


def _digest(record: Record) -> str:
    return digests.of_data(record.manifest.tables)


def _later(table: pa.Table, sessions: int) -> pa.Table:
    """Rows whose process started after so many sessions."""
    return _with(table, "start", lambda column: pc.add(column, sessions))


def _recorded(table: pa.Table) -> pa.Table:
    """Rows of an earlier run, as those of a later one."""
    recorded = pa.scalar("recorded")
    return _with(table, "source", lambda column: pc.if_else(pc.equal(column, "measured"), recorded, column))


def _of_unit(table: pa.Table, unit: Unit, run: str) -> pa.Table:
    named = _with(table, "unit", lambda column: pa.repeat(unit.key, len(column)))
    return _with(named, "run", lambda column: pa.repeat(run, len(column)))


def _with(table: pa.Table, name: str, change: Any) -> pa.Table:
    """A table with a column changed, if it has it; the schema is unchanged."""
    if name not in table.column_names:
        return table
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), change(table[name]))
