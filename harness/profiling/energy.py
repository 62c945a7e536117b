"""What this machine's energy is read from: one contract, a counter of joules for each rail.

A rail is what a sensor measures: a GPU, a processor's package, a supply line of a board. Rails are named and never
added up, because one may be a part of another. These sensors are used if present:

- ``NVML energy counter``: a GPU's own counter (``nvmlDeviceGetTotalEnergyConsumption``);
- ``NVML power``: a GPU's power, sampled, where it has no counter;
- ``INA3221``: a Jetson's supply lines (``bus/i2c/drivers/ina3221``), voltage times current, sampled;
- ``jtop``: the same lines, where sysfs does not show them (:mod:`harness.profiling.jetson`);
- ``RAPL``: a processor's counters (``class/powercap``), which only root may read on most systems. They wrap around;
  where it is not known how often, or whether they were reset, the energy is unknown.

All of them are the manufacturer's estimates until they are compared with an external meter.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

from harness.profiling import jetson, nvml
from harness.runs.provenance import UNAVAILABLE

_SAMPLE_S = 0.1
_COUNT_S = 5.0
"""A processor's counter wraps around after some minutes at full power."""
_MOST_W, _UPDATE_S = 2000.0, 0.1
"""More than a zone of RAPL draws. What a counter gained is that of its readings' interval, to within an update."""
_GAP_S = 2.0
"""The longest gap between samples; beyond it the energy is unknown."""

Read = Callable[[], Mapping[str, float]]
"""The present value of each rail that can be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rail:
    """A rail's ``joules`` since some instant of the ``sensor``'s own, and how often readings were ``lost`` since."""

    sensor: str
    joules: float
    lost: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """All rails of a machine at an instant of its monotonic clock.

    ``meter`` says whose reading it is: a restarted process counts from zero. ``lowered`` is what another machine's
    telemetry reports since its last reading.
    """

    at_s: float
    rails: Mapping[str, Rail]
    meter: int = 0
    lowered: tuple[str, ...] = ()

    def since(self, before: "Reading") -> dict[str, float]:
        """The joules of each rail since an earlier reading; none of a rail of which readings were lost in between."""
        if self.meter != before.meter:
            return {}
        return {
            name: rail.joules - then.joules
            for name, rail in self.rails.items()
            if (then := before.rails.get(name)) is not None and (then.sensor, then.lost) == (rail.sensor, rail.lost)
        }


class Meter(Protocol):
    """Measures the energy of one side of a run."""

    @property
    def sources(self) -> str:
        """What is read, or that it is unavailable and why."""
        ...

    def read(self) -> Reading:
        """All rails now."""
        ...


class Sensor:
    """Rails that are sampled: every ``every_s`` in a thread, and at each reading.

    ``joules`` computes the joules between a rail's two values, seconds apart; None if unknown.
    """

    def __init__(
        self,
        name: str,
        read: Read,
        joules: Callable[[str, float, float, float], float | None],
        *,
        every_s: float | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._read, self._joules, self._close = read, joules, close
        self._lock, self._end = threading.Lock(), threading.Event()
        self._last: dict[str, tuple[float, float]] = {}
        self._rails: dict[str, Rail] = {}
        self._every_s = every_s
        self.look()
        self._thread = None
        if every_s is not None and self._rails:
            self._thread = threading.Thread(target=self._follow, name=f"energy by {name}", daemon=True)
            self._thread.start()

    def look(self) -> dict[str, Rail]:
        """The rails now."""
        with self._lock:
            values = self._read()
            now_s = time.monotonic()
            for rail, value in values.items():
                known = self._rails.get(rail, Rail(self.name, 0.0))
                if rail in self._last:
                    then_s, then = self._last[rail]
                    gained = self._joules(rail, now_s - then_s, then, value)
                    lost = gained is None
                    known = Rail(self.name, known.joules + (gained or 0.0), known.lost + lost)
                self._last[rail], self._rails[rail] = (now_s, value), known
            # A rail that cannot be read now is left out until it can be read again.
            return {rail: known for rail, known in self._rails.items() if rail in values}

    def _follow(self) -> None:
        while not self._end.wait(self._every_s):
            self.look()

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self._close is not None:
            self._close()


class Meters:
    """All sensors of this machine; a context manager, since threads sample some of them.

    ``root`` is where sys, proc and etc are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._id = time.time_ns()
        self._sensors: list[Sensor] = []
        self._absent: list[str] = []
        for look_for in (_gpus, _lines, _processors):
            sensors, absent = look_for(root)
            self._sensors += sensors
            self._absent += [absent] if absent else []

    @property
    def sources(self) -> str:
        """What is read, or that it is unavailable and why."""
        told = [f"{sensor.name} ({', '.join(rails)})" for sensor in self._sensors if (rails := sensor.look())]
        return "; ".join(told) if told else f"{UNAVAILABLE}{'; '.join(self._absent)}"

    def read(self) -> Reading:
        """All rails now."""
        rails: dict[str, Rail] = {}
        for sensor in self._sensors:
            rails |= sensor.look()
        return Reading(time.monotonic(), rails, self._id)

    def close(self) -> None:
        """Ends the threads."""
        for sensor in self._sensors:
            sensor.close()
        self._sensors = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _power(rail: str, seconds: float, before_w: float, after_w: float) -> float | None:  # noqa: ARG001
    return seconds * (before_w + after_w) / 2 if seconds <= _GAP_S else None


def _counter(rail: str, seconds: float, before_j: float, after_j: float) -> float | None:  # noqa: ARG001
    """A counter that fell was reset, at an unknown value."""
    return after_j - before_j if after_j >= before_j else None


def _gpus(root: Path) -> tuple[list[Sensor], str]:  # noqa: ARG001
    """NVIDIA's GPUs, by their counter or else by their power."""
    found, absent = nvml.gpus()
    counted = {f"GPU {gpu.number}": gpu for gpu in found if gpu.ask("TotalEnergyConsumption") is not None}
    powered = {
        name: gpu for gpu in found if (name := f"GPU {gpu.number}") not in counted and gpu.ask("PowerUsage") is not None
    }
    sensors = []
    if counted:
        read = _asked(counted, "TotalEnergyConsumption")
        sensors.append(Sensor("NVML energy counter", read, _counter))
    if powered:
        sensors.append(Sensor("NVML power", _asked(powered, "PowerUsage"), _power, every_s=_SAMPLE_S))
    if found and not sensors:
        absent = f"NVML supports neither energy nor power on {' and '.join(map(str, found))}"
    return sensors, absent


def _asked(gpus: Mapping[str, nvml.Gpu], question: str) -> Read:
    """An NVML value, given in thousandths."""

    def read() -> dict[str, float]:
        told = {name: gpu.ask(question) for name, gpu in gpus.items()}
        return {name: thousandths / 1000 for name, thousandths in told.items() if thousandths is not None}

    return read


def _lines(root: Path) -> tuple[list[Sensor], str]:
    """The supply lines of a Jetson."""
    channels: dict[str, tuple[Path, Path]] = {}
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")):
        for label in sorted(folder.glob("in[0-9]_label")):
            number = label.name[2]
            voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
            name = _text(label)
            # The channel of the shunts' sum has a label, and no current beside its voltage.
            if name and name != "NC" and _number(voltage) is not None and _number(current) is not None:
                channels[name] = voltage, current
    if channels:

        def read() -> dict[str, float]:
            told = {name: (_number(voltage), _number(current)) for name, (voltage, current) in channels.items()}
            return {name: mv * ma * 1e-6 for name, (mv, ma) in told.items() if mv is not None and ma is not None}

        return [Sensor("INA3221", read, _power, every_s=_SAMPLE_S)], ""
    if not (root / "etc/nv_tegra_release").exists():
        return [], "no INA3221"
    try:
        rails, close = jetson.rails()
    except jetson.Unavailable as error:
        return [], f"no INA3221 in sysfs, and no jtop: {error}"
    return [Sensor("jtop", rails, _power, every_s=jetson.INTERVAL_S, close=close)], ""


def _processors(root: Path) -> tuple[list[Sensor], str]:
    """The zones of RAPL, a zone's parent before its name."""
    powercap = root / "sys/class/powercap"
    zones: dict[str, Path] = {}
    ranges_j: dict[str, float] = {}
    hidden = False
    for zone in sorted(powercap.glob("intel-rapl:*")):
        parents = [powercap / zone.name.rsplit(":", up)[0] for up in range(zone.name.count(":") - 1, -1, -1)]
        name = "/".join(_text(parent / "name") or parent.name for parent in parents)
        if _number(zone / "energy_uj") is not None:
            zones[name], ranges_j[name] = zone / "energy_uj", 1e-6 * (_number(zone / "max_energy_range_uj") or 0)
        else:
            hidden = hidden or (zone / "energy_uj").exists()
    if not zones:
        return [], "only root may read RAPL's counters" if hidden else "no RAPL"

    def read() -> dict[str, float]:
        told = {name: _number(path) for name, path in zones.items()}
        return {name: microjoules * 1e-6 for name, microjoules in told.items() if microjoules is not None}

    def joules(rail: str, seconds: float, before_j: float, after_j: float) -> float | None:
        if not (range_j := ranges_j[rail]):
            return _counter(rail, seconds, before_j, after_j)
        most_j = _MOST_W * (seconds + _UPDATE_S)
        # It may have wrapped around twice after a pause of the process; a suspension of the machine resets it.
        gained_j = after_j - before_j + (range_j if after_j < before_j else 0.0)
        return gained_j if gained_j <= most_j < range_j else None

    return [Sensor("RAPL", read, joules, every_s=_COUNT_S)], ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return None
