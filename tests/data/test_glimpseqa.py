"""GlimpseQA: pairs of a true and a false question about a picture of one tile."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from harness.data import glimpseqa
from harness.data.bundled import checksum
from harness.data.questions import samples as draw_samples
from harness.data.sample import Sample
from harness.data.scoring import MME_PERCEPTION


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Sequence[Sample]:
    """The test split, built and read back as a TSV."""
    return glimpseqa.load("GlimpseQA", cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_every_picture_has_one_question_to_affirm_and_one_to_deny(samples) -> None:
    """Two questions share a picture, a group and a subtask; one is true."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    assert len(groups) == 100
    for first, second in groups.values():
        assert {first.truth, second.truth} == {"Yes", "No"}
        assert (first.image_id, first.group) == (second.image_id, second.group)
        assert first.image_bytes == second.image_bytes
        assert first.category == second.category
        assert first.question.text != second.question.text


@pytest.mark.slow
def test_the_subtasks_are_mmes_and_equally_frequent(samples) -> None:
    """Five of MME's perception subtasks, twenty pictures each."""
    counts = Counter(sample.category for sample in samples)
    assert set(counts) == set(glimpseqa.SUBTASKS) <= set(MME_PERCEPTION)
    assert set(counts.values()) == {40}


@pytest.mark.slow
def test_a_picture_fits_into_one_tile(samples) -> None:
    """No side is longer than 192 px."""
    assert max(max(sample.image().size) for sample in samples) <= 192


@pytest.mark.slow
def test_the_order_of_a_pair_and_its_text_tell_nothing() -> None:
    """Over many books the first question is true half of the time, and so is every text that is often asked."""
    pages = [page for number in range(40) for page in glimpseqa.book("train", number)]
    firsts = [page.questions[0].truth == "Yes" for page in pages]
    assert abs(sum(firsts) / len(firsts) - 0.5) < 4 * 0.5 / len(firsts) ** 0.5
    by_text = defaultdict(list)
    for page in pages:
        for asked in page.questions:
            by_text[asked.question.text].append(asked.truth == "Yes")
    blind = sum(max(sum(v), len(v) - sum(v)) for v in by_text.values()) / sum(map(len, by_text.values()))
    assert blind <= 0.54
    for text, truths in by_text.items():
        assert abs(sum(truths) / len(truths) - 0.5) < 4.5 * 0.5 / len(truths) ** 0.5, text


@pytest.mark.slow
def test_what_is_read_back_is_what_was_drawn(samples) -> None:
    """The TSV holds the samples as they were drawn, and they have the pinned checksum."""
    few = draw_samples(glimpseqa.book("test", 0)[:8], paired=True)
    assert list(samples)[: len(few)] == few
    assert checksum(samples) == glimpseqa.CHECKSUM
