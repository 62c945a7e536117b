"""The text around an image, character by character."""

import pytest

from harness.data.sample import Question
from harness.models.prompts import GEMMA3, INTERNVL, LLAVA15, ONEVISION

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
        (OPEN, "Question: What is written?\n"),
    ],
)
def test_onevision_texts(question, text: str) -> None:
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
        (OPEN, "What is written?\nAnswer the question directly."),
    ],
)
def test_llava15_texts(question, text: str) -> None:
    """LLaVA-1.5's texts in Vicuna's conversation."""
    assert LLAVA15.before.endswith("USER: ")
    assert LLAVA15.suffix(question) == f"\n{text} ASSISTANT:"


MARKED = Question(
    text="How do <image 1> and <image 2> differ?",
    kind="choice",
    options={"A": "as <image 3>", "B": "not at all"},
    marked=True,
)


def shown(parts):
    """A prompt's parts as one text, with <k> where the k-th picture's tokens stand."""
    return "".join(part if isinstance(part, str) else f"<{part + 1}>" for part in parts)


@pytest.mark.parametrize(
    ("template", "question", "n_pictures", "text"),
    [
        (ONEVISION, MARKED, 3, "Question: How do <1>\n and <2>\n differ?\nOptions:\nA. as <3>\n\nB. not at all\n"),
        (LLAVA15, MARKED, 3, "USER: How do <1>\n and <2>\n differ?\nA. as <3>\n\nB. not at all\n"),
        # A picture without a mark comes first, as it does where there are no marks at all.
        (ONEVISION, MARKED, 4, "user\n<4>\nQuestion: How do <1>\n and <2>\n"),
        (ONEVISION, OPEN, 2, "user\n<1>\n<2>\nQuestion: What is written?\n"),
        # A picture that is shown twice has its tokens twice.
        (LLAVA15, Question(text="<image 1> or <image 1>?", kind="open", marked=True), 1, "USER: <1>\n or <1>\n?"),
        # A picture is surrounded by the text with which its model was trained, wherever it is.
        (INTERNVL, MARKED, 4, "user\n<img><4></img>\nHow do <img><1></img>\n and <img><2></img>\n differ?"),
        (GEMMA3, OPEN, 1, "<bos><start_of_turn>user\n\n\n<start_of_image><1><end_of_image>\n\nQuestion: What"),
        # Words that look like a mark are text if the benchmark has no marks.
        (ONEVISION, Question(text="In <image 1>, what?", kind="open"), 1, "<1>\nQuestion: In <image 1>, what?\n"),
    ],
)
def test_pictures_replace_their_marks(template, question, n_pictures: int, text: str) -> None:
    """Each picture's tokens are in the mark's place, on whose other side a new line begins."""
    assert text in shown(template.parts(question, n_pictures))


@pytest.mark.parametrize("question", [CHOICE, HINTED, YES_NO, OPEN])
@pytest.mark.parametrize("template", [ONEVISION, LLAVA15])
def test_one_picture_is_between_head_and_question(template, question) -> None:
    """Without marks the parts are the template's two halves around the picture."""
    assert template.parts(question, 1) == [template.before, 0, template.suffix(question)]


def test_a_mark_without_a_picture_is_a_mistake() -> None:
    """A question that shows more pictures than there are is refused."""
    with pytest.raises(ValueError, match="shows picture 3 of 2"):
        ONEVISION.parts(MARKED, 2)


def test_braces_in_a_question_stay() -> None:
    """A question is text, not a format string: its braces are unchanged."""
    question = Question(text="What does {0} mean in f'{x}'?", kind="open")
    assert "What does {0} mean in f'{x}'?" in ONEVISION.suffix(question)
