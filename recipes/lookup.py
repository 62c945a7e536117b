"""Lines of options and questions about their letters: what a language model can learn before it sees anything.

Every line asks for each of its letters once, so that finding a value among the options is learned in seconds. From
answers about pictures alone, one letter per line, it was not learned in a thousand steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.data import glimpseqa
from harness.data.drawing import things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.questions import CHOICES, LETTERS, choice, is_there, on_side, yes_no
from harness.data.sample import Question
from harness.models.prompts import ONEVISION, Template
from harness.training.bundled import NOWHERE

_IGNORED = -100
_PAIRS = 4


def line(tokenizer: Tokenizer, rng: SeededRandom, template: Template = ONEVISION) -> tuple[list[int], list[int]]:
    """The tokens of a prompt followed by several answers to it, each with what was seen; the targets.

    A target stands where its token is predicted: what follows the thing seen, the letter, yes or no, and what ends the
    answer, have one.
    """
    question, answers = rng.pick((_options, _options, _comparison, _sighting))(rng)
    tokens = tokenizer.encode(template.before + template.suffix(question)).ids
    targets = [_IGNORED] * len(tokens)
    for seen, said in answers:
        value, answer = tokenizer.encode(f" {seen}").ids, tokenizer.encode(f" {said}{template.stop}").ids
        tokens += value + answer
        targets += [_IGNORED] * (len(value) - 1) + answer + [_IGNORED]
    return tokens, targets


def _options(rng: SeededRandom) -> tuple[Question, list[tuple[str, str]]]:
    """A choice; each of its options' texts with its letter, in random order."""
    category = rng.pick(tuple(CHOICES))
    question = choice(category, rng.pick(CHOICES[category][1]), rng.pick(LETTERS), rng).question
    return question, [(question.options[letter], letter) for letter in rng.shuffled(LETTERS)]


def _comparison(rng: SeededRandom) -> tuple[Question, list[tuple[str, str]]]:
    """A yes/no question that names a value; what could be seen, half of the time that value, with the verdict."""
    kind = rng.below(6)
    prefix, values = "", tuple(str(number) for number in things.NUMBERS)
    text = glimpseqa.NUMBER
    if kind < 3:
        text, values = rng.pick(tuple(glimpseqa.COLOURS.values()))
    elif kind == 3:
        text, values = glimpseqa.THERE, tuple(str(number) for number in glimpseqa.COUNTS)
    elif kind == 4:
        item = rng.pick(things.ITEMS)
        text, values, prefix = on_side(item, "left").replace("left", "{}"), ("left", "right"), f"{item} "
    named = rng.pick(values)
    words = glimpseqa.COUNTS[int(named)] if text == glimpseqa.THERE else named
    seen = [named if rng.one_in(2) else rng.pick([v for v in values if v != named]) for _ in range(_PAIRS)]
    verdicts = [(prefix + value, "Yes" if value == named else "No") for value in seen]
    return yes_no(text.format(words), True, "").question, verdicts


def _sighting(rng: SeededRandom) -> tuple[Question, list[tuple[str, str]]]:
    """Whether a thing is there; what could be seen of it, half of the time nothing, with the verdict."""
    item = rng.pick(things.ITEMS)
    seen = [rng.pick((NOWHERE, NOWHERE, *things.SIDES)) for _ in range(_PAIRS)]
    verdicts = [(f"{item} {value}", "No" if value == NOWHERE else "Yes") for value in seen]
    return yes_no(is_there(item), True, "").question, verdicts


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
    letters = {tokenizer.encode(f" {said}").ids[-1] for said in (*LETTERS, "Yes", "No")}
    asked = torch.tensor([int(t) in letters for t in wanted])
    return cross_entropy(logits, wanted), float((logits.argmax(-1) == wanted)[asked].float().mean())
