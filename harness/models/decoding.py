"""Greedy decoding in two steps that are timed apart: reading the prompt, and writing the answer.

    T prompt tokens   H width of the language model   L vocabulary

One request at a time, as in the paper.
"""

from collections.abc import Collection
from typing import Any

import torch

from harness.models.contract import Prefilled


def prefill(model: Any, embeds_TH: torch.Tensor, cache: Any) -> Prefilled:
    """Reads a prompt of embeddings into an empty ``cache``; ``model`` is a LLaVA of transformers."""
    return Prefilled(_next_token(model, embeds_TH[None], cache), cache, embeds_TH.shape[0])


def continued(model: Any, prefilled: Prefilled, stop_ids: Collection[int], max_new_tokens: int) -> list[int]:
    """The answer's tokens, without the one that stops it: those of transformers' ``generate(do_sample=False)``."""
    embed = model.get_input_embeddings()
    token_11 = prefilled.first_token
    tokens: list[int] = []
    while (token := int(token_11)) not in stop_ids:
        tokens.append(token)
        if len(tokens) == max_new_tokens:
            break
        token_11 = _next_token(model, embed(token_11), prefilled.cache)
        prefilled.length += 1
    return tokens


def _next_token(model: Any, embeds_1TH: torch.Tensor, cache: Any) -> torch.Tensor:
    """The most probable token (1, 1) after these embeddings; only the last position goes through the vocabulary."""
    hidden_1TH = model.model.language_model(inputs_embeds=embeds_1TH, past_key_values=cache, use_cache=True)[0]
    logits_11L: torch.Tensor = model.lm_head(hidden_1TH[:, -1:])
    return logits_11L.argmax(dim=-1)
