"""What a miniature is asked about training pictures, and what its answers cost."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.data.asking import Asked
from harness.models.prompts import ONEVISION, Template
from harness.training import packing
from harness.training.contract import Turn

_MAX_TOKENS = 4096


def answer_loss(
    model: Any,
    tokenizer: Tokenizer,
    pictures: Sequence[Tensor],
    asked: Sequence[Sequence[Asked]],
    template: Template = ONEVISION,
) -> tuple[Tensor, float]:
    """The mean over questions of their answers' mean cross entropy, and the share of answer tokens that are right.

    ``model`` is a LLaVA of transformers, ``template`` its prompt. ``pictures`` are the projected visual tokens, (T, H)
    each; ``asked`` the questions about each of them. Computed in bfloat16.
    """
    scripts = [
        [
            packing.script(
                tokenizer,
                template,
                (Turn(template.text_of(one.question), one.truth),),
                image=True,
                max_tokens=_MAX_TOKENS,
            )
            for one in questions
        ]
        for questions in asked
    ]
    with torch.autocast("cpu", torch.bfloat16):
        loss_B, right = packing.answer_losses(model, tokenizer.encode(template.before).ids, pictures, scripts)
    asked_B = loss_B.new_tensor([len(questions) for questions in asked])
    return (loss_B * asked_B).sum() / asked_B.sum(), float(right)
