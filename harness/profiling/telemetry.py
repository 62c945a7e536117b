"""Whether the machine lowered a clock for heat or power while stages were timed, as far as it reports this.

Four things are watched if the system has them; others are recorded as unavailable, which proves nothing:

- ``counters``: Linux on x86 counts each core's and package's thermal throttling (``cpu*/thermal_throttle``), Linux for
  Tegra the events of over-current, at which clocks are lowered (``hwmon*/oc*_event_cnt``);
- ``cooling``: Linux's cooling devices that slow a processor or a GPU are above their state 0 (``class/thermal``);
- ``clocks``: the frequencies of the processors that are online (``cpu*/cpufreq``), recorded without a verdict: a
  governor lowers them too;
- ``gpu``: NVML's reasons for a lower clock, for heat or power, of each NVIDIA GPU.

A counter is compared over a unit of work, so nothing in between is missed; a state is read after each request.
"""

from collections.abc import Mapping
from pathlib import Path

from harness.profiling import nvml
from harness.profiling.machine import Conditions, conditions, cpufreq
from harness.runs.provenance import UNAVAILABLE

_COUNTERS = (
    "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
    "devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count",
    "class/hwmon/hwmon*/oc[0-9]_event_cnt",
)
_SLOWS = ("cpufreq-", "devfreq-", "thermal-cpufreq-", "thermal-devfreq-", "Processor")
"""Prefixes of the types of cooling devices that slow something down; others are fans."""
_SLOWED = "-throttle-alert"
"""Ends the types of those by which Linux for Tegra says that a part of the chip is too hot for its clock."""

_REASONS = "CurrentClocksEventReasons"

_NVML_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
}
"""NVML's bits for heat and power; the others are an idle GPU and clocks set by a user."""


class Telemetry:
    """Watches a machine: :meth:`begin` a unit of work, :meth:`look` now and then, :meth:`end` it.

    ``system`` is where sysfs is.
    """

    def __init__(self, system: Path = Path("/sys")) -> None:
        self._counters = [path for pattern in _COUNTERS for path in _readable(system, pattern)]
        self._cooling = {
            path: kind
            for path in _readable(system / "class" / "thermal", "cooling_device*/cur_state")
            if (kind := _text(path.with_name("type")) or "").startswith(_SLOWS) or kind.endswith(_SLOWED)
        }
        clocks = [folder / "scaling_cur_freq" for folder in cpufreq(system / "devices" / "system" / "cpu")]
        self._clocks = [path for path in clocks if _number(path) is not None]
        self._gpus, not_watched = _gpus()
        self._sources = {
            "counters": _watched(len(self._counters), "throttling counters", "no throttling counters"),
            "cooling": _watched(len(self._cooling), "cooling devices", "no cooling device that slows a processor"),
            "clocks": _watched(len(self._clocks), "processor clocks", "no cpufreq"),
            "gpu": _watched(len(self._gpus), f"GPUs by NVML; {not_watched}".removesuffix("; "), not_watched),
        }
        self._mhz: list[float] = []
        self._before: dict[Path, int] = {}
        self._seen: dict[str, None] = {}

    @property
    def sources(self) -> Mapping[str, str]:
        """What is watched, and what is unavailable and why; the clocks with the lowest and highest mean seen so far."""
        seen = {"clocks": f"{min(self._mhz):.0f} to {max(self._mhz):.0f} MHz"} if self._mhz else {}
        return {**self._sources, **seen}

    def conditions(self) -> Conditions:
        """The machine's present conditions: :func:`harness.profiling.machine.conditions`."""
        return conditions()

    def begin(self) -> None:
        """A unit of work begins."""
        self._before = {path: count for path in self._counters if (count := _number(path)) is not None}
        self._seen = {}
        self.look()

    def look(self) -> None:
        """Records what is lowered at this moment; to be called outside of any timed stage."""
        for path, kind in self._cooling.items():
            if (state := _number(path)) is not None and state > 0:
                self._seen[f"the cooling device {kind} was on"] = None
        for gpu in self._gpus:
            bits = gpu.ask(_REASONS) or 0
            for bit, reason in _NVML_REASONS.items():
                if bits & bit:
                    self._seen[f"{gpu}: {reason}"] = None

    def end(self) -> list[str]:
        """What was lowered since :meth:`begin`, a sentence each."""
        self.look()
        for path, before in self._before.items():
            if (after := _number(path)) is not None and after > before:
                self._seen[f"the counter {path.name} rose"] = None
        if clocks := [khz / 1000 for path in self._clocks if (khz := _number(path)) is not None]:
            self._mhz.append(sum(clocks) / len(clocks))
        return list(self._seen)


def _gpus() -> tuple[list[nvml.Gpu], str]:
    """The GPUs that report their reasons for a lower clock, and a phrase on those that do not or are absent."""
    found, absent = nvml.gpus()
    watched = [gpu for gpu in found if gpu.ask(_REASONS) is not None]
    if silent := [str(gpu) for gpu in found if gpu not in watched]:
        absent = f"NVML does not support the reasons for a lower clock on {' and '.join(silent)}"
    return watched, absent


def _watched(n: int, what: str, absent: str) -> str:
    return f"{n} {what}" if n else UNAVAILABLE + absent


def _readable(folder: Path, pattern: str) -> list[Path]:
    """The files that hold a number, in a steady order."""
    return [path for path in sorted(folder.glob(pattern)) if _number(path) is not None]


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
