"""The folder of a run, written so that a killed process loses no finished work.

    <run>/manifest.json      always there and always whole
    <run>/samples.parquet    what each question of the run shows and asks
    <run>/parts/<key>/       the rows of finished units of work, while the run is unfinished
    <run>/{stages,paced,links,outcomes,energy,resources,requests}.parquet    every row, sorted, when the run is complete

A unit is named work whose rows are committed together or not at all. Its key is a digest of its name and of all that
its rows depend on, so that after an edit of the scenario, or of a file that it names, the units whose rows would be the
same are not computed again. Rows of units that a scenario no longer needs stay in ``parts`` until it needs them again.

A reference run has ``replayed.parquet`` in place of its requests (``harness/runs/replayed.py``).

A run is complete when its manifest says so, which it does after its tables are written and before their parts are
removed: whatever the moment of death, the parts or the tables hold every finished unit.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from harness import files
from harness.errors import ResultsError
from harness.records import Side
from harness.runs import disk, parts, provenance, replayed, tables
from harness.runs.digests import of_bytes, of_data
from harness.runs.lock import Lock
from harness.runs.provenance import MANIFEST, Manifest
from harness.runs.tables import Kind, Rows

_EACH = f"*/{MANIFEST}"
_MOST_HELD = 8
_CHOOSE = "choose another name with --name, or measure everything again with --fresh"
_DERIVED = (
    "holds a run whose rows 'harness replay', 'harness join' or an estimate made, and nothing was measured into it"
)

MEASURED: tuple[Kind, ...] = ("stages", "paced", "links", "outcomes", "energy", "resources")
"""The tables whose rows say which unit they come from; requests are replayed from these."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Named work, and the digests of what its rows depend on, by names for people."""

    name: str
    depends: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """The unit's key in a run's folder."""
        return of_data([self.name, dict(self.depends)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run holds: its manifest and its tables, as :mod:`harness.records` defines their rows."""

    folder: Path
    manifest: Manifest
    samples: pa.Table
    stages: pa.Table
    paced: pa.Table
    links: pa.Table
    outcomes: pa.Table
    energy: pa.Table
    resources: pa.Table
    requests: pa.Table


class Run:
    """A run that this process, and no other, is writing; a context manager, so that its lock goes with it."""

    def __init__(self, folder: Path, manifest: Manifest, lock: Lock) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock
        self._parts = folder / parts.FOLDER
        self._parts.mkdir(exist_ok=True)
        self._facts = {part: parts.read_facts(part) for part in sorted(self._parts.iterdir())}
        # A process that died while it split a part left some units in two parts; the smaller one is the later.
        by_size = sorted(self._facts, key=lambda part: -len(self._facts[part]["units"]))
        self._units: dict[str, Path] = {key: part for part in by_size for key in self._facts[part]["units"]}
        self._wanted: set[str] = set()

    @classmethod
    def open_or_create(cls, folder: Path, manifest: Manifest, *, fresh: bool = False) -> Self:
        """Opens the run in ``folder``: a new one, or an existing one to be completed.

        ``manifest`` describes the run as this process would start it; an existing run keeps its earlier sessions.
        ``fresh`` discards it. Raises ResultsError where another process writes the run, where the folder holds a run of
        a scenario of another name, or something else, and where code or packages have changed since.
        """
        try:
            files.make_folder(folder.parent)
        except OSError as error:
            raise ResultsError(f"{folder}: its parent folder cannot be made: {files.why(error)}") from None
        lock = Lock(folder)
        try:
            _refuse_foreign(folder)
            if fresh and folder.exists():
                disk.discard(folder)
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise ResultsError(f"{folder}: cannot be made: {files.why(error)}") from None
            disk.remove_unfinished(folder)
            disk.remove_unfinished(folder / parts.FOLDER)
            if (folder / MANIFEST).exists():
                manifest = _resume(folder, manifest)
            disk.write_text(folder / MANIFEST, provenance.to_json(manifest))
            return cls(folder, manifest, lock)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def check_writable(folder: Path) -> None:
        """Raises ResultsError where no run can be written in ``folder``; called before anything is computed."""
        _refuse_foreign(folder)
        if not folder.exists():
            disk.check_folder(folder)

    @staticmethod
    def refuse_source(folder: Path, *sources: Path) -> None:
        """Raises ResultsError for a run in place of a run or file that it is made of, also if it is to start over."""
        for source in sources:
            if source.resolve().is_relative_to(folder.resolve()):
                raise ResultsError(
                    f"{folder}: is what the new run would be made of, and would be lost; choose another --name"
                )

    @staticmethod
    def refuse_derived(folder: Path) -> None:
        """Raises ResultsError for a run that 'replay', 'join' or an estimate made: no measurement completes it."""
        if _is_derived(folder, provenance.read(folder / MANIFEST)):
            raise ResultsError(f"{folder}: {_DERIVED}; {_CHOOSE}")

    @staticmethod
    def refuse_measured(folder: Path) -> None:
        """Raises ResultsError for a folder with measured rows, or a complete run; called before one is replaced."""
        if not (folder / MANIFEST).exists():
            return
        choose = "choose another --name, or replace it with --fresh"
        manifest = provenance.read(folder / MANIFEST)
        if manifest.status == "complete":
            raise ResultsError(f"{folder}: holds a complete run; {choose}")
        measured = [facts for facts in parts.facts_of(folder).values() if facts["tables"].keys() & set(MEASURED)]
        if measured and not _is_derived(folder, manifest):
            n = sum(len(facts["units"]) for facts in measured)
            raise ResultsError(f"{folder}: holds an unfinished run, of which {n} units are measured; {choose}")

    @property
    def left_at(self) -> str:
        """Where the last process was that worked on the run and was ended there; empty if it ended by itself."""
        return self._lock.left_at

    def tell(self, place: str) -> None:
        """Tells other processes, and a later one, where this process is."""
        self._lock.tell(place)

    @property
    def start(self) -> int:
        """Which start of the process this is, from 0."""
        return len(self.manifest.sessions) - 1

    def expect(self, units: Iterable[Unit]) -> list[Unit]:
        """Adds these units to the run; returns those whose rows are not there yet."""
        units = list(units)
        self._wanted |= {unit.key for unit in units}
        return self.missing(units)

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Those of some units whose rows are not there yet."""
        return [unit for unit in units if unit.key not in self._units]

    def add(
        self,
        units: Unit | Sequence[Unit],
        *,
        stages: Rows = (),
        paced: Rows = (),
        links: Rows = (),
        outcomes: Rows = (),
        energy: Rows = (),
        resources: Rows = (),
        requests: Rows = (),
    ) -> None:
        """Commits the rows of finished units, all of them or none; they are on the disk when this returns.

        Raises ResultsError for a row that breaks the schema, ValueError for a unit that is already done.
        """
        units = [units] if isinstance(units, Unit) else list(units)
        keys = {unit.key: unit.name for unit in units}
        if done := [name for key, name in keys.items() if key in self._units]:
            raise ValueError(f"unit {done[0]!r} is done")
        given: Mapping[Kind, Rows] = {
            "stages": stages,
            "paced": paced,
            "links": links,
            "outcomes": outcomes,
            "energy": energy,
            "resources": resources,
            "requests": requests,
        }
        checked = {kind: tables.table_of(kind, rows) for kind, rows in given.items()}
        part = self._parts / min(keys)
        self._facts[part] = parts.write(part, keys, {kind: t for kind, t in checked.items() if t.num_rows})
        self._units |= dict.fromkeys(keys, part)
        self._wanted |= set(keys)

    def table(self, kind: Kind) -> pa.Table:
        """All rows of a kind that are committed so far and belong to the run, in the order of the complete run."""
        wanted = {part: [key for key in self._own(part) if key in self._wanted] for part in self._facts}
        return tables.merge(
            kind,
            [
                (part.name, self._rows(kind, part, keys))
                for part, keys in wanted.items()
                if keys and (part / f"{kind}.parquet").exists()
            ],
        )

    def record_samples(self, rows: Rows) -> None:
        """Commits what each question of the run shows and asks."""
        table = tables.merge("samples", [("samples", tables.table_of("samples", rows))])
        data = disk.parquet(table)
        disk.write_bytes(self.folder / "samples.parquet", data)
        self._update(tables={**self.manifest.tables, "samples": of_bytes(data)})

    def record_energy(self, sources: Mapping[str, str]) -> None:
        """Commits the sensor of each side's energy in this session, or why there is none."""
        *earlier, session = self.manifest.sessions
        self._update(sessions=(*earlier, session.model_copy(update={"energy": dict(sources)})))

    def record_conditions(self, when: str, conditions: Mapping[str, float | str | bool]) -> None:
        """Commits the conditions of a pass in this session: power mode, clocks, temperatures; the workers, if any."""
        *earlier, session = self.manifest.sessions
        by_pass = {**session.conditions, when: dict(conditions)}
        self._update(sessions=(*earlier, session.model_copy(update={"conditions": by_pass})))

    def record_telemetry(
        self,
        sources: Mapping[str, str],
        lowered: Sequence[str] = (),
        *,
        watched: Mapping[str, str] | None = None,
        disturbed: Mapping[str, int] | None = None,
        pressure: float | None = None,
    ) -> None:
        """Commits what watches the machine in this session, and counts what it saw in a unit of timed requests.

        ``lowered`` are sentences on clocks, ``disturbed`` how often requests were run again, by reason. They are on the
        disk before the unit is, so that no unit is committed without its disturbance.
        """
        *earlier, session = self.manifest.sessions
        throttled, again = Counter(session.throttled), Counter(session.disturbed)
        throttled.update(lowered)
        again.update(disturbed or {})
        changes: dict[str, object] = {
            "telemetry": dict(sources), "throttled": dict(throttled), "disturbed": dict(again),
        }  # fmt: skip
        if watched is not None:
            changes |= {"watched": dict(watched), "pressure": pressure}
        self._update(sessions=(*earlier, session.model_copy(update=changes)))

    def so_far(self) -> Record:
        """All that is committed, as it would be read from the complete run."""
        return Record(
            folder=self.folder,
            manifest=self.manifest,
            samples=tables.read("samples", self.folder / "samples.parquet", self.manifest.tables.get("samples")),
            **{kind: self.table(kind) for kind in tables.ROWS if kind != "samples"},
        )

    def finish(self, reasons: Sequence[str] = ()) -> None:
        """Completes the run: VALID without ``reasons``, INVALID for these otherwise; gives up the lock."""
        digests = {name: digest for name, digest in self.manifest.tables.items() if name == "samples"}
        for kind in tables.ROWS:
            if kind != "samples":
                data = disk.parquet(self.table(kind))
                disk.write_bytes(self.folder / f"{kind}.parquet", data)
                digests[kind] = of_bytes(data)
        verdict = {
            "status": "complete",
            "validity": "INVALID" if reasons else "VALID",
            "reasons": tuple(reasons),
            "finished_utc": provenance.utc_now(),
            "tables": digests,
        }
        self.manifest = Manifest.model_validate({**dict(self.manifest), **verdict})
        disk.write_text(self.folder / MANIFEST, provenance.to_json(self.manifest))
        self._remove_parts()
        self.close()

    def _remove_parts(self) -> None:
        """Removes the parts whose rows are in the tables; measured rows that the scenario does not need stay."""
        for part, facts in self._facts.items():
            units, replayed = facts["units"], (part / "requests.parquet").exists()
            unwanted = {key: units[key] for key in self._own(part) if key not in self._wanted}
            if len(unwanted) == len(units) and not replayed:
                continue
            rows = {kind: self._rows(kind, part, unwanted) for kind in MEASURED if (part / f"{kind}.parquet").exists()}
            if rows := {kind: table for kind, table in rows.items() if table.num_rows}:
                parts.write(self._parts / of_data(sorted(unwanted)), unwanted, rows)
            disk.discard(part)
        if not any(self._parts.iterdir()):
            disk.discard(self._parts)

    def _own(self, part: Path) -> list[str]:
        """The keys of the units whose rows are taken from a part, and from no other that holds them too."""
        return [key for key in self._facts[part]["units"] if self._units[key] == part]

    def _rows(self, kind: Kind, part: Path, keys: Iterable[str]) -> pa.Table:
        """The rows of some units in a part."""
        rows = parts.read(kind, part, self._facts[part])
        return rows.filter(pc.is_in(rows["unit"], pa.array(sorted(keys), pa.string()))) if kind in MEASURED else rows

    def _update(self, **changes: object) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        disk.write_text(self.folder / MANIFEST, provenance.to_json(self.manifest))

    def close(self) -> None:
        """Releases the run, finished or not; what was added stays."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read_manifest(folder: Path, half: Side | None = None) -> Manifest:
        """The manifest of a run, or of a ``half``, in any state; raises ResultsError for what is no run's folder."""
        makes = "'harness run'" if half is None else f"'harness measure SCENARIO --half {half}'"
        if folder.is_file():
            raise ResultsError(f"{folder}: is a file, and a run's folder is expected; {_of_file(folder)}")
        if not folder.is_dir():
            raise ResultsError(f"{folder}: no such folder; {_suggested(folder)}{makes} makes one in results/runs")
        if not (folder / MANIFEST).exists() and (held := sorted(path.parent.name for path in folder.glob(_EACH))):
            some = ", ".join(held[:_MOST_HELD]) + (", ..." if len(held) > _MOST_HELD else "")
            raise ResultsError(f"{folder}: is a folder of runs, not a run; give one of them: {some}")
        return provenance.read(folder / MANIFEST)

    @staticmethod
    def read(folder: Path, half: Side | None = None) -> Record:
        """A complete run, or one ``half`` of one.

        Raises ResultsError for one that is absent, unfinished, damaged, of another schema, or the other half.
        """
        manifest = Run.read_manifest(folder, half)
        if manifest.status != "complete":
            command = "run" if manifest.half is None else "measure"
            raise ResultsError(f"{folder}: the run is unfinished; repeat its 'harness {command}' to complete it")
        if manifest.half != half:
            is_ = "a run of both halves" if manifest.half is None else f"only the {manifest.half} half of a run"
            wanted = "'harness join' makes a run of two halves" if half is None else f"the {half} half is expected"
            raise ResultsError(f"{folder}: is {is_}; {wanted}")
        left_out = ("requests",) if replayed.REPLAYED in manifest.tables else ()
        read = {
            kind: tables.read(kind, folder / f"{kind}.parquet", manifest.tables.get(kind))
            for kind in tables.ROWS
            if kind not in left_out
        }
        if left_out:
            replayed.recorded(folder, manifest)  # Refuses a run that has lost what its replay is compared with.
            read["requests"] = replayed.requests(manifest, folder, read["stages"], read["outcomes"], read["samples"])
        return Record(folder=folder, manifest=manifest, **{str(kind): table for kind, table in read.items()})


def _halves(half: Side | None) -> str:
    return "both halves" if half is None else f"only the {half} half"


def _suggested(folder: Path) -> str:
    """``did you mean results/runs/smoke? `` where a folder is only a run's name."""
    meant = Path("results/runs") / folder.name
    return f"did you mean {meant}? " if (meant / MANIFEST).is_file() else ""


def _of_file(path: Path) -> str:
    """What a file is that was given as a run, and which option takes it."""
    if path.name == MANIFEST:
        return f"give the folder, {path.parent}"
    try:
        tables.read("stages", path)
    except ResultsError:
        return "'harness runs' lists the runs"
    return (
        "it holds rows of stages, as 'harness.record' writes them, and a scenario takes it as times: "
        f"profile: [{{ path: {path.name}, pipeline: ..., side: server, machine: ... }}]"
    )


def _refuse_foreign(folder: Path) -> None:
    """Raises ResultsError unless ``folder`` is absent, empty, or a run: nothing else is ever written to."""
    if folder.is_symlink():
        raise ResultsError(f"{folder}: is a symbolic link; give the folder that it points to")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ResultsError(f"{folder}: is a file; a run is a folder")
    if (folder / MANIFEST).exists():
        return
    strange = next((path.name for path in folder.iterdir() if not path.name.startswith(files.UNFINISHED)), None)
    if strange is not None:
        raise ResultsError(f"{folder}: holds {strange!r} and no {MANIFEST}, so it is not a run; choose another name")


def _resume(folder: Path, new: Manifest) -> Manifest:
    """The manifest of the run in ``folder``, continued by this process."""
    old = provenance.read(folder / MANIFEST)
    if (was := old.scenario.get("name")) != (now := new.scenario.get("name")):
        raise ResultsError(f"{folder}: holds a run of the scenario {was!r}, and this one is {now!r}; {_CHOOSE}")
    if old.half != new.half:
        raise ResultsError(f"{folder}: holds {_halves(old.half)}, and this is {_halves(new.half)}; {_CHOOSE}")
    if replayed.REPLAYED in old.tables:
        raise ResultsError(f"{folder}: holds a reference run, which 'harness reference update' remakes; {_CHOOSE}")
    if _is_derived(folder, old):
        raise ResultsError(f"{folder}: {_DERIVED}; {_CHOOSE}")
    if differs := provenance.software_changes(old, new):
        raise ResultsError(
            f"{folder}: its rows were measured with other software, and rows of two versions are not mixed: "
            f"{', '.join(differs)} changed; {_CHOOSE}"
        )
    if old.status == "complete":
        _reopen(folder, old)
    elif not parts.facts_of(folder):
        # Nothing came of the earlier sessions. Those of a replay that was stopped at once are of another run's rows.
        old = old.model_copy(update={"sessions": ()})
    samples = {name: digest for name, digest in old.tables.items() if name == "samples"}
    return new.model_copy(update={"sessions": (*old.sessions, *new.sessions), "tables": samples})


def _is_derived(folder: Path, manifest: Manifest) -> bool:
    """Whether the rows of a run were made of others' or estimated: what is measured answers and times in two units."""
    if manifest.status == "complete":
        held = {folder: manifest.tables}
    else:
        held = {part: facts["tables"] for part, facts in parts.facts_of(folder).items()}
    for place, digests in held.items():
        if {"stages", "outcomes"} <= digests.keys():
            stages, outcomes = (
                set(pc.unique(tables.read(kind, place / f"{kind}.parquet", digests[kind])["unit"]).to_pylist())
                for kind in ("stages", "outcomes")
            )
            if stages & outcomes:
                return True
    return False


def _reopen(folder: Path, manifest: Manifest) -> None:
    """The measured rows of a complete run as a part, as they were before it was complete."""
    rows = {kind: tables.read(kind, folder / f"{kind}.parquet", manifest.tables.get(kind)) for kind in MEASURED}
    keys = sorted({key for table in rows.values() for key in pc.unique(table["unit"]).to_pylist()})
    part = folder / parts.FOLDER / of_data(keys)
    if keys and not part.exists():
        part.parent.mkdir(exist_ok=True)
        for stale in part.parent.iterdir():
            # A process that died after completing the run left parts whose rows are in the tables.
            if set(parts.read_facts(stale)["units"]) <= set(keys):
                disk.discard(stale)
        parts.write(part, dict.fromkeys(keys, "earlier work"), {k: t for k, t in rows.items() if t.num_rows})


def complete_runs(path: Path) -> list[Path]:
    """The folder of the run at ``path``, or those of the complete runs under it, by name; halves of runs are left out.

    Raises ResultsError where there is none, and for a damaged manifest.
    """
    if (path / MANIFEST).exists():
        return [path]
    if not path.is_dir():
        raise ResultsError(f"{path}: {files.no_folder(path)}; a run or a folder of runs is expected")
    found = sorted(manifest.parent for manifest in path.rglob(MANIFEST))
    manifests = {folder: provenance.read(folder / MANIFEST) for folder in found}
    complete = [folder for folder, of in manifests.items() if of.status == "complete" and of.half is None]
    if not complete:
        raise ResultsError(f"{path}: neither a complete run nor a folder of runs; 'harness run SCENARIO' makes one")
    return complete
