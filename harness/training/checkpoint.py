"""The state of a training in one safetensors file: weights, moments, and how far it is. Nothing is pickled."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models import files

FILE = "checkpoint.safetensors"
_FORMAT = "tofc-training-1"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A stage's name and the steps of it that are done; the seconds spent so far; tensors by name.

    ``identity`` identifies the training; ``scaler`` is the state of fp16's loss scaling, empty otherwise. ``processes``
    is how many it is trained on; None in checkpoints of an earlier code.
    """

    identity: str
    stage: str
    steps: int
    seconds: float
    scaler: Mapping[str, float]
    tensors: Mapping[str, Tensor]
    processes: int | None = None


def write(path: Path, state: State) -> None:
    """Replace a checkpoint, in one step; raises OSError where it cannot be written, and leaves the one before."""
    facts = {key: getattr(state, key) for key in ("identity", "stage", "steps", "seconds", "scaler", "processes")}
    with files.written(path) as unfinished:
        save_file(dict(state.tensors), unfinished, {"format": _FORMAT, "state": json.dumps(facts)})


def read(path: Path, *, tensors: bool = True) -> State | None:
    """A checkpoint, without its tensors if they are not needed; None where there is none.

    Raises CheckpointError for a damaged one.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, a training's is {_FORMAT!r}")
        return State(**json.loads(metadata["state"]), tensors=found)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint of a training: {error}; delete it to start over"
        ) from None


def moments(optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's state by parameter name; a parameter that was never updated has none."""
    return {
        f"{moment}:{name}": optimiser.state[p][moment].detach().cpu().contiguous()
        for name, p in parameters.items()
        if p in optimiser.state
        for moment in _MOMENTS
    }


def restore_moments(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what :func:`moments` returned."""
    for name, p in parameters.items():
        if f"{_MOMENTS[0]}:{name}" in tensors:
            state: dict[str, Any] = {m: tensors[f"{m}:{name}"].to(p.device) for m in _MOMENTS[1:]}
            optimiser.state[p] = {"step": tensors[f"step:{name}"], **state}


def write_halves(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    """A trained module's tensors in half precision; raises ValueError for a weight that leaves its range."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in halves.values()):
        raise ValueError(f"{path}: a weight leaves the range of half precision")
    with files.written(path) as unfinished:
        save_file(halves, unfinished, dict(metadata))
