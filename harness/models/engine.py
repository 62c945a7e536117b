"""The engine that runs the language model's layers: from prompts of embeddings to tokens.

    B prompts   G groups of prompts   T prompt tokens   Q tokens that are read   K tokens that they may look at
    H width of the language model   L vocabulary

Other engines than transformers implement the same method, and get the same embeddings.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.errors import CheckpointError
from harness.models.contract import Clock, Sharing, Untimed

_AT_ONCE = 8
"""The most prompts about the same pictures that are computed together."""

_TOKENS_AT_ONCE = 4096
"""The most tokens of several groups of prompts that are computed together."""

_TOKENS_MADE = 8 * _TOKENS_AT_ONCE
"""No more prompts are made while those that wait have this many tokens: it bounds their memory."""

_PADDED = 1.5
"""Groups are computed together if the longest has at most this many times the tokens of the shortest."""

_BEYOND_DOUBT = 1e-3
"""The lead of a token, relative to the largest logit, that rounding cannot reverse.

In single precision it moves logits by less than 1e-6 (``benchmarks/bench_answers.py``).
"""

_READ_TOGETHER = ("qwen2", "llama")
"""Models whose attention depends only on the mask."""

_ALL, _NOBODY = -1, -2
"""The owners of what all prompts of a group share, and of the padding behind a shorter group."""


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

    If only answers are needed, prompts about the same pictures are computed together: their common prefix once, and the
    rest as a batch. Several such groups are a larger batch. Rounding then differs, so a prompt with a token in doubt is
    computed again on its own: the answers are those of one prompt at a time. That is done on a CPU in single precision;
    in half precision nearly all would be in doubt.
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
        """Those of transformers' ``generate(do_sample=False)``.

        Raises CheckpointError for logits that are infinite or no numbers (NaN); they are looked at only where nothing
        is timed.
        """
        if not self._reads_together(clocks):
            return [self._alone(prompt, clock) for prompt, clock in zip(prompts, clocks, strict=True)]
        return [written for made in _made(prompts) for written in self._answered(made)]

    def _answered(self, made: Sequence[Prompt]) -> list[Written]:
        """What follows each prompt: together where that decides it, and alone where it does not."""
        found: dict[int, Written] = {}
        for groups in _batches(made):
            together = self._together([[made[place].embeds_TH for place in group] for group in groups])
            for place, written in zip(itertools.chain(*groups), together, strict=True):
                found[place] = written or self._alone(functools.partial(Prompt, *made[place]), Untimed())
        return [found[place] for place in range(len(made))]

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
        is_timed = not isinstance(clock, Untimed)
        with clock.stage("prefill"):
            embeds_TH, pictures = prompt()
            mask = self._mask(embeds_TH, pictures)
            token_11 = self._next_token(embeds_TH[None], cache, mask, is_timed=is_timed)
        with clock.stage("generate"):
            return self._continued(token_11, cache, embeds_TH.shape[0], is_timed=is_timed)

    def _continued(self, token_11: Tensor, cache: Any, n_prompt: int, *, is_timed: bool) -> Written:
        tokens: list[int] = []
        while (token := int(token_11)) not in self.stop:
            tokens.append(token)
            if len(tokens) == self.max_new_tokens:
                return Written(tokens, n_prompt, len(tokens))
            token_11 = self._next_token(self.language.model.embed_tokens(token_11), cache, is_timed=is_timed)
        return Written(tokens, n_prompt, len(tokens) + 1)

    def _mask(self, embeds_TH: Tensor, pictures: Sequence[tuple[int, int]]) -> Any:
        if self._masks is None:
            return None
        return self._masks(self.language.model.config, len(embeds_TH), pictures, embeds_TH.device)

    def _next_token(self, embeds_1TH: Tensor, cache: Any, mask: Any = None, *, is_timed: bool) -> Tensor:
        """The most probable token (1, 1) after these embeddings; only the last position goes through the head."""
        hidden_1TH = self.language.model(
            inputs_embeds=embeds_1TH, attention_mask=mask, past_key_values=cache, use_cache=True
        )[0]
        logits_11L: Tensor = self.language.lm_head(hidden_1TH[:, -1:])
        # NaN is its array's greatest value. An argmax would be some token, and the answer a text like any other.
        if not is_timed and not math.isfinite(logits_11L.max()):
            raise CheckpointError(
                f"the language model's logits, computed in {str(logits_11L.dtype).removeprefix('torch.')}, are "
                "infinite or no numbers (NaN); finite weights, and a dtype with the range that they need, are expected"
            )
        return logits_11L.argmax(dim=-1)

    def _together(self, groups: Sequence[Sequence[Tensor]]) -> list[Written | None]:
        """What follows each prompt (T, H), group after group, computed as a batch; None where a token is in doubt."""
        alike = [_n_alike(prompts_TH) for prompts_TH in groups]
        prompts = [(group, own, prompt) for group, of in enumerate(groups) for own, prompt in enumerate(of)]
        sizes = [len(prompt_TH) for _, _, prompt_TH in prompts]
        shared = (prompts_TH[0][:n_alike] for prompts_TH, n_alike in zip(groups, alike, strict=True))
        branches = _Branches(self.language.model, list(shared))
        hidden_BH = branches.read(
            [_Piece(group, own, prompt_TH[alike[group] :], alike[group]) for group, own, prompt_TH in prompts]
        )
        found: list[Written | None] = [None] * len(prompts)
        tokens: list[list[int]] = [[] for _ in prompts]
        asking = list(range(len(prompts)))
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
                embeds_B1H = self.language.model.embed_tokens(torch.tensor([tokens[n][-1:] for n in asking]))
                hidden_BH = branches.read(
                    [
                        _Piece(*prompts[number][:2], embeds_1H, sizes[number] + len(tokens[number]) - 1)
                        for number, embeds_1H in zip(asking, embeds_B1H, strict=True)
                    ]
                )
        return found


class _Piece(NamedTuple):
    """Tokens of the prompt ``owner`` of a group, or of all of them, from the position ``begin`` on in it."""

    group: int
    owner: int
    embeds_TH: Tensor
    begin: int


class _Branches:
    """Groups of prompts in one cache, a row each: the prefix that a group shares, then its prompts' own tokens."""

    def __init__(self, model: Any, shared: Sequence[Tensor]) -> None:
        """Reads the prefix (T, H) of each group."""
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._owner_GK = self._position_GK = torch.empty((len(shared), 0), dtype=torch.int64)
        if any(map(len, shared)):
            embeds_GTH, _ = self._added([_Piece(group, _ALL, shared_TH, 0) for group, shared_TH in enumerate(shared)])
            # Padding is behind what it pads: the causal mask hides it.
            model(inputs_embeds=embeds_GTH, past_key_values=self._cache, use_cache=True)

    def read(self, pieces: Sequence[_Piece]) -> Tensor:
        """The hidden states (B, H) of each piece's last token.

        A token looks at what its group shares, and at its own prompt up to itself.
        """
        embeds_GQH, last = self._added(pieces)
        owner_GQ, position_GQ = (
            known_GK[:, -embeds_GQH.shape[1] :] for known_GK in (self._owner_GK, self._position_GK)
        )
        is_earlier_GQK = self._position_GK[:, None] <= position_GQ[..., None]
        is_own_GQK = (self._owner_GK[:, None] == _ALL) | (self._owner_GK[:, None] == owner_GQ[..., None])
        hidden_GQH: Tensor = self._model(
            inputs_embeds=embeds_GQH,
            attention_mask=(is_earlier_GQK & is_own_GQK)[:, None],
            position_ids=position_GQ,
            past_key_values=self._cache,
            use_cache=True,
        )[0]
        return hidden_GQH[[piece.group for piece in pieces], last]

    def _added(self, pieces: Sequence[_Piece]) -> tuple[Tensor, list[int]]:
        """The pieces' embeddings (G, Q, H), a group's one after the other, and where in its row each piece ends."""
        n_read, last = [0] * len(self._owner_GK), []
        for piece in pieces:
            n_read[piece.group] += len(piece.embeds_TH)
            last.append(n_read[piece.group] - 1)
        shape = len(n_read), max(n_read)
        embeds_GQH = pieces[0].embeds_TH.new_zeros((*shape, pieces[0].embeds_TH.shape[1]))
        owner_GQ, position_GQ = torch.full(shape, _NOBODY), torch.zeros(shape, dtype=torch.int64)
        for (group, owner, embeds_TH, begin), end in zip(pieces, last, strict=True):
            place = slice(end + 1 - len(embeds_TH), end + 1)
            embeds_GQH[group, place], owner_GQ[group, place] = embeds_TH, owner
            position_GQ[group, place] = torch.arange(begin, begin + len(embeds_TH))
        self._owner_GK = torch.cat([self._owner_GK, owner_GQ], 1)
        self._position_GK = torch.cat([self._position_GK, position_GQ], 1)
        return embeds_GQH, last


def _made(prompts: Iterable[Callable[[], Prompt]]) -> Iterator[list[Prompt]]:
    """The prompts in order, as many at a time as memory is meant to hold."""
    made: list[Prompt] = []
    for prompt in prompts:
        made.append(prompt())
        if sum(len(one.embeds_TH) for one in made) >= _TOKENS_MADE:
            yield made
            made = []
    if made:
        yield made


def _batches(prompts: Sequence[Prompt]) -> list[list[list[int]]]:
    """The places of prompts that are computed together: in groups about the same pictures, which are neighbours.

    The groups of a batch are of similar length, because they are padded to the longest.
    """
    groups: list[list[int]] = []
    for place, prompt in enumerate(prompts):
        if groups and len(groups[-1]) < _AT_ONCE and _show_the_same(prompts[groups[-1][0]], prompt):
            groups[-1].append(place)
        else:
            groups.append([place])

    def longest(group: Sequence[int]) -> int:
        return max(len(prompts[place].embeds_TH) for place in group)

    def n_tokens(group: Sequence[int]) -> int:
        return sum(len(prompts[place].embeds_TH) for place in group)

    batches: list[list[list[int]]] = []
    for group in sorted(groups, key=longest):
        batch = batches[-1] if batches else []
        if (
            batch
            and longest(group) <= _PADDED * longest(batch[0])
            and sum(map(n_tokens, (*batch, group))) <= _TOKENS_AT_ONCE
        ):
            batch.append(group)
        else:
            batches.append([group])
    return batches


def _show_the_same(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts are equal to the bit up to the end of their pictures."""
    end = max((end for _, end in one.pictures), default=0)
    return one.pictures == other.pictures and one.embeds_TH[:end].equal(other.embeds_TH[:end])


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
