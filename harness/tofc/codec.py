"""The TOFC codec: merged features to bytes and back, and the differentiable stand-in of both for training.

P patches   C clusters   N = P C merged features   D dimension   E entropy models   Z channels of z
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.errors import FeaturesError
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Budget, ModelTables, SideInformation, Symbols
from harness.tofc.entropy_model import Z_RATIO, EntropyModels
from harness.tofc.feature_codec import Coded, FeatureCodec, FrozenCodec, scale_of
from harness.tofc.integer_transforms import FRACTION_BITS, IntegerAnalysis, IntegerSynthesis
from harness.tofc.level_order import Levels
from harness.tofc.router import Router

FORMAT = "tofc-codec-3"

Width = Annotated[int, Field(ge=1, le=2**16)]
"""Of a hidden layer."""

_ANALYSIS, _SYNTHESIS = "h_a.", "h_s."


class CodecConfig(BaseModel):
    """The sizes of a codec: ``dim`` is d_v, ``n_experts`` n_e; hidden widths default to (D, D/2), see entropy_model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(ge=Z_RATIO, le=4096, multiple_of=Z_RATIO)
    n_experts: int = Field(default=16, ge=1, le=64)
    hidden: tuple[Width, ...] = Field(default=(), max_length=4)

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden widths of h_a; h_s has them in reverse."""
        return self.hidden or (self.dim, self.dim // 2)


class TofcCodec(FeatureCodec):
    """Entropy models, router and quantiser's step; after :meth:`freeze`, also the integer tables that streams rest on.

    The step is an addition to the paper, where LoRA on the vision encoder brings the features to the scale at which
    rounding to integers is right: here y is rounded in units of a learned ``step_D``, after taking off ``offset_D``.
    """

    FORMAT: ClassVar[str] = FORMAT
    Config: ClassVar[type[BaseModel]] = CodecConfig
    NETWORKS: ClassVar[tuple[str, ...]] = ("models.",)

    config: CodecConfig

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.offset_D = nn.Parameter(torch.zeros(config.dim))
        self.log_step_D = nn.Parameter(torch.zeros(config.dim))
        self.models = EntropyModels(config.n_experts, config.dim, config.widths)
        self.router = Router(config.dim, config.n_experts)

    @torch.no_grad()
    def fit_scale(self, y_PCD: Tensor, steps_per_deviation: float = 2.0) -> None:
        """Start offset and step from data: zero mean, and a standard deviation of ``steps_per_deviation`` steps."""
        y_ND = self._flat(y_PCD)
        self.router.fit_scale(y_ND)
        offset_D, log_step_D = scale_of(y_ND, steps_per_deviation)
        self.offset_D.copy_(offset_D)
        self.log_step_D.copy_(log_step_D)

    def scale_parameters(self) -> list[nn.Parameter]:
        """Offset and step."""
        return [self.offset_D, self.log_step_D]

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
        return Coded(y_bar_ND.view(y_PCD.shape).to(y_PCD.dtype), bits_N, w_NE)

    def derive(self, y_ND: Tensor) -> dict[str, Tensor]:
        """The tables of the entropy models, of z and of y, and h_a and h_s in integers."""
        expert_N = self.router.choose(y_ND)
        used_E = torch.bincount(expert_N, minlength=self.config.n_experts).double().cpu().numpy()
        density = self.models.density
        masses = density.masses(density.medians()).cpu().numpy()
        levels = [laplacian.table(level) for level in range(laplacian.LEVELS)]
        return {
            "step_D": self.log_step_D.detach().exp(),
            "expert_E": torch.from_numpy(laplacian.frequencies(used_E.astype(np.float64) + 1)),
            "z_EZA": torch.from_numpy(laplacian.frequencies(masses)).to(torch.int32),
            "y": torch.from_numpy(np.concatenate(levels)).to(torch.int32),
            **{_ANALYSIS + name: tensor for name, tensor in IntegerAnalysis.derive(self.models).items()},
            **{_SYNTHESIS + name: tensor for name, tensor in IntegerSynthesis.derive(self.models).items()},
        }

    def thaw(self, digest: str, tensors: Mapping[str, Tensor]) -> "_Frozen":
        """The integer tables, h_a and h_s, on the codec's device."""
        return _Frozen.build(digest, tensors, self.config, self.device)

    @torch.no_grad()
    def symbols(self, y_PCD: Tensor) -> tuple[Symbols, Levels]:
        """The integers that :meth:`compress` codes, and the level of each element's scale."""
        frozen = self.frozen
        y_ND = self._flat(y_PCD)
        u_ND = (y_ND - self.offset_D) / frozen.step_D
        expert_N = self.router.choose(y_ND)
        z_NZ = frozen.analysis(u_ND, expert_N)
        mu_ND, level_ND = frozen.synthesis(z_NZ, expert_N)
        symbol_ND = (u_ND.double() - mu_ND.double() / 2**FRACTION_BITS).round()
        if not symbol_ND.abs().max() <= bitstream.SYMBOL_LIMIT:
            if not torch.isfinite(u_ND).all():
                raise FeaturesError("the merged features hold infinite or undefined values")
            raise FeaturesError("a merged feature lies 2**30 steps or more from its mean: it cannot be coded")
        expert_np, z_np, y_np = (tensor.cpu().numpy() for tensor in (expert_N, z_NZ, symbol_ND.to(torch.int64)))
        return Symbols(expert_np, z_np, y_np), level_ND.cpu().numpy()

    def features(self, side: SideInformation) -> tuple[Tensor, Budget]:
        """The symbols of y under the scales that z gives, and its means, in units of the step."""
        frozen = self.frozen
        device = self.device
        z_NZ, expert_N = torch.from_numpy(side.z_NZ).to(device), torch.from_numpy(side.expert_N).to(device)
        mu_ND, level_ND = frozen.synthesis(z_NZ, expert_N)
        y_ND, budget = bitstream.read_y(side, frozen.tables, level_ND.cpu().numpy())
        u_ND = torch.from_numpy(y_ND).to(device).double() + mu_ND.double() / 2**FRACTION_BITS
        return (u_ND * frozen.step_D.double() + self.offset_D.detach().double()).float(), budget


@dataclasses.dataclass(frozen=True, slots=True)
class _Frozen(FrozenCodec):
    """Integers, and the step that scales the result."""

    analysis: IntegerAnalysis
    synthesis: IntegerSynthesis
    step_D: Tensor

    @classmethod
    def build(cls, digest: str, frozen: Mapping[str, Tensor], config: CodecConfig, device: torch.device) -> "_Frozen":
        y_levels = laplacian.split(frozen["frozen.y"].to(torch.int64).numpy())
        tables = ModelTables(
            frozen["frozen.expert_E"].numpy(), frozen["frozen.z_EZA"].to(torch.int64).numpy(), y_levels
        )
        analysis = IntegerAnalysis(_network(frozen, _ANALYSIS), device)
        synthesis = IntegerSynthesis(_network(frozen, _SYNTHESIS), device)
        sizes = (config.n_experts, config.dim, tables.n_channels, 2 * config.dim)
        found = (*analysis.layers.shape, *synthesis.layers.shape)
        if tables.n_experts != config.n_experts or found != (*sizes[:3], *sizes[:1], *sizes[2:]):
            raise ValueError(f"h_a and h_s of shapes {found} do not fit tables and sizes of {sizes}")
        return cls(
            digest=digest,
            tensors=frozen,
            tables=tables,
            analysis=analysis,
            synthesis=synthesis,
            step_D=frozen["frozen.step_D"].to(device),
        )


def _network(frozen: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"frozen.{part}"
    return {name.removeprefix(prefix): tensor for name, tensor in frozen.items() if name.startswith(prefix)}
