"""Stage times that were recorded elsewhere: rows of a run, a file of the stage logger, or a CSV.

A CSV has the columns ``stage`` and ``seconds``, and, where they are known, ``sample`` (else its requests stand for any
sample, in turn), ``repeat`` (else a stage that comes again begins the next one), ``point`` and ``cpu_s``:

    sample,repeat,stage,seconds
    street-7,0,vision_encode,0.0812
    street-7,0,merge,0.0031
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from harness import files
from harness.errors import ResultsError, ScenarioError, meant, shown, unknown_name
from harness.records import Side, StageRow, to_table
from harness.runs import digests, provenance, tables
from harness.runs.provenance import MANIFEST
from harness.runs.store import Run
from harness.scenario.model import Recording

_MOST_BYTES = 1 << 28
_LONGEST_S = 86_400.0
_COLUMNS = ("sample", "repeat", "point", "stage", "seconds", "cpu_s")

Stages: TypeAlias = Sequence[tuple[str, float, float | None]]
"""Of one request: each stage with its wall and processor seconds, in the order in which they happened."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedTimes:
    """The stages of one pipeline at one point on one side, recorded on ``machine``; ``where`` is their file.

    ``requests`` has the repeats of each sample; the empty name's stand for any sample. ``source`` is ``recorded``, or a
    weaker source that the rows name.
    """

    where: Path
    digest: str
    machine: str
    source: str
    requests: Mapping[str, Sequence[Stages]]

    @property
    def identity(self) -> str:
        """A digest of the file and of what the scenario says of it: rows made of another are other rows."""
        return digests.of_data([self.digest, self.machine, "" in self.requests])

    @property
    def stage_names(self) -> set[str]:
        """The names of its stages."""
        return {name for of_sample in self.requests.values() for request in of_sample for name, _, _ in request}

    def stages(self, sample: str, repeat: int, turn: int) -> Stages:
        """Those of a request: the sample's own, its repeats in turn, or else the next of any."""
        if (own := self.requests.get(sample)) is not None:
            return own[repeat % len(own)]
        return self.requests[""][turn % len(self.requests[""])]

    def refuse_missing(self, samples: Iterable[str]) -> None:
        """Raises ScenarioError for a sample that is to be timed and is not in it."""
        if "" in self.requests:
            return
        if missing := [sample for sample in samples if sample not in self.requests]:
            few = ", ".join(list(self.requests)[:3])
            raise ScenarioError(
                f"{self.where}: has no stages of sample {shown(missing[0])}, which this scenario times "
                f"({len(missing)} are missing); it has {few}: record the same samples, or say 'samples: any'"
            )


def read(recording: Recording, labels: Sequence[str]) -> dict[tuple[str, str, Side], RecordedTimes]:
    """What a recording has for each of its pipeline's points; ``labels`` are those of all of them.

    Raises ScenarioError in a sentence that names the file, the line, the value and what would be right.
    """
    path = recording.file
    wanted = list(labels) if recording.point is None else [recording.point]
    try:
        if path.is_dir():
            found, digest = _of_rows(recording, wanted, _run(path)), digests.of_file(path / "stages.parquet")
        elif path.suffix == ".parquet":
            found, digest = _of_rows(recording, wanted, tables.read("stages", path)), digests.of_file(path)
        else:
            found, digest = _of_csv(recording, labels, wanted), digests.of_file(path)
    except ResultsError as error:
        raise ScenarioError(str(error)) from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {files.why(error)}") from None
    return {
        (recording.pipeline, label, recording.side): dataclasses.replace(of_label, digest=digest)
        for label, of_label in found.items()
    }


def put(stages: pa.Table, profiles: Mapping[tuple[str, str, Side], RecordedTimes]) -> pa.Table:
    """Stage rows of a finished run, with recorded ones in place of each side that has a profile.

    Raises ScenarioError for a pipeline at a point that the run did not time.
    """
    for (pipeline, point, side), recorded in profiles.items():
        of_point = pc.and_(pc.equal(stages["pipeline"], pipeline), pc.equal(stages["point"], point))
        own = stages.filter(of_point).to_pandas()
        if own.empty:
            raise ScenarioError(f"{recorded.where}: is of {pipeline} at {point}, which the run did not time")
        requests = own.drop_duplicates(["repeat", "sample"]).sort_values(["repeat", "sample"])
        recorded.refuse_missing(requests["sample"])
        rows = [
            StageRow(
                run=request["run"],
                unit=request["unit"],
                sample=request["sample"],
                repeat=int(request["repeat"]),
                round=int(request["round"]),
                start=int(request["start"]),
                pipeline=pipeline,
                point=point,
                side=side,
                stage=stage,
                seconds=seconds,
                cpu_s=cpu_s,
                machine=recorded.machine,
                source=recorded.source,
            )
            for turn, request in enumerate(requests.to_dict("records"))
            for stage, seconds, cpu_s in recorded.stages(request["sample"], int(request["repeat"]), turn)
        ]
        kept = pc.invert(pc.and_(of_point, pc.equal(stages["side"], side)))
        stages = pa.concat_tables([stages.filter(kept), to_table(StageRow, rows)])
    return stages


def _run(folder: Path) -> pa.Table:
    half = provenance.read(folder / MANIFEST).half
    return Run.read(folder, half).stages


def _of_rows(recording: Recording, wanted: Sequence[str], stages: pa.Table) -> dict[str, RecordedTimes]:
    """Of stage rows; those of a logger have a pipeline and a point of their own."""
    path = recording.file
    rows = stages.filter(pc.equal(stages["side"], recording.side))
    if not rows.num_rows:
        raise ScenarioError(f"{path}: has no stages of the {recording.side}")
    rows = _only(rows, "pipeline", recording.pipeline, path, exact=path.is_dir())
    found = {}
    for label in wanted:
        of_point = _only(rows, "point", label, path).to_pylist()
        requests: dict[str, dict[object, list[tuple[str, float, float | None]]]] = {}
        for row in of_point:
            sample = "" if recording.samples == "any" else row["sample"]
            # The repeats of different samples are different requests.
            request = row["repeat"] if sample else (row["sample"], row["repeat"])
            stage = row["stage"], row["seconds"], row["cpu_s"]
            requests.setdefault(sample, {}).setdefault(request, []).append(stage)
        sources = {"recorded" if row["source"] == "measured" else row["source"] for row in of_point}
        found[label] = RecordedTimes(
            where=path,
            digest="",
            machine=recording.machine or ", ".join(dict.fromkeys(row["machine"] for row in of_point)),
            source=max(sources, key=_FIRMNESS.index),
            requests={sample: list(of_sample.values()) for sample, of_sample in requests.items()},
        )
    return found


_FIRMNESS = ("recorded", "estimated", "reported")


def _only(rows: pa.Table, column: str, name: str, path: Path, *, exact: bool = False) -> pa.Table:
    """The rows of a name, or all if they have only one other name, as a logger's have; ``exact`` refuses that."""
    known = pc.unique(rows[column]).to_pylist()
    if name not in known and (exact or len(known) > 1):
        raise ScenarioError(f"{path}: {unknown_name(column, name, known)}")
    return rows.filter(pc.equal(rows[column], name)) if name in known else rows


def _of_csv(recording: Recording, labels: Sequence[str], wanted: Sequence[str]) -> dict[str, RecordedTimes]:
    path = recording.file
    if recording.machine is None:
        raise ScenarioError(f"{path}: does not say where it was recorded; give the profile a 'machine:'")
    try:
        text = files.read(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: byte {error.start} is not UTF-8; a CSV of stage times is expected") from None
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ScenarioError(f"{path}:{reader.line_num}: is not CSV: {error}") from None
    header = [name.strip() for name in rows[0][1]] if rows else []
    _refuse_header(path, header)
    requests: dict[str, dict[str, dict[int, dict[str, tuple[float, float | None]]]]] = {}
    for line, values in rows[1:]:
        if len(values) != len(header):
            raise ScenarioError(f"{path}:{line}: has {len(values)} values; the header has {len(header)} columns")
        row = {name: value.strip() for name, value in zip(header, values, strict=True)}
        if "point" in row and row["point"] not in labels:
            raise ScenarioError(f"{path}:{line}: {unknown_name('point', row['point'], labels)}")
        if not row["stage"]:
            raise ScenarioError(f"{path}:{line}: stage is empty; it is a name, such as vision_encode")
        if "sample" in row and not row["sample"]:
            raise ScenarioError(f"{path}:{line}: sample is empty; leave the column out where samples are not known")
        seconds = _number(path, line, "seconds", row["seconds"])
        cpu_s = _number(path, line, "cpu_s", row["cpu_s"]) if row.get("cpu_s") else None
        repeats = requests.setdefault(row.get("point", ""), {}).setdefault(row.get("sample", ""), {})
        repeat = _whole(path, line, row["repeat"]) if "repeat" in row else _repeat(repeats, row["stage"])
        if row["stage"] in repeats.setdefault(repeat, {}):
            raise ScenarioError(
                f"{path}:{line}: the stage {shown(row['stage'])} of repeat {repeat} is given twice; give each request "
                "a repeat of its own"
            )
        repeats[repeat][row["stage"]] = seconds, cpu_s
    found = {}
    for label in wanted:
        of_point = requests.get(label if "point" in header else "")
        if not of_point:
            raise ScenarioError(f"{path}: has no row{f' of the point {label}' if 'point' in header else ''}")
        found[label] = RecordedTimes(
            where=path,
            digest="",
            machine=recording.machine,
            source="recorded",
            requests=_whole_requests(path, of_point, for_any=recording.samples == "any"),
        )
    return found


def _refuse_header(path: Path, header: Sequence[str]) -> None:
    for name in header:
        if name not in _COLUMNS:
            known = f"{meant(name, _COLUMNS)}known: {', '.join(_COLUMNS)}"
            raise ScenarioError(f"{path}:1: unknown column {shown(name)}; {known}")
        if header.count(name) > 1:
            raise ScenarioError(f"{path}:1: the column {name} is given twice")
    for name in ("stage", "seconds"):
        if name not in header:
            raise ScenarioError(f"{path}:1: has no column {name!r}; a CSV of stage times has stage and seconds")


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _LONGEST_S:
        raise ScenarioError(f"{path}:{line}: {name} is {shown(text)}; it is seconds, from 0 to {_LONGEST_S:g}")
    return value


def _whole(path: Path, line: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ScenarioError(f"{path}:{line}: repeat is {shown(text)}; it is a whole number from 0")
    return int(text)


def _repeat(repeats: Mapping[int, Mapping[str, object]], stage: str) -> int:
    """The first repeat without the stage."""
    return sum(stage in of_repeat for of_repeat in repeats.values())


def _whole_requests(
    path: Path, of_point: Mapping[str, Mapping[int, Mapping[str, tuple[float, float | None]]]], *, for_any: bool
) -> dict[str, list[Stages]]:
    """The requests by sample, or ``for_any``; all have the same stages: a time that is missing is not a time of 0 s."""
    every = dict.fromkeys(stage for repeats in of_point.values() for request in repeats.values() for stage in request)
    for sample, repeats in of_point.items():
        for repeat, request in repeats.items():
            if missing := [stage for stage in every if stage not in request]:
                of_sample = f" of sample {sample}" if sample else ""
                raise ScenarioError(
                    f"{path}: repeat {repeat}{of_sample} has no stage {shown(missing[0])}, which other requests have; "
                    "write 0 where it took no time"
                )
    requests: dict[str, list[Stages]] = {
        sample: [[(stage, *times) for stage, times in request.items()] for _, request in sorted(repeats.items())]
        for sample, repeats in of_point.items()
    }
    return {"": [request for own in requests.values() for request in own]} if for_any else requests
