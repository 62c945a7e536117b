"""Questions packed for training: one picture's visual tokens, read once, with several questions after them.

Every question sees the picture and itself, never another question, and stands at the positions it would have alone: so
the packed sequence teaches exactly what the backbone's prompt asks.

    B pictures   L positions   H width of the language model   A answer tokens
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.backbones.prompts import ONEVISION, Template
from harness.data.asking import Asked

_IGNORED = -100
_PADDING = -1


def answer_loss(
    model: Any,
    tokenizer: Tokenizer,
    pictures: Sequence[Tensor],
    asked: Sequence[Sequence[Asked]],
    template: Template = ONEVISION,
) -> tuple[Tensor, float]:
    """The mean over questions of their answers' mean cross entropy, and the share of answer tokens that are right.

    ``model`` is a LLaVA of transformers, ``template`` its prompt. ``pictures`` are the projected visual tokens, (T, H)
    each; ``asked`` the questions about each of them.
    """
    embed = model.get_input_embeddings()
    rows, positions, segments, targets, shares = [], [], [], [], []
    for picture, questions in zip(pictures, asked, strict=True):
        parts, place, segment, target, share = [], [], [], [], []
        for number, one in enumerate(questions):
            if number == 0:
                head = tokenizer.encode(template.before).ids
                parts += [embed(torch.tensor(head)), picture]
                seen = len(head) + len(picture)
                place, segment, target = list(range(seen)), [0] * seen, [_IGNORED] * seen
            prompt, answer = (
                tokenizer.encode(template.suffix(one.question)).ids,
                tokenizer.encode(one.truth + template.stop).ids,
            )
            # The last token is never read, only predicted.
            parts.append(embed(torch.tensor((prompt + answer)[:-1])))
            length = len(prompt) + len(answer) - 1
            place += range(seen, seen + length)
            segment += [number + 1] * length
            target += [_IGNORED] * (len(prompt) - 1) + answer
            share += [1 / len(answer)] * len(answer)
        rows.append(torch.cat(parts))
        positions.append(torch.tensor(place))
        segments.append(torch.tensor(segment))
        targets.append(torch.tensor(target))
        shares += share
    target_BL = _padded(targets, _IGNORED)
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BLH = model.model.language_model(
            inputs_embeds=_padded(rows, 0),
            attention_mask=_mask(_padded(segments, _PADDING)),
            position_ids=_padded(positions, 0),
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden_BLH[target_BL != _IGNORED]).float()
    wanted = target_BL[target_BL != _IGNORED]
    share_A = torch.tensor(shares)
    loss = (cross_entropy(logits, wanted, reduction="none") * share_A).sum() / share_A.sum()
    firsts = wanted != tokenizer.token_to_id(template.stop)
    return loss, float((logits.argmax(-1) == wanted)[firsts].float().mean())


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def _mask(segment_BL: Tensor) -> Tensor:
    """The additive mask (B, 1, L, L): earlier positions of the picture's segment, 0, or of one's own."""
    length = segment_BL.shape[1]
    own_BLL = segment_BL[:, :, None] == segment_BL[:, None, :]
    open_BLL = (own_BLL | (segment_BL[:, None, :] == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    return torch.where(open_BLL, 0.0, torch.finfo(torch.float32).min)[:, None]
