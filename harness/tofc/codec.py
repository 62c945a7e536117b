"""The TOFC codec: merged features to bytes and back, and the differentiable stand-in of both for training.

P patches   C clusters   N = P C merged features   D dimension   E entropy models   Z channels of z
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Budget, Header, Symbols, Tables
from harness.tofc.entropy_model import Z_RATIO, EntropyModels
from harness.tofc.integer_synthesis import FRACTION_BITS, IntegerSynthesis
from harness.tofc.level_order import Levels
from harness.tofc.router import Router, imbalance

FORMAT = "tofc-codec-1"

CODECS = Path(__file__).parents[1] / "zoo" / "tofc"
"""The project's own codecs: a folder for each backbone, in it a checkpoint for each codec."""


class CodecConfig(BaseModel):
    """The sizes of a codec: ``dim`` is d_v, ``n_experts`` n_e; hidden widths default to (D, D/2), see entropy_model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(ge=Z_RATIO, le=4096, multiple_of=Z_RATIO)
    n_experts: int = Field(default=16, ge=1, le=64)
    hidden: tuple[int, ...] = Field(default=(), max_length=4)

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden widths of h_a; h_s has them in reverse."""
        return self.hidden or (self.dim, self.dim // 2)


class Coded(NamedTuple):
    """The training pass: ``y_PCD`` (Eq. 15), rate in bits an element of y (Eq. 16), imbalance (Eq. 18 over alpha)."""

    y_PCD: Tensor
    rate: Tensor
    imbalance: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """What a stream holds: the features, the model of each, the image's grid (n_h, n_w), where the bits went."""

    y_PCD: Tensor
    expert_PC: Tensor
    grid: tuple[int, int]
    budget: Budget


class TofcCodec(nn.Module):
    """Entropy models, router and quantiser's step; after :meth:`freeze`, also the integer tables that streams rest on.

    The step is an addition to the paper, where LoRA on the vision encoder brings the features to the scale at which
    rounding to integers is right: here y is rounded in units of a learned ``step_D``, after taking off ``offset_D``.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.offset_D = nn.Parameter(torch.zeros(config.dim))
        self.log_step_D = nn.Parameter(torch.zeros(config.dim))
        self.models = EntropyModels(config.n_experts, config.dim, config.widths)
        self.router = Router(config.dim, config.n_experts)
        self._frozen: _Frozen | None = None

    @torch.no_grad()
    def fit_scale(self, y_PCD: Tensor, steps_per_deviation: float = 2.0) -> None:
        """Start offset and step from data: zero mean, and a standard deviation of ``steps_per_deviation`` steps."""
        y_ND = self._flat(y_PCD)
        self.router.fit_scale(y_ND)
        self.offset_D.copy_(y_ND.mean(0))
        self.log_step_D.copy_((y_ND.std(0) / steps_per_deviation).clamp(min=1e-6).log())

    def forward(self, y_PCD: Tensor, temperature: float) -> Coded:
        """Quantise by the soft mixture of all entropy models (Eqs. 15-17), in float32, differentiably.

        ``temperature`` 0 is Eq. 19: each feature under the model that would code it, at the cost of one model, not of
        all; the choice has no gradient.
        """
        y_ND = self._flat(y_PCD)
        step_D = self.log_step_D.exp()
        u_ND = (y_ND - self.offset_D) / step_D
        if temperature == 0:
            expert_N = self.router.choose(y_ND)
            w_NE = nn.functional.one_hot(expert_N, self.config.n_experts).float()
            u_bar_ND, bits_N = self.models.chosen(u_ND, expert_N)
        else:
            w_NE = self.router.weights(y_ND, temperature)
            each = self.models(u_ND)
            u_bar_ND = torch.einsum("ne,end->nd", w_NE, each.u_END)
            bits_N = (w_NE.T * (each.y_bits_EN + each.z_bits_EN)).sum(0)
        y_bar_ND = u_bar_ND * step_D + self.offset_D
        rate = bits_N.sum() / u_ND.numel()
        return Coded(y_bar_ND.view(y_PCD.shape).to(y_PCD.dtype), rate, imbalance(w_NE))

    @torch.no_grad()
    def freeze(self, y_PCD: Tensor) -> None:
        """Derive the integer tables from the weights, and the experts' table from their use on ``y_PCD``.

        To be called after training, on the device on which the codec stays, and before compress, save and decompress;
        ``train()`` drops the tables.
        """
        self._frozen = None
        expert_N = self.router.choose(self._flat(y_PCD))
        used_E = torch.bincount(expert_N, minlength=self.config.n_experts).double().cpu().numpy()
        density = self.models.density
        median_EZ = (density.medians() * 2**FRACTION_BITS).round().to(torch.int64)
        masses = density.masses(median_EZ / 2**FRACTION_BITS).cpu().numpy()
        levels = [laplacian.table(level) for level in range(laplacian.LEVELS)]
        synthesis = IntegerSynthesis.from_float(self.models.h_s)
        self._install(
            {
                "frozen.step_D": self.log_step_D.detach().exp().cpu(),
                "frozen.median_EZ": median_EZ.cpu(),
                "frozen.expert_E": torch.from_numpy(laplacian.frequencies(used_E.astype(np.float64) + 1)),
                "frozen.z_EZA": torch.from_numpy(laplacian.frequencies(masses)).to(torch.int32),
                "frozen.y": torch.from_numpy(np.concatenate(levels)).to(torch.int32),
                "frozen.shifts": torch.tensor(synthesis.shifts),
                **{f"frozen.{name}": tensor for name, tensor in synthesis.state_dict().items()},
            }
        )

    def train(self, mode: bool = True) -> "TofcCodec":
        """Switch to training, and drop the integer tables that training would belie, or to use."""
        if mode:
            self._frozen = None
        return super().train(mode)

    def _install(self, frozen: Mapping[str, Tensor]) -> None:
        self._frozen = _Frozen.build(self._float_tensors(), frozen, self.config, self.offset_D.device)

    def _float_tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    @property
    def frozen(self) -> "_Frozen":
        """The integer half; raises ValueError before :meth:`freeze`."""
        if self._frozen is None:
            raise ValueError("the codec has no integer tables yet: call freeze() after training, or load a checkpoint")
        return self._frozen

    def compress(self, y_PCD: Tensor, grid: tuple[int, int] | None = None) -> bytes:
        """The stream of one image's merged features, on whatever device the codec is.

        ``grid`` is (n_h, n_w) with n_h n_w + 1 = P; None takes (1, P - 1). A single patch has no grid: its stream says
        (0, 0). Raises ValueError for another P or D, or for features that are not finite or 2**30 steps away from their
        mean.
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

    @torch.no_grad()
    def symbols(self, y_PCD: Tensor) -> tuple[Symbols, Levels]:
        """The integers that :meth:`compress` codes, and the level of each element's scale."""
        frozen = self.frozen
        y_ND = self._flat(y_PCD)
        u_ND = (y_ND - self.offset_D) / frozen.step_D
        if not torch.isfinite(u_ND).all():
            raise ValueError("the merged features hold infinite or undefined values")
        expert_N = self.router.choose(y_ND)
        z_NZ = self.models.z_symbols(u_ND, expert_N, frozen.median_EZ.to(u_ND.dtype) / 2**FRACTION_BITS)
        mu_ND, level_ND = frozen.synthesise(expert_N, z_NZ)
        symbol_ND = (u_ND.double() - mu_ND / 2**FRACTION_BITS).round()
        if symbol_ND.abs().max() > bitstream.SYMBOL_LIMIT:
            raise ValueError("a merged feature lies 2**30 steps or more from its mean: it cannot be coded")
        arrays = (tensor.cpu().numpy() for tensor in (expert_N, z_NZ, symbol_ND.to(torch.int64)))
        return Symbols(*arrays), level_ND.cpu().numpy()

    def decompress(self, stream: bytes) -> Decoded:
        """The features of a stream, float32, the same to the last bit on every machine.

        Raises BitstreamError for anything but a stream of this model.
        """
        frozen = self.frozen
        device = self.offset_D.device
        side = bitstream.read_side_information(stream, frozen.model, frozen.tables)
        mu_ND, level_ND = frozen.synthesise(
            torch.from_numpy(side.expert_N).to(device), torch.from_numpy(side.z_NZ).to(device)
        )
        y_ND, budget = bitstream.read_y(side, frozen.tables, level_ND.cpu().numpy())
        u_ND = torch.from_numpy(y_ND).to(device).double() + mu_ND / 2**FRACTION_BITS
        features_ND = u_ND * frozen.step_D.double() + self.offset_D.detach().double()
        shape = (side.header.n_patches, side.header.n_clusters)
        expert_PC = torch.from_numpy(side.expert_N).view(shape)
        return Decoded(features_ND.float().view(*shape, self.config.dim), expert_PC, side.header.grid, budget)

    def _flat(self, y_PCD: Tensor) -> Tensor:
        return y_PCD.reshape(-1, self.config.dim).float()

    def save(self, path: Path) -> None:
        """Write weights, integer tables, sizes and hash as one safetensors file; raises ValueError before freeze."""
        frozen = self.frozen
        metadata = {"format": FORMAT, "config": self.config.model_dump_json(), "hash": frozen.digest}
        save_file({**self._float_tensors(), **frozen.tensors}, path, metadata)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "cpu") -> "TofcCodec":
        """The codec of a checkpoint, ready to compress and decompress.

        Raises CheckpointError for a file that is absent, damaged, or not a codec.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable codec checkpoint: {error}") from None
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path}: its format is {metadata.get('format')!r}, a codec's is {FORMAT!r}")
        if metadata.get("hash") != _digest(metadata.get("config", ""), tensors):
            raise CheckpointError(f"{path}: its contents do not match its hash: the file is damaged")
        try:
            codec = cls(CodecConfig.model_validate_json(metadata["config"]))
            frozen = {name: tensors.pop(name) for name in list(tensors) if name.startswith("frozen.")}
            codec.load_state_dict(tensors)
            codec.to(device)
            codec._install(frozen)
        except (ValidationError, RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: its tensors are not those of a codec of its sizes: {error}") from None
        return codec.eval()


def find(model: bytes, folder: Path) -> Path | None:
    """The checkpoint below ``folder`` whose hash begins with ``model``, as a stream's header has it; None if none."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            continue
        if metadata.get("format") == FORMAT and metadata.get("hash", "").startswith(model.hex()):
            return path
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Frozen:
    """All that a decoder computes with: integers, and the step that scales the result."""

    model: bytes
    digest: str
    tensors: Mapping[str, Tensor]
    tables: Tables
    synthesis: IntegerSynthesis
    median_EZ: Tensor
    step_D: Tensor

    @classmethod
    def build(
        cls, floats: Mapping[str, Tensor], frozen: Mapping[str, Tensor], config: CodecConfig, device: torch.device
    ) -> "_Frozen":
        sizes = [2 * laplacian.reach(level) + 2 for level in range(laplacian.LEVELS)]
        y_levels = np.split(frozen["frozen.y"].to(torch.int64).numpy(), np.cumsum(sizes)[:-1])
        tables = Tables(frozen["frozen.expert_E"].numpy(), frozen["frozen.z_EZA"].to(torch.int64).numpy(), y_levels)
        shifts = frozen["frozen.shifts"].tolist()
        weights = [frozen[f"frozen.weight_{layer}"] for layer in range(len(shifts))]
        biases = [frozen[f"frozen.bias_{layer}"] for layer in range(len(shifts))]
        digest = _digest(config.model_dump_json(), {**floats, **frozen})
        return cls(
            model=bytes.fromhex(digest)[: bitstream.MODEL_BYTES],
            digest=digest,
            tensors=frozen,
            tables=tables,
            synthesis=IntegerSynthesis(weights, biases, shifts).to(device),
            median_EZ=frozen["frozen.median_EZ"].to(device),
            step_D=frozen["frozen.step_D"].to(device),
        )

    def synthesise(self, expert_N: Tensor, z_NZ: Tensor) -> tuple[Tensor, Tensor]:
        return self.synthesis.forward((z_NZ << FRACTION_BITS) + self.median_EZ[expert_N], expert_N)


def _digest(config: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sizes and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
