"""Calibrations that begin at rows: scores, and all that is printed of a run, on studies of known truth.

Part of :mod:`benchmarks.bench_calibration`, which prints what each claims.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.optimize

from benchmarks.made_studies import (
    DEADLINE_S,
    RATE_BPS,
    SHARES,
    Scheme,
    Study,
    World,
    answered,
    score_of,
    study,
    target_share,
    true_score,
)
from benchmarks.tally import Tally, share, show
from harness.analysis import Analysis, precision
from harness.analysis.latency import total_s
from harness.analysis.means import Estimate
from harness.analysis.select import select
from harness.analysis.validity import looked_at
from harness.analysis.whatif import advise, crossover, max_users, percentile, replicated
from harness.records import PointKey
from harness.replay import Cell, replay
from harness.scenario.replay import Replay

THETA = 0.87
THIRDS = {"tofc": "lambda=1", "jpeg": "quality=1"}


def bench_scores(studies: int) -> None:
    """Intervals of a score, and of the normalised average of several benchmarks: :func:`harness.analysis.select`."""
    chances = (0.5, 0.7, 0.95)
    for benchmark, shapes in {
        "StreetsQA": ((6, 1), (10, 1), (40, 1), (160, 1), (10, 4), (40, 4)),
        "GlimpseQA": ((10, 2), (40, 2), (160, 2)),
    }.items():
        for shape in shapes:
            rng = np.random.default_rng([9, *shape, len(benchmark)])
            schemes = {"reference": Scheme(chance=0.8), **{f"{p:g}": Scheme(chance=p) for p in chances}}
            tallies = {name: Tally() for name in schemes if name != "reference"}
            for _ in range(studies):
                found = select(answered(rng, {benchmark: shape}, schemes)).set_index("pipeline")
                for name, tally in tallies.items():
                    row = found.loc[name]
                    tally.add(
                        Estimate(row["score"], row["score_low"], row["score_high"]),
                        true_score(benchmark, schemes[name]),
                    )
            for name, tally in tallies.items():
                metric = "accuracy" if benchmark == "StreetsQA" else "pairs"
                show(f"score: {metric} {name}, {shape[0]} pictures x {shape[1]}", "95 %", tally, note="discrete")
    for shapes in ((10, 10), (40, 40), (160, 60)):
        asked = {"StreetsQA": (shapes[0], 3), "GlimpseQA": (shapes[1], 2)}
        rng = np.random.default_rng([10, *shapes])
        schemes = {
            "reference": Scheme(chance=0.8),
            "as good": Scheme(chance=0.8),
            "a little less": Scheme(chance=0.76, alike=0.97),
            "another, worse": Scheme(chance=0.6, alike=0.3),
            "at t - m": Scheme(chance=scipy.optimize.brentq(lambda p: _normalised(p) - 100 * THETA, 0.5, 0.8)),
        }
        tallies, admitted = {name: Tally() for name in schemes if name != "reference"}, 0
        for _ in range(studies):
            found = select(answered(rng, asked, schemes)).set_index("pipeline")
            admitted += bool(found.loc["at t - m", "admissible"])
            for name, tally in tallies.items():
                row = found.loc[name]
                truth = _normalised(schemes[name].chance, schemes[name].alike)
                tally.add(Estimate(row["score"], row["score_low"], row["score_high"]), truth)
        pictures = f"{shapes[0]} + {shapes[1]} pictures"
        for name, tally in tallies.items():
            show(f"normalised average: {name}, {pictures}", "95 %", tally)
        show(f"admission: normalised average, {pictures}", "<= 5 %", share(admitted, studies))


@functools.cache
def _normalised(chance: float, alike: float = 0.9) -> float:
    """The true normalised average of a scheme over StreetsQA and GlimpseQA."""
    scheme, reference = Scheme(chance=chance, alike=alike), Scheme(chance=0.8)
    ratios = [true_score(name, scheme) / true_score(name, reference) for name in ("StreetsQA", "GlimpseQA")]
    return 50 * sum(ratios)


_ONE_POINT = World(shares=(2.0,), schemes=("server_only", "tofc", "jpeg"))
ROWS = {
    "times follow tiles": _ONE_POINT,
    "log-normal 0.5": dataclasses.replace(_ONE_POINT, spread=0.5, by_tiles=False),
    "tiles, 10 % drift": dataclasses.replace(_ONE_POINT, rounds=6, drift=0.1),
}


def bench_rows(studies: int) -> None:
    """From rows to what is printed: made-up runs, read by the code that reads a run's own."""
    tofc, jpeg = ("tofc", "lambda=2"), ("jpeg", "quality=2")
    for place, (kind, world) in enumerate(ROWS.items()):
        for n in (6, 12, 40):
            claims = ("run: mean", "run: device part", "run: times the first's", "run: share in time", "advise: mean")
            tallies = {claim: Tally() for claim in (*claims, "advise: share in time", "crossover: rate")}
            for number in range(studies):
                made = study(dataclasses.replace(world, timed=n), [11, place, n, number])
                if made.run.points.set_index("pipeline").loc["tofc", "selected"]:
                    _tally_run(made, tallies, tofc, jpeg)
                    _tally_advice(made, tallies, tofc)
                    spec = made.run.setting.system
                    a, b = (made.run.profile(*key) for key in (tofc, jpeg))
                    found = crossover(a, b, spec, low_bps=1e4, high_bps=1e9, population=made.run.population)
                    if found.rate_bps is not None:
                        tallies["crossover: rate"].add(found.rate_bps, made.crossover_bps(jpeg, tofc))
            for claim, tally in tallies.items():
                note = "discrete" if "share" in claim else ""
                show(f"{claim}, {kind}, {n} x {world.rounds}", "95 %", tally, note=note)


def _tally_run(made: Study, tallies: dict[str, Tally], tofc: PointKey, jpeg: PointKey) -> None:
    """What the closing table and its sentence say of one scheme."""
    row = made.run.numbers.set_index("pipeline").loc["tofc"]
    tallies["run: mean"].add(_of(row, "total_mean{}_s"), made.mean_s(tofc))
    tallies["run: device part"].add(_of(row, "device_mean{}_s"), float(made.device_s["tofc"].mean()))
    tallies["run: share in time"].add(_of(row, "in_time{}"), made.in_time(tofc))
    times = made.run.first.set_index("pipeline")
    if "jpeg" in times.index and times.loc["jpeg", "first"] == "tofc":
        truth = made.mean_s(jpeg) / made.mean_s(tofc)
        tallies["run: times the first's"].add(_of(times.loc["jpeg"], "ratio{}"), truth)


def _of(row: Any, name: str) -> Estimate:
    return Estimate(*(float(row[name.format(end)]) for end in ("", "_low", "_high")))


def _tally_advice(made: Study, tallies: dict[str, Tally], tofc: PointKey) -> None:
    spec = made.run.setting.system
    profiles = [made.run.selected_profile("tofc")]
    (advice,) = advise(
        profiles, {tofc: 1.0}, spec, spec.uplinks[0], deadline_s=DEADLINE_S, min_score=0.9,
        population=made.run.population,
    )  # fmt: skip
    tallies["advise: mean"].add(advice.mean_s, made.mean_s(tofc))
    tallies["advise: share in time"].add(advice.deadline_share, made.in_time(tofc))


def bench_equal_rows(studies: int) -> None:
    """Bytes, latency and BD-score at equal score, from rows: two ladders whose true ratio of bytes is 1.8."""
    target = THETA + 0.05
    needed = target_share(target * 0.78)
    for pictures, questions in ((160, 2), (400, 2)):
        world = World(pictures=pictures, questions=questions, timed=12, schemes=("server_only", "tofc", "jpeg"))
        claims = ("bytes at equal score", "ratio of bytes", "latency at equal score", "ratio of latencies", "BD-score")
        tallies = {claim: Tally(down_to_nothing="BD" in claim) for claim in claims}
        for number in range(studies):
            made = study(world, [12, pictures, number])
            sizes = {name: float(made.sent[name, point].mean()) for name, point in THIRDS.items()}
            bytes_true = {name: needed * size for name, size in sizes.items()}
            (row,) = made.run.equal_scores.to_dict("records")
            if not row["reason"]:
                tallies["bytes at equal score"].add(_of(row, "test_bytes{}"), bytes_true["tofc"])
                tallies["ratio of bytes"].add(_of(row, "ratio{}"), bytes_true["tofc"] / bytes_true["jpeg"])
            (at,) = made.run.latencies_at_equal_score.to_dict("records")
            if not at["reason"]:
                seconds = {
                    name: float(made.seconds[name, point].mean()) + 8 * bytes_true[name] / RATE_BPS
                    for name, point in THIRDS.items()
                }
                tallies["latency at equal score"].add(_of(at, "test_s{}"), seconds["tofc"])
                tallies["ratio of latencies"].add(_of(at, "ratio{}"), seconds["tofc"] / seconds["jpeg"])
            tallies["BD-score"].add(_of(row, "bd_score{}"), _bd_score(sizes))
        for claim, tally in tallies.items():
            refused = "" if "BD" in claim else f"of {studies} studies"
            show(f"{claim}, from rows, {pictures} pictures x {questions}", "95 %", tally, note=refused)


def _bd_score(sizes: Mapping[str, float]) -> float:
    """The true BD-score of tofc over jpeg, in points, whose thirds have these sizes."""
    low, high = (math.log(SHARES[place] * sizes[name]) for place, name in ((0, "jpeg"), (-1, "tofc")))
    at = np.linspace(low, high, 2001)
    of = {name: np.array([score_of(math.exp(x) / size) for x in at]) for name, size in sizes.items()}
    return 100 * float((of["tofc"] - of["jpeg"]).mean())


def bench_stopped_rows(studies: int) -> None:
    """Means of runs that stop when precise: looked at and printed by the same code as ``measure: {precision: ...}``."""
    key = ("tofc", "lambda=2")
    for kind, world in (
        ("times follow tiles", World(shares=(2.0,))),
        ("log-normal 0.25", World(shares=(2.0,), by_tiles=False, spread=0.25)),
    ):
        world = dataclasses.replace(world, timed=100, schemes=("server_only", "tofc"), precision=0.1)
        tally, reached, pictures = Tally(), 0, 0
        for number in range(studies // 2):
            made = study(world, [13, len(kind), number])
            record = made.run.record
            for n in precision.looks(world.timed):
                timed = pc.is_in(record.stages["sample"], pa.array(made.timed[:n]))
                stages = record.stages.filter(timed)
                looked = looked_at(stages, record.samples, precision=world.precision, at_most=world.timed)
                if not any(look.go_on_to for look in looked.values()):
                    break
            run = Analysis(dataclasses.replace(record, stages=stages))
            tally.add(_of(run.numbers.set_index("pipeline").loc["tofc"], "total_mean{}_s"), made.mean_s(key))
            reached, pictures = reached + all(look.precise for look in looked.values()), pictures + n
        many = max(studies // 2, 1)
        note = f"reached {reached / many:.0%}, {pictures / many:.0f} pictures"
        show(f"run: mean, stopped at 10 % or 100 pictures, {kind}", "95 %", tally, note=note)


def bench_users(studies: int) -> None:
    """The most users within a limit, and their percentiles: a long replay of all pictures has the truth."""
    world = World(shares=(2.0,), schemes=("server_only", "tofc"), spread=0.3)
    parts = {"uplinks": [{"kind": "constant", "rate": "1 MB/s"}], "arrivals": {"kind": "poisson", "rate": "1 /s"}}
    spec = Replay.model_validate({**parts, "requests": 100})
    everything = study(dataclasses.replace(world, timed=world.pictures, rounds=8), [14], population=[14])
    profile = everything.run.selected_profile("tofc")
    few_users, most_true = 4, 14
    long = spec.model_copy(update={"requests": 1000})
    true = {}
    for n in (few_users, most_true, most_true + 1):
        cells = [Cell(spec=long, uplink=spec.uplinks[0], users=n, seed=seed) for seed in range(10)]
        true[n] = float(np.mean([percentile(50)(total_s(replay(profile, cell))) for cell in cells]))
    limit_s = 0.5 * (true[most_true] + true[most_true + 1])
    for timed_pictures in (12, 40):
        tally, too_many, most = Tally(), 0, 0.0
        many = max(studies // 10, 20)
        for number in range(many):
            made = study(
                dataclasses.replace(world, timed=timed_pictures), [14, timed_pictures, number], population=[14]
            )
            own = made.run.selected_profile("tofc")
            found, _ = max_users(own, spec, spec.uplinks[0], limit_s=limit_s, q=50, at_most=20)
            four = Cell(spec=spec, uplink=spec.uplinks[0], users=few_users, seed=0)
            tally.add(replicated(own, four, percentile(50)), true[few_users])
            too_many += found > most_true
            most += found
        show(f"max-users: p50 of {few_users} users, {timed_pictures} pictures", "95 %", tally)
        note = f"{most / many:.1f} users on average, {most_true} are true"
        show(f"max-users: more users than there may be, {timed_pictures}", "<= 5 %", share(too_many, many), note=note)
