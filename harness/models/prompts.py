"""The words around an image: question texts and chat templates, as the checkpoints were trained to read them.

The texts are VLMEvalKit's for these models; the templates are those published with the checkpoints.
"""

import dataclasses
from collections.abc import Callable, Sequence

from harness.data.sample import MARK, Question


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A conversation: ``before`` its pictures, ``after`` them with the question's text in it.

    ``opens`` stands before each picture's visual tokens and ``closes`` after them. ``again`` opens a later turn.
    ``stop`` is the token that ends an answer, ``special`` are those that a tokenizer must have for this template.
    """

    before: str
    after: str
    again: str
    stop: str
    special: tuple[str, ...]
    text_of: Callable[[Question], str]
    opens: str = ""
    closes: str = "\n"

    def suffix(self, question: Question) -> str:
        """All that follows the visual tokens, up to where the answer begins."""
        return self.turn(self.text_of(question), first=True, image=True)

    def turn(self, text: str, *, first: bool, image: bool) -> str:
        """All that stands between the visual tokens, ``before``, or an answer's stop, and the next answer."""
        opening = (self.closes if image else "") if first else self.again
        return opening + self.after.format(text=text)

    def parts(self, question: Question, n_pictures: int) -> list[str | int]:
        """The whole prompt in order: text, and the number (from 0) of the picture whose visual tokens stand there.

        Pictures stand before the text, but those of a marked question where their marks are, as often as they are.
        Raises ValueError for a mark without a picture.
        """
        named = {k - 1 for k in question.pictures_named()}
        if beyond := [k for k in named if not 0 <= k < n_pictures]:
            raise ValueError(f"the question shows picture {max(beyond) + 1} of {n_pictures}")
        parts: list[str | int] = [self.before]
        for k in range(n_pictures):
            if k not in named:
                parts += self._picture(k)
        text, tail = self.text_of(question), self.after.removeprefix("{text}")
        for place, piece in enumerate(MARK.split(text) if named else [text]):
            parts += self._picture(int(piece) - 1) if place % 2 else [piece]
        return _joined([*parts, tail])

    def _picture(self, k: int) -> list[str | int]:
        return [self.opens, k, self.closes]


def onevision_text(question: Question) -> str:
    """What LLaVA-OneVision is asked: ``Question: ..`` with its options if it has any, or a yes/no question itself."""
    if question.kind == "yes_no":
        return _yes_no(question)
    asked = f"{_hint(question)}Question: {question.text}\n"
    if question.kind == "open":
        return asked
    options = "".join(f"{letter}. {text}\n" for letter, text in question.options.items())
    return f"{asked}Options:\n{options}Please select the correct answer from the options above. \n"


def llava15_text(question: Question) -> str:
    """What LLaVA-1.5 is asked: the question, its options, and to answer with a letter, or directly."""
    if question.kind == "yes_no":
        return _yes_no(question)
    asked = f"{_hint(question, label='')}{question.text}"
    if question.kind == "open":
        return f"{asked}\nAnswer the question directly."
    options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
    return f"{asked}{options}\nAnswer with the option's letter from the given choices directly."


def internvl_text(question: Question) -> str:
    """What InternVL is asked: as LLaVA-1.5, but a yes/no question ends with how long the answer is to be."""
    if question.kind == "yes_no":
        return f"{_yes_no(question)} Answer the question using a single word or phrase."
    return llava15_text(question)


def gemma3_text(question: Question) -> str:
    """What Gemma 3 is asked: as LLaVA-OneVision, without blanks at the end, which its chat template strips."""
    return onevision_text(question).strip()


def _yes_no(question: Question) -> str:
    text = f"{_hint(question)}{question.text}"
    return text if "yes or no" in question.text.lower() else f"{text} Please answer yes or no."


def _hint(question: Question, label: str = "Hint: ") -> str:
    return f"{label}{question.hint}\n" if question.hint else ""


def _joined(parts: Sequence[str | int]) -> list[str | int]:
    """The parts with neighbouring texts put together, and without empty ones."""
    joined: list[str | int] = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined


ONEVISION = Template(
    before="<|im_start|>user\n",
    after="{text}<|im_end|>\n<|im_start|>assistant\n",
    again="\n<|im_start|>user\n",
    stop="<|im_end|>",
    special=("<|im_start|>", "<|im_end|>"),
    text_of=onevision_text,
)

LLAVA15 = Template(
    before=(
        "<s>A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
    ),
    after="{text} ASSISTANT:",
    again="USER: ",
    stop="</s>",
    special=("<s>", "</s>"),
    text_of=llava15_text,
)

INTERNVL = Template(
    before="<|im_start|>user\n",
    after="{text}<|im_end|>\n<|im_start|>assistant\n",
    again="\n<|im_start|>user\n",
    opens="<img>",
    closes="</img>\n",
    stop="<|im_end|>",
    special=("<|im_start|>", "<|im_end|>", "<img>", "</img>"),
    text_of=internvl_text,
)

GEMMA3 = Template(
    before="<bos><start_of_turn>user\n",
    after="{text}<end_of_turn>\n<start_of_turn>model\n",
    again="\n<start_of_turn>user\n",
    opens="\n\n<start_of_image>",
    closes="<end_of_image>\n\n",
    stop="<end_of_turn>",
    special=("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
    text_of=gemma3_text,
)
