"""Q-Former (Table I; Li et al., "BLIP-2"): learnable queries extract features by attention to a patch's own.

P patches   V features a patch   C features that are made   D dimension   H width of the Q-Former
"""

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from baselines.ablations.trained import LearnedReducer, read
from harness.errors import CheckpointError, FeaturesError
from harness.models.contract import Attention


class QFormerConfig(BaseModel):
    """Sizes; ``width`` is H. The paper's has 16 queries, the miniature as many as its largest n_c."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(ge=1, le=4096)
    queries: int = Field(default=16, ge=1, le=1024)
    width: int = Field(default=768, ge=8, le=4096)
    layers: int = Field(default=2, ge=1, le=48)
    heads: int = Field(default=12, ge=1, le=64)


class QFormer(LearnedReducer):
    """The Blip2QFormerModel of transformers, with queries and with a map from its width to the features' dimension.

    Its output is normalised, so the map also carries the features' mean and spread, which :meth:`fit_scale`
    initialises.
    """

    attended = False

    config: QFormerConfig

    def __init__(self, config: QFormerConfig) -> None:
        # Imported late: transformers is slow to import, and a scenario is checked without it.
        import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__()
        self.config = config
        self.queries_CH = nn.Parameter(0.5 * torch.randn(config.queries, config.width))
        inner = Blip2QFormerConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=2 * config.width,
            encoder_hidden_size=config.dim,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            use_qformer_text_input=False,
        )
        family: Any = Blip2QFormerModel
        self.inner = family._from_config(inner, attn_implementation="eager")
        self.features = nn.Linear(config.width, config.dim)
        self.register_buffer("mean_D", torch.zeros(config.dim))
        self.register_buffer("scale_D", torch.ones(config.dim))

    @torch.no_grad()
    def fit_scale(self, x_NVD: Tensor) -> None:
        """Normalise inputs by these features' mean and deviation, and start with outputs of about the same."""
        x_MD = x_NVD.flatten(0, -2).float()
        self.get_buffer("mean_D").copy_(x_MD.mean(0))
        self.get_buffer("scale_D").copy_(x_MD.std(0).clamp(min=1e-6))
        self.features.weight.normal_(std=self.config.width**-0.5)
        self.features.bias.zero_()

    def __call__(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:
        """The features of the first ``n_clusters`` queries; raises FeaturesError where there are fewer queries."""
        y_PCD: Tensor = super().__call__(x_PVD, n_clusters, attention)
        return y_PCD

    def forward(self, x_PVD: Tensor, n_clusters: int, attention: Attention | None = None) -> Tensor:  # noqa: ARG002
        """The features of each query, at the dtype of ``x_PVD``."""
        if not 1 <= n_clusters <= self.config.queries:
            raise FeaturesError(
                f"{n_clusters} features cannot be made of a patch; the Q-Former has {self.config.queries} queries"
            )
        mean_D, scale_D = self.get_buffer("mean_D"), self.get_buffer("scale_D")
        queries_PCH = self.queries_CH[:n_clusters].expand(len(x_PVD), -1, -1)
        seen_PVD = (x_PVD.to(mean_D.dtype) - mean_D) / scale_D
        hidden_PCH = self.inner(query_embeds=queries_PCH, encoder_hidden_states=seen_PVD).last_hidden_state
        y_PCD: Tensor = self.features(hidden_PCH) * scale_D + mean_D
        return y_PCD.to(x_PVD.dtype)

    @classmethod
    def load(cls, path: Path, device: str | torch.device) -> Self:
        """The Q-Former of a file; raises CheckpointError where it is absent, damaged or of other sizes."""
        weights, config = read(path)
        try:
            found = cls(QFormerConfig.model_validate_json(config))
            found.load_state_dict(dict(weights))
        except (ValidationError, RuntimeError) as error:
            raise CheckpointError(f"{path}: its tensors are not those of a Q-Former of its sizes: {error}") from None
        return found.to(device).eval().requires_grad_(False)
