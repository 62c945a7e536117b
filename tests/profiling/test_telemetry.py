"""Throttling, as sysfs and NVML tell of it, and as a run's manifest and verdict keep it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.analysis.validity import reasons
from harness.profiling.telemetry import Telemetry
from harness.runs.provenance import MANIFEST, read
from harness.runs.store import Run
from harness.scenario.load import load
from harness.study import run

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"


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


def test_what_is_there_is_watched_and_nothing_is_seen(system: Path) -> None:
    """Counters that stand still, however high, and a fan that turns are no throttling; the clocks are recorded."""
    telemetry = Telemetry(system)
    assert telemetry.sources["counters"] == "4 thermal_throttle counters"
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
def test_a_counter_that_rises_between_two_looks_is_seen_once(system: Path, kind: str) -> None:
    """Whatever the core; the next unit begins afresh."""
    telemetry = Telemetry(system)
    telemetry.begin()
    write(core_count(system, 1, kind), 1000)
    assert telemetry.end() == [f"the processor's {kind}_throttle_count rose"]
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


def test_files_that_go_away_or_hold_no_number_are_passed_over(system: Path) -> None:
    """A core that is taken offline in the middle; a counter that the kernel does not let be read."""
    write(core_count(system, 0), "no number")
    telemetry = Telemetry(system)
    assert telemetry.sources["counters"] == "3 thermal_throttle counters"
    telemetry.begin()
    core_count(system, 1).unlink()
    assert telemetry.end() == []


class FakeNvml:
    """The functions of pynvml that are used, of two GPUs whose reasons are ``bits``."""

    class NVMLError(Exception):
        """NVML's."""

    def __init__(self, *bits: int, broken: bool = False) -> None:
        self.bits = list(bits)
        self.broken = broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.bits)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA H200"

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        if self.bits[handle] < 0:
            raise self.NVMLError("GPU is lost")
        return self.bits[handle]


def test_a_gpu_gives_its_reasons(tmp_path: Path) -> None:
    """Idle, set clocks and sync boost are no throttling; heat and power are, by the name of the GPU."""
    nvml = FakeNvml(0x01 | 0x02 | 0x10 | 0x100, 0)
    telemetry = Telemetry(tmp_path, nvml)
    assert telemetry.sources["gpu"] == "2 GPUs by NVML"
    telemetry.begin()
    assert telemetry.end() == []
    nvml.bits = [0x04, 0x20 | 0x08]
    telemetry.begin()
    nvml.bits = [0, -1]
    assert telemetry.end() == [
        "GPU 0 (NVIDIA H200): power cap",
        "GPU 1 (NVIDIA H200): hardware slowdown",
        "GPU 1 (NVIDIA H200): thermal slowdown by software",
    ]


def test_a_gpu_that_cannot_be_asked_is_unavailable(tmp_path: Path) -> None:
    """With NVML's own reason, or because there is none."""
    assert Telemetry(tmp_path, FakeNvml(broken=True)).sources["gpu"] == "unavailable: NVML: Driver Not Loaded"
    assert Telemetry(tmp_path, FakeNvml()).sources["gpu"] == "unavailable: no NVIDIA GPU"


class Meddling:
    """A reporter that changes the machine at each step of the phase in which requests are timed."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change
        self.timing = False

    def warn(self, text: str) -> None:
        pass

    def phase(self, name: str, total: int, done: int) -> None:
        self.timing = name == "times"

    def advance(self) -> None:
        if self.timing:
            self.change()


@pytest.mark.parametrize("hot", [False, True])
def test_a_throttled_run_is_invalid_and_another_is_not(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot: bool
) -> None:
    """The whole way from sysfs to the manifest's verdict; a cooling device goes on after the first unit."""
    monkeypatch.setattr("harness.study.Telemetry", lambda: Telemetry(system))
    state = system / "class" / "thermal" / "cooling_device1" / "cur_state"
    folder = tmp_path / "runs" / "smoke"
    run(load(SMOKE), folder, reporter=Meddling(lambda: write(state, int(hot))))
    manifest = read(folder / MANIFEST)
    (session,) = manifest.sessions
    assert session.telemetry["counters"] == "4 thermal_throttle counters"
    assert session.telemetry["clocks"] == "2250 to 2250 MHz"
    found = [reason for reason in manifest.reasons if reason.startswith("throttled")]
    if hot:
        plan = load(SMOKE).measure
        n = plan.repeats * plan.timed_samples - 1
        assert found == [f"throttled: the cooling device cpufreq-cpu0 was on ({n} units of timed requests)"]
        assert manifest.throttling == "seen"
    else:
        assert found == []
        assert manifest.throttling == "none seen by 4 thermal_throttle counters and 3 cooling devices"
    assert reasons(Run.read(folder)) == list(manifest.reasons)


def test_without_telemetry_a_run_says_that_it_was_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict is made of what nobody watched."""
    monkeypatch.setattr("harness.study.Telemetry", lambda: Telemetry(tmp_path / "nothing"))
    folder = tmp_path / "runs" / "smoke"
    run(load(SMOKE), folder, reporter=Meddling(lambda: None))
    manifest = read(folder / MANIFEST)
    assert manifest.sessions[0].telemetry["cooling"] == "unavailable: no cooling device that slows a processor"
    assert manifest.throttling == "unavailable on this machine"
    assert not any(reason.startswith("throttled") for reason in manifest.reasons)
