"""The words around an image, character by character."""

import pytest

from harness.backbones.prompts import LLAVA15, ONEVISION
from harness.data.sample import Question

CHOICE = Question(text="Which colour?", kind="choice", options={"A": "red", "B": "green"})
HINTED = Question(text="Which colour?", kind="choice", options={"A": "red", "C": "green"}, hint="It is dark.")
YES_NO = Question(text="Is it red?", kind="yes_no")
MME = Question(text="Is it red? Please answer yes or no.", kind="yes_no")
OPEN = Question(text="What is written?", kind="open")


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            CHOICE,
            "Question: Which colour?\nOptions:\nA. red\nB. green\n"
            "Please select the correct answer from the options above. \n",
        ),
        (
            HINTED,
            "Hint: It is dark.\nQuestion: Which colour?\nOptions:\nA. red\nC. green\n"
            "Please select the correct answer from the options above. \n",
        ),
        (YES_NO, "Is it red? Please answer yes or no."),
        (MME, "Is it red? Please answer yes or no."),
        (OPEN, "What is written?"),
    ],
)
def test_onevision_texts(question, text):
    """LLaVA-OneVision's texts, and around them the template that is published with its checkpoint."""
    assert f"{ONEVISION.before}<image>{ONEVISION.suffix(question)}" == (
        f"<|im_start|>user\n<image>\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (
            CHOICE,
            "Which colour?\nA. red\nB. green\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            HINTED,
            "It is dark.\nWhich colour?\nA. red\nC. green\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (YES_NO, "Is it red? Please answer yes or no."),
        (OPEN, "What is written?"),
    ],
)
def test_llava15_texts(question, text):
    """LLaVA-1.5's texts in Vicuna's conversation."""
    assert LLAVA15.before.endswith("USER: ")
    assert LLAVA15.suffix(question) == f"\n{text} ASSISTANT:"


def test_braces_in_a_question_stay():
    """A question is text, not a format: its braces come through."""
    question = Question(text="What does {0} mean in f'{x}'?", kind="open")
    assert "What does {0} mean in f'{x}'?" in ONEVISION.suffix(question)
