"""Lines of options and questions about their letters: what a language model can learn before it sees anything.

Every line asks for each of its letters once, so that finding a value among the options is learnt in seconds. From
answers about pictures alone, one letter a line, it was not learnt in a thousand steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.backbones.prompts import ONEVISION
from harness.data.asking import CHOICES, LETTERS, choice
from harness.data.drawing.dice import Dice
from harness.zoo.vocabulary import STOP

_IGNORED = -100


def line(tokenizer: Tokenizer, dice: Dice) -> tuple[list[int], list[int]]:
    """The tokens of a choice's prompt followed by all of its values in random order, each with its letter; the targets.

    A target stands where its token is predicted: the letters, and what ends the line, have one.
    """
    category = dice.pick(tuple(CHOICES))
    question = choice(category, dice.pick(CHOICES[category][1]), dice.pick(LETTERS), dice).question
    tokens = tokenizer.encode(ONEVISION.before + ONEVISION.suffix(question)).ids
    targets = [_IGNORED] * len(tokens)
    for letter in dice.shuffled(tuple(question.options)):
        value, answer = tokenizer.encode(question.options[letter]).ids, tokenizer.encode(f" {letter}{STOP}").ids
        tokens += value + answer
        targets += [_IGNORED] * (len(value) - 1) + answer + [_IGNORED]
    return tokens, targets


def lookup_loss(model: Any, tokenizer: Tokenizer, lines: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, float]:
    """The mean cross entropy of the lines' targets, and the share of letters that are right."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(t) for t, _ in lines], batch_first=True)
    wanted = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(t) for _, t in lines], batch_first=True, padding_value=_IGNORED
    )
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(ids), use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[wanted != _IGNORED]).float()
    wanted = wanted[wanted != _IGNORED]
    letters = {tokenizer.encode(f" {letter}").ids[-1] for letter in LETTERS}
    asked = torch.tensor([int(t) in letters for t in wanted])
    return cross_entropy(logits, wanted), float((logits.argmax(-1) == wanted)[asked].float().mean())
