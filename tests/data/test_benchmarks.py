"""The table of public benchmarks, and where they are searched."""

import hashlib
import re

import numpy as np
import pytest

from harness.data import benchmarks
from harness.data.benchmarks import BENCHMARKS, check_md5, find, load, locate
from harness.data.sample import Question, Sample
from harness.data.scoring import metric
from harness.data.tsv_writer import write_tsv
from harness.errors import DataError, UnavailableError

BMP = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
BMP += (1).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + b"\1\2\3\0"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without benchmarks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LMUData", raising=False)
    return tmp_path


def write_realworldqa(folder):
    """One question in RealWorldQA's place."""
    folder.mkdir()
    question = Question(text="What is it?", kind="choice", options={"A": "a", "B": "b"})
    write_tsv(
        folder / "RealWorldQA.tsv",
        [Sample(id="0", image_bytes=BMP, question=question, truth="A", category="", group="0")],
    )


def test_every_benchmark_has_a_source_and_a_metric() -> None:
    """The table names each file once, with an md5, and each is scored by a metric of its own."""
    assert len({b.md5 for b in BENCHMARKS.values()}) == len(BENCHMARKS) == 7
    for name, benchmark in BENCHMARKS.items():
        assert re.fullmatch("[0-9a-f]{32}", benchmark.md5)
        assert benchmark.url.startswith("https://")
        assert benchmark.url.endswith(f"/{name}.tsv")
        assert metric(name).max(np.array(["OCR"])) in (100, 200)


def test_lmudata_counts_only_if_it_exists(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in VLMEvalKit: $LMUData where that folder exists, else ~/LMUData."""
    assert locate("MME") == home / "LMUData" / "MME.tsv"
    monkeypatch.setenv("LMUData", str(home / "elsewhere"))
    assert locate("MME") == home / "LMUData" / "MME.tsv"
    (home / "elsewhere").mkdir()
    assert locate("MME") == home / "elsewhere" / "MME.tsv"


def test_an_absent_benchmark_says_how_to_get_it(home) -> None:
    """The error has the path, the command and the md5."""
    with pytest.raises(UnavailableError) as refusal:
        load("RealWorldQA")
    for part in (str(home / "LMUData" / "RealWorldQA.tsv"), "harness data get RealWorldQA", find("RealWorldQA").md5):
        assert part in str(refusal.value)


def test_a_present_benchmark_is_read(home) -> None:
    """An installed file is loaded lazily, with the benchmark's own grouping."""
    write_realworldqa(home / "LMUData")
    (sample,) = load("RealWorldQA")
    assert (sample.truth, sample.group, sample.image().getpixel((0, 0))) == ("A", "0", (3, 2, 1))


def test_unknown_names_list_the_known() -> None:
    """An unknown name is refused with the list of known ones."""
    sentence = r"unknown benchmark 'RealWorld'; did you mean 'RealWorldQA'\? known: AI2D_TEST, .*ScienceQA_TEST"
    with pytest.raises(DataError, match=sentence):
        load("RealWorld")


def test_md5_finds_a_damaged_file(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published file passes, another is refused with both sums, an absent one is unavailable."""
    with pytest.raises(UnavailableError, match="cannot be read"):
        check_md5(find("RealWorldQA"), locate("RealWorldQA"))
    write_realworldqa(home / "LMUData")
    with pytest.raises(DataError, match=f"its md5 is [0-9a-f]{{32}}, and {find('RealWorldQA').md5} is published"):
        check_md5(find("RealWorldQA"), locate("RealWorldQA"))
    md5 = hashlib.md5(locate("RealWorldQA").read_bytes()).hexdigest()
    monkeypatch.setattr(
        benchmarks,
        "BENCHMARKS",
        {"RealWorldQA": benchmarks.Benchmark(name="RealWorldQA", questions=1, md5=md5, url_path="x")},
    )
    check_md5(find("RealWorldQA"), locate("RealWorldQA"))
