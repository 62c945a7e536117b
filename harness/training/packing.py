"""Dialogues packed for training: one picture's visual tokens, read once, with several dialogues after them.

Every dialogue sees the picture and itself, never another, and has the positions that it would have on its own, so the
packed sequence trains exactly on the backbone's prompts.

    B pictures   L positions   T visual tokens   H width of the language model   A answer tokens
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from harness.models.prompts import Template
from harness.training.contract import Dialogue

_IGNORED = -100
_PADDING = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """A dialogue's tokens after the visual ones, and which of them are the model's to say."""

    ids: list[int]
    spoken: list[bool]


def script(tokenizer: Any, template: Template, dialogue: Dialogue, *, image: bool, max_tokens: int) -> Script:
    """The tokens of a dialogue, at most ``max_tokens`` of them; each answer ends with the template's stop."""
    ids: list[int] = []
    spoken: list[bool] = []
    for number, turn in enumerate(dialogue):
        words = template.turn(turn.text, first=number == 0, image=image)
        prompt = tokenizer.encode(words, add_special_tokens=False).ids
        answer = tokenizer.encode(turn.answer + template.stop, add_special_tokens=False).ids
        ids += prompt + answer
        spoken += [False] * len(prompt) + [True] * len(answer)
    return Script(ids[:max_tokens], spoken[:max_tokens])


def answer_losses(
    model: Any, before: Sequence[int], pictures: Sequence[Tensor | None], scripts: Sequence[Sequence[Script]]
) -> tuple[Tensor, Tensor]:
    """D of each example (B,): the mean over its dialogues of their answers' mean cross entropy (Eq. 10).

    Also the share of all answers' tokens that are right; tokens that end an answer are not counted in it. ``pictures``
    are projected visual tokens (T, H), or None; ``before`` the template's tokens ahead of them. Computes at the
    precision of the autocast around it, the cross entropy in float32. D of an example without any answer is zero, and
    so is the share where no token counts.
    """
    embed = model.get_input_embeddings()
    device = embed.weight.device
    rows, positions, segments, targets, shares, example, goes_on = [], [], [], [], [], [], []
    for number_of_example, (picture, packed) in enumerate(zip(pictures, scripts, strict=True)):
        answered = sum(any(one.spoken) for one in packed)
        seen = len(before) + (0 if picture is None else len(picture))
        ids, place, segment, target = list(before), list(range(seen)), [0] * seen, [_IGNORED] * seen
        for number, one in enumerate(packed):
            # The last token is never read, only predicted; what is predicted stands one position earlier.
            read = one.ids[:-1]
            ids += read
            place += range(seen, seen + len(read))
            segment += [number + 1] * len(read)
            wanted = [token if mine else _IGNORED for token, mine in zip(one.ids, one.spoken, strict=True)]
            target += wanted[1:]
            if answers := sum(one.spoken):
                shares += [1 / answers / answered] * answers
                example += [number_of_example] * answers
                following = [*one.spoken[1:], False]
                goes_on += [after for mine, after in zip(one.spoken, following, strict=True) if mine]
        embedded = embed(torch.tensor(ids, device=device))
        n = len(before)
        parts = (embedded,) if picture is None else (embedded[:n], picture.to(embedded.dtype), embedded[n:])
        rows.append(torch.cat(parts))
        positions.append(torch.tensor(place, device=device))
        segments.append(torch.tensor(segment, device=device))
        targets.append(torch.tensor(target, device=device))
    target_BL = pad_sequence(targets, batch_first=True, padding_value=_IGNORED)
    several = any(len(packed) > 1 for packed in scripts)
    hidden_BLH = model.model.language_model(
        inputs_embeds=pad_sequence(rows, batch_first=True),
        # One dialogue a row needs no mask: what follows it is padding, and nothing looks ahead.
        attention_mask=_mask(pad_sequence(segments, batch_first=True, padding_value=_PADDING)) if several else None,
        position_ids=pad_sequence(positions, batch_first=True) if several else None,
        use_cache=False,
    ).last_hidden_state
    said_BL = target_BL != _IGNORED
    logits_AL = model.lm_head(hidden_BLH[said_BL]).float()
    wanted_A = target_BL[said_BL]
    if not len(wanted_A):
        return hidden_BLH.sum((1, 2)) * 0, torch.zeros((), device=device)
    loss_A = cross_entropy(logits_AL, wanted_A, reduction="none") * torch.tensor(shares, device=device)
    loss_B = loss_A.new_zeros(len(scripts)).index_add(0, torch.tensor(example, device=device), loss_A)
    right_A = logits_AL.detach().argmax(-1) == wanted_A
    counted = right_A[torch.tensor(goes_on, device=device)].float()
    # Of empty answers only their ends are learned; a mean of no tokens would be no number.
    return loss_B, counted.sum() / max(1, len(counted))


def _mask(segment_BL: Tensor) -> Tensor:
    """The attention mask (B, 1, L, L): earlier positions of the picture's segment, 0, or of the same dialogue."""
    length = segment_BL.shape[1]
    own_BLL = segment_BL[:, :, None] == segment_BL[:, None, :]
    past_LL = torch.ones(length, length, dtype=torch.bool, device=segment_BL.device).tril()
    return ((own_BLL | (segment_BL[:, None, :] == 0)) & past_LL)[:, None]
