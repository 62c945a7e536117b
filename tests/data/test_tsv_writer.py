"""Writing VLMEvalKit's TSV, and reading it back."""

import base64
import dataclasses
import io
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data.sample import Question, Sample
from harness.data.tsv import read_tsv
from harness.data.tsv_writer import write_tsv
from harness.errors import DataError

patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no reason to fail."""

SHARED = Path(__file__).parents[2] / "../shared/data/vqa/MMBench_samples.tsv"


def png(colour="red", size=(9, 7)):
    """A picture of one colour as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


TINY = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
"""A GIF of one white pixel; in base64 it has fewer characters than a reference may have."""

ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
pictures = st.sampled_from([(png("red"),), (png("blue"),), (png("red"), png("blue"))])


@st.composite
def benchmarks(draw):
    """One to five samples of any kind of question, with any text that UTF-8 holds."""
    samples = []
    for number in draw(st.lists(ids, min_size=1, max_size=5, unique=True)):
        kind = draw(st.sampled_from(["choice", "yes_no", "open"]))
        options = {}
        if kind == "choice":
            options = dict(zip("ABCDEFGH", draw(st.lists(texts, min_size=1, max_size=8)), strict=False))
        truth = draw(
            {
                "choice": st.sampled_from(sorted(options) or [""]),
                "yes_no": st.sampled_from(["Yes", "No"]),
                "open": texts.map(str.strip).filter(lambda text: text and text.lower() not in ("yes", "no")),
            }[kind]
        )
        image, *more = draw(pictures)
        text = draw(texts.filter(str.strip))
        samples.append(
            Sample(
                id=number,
                image_bytes=image,
                more_images=tuple(more),
                question=Question(text=text, kind=kind, options=options, hint=draw(st.just("") | texts)),
                truth=truth,
                category=draw(st.just("") | texts),
                group=draw(texts),
            )
        )
    return samples


@pytest.mark.slow
@patient
@given(benchmarks())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, samples) -> None:
    """Writing and reading are inverse, field by field, whatever text the fields hold."""
    path = tmp_path_factory.getbasetemp() / "round.tsv"
    write_tsv(path, samples)
    assert list(read_tsv(path, "RealWorldQA")) == samples


def sample(number="1", image=None):
    """A sample of one picture."""
    return Sample(
        id=number,
        image_bytes=image or png(),
        question=Question(text="?", kind="yes_no"),
        truth="Yes",
        category="",
        group="g",
    )


def test_tiny_pictures_are_not_taken_for_an_index(tmp_path: Path) -> None:
    """Of up to 64 characters in base64, alone and together, they are read back; the field is longer than an index."""
    one = dataclasses.replace(sample(), image_bytes=TINY)
    two = dataclasses.replace(sample("2"), image_bytes=TINY, more_images=(TINY,))
    write_tsv(tmp_path / "b.tsv", [one, two])
    read = read_tsv(tmp_path / "b.tsv", "RealWorldQA")
    assert [found.files for found in read] == [one.files, two.files]
    assert all(len(line.split("\t")[1].strip('"')) > 64 for line in (tmp_path / "b.tsv").read_text().splitlines()[1:])


UNWRITABLE = [
    ([sample("x" * 65)], "an id has 1 to 64 characters"),
    ([sample("")], "an id has 1 to 64 characters"),
    ([sample(), sample()], "its id is that of another sample"),
    (
        [dataclasses.replace(sample(), question=Question(text="?", kind="choice", options={"A": ""}))],
        "option A has no text",
    ),
]


@pytest.mark.parametrize(("unwritable", "sentence"), UNWRITABLE)
def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, unwritable, sentence: str) -> None:
    """A sample that the format cannot hold leaves the old file unchanged, and nothing beside it."""
    path = tmp_path / "b.tsv"
    write_tsv(path, [sample()])
    before = path.read_bytes()
    with pytest.raises(DataError, match=sentence):
        write_tsv(path, unwritable)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_image_is_written_once(tmp_path: Path) -> None:
    """Samples of one picture hold its bytes once, and refer to it otherwise."""
    picture = png(size=(400, 300))
    write_tsv(tmp_path / "b.tsv", [sample(str(i), picture) for i in range(10)])
    assert (tmp_path / "b.tsv").stat().st_size < 1.5 * len(base64.b64encode(picture)) + 1000


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data/vqa does not exist")
def test_real_questions_written_and_read(tmp_path: Path) -> None:
    """A published file survives being written by this project."""
    samples = read_tsv(SHARED, "MMBench_DEV_EN")
    write_tsv(tmp_path / "again.tsv", samples)
    assert list(read_tsv(tmp_path / "again.tsv", "MMBench_DEV_EN")) == list(samples)
