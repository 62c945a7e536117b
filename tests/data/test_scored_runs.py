"""Small runs of every benchmark, scored by hand: from generated texts to the benchmark's score and its categories."""

import numpy as np
import pytest

from harness.data.sample import Question
from harness.data.scoring import MME_PERCEPTION, judge, metric

LETTERS = "ABCD"


def choice(*options):
    """A question with these options."""
    return Question(text="?", kind="choice", options=dict(zip(LETTERS, options, strict=False)))


IS_IT = Question(text="Is it?", kind="yes_no")
OPEN = Question(text="How much?", kind="open", marked=True)
LABELS = choice("leaf", "stem", "root", "flower")
BOILING = choice("yes", "no")
SIDES = choice("left", "right")

# Index, image, category, question, truth, generated answer, right or wrong.
RUNS = {
    "RealWorldQA": (
        [
            ("0", "0", "", SIDES, "A", "A", 1),
            ("1", "1", "", SIDES, "B", "B. right", 1),
            ("2", "2", "", SIDES, "A", "To the left of it.", 1),
            ("3", "3", "", SIDES, "B", "It is on the left.", 0),
            ("4", "4", "", SIDES, "A", "left or right", 0),
        ],
        60.0,
        {"": (5, 60.0)},
    ),
    "AI2D_TEST": (
        [
            ("0", "a", "parts", LABELS, "C", "root", 1),
            ("1", "a", "parts", LABELS, "B", "The stem.", 1),
            ("2", "b", "parts", LABELS, "D", "D", 1),
            ("3", "b", "webs", choice("1", "2", "3", "4"), "A", "1", 1),
            ("4", "b", "webs", choice("1", "2", "3", "4"), "A", "1 or 2", 0),
            ("5", "b", "webs", choice("1", "2", "3", "4"), "B", "The answer is B, though 1 and 3 are near", 0),
        ],
        100 * 4 / 6,
        {"parts": (3, 100.0), "webs": (3, 100 / 3)},
    ),
    "ScienceQA_TEST": (
        [
            # Options that are words of every sentence are found in it, unless both are.
            ("1", "1", "physics", BOILING, "A", "yes", 1),
            ("2", "2", "physics", BOILING, "B", "No.", 1),
            ("3", "3", "physics", BOILING, "B", "yes, now", 0),
            ("4", "4", "geography", choice("Ohio", "Iowa", "Utah"), "C", "C. Utah", 1),
            ("5", "5", "geography", choice("Ohio", "Iowa", "Utah"), "C", "OHIO", 0),
            # Three times four letters: 24 characters are searched, 25 are not.
            ("6", "6", "geography", choice("Ohio", "Iowa", "Utah"), "B", "I think that it is Iowa.", 1),
            ("7", "7", "geography", choice("Ohio", "Iowa", "Utah"), "B", "I think that it was Iowa.", 0),
        ],
        100 * 4 / 7,
        {"physics": (3, 200 / 3), "geography": (4, 50.0)},
    ),
    "MMStar": (
        [
            ("0", "0", "math", choice("10", "100", "1000", "1"), "D", "D", 1),
            # 1 is contained in all of them.
            ("1", "1", "math", choice("10", "100", "1000", "1"), "D", "1", 1),
            ("2", "2", "math", choice("10", "100", "1000", "1"), "B", "100", 0),
            ("3", "3", "logic", choice("a", "b", "c", "d"), "B", "(B)", 1),
        ],
        75.0,
        {"math": (3, 200 / 3), "logic": (1, 100.0)},
    ),
    "MMBench_DEV_EN": (
        [
            # Question 17 is right in all its rotations, 18 in one of two, 19 has no others.
            ("17", "17", "OCR", SIDES, "A", "A", 1),
            ("1000017", "17", "OCR", choice("right", "left"), "B", "left", 1),
            ("18", "18", "OCR", SIDES, "A", "A", 1),
            ("1000018", "18", "OCR", choice("right", "left"), "B", "A", 0),
            ("19", "19", "colour", SIDES, "B", "B", 1),
        ],
        200 / 3,
        {"OCR": (4, 50.0), "colour": (1, 100.0)},
    ),
    "MME": (
        [
            # count: 3 of 4 right, one of two images with both: 75 + 50. OCR: 100 + 100.
            ("0", "c/0.jpg", "count", IS_IT, "Yes", "Yes", 1),
            ("1", "c/0.jpg", "count", IS_IT, "No", "No, there are two.", 1),
            ("2", "c/1.jpg", "count", IS_IT, "Yes", "yes.", 1),
            ("3", "c/1.jpg", "count", IS_IT, "No", "Yes", 0),
            ("4", "o/0.jpg", "OCR", IS_IT, "Yes", "YES", 1),
            ("5", "o/0.jpg", "OCR", IS_IT, "No", "no", 1),
            # The same picture in two subtasks is two pairs. Cognition does not count in the score: 50 + 0.
            ("6", "o/0.jpg", "code_reasoning", IS_IT, "Yes", "Yes or no", 0),
            ("7", "o/0.jpg", "code_reasoning", IS_IT, "No", "No", 1),
            ("8", "t/0.jpg", "text_translation", IS_IT, "Yes", "None", 0),
            ("9", "t/0.jpg", "text_translation", IS_IT, "No", "I do not know", 0),
        ],
        325.0,
        {
            "count": (4, 125.0),
            "OCR": (2, 200.0),
            "code_reasoning": (2, 50.0),
            "text_translation": (2, 0.0),
            "perception": (6, 325.0),
            "cognition": (4, 50.0),
        },
    ),
    "MMMU_DEV_VAL": (
        [
            ("dev_1", "dev_1", "Art", LABELS, "A", "A", 1),
            ("dev_2", "dev_2", "Art", LABELS, "A", "B", 0),
            ("val_1", "val_1", "Finance", OPEN, "8.4", "It is 8.4 %", 1),
            ("val_2", "val_2", "Finance", OPEN, "8.4", "8.5", 0),
            ("val_3", "val_3", "Finance", OPEN, "3.5", "13.55", 1),
            ("val_4", "val_4", "Finance", OPEN, "3.5", "A", 1),
        ],
        100 * 4 / 6,
        {"Art": (2, 50.0), "Finance": (4, 75.0)},
    ),
}


@pytest.mark.parametrize("benchmark", RUNS)
def test_a_run_scores_what_was_computed_by_hand(benchmark: str) -> None:
    """Each answer is judged, answers are grouped, and the score and each category's are those computed by hand."""
    answers, score, categories = RUNS[benchmark]
    verdicts = [judge(question, truth, answer) for _, _, _, question, truth, answer, _ in answers]
    assert verdicts == [bool(right) for *_, right in answers]
    its = metric(benchmark)
    group = np.array([its.group_of(index, image, category) for index, image, category, *_ in answers])
    category = np.array([category for _, _, category, *_ in answers])
    run = (category, group, np.array(verdicts))
    assert its.score(*run) == pytest.approx(score)
    found = its.by_category(*run)
    assert {name: n for name, (n, _) in found.items()} == {name: n for name, (n, _) in categories.items()}
    for name, (_, expected) in categories.items():
        assert found[name][1] == pytest.approx(expected), name


def test_perception_and_cognition_are_all_of_mme() -> None:
    """All right is 2000 in perception and 800 in the four subtasks of cognition."""
    cognition = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
    category = np.repeat([*MME_PERCEPTION, *cognition], 4)
    group = np.array([f"{c}/{i // 2}" for i, c in enumerate(category)])
    found = metric("MME").by_category(category, group, np.ones(category.size, bool))
    assert found["perception"] == pytest.approx((40, 2000))
    assert found["cognition"] == pytest.approx((16, 800))
    assert len(found) == 16
