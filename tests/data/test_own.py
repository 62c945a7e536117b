"""Benchmarks of your own: a CSV beside pictures, a TSV, and their mistakes."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from harness.data import own
from harness.data.scoring import metric
from harness.data.tsv import write_tsv
from harness.errors import DataError, UnavailableError

ROWS = [
    {"image": "a.png", "question": "Which, to the left?\nThis one", "options": "red | green", "answer": "green"},
    {"image": "b.png", "question": "Is it red?", "options": "", "answer": "yes"},
    {"image": "a.png", "question": "What does it say, in one word?", "options": "", "answer": "stop"},
]

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes rows as a CSV beside two pictures, and gives the folder."""

    def write(rows: Sequence[dict[str, str]] = ROWS, columns: Sequence[str] | None = None) -> Path:
        for name, colour in (("a.png", "red"), ("b.png", "blue")):
            Image.new("RGB", (40, 30), colour).save(tmp_path / name)
        with (tmp_path / "shop.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns or list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path

    return write


def test_a_csv_beside_pictures_is_a_benchmark(written: Written, tmp_path: Path) -> None:
    """Options and truths are the CSV's, pictures the files byte for byte, and a second reading gives the same."""
    name, samples = own.load(written(), cache=tmp_path / "cache")
    assert name == "shop.csv"
    assert [sample.truth for sample in samples] == ["B", "Yes", "stop"]
    assert [sample.question.kind for sample in samples] == ["choice", "yes_no", "open"]
    assert dict(samples[0].question.options) == {"A": "red", "B": "green"}
    assert samples[0].question.text == ROWS[0]["question"]
    assert [sample.image_bytes for sample in samples] == [(tmp_path / row["image"]).read_bytes() for row in ROWS]
    assert list(own.load(tmp_path / "shop.csv", cache=tmp_path / "cache")[1]) == list(samples)
    assert metric(name).name == "accuracy (%)"


def test_a_picture_that_was_replaced_is_read_again(written: Written, tmp_path: Path) -> None:
    """The cache of the earlier picture is not used."""
    _, before = own.load(written(), cache=tmp_path / "cache")
    Image.new("RGB", (41, 30), "red").save(tmp_path / "a.png")
    _, after = own.load(tmp_path, cache=tmp_path / "cache")
    assert before[0].image_id != after[0].image_id


def test_the_metric_is_the_files_own(written: Written, tmp_path: Path) -> None:
    """It is in the benchmark's name, where the analysis finds it."""
    rows = [{**row, "metric": "pairs", "category": "signs"} for row in ROWS]
    name, samples = own.load(written(rows), cache=tmp_path / "cache")
    assert name == "shop.csv:pairs"
    assert metric(name).name == "score of pairs"
    assert samples[0].group == samples[2].group != samples[1].group


def test_a_tsv_is_a_benchmark_too(written: Written, tmp_path: Path) -> None:
    """As VLMEvalKit's own files are."""
    _, samples = own.load(written(), cache=tmp_path / "cache")
    write_tsv(tmp_path / "more.tsv", list(samples))
    name, again = own.load(tmp_path / "more.tsv", cache=None)
    assert (name, list(again)) == ("more.tsv", list(samples))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": "c.png"}, "line 5: column 'image': 'c.png' is not a file in "),
        ({"image": ""}, "line 5: column 'image': '' is not a file in "),
        ({"answer": ""}, "line 5: column 'answer': '' is not an answer"),
        ({"options": "red | green", "answer": "blue"}, "line 5: column 'answer': 'blue' is not among the options A, B"),
        ({"options": "red | | green"}, "line 5: column 'options': 'red | | green' are not 1 to 26 texts"),
        ({"question": " "}, "line 5: column 'question'"),
        ({"metric": "elo"}, "unknown metric 'elo'; known: accuracy, circular, pairs"),
    ],
)
def test_a_mistake_is_reported_with_the_users_own_file_and_line(
    written: Written, tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    """The third row begins on line 5: the first one's question has two lines."""
    rows = [*ROWS[:2], {**ROWS[2], **change}]
    if "metric" in change:
        rows = [{**row, **change} for row in ROWS]
    folder = written(rows)
    with pytest.raises(DataError) as caught:
        own.load(folder, cache=tmp_path / "cache")
    assert str(caught.value).startswith(f"{folder / 'shop.csv'}: ")
    assert sentence in str(caught.value)


def test_two_metrics_are_refused(written: Written, tmp_path: Path) -> None:
    """With the line that differs."""
    rows = [{**row, "metric": name} for row, name in zip(ROWS, ("pairs", "pairs", "accuracy"), strict=True)]
    with pytest.raises(DataError, match="line 5: column 'metric': 'accuracy' differs from 'pairs'"):
        own.load(written(rows), cache=tmp_path / "cache")


def test_a_damaged_picture_is_named(written: Written, tmp_path: Path) -> None:
    """Before anything is computed, and it is not cached."""
    folder = written()
    (folder / "b.png").write_bytes(b"no picture" * 20)
    for _ in range(2):
        with pytest.raises(DataError, match=r"shop\.csv: line 4: .*sample 2: its picture cannot be decoded"):
            own.load(folder, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["nothing", "nothing.tsv", "empty/"])
def test_what_is_absent_is_unavailable(tmp_path: Path, name: str) -> None:
    """So that a stand-in can replace it."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnavailableError, match=str(tmp_path)):
        own.load(tmp_path / name, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["shop.csv", "shop.tsv"])
def test_a_column_that_is_named_twice_is_refused(tmp_path: Path, name: str) -> None:
    """One of the two would be taken silently."""
    separator = "\t" if name.endswith(".tsv") else ","
    rows = [("image", "question", "answer", "answer"), ("a.png", "Is it red?", "yes", "no")]
    (tmp_path / name).write_text("".join(f"{separator.join(row)}\n" for row in rows))
    with pytest.raises(DataError, match=f"{name}: line 1: the header names the column 'answer' twice"):
        own.load(tmp_path / name, cache=tmp_path / "cache")


def test_a_header_that_lacks_a_column_names_it(written: Written, tmp_path: Path) -> None:
    """With the columns that were found."""
    with pytest.raises(DataError, match=r"the header lacks answer; .* found: image, question"):
        own.load(written([{"image": "a.png", "question": "?"}]), cache=tmp_path / "cache")
