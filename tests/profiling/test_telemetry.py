"""Throttling as sysfs and NVML report it, and as a run's manifest and verdict record it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.analysis import Analysis
from harness.analysis.validity import reasons
from harness.profiling.telemetry import Telemetry
from harness.runs.provenance import MANIFEST, read
from harness.scenario.load import load
from harness.scenario.model import Scenario
from harness.study import run
from tests.edge import fake_harness
from tests.fake_nvml import FakeGpu, driver
from tests.silent import Silent


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """A scenario of the fakes with a few timed requests."""
    path = tmp_path_factory.mktemp("scenario") / "fake.yaml"
    path.write_text(fake_harness.SCENARIO.format(samples=12, timed=3, repeats=2))
    fake_harness.patch()
    yield load(path)
    fake_harness.restore()


def write(path: Path, text: object) -> Path:
    """A file of sysfs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Two cores with counters and clocks, a fan, and a cooling device of each kind that slows something down."""
    for core in (0, 1):
        folder = tmp_path / "devices" / "system" / "cpu" / f"cpu{core}"
        write(folder / "thermal_throttle" / "core_throttle_count", 5 + core)
        write(folder / "thermal_throttle" / "package_throttle_count", 70)
        write(folder / "cpufreq" / "scaling_cur_freq", 2_000_000 + 500_000 * core)
    write(tmp_path / "devices" / "system" / "cpu" / "cpufreq" / "boost", 1)
    for number, kind in enumerate(("pwm-fan", "cpufreq-cpu0", "devfreq-17000000.gpu", "Processor")):
        folder = tmp_path / "class" / "thermal" / f"cooling_device{number}"
        write(folder / "type", kind)
        write(folder / "cur_state", 3 if kind == "pwm-fan" else 0)
    return tmp_path


def core_count(system: Path, core: int, kind: str = "core") -> Path:
    """A core's counter."""
    return system / "devices" / "system" / "cpu" / f"cpu{core}" / "thermal_throttle" / f"{kind}_throttle_count"


def test_sources_are_watched_and_no_throttling_is_seen(system: Path) -> None:
    """Constant counters, however high, and a turning fan are not throttling; the clocks are recorded."""
    telemetry = Telemetry(system)
    assert telemetry.sources["counters"] == "4 throttling counters"
    assert telemetry.sources["cooling"] == "3 cooling devices"
    assert telemetry.sources["clocks"] == "2 processor clocks"
    telemetry.begin()
    telemetry.look()
    assert telemetry.end() == []
    assert telemetry.sources["clocks"] == "2250 to 2250 MHz"
    write(system / "devices" / "system" / "cpu" / "cpu1" / "cpufreq" / "scaling_cur_freq", 1_500_000)
    telemetry.begin()
    assert telemetry.end() == []
    assert telemetry.sources["clocks"] == "1750 to 2250 MHz"


@pytest.mark.parametrize("kind", ["core", "package"])
def test_a_counter_that_rises_between_two_readings_is_seen_once(system: Path, kind: str) -> None:
    """Whichever the core; the next unit starts from the new value."""
    telemetry = Telemetry(system)
    telemetry.begin()
    write(core_count(system, 1, kind), 1000)
    assert telemetry.end() == [f"the counter {kind}_throttle_count rose"]
    telemetry.begin()
    assert telemetry.end() == []


def test_a_cooling_device_is_seen_while_it_is_on(system: Path) -> None:
    """Even if it is off again when the unit ends."""
    telemetry = Telemetry(system)
    state = system / "class" / "thermal" / "cooling_device2" / "cur_state"
    telemetry.begin()
    write(state, 2)
    telemetry.look()
    write(state, 0)
    assert telemetry.end() == ["the cooling device devfreq-17000000.gpu was on"]


def test_a_machine_without_any_says_so(tmp_path: Path) -> None:
    """Every source is unavailable, with the reason; nothing is seen and nothing fails."""
    telemetry = Telemetry(tmp_path)
    assert set(telemetry.sources) == {"counters", "cooling", "clocks", "gpu"}
    assert all(what.startswith("unavailable: ") for what in telemetry.sources.values())
    telemetry.begin()
    telemetry.look()
    assert telemetry.end() == []


def test_files_that_disappear_or_have_no_number_are_skipped(system: Path) -> None:
    """A core that goes offline meanwhile; a counter that the kernel does not allow to be read."""
    write(core_count(system, 0), "no number")
    telemetry = Telemetry(system)
    assert telemetry.sources["counters"] == "3 throttling counters"
    telemetry.begin()
    core_count(system, 1).unlink()
    assert telemetry.end() == []


def h200(reasons: int | None) -> FakeGpu:
    """A GPU with these bits of reasons for a lower clock; it is lost where they are None."""
    return FakeGpu("NVIDIA H200", reasons=reasons)


def test_a_gpu_gives_its_reasons(tmp_path: Path) -> None:
    """Idle, set clocks and sync boost are no throttling; heat and power are, by the name of the GPU."""
    gpus = h200(0x01 | 0x02 | 0x10 | 0x100), h200(0)
    with driver(*gpus):
        telemetry = Telemetry(tmp_path)
        assert telemetry.sources["gpu"] == "2 GPUs by NVML"
        telemetry.begin()
        assert telemetry.end() == []
        gpus[0].reasons, gpus[1].reasons = 0x04, 0x20 | 0x08
        telemetry.begin()
        gpus[0].reasons, gpus[1].reasons = 0, None
        assert telemetry.end() == [
            "GPU 0 (NVIDIA H200): power cap",
            "GPU 1 (NVIDIA H200): hardware slowdown",
            "GPU 1 (NVIDIA H200): thermal slowdown by software",
        ]


def test_a_gpu_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    """With NVML's own reason, or because there is none."""
    for init, reason in ((9, "NVML: Driver Not Loaded"), (12, "NVML: NVML Shared Library Not Found")):
        with driver(init=init):
            assert Telemetry(tmp_path).sources["gpu"] == f"unavailable: {reason}"
    with driver():
        assert Telemetry(tmp_path).sources["gpu"] == "unavailable: no NVIDIA GPU"


def test_of_two_gpus_the_one_that_gives_reasons_is_watched(tmp_path: Path) -> None:
    """The other is named: a GPU that is not watched is not assumed to be quiet."""
    with driver(h200(None), h200(0x40)):
        telemetry = Telemetry(tmp_path)
        told = "1 GPUs by NVML; NVML does not support the reasons for a lower clock on GPU 0 (NVIDIA H200)"
        assert telemetry.sources["gpu"] == told
        telemetry.begin()
        assert telemetry.end() == ["GPU 1 (NVIDIA H200): thermal slowdown by hardware"]


def test_the_over_current_counters_of_a_jetson_are_watched(tmp_path: Path) -> None:
    """Linux for Tegra counts the events at which it lowered clocks because the board drew too much."""
    counter = write(tmp_path / "class" / "hwmon" / "hwmon2" / "oc3_event_cnt", 4)
    write(counter.with_name("oc3_throt_en"), 1)
    telemetry = Telemetry(tmp_path)
    assert telemetry.sources["counters"] == "1 throttling counters"
    telemetry.begin()
    write(counter, 5)
    assert telemetry.end() == ["the counter oc3_event_cnt rose"]


@pytest.mark.parametrize("part", ["cpu", "gpu", "soc0"])
def test_the_throttle_alerts_of_a_jetson_are_watched(tmp_path: Path, part: str) -> None:
    """Linux for Tegra has one for each part of the chip; a hot surface slows nothing down."""
    thermal = tmp_path / "class" / "thermal"
    for number, kind in enumerate((f"{part}-throttle-alert", "hot-surface-alert", "pwm-fan")):
        write(thermal / f"cooling_device{number}" / "type", kind)
        write(thermal / f"cooling_device{number}" / "cur_state", 0 if number == 0 else 1)
    telemetry = Telemetry(tmp_path)
    assert telemetry.sources["cooling"] == "1 cooling devices"
    telemetry.begin()
    assert telemetry.end() == []
    write(thermal / "cooling_device0" / "cur_state", 1)
    telemetry.begin()
    assert telemetry.end() == [f"the cooling device {part}-throttle-alert was on"]


class Meddling(Silent):
    """A reporter that changes the machine at each step of the phase in which requests are timed."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self.change = change

    def advance(self) -> None:
        super().advance()
        if self.phases[-1][0] == "times":
            self.change()


@pytest.mark.slow
@pytest.mark.parametrize("hot", [False, True])
def test_a_throttled_run_is_invalid_and_another_is_not(
    system: Path, little: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot: bool
) -> None:
    """From sysfs to the manifest's verdict; a cooling device switches on after the first unit."""
    monkeypatch.setattr("harness.study.Telemetry", lambda: Telemetry(system))
    state = system / "class" / "thermal" / "cooling_device1" / "cur_state"
    folder = tmp_path / "runs" / "smoke"
    run(little, folder, reporter=Meddling(lambda: write(state, int(hot))))
    manifest = read(folder / MANIFEST)
    (session,) = manifest.sessions
    assert session.telemetry["counters"] == "4 throttling counters"
    assert session.telemetry["clocks"] == "2250 to 2250 MHz"
    found = [reason for reason in manifest.reasons if reason.startswith("throttled")]
    if hot:
        n = little.measure.repeats * little.measure.timed_samples - 1
        assert found == [f"throttled: the cooling device cpufreq-cpu0 was on ({n} units of timed requests)"]
        assert manifest.throttling == "seen"
    else:
        assert found == []
        assert manifest.throttling == "none seen by 4 throttling counters and 3 cooling devices"
    assert reasons(Analysis.read(folder)) == list(manifest.reasons)


@pytest.mark.slow
def test_without_telemetry_a_run_says_that_it_was_unavailable(
    little: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no verdict on what was not watched."""
    monkeypatch.setattr("harness.study.Telemetry", lambda: Telemetry(tmp_path / "nothing"))
    folder = tmp_path / "runs" / "smoke"
    run(little, folder, reporter=Silent())
    manifest = read(folder / MANIFEST)
    assert manifest.sessions[0].telemetry["cooling"] == "unavailable: no cooling device that slows a processor"
    assert manifest.throttling == "unavailable on this machine"
    assert not any(reason.startswith("throttled") for reason in manifest.reasons)
