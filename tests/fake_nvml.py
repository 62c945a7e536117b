"""NVML's C library in Python: the module pynvml runs unchanged over it and fills its own structures."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

SUCCESS, NOT_SUPPORTED = 0, 3


@dataclass
class FakeGpu:
    """A GPU's responses; None for what it does not support. Clocks in MHz, limits and power in mW, energy in mJ."""

    name: str
    memory_bytes: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    limit_mw: int | None = None
    reasons: int | None = None
    energy_mj: int | None = None
    power_mw: int | None = None
    celsius: int | None = None

    def answer(self, question: str, *arguments: Any) -> int | None:
        """The result of the C function ``question`` for this GPU."""
        if question in ("nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetClockInfo"):
            return {pynvml.NVML_CLOCK_SM: self.sm_mhz, pynvml.NVML_CLOCK_MEM: self.memory_mhz}[arguments[0].value]
        return {
            "nvmlDeviceGetMemoryInfo": self.memory_bytes,
            "nvmlDeviceGetEnforcedPowerLimit": self.limit_mw,
            "nvmlDeviceGetCurrentClocksEventReasons": self.reasons,
            "nvmlDeviceGetTotalEnergyConsumption": self.energy_mj,
            "nvmlDeviceGetPowerUsage": self.power_mw,
            "nvmlDeviceGetTemperature": self.celsius,
        }.get(question)


class FakeLibrary:
    """The functions of ``libnvidia-ml.so`` over these GPUs; a handle is a GPU's number counted from 1."""

    def __init__(self, *gpus: FakeGpu, driver: str = "570.86.15", init: int = SUCCESS) -> None:
        self.gpus, self.driver, self.init = gpus, driver, init

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def function(handle: Any, *arguments: Any) -> int:
            *rest, out = arguments
            told = self._gpu(handle).answer(name, *rest)
            if told is not None:
                setattr(out._obj, "total" if name == "nvmlDeviceGetMemoryInfo" else "value", told)
            return NOT_SUPPORTED if told is None else SUCCESS

        return function

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: N802
        return self.init

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:  # noqa: N802
        buffer.value = self.driver.encode()
        return SUCCESS

    def nvmlDeviceGetCount_v2(self, out: Any) -> int:  # noqa: N802
        out._obj.value = len(self.gpus)
        return SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, number: Any, out: Any) -> int:  # noqa: N802
        handle = ctypes.c_size_t(number.value + 1)
        ctypes.memmove(out, ctypes.byref(handle), ctypes.sizeof(handle))
        return SUCCESS

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:  # noqa: N802
        buffer.value = self._gpu(handle).name.encode()
        return SUCCESS

    def _gpu(self, handle: Any) -> FakeGpu:
        return self.gpus[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]


@contextmanager
def driver(*gpus: FakeGpu, **facts: Any) -> Iterator[None]:
    """Inside, pynvml finds this library instead of the one that a driver installs."""
    library, kept = FakeLibrary(*gpus, **facts), pynvml.nvmlLib
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield
    finally:
        pynvml.nvmlLib = kept
        pynvml._nvmlGetFunctionPointer_cache.clear()
