"""A trained ablation on disk: codec and projector, or adapter and, if it is learned, reducer.

Projector, adapter and reducer are in half precision; the codec is its own checkpoint.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from baselines.ablations.schemes import POINT, PROJECTOR
from harness.errors import CheckpointError
from harness.models import adapter, files
from harness.runs.disk import write_text
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.trained import ADAPTER, CODEC, REDUCER


class LearnedReducer(nn.Module, ABC):
    """A reducer with weights; ``config`` are the sizes that it is made of."""

    config: BaseModel

    @abstractmethod
    def fit_scale(self, x_NVD: Tensor) -> None:
        """Initialise what depends on the features' scale from those of some patches."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of training a point of Fig. 12: a frozen codec and a projector."""

    codec: FeatureCodec
    projector: nn.Module

    def save(self, folder: Path, backbone: str, how: str = "") -> None:
        """Write the folder; ``backbone`` is the hash of the weights that it was trained around, ``how`` its budget."""
        from harness.training.checkpoint import write_halves

        folder.mkdir(parents=True, exist_ok=True)
        # The projector last: a folder that has it is complete.
        self.codec.save(folder / CODEC, networks=False)
        write_halves(folder / PROJECTOR, self.projector, {"backbone": backbone, "how": how})


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The result of training a point of Table I: LoRA and projector of a backbone, and a learned reducer."""

    peft: Any
    name: str
    reducer: "LearnedReducer | None"

    def save(self, folder: Path, backbone: str, how: str = "") -> None:
        """Write the folder; ``backbone`` is the hash of the weights that it was trained around, ``how`` its budget."""
        from harness.training.checkpoint import write_halves

        folder.mkdir(parents=True, exist_ok=True)
        adapter.save(self.peft, folder / ADAPTER, self.name)
        if self.reducer is not None:
            write_halves(folder / REDUCER, self.reducer, {"config": self.reducer.config.model_dump_json()})
        facts = {"backbone": backbone, "how": how, "trained_by": "distortion alone"}
        write_text(folder / POINT, json.dumps(facts) + "\n")


def read(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """A projector's or reducer's weights, in single precision, and the sizes that are stored with them.

    Raises CheckpointError for a file that is absent or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = (file.metadata() or {}).get("config", "")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable weights: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}, config


def trained_around(folder: Path) -> tuple[str, str]:
    """The hash of the backbone that a folder was trained around, and how; both empty if the folder is incomplete.

    Folders of an earlier code do not say how: that is empty too.
    """
    if (folder / POINT).is_file():
        found = files.read_json(folder / POINT)
    else:
        try:
            with safe_open(folder / PROJECTOR, framework="pt") as file:
                found = file.metadata() or {}
        except (OSError, SafetensorError):
            found = {}
    return str(found.get("backbone", "")), str(found.get("how", ""))
