"""The words around an image: question texts and chat templates, as the checkpoints were trained to read them.

The multiple-choice texts are VLMEvalKit's for these models; the templates are those published with the checkpoints.
"""

import dataclasses
from collections.abc import Callable

from harness.data.sample import Question


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A conversation of one turn: ``before`` the visual tokens, ``after`` them with the question's text in the middle.

    ``stop`` is the token that ends an answer, ``special`` are those that a tokenizer must have for this template.
    """

    before: str
    after: str
    stop: str
    special: tuple[str, ...]
    text_of: Callable[[Question], str]

    def suffix(self, question: Question) -> str:
        """All that follows the visual tokens, up to where the answer begins."""
        return self.after.format(text=self.text_of(question))


def onevision_text(question: Question) -> str:
    """What LLaVA-OneVision is asked: ``Question: ..`` with its options, or the question itself."""
    if question.kind != "choice":
        return _plain(question)
    options = "".join(f"{letter}. {text}\n" for letter, text in question.options.items())
    return (
        f"{_hint(question)}Question: {question.text}\nOptions:\n{options}"
        "Please select the correct answer from the options above. \n"
    )


def llava15_text(question: Question) -> str:
    """What LLaVA-1.5 is asked: the question, its options, and to answer with a letter."""
    if question.kind != "choice":
        return _plain(question)
    options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
    return (
        f"{_hint(question, mark='')}{question.text}{options}\n"
        "Answer with the option's letter from the given choices directly."
    )


def _plain(question: Question) -> str:
    text = f"{_hint(question)}{question.text}"
    if question.kind == "yes_no" and "yes or no" not in question.text.lower():
        return f"{text} Please answer yes or no."
    return text


def _hint(question: Question, mark: str = "Hint: ") -> str:
    return f"{mark}{question.hint}\n" if question.hint else ""


ONEVISION = Template(
    before="<|im_start|>user\n",
    after="\n{text}<|im_end|>\n<|im_start|>assistant\n",
    stop="<|im_end|>",
    special=("<|im_start|>", "<|im_end|>"),
    text_of=onevision_text,
)

LLAVA15 = Template(
    before=(
        "<s>A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
    ),
    after="\n{text} ASSISTANT:",
    stop="</s>",
    special=("<s>", "</s>"),
    text_of=llava15_text,
)
