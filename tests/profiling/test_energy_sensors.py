"""Sensors of energy in the libraries' and the kernel's own structures."""

import queue
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from harness.profiling import energy
from harness.profiling.energy import Meters, Rail, Reading, Sensor
from harness.profiling.machine import conditions
from tests.fake_nvml import FakeGpu, driver


def write(path: Path, text: object) -> Path:
    """A file of sysfs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the sensors, which is moved by hand; no thread samples them."""
    now_s = [100.0]
    monkeypatch.setattr(energy, "time", types.SimpleNamespace(monotonic=lambda: now_s[0], time_ns=lambda: 1))
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    monkeypatch.setattr(threading.Thread, "join", lambda _: None)
    return now_s


def test_a_gpu_counter_is_read_and_not_its_power(tmp_path: Path) -> None:
    """Joules are differences of the counter; the other GPU, which has none, is sampled."""
    counted, sampled = FakeGpu("A", energy_mj=5_000_000, power_mw=99_000), FakeGpu("B", power_mw=40_000)
    with driver(counted, sampled), Meters(tmp_path) as meters:
        assert meters.sources == "NVML energy counter (GPU 0); NVML power (GPU 1)"
        before = meters.read()
        counted.energy_mj = 5_012_500
        found = meters.read().since(before)
    assert found["GPU 0"] == 12.5
    assert 0 <= found["GPU 1"] < 40


def test_sampled_power_is_integrated_by_trapezoids(tmp_path: Path, clock: list[float]) -> None:
    """40 W rising to 80 W over a second are 60 J; a power not seen for longer than two seconds is not known."""
    gpu = FakeGpu("B", power_mw=40_000)
    with driver(gpu), Meters(tmp_path) as meters:
        before = meters.read()
        clock[0] += 1.0
        gpu.power_mw = 80_000
        assert meters.read().since(before)["GPU 0"] == pytest.approx(60.0)
        clock[0] += 2.5
        assert meters.read().since(before) == {}
        before = meters.read()
        gpu.power_mw = None
        clock[0] += 0.5
        assert meters.read().since(before) == {}
        gpu.power_mw = 80_000
        clock[0] += 0.5
        assert meters.read().since(before)["GPU 0"] == pytest.approx(80.0)


def test_a_sampled_power_is_seen_between_two_readings() -> None:
    """A peak of a fifth of a second is counted although no reading is taken while it lasts."""
    watts = [0.0]
    sensor = Sensor("a sensor", lambda: {"rail": watts[0]}, energy._power, every_s=0.01)
    watts[0] = 100.0
    time.sleep(0.2)
    watts[0] = 0.0
    time.sleep(0.05)
    assert sensor.look()["rail"].joules > 10
    sensor.close()
    assert not [thread for thread in threading.enumerate() if "a sensor" in thread.name]


@pytest.fixture
def ina3221(tmp_path: Path) -> Path:
    """Two INA3221 of an AGX Orin, as its kernel shows them: in mV and mA."""
    first = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    second = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4"
    for folder, names in (
        (first, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (second, ("NC", "VDDQ_VDD2_1V8AO", "NC")),
    ):
        for number, name in enumerate(names, 1):
            write(folder / f"in{number}_label", name)
            write(folder / f"in{number}_input", 5000)
            write(folder / f"curr{number}_input", 1000 * number)
        write(folder / "in7_label", "sum of shunt voltages")
        write(folder / "in7_input", 40)
        write(folder / "curr4_input", 6000)
    return tmp_path


def test_the_lines_of_a_jetson_are_voltage_times_current(ina3221: Path, clock: list[float]) -> None:
    """5 V and 1, 2, 3 A are 5, 10, 15 W; channels without a line, and the shunts' sum, are no rails."""
    with driver(init=12), Meters(ina3221) as meters:
        assert meters.sources == "INA3221 (VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO)"
        before = meters.read()
        clock[0] += 2.0
        assert meters.read().since(before) == pytest.approx(
            {"VDD_GPU_SOC": 10.0, "VDD_CPU_CV": 20.0, "VIN_SYS_5V0": 30.0, "VDDQ_VDD2_1V8AO": 20.0}
        )


def rapl(root: Path) -> Path:
    """A package with cores and memory; counters in microjoules."""
    for zone, name, range_uj, now_uj in (
        ("intel-rapl:0", "package-0", 262_143_328_850, 262_143_000_000),
        ("intel-rapl:0:0", "core", 262_143_328_850, 1_000_000),
        ("intel-rapl:0:1", "dram", 65_532_610_987, 7_000_000),
    ):
        folder = root / "sys/class/powercap" / zone
        write(folder / "name", name)
        write(folder / "max_energy_range_uj", range_uj)
        write(folder / "energy_uj", now_uj)
    write(root / "sys/class/powercap/intel-rapl/enabled", 1)
    return root / "sys/class/powercap"


def test_a_processor_counter_that_wraps_loses_nothing(tmp_path: Path, clock: list[float]) -> None:
    """The package's counter passes its range; a zone within it is named after it."""
    powercap = rapl(tmp_path)
    with driver(init=12), Meters(tmp_path) as meters:
        assert meters.sources == "RAPL (package-0, package-0/core, package-0/dram)"
        before = meters.read()
        write(powercap / "intel-rapl:0/energy_uj", 671_150)
        write(powercap / "intel-rapl:0:1/energy_uj", 9_500_000)
        found = meters.read().since(before)
    assert found == pytest.approx({"package-0": 1.0, "package-0/core": 0.0, "package-0/dram": 2.5})


def test_a_processor_counter_that_may_have_been_reset_or_have_wrapped_twice_is_not_guessed(
    tmp_path: Path, clock: list[float]
) -> None:
    """Less than before after a second is a reset, not 131 kJ; after a hundred, memory's may have wrapped twice."""
    powercap = rapl(tmp_path)
    with driver(init=12), Meters(tmp_path) as meters:
        write(powercap / "intel-rapl:0/energy_uj", 131_072_000_000)
        before = meters.read()
        clock[0] += 1.0
        write(powercap / "intel-rapl:0/energy_uj", 5_000_000)
        write(powercap / "intel-rapl:0:0/energy_uj", 2_000_000)
        assert meters.read().since(before) == pytest.approx({"package-0/core": 1.0, "package-0/dram": 0.0})
        before = meters.read()
        clock[0] += 100.0
        write(powercap / "intel-rapl:0/energy_uj", 9_005_000_000)
        write(powercap / "intel-rapl:0:1/energy_uj", 8_000_000)
        assert meters.read().since(before) == pytest.approx({"package-0": 9000.0, "package-0/core": 0.0})


def test_a_counter_that_fell_without_a_range_is_not_guessed() -> None:
    """After the driver was loaded again the joules are counted; those in between are unknown."""
    value = [50.0]
    sensor = Sensor("a counter", lambda: {"rail": value[0]}, energy._counter)
    before = Reading(0.0, sensor.look())
    value[0] = 10.0
    middle = Reading(1.0, sensor.look())
    value[0] = 25.0
    assert middle.since(before) == {}
    assert Reading(2.0, sensor.look()).since(middle) == {"rail": 15.0}
    assert Reading(3.0, {"rail": Rail("another sensor", 99.0, 1)}).since(middle) == {}
    assert Reading(3.0, sensor.look(), meter=2).since(middle) == {}


@pytest.mark.parametrize(
    ("tegra", "hidden", "reason"),
    [
        (False, False, "no INA3221; no RAPL"),
        (False, True, "no INA3221; only root may read RAPL's counters"),
        (True, False, "no INA3221 in sysfs, and no jtop: it is not installed: pip install 'tofc-harness[jetson]'"),
    ],
)
def test_without_a_sensor_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tegra: bool, hidden: bool, reason: str
) -> None:
    """One sentence says what each kind of sensor lacks."""
    monkeypatch.setitem(sys.modules, "jtop", None)
    if tegra:
        write(tmp_path / "etc/nv_tegra_release", "# R39 (release), REVISION: 2.0")
    if hidden:
        (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
    with driver(FakeGpu("Orin")), Meters(tmp_path) as meters:
        assert meters.sources.startswith("unavailable: NVML supports neither energy nor power on GPU 0 (Orin); ")
        assert reason in meters.sources
        assert meters.read().rails == {}


class FakeJtop:
    """jtop 4.3's client as far as it is used: its stats are those of an Orin NX, whose input it calls the total."""

    fails: Exception | None = None

    def __init__(self, interval: float) -> None:
        self.interval, self.closed = interval, False

    def start(self) -> None:
        if self.fails is not None:
            raise self.fails

    def ok(self, spin: bool = False) -> bool:
        return not self.closed

    def close(self) -> None:
        self.closed = True

    @property
    def power(self) -> dict:
        line = {"volt": 5000, "curr": 500, "power": 2500, "avg": 2400, "online": True, "type": "INA3221"}
        return {
            "rail": {
                "VDD_CPU_GPU_CV": line,
                "usb": {**line, "type": "USB"},
                "VDD_SOC": {**line, "power": 1500},
                "off": {**line, "online": False},
            },
            "tot": {**line, "power": 8000, "name": "VDD_IN"},
        }


class FakeJtopError(Exception):
    """jtop's."""


@pytest.fixture
def jtop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeJtop]:
    """The module of jetson-stats on a board whose sysfs shows no INA3221."""
    write(tmp_path / "etc/nv_tegra_release", "# R39 (release), REVISION: 2.0")
    monkeypatch.setitem(sys.modules, "jtop", types.SimpleNamespace(jtop=FakeJtop, JtopException=FakeJtopError))
    monkeypatch.setattr(FakeJtop, "fails", None)
    return FakeJtop


def test_jtop_reads_the_rails_where_sysfs_does_not(tmp_path: Path, jtop: type[FakeJtop], clock: list[float]) -> None:
    """In W from mW; its total is a line where it has the input's name, and no line where it is a sum."""
    with driver(init=12), Meters(tmp_path) as meters:
        assert meters.sources == "jtop (VDD_CPU_GPU_CV, VDD_SOC, VDD_IN)"
        before = meters.read()
        clock[0] += 2.0
        assert meters.read().since(before) == pytest.approx({"VDD_CPU_GPU_CV": 5.0, "VDD_SOC": 3.0, "VDD_IN": 16.0})


def test_a_jtop_without_its_service_is_a_reason(tmp_path: Path, jtop: type[FakeJtop]) -> None:
    """Its own message, on one line."""
    jtop.fails = FakeJtopError("The jtop.service is not active. Please run:\nsudo systemctl restart jtop.service")
    with driver(init=12), Meters(tmp_path) as meters:
        assert "no jtop: The jtop.service is not active. Please run: sudo systemctl restart" in meters.sources


def test_a_jtop_that_fails_otherwise_is_a_reason(tmp_path: Path, jtop: type[FakeJtop]) -> None:
    """Its service did not answer in time, or ended meanwhile."""
    for error, reason in ((queue.Empty(), "Empty"), (EOFError(), "EOFError")):
        jtop.fails = error
        with driver(init=12), Meters(tmp_path) as meters:
            assert f"no jtop: {reason}" in meters.sources


def test_a_machine_reports_its_present_clocks_and_temperatures(tmp_path: Path) -> None:
    """In MHz and C; absent ones are left out."""
    cpu = tmp_path / "sys/devices/system/cpu"
    write(cpu / "cpu0/cpufreq/scaling_cur_freq", 1_000_000)
    write(cpu / "cpu1/cpufreq/scaling_cur_freq", 2_000_000)
    write(cpu / "cpu0/cpufreq/scaling_governor", "schedutil")
    write(tmp_path / "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", 51_500)
    with driver(FakeGpu("A", sm_mhz=1980, celsius=44)):
        assert conditions(tmp_path) == {
            "governor": "schedutil", "cpu_mhz": 1500.0, "gpu 0 sm_mhz": 1980, "gpu 0 temperature_c": 44,
            "cpu-thermal temperature_c": 51.5,
        }  # fmt: skip
