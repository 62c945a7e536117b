"""The arithmetic of what the full size costs, against the caches that the models fill."""

from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import pytest
import torch
from transformers import DynamicCache

from harness import catalog
from tools.costs import kept_bytes_of


@pytest.mark.parametrize("name", ["llava-onevision-0.5b", "llava-1.5-7b", "internvl3-2b", "gemma-3-4b", "gemma-3-27b"])
def test_keys_and_values_are_those_of_the_cache(name: str) -> None:
    """A token's bytes are those that the language model itself keeps of it."""
    models = catalog.load("backbone", name, catalog.BACKBONES)(name, weights="random", device="meta", dtype="bfloat16")
    model, n_tokens = models.language()._engine.language.model, 5
    cache: Any = DynamicCache(config=model.config)
    embeds_1TH = torch.empty(1, n_tokens, model.config.hidden_size, device="meta", dtype=torch.bfloat16)
    with torch.no_grad():
        model(inputs_embeds=embeds_1TH, past_key_values=cache, use_cache=True)
    kept = sum(2 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers)
    assert kept_bytes_of(model.config) * n_tokens == kept
