"""A trained ablation on disk: a folder with its codec, its projector and, where that is learned, its reducer.

Projector and reducer are kept in half precision; the codec is its own checkpoint.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from baselines.ablations.schemes import CODEC, PROJECTOR, REDUCER
from harness.errors import CheckpointError
from harness.tofc.feature_codec import FeatureCodec


class LearnedReducer(nn.Module, ABC):
    """A reducer with weights; ``config`` are the sizes that it is made of."""

    config: BaseModel

    @abstractmethod
    def fit_scale(self, x_NVD: Tensor) -> None:
        """Start whatever depends on the features' scale from those of some patches."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training gives: a frozen codec, a projector, and the reducer where it has weights."""

    codec: FeatureCodec
    projector: nn.Module
    reducer: "LearnedReducer | None" = None

    def save(self, folder: Path, backbone: str) -> None:
        """Write the folder; ``backbone`` is the hash of the weights that it was trained around."""
        folder.mkdir(parents=True, exist_ok=True)
        # The projector last: a folder that has it is whole.
        self.codec.save(folder / CODEC, networks=False)
        if self.reducer is not None:
            _write(folder / REDUCER, self.reducer, {"config": self.reducer.config.model_dump_json()})
        _write(folder / PROJECTOR, self.projector, {"backbone": backbone})


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
