"""What differs between families of models, and the modules of a model's parts.

    P patches   V features a patch   D feature dimension   T visual tokens   H width of the language model

A model is a vision tower, a projector and a language model that reads visual tokens, as LLaVA's are. The modules are
transformers' own; a family says how they are built, where the model is cut, and how its language model is asked.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models.contract import Layout, Part
from harness.models.engine import Masks
from harness.models.prompts import Template
from harness.models.tiling import AnyTiling
from harness.models.tower import Cut


def in_order(config: Any, tokens_PVH: Tensor, newline_H: Tensor | None, layout: Layout) -> Tensor:  # noqa: ARG001
    """Projected tokens, patch after patch: (P * V, H)."""
    return tokens_PVH.flatten(0, 1)


def through_layers(projector: Any, x_PVD: Tensor) -> Tensor:
    """Features through the whole projector, at its dtype."""
    tokens_PVH: Tensor = projector(x_PVD.to(projector.linear_1.weight.dtype))
    return tokens_PVH


def plain_embedding(text_config: Any) -> nn.Module:
    """A table of the vocabulary's embeddings."""
    return nn.Embedding(text_config.vocab_size, text_config.hidden_size)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one class in transformers, and what is specific to them.

    ``full_size`` gives the architecture of a published name without the hub; it raises CheckpointError for others.
    ``cut`` says which states of the tower are features; ``tiling`` how an image is cut into patches; both raise
    CheckpointError for a config that this harness does not run. ``projector`` builds transformers' module from a
    config, and ``through`` takes features to tokens (P, V, H) with it. ``arranged`` lays all of an image's tokens
    (P, V, H) out as the language model reads them, (T, H). Both are differentiable. ``masks`` are of a language model
    whose attention is more than causal. ``processor`` is what a checkpoint's preprocessor_config.json has to say where
    it says anything.
    """

    config_class: Any
    model_class: Any
    template: Template
    full_size: Callable[[str], Any]
    cut: Callable[[Any], Cut]
    tiling: Callable[[Any], AnyTiling]
    projector: Callable[[Any], nn.Module]
    through: Callable[[Any, Tensor], Tensor] = through_layers
    has_newline: bool = False
    arranged: Callable[[Any, Tensor, Tensor | None, Layout], Tensor] = in_order
    embedding: Callable[[Any], nn.Module] = plain_embedding
    masks: Masks | None = None
    processor: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def llava_cut(tower: str, strategy: str, config: Any) -> Cut:
    """LLaVA's features: the states of one layer, one for each position, before any norm at the tower's end.

    Raises CheckpointError for a tower of another type, for which pictures would have to be normalised otherwise, and
    for another ``strategy``: it would keep the class token that this tower has, or drop a position.
    """
    vision = config.vision_config
    if vision.model_type != tower:
        raise CheckpointError(
            f"vision_config.model_type is {vision.model_type!r}; {tower!r} is expected, for which pixels are normalised"
        )
    if (found := config.vision_feature_select_strategy) != strategy:
        raise CheckpointError(
            f"vision_feature_select_strategy is {found!r}; {strategy!r} is expected, with which each position has a "
            f"feature in {tower}"
        )
    return Cut(
        n_features=(vision.image_size // vision.patch_size) ** 2,
        feature_dim=vision.hidden_size,
        layer=config.vision_feature_layer,
        drops_class=strategy == "default",
    )


class Projector(nn.Module):
    """The projector and, where the model has one, the token that closes a row of features."""

    def __init__(self, multi_modal_projector: nn.Module, image_newline: nn.Parameter | None = None) -> None:
        super().__init__()
        self.multi_modal_projector = multi_modal_projector
        self.image_newline = image_newline


class Language(nn.Module):
    """The language model and its head; ``tied`` where the head shares the embedding's weights."""

    def __init__(self, model: Any, lm_head: nn.Linear, *, tied: bool) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head
        self.tied = tied


def whole_parts(model: Any) -> dict[Part, nn.Module]:
    """The parts of a whole model of transformers, as modules that share its weights."""
    body = model.model
    return {
        "tower": body.vision_tower,
        "projector": Projector(body.multi_modal_projector, getattr(body, "image_newline", None)),
        "language": Language(body.language_model, model.lm_head, tied=bool(model.config.tie_word_embeddings)),
    }


def newline_of(width: int) -> nn.Parameter:
    """A random token that closes a row of features."""
    return nn.Parameter(torch.randn(width) * width**-0.5)
