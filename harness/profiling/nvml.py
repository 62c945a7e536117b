"""NVIDIA's GPUs as NVML reports them. On a Jetson it responds, but supports neither power nor clocks."""

from dataclasses import dataclass
from typing import Any

import pynvml


@dataclass(frozen=True)
class Gpu:
    """One GPU: its place in NVML's list, its name, and any NVML query about it."""

    number: int
    name: str
    handle: Any

    def ask(self, question: str, *arguments: Any) -> Any:
        """What ``nvmlDeviceGet<question>`` says; None where the GPU or its driver does not support it."""
        try:
            return getattr(pynvml, f"nvmlDeviceGet{question}")(self.handle, *arguments)
        except pynvml.NVMLError:
            return None

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name})"


def gpus() -> tuple[list[Gpu], str]:
    """The GPUs of this machine, and if there are none, why."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        found = [Gpu(number, pynvml.nvmlDeviceGetName(handle), handle) for number, handle in enumerate(handles)]
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    return found, "" if found else "no NVIDIA GPU"


def driver() -> str | None:
    """The version of the driver; call it only if there are GPUs."""
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
