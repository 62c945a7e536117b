"""What runs the language model's layers: prompts of embeddings in, tokens out.

    T prompt tokens   H width of the language model   L vocabulary

Another engine than transformers stands behind the same method: it is given the same embeddings.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

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


class Prompt(NamedTuple):
    """A prompt's embeddings (T, H), and of each picture in it where its visual tokens begin and end."""

    embeds_TH: Tensor
    pictures: tuple[tuple[int, int], ...] = ()


Masks = Callable[[Any, int, Sequence[tuple[int, int]], torch.device], Any]
"""What a language model takes as ``attention_mask`` of a prompt where it is more than causal: made from the model's
config, T, the prompt's ``pictures`` and the device."""


class Engine(Protocol):
    """Decodes greedily from embeddings."""

    def answer(self, prompts: Sequence[Callable[[], Prompt]], clocks: Sequence[Clock]) -> list[Written]:
        """The tokens that follow each prompt; times ``prefill`` and ``generate`` on the prompt's clock.

        A prompt is made when it is called, which belongs to ``prefill``.
        """
        ...


class TransformersEngine:
    """The layers of transformers, one prompt at a time, as in the paper; at most ``max_new_tokens`` of an answer."""

    def __init__(
        self, language: Any, *, stop: Collection[int], max_new_tokens: int = 16, masks: Masks | None = None
    ) -> None:
        self.language = language
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        self._masks = masks

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Callable[[], Prompt]], clocks: Sequence[Clock]) -> list[Written]:
        """Those of transformers' ``generate(do_sample=False)``."""
        found = []
        for prompt, clock in zip(prompts, clocks, strict=True):
            cache = DynamicCache(config=self.language.model.config)
            with clock.stage("prefill"):
                embeds_TH, pictures = prompt()
                token_11 = self._next_token(embeds_TH[None], cache, self._mask(embeds_TH, pictures))
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

    def _mask(self, embeds_TH: Tensor, pictures: Sequence[tuple[int, int]]) -> Any:
        if self._masks is None:
            return None
        return self._masks(self.language.model.config, len(embeds_TH), pictures, embeds_TH.device)

    def _next_token(self, embeds_1TH: Tensor, cache: Any, mask: Any = None) -> Tensor:
        """The most probable token (1, 1) after these embeddings; only the last position goes through the head."""
        hidden_1TH = self.language.model(
            inputs_embeds=embeds_1TH, attention_mask=mask, past_key_values=cache, use_cache=True
        )[0]
        logits_11L: Tensor = self.language.lm_head(hidden_1TH[:, -1:])
        return logits_11L.argmax(dim=-1)
