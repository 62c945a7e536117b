"""Joules per answer, from a scenario to its table: in one process, with a server, and in halves."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis import Analysis
from harness.apart import measure_half
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.derived import join
from harness.edge.client import Remote
from harness.energy import _block, _sides, _work
from harness.models.contract import Answer, Clock
from harness.profiling.energy import Meters
from harness.runs.store import Run
from harness.scenario.load import load
from harness.stock import take_stock
from harness.study import _lacks_readable_energy, run
from tests.edge import ends
from tests.fake_nvml import FakeGpu, driver
from tests.silent import Silent
from tests.test_measure import plan_of

IDLE_W, BUSY_W = 10.0, 40.0
ENERGY = "energy: { block: 60 ms, blocks: 3 }"


class PoweredGpu(FakeGpu):
    """A GPU that takes 10 W, and 40 W more while this process computes."""

    @property
    def energy_mj(self) -> int:
        return round(1e3 * (IDLE_W * time.monotonic() + BUSY_W * time.process_time()))

    @energy_mj.setter
    def energy_mj(self, value: int | None) -> None:
        """It reports the energy."""


def with_energy(scenario: Path, folder: Path, energy: str = ENERGY) -> Path:
    """The scenario, with energy measured."""
    text = scenario.read_text()
    assert "repeats: 4 }" in text
    path = folder / "energy.yaml"
    path.write_text(text.replace("repeats: 4 }", f"repeats: 1, {energy} }}"))
    return path


@pytest.mark.slow
def test_a_run_measures_the_energy_of_its_halves(fake_scenario: Path, tmp_path: Path, harness) -> None:
    """The selected points, both sides, three blocks; resumed, nothing is measured again; the table and CSV have it."""
    scenario = with_energy(fake_scenario, tmp_path)
    with driver(PoweredGpu("A")):
        run(load(scenario), tmp_path / "fake", reporter=Silent())
        found = Analysis.read(tmp_path / "fake")
        rows = found.record.energy
        run(load(scenario), tmp_path / "fake", reporter=Silent())
        assert Run.read(tmp_path / "fake").energy == rows
    frame = rows.to_pandas()
    points = found.points[found.points["selected"]]
    keys = {(p, q, side) for p, q in points[["pipeline", "point"]].to_numpy() for side in ("device", "server")}
    keys = {key for key in keys if key[0] != "alone" or key[2] == "device"}
    assert set(frame.groupby(["pipeline", "point", "side"]).groups) == keys
    assert (frame.groupby(["pipeline", "point", "side"]).size() == 3).all()
    assert (frame["seconds"] >= 0.06).all()
    # A pass is three samples.
    assert (frame["requests"] % 3 == 0).all()
    assert np.allclose(frame["idle_s"], frame["seconds"], atol=0.05)
    energy = found.energy
    assert (energy["gross_j"] > energy["net_j"]).all()
    # The energy above idle is this process's computing: never more than all of the time.
    assert (energy["net_j"] > 0).all()
    assert (energy["net_j"] <= (energy["gross_j"] * BUSY_W / IDLE_W)).all()
    (session,) = found.manifest.sessions
    assert session.energy == dict.fromkeys(("device", "server"), "NVML energy counter (GPU 0)")
    assert {"before timing", "after timing", "before energy", "after energy"} == session.conditions.keys() - {"answers"}
    status, out, _ = harness("show", tmp_path / "fake")
    assert status == 0
    assert "J per answer, device / server, net" in out
    assert "uncalibrated, because not compared with an external meter: device's GPU 0" in out
    assert "shorter than 30 s" in out


@pytest.mark.slow
def test_what_no_meter_could_read_is_measured_when_one_can(
    fake_scenario: Path, tmp_path: Path, harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a meter the run is complete and says what to do; repeated with one it measures that and nothing else."""
    root, folder = tmp_path / "root", tmp_path / "fake"
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.mkdir(parents=True)  # It exists and cannot be read, as a counter that only root may read.
    monkeypatch.setattr("harness.study.Meters", functools.partial(Meters, root))
    scenario = load(with_energy(fake_scenario, tmp_path, "energy: { block: 1 ms, blocks: 2 }"))
    with driver(init=12):
        run(scenario, folder, reporter=(first := Silent()))
        absent = Run.read(folder)
        run(scenario, folder, reporter=(repeated := Silent()))
        assert Run.read(folder).manifest == absent.manifest
        assert not repeated.phases
        out = " ".join(harness("show", folder)[1].split())
        for said in (out, first.warnings[-1]):
            assert "only root may read RAPL's counters; " in said
            assert "repeat the command that measured the run where a meter is readable" in said
        assert "J per answer" not in out
        monkeypatch.setattr("harness.edge.client._PATIENCE_S", 0.0)
        stock, nowhere = take_stock(scenario), Remote(url="http://127.0.0.1:1")
        assert not _lacks_readable_energy(stock, folder, nowhere, (silent := Silent()), lambda _: None)
        assert "The energy of the server is not measured: http://127.0.0.1:1: accepted no request" in silent.warnings[0]
        counter.rmdir()
        counter.write_text("1000000\n")
        (counter.parent / "name").write_text("package-0\n")
        run(scenario, folder, reporter=(readable := Silent()))
        measured = Run.read(folder)
        assert measured.energy.num_rows == 2 * 5
        assert (measured.stages, measured.outcomes) == (absent.stages, absent.outcomes)
        assert {name for name, total, done in readable.phases if done < total} == {"energy", "replay"}
        assert not readable.warnings
        run(scenario, folder, reporter=Silent())
        assert Run.read(folder).manifest == measured.manifest
        # A run that is continued without a meter has the joules that it had.
        counter.unlink()
        edited = load(tmp_path / "energy.yaml", ["replay.uplinks=[{kind: constant, rate: 50 KB/s}]"])
        run(edited, folder, reporter=(without := Silent()))
    assert Run.read(folder).energy == measured.energy
    assert not [said for said in without.warnings if "energy" in said]


class ForgetfulGpu(FakeGpu):
    """A GPU whose counter is reset between any two readings."""

    @property
    def energy_mj(self) -> int:
        return -time.monotonic_ns()

    @energy_mj.setter
    def energy_mj(self, value: int | None) -> None:
        """Its counter was reset."""


@pytest.mark.slow
def test_blocks_without_readings_are_reported(fake_scenario: Path, tmp_path: Path) -> None:
    """They have no rows, and one sentence gives their number."""
    said: list[str] = []

    class Keeping(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    scenario = with_energy(fake_scenario, tmp_path, "energy: { block: 1 ms, blocks: 2 }")
    with driver(ForgetfulGpu("A")):
        run(load(scenario), tmp_path / "fake", reporter=Keeping())
    if not Run.read(tmp_path / "fake").energy.num_rows:
        assert "10 of 10 blocks have no joules, among them energy " in said[-1]


@pytest.mark.slow
def test_halves_measure_their_own_sides(fake_scenario: Path, tmp_path: Path) -> None:
    """Each machine's rails on its side; a half does not know the scores, so all points are measured."""
    scenario = with_energy(fake_scenario, tmp_path)
    with driver(PoweredGpu("A")):
        measure_half(load(scenario), tmp_path / "d", "device", reporter=Silent())
        measure_half(load(scenario), tmp_path / "s", "server", payloads=tmp_path / "d", reporter=Silent())
    join(tmp_path / "d", tmp_path / "s", tmp_path / "fake", links=Path(), reporter=Silent(), fresh=False)
    found = Analysis.read(tmp_path / "fake").energy
    assert found.groupby("side")["pipeline"].agg(sorted).to_dict() == {
        "device": ["alone", "fake", "fake", "reference"],
        "server": ["fake", "fake", "reference"],
    }
    assert (found["blocks"] == 3).all()


@pytest.mark.slow
def test_a_server_reports_its_own_joules(fake_scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rails of the server's machine on its side, read there; its stages' waiting and its halves' needs come along."""
    scenario = with_energy(fake_scenario, tmp_path)
    here, there = ends.FORKS.Pipe()
    server = ends.FORKS.Process(target=_serve_powered, args=(scenario, there))
    server.start()
    there.close()
    with driver(PoweredGpu("A")):
        remote = Remote(url=f"http://127.0.0.1:{here.recv()}")
        run(load(scenario), tmp_path / "fake", reporter=Silent(), remote=remote)
        lacks = functools.partial(_lacks_readable_energy, take_stock(load(scenario)), tmp_path / "fake", remote)
        assert not lacks(Silent(), lambda _: None)
        # If its rows were lacking, the server's meter would be asked.
        monkeypatch.setattr("harness.study.unmeasured", lambda *_: {"server"})
        assert lacks(Silent(), lambda _: None)
    server.kill()
    found = Analysis.read(tmp_path / "fake")
    rails = found.energy.groupby("side")["rail"].unique().map(list).to_dict()
    assert rails == {"device": ["GPU 0"], "server": ["GPU 0", "GPU 1"]}
    assert (found.energy["net_j"] > 0).any()
    stages = found.record.stages.to_pandas()
    assert stages.groupby("side")["waited_s"].count().to_dict() == stages.groupby("side").size().to_dict()
    (session,) = found.manifest.sessions
    for when in ("before timing", "after timing", "before energy", "after energy"):
        own = {fact for fact in session.conditions[when] if not fact.startswith("server ")}
        assert session.conditions[when].keys() - own >= {f"server {fact}" for fact in own}
    needs = found.record.resources.to_pandas().query("side == 'server'")
    assert set(needs["quantity"]) == {"weights_bytes", "peak_memory_bytes", "operations"}
    assert set(needs["pipeline"]) == {"reference", "fake"}


def _serve_powered(scenario: Path, told: Any) -> None:
    with driver(PoweredGpu("S"), PoweredGpu("T")):
        ends._serve(scenario, 0, told)


def test_the_server_works_where_the_device_sends() -> None:
    """Also where the device answers the first picture, and others: a scheme may decide for each."""
    asked = samples(book("test", 0)[:3], paired=False)
    plan = plan_of({"StreetsQA": asked}, 16)
    (key,) = plan.halves
    places = [plan.pictures[number][0] for number in range(3)]
    sends, served = plan.samples.names[places[1]].image_id, list[str]()

    class Mixed:
        kind, near = "fake", True

        def device(self, sample: Sample, clock: Clock) -> Any:
            return plan.halves[key].device(sample, clock) if sample.image_id == sends else Answer("B", 0, 1, 1)

        def again(self, data: bytes, questions: Any) -> None:
            served.append(questions[0].text)

    halves: dict[Any, Any] = {key: Mixed()}
    mixed = dataclasses.replace(plan, halves=halves)
    assert _sides(mixed, key, places) == ("device", "server")
    work = _work(mixed, key, "server", places)
    for at in range(3):
        work(at)
    assert served == [plan.samples[places[1]].question.text]
    assert _sides(mixed, key, places[:1]) == ("device",)


def test_a_block_of_a_restarted_server_has_no_joules(tmp_path: Path) -> None:
    """Two meters' readings are not subtracted from each other."""
    with driver(PoweredGpu("A")), Meters(tmp_path) as first, Meters(tmp_path) as second:

        class Restarted:
            sources = "two meters"

            def __init__(self) -> None:
                self.meters = iter([first, second, second])

            def read(self):
                return next(self.meters).read()

        assert _block(lambda _: None, 1, 0.01, Restarted(), lambda: None).joules == {}
