"""Judging by exact match, and the benchmarks' metrics.

Answers are judged as VLMEvalKit judges them without a judge model; ``docs/metrics.md`` lists every departure. A metric
is a ratio of sums over groups (questions, MME's pairs, MMBench's rotations), so that a bootstrap over groups is a
product of a weight matrix and per-group counts.

    N answers   G groups   C categories   B resamples
"""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.sample import Question
from harness.errors import DataError, ScenarioError, unknown_name

Words = NDArray[np.str_]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

MME_PERCEPTION = (
    "OCR",
    "artwork",
    "celebrity",
    "color",
    "count",
    "existence",
    "landmark",
    "position",
    "posters",
    "scene",
)
"""The subtasks whose sum is MME's score of perception; those of cognition are the others."""

_AS_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NO_ANSWER = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_REFUSED = "Z"
_OTHER = "Other Answers"
_OFF_WORDS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_MOST_STOPS = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How an answer is judged: the exact matching of one state of VLMEvalKit, without a judge model.

    ``tail_words``: a letter counts where it first stands among the last so many words; None: anywhere. ``text_factor``:
    an option's text counts in an answer of at most so many times the options' length; None: in any. ``full_stop``:
    those that are removed from words before yes and no are searched.
    """

    name: str
    tail_words: int | None
    text_factor: int | None
    full_stop: re.Pattern[str]

    def letter(self, options: Mapping[str, str], answer_text: str) -> str | None:
        """The letter of the option that an answer means, ``Z`` for a refusal, or None where the rules find none.

        With ``.()[],:;!*#{}`` read as spaces: the one option letter among the words, where ``tail_words`` allows it;
        ``Z`` where there is no option letter and a word ``Z``; else the one option whose text, in lower case, is
        contained in the answer, if that is as short as ``text_factor`` requires.
        """
        if _refuses(answer_text):
            return _REFUSED
        return self._letter_read(options, answer_text) or self._text_contained(options, answer_text)

    def _letter_read(self, options: Mapping[str, str], answer_text: str) -> str | None:
        """The letter that stands in an answer, or ``Z``; None where none does, or several do."""
        if _NO_ANSWER in answer_text:
            return None
        words = answer_text.translate(_AS_SPACES).split()
        named = [letter for letter in options if letter in words]
        if len(named) == 1 and (self.tail_words is None or words.index(named[0]) >= len(words) - self.tail_words):
            return named[0]
        return _REFUSED if not named and _REFUSED in words else None

    def _text_contained(self, options: Mapping[str, str], answer_text: str) -> str | None:
        """The letter of the one option whose text is contained in an answer that is not too long."""
        lowered = answer_text.lower()
        if self.text_factor is not None and len(lowered) > self.text_factor * sum(map(len, options.values())):
            return None
        contained = [letter for letter, text in options.items() if text.lower() in lowered]
        return contained[0] if len(contained) == 1 else None

    def yes_or_no(self, answer_text: str) -> str | None:
        """``Yes`` or ``No``, whichever is a word of the answer; None for both or neither.

        Of the marks between words, ``:``, ``*`` and ``'`` stay on a word: ``Yes:`` is neither. A mark that has a space
        on either side somewhere in the answer is taken out, any other becomes a space; where a number has a comma, all
        are taken out. Then full stops are taken out, 32 at most.
        """
        answer = words = answer_text.lower()
        for mark in _OFF_WORDS:
            out = f"{mark} " in answer or f" {mark}" in answer or _THOUSANDS.search(answer)
            words = words.replace(mark, "" if out else " ")
        said = set(self.full_stop.sub("", words, count=_MOST_STOPS).split()) & {"yes", "no"}
        return said.pop().capitalize() if len(said) == 1 else None

    def right(self, question: Question, truth: str, answer_text: str) -> bool:
        """Whether an answer is right.

        An open question is the choice between A, its truth, and B, ``Other Answers``. VLMEvalKit's scoring of MMMU (the
        marked questions) reads these letters too, and where the truth is a capital letter, that letter is the right
        one. Other open questions were asked without letters: there "A dog" is no A, and a letter only its own truth.
        """
        if question.kind == "choice":
            return self.letter(question.options, answer_text) == truth
        if question.kind == "yes_no":
            return self.yes_or_no(answer_text) == truth
        options, is_letter = {"A": truth, "B": _OTHER}, len(truth) == 1 and "A" <= truth <= "Z"
        if question.marked:
            return self.letter(options, answer_text) == (truth if is_letter else "A")
        if _refuses(answer_text):
            return False
        if is_letter:
            return self._letter_read({truth: truth}, answer_text) == truth
        return self._text_contained(options, answer_text) == "A"


def _refuses(answer_text: str) -> bool:
    """Whether an answer has one of the sentences of refusal."""
    return _NO_ANSWER not in answer_text and any(refusal in answer_text for refusal in _REFUSALS)


SCORINGS: Mapping[str, Scoring] = {
    scoring.name: scoring
    for scoring in (
        Scoring(name="vlmevalkit-2025-08", tail_words=4, text_factor=2, full_stop=re.compile(r"(?<!\d)\.(?!\d)")),
        Scoring(name="vlmevalkit-2024", tail_words=None, text_factor=None, full_stop=re.compile(r"\.(?!\d)")),
    )
}
"""The states of VLMEvalKit that answers can be judged by: of 4 August 2025, and of 2024 (up to April 2025)."""

DEFAULT_SCORING = "vlmevalkit-2025-08"


def scoring(name: str) -> Scoring:
    """The scoring of this name; raises ScenarioError, listing the known names, for any other."""
    if name not in SCORINGS:
        raise ScenarioError(unknown_name("scoring", name, SCORINGS))
    return SCORINGS[name]


def judge(question: Question, truth: str, answer_text: str, scored_by: str = DEFAULT_SCORING) -> bool:
    """Whether an answer is right by the scoring of this name; see :class:`Scoring`."""
    return scoring(scored_by).right(question, truth, answer_text)


class Metric(ABC):
    """A benchmark's score over answers that are grouped; see :func:`metric` for a benchmark's own.

    ``groups_within_category`` says that a group may not span two categories, ``counts_groups`` that the score counts
    groups which are right throughout.
    """

    name: str
    groups_within_category: ClassVar[bool] = False
    counts_groups: ClassVar[bool] = False

    @abstractmethod
    def group_of(self, sample_id: str, image_id: str, category: str) -> str:
        """The group of one question, in a benchmark whose file does not name it."""

    def counts(self, category: Words) -> Flags:
        """Which answers of these categories (N,) are part of the score, (N,)."""
        return np.ones(category.shape, dtype=np.bool_)

    @abstractmethod
    def max(self, category: Words) -> float:
        """The score of a run over these categories (N,) in which every answer is right."""

    @abstractmethod
    def resampled(self, category: Words, group: Words, correct: Flags, weights_BG: Floats) -> Floats:
        """The score under each row of weights, (B,).

        ``category``, ``group`` and ``correct`` are (N,), one an answer. ``weights_BG`` says how many times each group
        counts, its columns in the order of ``numpy.unique(group)``; all ones give the score itself. Raises ValueError
        for shapes that do not agree.
        """

    def score(self, category: Words, group: Words, correct: Flags) -> float:
        """The score of a run: ``category``, ``group`` and ``correct`` are (N,), one an answer, N at least 1."""
        return float(self.resampled(category, group, correct, np.ones((1, np.unique(group).size)))[0])

    def by_category(self, category: Words, group: Words, correct: Flags) -> dict[str, tuple[int, float]]:
        """The number of answers and the score of each category."""
        found = {}
        for name in np.unique(category).tolist():
            mine = category == name
            found[name] = (int(mine.sum()), self.score(category[mine], group[mine], correct[mine]))
        return found


class Accuracy(Metric):
    """Accuracy in percent: 100 * sum_g w_g k_g / sum_g w_g n_g, where k_g of the n_g answers of group g are right."""

    name = "accuracy (%)"

    def group_of(self, sample_id: str, image_id: str, category: str) -> str:  # noqa: ARG002
        """Every question is a group of its own."""
        return sample_id

    def max(self, category: Words) -> float:  # noqa: ARG002
        """100."""
        return 100.0

    def resampled(self, category: Words, group: Words, correct: Flags, weights_BG: Floats) -> Floats:  # noqa: ARG002
        """The weighted share of right answers, in percent; NaN where all weights are zero."""
        _, n_G, right_G = _counts(group, correct, weights_BG)
        return 100 * _ratio(weights_BG @ right_G, weights_BG @ n_G)


class Rotations(Metric):
    """MMBench's circular accuracy, in percent: 100 * sum_g w_g [k_g = n_g] / sum_g w_g.

    The rows of one question repeat it with its options rotated; it is right only if it is right in every rotation.
    """

    name = "circular accuracy (%)"
    counts_groups = True

    def group_of(self, sample_id: str, image_id: str, category: str) -> str:  # noqa: ARG002
        """Rotations share their index modulo one million; raises DataError for an index that is no whole number."""
        if not (sample_id.isascii() and sample_id.isdigit()):
            raise DataError(f"the index {sample_id!r} is not a whole number, by which MMBench's rotations are grouped")
        return str(int(sample_id) % 1_000_000)

    def max(self, category: Words) -> float:  # noqa: ARG002
        """100."""
        return 100.0

    def resampled(self, category: Words, group: Words, correct: Flags, weights_BG: Floats) -> Floats:  # noqa: ARG002
        """The weighted share of questions right in every rotation, in percent; NaN where all weights are zero."""
        _, n_G, right_G = _counts(group, correct, weights_BG)
        return 100 * _ratio(weights_BG @ (right_G == n_G), weights_BG.sum(axis=1))


class Pairs(Metric):
    """MME's score: over the subtasks c, the sum of acc_c + acc+_c.

    acc_c = 100 * sum_g w_g k_g / sum_g w_g n_g over the images g of the subtask, and acc+_c = 100 * sum_g w_g [k_g =
    n_g] / sum_g w_g, the share of images with all (two) questions right. ``subtasks`` are those that count; None counts
    every category. A resample that leaves some subtasks without an image scores the mean of the others times the number
    of subtasks.
    """

    groups_within_category = True
    counts_groups = True

    def __init__(self, name: str, subtasks: tuple[str, ...] | None = None) -> None:
        self.name = name
        self.subtasks = subtasks

    def group_of(self, sample_id: str, image_id: str, category: str) -> str:  # noqa: ARG002
        """The questions of one subtask about one image."""
        return f"{category}/{image_id}"

    def counts(self, category: Words) -> Flags:
        """Those of the subtasks that count."""
        return super().counts(category) if self.subtasks is None else np.isin(category, self.subtasks)

    def max(self, category: Words) -> float:
        """200 a subtask present; raises DataError where none is that counts."""
        return 200.0 * len(self._present(category))

    def resampled(self, category: Words, group: Words, correct: Flags, weights_BG: Floats) -> Floats:
        """The weighted score; NaN where no subtask that counts has any weight.

        Raises ValueError where a group spans two categories, DataError where no answer is of a subtask that counts.
        """
        index_N, n_G, right_G = _counts(group, correct, weights_BG)
        present = self._present(category)
        category_G = np.empty(n_G.size, dtype=category.dtype)
        category_G[index_N] = category
        if (category_G[index_N] != category).any():
            raise ValueError("a group of answers spans two categories; a pair belongs to one")
        member_GC = (category_G[:, None] == np.array(present)[None, :]).astype(np.float64)
        acc_BC = _ratio(weights_BG @ (right_G[:, None] * member_GC), weights_BG @ (n_G[:, None] * member_GC))
        plus_BC = _ratio(weights_BG @ ((right_G == n_G)[:, None] * member_GC), weights_BG @ member_GC)
        score_BC = 100 * (acc_BC + plus_BC)
        seen_BC = np.isfinite(score_BC)
        return len(present) * _ratio(np.where(seen_BC, score_BC, 0.0).sum(axis=1), seen_BC.sum(axis=1))

    def by_category(self, category: Words, group: Words, correct: Flags) -> dict[str, tuple[int, float]]:
        """The number of answers and the score of each subtask, whether it counts or not; of MME, also the two sums."""
        if self.subtasks is None:
            return super().by_category(category, group, correct)
        found = Pairs(self.name).by_category(category, group, correct)
        sums = {}
        for name, counts in (("perception", True), ("cognition", False)):
            if parts := [part for subtask, part in found.items() if (subtask in self.subtasks) is counts]:
                sums[name] = (sum(n for n, _ in parts), sum(score for _, score in parts))
        return {**found, **sums}

    def _present(self, category: Words) -> list[str]:
        found = [str(c) for c in np.unique(category) if self.subtasks is None or c in self.subtasks]
        if not found:
            among = ", ".join(np.unique(category).tolist()) or "none"
            raise DataError(
                f"no answer belongs to a subtask of {self.name}: {', '.join(self.subtasks or ())}; those that are "
                f"there: {among}"
            )
        return found


def _counts(group: Words, correct: Flags, weights_BG: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Each answer's place in ``numpy.unique(group)``; each group's number of answers, and of right ones."""
    groups, index_N = np.unique(group, return_inverse=True)
    if correct.shape != group.shape or weights_BG.ndim != 2 or weights_BG.shape[1] != groups.size:
        raise ValueError(
            f"{correct.shape} verdicts, {group.shape} groups ({groups.size} different) and weights of shape "
            f"{weights_BG.shape} do not go together"
        )
    n_G = np.bincount(index_N, minlength=groups.size).astype(np.float64)
    right_G = np.bincount(index_N, weights=correct, minlength=groups.size).astype(np.float64)
    return index_N, n_G, right_G


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


_ACCURACY = Accuracy()
_METRICS: Mapping[str, Metric] = {
    "RealWorldQA": _ACCURACY,
    "AI2D_TEST": _ACCURACY,
    "MMStar": _ACCURACY,
    "ScienceQA_TEST": _ACCURACY,
    "MMMU_DEV_VAL": _ACCURACY,
    "MMBench_DEV_EN": Rotations(),
    "MME": Pairs("MME perception", MME_PERCEPTION),
    "StreetsQA": _ACCURACY,
    "GlimpseQA": Pairs("MME score"),
}


OWN_METRICS: Mapping[str, Metric] = {"accuracy": _ACCURACY, "circular": Rotations(), "pairs": Pairs("score of pairs")}
"""The metrics that a user's own benchmark may name; see :mod:`harness.data.own`."""

_OWN = re.compile(r".+\.(?:tsv|csv)(?::(.+))?")


def metric(benchmark: str) -> Metric:
    """The metric of a benchmark; of a user's own, ``shop.csv`` or ``shop.csv:pairs``, the one after the colon.

    Raises DataError, listing the known names, for a benchmark that has none.
    """
    if benchmark in _METRICS:
        return _METRICS[benchmark]
    if (own := _OWN.fullmatch(benchmark)) and (named := own[1] or "accuracy") in OWN_METRICS:
        return OWN_METRICS[named]
    raise DataError(unknown_name("benchmark", benchmark, _METRICS))
