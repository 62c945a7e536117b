"""The folder of a run, written so that a killed process loses nothing that was finished.

    <run>/manifest.json      always there and always whole
    <run>/parts/<unit>/      the rows of one finished unit of work; here only while the run is unfinished
    <run>/samples.parquet    which picture each sample shows, and which benchmark it is of
    <run>/{stages,outcomes,requests}.parquet    every row, sorted; here only when the run is complete

A run is complete when its manifest says so, which it does after the three tables have landed and before the parts go.
So whatever the moment of death, either the parts or the tables hold every finished unit. A unit is the most that is
lost: named work whose rows land together or not at all.
"""

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultsError
from harness.runs import disk, provenance, tables
from harness.runs.lock import Lock
from harness.runs.provenance import MANIFEST, Manifest
from harness.runs.tables import Kind, Rows

_PARTS = "parts"
_SAMPLES = "samples.parquet"
_SAMPLES_SCHEMA = pa.schema([pa.field(name, pa.string(), False) for name in ("sample", "image", "benchmark")])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run holds: its manifest and tables (:mod:`harness.records`); if recorded, the samples' pictures and
    benchmarks.
    """

    folder: Path
    manifest: Manifest
    stages: pa.Table
    outcomes: pa.Table
    requests: pa.Table
    images: Mapping[str, str]
    benchmarks: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Run:
    """A run that this process, and no other, is writing; a context manager, so that its lock goes with it."""

    def __init__(self, folder: Path, manifest: Manifest, lock: Lock) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock
        self._parts = folder / _PARTS
        self._parts.mkdir(exist_ok=True)
        disk.sweep(folder)
        disk.sweep(self._parts)
        self._done = {_unit_name(part) for part in self._parts.iterdir()}
        self._image_of, self._benchmark_of = _read_samples(folder / _SAMPLES)

    @classmethod
    def open_or_create(cls, folder: Path, manifest: Manifest, *, fresh: bool = False) -> Self:
        """The run in ``folder``: a new one, or an unfinished one of the same scenario, taken up where it stopped.

        ``manifest`` describes the run as this process would begin it; in a run that is taken up, its session joins the
        earlier ones. ``fresh`` discards a run that is there. Raises ResultsError where another process writes the run,
        and where the folder holds a complete run, a run of another scenario, or something else.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{folder}: its parent folder cannot be made: {error}") from None
        lock = Lock(folder)
        try:
            _refuse_foreign(folder)
            if fresh and folder.exists():
                disk.discard(folder)
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise ResultsError(f"{folder}: cannot be made: {error}") from None
            if (folder / MANIFEST).exists():
                manifest = _take_up(folder, manifest)
            disk.write_text(folder / MANIFEST, provenance.to_json(manifest))
            return cls(folder, manifest, lock)
        except BaseException:
            lock.release()
            raise

    def done(self, unit: str) -> bool:
        """Whether the rows of ``unit`` have landed, in this process or an earlier one."""
        return unit in self._done

    def add(self, unit: str, *, stages: Rows = (), outcomes: Rows = (), requests: Rows = ()) -> None:
        """Lands the rows of one finished unit, all of them or none; it is on the disk when this returns.

        Raises ResultsError for a row that breaks the schema, ValueError for a unit that is already done.
        """
        if unit in self._done:
            raise ValueError(f"unit {unit!r} is done")
        given: Mapping[Kind, Rows] = {"stages": stages, "outcomes": outcomes, "requests": requests}
        checked = {kind: tables.table_of(kind, rows) for kind, rows in given.items()}
        disk.write_tables(
            self._parts / _folder_name(unit), {k: table for k, table in checked.items() if table.num_rows}
        )
        self._done.add(unit)

    def table(self, kind: Kind) -> pa.Table:
        """All rows of a kind that have landed so far, in the order of the complete run."""
        parts = []
        for part in self._parts.iterdir():
            path = part / f"{kind}.parquet"
            if path.exists():
                try:
                    parts.append((_unit_name(part), tables.read(kind, path)))
                except ResultsError as error:
                    raise ResultsError(f"{error}; remove the folder {part} and that unit is worked again") from None
        return tables.merge(kind, parts)

    def record_images(self, image_of: Mapping[str, str], benchmark_of: Mapping[str, str] | None = None) -> None:
        """Keeps which picture each sample shows, by its image id: what is not independent in a benchmark.

        ``benchmark_of`` says which benchmark each is of; without it they are all of the one that ran.
        """
        only = self.manifest.resolved.get("benchmark", "")
        self._image_of = dict(image_of)
        self._benchmark_of = {sample: benchmark_of[sample] if benchmark_of else only for sample in image_of}
        rows = {
            "sample": list(image_of),
            "image": list(image_of.values()),
            "benchmark": list(self._benchmark_of.values()),
        }
        disk.write_table(self.folder / _SAMPLES, pa.table(rows, schema=_SAMPLES_SCHEMA))

    def record_telemetry(self, sources: Mapping[str, str], lowered: Sequence[str] = ()) -> None:
        """Keeps what watches the clocks of this session, and counts what it saw lowered in a unit of timed requests.

        It is on the disk before the unit is, so that no unit lands whose throttling is forgotten.
        """
        *earlier, session = self.manifest.sessions
        counts = {**session.throttled, **{sentence: session.throttled.get(sentence, 0) + 1 for sentence in lowered}}
        session = session.model_copy(update={"telemetry": dict(sources), "throttled": counts})
        self.manifest = self.manifest.model_copy(update={"sessions": (*earlier, session)})
        disk.write_text(self.folder / MANIFEST, provenance.to_json(self.manifest))

    def so_far(self) -> Record:
        """All that has landed, as it would be read from the complete run."""
        return Record(
            folder=self.folder,
            manifest=self.manifest,
            stages=self.table("stages"),
            outcomes=self.table("outcomes"),
            requests=self.table("requests"),
            images=self._image_of,
            benchmarks=self._benchmark_of,
        )

    def finish(self, reasons: Sequence[str] = ()) -> None:
        """Completes the run: VALID without ``reasons``, INVALID for these otherwise; the parts go, and the lock."""
        for kind in tables.ROWS:
            disk.write_table(self.folder / f"{kind}.parquet", self.table(kind))
        verdict = {
            "status": "complete",
            "validity": "INVALID" if reasons else "VALID",
            "reasons": tuple(reasons),
            "finished_utc": provenance.utc_now(),
        }
        self.manifest = Manifest.model_validate({**dict(self.manifest), **verdict})
        disk.write_text(self.folder / MANIFEST, provenance.to_json(self.manifest))
        disk.discard(self._parts)
        self.close()

    def close(self) -> None:
        """Gives the run up, finished or not; what was added stays."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read(folder: Path) -> Record:
        """A complete run; raises ResultsError for one that is absent, unfinished, damaged or of another schema."""
        if not folder.is_dir():
            raise ResultsError(f"{folder}: no such folder; 'harness run' makes one for each run in results/runs")
        manifest = provenance.read(folder / MANIFEST)
        if manifest.status != "complete":
            raise ResultsError(f"{folder}: the run is unfinished; 'harness run' with the same scenario takes it up")
        images, benchmarks = _read_samples(folder / _SAMPLES)
        return Record(
            folder=folder,
            manifest=manifest,
            stages=tables.read("stages", folder / "stages.parquet"),
            outcomes=tables.read("outcomes", folder / "outcomes.parquet"),
            requests=tables.read("requests", folder / "requests.parquet"),
            images=images,
            benchmarks=benchmarks,
        )


def _refuse_foreign(folder: Path) -> None:
    """Raises ResultsError unless ``folder`` is absent, empty, or a run: nothing else is ever written to."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ResultsError(f"{folder}: is a file; a run is a folder")
    if (folder / MANIFEST).exists():
        return
    strange = next((path.name for path in folder.iterdir() if not path.name.startswith(disk.UNFINISHED)), None)
    if strange is not None:
        raise ResultsError(f"{folder}: holds {strange!r} and no {MANIFEST}, so it is not a run; choose another name")


def _take_up(folder: Path, new: Manifest) -> Manifest:
    old = provenance.read(folder / MANIFEST)
    choose = "choose another name, or start again with --fresh"
    if old.scenario_hash != new.scenario_hash:
        raise ResultsError(
            f"{folder}: holds a {old.status} run of another scenario "
            f"(hash {old.scenario_hash}, this one's is {new.scenario_hash}); {choose}"
        )
    if old.status == "complete":
        disk.discard(folder / _PARTS)
        raise ResultsError(f"{folder}: the run is complete (finished {old.finished_utc}); plot it, {choose}")
    for what, was, is_ in (("seed", old.seed, new.seed), ("resolved names", old.resolved, new.resolved)):
        if was != is_:
            raise ResultsError(f"{folder}: was begun with {what} {was}, and now would be {is_}; {choose}")
    return old.model_copy(update={"sessions": (*old.sessions, *new.sessions)})


def _read_samples(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Which picture each sample shows, and which benchmark it is of; nothing where that was not recorded."""
    if not path.exists():
        return {}, {}
    try:
        table = pq.read_table(path, partitioning=None).cast(_SAMPLES_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ResultsError(f"{path}: is damaged, or is not Parquet: {str(error).splitlines()[0]}") from None
    samples, images, benchmarks = (table[name].to_pylist() for name in _SAMPLES_SCHEMA.names)
    return dict(zip(samples, images, strict=True)), dict(zip(samples, benchmarks, strict=True))


def _folder_name(unit: str) -> str:
    name = urllib.parse.quote(unit, safe=" =,+").replace(".", "%2E")
    if not unit or len(name) > 200:
        raise ValueError(f"a unit's name has 1 to 200 characters as a folder: {unit!r}")
    return name


def _unit_name(part: Path) -> str:
    return urllib.parse.unquote(part.name)
