"""The work of a backbone's stages at full size, counted on the meta device; and that of models with published times.

P patches   V features a patch   C features a patch that are kept   D feature dimension
T tokens of the prompt   H width of the language model
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from harness import catalog
from harness.errors import ScenarioError
from harness.estimates.counting import META, counted
from harness.estimates.roofline import Count
from harness.models.contract import Layout, Models, Tiles
from harness.models.loading import RANDOM

_HALF = torch.bfloat16
_BF16_BITS = 16


class CountedBackbone:
    """A model of the catalog on the meta device, in 16 bits: what each of its stages computes.

    Raises ScenarioError for a model that is not in the catalog's own table.
    """

    def __init__(self, name: str) -> None:
        if name not in catalog.BACKBONES:
            known = ", ".join(catalog.BACKBONES)
            raise ScenarioError(f"the work of backbone {name} cannot be counted; that of these can be: {known}")
        load = catalog.load("backbone", name, catalog.BACKBONES)
        self._models: Models = load(name, weights=RANDOM, device="meta", dtype="bfloat16")
        self._vision: Any = self._models.vision()
        self._language: Any = self._models.language()
        self.name = name
        self.dim: int = self._vision.feature_dim
        self.n_features: int = self._vision.n_features
        """V."""

    def layout(self, width: int, height: int) -> Layout:
        """Where the features of a picture belong."""
        return Layout(self._vision.tiling.grid(height, width), (height, width))

    def patches(self, width: int, height: int) -> int:
        """P."""
        found: int = self._vision.tiling.n_patches(*self.layout(width, height).grid)
        return found

    def seen_pixels(self, width: int, height: int) -> int:
        """The pixels of all patches, which preprocessing makes."""
        return self.patches(width, height) * int(self._vision.tiling.patch) ** 2

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a backbone is kept as long as the process
    def vision(self, width: int, height: int) -> Count:
        """The vision tower on all patches of a picture."""
        side = self._vision.tiling.patch
        pixels_PCHW = torch.empty(self.patches(width, height), 3, side, side, device=META)
        tiles = Tiles(pixels_PCHW, self.layout(width, height))
        return counted(lambda: self._vision.encode(tiles))

    def project(self, n_features: int) -> Count:
        """The projector on so many features."""
        y_PCD = torch.empty(1, n_features, self.dim, device=META, dtype=_HALF)
        return counted(lambda: self._language.project(y_PCD))

    def all_tokens(self, width: int, height: int) -> int:
        """The visual tokens of an unmerged picture, as the model arranges them."""
        x_PVD = torch.empty(self.patches(width, height), self.n_features, self.dim, device=META, dtype=_HALF)
        return int(self._language.project_all(x_PVD, self.layout(width, height)).shape[0])

    def prefill(self, n_tokens: int) -> Count:
        """The language model reads a prompt; the head sees its last position."""
        return _reads(self._language._engine.language, n_tokens)

    def generate(self, n_tokens: int, n_written: int) -> Count:
        """What follows the prompt's first token: the others of an answer, the one that ends it included."""
        steps = max(0, n_written - 1)
        if not steps:
            return Count()
        language = self._language._engine.language
        # Attention grows with every token, evenly: the first and the last step stand for all.
        first, last = (_reads(language, 1, n_tokens + done) for done in (0, steps - 1))
        return (first + last) * (steps / 2)


def merging(n_patches: int, n_features: int, dim: int) -> Count:
    """Density peaks on all features of each patch: their product, and the distances read four times in float32.

    Sorting and the mean of the clusters are not counted.
    """
    distances = n_patches * n_features**2
    return Count(2.0 * distances * dim, 4.0 * 4 * distances + 4.0 * n_patches * n_features * dim)


def entropy_networks(n_features: int, dim: int, n_experts: int, *, decoding: bool = False) -> Count:
    """Router, h_a and h_s of the paper's codec on so many merged features, each under one of the entropy models.

    A decoder reads indices and z from the stream, and so runs h_s alone.
    """
    from harness.tofc.codec import CodecConfig
    from harness.tofc.entropy_model import EntropyModels
    from harness.tofc.router import Router

    widths = CodecConfig(dim=dim, n_experts=n_experts).widths
    at_once = min(n_experts, n_features)
    with META:
        models, router = EntropyModels(at_once, dim, widths), Router(dim, n_experts)
        u_END = torch.empty(at_once, -(-n_features // at_once), dim)
        z_ENZ = models.h_a(u_END)

    def work() -> None:
        if decoding:
            models.h_s(z_ENZ)
            return
        if n_experts > 1:
            router.layers(u_END.flatten(0, 1)[:n_features])
        models.h_s(models.h_a(u_END))

    return counted(work)


def published_model(model: Mapping[str, Any], tokens: int, *, kind: str, weight_bits: float) -> Count:
    """The work of a model with a published time: ``tokens`` of a prompt read, or one written after as many.

    Layers are alike, so counts of one and of two layers give those of any number.
    """
    one, two = (
        _of_layers({**model, "num_hidden_layers": n}, tokens, kind=kind, weight_bits=weight_bits) for n in (1, 2)
    )
    return one + (two + one * -1.0) * (int(model["num_hidden_layers"]) - 1)


def _of_layers(model: Mapping[str, Any], tokens: int, *, kind: str, weight_bits: float) -> Count:
    shape = dict(model)
    if shape.pop("type") == "tower":
        return _tower(shape, tokens)
    language = _language(tuple(sorted(model.items())))
    count = _reads(language, tokens) if kind == "prefill" else _reads(language, 1, tokens)
    linear = sum(m.weight.numel() for m in language.model.modules() if isinstance(m, nn.Linear))
    return Count(count.operations, count.n_bytes - linear * (_BF16_BITS - weight_bits) / 8)


def _reads(language: Any, n_tokens: int, n_before: int = 0) -> Count:
    """A language model and its head on ``n_tokens`` embeddings after ``n_before`` that it has read."""
    from transformers import DynamicCache

    cache = DynamicCache(config=language.model.config)
    width = language.model.config.hidden_size

    def step(n: int) -> None:
        embeds_1TH = torch.empty(1, n, width, device=META, dtype=_HALF)
        hidden = language.model(inputs_embeds=embeds_1TH, past_key_values=cache, use_cache=True)[0]
        language.lm_head(hidden[:, -1:])

    if n_before:
        with torch.no_grad():
            step(n_before)
    return counted(lambda: step(n_tokens))


@functools.lru_cache(maxsize=32)
def _language(shape: tuple[tuple[str, Any], ...]) -> Any:
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(shape)
    config: Any = AutoConfig.for_model(given.pop("type"), **given)
    auto: Any = AutoModelForCausalLM
    with META:
        return auto.from_config(config, attn_implementation="sdpa", dtype=_HALF).eval()


def _tower(shape: dict[str, Any], tokens: int) -> Count:
    """A vision transformer's layers on the four positions of each token, and the mergers after it."""
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
    from transformers import SiglipVisionConfig, SiglipVisionModel

    out, mergers = shape.pop("out"), shape.pop("mergers")
    family: Any = SiglipVisionModel
    with META:
        tower = family._from_config(
            SiglipVisionConfig(**shape, vision_use_head=False), attn_implementation="sdpa", dtype=_HALF
        ).eval()
        merged = 4 * shape["hidden_size"]
        merger = nn.Sequential(nn.Linear(merged, merged, dtype=_HALF), nn.Linear(merged, out, dtype=_HALF))
        x_1SD = torch.empty(1, 4 * tokens, shape["hidden_size"], dtype=_HALF)
    layers: Sequence[Any] = getattr(tower, "vision_model", tower).encoder.layers

    def work() -> None:
        hidden = x_1SD
        for layer in layers:
            seen = layer(hidden, attention_mask=None)
            hidden = seen[0] if isinstance(seen, tuple) else seen
        for _ in range(mergers):
            merger(hidden.reshape(tokens, merged))

    return counted(work)
