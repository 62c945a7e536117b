"""Samples of several benchmarks: chosen by whole images, distinguished by name, read when needed."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from harness.data.gathered import gather
from harness.data.pictures import digest
from harness.data.sample import Name, Question, Sample
from harness.data.tsv import read_tsv
from harness.errors import DataError, ScenarioError
from harness.stock import Stock


def picture(number: int) -> bytes:
    """A small picture as a file, a different one for each number."""
    file = io.BytesIO()
    Image.new("L", (9, 7), number).save(file, "PNG")
    return file.getvalue()


def samples(questions_of_images: Sequence[int]) -> list[Sample]:
    """A number of questions on each image."""
    question = Question(text="?", kind="yes_no")
    return [
        Sample(
            id=f"{image}-{q}",
            image_bytes=picture(image),
            question=question,
            truth="Yes",
            category="c",
            group=f"g{image}",
        )
        for image, count in enumerate(questions_of_images)
        for q in range(count)
    ]


def test_some_are_whole_images_in_the_files_order() -> None:
    """Never more than requested, never half an image, the same for the same seed, and not the file's beginning."""
    every = samples([2, 3, 2, 4, 2, 3, 2, 2])
    chosen = list(gather({"x": every}, 9, seed=1))
    assert len(chosen) <= 9
    places = [every.index(sample) for sample in chosen]
    assert places == sorted(places)
    for image in {sample.image_id for sample in chosen}:
        assert [s for s in every if s.image_id == image] == [s for s in chosen if s.image_id == image]
    assert chosen == list(gather({"x": every}, 9, seed=1))
    assert len({tuple(s.id for s in gather({"x": every}, 9, seed=seed)) for seed in range(8)}) > 1


def test_some_are_whole_groups() -> None:
    """Groups across images, as rotations that were drawn anew: a half would be scored as if it were the whole."""
    every = [dataclasses.replace(sample, group=f"g{place % 6}") for place, sample in enumerate(samples([1] * 18))]
    for seed in range(8):
        chosen = list(gather({"x": every}, 10, seed=seed))
        assert len(chosen) == 9
        for group in {sample.group for sample in chosen}:
            assert [s for s in every if s.group == group] == [s for s in chosen if s.group == group]
    with pytest.raises(ScenarioError, match="give at least 3, as --limit 3"):
        gather({"x": every}, 2)


def test_fewer_than_one_image_has_is_a_sentence() -> None:
    """No question would be left."""
    with pytest.raises(
        ScenarioError, match=r"samples: 1 is too few for x, .* 2 or more questions; give at least 2, as --limit 2"
    ):
        gather({"x": samples([3, 2])}, 1)


def test_all_where_none_are_left_out() -> None:
    """No limit, and a limit beyond the benchmark."""
    every = samples([2, 1])
    assert list(gather({"x": every})) == every
    assert list(gather({"x": every}, 50)) == every
    assert gather({"x": every})[1:] == every[1:]


def test_several_benchmarks_are_distinguished() -> None:
    """Ids get their benchmark's name; a picture and a group keep their own; the limit is each benchmark's."""
    both = gather({"X": samples([2, 2, 2]), "Y": samples([2, 2])}, 4, seed=3)
    assert [name.benchmark for name in both.names] == ["X"] * 4 + ["Y"] * 4
    for sample, name in zip(both, both.names, strict=True):
        assert name.id == f"{name.benchmark}/{name.own_id}"
        assert name == dataclasses.replace(Name.of(sample, name.benchmark), own_id=name.own_id)
        assert sample.group.startswith("g")
    assert len({name.id for name in both.names}) == 8
    assert {name.image_id for name in both.names} <= {digest([picture(image)]) for image in range(3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A TSV of six questions on one picture under three names, one of them its row's."""
    picture = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    rows = [f"{i}\t{i - 1 if i % 2 else image}\tIs it?\tYes\t{'' if i > 3 else f'p{i // 2}'}\n" for i in range(6)]
    path = tmp_path / "b.tsv"
    path.write_text("index\timage\tquestion\tanswer\timage_path\n" + "".join(rows))
    return path


def test_a_files_names_need_no_picture(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from the file's index alone, and are those of the samples."""
    read = read_tsv(file, "RealWorldQA")
    known = [Name.of(sample, "RealWorldQA") for sample in read]
    with monkeypatch.context() as patched:
        patched.setattr(Sample, "images", lambda _: pytest.fail("a picture was decoded"))
        names = gather({"x": read}).names
    assert names == known
    assert len({name.image_id for name in names}) == 1
    assert read[1:4].names == known[1:4]


def test_questions_without_a_score_are_refused_before_they_are_asked(tmp_path: Path) -> None:
    """A few questions of MME may all be of subtasks that its score does not count."""
    path = tmp_path / "MME.tsv"
    rows = "".join(
        f"{i}\t{base64.b64encode(picture(i)).decode()}\tIs it?\tYes\t{category}\n"
        for i, category in enumerate(["code_reasoning"] * 3 + ["count"])
    )
    path.write_text(f"index\timage\tquestion\tanswer\tcategory\n{rows}")
    said = set()
    for seed in range(6):
        scenario: Any = SimpleNamespace(samples=1, seed=seed)
        stock = Stock(
            scenario=scenario,
            benchmarks={"MME": read_tsv(path, "MME")},
            backbone="",
            stand_ins={},
            absent=[],
            points={},
            depends={},
            links={},
        )
        try:
            said.add(stock.samples.names[0].category)
        except DataError as error:
            said.add(str(error))
    (refused,) = said - {"count"}
    assert refused.startswith("samples: 1 of MME are asked, and no answer belongs to a subtask of MME perception: ")
