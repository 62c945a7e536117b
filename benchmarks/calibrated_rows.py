"""Calibrations that begin at rows: scores, and all that is printed of a run, on studies of known truth.

Part of :mod:`benchmarks.bench_calibration`, which prints what each claims.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.optimize

from benchmarks.made_studies import (
    DEADLINE_S,
    RATE_BPS,
    SHARES,
    TEXT_BYTES,
    Scheme,
    Study,
    World,
    answered,
    score_of,
    study,
    target_share,
    true_score,
    wired_s,
)
from benchmarks.resumable import Cell
from benchmarks.tally import Counts, line, share
from harness import replay
from harness.analysis import Analysis, precision
from harness.analysis.crossings import crossover
from harness.analysis.latency import total_s
from harness.analysis.means import Estimate
from harness.analysis.replications import percentile, replicated
from harness.analysis.select import select
from harness.analysis.validity import looked_at
from harness.analysis.whatif import advise, max_users
from harness.records import PointKey
from harness.scenario.replay import Replay

THETA = 0.87
THIRDS = {"tofc": "lambda=1", "jpeg": "quality=1"}


_OF_SCORE = {"reference": Scheme(chance=0.8), **{f"{p:g}": Scheme(chance=p) for p in (0.5, 0.7, 0.95)}}


def cells_of_scores() -> Iterator[Cell]:
    """Intervals of a score, and of the normalised average of several benchmarks: :func:`harness.analysis.select`."""
    for benchmark, shapes in {
        "StreetsQA": ((6, 1), (10, 1), (40, 1), (160, 1), (10, 4), (40, 4)),
        "GlimpseQA": ((10, 2), (40, 2), (160, 2)),
        "MME": ((40, 2), (100, 2), (300, 2), (1057, 2)),
    }.items():
        for shape in shapes:
            study, lines = (
                functools.partial(_study_of_score, benchmark, shape),
                functools.partial(_lines_of_score, benchmark, shape),
            )
            name, times = f"{benchmark}, {shape[0]} x {shape[1]}", 0.5 if benchmark == "MME" else 1.0
            yield Cell(section="scores", name=name, study=study, lines=lines, times=times)
    for second, of_second in {"GlimpseQA": ((10, 10), (40, 40), (160, 60)), "MME": ((160, 40), (160, 100))}.items():
        for sizes in of_second:
            study, lines = (
                functools.partial(_study_of_average, second, sizes),
                functools.partial(_lines_of_average, second, sizes),
            )
            name, times = f"average with {second}, {sizes[0]} + {sizes[1]}", 0.5 if second == "MME" else 1.0
            yield Cell(section="scores", name=name, study=study, lines=lines, times=times)


def _study_of_score(benchmark: str, shape: tuple[int, int], number: int, counts: Counts) -> None:
    rng = np.random.default_rng([9, *shape, len(benchmark), number])
    schemes = {**_OF_SCORE, "at t - m": _at_t_less_m(benchmark)} if benchmark == "MME" else _OF_SCORE
    found = select(answered(rng, {benchmark: shape}, schemes)).set_index("pipeline")
    counts.sums["admitted"] += benchmark == "MME" and bool(found.loc["at t - m", "admissible"])
    for name in list(_OF_SCORE)[1:]:
        counts[name].add(_score_in(found, name), true_score(benchmark, _OF_SCORE[name]))


def _lines_of_score(benchmark: str, shape: tuple[int, int], counts: Counts, studies: int) -> Iterable[str]:
    metric = {"StreetsQA": "accuracy", "GlimpseQA": "pairs", "MME": "pairs, sum over MME's subtasks"}[benchmark]
    for name in list(_OF_SCORE)[1:]:
        yield line(f"score: {metric} {name}, {shape[0]} pictures x {shape[1]}", "95 %", counts[name], note="discrete")
    if benchmark == "MME":
        what = f"admission: {metric}, {shape[0]} pictures x {shape[1]}"
        yield line(what, "<= 5 %", share(counts.sums["admitted"], studies))


def _score_in(found: Any, name: str) -> Estimate:
    row = found.loc[name]
    return Estimate(float(row["score"]), float(row["score_low"]), float(row["score_high"]))


@functools.cache
def _at_t_less_m(*benchmarks: str) -> Scheme:
    """A scheme whose true normalised average over some benchmarks is t - m."""
    return Scheme(
        chance=scipy.optimize.brentq(lambda p: _normalised(Scheme(chance=p), benchmarks) - 100 * THETA, 0.5, 0.8)
    )


def _of_average(second: str) -> dict[str, Scheme]:
    return {
        "reference": Scheme(chance=0.8),
        "as good": Scheme(chance=0.8),
        "a little less": Scheme(chance=0.76, alike=0.97),
        "another, worse": Scheme(chance=0.6, alike=0.3),
        "at t - m": _at_t_less_m("StreetsQA", second),
    }


def _study_of_average(second: str, shapes: tuple[int, int], number: int, counts: Counts) -> None:
    rng, schemes = np.random.default_rng([10, *shapes, number]), _of_average(second)
    asked = {"StreetsQA": (shapes[0], 3), second: (shapes[1], 2)}
    found = select(answered(rng, asked, schemes)).set_index("pipeline")
    counts.sums["admitted"] += bool(found.loc["at t - m", "admissible"])
    for name in list(schemes)[1:]:
        counts[name].add(_score_in(found, name), _normalised(schemes[name], ("StreetsQA", second)))


def _lines_of_average(second: str, shapes: tuple[int, int], counts: Counts, studies: int) -> Iterable[str]:
    pictures = f"{shapes[0]} + {shapes[1]} pictures" + (" of MME" if second == "MME" else "")
    for name in list(_of_average(second))[1:]:
        yield line(f"normalised average: {name}, {pictures}", "95 %", counts[name])
    yield line(f"admission: normalised average, {pictures}", "<= 5 %", share(counts.sums["admitted"], studies))


@functools.cache
def _normalised(scheme: Scheme, benchmarks: tuple[str, ...]) -> float:
    """The true normalised average of a scheme over some benchmarks."""
    ratios = [true_score(name, scheme) / true_score(name, _OF_SCORE["reference"]) for name in benchmarks]
    return 100 * sum(ratios) / len(ratios)


_ONE_POINT = World(shares=(2.0,), schemes=("server_only", "tofc", "jpeg"))
ROWS = {
    "times follow tiles": _ONE_POINT,
    "log-normal 0.5": dataclasses.replace(_ONE_POINT, spread=0.5, by_tiles=False),
    "tiles, 10 % drift": dataclasses.replace(_ONE_POINT, rounds=6, drift=0.1),
}
RESTARTS = {
    "3 starts, 5 %": dataclasses.replace(_ONE_POINT, rounds=9, starts=3, restart=0.05),
    "8 starts, 5 %": dataclasses.replace(_ONE_POINT, rounds=8, starts=8, restart=0.05),
    "timed apart, 3 starts, 5 %": dataclasses.replace(_ONE_POINT, rounds=6, starts=3, restart=0.05, apart=("jpeg",)),
    "timed apart, 8 starts, 5 %": dataclasses.replace(_ONE_POINT, rounds=8, starts=8, restart=0.05, apart=("jpeg",)),
}
_WORLDS = {**ROWS, **RESTARTS}
_TOFC, _JPEG = ("tofc", "lambda=2"), ("jpeg", "quality=2")


def cells_of_rows() -> Iterator[Cell]:
    """From rows to what is printed: made-up runs, read by the code that reads a run's own."""
    for kind in ROWS:
        for n in (6, 12, 40):
            yield _cell_of_rows("rows", kind, n)


def cells_of_restarts() -> Iterator[Cell]:
    """The same of runs over several starts of the process, of which each has a level of its own."""
    for kind in RESTARTS:
        for n in (6, 12):
            yield _cell_of_rows("restarts", kind, n)


def _cell_of_rows(section: str, kind: str, n: int) -> Cell:
    study, lines = functools.partial(_study_of_rows, kind, n), functools.partial(_lines_of_rows, kind, n)
    return Cell(section=section, name=f"{kind}, {n} x {_WORLDS[kind].rounds}", study=study, lines=lines)


def _study_of_rows(kind: str, n: int, number: int, counts: Counts) -> None:
    seed = [11, list(_WORLDS).index(kind), n, number]
    made = study(dataclasses.replace(_WORLDS[kind], timed=n), seed, simulator="vector")
    if not made.run.points.set_index("pipeline").loc["tofc", "selected"]:
        return
    _count_run(made, counts)
    _count_advice(made, counts)
    a, b = (made.run.profile(*key) for key in (_TOFC, _JPEG))
    spec, population = made.run.setting.system, made.run.population
    found = crossover(a, b, spec, low_bps=1e4, high_bps=1e9, population=population)
    if found.rate_bps is not None:
        counts["crossover: rate"].add(found.rate_bps, made.crossover_bps(_JPEG, _TOFC))


def _lines_of_rows(kind: str, n: int, counts: Counts, _studies: int) -> Iterable[str]:
    of_run = ("run: mean", "run: device part", "run: times the first's", "run: share in time")
    for claim in (*of_run, "advise: mean", "advise: share in time", "crossover: rate"):
        note = "discrete" if "share" in claim else ""
        yield line(f"{claim}, {kind}, {n} x {_WORLDS[kind].rounds}", "95 %", counts[claim], note=note)


def _count_run(made: Study, counts: Counts) -> None:
    """What the closing table and its sentence say of one scheme."""
    row = made.run.numbers.set_index("pipeline").loc["tofc"]
    counts["run: mean"].add(_of(row, "total_mean{}_s"), made.mean_s(_TOFC))
    counts["run: device part"].add(_of(row, "device_mean{}_s"), float(made.device_s["tofc"].mean()))
    counts["run: share in time"].add(_of(row, "in_time{}"), made.in_time(_TOFC))
    times = made.run.first.set_index("pipeline")
    if "jpeg" in times.index and times.loc["jpeg", "first"] == "tofc":
        truth = made.mean_s(_JPEG) / made.mean_s(_TOFC)
        counts["run: times the first's"].add(_of(times.loc["jpeg"], "ratio{}"), truth)


def _of(row: Any, name: str) -> Estimate:
    value, low, high = (float(row[name.format(end)]) for end in ("", "_low", "_high"))
    return Estimate(value, low, high)


def _count_advice(made: Study, counts: Counts) -> None:
    spec = made.run.setting.system
    profiles = [made.run.selected_profile("tofc")]
    (advice,) = advise(
        profiles, {_TOFC: 1.0}, spec, spec.uplinks[0], deadline_s=DEADLINE_S, min_score=0.9,
        population=made.run.population,
    )  # fmt: skip
    counts["advise: mean"].add(advice.mean_s, made.mean_s(_TOFC))
    counts["advise: share in time"].add(advice.deadline_share, made.in_time(_TOFC))


_EQUAL = ("bytes at equal score", "ratio of bytes", "latency at equal score", "ratio of latencies", "BD-score")


def cells_of_equal_rows() -> Iterator[Cell]:
    """Bytes, latency and BD-score at equal score, from rows: two ladders whose true ratio of bytes is 1.8.

    The last is over a link that takes more than the payload's bits, with the question's text and an answer's way back.
    """
    for pictures, wired in ((160, False), (400, False), (400, True)):
        what = f"{pictures} pictures x 2{', wired' if wired else ''}"
        study, lines = (
            functools.partial(_study_of_equal_rows, pictures, wired),
            functools.partial(_lines_of_equal_rows, what, wired),
        )
        yield Cell(section="equal-rows", name=what, study=study, lines=lines)


def _study_of_equal_rows(pictures: int, wired: bool, number: int, counts: Counts) -> None:
    needed = target_share((THETA + 0.05) * 0.78)
    world = World(
        pictures=pictures, questions=2, timed=12, schemes=("server_only", "tofc", "jpeg"), wired=wired
    )  # fmt: skip
    made = study(world, [12, pictures, number], simulator="vector")
    sizes = {name: float(made.sent[name, point].mean()) for name, point in THIRDS.items()}
    bytes_true = {name: needed * size for name, size in sizes.items()}

    def add(claim: str, found: Estimate, truth: float) -> None:
        counts[claim].add(found, truth, down_to_nothing="BD" in claim)

    (row,) = made.run.equal_scores.to_dict("records")
    if not row["reason"]:
        add("bytes at equal score", _of(row, "test_bytes{}"), bytes_true["tofc"])
        add("ratio of bytes", _of(row, "ratio{}"), bytes_true["tofc"] / bytes_true["jpeg"])
    (at,) = made.run.latencies_at_equal_score.to_dict("records")
    if not at["reason"]:
        seconds = {
            name: float(made.seconds[name, point].mean()) + _link_s(made, (name, point), needed)
            for name, point in THIRDS.items()
        }
        add("latency at equal score", _of(at, "test_s{}"), seconds["tofc"])
        add("ratio of latencies", _of(at, "ratio{}"), seconds["tofc"] / seconds["jpeg"])
    add("BD-score", _of(row, "bd_score{}"), _bd_score(sizes))


def _link_s(made: Study, third: PointKey, share: float) -> float:
    """The true mean link time of a ladder at so many of its third's bytes."""
    if not made.world.wired:
        return 8 * share * float(made.sent[third].mean()) / RATE_BPS
    return float(wired_s(np.floor(share * made.sent[third]) + TEXT_BYTES).mean())


def _lines_of_equal_rows(what: str, wired: bool, counts: Counts, studies: int) -> Iterable[str]:
    for claim in _EQUAL if not wired else [claim for claim in _EQUAL if "latenc" in claim]:
        of_all = "" if "BD" in claim else f"of {studies} studies"
        yield line(f"{claim}, from rows, {what}", "95 %", counts[claim], note=of_all)


def _bd_score(sizes: Mapping[str, float]) -> float:
    """The true BD-score of tofc over jpeg, in points, whose thirds have these sizes."""
    low, high = (math.log(SHARES[place] * sizes[name]) for place, name in ((0, "jpeg"), (-1, "tofc")))
    at = np.linspace(low, high, 2001)
    of = {name: np.array([score_of(math.exp(x) / size) for x in at]) for name, size in sizes.items()}
    return 100 * float((of["tofc"] - of["jpeg"]).mean())


STOPPED = {
    "times follow tiles": World(shares=(2.0,)),
    "log-normal 0.25": World(shares=(2.0,), by_tiles=False, spread=0.25),
}


def cells_of_stopped_rows() -> Iterator[Cell]:
    """Means of runs that stop when precise: looked at and printed by the same code as ``measure: {precision: ...}``."""
    for kind in STOPPED:
        study, lines = functools.partial(_study_of_stopped_rows, kind), functools.partial(_lines_of_stopped_rows, kind)
        yield Cell(section="stopped-rows", name=kind, study=study, lines=lines, times=0.5)


def _study_of_stopped_rows(kind: str, number: int, counts: Counts) -> None:
    world = dataclasses.replace(STOPPED[kind], timed=100, schemes=("server_only", "tofc"), precision=0.1)
    made = study(world, [13, len(kind), number], simulator="vector")
    record = made.run.record
    assert world.precision is not None
    for n in precision.looks(world.timed):
        timed = pc.is_in(record.stages["sample"], pa.array(made.timed[:n]))
        stages = record.stages.filter(timed)
        looked = looked_at(stages, record.samples, precision=world.precision, at_most=world.timed, confidence=0.95)
        if not any(look.go_on_to for look in looked.values()):
            break
    run = Analysis(dataclasses.replace(record, stages=stages))
    row = run.numbers.set_index("pipeline").loc["tofc"]
    counts["now"].add(_of(row, "total_mean{}_s"), made.mean_s(_TOFC))
    counts.sums["reached"] += all(look.precise for look in looked.values())
    counts.sums["pictures"] += n


def _lines_of_stopped_rows(kind: str, counts: Counts, studies: int) -> Iterable[str]:
    note = f"reached {counts.sums['reached'] / studies:.0%}, {counts.sums['pictures'] / studies:.0f} pictures"
    yield line(f"run: mean, stopped at 10 % or 100 pictures, {kind}", "95 %", counts["now"], note=note)


_USERS = World(shares=(2.0,), schemes=("server_only", "tofc"), spread=0.3)
_FEW_USERS, _MOST_TRUE = 4, 14


def cells_of_users() -> Iterator[Cell]:
    """The most users within a limit, and their percentiles: a long replay of all pictures has the truth."""
    for timed in (12, 40):
        study, lines = functools.partial(_study_of_users, timed), functools.partial(_lines_of_users, timed)
        yield Cell(section="users", name=f"{timed} pictures", study=study, lines=lines, times=0.1, least=20)


@functools.cache
def _of_users() -> tuple[Replay, float, float]:
    """The system, the true median of a few users, and a limit that as many users as are true stay within."""
    parts = {"uplinks": [{"kind": "constant", "rate": "1 MB/s"}], "arrivals": {"kind": "poisson", "rate": "1 /s"}}
    spec = Replay.model_validate({**parts, "requests": 100})
    everything = study(dataclasses.replace(_USERS, timed=_USERS.pictures, rounds=8), [14], population=[14])
    profile = everything.run.selected_profile("tofc")
    long = spec.model_copy(update={"requests": 1000})
    true = []
    for n in (_FEW_USERS, _MOST_TRUE, _MOST_TRUE + 1):
        cells = [replay.Cell(spec=long, uplink=spec.uplinks[0], users=n, seed=seed) for seed in range(10)]
        true.append(float(np.mean([percentile(50)(total_s(replay.replay(profile, cell))) for cell in cells])))
    return spec, true[0], 0.5 * (true[1] + true[2])


def _study_of_users(timed: int, number: int, counts: Counts) -> None:
    spec, true_s, limit_s = _of_users()
    world = dataclasses.replace(_USERS, timed=timed)
    made = study(world, [14, timed, number], population=[14], simulator="vector")
    own = made.run.selected_profile("tofc")
    found, _ = max_users(own, spec, spec.uplinks[0], limit_s=limit_s, q=50, at_most=20)
    few = replay.Cell(spec=spec, uplink=spec.uplinks[0], users=_FEW_USERS, seed=0)
    counts["p50"].add(replicated(own, few, percentile(50)), true_s)
    counts.sums["too many"] += found > _MOST_TRUE
    counts.sums["users"] += found


def _lines_of_users(timed: int, counts: Counts, studies: int) -> Iterable[str]:
    yield line(f"max-users: p50 of {_FEW_USERS} users, {timed} pictures", "95 %", counts["p50"])
    note = f"{counts.sums['users'] / studies:.1f} users on average, {_MOST_TRUE} are true"
    too_many = share(counts.sums["too many"], studies)
    yield line(f"max-users: more users than there may be, {timed}", "<= 5 %", too_many, note=note)
