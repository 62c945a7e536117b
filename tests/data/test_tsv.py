"""Reading VLMEvalKit's TSV."""

import base64
import csv
import dataclasses
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.data.pictures import digest
from harness.data.sample import Name, Question, Sample
from harness.data.tsv import read_tsv
from harness.errors import DataError

SHARED = Path(__file__).parents[2] / "../shared/data/vqa/MMBench_samples.tsv"


def png(colour="red", size=(9, 7)):
    """A picture of one colour as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


RED = base64.b64encode(png()).decode()
HEADER = "index\timage\tquestion\tA\tB\tanswer\tcategory\n"
FIRST = f"1\t{RED}\tWhich?\tcat\tdog\tB\tanimals\n"


@pytest.fixture
def tsv(tmp_path):
    """Writes a file's text or bytes, and returns its path."""
    path = tmp_path / "RealWorldQA.tsv"

    def write(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_row_becomes_a_sample(tsv) -> None:
    """Every column goes to its field, and the image is the original file, byte for byte."""
    text = f"index\timage\tquestion\thint\tA\tB\tC\tanswer\tcategory\n7\t{RED}\tWhich?\tLook.\tcat\tdog\t\tB\tanimals\n"
    (sample,) = read_tsv(tsv(text), "RealWorldQA")
    assert sample == Sample(
        id="7",
        image_bytes=png(),
        question=Question(text="Which?", kind="choice", options={"A": "cat", "B": "dog"}, hint="Look."),
        truth="B",
        category="animals",
        group="7",
    )
    assert sample.image().size == (9, 7)
    assert sample.image_id == digest([png()])


def test_short_image_values_refer_to_rows(tsv) -> None:
    """A row may show another row's image, whichever of the two comes first."""
    samples = read_tsv(tsv(HEADER + "1\t2\tWhich?\tcat\tdog\tA\tx\n2" + FIRST[1:]), "RealWorldQA")
    assert [s.image_id for s in samples] == [digest([png()])] * 2
    assert samples[0].image_bytes == samples[1].image_bytes == png()


def test_mme_pairs_share_a_picture(tsv) -> None:
    """MME's rows are yes/no questions, grouped by subtask, image_path and what is shown."""
    rows = "".join(
        f"{i}\t{RED}\tIs it?\t{a}\tcount\tp/{i // 2}.jpg\n" for i, a in enumerate(("Yes", "No", "YES", "no"))
    )
    name = digest([png()])
    samples = read_tsv(tsv("index\timage\tquestion\tanswer\tcategory\timage_path\n" + rows), "MME")
    assert [s.truth for s in samples] == ["Yes", "No", "Yes", "No"]
    assert {s.question.kind for s in samples} == {"yes_no"}
    assert [s.group for s in samples] == [f"count/p/0.jpg/{name}"] * 2 + [f"count/p/1.jpg/{name}"] * 2
    assert {s.image_id for s in samples} == {name}


@pytest.mark.parametrize("benchmark", ["RealWorldQA", "MME"])
def test_an_image_path_does_not_make_two_pictures_one(tsv, benchmark: str) -> None:
    """Rows that share an image_path and show different pictures differ in identity and in MME's pairs."""
    blue = base64.b64encode(png("blue")).decode()
    shown = [RED, blue, RED, "1", blue]
    rows = "".join(f"{i}\t{image}\tIs it?\tYes\tcount\tsame.jpg\n" for i, image in enumerate(shown))
    samples = read_tsv(tsv("index\timage\tquestion\tanswer\tcategory\timage_path\n" + rows), benchmark)
    red, other = digest([png()]), digest([png("blue")])
    expected = [red, other, red, other, other]
    assert [s.image_id for s in samples] == expected
    assert [s.image().getpixel((0, 0)) for s in samples] == [(255, 0, 0) if i == red else (0, 0, 255) for i in expected]
    if benchmark == "MME":
        assert [s.group for s in samples] == [f"count/same.jpg/{image_id}" for image_id in expected]
    else:
        assert [s.group for s in samples] == list("01234")


def test_a_name_describes_its_sample(tsv) -> None:
    """Identity, sizes as shown, bytes and texts are known from the index alone, and are those of the sample."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
    turned = base64.b64encode(file.getvalue()).decode()
    header = "index\timage\tquestion\thint\tA\tB\tanswer\tcategory\n"
    rows = f"1\t['{RED}','{turned}']\tWhich?\tLóok.\tcat\tdog\tB\tanimals\n2\t1\tWhy?\t\t\t\tno\tx\n"
    samples = read_tsv(tsv(header + rows), "MMStar")
    assert samples.names == [Name.of(sample, "MMStar") for sample in samples]
    first, second = samples.names
    assert first.sizes_px == second.sizes_px == ((9, 7), (20, 30))
    assert (first.width_px, first.height_px) == samples[0].images()[0].size
    assert first.original_bytes == len(png()) + len(file.getvalue())
    assert first.text_bytes == len("Lóok.\nWhich?\nA. cat\nB. dog".encode())
    assert (second.text_bytes, second.category, second.group) == (4, "x", "2")
    assert first.image_id == digest([png(), file.getvalue()])
    assert samples[1:].names == [second]


def test_quoted_fields_hold_tabs_line_ends_and_quotes(tsv) -> None:
    """Offsets follow rows, not lines: the row after a quoted field with line ends is still found."""
    rows = '1\tIMAGE\t"a\tb\nc ""d""\r\ne"\tcat\tdog\tB\tx\n2\tIMAGE\tNext?\tcat\tdog\tA\tx\n'.replace("IMAGE", RED)
    samples = read_tsv(tsv(HEADER + rows), "RealWorldQA")
    assert samples[1].question.text == "Next?"
    assert samples[0].question.text == 'a\tb\nc "d"\r\ne'


@pytest.mark.parametrize(
    "dressed",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n\n" + text.replace(b"\n", b"\n\n"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(RED.encode(), f"['{RED}']".encode()),
    ],
    ids=["byte order mark", "CR/LF", "blank lines", "no last line end", "a list of one image"],
)
def test_harmless_differences(tsv, dressed) -> None:
    """Files that differ only in how they were saved read the same."""
    (sample,) = read_tsv(tsv(dressed((HEADER + FIRST).encode())), "RealWorldQA")
    assert (sample.id, sample.truth, sample.image_bytes) == ("1", "B", png())


DAMAGE = [
    (b"", "the file is empty; a header with index, image, question, answer is expected"),
    (HEADER, "there is a header and no row"),
    ("index\tquestion\tanswer\n", "line 1: the header lacks image"),
    ("a,b,c\n1,2,3\n", "line 1: the header lacks index, image, question, answer.*'a,b,c'"),
    (HEADER.replace("category", "answer") + FIRST, "line 1: the header names the column 'answer' twice"),
    (HEADER + FIRST + "2\tx\n", "line 3: the row has 2 fields and the header 7; its first is '2'"),
    (HEADER + FIRST.rstrip("\n") + "\textra\n", "line 2: the row has 8 fields and the header 7"),
    (HEADER + FIRST[1:], "line 2: column 'index': '' is not an index"),
    (HEADER + FIRST + FIRST, "line 3: column 'index': '1' is already the index of line 2"),
    (HEADER + FIRST.replace(RED, RED[:70]), r"line 2: column 'image': '.{37}\.\.\.' is not base64"),
    (HEADER + FIRST.replace(RED, "é" * 80), r"line 2: column 'image': .* is not base64"),
    (
        HEADER + FIRST.replace(RED, "nowhere"),
        "line 2: column 'image': 'nowhere' is not the index of a row with an image",
    ),
    (HEADER + FIRST.replace(RED, "1"), "line 2: column 'image': '1' is not the index of a row with an image"),
    (HEADER + FIRST.replace(RED, ""), "line 2: column 'image': '' is not the index of a row with an image"),
    (HEADER + FIRST.replace(RED, f"['{RED}','']"), "line 2: column 'image': .* is a list of 2 images, one of .* empty"),
    (HEADER + FIRST.replace(RED, f"['{RED}','é{RED}']"), "line 2: column 'image': .* is not base64"),
    (HEADER + FIRST.replace("\tB\t", "\tE\t"), "line 2: column 'answer': 'E' is not among the options A, B"),
    (HEADER + FIRST.replace("\tB\t", "\t\t"), "line 2: column 'answer': '' is not among the options A, B"),
    (f"index\timage\tquestion\tanswer\n1\t{RED}\tWhy?\t\n", "line 2: column 'answer': '' is not an answer"),
    (HEADER + FIRST.replace("Which?", " "), "line 2: column 'question': ' ' is not a question"),
    (HEADER + FIRST.replace("Which?", "Wh\0ch?"), "line 2: there is a NUL at place"),
    ((HEADER + FIRST).encode("utf-16"), "line 1: byte 0xff at place 1 of the line is not UTF-8"),
    ((HEADER + FIRST).replace("dog", "chien abîmé").encode("latin-1"), "line 2: byte 0xee at place .* is not UTF-8"),
    (HEADER + FIRST.replace("Which?", '"Which?'), "line 2: the row that begins here is not tab-separated text"),
    (HEADER + FIRST + FIRST.replace("Which?", '"Wh"ich?'), "line 3: the row that begins here is not tab-separated"),
    ((HEADER + FIRST).replace("\n", "\r"), r"line 1: .* not tab-separated text: it holds a carriage return \(CR\)"),
]


@pytest.mark.parametrize(("text", "sentence"), DAMAGE)
def test_damage_is_named_with_its_place(tsv, text: str, sentence: str) -> None:
    """Every kind of damage is refused when the file is opened, with one sentence that says where it is."""
    path = tsv(text)
    with pytest.raises(DataError, match=sentence) as refusal:
        read_tsv(path, "RealWorldQA")
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_every_wrong_row_is_reported(tsv) -> None:
    """Each at its line with the first thing that is wrong; a right row that refers to a wrong one is no mistake."""
    wrong = {
        3: (f"2\t{RED}\tWhich?\tcat\tdog\tE\tx", "column 'answer': 'E' is not among the options A, B"),
        4: (f"3\t{'no picture' * 9}\tWhich?\tcat\tdog\tA\tx", "column 'image': .* is not base64"),
        5: ("4\t3\tWhich?\tcat\tdog\tA\tx", None),
        6: (f"1\t{RED}\tWhich?\tcat\tdog\tA\tx", "column 'index': '1' is already the index of line 2"),
        7: ("6\t4\tWhich?\tcat\tdog\tA\tx", "column 'image': '4' is not the index of a row with an image"),
        8: (f"7\t{RED}\t \tcat\tdog\tA\tx", "column 'question': ' ' is not a question"),
    }
    text = HEADER + FIRST + "".join(f"{row}\n" for row, _ in wrong.values())
    sentences = {line: sentence for line, (_, sentence) in wrong.items() if sentence}
    for last, more in (("", {}), ("9\tx\n", {9: "the row has 2 fields"}), ('9\t"x"y\n', {9: "the row that begins"})):
        path = tsv(text + last)
        with pytest.raises(DataError) as caught:
            read_tsv(path, "RealWorldQA")
        lines = str(caught.value).splitlines()
        expected = sentences | more
        for said, (line, sentence) in zip(lines, sorted(expected.items()), strict=True):
            assert re.match(f"{re.escape(str(path))}: line {line}: {sentence}", said)


def test_at_most_a_hundred_mistakes_are_printed(tsv) -> None:
    """And the number of the others."""
    rows = "".join(f"{n}\t{RED}\tWhich?\tcat\tdog\tE\tx\n" for n in range(130))
    path = tsv(HEADER + rows)
    with pytest.raises(DataError) as caught:
        read_tsv(path, "RealWorldQA")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (101, f"{path}: and 30 more mistakes")


@pytest.mark.parametrize(
    "content",
    [b"no picture" * 20, b"\x89PNG\r\n\x1a\n" + bytes(100), b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(100), png()[:30] * 3],
)
def test_what_is_no_picture_is_refused_with_the_file(tsv, content) -> None:
    """Headers are read when the file is opened: another format or a broken one has file, line and column."""
    path = tsv(HEADER + FIRST.replace(RED, base64.b64encode(content).decode()))
    with pytest.raises(
        DataError, match=r"RealWorldQA.tsv: line 2: column 'image': sample 1: its picture .*"
    ) as refusal:
        read_tsv(path, "RealWorldQA")
    assert "\n" not in str(refusal.value)


def test_an_image_that_does_not_decode(tsv) -> None:
    """Pixels are read when a sample is used: the error names file, line, column, sample and picture."""
    file = io.BytesIO()
    Image.effect_noise((90, 70), 80).save(file, "JPEG")
    cut = base64.b64encode(file.getvalue()[:-900]).decode()
    samples = read_tsv(tsv(HEADER + FIRST.replace(RED, f"['{RED}','{cut}']")), "RealWorldQA")
    sentence = r"tsv: line 2: column 'image': sample 1: picture 2 of 2 cannot be decoded: its \d+ bytes are not a whole"
    with pytest.raises(DataError, match=sentence):
        samples[0]


def test_a_picture_beyond_the_limit_is_refused_with_the_file(tsv) -> None:
    """The limit is the caller's, checked by the header, and stays with the sample."""
    path = tsv(HEADER + FIRST)
    with pytest.raises(DataError, match=r"line 2: column 'image': sample 1: .*: it has 9 x 7 px, more than the 62 px"):
        read_tsv(path, "RealWorldQA", max_pixels=62)
    (sample,) = read_tsv(path, "RealWorldQA", max_pixels=63)
    with pytest.raises(
        DataError, match="sample 1: its picture cannot be decoded: it has 9 x 7 px, more than the 62 px"
    ):
        dataclasses.replace(sample, max_pixels=62).images()


@pytest.mark.parametrize(
    ("before", "after"),
    [(RED, base64.b64encode(png("blue")).decode()), ("\tB\tanimals", "\tA\tanimals"), ("Which", "Whose")],
)
def test_a_row_replaced_after_opening(tsv, before: str, after: str) -> None:
    """A picture, a truth or a word that has changed since the file was opened is an error, not another sample."""
    path = tsv(HEADER + FIRST)
    samples = read_tsv(path, "RealWorldQA")
    tsv(HEADER + FIRST.replace(before, after))
    with pytest.raises(DataError, match="line 2 has changed; the file was modified while it was read"):
        samples[0]


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory and an absent file are refused in one sentence."""
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_tsv(tmp_path, "RealWorldQA")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_tsv(tmp_path / "absent.tsv", "RealWorldQA")


def test_a_file_truncated_after_opening(tsv) -> None:
    """A row removed since the file was opened is an error, not another row."""
    path = tsv(HEADER + FIRST + "2" + FIRST[1:])
    samples = read_tsv(path, "RealWorldQA")
    tsv(HEADER + FIRST)
    with pytest.raises(DataError, match="line 3 is no longer there"):
        samples[1]


def test_it_is_a_sequence(tsv) -> None:
    """Length, negative indices, slices and iteration are those of a list of the same samples."""
    samples = read_tsv(tsv(HEADER + "".join(f"{i}{FIRST[1:]}" for i in range(7))), "RealWorldQA")
    listed = list(samples)
    assert len(samples) == len(listed) == 7
    assert samples[-2] == listed[-2]
    assert list(samples[5:1:-2]) == listed[5:1:-2]
    assert list(samples[2:][1:3]) == listed[2:][1:3]
    with pytest.raises(IndexError):
        samples[7]


MMMU = "index\timage\tquestion\tA\tB\tanswer\tcategory\n"
PAIR = str([RED, base64.b64encode(png("blue")).decode()])


def test_several_pictures_and_open_questions(tsv) -> None:
    """MMMU's rows hold a list of pictures and marks for them, and a row without options is an open question."""
    rows = (
        f"dev_1\t{PAIR}\tHow does <image 1> differ from <image 2>?\tcat\tdog\tB\tArt\n"
        f"val_2\tdev_1\tWhich is it, <image 2>?\t\t\tYes\tArt\n"
        f"val_3\t['{RED}']\tSee <image 1>.\t\t\t3.5\tArt\n"
    )
    first, second, third = samples = read_tsv(tsv(MMMU + rows), "MMMU_DEV_VAL")
    assert first.files == (png(), png("blue"))
    assert [picture.getpixel((0, 0)) for picture in first.images()] == [(255, 0, 0), (0, 0, 255)]
    assert second.files == first.files
    assert second.image_id == first.image_id == digest([png(), png("blue")])
    assert [s.question.kind for s in samples] == ["choice", "open", "open"]
    assert [s.truth for s in samples] == ["B", "Yes", "3.5"]
    assert [s.question.pictures_named() for s in samples] == [[1, 2], [2], [1]]
    assert third.files == (png(),)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("<image 3>?", "line 2: column 'question': '<image 3>' is shown, but the row has 2 images"),
        ("<image 0>?", "line 2: column 'question': '<image 0>' is shown, but pictures are counted from 1"),
    ],
)
def test_a_mark_without_a_picture_is_refused(tsv, question, sentence: str) -> None:
    """A question that shows a picture which its row lacks is refused; in other benchmarks the mark is text."""
    path = tsv(MMMU + f"1\t{PAIR}\t{question}\tcat\tdog\tB\tArt\n")
    with pytest.raises(DataError, match=sentence):
        read_tsv(path, "MMMU_DEV_VAL")
    assert read_tsv(path, "MMStar")[0].question.pictures_named() == []


def test_rotations_are_found_by_the_index(tsv) -> None:
    """Rows that share their index modulo one million are one question, and an index that is no number is refused."""
    rows = "".join(f"{i}{FIRST[1:]}" for i in (17, 18, 1000017, 3000017))
    assert [s.group for s in read_tsv(tsv(HEADER + rows), "MMBench_DEV_EN")] == ["17", "18", "17", "17"]
    with pytest.raises(DataError, match="line 2: column 'index': the index 'x' is not a whole number"):
        read_tsv(tsv(HEADER + "x" + FIRST[1:]), "MMBench_DEV_EN")


def test_the_process_keeps_its_csv_limit(tsv) -> None:
    """Reading long fields leaves csv's limit, which belongs to the whole process, as it was."""
    before = csv.field_size_limit()
    assert len(list(read_tsv(tsv(HEADER + FIRST), "RealWorldQA"))) == 1
    assert csv.field_size_limit() == before


MEASURE = """
import re, sys
from pathlib import Path
from harness.data.gathered import gather
from harness.data.tsv import read_tsv

def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak_bytes()
samples = gather({"RealWorldQA": read_tsv(sys.argv[1], "RealWorldQA")}, 10**6)
total = sum(len(sample.image_bytes) for sample in samples)
print(len(samples), total, peak_bytes(), peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_300_mb_file_is_read_under_300_mb(tmp_path: Path) -> None:
    """A study's samples from a 300 MB file take a few rows of memory, and under 300 MB with Python and Pillow."""
    path = tmp_path / "large.tsv"
    file = io.BytesIO()
    Image.effect_noise((640, 640), 80).convert("RGB").save(file, "BMP")
    row = f"\t{base64.b64encode(file.getvalue()).decode()}\tWhich?\tcat\tdog\tB\tanimals\n"
    n_rows = -(-300_000_000 // len(row))
    with path.open("w", encoding="utf-8") as out:
        out.write(HEADER)
        out.writelines(f"{number}{row}" for number in range(n_rows))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    count, total, peak, grown = map(int, done.stdout.split())
    assert path.stat().st_size >= 300_000_000
    assert (count, total) == (n_rows, n_rows * len(file.getvalue()))
    assert peak < 300_000_000
    assert grown < 60_000_000


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data/vqa does not exist")
def test_real_questions() -> None:
    """MMBench's published samples: quoted options with line ends, options left out, images of several sizes."""
    samples = read_tsv(SHARED, "MMBench_DEV_EN")
    assert len(samples) == 20
    assert {s.question.kind for s in samples} == {"choice"}
    assert samples[0].question.options["B"].count("\n") >= 2
    assert [len(s.question.options) for s in samples].count(3) == 2
    assert [s.group for s in samples] == [s.id for s in samples]
    for s in itertools.islice(samples, 5):
        assert s.image_bytes.startswith(b"\xff\xd8")
        assert min(s.image().size) > 50
