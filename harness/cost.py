"""What a study will take, before it starts: how many units, how long, how much disk.

Seconds are *recorded*, from the timed requests of the run itself or of its neighbours with the same points, weights and
machine; or *estimated*, by the roofline of a GPU that has a data sheet; or not known before the first units are done.
Work that points share on a picture is counted once, and work per picture is not counted for each question.
"""

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from harness.errors import HarnessError, ResultsError
from harness.estimates import sheets
from harness.measure import Plan
from harness.profiling.machine import machine_name, this_machine
from harness.records import PointKey
from harness.runs import provenance, tables
from harness.runs.provenance import MANIFEST
from harness.runs.store import Unit
from harness.stock import Stock
from harness.units import format_bytes, format_duration

_SEEING = ("preprocess", "vision_encode")
"""On the device: the work that points share on a picture."""
_ANSWERING = ("prefill", "generate")
"""The stages of each question."""
_TEXT_BYTES_A_TOKEN, _ANSWER_TOKENS = 4, 2
_MOST_PARTS, _MOST_RUNS = 200, 50
"""The most that is read for a rate: parts of an unfinished run, neighbours of a run."""

_MODES = {"MODE_50W": "-50w", "MODE_30W": "-30w", "MODE_15W": "-15w"}


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """The seconds of a scheme at a point: of the shared work on a picture, of its own per picture, and per question."""

    seen_s: float
    picture_s: float
    question_s: float

    @property
    def request_s(self) -> float:
        """Those of a single request."""
        return self.seen_s + self.picture_s + self.question_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """The remaining work of a study: units and requests, and the seconds that these take in one process.

    ``how`` says where the seconds come from; if they are not known they are null, and it says so.
    """

    points: int
    questions: int
    pictures: int
    units: int
    requests: int
    answers_s: float | None
    timing_s: float | None
    how: str
    disk_bytes: int


def lines(
    stock: Stock,
    plan: Plan,
    folder: Path,
    *,
    missing: Callable[[Iterable[Unit]], Sequence[Unit]] = list,
    workers: int = 1,
    at_once: int | None = None,
    remote: bool = False,
) -> Iterator[str]:
    """The remaining answers and times of a study, for people; nothing if it is complete.

    Of the ``workers`` that answer, ``at_once`` compute at a time, without it all; ``remote`` server halves are a
    server's, about which this machine's times say nothing.
    """
    found = cost_of(stock, plan, folder, missing=missing, remote=remote)
    if not found.units and not found.requests:
        return
    answers, times = "", ""
    if found.answers_s is not None and found.timing_s is not None:
        together = min(workers, at_once or workers)
        by = f" by {workers} workers" if workers > 1 else ""
        by += f", {together} at once" if together < workers else ""
        answers = f", about {format_duration(found.answers_s / together)}{by}"
        times = f", about {format_duration(found.timing_s)}"
    units = (
        f"{found.units} units, {found.points} points x {found.pictures} pictures with {found.questions} "
        f"questions{answers}"
    )
    requests = f"{found.requests} requests{times}"
    yield (
        f"answers: {units if found.units else 'none left'}; times: {requests if found.requests else 'none left'} "
        f"({found.how})"
    )
    yield f"disk: about {format_bytes(found.disk_bytes)} (estimated)"


def cost_of(
    stock: Stock,
    plan: Plan,
    folder: Path,
    *,
    missing: Callable[[Iterable[Unit]], Sequence[Unit]] = list,
    remote: bool = False,
) -> Cost:
    """What is left to answer and to time; ``missing`` gives those units that are not done, of a run in ``folder``.

    Where the server halves are ``remote`` no seconds are given.
    """
    schedule = stock.scenario.measure
    left = [plan.to_answer[unit] for unit in missing(plan.to_answer)]
    wanted = schedule.timed_samples if schedule.precision is None else schedule.at_most
    places = plan.timed_places(min(wanted, len(plan.pictures)), stock.scenario.seed)
    ways = 2 if schedule.pacing == "both" else 1
    to_time = {
        plan.timing(key, repeat, place, schedule): key
        for key in plan.halves
        for repeat in range(schedule.repeats)
        for place in places
    }
    timed = [to_time[unit] for unit in missing(to_time)]
    rates: Mapping[PointKey, Rate] = {}
    how = "the time is not known: it depends on the server and the link"
    if not remote:
        rates, how = rates_of(stock, folder) if left or timed else ({}, "")
    seconds = None
    if rates:
        seen = {key: rate.seen_s for key, rate in rates.items()}
        of_picture: dict[int, float] = {}
        for key, of in left:
            of_picture[of[0]] = max(of_picture.get(of[0], 0.0), seen[key])
        answers_s = sum(of_picture.values()) + sum(
            rates[key].picture_s + len(of) * rates[key].question_s for key, of in left
        )
        warm_up_s = schedule.warmup * sum(rates[key].request_s for key in set(timed))
        seconds = answers_s, ways * sum(rates[key].request_s for key in timed) + warm_up_s
    pictures = {of[0]: len(of) for _, of in left}
    return Cost(
        points=len({key for key, _ in left}),
        questions=sum(pictures.values()),
        pictures=len(pictures),
        units=len(left),
        requests=ways * len(timed),
        answers_s=None if seconds is None else seconds[0],
        timing_s=None if seconds is None else seconds[1],
        how=how,
        disk_bytes=_disk_bytes(left, ways * timed),
    )


def rates_of(stock: Stock, folder: Path) -> tuple[Mapping[PointKey, Rate], str]:
    """The rate of every point, and where they come from; none if nothing is known."""
    found, runs = recorded(stock, folder)
    how = f"recorded: timed requests of {', '.join(runs)}"
    if not found:
        found, how = estimated(stock)
    if not found:
        return {}, "the time is not known before the first are done"
    if others := [key for key in stock.points if key not in found]:
        how += f"; {len(others)} of {len(stock.points)} points have no such times and are given the mean of the rest"
    filled = {key: found[key] if key in found else _like(key, found) for key in stock.points}
    return filled, how


def _like(key: PointKey, known: Mapping[PointKey, Rate]) -> Rate:
    """The mean rate of the pipeline's known points, or of all."""
    alike = [rate for other, rate in known.items() if other[0] == key[0]] or list(known.values())
    return Rate(*(statistics.fmean(values) for values in zip(*map(dataclasses.astuple, alike), strict=True)))


def recorded(stock: Stock, folder: Path) -> tuple[dict[PointKey, Rate], list[str]]:
    """The rates of points that were timed on this machine with the same weights, and in which runs.

    The run in ``folder`` is read first, then those beside it. What cannot be read is skipped.
    """
    neighbours = sorted(path.parent for path in folder.parent.glob(f"*/{MANIFEST}") if path.parent != folder)
    found: dict[PointKey, Rate] = {}
    runs = []
    for run in itertools.islice([folder, *neighbours], _MOST_RUNS):
        try:
            keys = _same_points(stock, provenance.read(run / MANIFEST)) - found.keys()
            rates = _rates(_stages(run), keys) if keys else {}
        except (ResultsError, OSError):
            continue
        if rates:
            found |= rates
            runs.append(run.name)
        if found.keys() == stock.points.keys():
            break
    return found, runs


def _same_points(stock: Stock, manifest: provenance.Manifest) -> set[PointKey]:
    """The points that a run of both halves has with the same parameters, model and files."""
    if manifest.backbone != stock.backbone or manifest.half is not None:
        return set()
    here = stock.parameters
    return {
        (pipeline, label)
        for (pipeline, label), depends in stock.depends.items()
        if manifest.points.get(pipeline, {}).get(label) == here[pipeline][label]
        and all(manifest.digests.get(name) == digest for name, digest in depends.items())
    }


def _stages(run: Path) -> pd.DataFrame:
    """The stage rows of a run, finished or not, of the points that were measured only on this machine."""
    parts = itertools.islice(sorted(run.glob("parts/*/stages.parquet")), _MOST_PARTS)
    files = [path for path in (run / "stages.parquet", *parts) if path.is_file()]
    if not files:
        raise ResultsError(f"{run}: nothing was timed")
    rows: pd.DataFrame = pa.concat_tables(tables.read("stages", path) for path in files).to_pandas()
    here = (rows["source"] == "measured") & (rows["machine"] == machine_name())
    # Half a request says nothing about a whole one: the other half was a server's, or a profile's.
    return rows.loc[here.groupby([rows["pipeline"], rows["point"]]).transform("all").astype(bool)]


def _rates(stages: pd.DataFrame, keys: set[PointKey]) -> dict[PointKey, Rate]:
    """The mean seconds of a request at each point, by kind of work."""
    found = {}
    for key, rows in stages.groupby(["pipeline", "point"]):
        if key not in keys:
            continue
        requests = rows[["sample", "repeat"]].drop_duplicates().shape[0]
        seeing = (rows["side"] == "device") & rows["stage"].isin(_SEEING)
        answering = rows["stage"].isin(_ANSWERING)
        kinds = (seeing, ~seeing & ~answering, answering)
        found[key] = Rate(*(float(rows.loc[kind, "seconds"].sum()) / requests for kind in kinds))
    return found


def estimated(stock: Stock) -> tuple[dict[PointKey, Rate], str]:
    """The rates by the roofline of this machine's GPU, for the median picture; none where it has no data sheet."""
    if (sheet := sheet_here()) is None or not stock.samples.names:
        return {}, ""
    import torch

    from harness.estimates.backbone import CountedBackbone
    from harness.estimates.estimate import Estimator
    from harness.estimates.stages import NominalRequest, work_of

    if not torch.cuda.is_available():
        return {}, ""  # There is a GPU, but torch does not use it.
    names = stock.samples.names
    asked = NominalRequest(
        width_px=int(statistics.median(name.width_px for name in names)),
        height_px=int(statistics.median(name.height_px for name in names)),
        text_tokens=max(1, int(statistics.median(name.text_bytes for name in names)) // _TEXT_BYTES_A_TOKEN),
        answer_tokens=_ANSWER_TOKENS,
    )
    try:
        estimator, backbone = Estimator(sheet, sheet), CountedBackbone(stock.backbone)
    except HarnessError:
        return {}, ""  # A model whose work is not counted.
    found: dict[PointKey, Rate] = {}
    for spec in stock.scenario.pipelines:
        # The points of a scheme whose work is not counted get the mean of the others.
        with contextlib.suppress(HarnessError):
            for point, works in work_of(spec, backbone, asked):
                rows = [
                    [spec.name, point.label, stage.side, stage.stage, stage.seconds, "", 0]
                    for stage in estimator.stages(works)
                ]
                columns = ["pipeline", "point", "side", "stage", "seconds", "sample", "repeat"]
                found |= _rates(pd.DataFrame(rows, columns=columns), {(spec.name, point.label)})
    known = {key: rate for key, rate in found.items() if key in stock.points}
    return known, f"estimated: the roofline of {sheet}, without the launch of kernels"


def sheet_here() -> str | None:
    """The data sheet of the GPU that computes here, if it has one."""
    machine = this_machine()
    names = [str(machine.get("model") or ""), *(one["name"] for one in machine["accelerators"])]
    found = next(filter(None, map(sheets.named, names)), None)
    return None if found is None else found + _MODES.get(str(machine.get("power_mode")), "")


_BLOCK_BYTES = 4096
_UNIT_BYTES, _TABLE_BYTES, _ROW_BYTES = 130, 7_000, 60
"""The bytes of a part: a line of its list of units, a table's head, a row; measured on runs of the bundled
scenarios."""


def _disk_bytes(left: Sequence[tuple[PointKey, Sequence[int]]], timed: Sequence[PointKey]) -> int:
    """The parts of what is left, in whole blocks, and the run's tables at its end."""
    of_picture: dict[int, list[int]] = {}
    for _, places in left:
        of_picture.setdefault(places[0], []).append(len(places))
    sizes = [(len(questions), sum(questions)) for questions in of_picture.values()]
    points = max(1, len(set(timed)))
    # A turn of all points is a part, of some eight stages each.
    sizes += [(points, 8 * points)] * (len(timed) // points)
    rows = sum(rows for _, rows in sizes)
    return sum(
        _BLOCK_BYTES + _blocks(units * _UNIT_BYTES) + _blocks(_TABLE_BYTES + rows * _ROW_BYTES) for units, rows in sizes
    ) + _blocks(rows * _ROW_BYTES)


def _blocks(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
