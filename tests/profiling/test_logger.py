"""Code of your own writes rows that the harness reads."""

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import harness
from harness.errors import ResultsError
from harness.runs import tables


def test_three_lines_write_a_valid_row(tmp_path: Path) -> None:
    """The file is a table of stage rows, with seconds that passed, on this machine, measured."""
    path = tmp_path / "run.parquet"
    with harness.record(path).request("q1") as r, r.stage("prefill"):
        threading.Event().wait(0.02)
    (row,) = tables.read("stages", path).to_pylist()
    assert (row["sample"], row["stage"], row["side"], row["repeat"], row["start"]) == ("q1", "prefill", "server", 0, 0)
    assert 0.02 <= row["seconds"] < 10
    assert row["source"] == "measured"
    assert row["run"] == "run"


def test_a_later_recorder_appends(tmp_path: Path) -> None:
    """Rows of an earlier process remain, and a new start is counted; the same request twice is refused."""
    path = tmp_path / "run.parquet"
    for repeat in range(3):
        with harness.record(path, machine="a board").request("q1", repeat=repeat, side="device") as r, r.stage("merge"):
            pass
    rows = tables.read("stages", path).to_pandas()
    assert rows["start"].tolist() == rows["repeat"].tolist() == [0, 1, 2]
    assert set(rows["machine"]) == {"a board"}
    again = harness.record(path).request("q1", repeat=1, side="device")
    with pytest.raises(ResultsError, match="sample 'q1', repeat 1 already; give the request another repeat"):
        again.__enter__()


def test_two_recorders_of_one_file_lose_nothing(tmp_path: Path) -> None:
    """A request inside another's, or of another process; the same request twice is refused at its end, too."""
    path = tmp_path / "run.parquet"
    with (
        harness.record(path).request("q1", side="device") as outer,
        outer.stage("encode"),
        harness.record(path).request("q1") as inner,
        inner.stage("prefill"),
    ):
        pass
    both = (harness.record(path), harness.record(path))
    for number, recorder in enumerate(both):
        with recorder.request("q2", repeat=number) as r, r.stage("prefill"):
            pass
    rows = tables.read("stages", path).to_pandas()
    assert set(zip(rows["sample"], rows["repeat"], rows["side"], strict=True)) == {
        ("q1", 0, "device"), ("q1", 0, "server"), ("q2", 0, "server"), ("q2", 1, "server"),
    }  # fmt: skip
    with (
        pytest.raises(ResultsError, match="sample 'q3', repeat 0 already"),
        both[0].request("q3"),
        both[1].request("q3") as r,
        r.stage("prefill"),
    ):
        pass


def test_a_request_that_fails_leaves_no_row(tmp_path: Path) -> None:
    """Half a request is no request."""
    path = tmp_path / "run.parquet"
    recorder = harness.record(path)

    def fail() -> None:
        with recorder.request("q1") as r:
            with r.stage("prefill"):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not path.exists()
    with recorder.request("q1") as r, r.stage("prefill"):
        pass
    assert tables.read("stages", path).num_rows == 1


def test_what_is_not_a_file_of_rows_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    """Another Parquet file, or a place that cannot be written, is refused at once, and unchanged."""
    strange = tmp_path / "strange.parquet"
    pq.write_table(tables.table_of("outcomes", ()), strange)
    before = strange.read_bytes()
    with pytest.raises(ResultsError, match=r"strange\.parquet: the column 'repeat' is missing|unknown column"):
        harness.record(strange)
    assert strange.read_bytes() == before
    with pytest.raises(ResultsError, match="cannot be written"):
        harness.record(strange / "run.parquet")
