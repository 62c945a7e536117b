"""StreetsQA: what it asks is balanced, what it shows is the same everywhere, and its test split is held out."""

import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.data import bundled, streetsqa
from harness.data.bundled import checksum, load_bundled
from harness.data.drawing import textures, things
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.things import LABEL
from harness.data.questions import CHOICES, LETTERS, camera_file, value_of
from harness.data.questions import samples as draw_samples
from harness.data.sample import Sample
from harness.data.tsv_writer import write_tsv
from harness.errors import DataError

CHANCE = 3 / 4 * 1 / 4 + 1 / 4 * 1 / 2


@pytest.fixture(scope="module")
def pages():
    """The test split's book, not yet drawn."""
    return streetsqa.book("test", 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Sequence[Sample]:
    """The test split, built and read back as a TSV."""
    return streetsqa.load("StreetsQA", cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(("split", "number"), [("test", 0), ("train", 0), ("train", 77)])
def test_letters_and_truths_are_balanced_exactly_in_every_book(split, number: int) -> None:
    """Within a category every truth, every letter and every pair of the two is right equally often."""
    asked = [one for page in streetsqa.book(split, number) for one in page.questions]
    for category, (_, values) in CHOICES.items():
        mine = [one for one in asked if one.category == category]
        pairs = Counter((one.truth, one.question.options[one.truth]) for one in mine)
        assert set(pairs) == {(letter, value) for letter in LETTERS for value in values}
        assert len(set(pairs.values())) == 1
    for category in ("existence", "side"):
        texts = Counter((one.question.text, one.truth) for one in asked if one.category == category)
        assert len(set(texts.values())) == 1
        assert {text for text, _ in texts} == {text for text, truth in texts if truth == "No"}


def test_a_blind_reader_cannot_beat_chance_by_more_than_four_points(pages) -> None:
    """Neither a letter, nor a frequent value, nor the other options reveal the truth: at best 31.25 % + 4."""
    asked = [one for page in pages for one in page.questions]
    rules = {letter: [one.truth == letter or one.truth == "No" for one in asked] for letter in LETTERS}
    for place in range(8):
        favourites = {name: values[place % len(values)] for name, (_, values) in CHOICES.items()}
        rules[f"value {place}"] = [
            one.truth == "Yes"
            if one.question.kind == "yes_no"
            else one.truth == _letter_of(one.question.options, favourites[one.category])
            for one in asked
        ]
    assert len(asked) == 384
    for rule, right in rules.items():
        assert sum(right) / len(right) <= CHANCE + 0.04, rule


def _letter_of(options, favourite):
    return next((letter for letter, value in options.items() if value == favourite), "A")


def test_the_truth_of_every_question_holds_in_the_street_that_is_drawn(pages) -> None:
    """The right option names what is in the street, and yes means that it is there."""
    for page in pages:
        assert len(page.questions) == 4
        for one in page.questions:
            if one.question.kind == "choice":
                assert one.question.options[one.truth] == value_of(page.street, one.category)
                assert len(set(one.question.options.values())) == 4
            else:
                item = next(
                    item
                    for item in things.ITEMS
                    if f"the {item} " in one.question.text or f"a {item} " in one.question.text
                )
                side = page.street.items.get(item)
                true = side is not None if one.category == "existence" else f"the {side} side" in one.question.text
                assert one.truth == ("Yes" if true else "No")


def test_training_asks_one_question_of_every_category(pages) -> None:
    """The training questions have the same categories and true answers."""
    for page in pages[:20]:
        asked = streetsqa.ask_everything(page.street, SeededRandom("test", *page.seed))
        assert [one.category for one in asked] == [*CHOICES, "existence", "side"]
        for one in asked[:6]:
            assert one.question.options[one.truth] == value_of(page.street, one.category)


@pytest.mark.slow
def test_everything_in_a_question_can_be_seen(pages) -> None:
    """Each thing of a street has pixels of its own in the label map, none hidden by another, and all of them small."""
    for page in pages[:12]:
        scene, street = page.scene(), page.street
        assert scene.label_HW.shape == (street.height_px, street.width_px)
        assert min(scene.label_HW.shape) >= 256
        assert max(scene.label_HW.shape) <= 576
        counts = np.bincount(scene.label_HW.ravel(), minlength=len(LABEL))
        names = [f"light {street.light[0]} {street.light[1]}", f"sign {street.sign}"]
        names += [f"bus {street.bus}", f"coat {street.coat}", *(f"car {paint}" for paint in street.cars)]
        names += [f"{item} {side}" for item, side in street.items.items()]
        for name in names:
            assert counts[LABEL[name]] >= 60, name
        assert counts[len(things.SURFACES) :].sum() == sum(counts[LABEL[name]] for name in set(names))
        assert counts[LABEL[names[0]]] < 0.02 * counts.sum()
        assert counts[LABEL[names[1]]] < 0.02 * counts.sum()


def test_a_scene_is_drawn_the_same_again_and_differs_by_seed(pages) -> None:
    """The same page gives the same pixels and file; another seed or split gives other ones."""
    page = pages[0]
    first, second = page.scene(), page.scene()
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.label_HW, second.label_HW)
    assert camera_file(first) == camera_file(second)
    assert streetsqa.book("test", 0) == pages
    assert streetsqa.book("train", 0) != pages


@pytest.mark.slow
def test_the_splits_share_no_texture() -> None:
    """Every surface has families of its own in each split, and no sheet of one split is a sheet of the other."""
    for surface, families in textures.FAMILIES["train"].items():
        assert not set(families) & set(textures.FAMILIES["test"][surface])
        ours, theirs = textures.bank("train")[surface], textures.bank("test")[surface]
        assert not any(np.array_equal(a, b) for a in ours for b in theirs)


@pytest.mark.slow
def test_the_tsv_holds_the_samples_as_they_were_drawn(samples, pages) -> None:
    """What is read back is what was drawn, bytes and all, and has the pinned checksum."""
    few = draw_samples(pages[:8], paired=False)
    assert list(samples)[: len(few)] == few
    assert checksum(samples) == streetsqa.CHECKSUM
    assert len({sample.image_id for sample in samples}) == 96
    assert len(samples) == 384


@pytest.mark.slow
def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples) -> None:
    """A valid TSV with one changed word is a DataError that names the file: it is read and checked, not built again."""
    monkeypatch.setattr(streetsqa, "test_samples", lambda: pytest.fail("was built again"))
    path = tmp_path / f"StreetsQA-{streetsqa.CHECKSUM[:12]}.tsv"
    question = dataclasses.replace(samples[0].question, text="Is there a tram?")
    write_tsv(path, [dataclasses.replace(samples[0], question=question), *samples[1:4]])
    with pytest.raises(DataError, match=str(path)):
        streetsqa.load("StreetsQA", cache=tmp_path)


def test_a_file_that_has_passed_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages) -> None:
    """But an edited one is, and one that cannot be marked is still read."""
    few = draw_samples(pages[:1], paired=False)
    expected = checksum(few)

    def load() -> list[Sample]:
        bundled._checked.cache_clear()
        return list(load_bundled("StreetsQA", tmp_path, expected, lambda: few))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as unmarked:
        unmarked.setattr(bundled, "write_whole", full)
        assert load() == few
    assert load() == few
    with monkeypatch.context() as passed:
        passed.setattr(bundled, "checksum", lambda _: pytest.fail("was decoded again"))
        assert load() == few
    (mark,) = tmp_path.glob("*.sha256")
    mark.unlink()
    mark.mkdir()
    assert load() == few
    mark.rmdir()
    (path,) = tmp_path.glob("*.tsv")
    question = dataclasses.replace(few[0].question, text="Is there a tram?")
    write_tsv(path, [dataclasses.replace(few[0], question=question), *few[1:]])
    with pytest.raises(DataError, match="its pixels and texts have the checksum"):
        load()
