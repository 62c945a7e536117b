"""Small calibrations from rows: how often what a run prints holds the truth of a made-up study."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import resumable
from benchmarks.calibrated_rows import RESTARTS, ROWS
from benchmarks.made_studies import DEADLINE_S, Scheme, World, answered, study, true_score, wired_s
from benchmarks.resumable import Cell
from benchmarks.tally import Counts, Tally
from harness.analysis import Analysis
from harness.analysis.cells import mean_link_s
from harness.analysis.crossings import crossover
from harness.analysis.means import Estimate
from harness.analysis.select import select
from harness.analysis.whatif import advise

TOFC, JPEG = ("tofc", "lambda=2"), ("jpeg", "quality=2")


def asked(run: Analysis) -> tuple[Any, Estimate]:
    """What ``advise`` says of TOFC, and the rate at which it and JPEG cross."""
    system = run.setting.system
    (told,) = advise(
        [run.profile(*TOFC)], {TOFC: 1.0}, system, system.uplinks[0],
        deadline_s=DEADLINE_S, min_score=0.9, population=run.population,
    )  # fmt: skip
    crossed = crossover(
        run.profile(*TOFC), run.profile(*JPEG), system, low_bps=1e4, high_bps=1e9, population=run.population
    ).rate_bps
    assert crossed is not None
    return told, crossed


@pytest.mark.slow
def test_what_is_printed_of_six_timed_pictures_holds_the_truth() -> None:
    """Of 16 runs whose times follow tiles and drift, 14 or more hold each truth: in tables, advice and crossover."""
    world = dataclasses.replace(ROWS["tiles, 10 % drift"], timed=6)
    held = dict.fromkeys(("run", "ratio", "in time", "advise", "crossover"), 0)
    for number in range(16):
        made = study(world, [1, number])
        run = made.run
        row = run.numbers.set_index("pipeline").T["tofc"]
        first = run.first.set_index("pipeline").T["server_only"]
        leader = TOFC if first["first"] == "tofc" else JPEG
        told, crossed = asked(run)
        mean_s, share = made.mean_s(TOFC), made.in_time(TOFC)
        rate_bps, ratio = made.crossover_bps(JPEG, TOFC), made.mean_s(("server_only", "-")) / made.mean_s(leader)
        held["run"] += row["total_mean_low_s"] <= mean_s <= row["total_mean_high_s"]
        held["ratio"] += first["ratio_low"] <= ratio <= first["ratio_high"]
        held["in time"] += row["in_time_low"] <= share <= row["in_time_high"]
        held["advise"] += told.mean_s.low <= mean_s <= told.mean_s.high
        held["crossover"] += crossed.low <= rate_bps <= crossed.high
    assert min(held.values()) >= 14, held


@pytest.mark.slow
def test_a_run_that_stops_when_precise_prints_the_interval_that_it_looked_at() -> None:
    """Its mean is printed at a confidence of 96 %, which covers as 95 % once the scatter has decided when to stop."""
    plain, stopped = (
        study(dataclasses.replace(World(shares=(2.0,), schemes=("server_only", "tofc")), precision=wanted), [3]).run
        for wanted in (None, 0.1)
    )
    assert (plain.setting.confidence, stopped.setting.confidence) == pytest.approx((0.95, 0.96))
    widths = [(run.numbers["total_mean_high_s"] - run.numbers["total_mean_low_s"]).iloc[1] for run in (plain, stopped)]
    assert 1.02 < widths[1] / widths[0] < 1.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"StreetsQA": (10, 1)},
        {"GlimpseQA": (40, 2)},
        {"MME": (300, 2)},
        {"StreetsQA": (40, 3), "GlimpseQA": (40, 2)},
    ],
)
def test_intervals_of_scores_hold_the_truth(asked: dict[str, tuple[int, int]]) -> None:
    """Of 30 studies 27 or more do, of few pictures, of pairs, of subtasks, and of the average of two benchmarks."""
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
            row = found.T[name]
            tally.add(Estimate(row["score"], row["score_low"], row["score_high"]), float(truths[0]))
    assert min(tally.hits for tally in tallies.values()) >= 27


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["3 starts, 5 %", "timed apart, 3 starts, 5 %"])
def test_runs_over_three_starts_hold_the_truth(kind: str) -> None:
    """Of 12 runs whose starts scatter by 5 % all but one hold each truth, one scheme timed apart or none."""
    world = dataclasses.replace(RESTARTS[kind], timed=6, resamples=50)
    held = dict.fromkeys(("run", "ratio", "advise", "crossover"), 0)
    made_up = (study(world, [2, number]) for number in range(14))
    selected = [made for made in made_up if {"tofc", "jpeg"} <= set(made.run.first["pipeline"])][:12]
    for made in selected:
        run = made.run
        row = run.numbers.set_index("pipeline").T["tofc"]
        first = run.first.set_index("pipeline")
        other = "jpeg" if first["first"]["jpeg"] != "jpeg" else "tofc"
        keys = {"tofc": TOFC, "jpeg": JPEG, "server_only": ("server_only", "-")}
        ratio = made.mean_s(keys[other]) / made.mean_s(keys[first["first"][other]])
        told, crossed = asked(run)
        held["run"] += row["total_mean_low_s"] <= made.mean_s(TOFC) <= row["total_mean_high_s"]
        held["ratio"] += first["ratio_low"][other] <= ratio <= first["ratio_high"][other]
        held["advise"] += told.mean_s.low <= made.mean_s(TOFC) <= told.mean_s.high
        held["crossover"] += crossed.low <= made.crossover_bps(JPEG, TOFC) <= crossed.high
    assert len(selected) >= 10
    assert min(held.values()) >= len(selected) - 1, held


def test_the_truth_of_a_link_with_headers_is_found_by_hand_and_by_replay() -> None:
    """A calibration is judged by what the code under test did not compute."""
    made = study(World(pictures=20, questions=2, schemes=("server_only", "tofc"), wired=True), [3], simulator="vector")
    profile, spec = made.run.profile("tofc", "lambda=1"), made.run.setting.system
    sent = made.run.population.payload_bytes["tofc", "lambda=1"]
    found = mean_link_s(profile, spec, spec.uplinks[0], made.run.population)
    assert found == pytest.approx(wired_s(np.asarray(sent, dtype=np.float64)).mean(), rel=1e-12)


MADE: list[tuple[str, int]] = []


def cells() -> Iterator[Cell]:
    """Two cells that count what was made."""

    def told(counts: Counts, studies: int) -> list[str]:
        return [f"{counts.sums['made']:g} of {studies}, {counts['claim'].hits} hits"]

    for name in ("even", "odd"):

        def made(number: int, counts: Counts, name: str = name) -> None:
            MADE.append((name, number))
            counts.sums["made"] += 1
            counts["claim"].add(Estimate(0.0, -1.0, 1.0), number % 2 + (name == "odd"))

        yield Cell(section="counted", name=name, study=made, lines=told, times=1.0 if name == "even" else 0.5)


def test_a_stopped_calibration_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every study is made once, whatever part the file has; truncated lines and those of other code are ignored."""
    file = tmp_path / "calibration.jsonl"
    MADE.clear()
    resumable.run(cells, ["counted"], 40, file=file, digest="this")
    whole = capsys.readouterr().out
    assert [line for line in whole.splitlines() if "of" in line] == ["40 of 40, 40 hits", "20 of 20, 10 hits"]
    assert sorted(MADE) == [("even", n) for n in range(40)] + [("odd", n) for n in range(20)]
    lines = [line for line in file.read_text().splitlines() if line]
    # The first study of each cell comes first: the time of all is estimated from it.
    assert [json.loads(line)["first"] for line in lines[:2]] == [0, 0]
    file.write_text("\n".join([*lines[:12], lines[12][:40]]))
    MADE.clear()
    resumable.run(cells, ["counted"], 40, file=file, digest="this")
    assert [line for line in capsys.readouterr().out.splitlines() if "of" in line] == [
        line for line in whole.splitlines() if "of" in line
    ]
    again = sum(json.loads(line)["last"] - json.loads(line)["first"] for line in lines[:12])
    assert len(MADE) == len(set(MADE)) == 60 - again
    MADE.clear()
    resumable.run(cells, ["counted"], 40, file=file, digest="other")
    assert len(MADE) == 60
