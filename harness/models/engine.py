"""What runs the language model's layers: prompts of embeddings in, tokens out.

    T prompt tokens   H width of the language model   L vocabulary

Another engine than transformers stands behind the same method: it is given the same embeddings.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.models.contract import Clock


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """The tokens of an answer without the one that ends it; how many were read, and written with that one."""

    answer_ids: list[int]
    n_prompt: int
    n_written: int


class Engine(Protocol):
    """Decodes greedily from embeddings."""

    def answer(self, prompts: Sequence[Callable[[], Tensor]], clocks: Sequence[Clock]) -> list[Written]:
        """The tokens that follow each prompt (T, H); times ``prefill`` and ``generate`` on the prompt's clock.

        A prompt is made when it is called, which belongs to ``prefill``.
        """
        ...


class TransformersEngine:
    """The layers of transformers, one prompt at a time, as in the paper; at most ``max_new_tokens`` of an answer."""

    def __init__(self, language: Any, *, stop: Collection[int], max_new_tokens: int = 16) -> None:
        self.language = language
        self.stop = stop
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Callable[[], Tensor]], clocks: Sequence[Clock]) -> list[Written]:
        """Those of transformers' ``generate(do_sample=False)``."""
        found = []
        for prompt, clock in zip(prompts, clocks, strict=True):
            cache = DynamicCache(config=self.language.model.config)
            with clock.stage("prefill"):
                embeds_TH = prompt()
                token_11 = self._next_token(embeds_TH[None], cache)
            with clock.stage("generate"):
                found.append(self._continued(token_11, cache, embeds_TH.shape[0]))
        return found

    def _continued(self, token_11: Tensor, cache: Any, n_prompt: int) -> Written:
        tokens: list[int] = []
        while (token := int(token_11)) not in self.stop:
            tokens.append(token)
            if len(tokens) == self.max_new_tokens:
                return Written(tokens, n_prompt, len(tokens))
            token_11 = self._next_token(self.language.model.embed_tokens(token_11), cache)
        return Written(tokens, n_prompt, len(tokens) + 1)

    def _next_token(self, embeds_1TH: Tensor, cache: Any) -> Tensor:
        """The most probable token (1, 1) after these embeddings; only the last position goes through the head."""
        hidden_1TH = self.language.model(inputs_embeds=embeds_1TH, past_key_values=cache, use_cache=True)[0]
        logits_11L: Tensor = self.language.lm_head(hidden_1TH[:, -1:])
        return logits_11L.argmax(dim=-1)
