"""Benchmarks of your own: a CSV beside pictures, a TSV, and their mistakes."""

import base64
import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from harness.data import own
from harness.data.scoring import metric
from harness.data.tsv_writer import write_tsv
from harness.errors import DataError, UnavailableError

TINY = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
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


def test_a_picture_of_the_same_size_and_time_is_read_again(written: Written, tmp_path: Path) -> None:
    """As one that was unpacked over another: archives set times, and pictures of one form have one size."""
    colours = []
    for colour in ("red", "blue"):
        rows = [{"image": "a.bmp", "question": "Is it red?", "options": "", "answer": "yes"}]
        Image.new("RGB", (40, 30), colour).save(tmp_path / "a.bmp")
        os.utime(tmp_path / "a.bmp", (1e9, 1e9))
        colours.append(own.load(written(rows), cache=tmp_path / "cache")[1][0].image().getpixel((0, 0)))
    assert colours == [(255, 0, 0), (0, 0, 255)]


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
        ({"image": "a" * 300}, "line 5: column 'image': 'aaaa"),
        ({"image": "a.png | c.png"}, "line 5: column 'image': 'c.png' is not a file in "),
        ({"answer": ""}, "line 5: column 'answer': '' is not an answer"),
        (
            {"options": "red|red", "answer": "red"},
            "line 5: column 'answer': 'red' is the text of the options A, B; give",
        ),
        ({"options": "B | A", "answer": "A"}, "line 5: column 'answer': 'A' is an option's letter, and the text of B;"),
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


def test_lines_are_the_csvs_own(tmp_path: Path) -> None:
    """Blank lines and quoted fields of several lines count, and the cached file is not named."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = ['a.png,"Is it\nred?",yes,', "", "", "a.png,Which one?,Z,red | green"]
    (tmp_path / "shop.csv").write_text("\n".join(["image,question,answer,options", *rows]))
    with pytest.raises(DataError) as caught:
        own.load(tmp_path, cache=tmp_path / "cache")
    sentence = "line 6: column 'answer': 'Z' is not among the options A, B"
    assert str(caught.value) == f"{tmp_path / 'shop.csv'}: {sentence}"
    (tmp_path / "shop.csv").write_text("image,question,answer\n")
    with pytest.raises(DataError, match=r"shop\.csv: there is a header and no row"):
        own.load(tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [
        (("x", "", "x"), "line 5: column 'index': 'x' is already the index of line 2; an index is given once"),
        (("2", "", ""), "line 4: column 'index': '' stands for the row's number, 2, which is the index of line 2"),
        (("", "", "1"), "line 5: column 'index': '1' is the number of the row on line 2, which has no index"),
    ],
)
def test_an_index_that_is_given_twice_is_named_as_it_was_written(
    written: Written, tmp_path: Path, indices: tuple[str, ...], sentence: str
) -> None:
    """A row's number stands for an index that it does not have, and no sentence says that the user wrote it."""
    rows = [{**row, "index": index} for row, index in zip(ROWS, indices, strict=True)]
    with pytest.raises(DataError, match=sentence):
        own.load(written(rows), cache=tmp_path / "cache")


def test_an_answer_that_is_a_letter_is_the_letter_in_columns(written: Written, tmp_path: Path) -> None:
    """Also where it is another option's text; and a text is one without the spaces around it."""
    rows = [{"image": "a.png", "question": "Which?", "A": "B", "B": " A", "answer": answer} for answer in ("A", "B")]
    rows += [{**rows[0], "A": "red", "B": " green", "answer": "green"}]
    _, samples = own.load(written(rows), cache=tmp_path / "cache")
    assert [sample.truth for sample in samples] == ["A", "B", "B"]


def test_a_row_may_have_several_pictures(written: Written, tmp_path: Path) -> None:
    """In order, with | between their names; an index of any length refers to nothing else."""
    rows = [{**ROWS[1], "image": "b.png | a.png", "index": "x" * 70}, {**ROWS[1], "image": "b.png|a.png", "index": "y"}]
    _, samples = own.load(written(rows), cache=tmp_path / "cache")
    files = tuple((tmp_path / name).read_bytes() for name in ("b.png", "a.png"))
    assert [sample.files for sample in samples] == [files, files]
    assert samples[0].question.pictures == 2


def test_a_tiny_picture_is_one(written: Written, tmp_path: Path) -> None:
    """Of 37 bytes, which in base64 are as few characters as an index may have."""
    folder = written([{**ROWS[1], "image": "tiny.gif"}, {**ROWS[1], "image": "tiny.gif"}])
    (folder / "tiny.gif").write_bytes(TINY)
    _, samples = own.load(folder, cache=tmp_path / "cache")
    assert [sample.image().getpixel((0, 0)) for sample in samples] == [(255, 255, 255)] * 2
    assert samples[0].image_bytes == TINY


def test_a_turned_or_animated_picture_is_shown_as_a_viewer_shows_it(written: Written, tmp_path: Path) -> None:
    """Turned as its EXIF says, and the first of an animation; sizes are those shown."""
    folder = written([{**ROWS[1], "image": name} for name in ("turned.jpg", "moving.gif")])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(folder / "turned.jpg", exif=exif)
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("blue", "red")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    _, samples = own.load(folder, cache=tmp_path / "cache")
    assert [sample.image().size for sample in samples] == [(30, 40), (12, 10)]
    assert [sample.sizes_px for sample in samples] == [[(30, 40)], [(12, 10)]]
    assert samples[1].image().getpixel((0, 0)) == (0, 0, 255)


def cut_jpeg() -> bytes:
    """A JPEG whose header is whole, and whose end is not there."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    return file.getvalue()[:-600]


@pytest.mark.parametrize(("image", "which"), [("cut.jpg", "its picture"), ("a.png | cut.jpg", "picture 2 of 2")])
def test_a_picture_that_cannot_be_decoded_is_named(written: Written, tmp_path: Path, image: str, which: str) -> None:
    """With the CSV, the line and its own file's name, when its sample is read: its header is sound."""
    folder = written([ROWS[1], {**ROWS[1], "image": image}])
    (folder / "cut.jpg").write_bytes(cut_jpeg())
    _, samples = own.load(folder, cache=tmp_path / "cache")
    names = ", ".join(repr(name.strip()) for name in image.split("|"))
    place = f"{folder / 'shop.csv'}: line 3: column 'image': {names}: sample 2: {which} cannot be decoded: "
    with pytest.raises(DataError) as caught:
        list(samples)
    assert str(caught.value).startswith(place)


def test_an_empty_picture_is_named(written: Written, tmp_path: Path) -> None:
    """By its own name."""
    folder = written([{**ROWS[1], "image": "empty.png"}])
    (folder / "empty.png").touch()
    with pytest.raises(DataError, match=r"line 2: column 'image': 'empty\.png' is an empty file"):
        own.load(folder, cache=tmp_path / "cache")


def test_options_in_one_column_of_a_tsv_are_refused(written: Written, tmp_path: Path) -> None:
    """Its questions would be asked without their options, as open ones."""
    image = base64.b64encode((written() / "a.png").read_bytes()).decode()
    file = tmp_path / "mine.tsv"
    for options in ("", "red|green"):
        file.write_text(f"index\timage\tquestion\toptions\tanswer\n1\t{image}\tWhich?\t{options}\tA\n")
        if options:
            with pytest.raises(DataError, match=r"mine.tsv: line 2: column 'options': 'red\|green' would not be shown"):
                own.load(file, cache=None)
        else:
            assert own.load(file, cache=None)[1][0].question.kind == "open"


def test_two_metrics_are_refused(written: Written, tmp_path: Path) -> None:
    """With the line that differs."""
    rows = [{**row, "metric": name} for row, name in zip(ROWS, ("pairs", "pairs", "accuracy"), strict=True)]
    with pytest.raises(DataError, match="line 5: column 'metric': 'accuracy' differs from 'pairs'"):
        own.load(written(rows), cache=tmp_path / "cache")


def test_a_pair_in_two_categories_is_refused(written: Written, tmp_path: Path) -> None:
    """Its score is a sum over categories, and a pair belongs to one of them."""
    rows = [
        {**row, "metric": "pairs", "group": "g", "category": category}
        for row, category in zip(ROWS, "aab", strict=True)
    ]
    said = r"line 5: column 'category': 'b' is a second category of the group 'g', whose line 2 has 'a'"
    with pytest.raises(DataError, match=said):
        own.load(written(rows), cache=tmp_path / "cache")
    assert len(own.load(written([{**row, "metric": "accuracy"} for row in rows]), cache=tmp_path / "cache")[1]) == 3


@pytest.mark.parametrize(
    ("metric", "shared", "sentence"),
    [
        ("circular", {}, r"circular accuracy \(%\), and no two of its 3 rows are of one group"),
        ("pairs", {"category": "abc"}, r"score of pairs, and no two of its 3 rows are of one group"),
        ("circular", {"index": ("1", "1000001", "2")}, ""),
        ("circular", {"group": "xyx"}, ""),
        ("accuracy", {}, ""),
    ],
)
def test_a_metric_of_groups_needs_one(
    written: Written, tmp_path: Path, metric: str, shared: dict[str, Sequence[str]], sentence: str
) -> None:
    """If every row were its own group, its score would be an accuracy under another name."""
    rows = [
        {**row, "metric": metric, **{column: values[place] for column, values in shared.items()}}
        for place, row in enumerate(ROWS)
    ]
    folder = written(rows)
    if sentence:
        with pytest.raises(DataError, match=sentence):
            own.load(folder, cache=tmp_path / "cache")
    else:
        assert len(own.load(folder, cache=tmp_path / "cache")[1]) == 3


def test_a_blank_option_is_none(written: Written, tmp_path: Path) -> None:
    """A text of blanks would be found in every answer of several words."""
    row = {"image": "a.png", "question": "Which?", "A": "red one", "B": "  ", "C": "blue", "answer": "A"}
    _, (sample,) = own.load(written([row]), cache=tmp_path / "cache")
    assert dict(sample.question.options) == {"A": "red one", "C": "blue"}


def test_a_damaged_picture_is_named(written: Written, tmp_path: Path) -> None:
    """Before anything is computed, and it is not cached."""
    folder = written()
    (folder / "b.png").write_bytes(b"no picture" * 20)
    for _ in range(2):
        with pytest.raises(DataError, match=r"shop\.csv: line 4: .*sample 2: its picture cannot be decoded"):
            own.load(folder, cache=tmp_path / "cache")


def test_every_mistake_is_reported(
    written: Written, tmp_path: Path, harness: Callable[..., tuple[int, str, str]]
) -> None:
    """Those of the rows, or where these are right of the pictures; of more than a hundred the rest is counted."""
    twice = {**ROWS[0], "options": "red | red", "answer": "red"}
    folder = written([twice, ROWS[1], {**ROWS[2], "image": "c.png"}])
    with pytest.raises(DataError) as caught:
        own.load(folder, cache=tmp_path / "cache")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{folder / 'shop.csv'}: line 2: column 'answer': 'red' ")
    assert second.startswith(f"{folder / 'shop.csv'}: line 5: column 'image': 'c.png' ")
    written()
    (folder / "a.png").write_bytes(cut_jpeg())
    (folder / "b.png").write_bytes(cut_jpeg())
    (folder / "pictures").mkdir()
    for file in ("a.png", "b.png", "shop.csv"):
        (folder / "pictures" / file).write_bytes((folder / file).read_bytes())
    assert "pictures/shop.csv: line 2: " in harness("data", "check", "pictures")[2]
    status, _, err = harness("data", "check", f"{folder}/")
    assert (status, len(err.splitlines())) == (2, 3)
    assert [f"line {line}: " in told for line, told in zip((2, 4, 2), err.splitlines(), strict=True)] == [True] * 3
    written([twice] * 103)
    with pytest.raises(DataError, match=r"shop\.csv: and 3 more mistakes$"):
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


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    """Wherever the file is read in pieces."""
    rows = "".join(f"a.png,question {n},yes\n" for n in range(3000))
    (tmp_path / "shop.csv").write_bytes(f"image,question,answer\n{rows}a.png,caf\xe9,yes\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"shop.csv: line 3002: byte 0xe9 at place 10 of the line is not UTF-8"):
        own.load(tmp_path, cache=tmp_path / "cache")


def test_rows_that_are_wrong_in_form_are_reported_with_the_others(written: Written, tmp_path: Path) -> None:
    """A number of fields, a question, an answer and a picture."""
    path = written() / "shop.csv"
    lines = ["a.png,q,yes,more", "a.png,,yes", "a.png,q,", "c.png,q,yes", "a.png,q", "a.png,q,yes"]
    path.write_text("\n".join(["image,question,answer", *lines]))
    with pytest.raises(DataError) as caught:
        own.load(path, cache=tmp_path / "cache")
    assert str(caught.value).splitlines() == [
        f"{path}: line 2: the row has 4 fields and the header 3; a field that holds a comma is quoted",
        f"{path}: line 3: column 'question': '' is not a question",
        f"{path}: line 4: column 'answer': '' is not an answer; without one nothing can be scored",
        f"{path}: line 5: column 'image': 'c.png' is not a file in {tmp_path}; several have | between them",
        f"{path}: line 6: the row has 2 fields and the header 3; a field that holds a comma is quoted",
    ]
