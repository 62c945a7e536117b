"""Whether the machine lowered a clock for heat or power while stages were timed, as far as it tells.

Four things are watched where they are there; one that is not is recorded as unavailable, which proves nothing:

- ``counters``: Linux on x86 counts each core's and package's thermal throttling (``cpu*/thermal_throttle``);
- ``cooling``: Linux's cooling devices that slow a processor or a GPU are above their state 0 (``class/thermal``);
- ``clocks``: the processor's frequencies (``cpu*/cpufreq``), recorded without a verdict: a governor lowers them too;
- ``gpu``: NVML's reasons for a lower clock, for heat or power, of each NVIDIA GPU.

A counter is compared over a unit of work, so nothing in between is missed; a state is looked at after each request.
"""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.runs.provenance import UNAVAILABLE

_COUNTERS = ("core_throttle_count", "package_throttle_count")
_SLOWS = ("cpufreq-", "devfreq-", "thermal-cpufreq-", "thermal-devfreq-", "Processor")
"""What the types of cooling devices begin with that slow something down; others turn fans."""

_NVML_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
}
"""NVML's bits for heat and power; its others are an idle GPU and clocks that somebody set."""


class Telemetry:
    """Watches a machine: :meth:`begin` a unit of work, :meth:`look` now and then, :meth:`end` it.

    ``system`` is where sysfs is; ``nvml`` the module pynvml, None to import it where it is installed.
    """

    def __init__(self, system: Path = Path("/sys"), nvml: Any = None) -> None:
        processors = system / "devices" / "system" / "cpu"
        self._counters = [
            path for name in _COUNTERS for path in _readable(processors, f"cpu[0-9]*/thermal_throttle/{name}")
        ]
        self._cooling = {
            path: kind
            for path in _readable(system / "class" / "thermal", "cooling_device*/cur_state")
            if (kind := _text(path.with_name("type")) or "").startswith(_SLOWS)
        }
        self._clocks = _readable(processors, "cpu[0-9]*/cpufreq/scaling_cur_freq")
        self._gpus, no_gpu = _gpus(nvml)
        self._sources = {
            "counters": _watched(len(self._counters), "thermal_throttle counters", "no thermal_throttle counters"),
            "cooling": _watched(len(self._cooling), "cooling devices", "no cooling device that slows a processor"),
            "clocks": _watched(len(self._clocks), "processor clocks", "no cpufreq"),
            "gpu": _watched(len(self._gpus), "GPUs by NVML", no_gpu),
        }
        self._mhz: list[float] = []
        self._before: dict[Path, int] = {}
        self._seen: dict[str, None] = {}

    @property
    def sources(self) -> Mapping[str, str]:
        """What is watched, and what is unavailable and why; the clocks with the lowest and highest mean seen so far."""
        seen = {"clocks": f"{min(self._mhz):.0f} to {max(self._mhz):.0f} MHz"} if self._mhz else {}
        return {**self._sources, **seen}

    def begin(self) -> None:
        """A unit of work begins."""
        self._before = {path: count for path in self._counters if (count := _number(path)) is not None}
        self._seen = {}
        self.look()

    def look(self) -> None:
        """Notes what is lowered at this moment; to be called outside of any timed stage."""
        for path, kind in self._cooling.items():
            if (state := _number(path)) is not None and state > 0:
                self._seen[f"the cooling device {kind} was on"] = None
        for name, reasons in self._gpus.items():
            bits = reasons()
            for bit, reason in _NVML_REASONS.items():
                if bits & bit:
                    self._seen[f"{name}: {reason}"] = None

    def end(self) -> list[str]:
        """What was lowered since :meth:`begin`, a sentence each."""
        self.look()
        for path, before in self._before.items():
            if (after := _number(path)) is not None and after > before:
                self._seen[f"the processor's {path.name} rose"] = None
        if clocks := [khz / 1000 for path in self._clocks if (khz := _number(path)) is not None]:
            self._mhz.append(sum(clocks) / len(clocks))
        return list(self._seen)


def _gpus(nvml: Any) -> tuple[dict[str, Callable[[], int]], str]:
    """For each GPU's name what asks NVML for the bits of its reasons; or why there is none."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return {}, "pynvml is not installed (pip install 'tofc-harness[nvidia]')"
    try:
        nvml.nvmlInit()
        found: dict[str, Callable[[], int]] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
            found[f"GPU {index} ({nvml.nvmlDeviceGetName(handle)})"] = _asking(nvml, handle)
    except nvml.NVMLError as error:
        return {}, f"NVML: {error}"
    return found, "no NVIDIA GPU"


def _asking(nvml: Any, handle: Any) -> Callable[[], int]:
    def reasons() -> int:
        with contextlib.suppress(nvml.NVMLError):
            return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return 0

    return reasons


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
