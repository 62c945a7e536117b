"""A codec of merged features: to bytes and back, and the differentiable stand-in of both for training.

What all of them share: the stream's header, the integer tables that are derived after training, the checkpoint. A codec
adds how features become symbols. The paper's is :class:`harness.tofc.codec.TofcCodec`; others are its ablations.

P patches   C clusters   N = P C merged features   D dimension
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models import files
from harness.tofc import bitstream
from harness.tofc.bitstream import LIMITS, Budget, Header, Limits, ModelTables, SideInformation, Symbols
from harness.tofc.level_order import Levels
from harness.tofc.router import imbalance

_FROZEN = "frozen."


class Coded(NamedTuple):
    """The training pass: ``y_PCD`` (Eq. 15), the bits of each feature, and the weights of its models (Eq. 17).

    A codec of one model has one weight of 1.
    """

    y_PCD: Tensor
    bits_N: Tensor
    w_NE: Tensor

    @property
    def rate(self) -> Tensor:
        """R in bits per element of y (Eq. 16)."""
        return self.bits_N.sum() / self.y_PCD.numel()

    @property
    def imbalance(self) -> Tensor:
        """Eq. 18 over alpha."""
        return imbalance(self.w_NE)


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """What a stream holds: the features, the model of each, the image's grid (n_h, n_w), where the bits went."""

    y_PCD: Tensor
    expert_PC: Tensor
    grid: tuple[int, int]
    budget: Budget


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenCodec:
    """All that a decoder computes with: the checkpoint's integers, and the hash of these and the weights."""

    digest: str
    tensors: Mapping[str, Tensor]
    tables: ModelTables

    @property
    def model(self) -> bytes:
        """The model that a stream's header names."""
        return bytes.fromhex(self.digest)[: bitstream.MODEL_BYTES]


class FeatureCodec(nn.Module, ABC):
    """A codec is trained through :meth:`forward`, frozen, saved; then it compresses and decompresses.

    A subclass gives forward, :meth:`derive`, :meth:`thaw`, :meth:`symbols` and :meth:`features`.
    """

    FORMAT: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    NETWORKS: ClassVar[tuple[str, ...]] = ()
    """What the names of those tensors begin with that only training needs, once the integers are derived.

    They are no part of the hash; a checkpoint has them in half precision, or not at all.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        # An empty tensor, so that a codec without parameters also knows its device.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._frozen: Any = None
        self._has_networks = True
        self.register_forward_pre_hook(FeatureCodec._require_networks)

    @abstractmethod
    def forward(self, y_PCD: Tensor, temperature: float) -> Coded:
        """Quantise differentiably, in float32; ``temperature`` is the router's (Eq. 17), 0 the hard choice."""

    @abstractmethod
    def derive(self, y_ND: Tensor) -> dict[str, Tensor]:
        """The integer tables that follow from the weights, and from features ``y_ND`` such as will be coded."""

    @abstractmethod
    def thaw(self, digest: str, tensors: Mapping[str, Tensor]) -> FrozenCodec:
        """Loads what :meth:`derive` returned, ready for coding; raises ValueError or KeyError for anything else."""

    @abstractmethod
    def symbols(self, y_PCD: Tensor) -> tuple[Symbols, Levels]:
        """The integers that :meth:`compress` codes, and the level of each element's scale."""

    @abstractmethod
    def features(self, side: SideInformation) -> tuple[Tensor, Budget]:
        """The rest of a stream: its features (N, D), float32, and where its bits went."""

    def fit_scale(self, y_PCD: Tensor) -> None:
        """Initialise from data what depends on the features' scale; a codec without such parameters does nothing."""

    def scale_parameters(self) -> list[nn.Parameter]:
        """The quantiser's own parameters, which may need a higher learning rate than networks."""
        return []

    @property
    def device(self) -> torch.device:
        """Where the codec is."""
        return self.get_buffer("_place").device

    @torch.no_grad()
    def freeze(self, y_PCD: Tensor) -> None:
        """Derive the integer tables from the weights, and the table of the models' indices from their use on ``y_PCD``.

        To be called after training, on the device on which the codec stays, and before compress, save and decompress;
        ``train()`` drops the tables. Raises ValueError where there are no networks to derive them from.
        """
        self._require_networks()
        self._frozen = None
        derived = self.derive(self._flat(y_PCD))
        self._install({_FROZEN + name: tensor.cpu().contiguous() for name, tensor in derived.items()})

    def train(self, mode: bool = True) -> Self:
        """Switch to training, and drop the integer tables, which training makes stale; or switch to inference.

        Raises ValueError where there are no networks to train.
        """
        if mode:
            self._require_networks()
            self._frozen = None
        return super().train(mode)

    def _require_networks(self, *_: Any) -> None:
        if not self._has_networks:
            raise ValueError(
                "the codec was saved without the networks that training needs: it can only be used for coding"
            )

    def _install(self, frozen: Mapping[str, Tensor]) -> None:
        used = self._used()
        self._frozen = self.thaw(_digest(self.config.model_dump_json(), {**used, **frozen}), frozen)

    def _used(self) -> dict[str, Tensor]:
        """The weights that coding uses, unchanged."""
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith(self.NETWORKS)
        }

    def _halves(self) -> dict[str, Tensor]:
        """The networks, in half precision."""
        return {
            name: tensor.detach().cpu().contiguous().half()
            for name, tensor in self.state_dict().items()
            if name.startswith(self.NETWORKS)
        }

    @property
    def frozen(self) -> Any:
        """The integer half; raises ValueError before :meth:`freeze`."""
        if self._frozen is None:
            raise ValueError("the codec has no integer tables yet: call freeze() after training, or load a checkpoint")
        return self._frozen

    def compress(self, y_PCD: Tensor, grid: tuple[int, int] | None = None) -> bytes:
        """The stream of one image's merged features, on whatever device the codec is.

        ``grid`` is (n_h, n_w) with n_h n_w + 1 = P; None takes (1, P - 1). A single patch has no grid: its stream says
        (0, 0). Raises ValueError for another P or D; FeaturesError, which is one, for features that are not finite or
        2**30 steps away from their mean, and for more than a stream holds.
        """
        if y_PCD.ndim != 3:
            raise ValueError(f"merged features of shape {tuple(y_PCD.shape)} are not (P, C, D)")
        n_patches, n_clusters, dim = y_PCD.shape
        if n_patches == 1:
            grid = (0, 0)
        elif grid is None:
            grid = (1, n_patches - 1)
        header = Header(self.frozen.model, grid, n_clusters)
        if header.n_patches != n_patches or dim != self.config.dim:
            raise ValueError(
                f"features of shape {tuple(y_PCD.shape)} do not fit a {grid[0]} x {grid[1]} grid and its thumbnail "
                f"in {self.config.dim} dimensions"
            )
        symbols, level_ND = self.symbols(y_PCD)
        return bitstream.write(header, self.frozen.tables, symbols, level_ND)

    def decompress(self, stream: bytes, limits: Limits | None = LIMITS) -> Decoded:
        """The features of a stream, float32, the same to the last bit on every machine.

        ``limits`` bound what a stream from elsewhere may claim; None is for streams from a trusted source. Raises
        BitstreamError for anything but a stream of this model within the limits.
        """
        side = bitstream.read_side_information(stream, self.frozen.model, self.frozen.tables, limits)
        y_ND, budget = self.features(side)
        shape = (side.header.n_patches, side.header.n_clusters)
        expert_PC = torch.from_numpy(side.expert_N).view(shape)
        return Decoded(y_ND.view(*shape, self.config.dim), expert_PC, side.header.grid, budget)

    def _flat(self, y_PCD: Tensor) -> Tensor:
        return y_PCD.reshape(-1, self.config.dim).float()

    def save(self, path: Path, *, networks: bool = True) -> None:
        """Write weights, integer tables, sizes and hash as one safetensors file, in one step.

        Without ``networks``, or where the codec itself was loaded without them, it leaves out what only training needs:
        it codes the same, and cannot be trained further. Raises ValueError before freeze, OSError where that fails.
        """
        frozen = self.frozen
        halves = self._halves() if networks and self._has_networks else {}
        tensors = {**self._used(), **frozen.tensors, **halves}
        config = self.config.model_dump_json()
        contents = _digest(config, tensors)
        facts = {"format": self.FORMAT, "config": config, "hash": frozen.digest, "contents": contents}
        with files.written(path) as unfinished:
            save_file(tensors, unfinished, facts)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> Self:
        """The codec of a checkpoint, ready for coding, and for further training if it has its networks.

        Raises CheckpointError for a file that is absent, damaged, or not a codec.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable codec checkpoint: {error}") from None
        if metadata.get("format") != cls.FORMAT:
            raise CheckpointError(f"{path}: its format is {metadata.get('format')!r}, a codec's is {cls.FORMAT!r}")
        if metadata.get("contents") != _digest(metadata.get("config", ""), tensors):
            raise CheckpointError(f"{path}: its contents do not match its hash: the file is damaged")
        try:
            # Networks that the file leaves out, which are most of a codec, take no memory either.
            with torch.device("meta"):
                codec = cls(cls.Config.model_validate_json(metadata["config"]))
            frozen = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_FROZEN)}
            complete = any(name.startswith(cls.NETWORKS) for name in tensors)
            here = {
                name: tensors[name].to(device, like.dtype) if name in tensors else like
                for name, like in codec.state_dict().items()
                if name in tensors or complete or not name.startswith(cls.NETWORKS)
            }
            foreign = {name: tensor for name, tensor in tensors.items() if name not in here}
            absent = {n: t for n, t in codec.state_dict().items() if n not in here}
            codec.load_state_dict({**absent, **here, **foreign}, assign=True)
            if left := [name for name, tensor in here.items() if tensor.is_meta]:
                raise KeyError(f"{left[0]} is missing")
            codec._has_networks = not absent
            codec._place = torch.empty(0, device=device)
            codec._install(frozen)
        except (ValidationError, RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: its tensors are not those of a codec of its sizes: {error}") from None
        return codec.eval()


def scale_of(y_ND: Tensor, steps_per_deviation: float) -> tuple[Tensor, Tensor]:
    """Mean, and log of the step with which a channel's standard deviation is ``steps_per_deviation`` steps: (D,)."""
    return y_ND.mean(0), (y_ND.std(0) / steps_per_deviation).clamp(min=1e-6).log()


def _digest(config: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sizes and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.numpy().reshape(-1).view("u1").data)
    return total.hexdigest()
