"""Judging by exact match, and the metrics in closed form."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.data.sample import Question
from harness.data.scoring import DEFAULT_SCORING, MME_PERCEPTION, SCORINGS, judge, metric, scoring
from harness.errors import DataError, ScenarioError

patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no reason to fail."""

ANIMALS = {"A": "cat", "B": "dog", "C": "horse", "D": "a red bird"}
NUMBERS = {"A": "2", "B": "12", "C": "three", "D": "none"}
PHRASES = {"A": "turn left", "B": "turn right", "C": "stop at the line", "D": "keep going straight ahead"}

# Options, generated answer, the letter that the rules read (None: none).
CHOICES = [
    # One letter among the words.
    (ANIMALS, "A", "A"),
    (ANIMALS, "B", "B"),
    (ANIMALS, "D", "D"),
    (ANIMALS, "A.", "A"),
    (ANIMALS, "(C)", "C"),
    (ANIMALS, "[D]", "D"),
    (ANIMALS, "**B**", "B"),
    (ANIMALS, "{C}", "C"),
    (ANIMALS, "#D#", "D"),
    (ANIMALS, "B!", "B"),
    (ANIMALS, "Answer:C", "C"),
    (ANIMALS, "B;", "B"),
    (ANIMALS, "  C  ", "C"),
    (ANIMALS, "C\n", "C"),
    (ANIMALS, "B. dog", "B"),
    (ANIMALS, "The answer is B.", "B"),
    (ANIMALS, "I would choose D", "D"),
    (ANIMALS, "D, because of this.", "D"),
    (ANIMALS, "B because it has four legs", None),
    (ANIMALS, "B is the correct answer", None),
    (ANIMALS, "A dog sits on it", "B"),
    (ANIMALS, "It is B, a dog", "B"),
    (ANIMALS, "A A A", "A"),
    # A letter that is no option, or no word of its own, is not read.
    (ANIMALS, "E", None),
    (ANIMALS, "a", None),
    (ANIMALS, "b.", None),
    (ANIMALS, "AB", None),
    (ANIMALS, "B-C", None),
    (ANIMALS, '"B"', None),
    ({"A": "x", "B": "y"}, "C", None),
    # Two letters: neither.
    (ANIMALS, "A or B", None),
    (ANIMALS, "A, B, C", None),
    (ANIMALS, "A and D are both possible", None),
    # "answer is X" is no rule of its own.
    (ANIMALS, "Not A. The answer is B.", None),
    (ANIMALS, "The answer is C and surely not one of the other three", None),
    (ANIMALS, "answer is cat or B or C", "A"),
    # The last four words, and the fifth; where a letter stands twice, its first place counts.
    (ANIMALS, "C one two three", "C"),
    (ANIMALS, "C one two three four", None),
    (ANIMALS, "C one two three C", None),
    (ANIMALS, "C one C two", "C"),
    # Refusals, and a word Z without an option letter.
    (ANIMALS, "I can't process this file. dog", "Z"),
    (ANIMALS, "Cannot determine the answer", "Z"),
    (ANIMALS, "Z", "Z"),
    (ANIMALS, "Z is not a dog, nor is it one of the others", "Z"),
    (ANIMALS, "Z or B", "B"),
    (ANIMALS, "Failed to obtain answer via API: B", None),
    (ANIMALS, "Failed to obtain answer via API, dog", "B"),
    # An option's text.
    (ANIMALS, "cat", "A"),
    (ANIMALS, "Dog", "B"),
    (ANIMALS, "HORSE", "C"),
    (ANIMALS, "a red bird", "D"),
    (ANIMALS, "it is a horse.", "C"),
    (ANIMALS, "red bird", None),
    (ANIMALS, "cat and dog", None),
    (ANIMALS, "no animal", None),
    (ANIMALS, "", None),
    (ANIMALS, "concatenate", "A"),
    (PHRASES, "You must turn left here", "A"),
    (PHRASES, "Stop at the line, then wait", "C"),
    (PHRASES, "turn left, not turn right", None),
    (PHRASES, "turn", None),
    (NUMBERS, "12", None),
    (NUMBERS, "2", "A"),
    (NUMBERS, "There are three", "C"),
    # An answer more than twice as long as the options together (21 characters) is not searched.
    (ANIMALS, "horse " + "x" * 36, "C"),
    (ANIMALS, "horse " + "x" * 37, None),
    # A letter comes before a text.
    (ANIMALS, "C cat", "C"),
    (ANIMALS, "A dog", "A"),
    # Options that skip a letter.
    ({"A": "one", "C": "two"}, "C", "C"),
    ({"A": "one", "C": "two"}, "B", None),
]

# Truth, generated answer, whether it is right.
YES_NO = [
    ("Yes", "Yes", True),
    ("Yes", "yes.", True),
    ("Yes", "YES!", True),
    ("Yes", "Yes, there is.", True),
    ("Yes", "No", False),
    ("No", "no", True),
    ("No", "No, there is none.", True),
    ("No", "Yes", False),
    ("Yes", "Yes and no", False),
    ("No", "Yes and no", False),
    ("No", "I do not know", False),
    ("No", "There is nothing", False),
    ("Yes", "yesterday", False),
    ("No", "none", False),
    ("Yes", "", False),
    ("Yes", "yes_no", False),
    # A colon, an asterisk and an apostrophe stay on a word.
    ("Yes", "Yes: there is", False),
    ("Yes", "*Yes*", False),
    ("Yes", "'yes'", False),
    ("Yes", '"yes"', True),
    # A mark with a space beside it anywhere is taken out, and joins its neighbours; another one becomes a space.
    ("Yes", "yes-there is", True),
    ("Yes", "yes-there - is", False),
    ("Yes", "yes/1,000", False),
    # A full stop is taken out, unless a digit stands beside it.
    ("Yes", "yes.no", False),
    ("Yes", "yes. 5.", True),
]

# An open question is the choice between A, its truth, and B, "Other Answers" (13 characters).
OPEN = [
    ("Kerb", "kerb", True),
    ("42", " 42. ", True),
    ("kerb", "the kerb", True),
    ("Kerb", "It is a KERB, I think.", True),
    ("42", "421", True),
    ("two words", "Two  words", False),
    ("kerb", "", False),
    ("kerb", "a wall", False),
    ("kerb", "other answers", False),
    ("kerb", "kerb, or other answers", False),
    ("kerb", "A", True),
    ("kerb", "B", False),
    ("kerb", "The answer is A, not B", False),
    # Where the truth is a capital letter, that letter is the right one.
    ("B", "B", True),
    ("B", "A", False),
    ("C", "C", False),
    ("C", "A", False),
    ("kerb", "kerb" + " x" * 15, True),
    ("kerb", "kerb" + " x" * 16, False),
]


@pytest.mark.parametrize(("options", "answer", "letter"), CHOICES)
def test_letter_that_the_rules_read(options, answer: str, letter: str) -> None:
    """Each golden answer means the letter that the written rules give."""
    assert scoring(DEFAULT_SCORING).letter(options, answer) == letter
    for truth in options:
        assert judge(Question(text="?", kind="choice", options=options), truth, answer) == (letter == truth)


@pytest.mark.parametrize(("truth", "answer", "right"), YES_NO)
def test_yes_or_no_as_a_word(truth: str, answer: str, right) -> None:
    """Yes/no answers count when exactly one of the two words stands in them."""
    assert judge(Question(text="?", kind="yes_no"), truth, answer) is right


@pytest.mark.parametrize(("truth", "answer", "right"), OPEN)
def test_open_answers(truth: str, answer: str, right) -> None:
    """Those of MMMU are judged as VLMEvalKit's choice between the truth and all else, with its consequences."""
    assert judge(Question(text="?", kind="open", marked=True), truth, answer) is right


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        *((truth, answer, right) for truth, answer, right in OPEN if truth not in "ABC" and "A" not in answer.split()),
        ("cat", "A dog", False),
        ("cat", "A cat", True),
        ("kerb", "A", False),
        ("kerb", "Z", False),
        ("42", "Z 42", True),
        ("people", "Sorry, I can't help with images of people yet.", False),
        *((letter, letter, True) for letter in "ABCZ"),
        ("C", "It is a C.", True),
        ("C", "A", False),
        ("C", "a cat", False),
        ("B", "a big one", False),
    ],
)
@pytest.mark.parametrize("scored_by", SCORINGS)
def test_open_answers_of_other_benchmarks_have_no_letters(truth: str, answer: str, right, scored_by: str) -> None:
    """No option was shown: an article is not the letter of the truth, and a truth may be any letter."""
    # The earlier scoring has no limit of an answer's length.
    if scored_by == DEFAULT_SCORING or len(answer) < 20:
        assert judge(Question(text="?", kind="open"), truth, answer, scored_by) is right


@patient
@given(st.sampled_from("ABCD"), st.text(st.sampled_from(".()[],:;!*#{} \n"), max_size=12))
def test_punctuation_never_hides_a_letter(letter: str, marks) -> None:
    """A letter wrapped in any of the listed marks is still read."""
    assert scoring(DEFAULT_SCORING).letter(PHRASES, marks + letter + marks) == letter


def said_letter(options, answer, tail, factor):
    """The letter by the rules as they are written, one after the other: another reading than the package's."""
    api_failed = "Failed to obtain answer via API" in answer
    refused = [
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
        "I'm sorry, but without the image provided",
        "Cannot determine the answer",
    ]
    if not api_failed:
        for text in refused:
            if answer.find(text) >= 0:
                return "Z"
        words = [word for word in re.split(r"[\s.()\[\],:;!*#{}]+", answer) if word]
        of_options = sorted(set(words) & set(options))
        if len(of_options) == 1:
            places = [place for place, word in enumerate(words, 1) if word == of_options[0]]
            words_after = len(words) - places[0]
            if tail is None or words_after < tail:
                return of_options[0]
        if not of_options and words.count("Z") > 0:
            return "Z"
    if factor is not None and len(answer.lower()) > factor * len("".join(options.values())):
        return None
    found = []
    for option in options.items():
        if answer.lower().count(option[1].lower()):
            found += option[0]
    return found[0] if len(found) == 1 else None


def said_word(answer):
    """Yes, No or None by the rules as they are written, a mark at a time."""
    lowered = answer.lower()
    out = lowered
    for mark in r""";/[]"{}()=+\_-><@`,?!""":
        joins = re.search(r"[0-9],[0-9]", lowered) or re.search(rf"{re.escape(mark)} | {re.escape(mark)}", lowered)
        out = ("" if joins else " ").join(out.split(mark))
    out = re.sub(r"(^|[^0-9])\.(?![0-9])", r"\1", re.sub(r"(^|[^0-9])\.(?![0-9])", r"\1", out))
    yes, no = (word in out.split() for word in ("yes", "no"))
    return {(True, False): "Yes", (False, True): "No"}.get((yes, no))


TAILS = {"vlmevalkit-2025-08": (4, 2), "vlmevalkit-2024": (None, None)}
FORMS = [
    *("{L}", "{L}.", "({L})", "**{L}**", "{L}: {t}", "{L}, {t}", "Answer: {L}", "The answer is {L}.", "I choose {L}"),
    *(
        "{L} one two",
        "{L} one two three",
        "{L} one two three four",
        "{L} one two three {L}",
        "{L} is the correct answer",
    ),
    *("{L} or {M}", "not {M} but {L}", "{L}-{M}", "{L}/{M}", "{M}. The answer is {L}", "'{L}'", "{L}\n{t}"),
    *("{t}", "It is {t}.", "{t} and {u}", "A {t} sits on it", "{t}" + " x" * 40, "Z", "Z {t}", "no {L}etter"),
    *("I can't process this file. {L}", "Cannot determine the answer: {t}", "Failed to obtain answer via API {L} {t}"),
]
GOLDEN = [
    (options, form.format(L=letter, M=other, t=options[letter], u=options[other]))
    for options in (ANIMALS, NUMBERS, PHRASES, {"A": "Yes", "C": "no"})
    for letter, other in itertools.pairwise([*options, next(iter(options))])
    for form in FORMS
]


@pytest.mark.parametrize("name", SCORINGS)
def test_hundreds_of_answers_are_read_as_the_rules_are_written(name: str) -> None:
    """Every form of answer, about every option of every set, means what a plain reading of the rules gives."""
    assert len(GOLDEN) > 300
    rules = scoring(name)
    expected = [said_letter(options, answer, *TAILS[name]) for options, answer in GOLDEN]
    assert [rules.letter(options, answer) for options, answer in GOLDEN] == expected
    assert len(set(expected)) == 6


WORDS = ["yes", "No", "NO.", "yes:", "'no'", "cat", "Dog", "a red bird", "12", "none", "1,000", "3.5", "5."]
TEXTS = ["the answer is", "Cannot determine the answer", "word " * 12]
PIECES = st.sampled_from([*"ABCDEZab", *WORDS, *TEXTS, *".,:;!*#-/_'\"()[]{}=?\n  "])


@pytest.mark.slow
@patient
@given(st.lists(PIECES, max_size=9).map("".join) | st.lists(PIECES, max_size=9).map(" ".join), st.data())
def test_any_answer_is_read_as_the_rules_are_written(answer: str, data) -> None:
    """Letters and yes or no are those of the plain reading, whatever is answered and whichever the scoring."""
    options = data.draw(st.sampled_from([ANIMALS, NUMBERS, PHRASES, {"A": "one", "C": "two"}]))
    for name, rules in SCORINGS.items():
        assert rules.letter(options, answer) == said_letter(options, answer, *TAILS[name])
        assert rules.yes_or_no(answer) == said_word(answer)


@pytest.mark.parametrize(
    ("answer", "now", "then"),
    [
        ("B is the correct answer", None, "B"),
        ("A dog sits on it", "B", "A"),
        ("it is a horse " + "x" * 40, None, "C"),
        ("B", "B", "B"),
    ],
)
def test_what_the_kit_of_2024_reads_otherwise(answer: str, now, then) -> None:
    """It took a letter anywhere and a text in an answer of any length; the scoring's name decides."""
    question = Question(text="?", kind="choice", options=ANIMALS)
    for name, letter in (("vlmevalkit-2025-08", now), ("vlmevalkit-2024", then)):
        assert scoring(name).letter(ANIMALS, answer) == letter
        assert [truth for truth in ANIMALS if judge(question, truth, answer, name)] == ([letter] if letter else [])
    assert DEFAULT_SCORING == "vlmevalkit-2025-08"


def test_more_than_32_full_stops_are_not_taken_out() -> None:
    """The kit passes a flag where a count is expected: the thirty-third full stop stays on its word."""
    assert [scoring(name).yes_or_no("." * 31 + " yes.") for name in SCORINGS] == ["Yes", "Yes"]
    assert [scoring(name).yes_or_no("." * 32 + " yes.") for name in SCORINGS] == [None, None]
    # A full stop after a digit counted in 2024 alone.
    assert [scoring(name).yes_or_no("1. " * 32 + "yes.") for name in SCORINGS] == ["Yes", None]


def test_an_unknown_scoring_lists_the_known() -> None:
    """A name that is not in the table is refused."""
    with pytest.raises(ScenarioError, match="unknown scoring 'kit'; known: vlmevalkit-2024, vlmevalkit-2025-08"):
        judge(Question(text="?", kind="open"), "x", "x", "kit")


def rows(*answers):
    """Category, group and verdict of some answers, as arrays."""
    category, group, correct = zip(*answers, strict=True)
    return np.array(category), np.array(group), np.array(correct)


def test_accuracy_is_the_share_of_right_answers() -> None:
    """Three of four right is 75 %."""
    assert metric("RealWorldQA").score(*rows(("x", "1", 1), ("x", "2", 1), ("y", "3", 0), ("y", "4", 1))) == 75.0


def test_mme_adds_accuracy_and_pairs_of_each_subtask() -> None:
    """A subtask with two images, one with both answers right, scores 75 + 50; a subtask all wrong 0."""
    answers = rows(
        ("count", "count/1", 1),
        ("count", "count/1", 1),
        ("count", "count/2", 1),
        ("count", "count/2", 0),
        ("color", "color/1", 0),
        ("color", "color/1", 0),
    )
    assert metric("MME").score(*answers) == pytest.approx(125.0)
    assert metric("MME").max(answers[0]) == 400.0


def test_mme_is_perception_alone() -> None:
    """Cognition does not count, and all ten perception subtasks right are MME's 2000."""
    categories = [*MME_PERCEPTION, "code_reasoning", "commonsense_reasoning"]
    answers = rows(*((c, f"{c}/{i}", c in MME_PERCEPTION) for c in categories for i in range(3) for _ in "ab"))
    assert metric("MME").score(*answers) == pytest.approx(2000.0)
    assert metric("MME").max(answers[0]) == 2000.0
    assert metric("GlimpseQA").max(answers[0]) == 2400.0


def test_mme_without_perception_is_refused() -> None:
    """A run with no subtask that counts has no score, rather than zero."""
    with pytest.raises(DataError, match=r"no answer belongs to a subtask .*; those that are there: code_reasoning"):
        metric("MME").score(*rows(("code_reasoning", "1", 1)))


def test_a_pair_lies_in_one_subtask() -> None:
    """A group that spans two categories is refused."""
    with pytest.raises(ValueError, match="spans two categories"):
        metric("GlimpseQA").score(*rows(("count", "1", 1), ("color", "1", 1)))


def test_mmbench_requires_every_rotation_to_be_right() -> None:
    """Of three questions one is right in all its rotations."""
    answers = rows(("x", "1", 1), ("x", "1", 1), ("x", "2", 1), ("x", "2", 0), ("x", "3", 0))
    assert metric("MMBench_DEV_EN").score(*answers) == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("benchmark", "sample", "image", "category", "group"),
    [
        ("RealWorldQA", "17", "9", "x", "17"),
        ("MMBench_DEV_EN", "3000017", "9", "x", "17"),
        ("MMBench_DEV_EN", "17", "9", "x", "17"),
        ("MME", "17", "a.jpg", "count", "count/a.jpg"),
        ("GlimpseQA", "17", "a", "colour", "colour/a"),
    ],
)
def test_what_a_benchmark_groups(benchmark: str, sample, image, category, group) -> None:
    """Questions, rotations and pairs are distinguished as each benchmark's scoring has it."""
    assert metric(benchmark).group_of(sample, image, category) == group


def test_rotations_need_whole_numbers() -> None:
    """MMBench's rotations cannot be found from an index that is not a number."""
    with pytest.raises(DataError, match="'x1' is not a whole number"):
        metric("MMBench_DEV_EN").group_of("x1", "9", "")


def test_unknown_benchmarks_list_the_known() -> None:
    """A benchmark without a metric is refused, and the error names those that have one."""
    sentence = r"unknown benchmark 'RealWorld'; did you mean 'RealWorldQA'\? known: AI2D_TEST, .*RealWorldQA"
    with pytest.raises(DataError, match=sentence):
        metric("RealWorld")


def test_shapes_that_do_not_agree_are_refused() -> None:
    """Weights for another number of groups are a mistake of the caller's."""
    with pytest.raises(ValueError, match="do not go together"):
        metric("RealWorldQA").resampled(np.array(["x"]), np.array(["1"]), np.array([True]), np.ones((2, 3)))


BENCHMARKS = ["RealWorldQA", "MMBench_DEV_EN", "GlimpseQA"]


@st.composite
def runs(draw):
    """Outcomes in 1 to 4 subtasks of 1 to 6 groups of 1 to 3 answers, in any order."""
    answers = []
    for subtask in range(draw(st.integers(1, 4))):
        for group in range(draw(st.integers(1, 6))):
            right = draw(hnp.arrays(np.bool_, draw(st.integers(1, 3))))
            answers += [(f"c{subtask}", f"{subtask}/{group}", r) for r in right]
    return rows(*draw(st.permutations(answers)))


@pytest.mark.slow
@patient
@given(runs(), st.sampled_from(BENCHMARKS))
def test_bounds_and_order(run, benchmark: str) -> None:
    """Every score is between 0 and its maximum, reaches it when all is right, and ignores the order of rows."""
    category, group, correct = run
    its = metric(benchmark)
    best = its.max(category)
    assert 0 <= its.score(*run) <= best + 1e-9
    assert its.score(category, group, np.ones_like(correct)) == pytest.approx(best)
    assert its.score(category, group, np.zeros_like(correct)) == 0
    back = slice(None, None, -1)
    assert its.score(category[back], group[back], correct[back]) == pytest.approx(its.score(*run))


@pytest.mark.slow
@patient
@given(runs(), st.sampled_from(BENCHMARKS), st.data())
def test_a_weight_counts_its_group_so_many_times(run, benchmark: str, data) -> None:
    """Resampling by weights is the score of the rows with each group repeated as often as its weight says."""
    category, group, correct = run
    names = np.unique(group)
    counts = data.draw(hnp.arrays(np.int64, names.size, elements=st.integers(0, 3)))
    repeated = [
        (c, f"{g}#{copy}", r)
        for c, g, r in zip(category, group, correct, strict=True)
        for copy in range(counts[np.searchsorted(names, g)])
    ]
    its = metric(benchmark)
    (found,) = its.resampled(category, group, correct, counts[None].astype(float))
    if not repeated:
        assert np.isnan(found)
        return
    lost = len(np.unique(category)) / len({c for c, _, _ in repeated}) if benchmark == "GlimpseQA" else 1
    assert found == pytest.approx(its.score(*rows(*repeated)) * lost)
