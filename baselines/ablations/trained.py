"""A trained ablation on disk: codec and projector, or adapter and, where that is learned, reducer.

Projector, adapter and reducer are in half precision; the codec is its own checkpoint.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from baselines.ablations.schemes import CODEC, POINT, PROJECTOR, REDUCER
from harness.errors import CheckpointError
from harness.models import adapter, files
from harness.runs.disk import write_text
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.trained import ADAPTER


class LearnedReducer(nn.Module, ABC):
    """A reducer with weights; ``config`` are the sizes that it is made of."""

    config: BaseModel

    @abstractmethod
    def fit_scale(self, x_NVD: Tensor) -> None:
        """Start whatever depends on the features' scale from those of some patches."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training gives a point of Fig. 12: a frozen codec and a projector."""

    codec: FeatureCodec
    projector: nn.Module

    def save(self, folder: Path, backbone: str) -> None:
        """Write the folder; ``backbone`` is the hash of the weights that it was trained around."""
        folder.mkdir(parents=True, exist_ok=True)
        # The projector last: a folder that has it is whole.
        self.codec.save(folder / CODEC, networks=False)
        _write(folder / PROJECTOR, self.projector, {"backbone": backbone})


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What training gives a point of Table I: LoRA and projector around a backbone, and a learned reducer."""

    peft: Any
    name: str
    reducer: "LearnedReducer | None"

    def save(self, folder: Path, backbone: str) -> None:
        """Write the folder; ``backbone`` is the hash of the weights that it was trained around."""
        folder.mkdir(parents=True, exist_ok=True)
        adapter.save(self.peft, folder / ADAPTER, self.name)
        if self.reducer is not None:
            _write(folder / REDUCER, self.reducer, {"config": self.reducer.config.model_dump_json()})
        write_text(folder / POINT, json.dumps({"backbone": backbone, "trained_by": "distortion alone"}) + "\n")


def read(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """A projector's or reducer's weights, in single precision, and the sizes that are kept with them.

    Raises CheckpointError for a file that is absent or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = (file.metadata() or {}).get("config", "")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable weights: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}, config


def trained_around(folder: Path) -> str:
    """The hash of the backbone that a folder was trained around; empty where the folder is not whole."""
    if (folder / POINT).is_file():
        return str(files.read_json(folder / POINT).get("backbone", ""))
    try:
        with safe_open(folder / PROJECTOR, framework="pt") as file:
            return str((file.metadata() or {}).get("backbone", ""))
    except (OSError, SafetensorError):
        return ""


def _write(path: Path, module: nn.Module, metadata: Mapping[str, str]) -> None:
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in module.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in halves.values()):
        raise ValueError(f"{path}: a weight leaves the range of half precision")
    unfinished = path.with_suffix(".part")
    save_file(halves, unfinished, dict(metadata))
    unfinished.replace(path)
