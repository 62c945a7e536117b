"""Small calibrations that begin at rows: how often what a run prints holds the truth of a made-up study."""

import dataclasses

import numpy as np
import pytest

from benchmarks.calibrated_rows import ROWS
from benchmarks.made_studies import DEADLINE_S, Scheme, World, answered, study, true_score
from benchmarks.tally import Tally
from harness.analysis.means import Estimate
from harness.analysis.select import select
from harness.analysis.whatif import advise, crossover

TOFC, JPEG = ("tofc", "lambda=2"), ("jpeg", "quality=2")


def test_what_is_printed_of_six_timed_pictures_holds_the_truth() -> None:
    """Of 16 runs whose times follow tiles and drift, 14 or more hold each truth: in tables, advice and crossover."""
    world = dataclasses.replace(ROWS["tiles, 10 % drift"], timed=6)
    held = dict.fromkeys(("run", "ratio", "in time", "advise", "crossover"), 0)
    for number in range(16):
        made = study(world, [1, number])
        run = made.run
        row = run.numbers.set_index("pipeline").loc["tofc"]
        first = run.first.set_index("pipeline").loc["server_only"]
        leader = TOFC if first["first"] == "tofc" else JPEG
        (told,) = advise(
            [run.profile(*TOFC)], {TOFC: 1.0}, run.setting.system, run.setting.system.uplinks[0],
            deadline_s=DEADLINE_S, min_score=0.9, population=run.population,
        )  # fmt: skip
        crossed = crossover(
            run.profile(*TOFC), run.profile(*JPEG), run.setting.system, low_bps=1e4, high_bps=1e9,
            population=run.population,
        ).rate_bps  # fmt: skip
        assert crossed is not None
        mean_s, share = made.mean_s(TOFC), made.in_time(TOFC)
        rate_bps, ratio = made.crossover_bps(JPEG, TOFC), made.mean_s(("server_only", "-")) / made.mean_s(leader)
        held["run"] += row["total_mean_low_s"] <= mean_s <= row["total_mean_high_s"]
        held["ratio"] += first["ratio_low"] <= ratio <= first["ratio_high"]
        held["in time"] += row["in_time_low"] <= share <= row["in_time_high"]
        held["advise"] += told.mean_s.low <= mean_s <= told.mean_s.high
        held["crossover"] += crossed.low <= rate_bps <= crossed.high
    assert min(held.values()) >= 14, held


def test_a_run_that_stops_when_precise_prints_the_interval_that_it_looked_at() -> None:
    """Its mean is printed at a confidence of 96 %, which covers as 95 % once the scatter has decided when to stop."""
    plain, stopped = (
        study(dataclasses.replace(World(shares=(2.0,), schemes=("server_only", "tofc")), precision=wanted), [3]).run
        for wanted in (None, 0.1)
    )
    assert (plain.setting.confidence, stopped.setting.confidence) == pytest.approx((0.95, 0.96))
    widths = [(run.numbers["total_mean_high_s"] - run.numbers["total_mean_low_s"]).iloc[1] for run in (plain, stopped)]
    assert 1.02 < widths[1] / widths[0] < 1.2


@pytest.mark.parametrize(
    "asked", [{"StreetsQA": (10, 1)}, {"GlimpseQA": (40, 2)}, {"StreetsQA": (40, 3), "GlimpseQA": (40, 2)}]
)
def test_intervals_of_scores_hold_the_truth(asked: dict[str, tuple[int, int]]) -> None:
    """Of 30 studies 27 or more do, of few pictures, of pairs, and of the average of two benchmarks."""
    rng = np.random.default_rng([4, *sum(asked.values(), ())])
    schemes = {"reference": Scheme(chance=0.8), "high": Scheme(chance=0.78, alike=0.97), "low": Scheme(chance=0.6)}
    tallies = {name: Tally() for name in ("high", "low")}
    for _ in range(30):
        found = select(answered(rng, asked, schemes)).set_index("pipeline")
        for name, tally in tallies.items():
            truths = [true_score(benchmark, schemes[name]) for benchmark in asked]
            if len(asked) > 1:
                of_reference = [true_score(benchmark, schemes["reference"]) for benchmark in asked]
                truths = [100 * np.mean(np.divide(truths, of_reference))]
            row = found.loc[name]
            tally.add(Estimate(row["score"], row["score_low"], row["score_high"]), float(truths[0]))
    assert min(tally.hits for tally in tallies.values()) >= 27
