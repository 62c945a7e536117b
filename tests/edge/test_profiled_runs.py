"""Runs with stages recorded elsewhere, and runs timed at the study's arrivals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.analysis import Analysis
from harness.analysis.pacing import compare
from harness.derived import replay
from harness.errors import ScenarioError
from harness.runs import recorded
from harness.runs.store import Run
from harness.scenario.load import load
from harness.study import run
from tests.silent import Silent

CSV = "stage,seconds\nsee,0.5\nencode,0.25\nsee,1.5\nencode,0.25\n"


def scenario_with(scenario: Path, folder: Path, section: str, measure: str = "") -> Path:
    """The fakes' scenario, shorter, with a section more."""
    text = scenario.read_text()
    assert "timed_samples: 3, warmup: 1, repeats: 4 }" in text
    folder.mkdir(exist_ok=True)
    path = folder / "profiled.yaml"
    text = text.replace(
        "timed_samples: 3, warmup: 1, repeats: 4 }", f"timed_samples: 3, warmup: 1, repeats: 2{measure} }}"
    )
    path.write_text(f"{text}{section}")
    return path


@pytest.fixture
def profiled(fake_scenario: Path, tmp_path: Path) -> Path:
    """The scenario with the device stages of one scheme recorded on a board."""
    (tmp_path / "orin.csv").write_text(CSV)
    section = "profile: [{ path: orin.csv, pipeline: fake, side: device, machine: AGX Orin }]\n"
    return scenario_with(fake_scenario, tmp_path, section)


@pytest.mark.slow
def test_recorded_stages_take_the_place_of_measured_ones(profiled: Path, tmp_path: Path, harness) -> None:
    """Of the scheme and the side named, and of no other; answers and bytes are the run's; the replay draws them."""
    run(load(profiled), tmp_path / "fake", reporter=Silent())
    found = Analysis.read(tmp_path / "fake")
    stages = found.record.stages.to_pandas()
    mine = stages.query("pipeline == 'fake' and side == 'device'")
    assert set(mine["source"]) == {"recorded"}
    assert set(mine["machine"]) == {"AGX Orin"}
    assert set(mine["stage"]) == {"see", "encode"}
    per_request = mine.groupby(["point", "sample", "repeat"])["seconds"].sum()
    assert sorted(per_request) == [0.75] * 6 + [1.75] * 6
    assert set(stages.drop(mine.index)["source"]) == {"measured"}
    assert (found.record.outcomes.to_pandas().query("pipeline == 'fake'")["payload_bytes"] > 0).all()
    for profile in found.profiles(["fake"]):
        assert set(profile.device_s) == {0.75, 1.75}
    assert found.manifest.digests["profile orin.csv"]
    assert found.numbers.set_index("pipeline")["device_source"]["fake"] == "recorded"
    out = " ".join(harness("show", tmp_path / "fake")[1].split())
    assert "recorded: the device stages of fake, on AGX Orin" in out
    # Another file is of another run: what depends on it is timed again, and nothing else.
    before = stages.query("pipeline != 'fake'").reset_index(drop=True)
    (tmp_path / "orin.csv").write_text(CSV.replace("1.5", "2.5"))
    run(load(profiled), tmp_path / "fake", reporter=Silent())
    again = Run.read(tmp_path / "fake").stages.to_pandas()
    assert again.query("pipeline != 'fake'").reset_index(drop=True).equals(before)
    assert again.query("pipeline == 'fake' and stage == 'see'")["seconds"].max() == 2.5
    # The same times of another machine are timed again, too.
    profiled.write_text(profiled.read_text().replace("AGX Orin", "Orin NX"))
    run(load(profiled), tmp_path / "fake", reporter=Silent())
    renamed = Run.read(tmp_path / "fake").stages.to_pandas().query("source == 'recorded'")
    assert set(renamed["machine"]) == {"Orin NX"}


@pytest.mark.slow
def test_the_rows_of_a_run_are_a_profile(profiled: Path, fake_scenario: Path, tmp_path: Path) -> None:
    """Both sides of a scheme from another run: it is not run again for its times, and they are that run's."""
    run(load(profiled), tmp_path / "fake", reporter=Silent())
    section = "".join(f"  - {{ path: fake, pipeline: reference, side: {side} }}\n" for side in ("device", "server"))
    other = scenario_with(fake_scenario, tmp_path, f"profile:\n{section}")
    run(load(other), tmp_path / "other", reporter=Silent())
    columns = ["sample", "repeat", "side", "stage", "seconds", "cpu_s", "machine"]
    first, second = (
        Run.read(tmp_path / name).stages.to_pandas().query("pipeline == 'reference'")[columns].reset_index(drop=True)
        for name in ("fake", "other")
    )
    assert first.equals(second)


@pytest.mark.slow
def test_a_finished_run_is_replayed_with_times_from_elsewhere(
    profiled: Path, fake_scenario: Path, tmp_path: Path
) -> None:
    """The rows are those of a run that was measured with the profile; a scheme that was not timed is refused."""
    plain = scenario_with(fake_scenario, tmp_path / "plain", "")
    run(load(plain), tmp_path / "fake", reporter=Silent())
    replay(tmp_path / "fake", load(profiled), tmp_path / "again", reporter=Silent(), command=(), fresh=False)
    found = Analysis.read(tmp_path / "again")
    for profile in found.profiles(["fake"]):
        assert set(profile.device_s) == {0.75, 1.75}
    (before,), (after,) = (Analysis.read(tmp_path / name).profiles(["reference"]) for name in ("fake", "again"))
    assert (before.device_s == after.device_s).all()
    assert set(found.record.stages["source"].to_pylist()) == {"recorded"}
    assert found.manifest.digests["profile orin.csv"]
    text = profiled.read_text().replace("levels: [4, 32]", "levels: [4, 33]")
    profiled.write_text(text)
    with pytest.raises(ScenarioError, match=r"orin\.csv: is of fake at levels=33, which the run did not time"):
        replay(tmp_path / "fake", load(profiled), tmp_path / "no", reporter=Silent(), command=(), fresh=False)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{ path: orin.csv, pipeline: fak, side: device }",
         r"profiled.yaml:\d+: profile.0.pipeline: unknown pipeline 'fak'; did"),
        ("{ path: orin.csv, pipeline: fake, point: levels=5, side: device }",
         r"profile.0.point: unknown point 'levels=5'; "),
        ("{ path: orin.csv, pipeline: fake, side: middle }", r"profile.0.side: 'middle' is not right"),
        ("{ path: orin.csv, pipeline: fake, side: device, machine: m }, { path: b, pipeline: fake, side: device }",
         r"profile.1.pipeline: the device side of fake at levels=4 is recorded twice"),
    ],
)  # fmt: skip
def test_a_profile_that_fits_nothing_is_refused_at_its_line(
    fake_scenario: Path, tmp_path: Path, entry: str, sentence: str
) -> None:
    """Unknown schemes and points, sides there are not, and two profiles of one side."""
    with pytest.raises(ScenarioError, match=sentence):
        load(scenario_with(fake_scenario, tmp_path, f"profile: [{entry}]\n"))


@pytest.mark.slow
def test_check_names_what_is_wrong_in_a_profile(profiled: Path, tmp_path: Path, harness) -> None:
    """With the file and the line, and nothing is run."""
    (tmp_path / "orin.csv").write_text(CSV.replace("1.5", "-1.5"))
    status, _, err = harness("check", profiled)
    assert status == 2
    assert "orin.csv:4: seconds is '-1.5'; it is seconds" in " ".join(err.split())
    with pytest.raises(ScenarioError, match=r"orin\.csv:4: seconds is"):
        run(load(profiled), tmp_path / "fake", reporter=Silent())
    assert not (tmp_path / "fake").exists()


@pytest.mark.slow
def test_requests_are_timed_both_ways_in_each_round(fake_scenario: Path, tmp_path: Path, harness) -> None:
    """Rows of the paced requests beside the others, the idle time in neither; what is replayed is back to back."""
    scenario = scenario_with(fake_scenario, tmp_path, "", ", pacing: both")
    scenario.write_text(
        scenario.read_text().replace("replay:", "replay:\n  arrivals: { kind: periodic, every: 10 ms }")
    )
    run(load(scenario), tmp_path / "fake", reporter=Silent())
    found = Analysis.read(tmp_path / "fake")
    stages, paced = found.record.stages.to_pandas(), found.record.paced.to_pandas()
    keys = ["pipeline", "point", "sample", "repeat", "side", "stage", "round", "start"]
    assert stages[keys].equals(paced[keys])
    assert not set(stages["unit"]) & set(paced["unit"])
    pacing = found.pacing
    assert set(map(tuple, pacing[["pipeline", "side"]].to_numpy())) == {
        ("reference", "device"), ("reference", "server"), ("fake", "device"), ("fake", "server"), ("alone", "device"),
    }  # fmt: skip
    assert (pacing["ratio"] > 0).all()
    assert "Timed as the study's requests arrive, over back to back" in harness("show", tmp_path / "fake")[1]


@pytest.mark.slow
def test_a_known_difference_between_the_ways_is_found(made_up, tmp_path: Path) -> None:
    """Paced requests that take 1.3 times as long, with scatter of their own, have an interval that holds 1.3."""
    found = made_up
    rng = np.random.default_rng(5)
    stages = found.record.stages
    seconds = 1.3 * np.asarray(stages["seconds"]) * rng.lognormal(0, 0.02, stages.num_rows)
    place = stages.column_names.index("seconds")
    paced = stages.set_column(place, stages.schema.field("seconds"), [seconds])
    compared = compare(stages, paced, found.population)
    covered = (compared["ratio_low"] <= 1.3) & (compared["ratio_high"] >= 1.3)
    assert covered.mean() > 0.85
    assert compared["ratio"].between(1.25, 1.35).all()


def test_another_scheme_of_a_run_is_not_taken() -> None:
    """A logger's only name stands for any pipeline; a run's rows name theirs."""
    rows = pa.table({"pipeline": ["jpeg"], "seconds": [1.0]})
    assert recorded._only(rows, "pipeline", "tofc", Path("logged.parquet")) is rows
    with pytest.raises(ScenarioError, match="unknown pipeline 'tofc'; known: jpeg"):
        recorded._only(rows, "pipeline", "tofc", Path("run"), exact=True)
