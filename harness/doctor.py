"""Describes this machine, and which halves of a scenario's schemes it can run, without loading a model.

The memory of a half is that of the weights that it needs, counted from the checkpoint at the precision that the harness
computes in. Activations, and what an adapter adds, are not included.
"""

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from harness.errors import HarnessError
from harness.model_probe import ModelProbe
from harness.profiling import nvml
from harness.profiling.energy import Meters
from harness.profiling.machine import this_machine
from harness.records import Side
from harness.scenario.model import Scenario
from harness.stock import Stock, missing, take_stock

_FASTEST = ("MAXN", "MAXN_SUPER")
"""The power modes in which a Jetson limits nothing."""
_JETSONS = {"sm_53", "sm_62", "sm_72", "sm_87", "sm_101"}
"""Code for these GPUs runs only on them, and that of no other GPU on them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfNeeds:
    """What one half of a scheme at a point needs here: the parts of models, their bytes, or why it cannot be made."""

    pipeline: str
    point: str
    side: Side
    parts: Sequence[str]
    weight_bytes: int
    refused: str | None

    def fits(self, memory_bytes: int) -> bool:
        """Whether it can be made, and its weights fit."""
        return self.refused is None and self.weight_bytes <= memory_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found: ``facts`` on the machine, ``notes`` on what may mislead, ``wrong`` is what must be fixed.

    ``memory_bytes`` is that of the first GPU, or of the machine.
    """

    facts: Sequence[str]
    notes: Sequence[str]
    wrong: Sequence[str]
    halves: Sequence[HalfNeeds]
    memory_bytes: int


def examine(
    scenario: Scenario | None = None, *, allow_stand_ins: bool = True, card: Mapping[str, Any] | None = None
) -> Findings:
    """What this machine is, and whether a scenario can run on it; ``card`` is the machine's."""
    card = this_machine() if card is None else card
    gpus, no_gpu = nvml.gpus()
    torch_line, on_gpu, notes, wrong = _torch(bool(gpus))
    memory_bytes = psutil.virtual_memory().total
    gpu_bytes = [int(memory.total) for gpu in gpus if (memory := gpu.ask("MemoryInfo")) is not None]
    facts = [f"{card['name']}, {card['memory_gib']} GiB of memory", *map(str, gpus), torch_line]
    if not gpus:
        facts.insert(1, f"no GPU: {no_gpu}")
    with Meters() as meters:
        facts.append(f"energy: {meters.sources}")
    notes += _power(card)
    limit_bytes = gpu_bytes[0] if on_gpu and gpu_bytes else memory_bytes
    halves: list[HalfNeeds] = []
    if scenario is not None and scenario.estimate is not None:
        wrong += missing(scenario)
    elif scenario is not None:
        try:
            stock = take_stock(scenario, allow_stand_ins=allow_stand_ins)
        except HarnessError as error:
            named = missing(scenario, allow_stand_ins=allow_stand_ins)
            # If the same mistake is reported with a point's name, that sentence is enough.
            others = [line for line in str(error).split("\n") if not any(line in sentence for sentence in named)]
            wrong += dict.fromkeys([*others, *named])
        else:
            notes += [*stock.absent, *(f"{ran} runs instead of {wanted}" for wanted, ran in stock.stand_ins.items())]
            if scenario.weights == "random":
                notes.append("random weights are generated, not read: their memory is not counted")
            halves = list(_halves(stock, bytes_each=2 if on_gpu else 4))
            wrong += dict.fromkeys(half.refused for half in halves if half.refused is not None)
    return Findings(facts=facts, notes=notes, wrong=wrong, halves=halves, memory_bytes=limit_bytes)


def _torch(has_gpu: bool) -> tuple[str, bool, list[str], list[str]]:
    """A line on torch, whether it uses a GPU here, and what may mislead or must be fixed."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed", False, [], ["torch is not installed; 'pip install torch' installs it"]
    import torch

    version, cuda = importlib.metadata.version("torch"), torch.version.cuda
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        known = torch.cuda.get_arch_list()
        note = f"torch {version} has no code of its own for this GPU (sm_{major}{minor}; it has {', '.join(known)})"
        notes = [] if _has_code(major, minor, known) else [note]
        return f"torch {version} for CUDA {cuda}, on the GPU", True, notes, []
    line = f"torch {version}{f' for CUDA {cuda}' if cuda else ', without CUDA'}, on the processor"
    if not has_gpu:
        return line, False, [], []
    if cuda is None:
        return line, False, ["there is a GPU, and this torch was built without CUDA; install a build for CUDA"], []
    return line, False, [f"there is a GPU, and its driver ({nvml.driver()}) does not run CUDA {cuda}; update it"], []


def _has_code(major: int, minor: int, known: Sequence[str]) -> bool:
    """Whether code for one of the GPUs ``known`` runs here: a Jetson takes its own, others that of their generation."""
    if f"sm_{major}{minor}" in known:
        return True
    earlier = {f"sm_{major}{before}" for before in range(minor)} - _JETSONS
    return f"sm_{major}{minor}" not in _JETSONS and not earlier.isdisjoint(known)


def _power(card: Mapping[str, Any]) -> Iterator[str]:
    """The settings that slow a Jetson down on purpose."""
    if card.get("l4t") is None:
        if str(card.get("system")).endswith("-tegra"):
            yield (
                "the kernel is a Jetson's, and /etc/nv_tegra_release is missing: the power mode and the GPU's clocks "
                "are not recorded; docs/hardware.md shows what a container has to mount"
            )
        return
    mode = card.get("power_mode")
    if mode not in _FASTEST:
        yield f"the power mode is {mode or 'unknown'}; 'sudo nvpmodel -m 0' sets the fastest; times depend on it"
    if card.get("jetson_clocks") is False:
        yield "clocks vary; 'sudo jetson_clocks' sets them to their highest"


def _halves(stock: Stock, bytes_each: int) -> Iterator[HalfNeeds]:
    for (pipeline, label), (scheme, point) in stock.points.items():
        sides: tuple[Side, ...] = ("device", "server")
        for side in sides:
            probe = ModelProbe(stock.backbone, stock.scenario.weights, stock.scenario.max_pixels)
            refused = None
            try:
                (scheme.device_half if side == "device" else scheme.server_half)(probe, point)
            except HarnessError as error:
                refused = f"{pipeline} at {label}, {side} half: {error}"
            yield HalfNeeds(
                pipeline=pipeline,
                point=label,
                side=side,
                parts=[f"{part} of {name}" for name, part in probe.parts],
                weight_bytes=bytes_each * sum(probe.parts.values()),
                refused=refused,
            )
