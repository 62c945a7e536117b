"""The engine that runs the language model's layers: from prompts of embeddings to tokens.

    B prompts   T prompt tokens   Q tokens that are read   K tokens that they may look at
    H width of the language model   L vocabulary

Other engines than transformers implement the same method, and get the same embeddings.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.models.contract import Clock, Sharing, Untimed

_AT_ONCE = 8
"""The most prompts that are computed together, which bounds their memory."""

_BEYOND_DOUBT = 1e-3
"""The lead of a token, relative to the largest logit, that rounding cannot reverse.

In single precision it moves logits by less than 1e-6 (``benchmarks/bench_answers.py``).
"""

_READ_TOGETHER = ("qwen2", "llama")
"""Models whose attention depends only on the mask."""

_ALL = -1
"""The owner of what all prompts share."""


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

        A prompt is a function; the time of the call counts as ``prefill``.
        """
        ...


class TransformersEngine:
    """The layers of transformers, one prompt at a time, as in the paper; at most ``max_new_tokens`` of an answer.

    If only answers are needed, prompts with a common prefix are computed together: the prefix once, and the rest as a
    batch. Rounding then differs, so a prompt with a token in doubt is computed again on its own: the answers are those
    of one prompt at a time. That is done on a CPU in single precision; in half precision nearly all would be in doubt.
    """

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
        if not self._reads_together(clocks):
            return [self._alone(prompt, clock) for prompt, clock in zip(prompts, clocks, strict=True)]
        found = []
        for begin in range(0, len(prompts), _AT_ONCE):
            made = [prompt() for prompt in prompts[begin : begin + _AT_ONCE]]
            for one, written in zip(made, self._together([prompt.embeds_TH for prompt in made]), strict=True):
                found.append(written or self._alone(functools.partial(Prompt, *one), Untimed()))
        return found

    def _reads_together(self, clocks: Sequence[Clock]) -> bool:
        """Whether prompts may be computed together, with the answers of one at a time."""
        if len(clocks) < 2 or not all(isinstance(clock, Sharing) for clock in clocks):
            return False
        config, weight = self.language.model.config, self.language.lm_head.weight
        return (
            self._masks is None
            and config.model_type in _READ_TOGETHER
            # Where attention is eager a mask is added to the scores, and this one is of booleans.
            and config._attn_implementation == "sdpa"
            and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
            and config.rope_parameters["rope_type"] == "default"
            and weight.dtype == torch.float32
            and weight.device.type == "cpu"
        )

    def _alone(self, prompt: Callable[[], Prompt], clock: Clock) -> Written:
        cache = DynamicCache(config=self.language.model.config)
        with clock.stage("prefill"):
            embeds_TH, pictures = prompt()
            token_11 = self._next_token(embeds_TH[None], cache, self._mask(embeds_TH, pictures))
        with clock.stage("generate"):
            return self._continued(token_11, cache, embeds_TH.shape[0])

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

    def _together(self, prompts_TH: Sequence[Tensor]) -> list[Written | None]:
        """What follows each prompt, computed as a batch after their common prefix; None where a token is in doubt."""
        n_alike = _n_alike(prompts_TH)
        sizes = [len(prompt_TH) for prompt_TH in prompts_TH]
        own = [size - n_alike for size in sizes]
        branches = _Branches(self.language.model, prompts_TH[0][:n_alike])
        hidden_BH = branches.read(
            torch.cat([prompt_TH[n_alike:] for prompt_TH in prompts_TH]),
            torch.arange(len(own)).repeat_interleave(torch.tensor(own)),
            torch.cat([torch.arange(n_alike, size) for size in sizes]),
        )[torch.tensor(own).cumsum(0) - 1]
        found: list[Written | None] = [None] * len(own)
        tokens: list[list[int]] = [[] for _ in own]
        asking = list(range(len(own)))
        while asking:
            going_on = []
            for number, token, is_sure in zip(asking, *_decided(self.language.lm_head(hidden_BH)), strict=True):
                if not is_sure:
                    continue
                ends = token in self.stop
                tokens[number] += [] if ends else [token]
                if ends or len(tokens[number]) == self.max_new_tokens:
                    found[number] = Written(tokens[number], sizes[number], len(tokens[number]) + ends)
                else:
                    going_on.append(number)
            asking = going_on
            if asking:
                hidden_BH = branches.read(
                    self.language.model.embed_tokens(torch.tensor([tokens[number][-1] for number in asking])),
                    torch.tensor(asking),
                    torch.tensor([sizes[number] + len(tokens[number]) - 1 for number in asking]),
                )
        return found


class _Branches:
    """Prompts with a common prefix, in one cache: the prefix, then each prompt's own tokens, in any order."""

    def __init__(self, model: Any, shared_TH: Tensor) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._owner_K = torch.full((len(shared_TH),), _ALL)
        self._position_K = torch.arange(len(shared_TH))
        if len(shared_TH):
            model(inputs_embeds=shared_TH[None], past_key_values=self._cache, use_cache=True)

    def read(self, embeds_QH: Tensor, owner_Q: Tensor, position_Q: Tensor) -> Tensor:
        """The last hidden states (Q, H) of more tokens, each of the prompt ``owner_Q`` at ``position_Q`` in it.

        A token looks at what is shared, and at its own prompt up to itself.
        """
        self._owner_K = torch.cat([self._owner_K, owner_Q])
        self._position_K = torch.cat([self._position_K, position_Q])
        is_earlier_QK = self._position_K <= position_Q[:, None]
        is_seen_QK = is_earlier_QK & ((self._owner_K == _ALL) | (self._owner_K == owner_Q[:, None]))
        hidden_1QH: Tensor = self._model(
            inputs_embeds=embeds_QH[None],
            attention_mask=is_seen_QK[None, None],
            position_ids=position_Q[None],
            past_key_values=self._cache,
            use_cache=True,
        )[0]
        return hidden_1QH[0]


def _n_alike(prompts_TH: Sequence[Tensor]) -> int:
    """The length of the prompts' common prefix, equal to the bit; each keeps at least one token of its own."""
    n_alike = min(map(len, prompts_TH)) - 1
    for one_TH, other_TH in itertools.pairwise(prompts_TH):
        differs_T = (one_TH[:n_alike] != other_TH[:n_alike]).any(-1)
        n_alike = int(differs_T.int().argmax()) if differs_T.any() else n_alike
    return n_alike


def _decided(logits_BL: Tensor) -> tuple[list[int], list[bool]]:
    """The most probable token of each row, and whether it leads by more than rounding."""
    top = logits_BL.topk(2)
    lead_B = top.values[:, 0] - top.values[:, 1]
    return top.indices[:, 0].tolist(), (lead_B > _BEYOND_DOUBT * logits_BL.abs().amax(-1)).tolist()
