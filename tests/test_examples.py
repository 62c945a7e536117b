"""Every program in ``examples/`` runs unchanged, and prints or writes what its first paragraph states."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.runs import tables

EXAMPLES = Path(__file__).parents[1] / "examples"

Main = Callable[..., None]


def main_of(name: str) -> Main:
    """The ``main`` of an example."""
    main: Main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    return main


def test_every_example_is_named_for_readers() -> None:
    """The README lists each."""
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in readme] == []


def test_an_engine_of_your_own_records_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each question, repeat and stage is a row."""
    main_of("own_engine")(str(tmp_path / "run.parquet"))
    assert f"{tmp_path / 'run.parquet'}: the stages of 6 requests" in capsys.readouterr().out
    rows = tables.read("stages", tmp_path / "run.parquet").to_pandas()
    assert len(rows) == 3 * 2 * 2
    assert set(rows["stage"]) == {"prefill", "generate"}
    assert (rows["seconds"] > 0).all()


@pytest.mark.slow
def test_features_are_merged_and_coded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Merging keeps the requested number of features of each patch, and the stream is smaller than these."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 192, 3), np.uint8)).save(tmp_path / "noise.png")
    main_of("merge_and_code")(tmp_path / "noise.png", n_clusters=4)
    printed = capsys.readouterr().out
    all_features, merged = re.findall(r"\((\d+), (\d+), (\d+)\): (\d+) bytes", printed)
    assert (merged[0], merged[1], merged[2]) == (all_features[0], "4", all_features[2])
    (stream,) = re.findall(r"stream +(\d+) bytes", printed)
    assert int(stream) < int(merged[3]) < int(all_features[3])


def test_the_replay_of_a_csv_gives_the_closed_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone, a latency is device + 8 bytes / rate + propagation + server; among four users waiting is added."""
    file = tmp_path / "times.csv"
    file.write_text("scheme,sample,device_s,payload_bytes,server_s\na,q,0.2,2000,0.1\nb,q,0.01,20000,0.3\n")
    main_of("replay_csv")(file)
    means = re.findall(r"([\d.]+) s +([\d.]+) s +(\w)$", capsys.readouterr().out, re.MULTILINE)
    alone, among = means[0::2], means[1::2]
    assert alone == [("0.380", "1.110", "a"), ("0.320", "0.510", "a"), ("0.322", "0.350", "a")]
    for one, four in zip(alone, among, strict=True):
        assert float(four[0]) > float(one[0])
        assert float(four[1]) > float(one[1])
