"""Which machine a number was measured on: what decides its speed, and which one of its kind it is.

A *machine* is what decides speed: the board, the processor, its cores and largest clocks, memory, accelerators with
their limits, the power mode. Numbers of one machine may be compared. An *instance* is one computer with its system: a
salted digest of ``/etc/machine-id`` (never the id itself, never the host's name), the kernel and the driver. A run is
resumed on one instance. No live clock is in either.
"""

import hashlib
import hmac
import json
import os
import platform
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pynvml

from harness.profiling import nvml

ARM_IMPLEMENTERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x50: "APM",
    0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0x6D: "Microsoft", 0xC0: "Ampere",
}  # fmt: skip
"""Who made an Arm core, by the field Implementer of its register MIDR_EL1."""

ARM_PARTS = {
    0x41: {
        0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
        0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
        0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD43: "Cortex-A65AE",
        0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2",
        0xD4A: "Neoverse-E1", 0xD4B: "Cortex-A78C", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xD83: "Neoverse-V3AE", 0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925", 0xD87: "Cortex-A725", 0xD8E: "Neoverse-N3",
    },
    0x46: {0x001: "A64FX"},
    0x48: {0xD01: "TaiShan-v110"},
    0x4E: {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel"},
    0xC0: {0xAC3: "Ampere-1", 0xAC4: "Ampere-1a"},
}  # fmt: skip
"""The cores' names, by the field PartNum of MIDR_EL1: ``/proc/cpuinfo`` of 64-bit Arm has only numbers."""

_SALT = b"tofc-harness"
_NVPMODEL_PATIENCE_S = 5.0


Conditions: TypeAlias = dict[str, float | str | bool]


@cache
def this_machine(root: Path = Path("/")) -> dict[str, Any]:
    """Describes the machine, as plain data; a fact that the system does not report is null.

    ``machine_id`` (``id`` is the same) digests what decides speed, ``instance_id`` which computer it is; ``name`` is
    for people. ``root`` is where proc, sys and etc are.
    """
    gpus, _ = nvml.gpus()
    machine = _machine(root, gpus)
    instance = {
        "host": _host(root),
        "system": f"{platform.system()} {platform.release()}",
        "driver": nvml.driver() if gpus else None,
        "l4t": _l4t(root),
        "jetpack": _jetpack(root),
    }
    machine_id = _digest(machine)
    return {
        "id": machine_id,
        "machine_id": machine_id,
        "instance_id": _digest(instance),
        "name": _name(machine),
        **machine,
        **{fact: told for fact, told in instance.items() if fact != "host"},
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_mhz": _clock_now_mhz(root),
    }


def machine_name() -> str:
    """The machine in the words that rows and figures use, such as ``AMD EPYC, 2 cores``."""
    return str(this_machine()["name"])


def conditions(root: Path = Path("/")) -> Conditions:
    """The machine's present conditions: power mode, clocks in MHz, temperatures in C.

    A fact that the system does not report is left out. ``root`` is where proc and sys are.
    """
    processors = root / "sys/devices/system/cpu"
    khz = [_number(folder / "scaling_cur_freq") for folder in cpufreq(processors)]
    known_khz = [one for one in khz if one is not None]
    now_mhz = _clock_now_mhz(root)
    found: dict[str, float | str | bool | None] = {
        "power_mode": _nvpmodel(root) or _text(root / "sys/firmware/acpi/platform_profile"),
        "jetson_clocks": _jetson_clocks(root),
        "governor": _text(processors / "cpu0/cpufreq/scaling_governor"),
        "cpu_mhz": sum(known_khz) / len(known_khz) / 1000 if known_khz else now_mhz and float(now_mhz),
    }
    if (devfreq := _tegra_gpu(root)) is not None and (hertz := _number(devfreq / "cur_freq")) is not None:
        found["gpu_mhz"] = hertz / 1e6
    for gpu in nvml.gpus()[0]:
        told = {
            "sm_mhz": gpu.ask("ClockInfo", pynvml.NVML_CLOCK_SM),
            "memory_mhz": gpu.ask("ClockInfo", pynvml.NVML_CLOCK_MEM),
            "temperature_c": gpu.ask("Temperature", pynvml.NVML_TEMPERATURE_GPU),
        }
        found |= {f"gpu {gpu.number} {fact}": float(value) for fact, value in told.items() if value is not None}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if (thousandths := _number(zone / "temp")) is not None:
            found[f"{_text(zone / 'type') or zone.name} temperature_c"] = thousandths / 1000
    return {fact: value for fact, value in found.items() if value is not None}


def cpufreq(processors: Path) -> list[Path]:
    """The folders with the clocks of the processors that are online, in a steady order.

    A power mode of a Jetson takes processors offline; the clocks in their folders are their last ones, or unreadable.
    """
    folders = sorted(processors.glob("cpu[0-9]*/cpufreq"))
    return [folder for folder in folders if _number(folder.parent / "online") != 0]


def _machine(root: Path, gpus: list[nvml.Gpu]) -> dict[str, Any]:
    """What decides speed."""
    processors = root / "sys/devices/system/cpu"
    largest_khz = {_number(path) for path in processors.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")}
    return {
        "model": _text(root / "proc/device-tree/model"),
        "processor": _processor(root),
        "architecture": platform.machine(),
        "cores": _cores(processors),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(_memory_bytes(root) / 2**30),
        "max_cpu_mhz": sorted(round(khz / 1000) for khz in largest_khz if khz),
        "boost": _boost(processors),
        "accelerators": _accelerators(root, gpus),
        "power_mode": _nvpmodel(root) or _text(root / "sys/firmware/acpi/platform_profile"),
        "jetson_clocks": _jetson_clocks(root),
    }


def _name(machine: dict[str, Any]) -> str:
    cores = f"{machine['cores']} cores"
    if machine["model"]:
        mode = f" ({machine['power_mode']})" if machine["power_mode"] else ""
        return f"{machine['model']}{mode}, {cores}"
    if machine["accelerators"]:
        return f"{machine['accelerators'][0]['name']} ({machine['processor']}, {cores})"
    return f"{machine['processor']}, {cores}"


def _processor(root: Path) -> str:
    """The model's name, or the Arm cores by implementer and part; the architecture where neither is known."""
    entries = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in entry.splitlines())}
        for entry in (_text(root / "proc/cpuinfo") or "").split("\n\n")
    ]
    kinds = Counter(_arm_core(entry) for entry in entries if {"CPU implementer", "CPU part"} <= entry.keys())
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        return " + ".join(f"{n} {kind}" for kind, n in kinds.items())
    told = next((entry["model name"] for entry in entries if "model name" in entry), "")
    return told or platform.processor() or platform.machine()


def _arm_core(entry: dict[str, str]) -> str:
    implementer, part = int(entry["CPU implementer"], 0), int(entry["CPU part"], 0)
    maker = ARM_IMPLEMENTERS.get(implementer, f"implementer {implementer:#04x}")
    return f"{maker} {ARM_PARTS.get(implementer, {}).get(part, f'part {part:#05x}')}"


def _cores(processors: Path) -> int | None:
    """Physical cores that are online: the sets of threads that share one."""
    siblings = {_text(path) for path in processors.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return len(siblings) or psutil.cpu_count(logical=False) or os.cpu_count()


def _memory_bytes(root: Path) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else int(psutil.virtual_memory().total)


def _clock_now_mhz(root: Path) -> int | None:
    if khz := _number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"):
        return round(khz / 1000)
    found = re.search(r"^cpu MHz\s*: ([\d.]+)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return round(float(found[1])) if found else None


def _boost(processors: Path) -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    if (allowed := _number(processors / "cpufreq/boost")) is not None:
        return bool(allowed)
    if (forbidden := _number(processors / "intel_pstate/no_turbo")) is not None:
        return not forbidden
    return None


def _accelerators(root: Path, gpus: list[nvml.Gpu]) -> list[dict[str, Any]]:
    """Each GPU's name, memory and limits; on a Jetson the largest clock is devfreq's, because NVML reports none."""
    devfreq = _tegra_gpu(root)
    if devfreq is not None:
        table = [int(hertz) for hertz in (_text(devfreq / "available_frequencies") or "").split() if hertz.isdigit()]
        largest_hz = max(table, default=_number(devfreq / "max_freq"))
        soc = (_text(root / "proc/device-tree/compatible") or "").split("\x00")[-1].rpartition(",")[2]
        return [
            {
                "name": gpus[0].name if gpus else f"{soc or 'Tegra'} GPU",
                "memory_gib": None,
                "max_clock_mhz": largest_hz and round(largest_hz / 1e6),
                "max_memory_clock_mhz": None,
                "power_limit_w": None,
            }
        ]
    return [_accelerator(gpu) for gpu in gpus]


def _accelerator(gpu: nvml.Gpu) -> dict[str, Any]:
    memory = gpu.ask("MemoryInfo")
    limit_mw = gpu.ask("EnforcedPowerLimit") or gpu.ask("PowerManagementLimit")
    return {
        "name": gpu.name,
        "memory_gib": memory and round(memory.total / 2**30),
        "max_clock_mhz": gpu.ask("MaxClockInfo", pynvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": gpu.ask("MaxClockInfo", pynvml.NVML_CLOCK_MEM),
        "power_limit_w": limit_mw and limit_mw / 1000,
    }


def _tegra_gpu(root: Path) -> Path | None:
    """The folder of the integrated GPU's clock on Linux for Tegra, such as ``17000000.gpu``."""
    if _l4t(root) is None:
        return None
    folders = (root / "sys/class/devfreq").glob("*")
    return next(
        (folder for folder in sorted(folders) if re.search(r"\.(gpu|gp10b|gv11b|ga10b|gb10b)$", folder.name)), None
    )


def _l4t(root: Path) -> str | None:
    """The version of Linux for Tegra, such as 36.4.3."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else None


def _jetpack(root: Path) -> str | None:
    """The version of the installed package nvidia-jetpack; many images of Linux for Tegra lack it."""
    if _l4t(root) is None:
        return None
    entries = (_text(root / "var/lib/dpkg/status") or "").split("\n\n")
    entry = next((entry for entry in entries if re.search(r"^Package: nvidia-jetpack$", entry, re.MULTILINE)), "")
    found = re.search(r"^Version: (\S+)$", entry, re.MULTILINE)
    return found[1] if found and re.search(r"^Status: .* installed$", entry, re.MULTILINE) else None


def _nvpmodel(root: Path) -> str | None:
    """The power mode of Linux for Tegra, such as MAXN; it says which cores are on and how high their clocks go.

    A container lacks the program: there it is the mode that the program has noted, by its name in the configuration.
    """
    program = root / "usr/sbin/nvpmodel"
    if not program.exists():
        noted = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
        modes = re.findall(
            r"^< *POWER_MODEL +ID=(\d+) +NAME=(\S+)", _text(root / "etc/nvpmodel.conf") or "", re.MULTILINE
        )
        return dict(modes).get(noted[1]) if noted else None
    try:
        done = subprocess.run(
            [str(program), "-q"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_NVPMODEL_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"NV Power Mode: *(\S+)", done.stdout)
    return found[1] if found else None


def _jetson_clocks(root: Path) -> bool | None:
    """Whether ``jetson_clocks`` is in force: each processor's lowest clock, and the GPU's, is the mode's highest."""
    gpu = _tegra_gpu(root)
    if gpu is None:
        return None
    folders = cpufreq(root / "sys/devices/system/cpu")
    ranges = [(_number(folder / "scaling_min_freq"), _number(folder / "scaling_max_freq")) for folder in folders]
    ranges.append((_number(gpu / "min_freq"), _number(gpu / "max_freq")))
    return None if None in {end for ends in ranges for end in ends} else all(low == high for low, high in ranges)


def _host(root: Path) -> str | None:
    """Which computer it is: a digest with a salt of the project's, from which the id cannot be recovered.

    A board without ``/etc/machine-id`` has its serial number in the device tree; null where a system has neither.
    """
    machine_id = _text(root / "etc/machine-id")
    if machine_id in (None, "uninitialized"):
        machine_id = _text(root / "proc/device-tree/serial-number")
    return hmac.digest(machine_id.encode(), _SALT, "sha256").hex() if machine_id else None


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\x00\n ") or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
