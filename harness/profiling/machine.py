"""Which machine a number was measured on."""

import hashlib
import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import psutil


@cache
def fingerprint() -> dict[str, Any]:
    """What decides how fast this machine is, as plain data: processor, cores, memory, accelerators, system, an ``id``.

    The id is over the hardware and the system alone, so that two runs on one machine agree; the governor and the clock
    at the time of asking are recorded beside it. A fact that the system does not tell is null.
    """
    hardware = {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "accelerators": _accelerators(),
        "model": _first_line(Path("/proc/device-tree/model")),
        "system": f"{platform.system()} {platform.release()}",
    }
    digest = hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:8]
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "id": digest,
        "name": _name(hardware),
        **hardware,
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "cpu_mhz": round(frequency.current) if frequency and frequency.current else None,
    }


def machine_name() -> str:
    """The machine in the words that rows and figures use, such as ``AMD EPYC, 2 cores``."""
    return str(fingerprint()["name"])


def _name(hardware: dict[str, Any]) -> str:
    if hardware["accelerators"]:
        return f"{hardware['accelerators'][0]} ({hardware['processor']}, {hardware['cores']} cores)"
    return f"{hardware['model'] or hardware['processor']}, {hardware['cores']} cores"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\x00\n ") or None
    except OSError:
        return None
