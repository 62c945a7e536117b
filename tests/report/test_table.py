"""The closing table: on a terminal, as CSV and as Markdown, it says the same."""

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from harness.analysis import Analysis, latency
from harness.errors import ResultsError
from harness.report import table


@pytest.fixture(scope="module")
def shown(made_up: Analysis) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table.table(made_up))
    return capture.get()


def test_rows_are_selected_points_at_each_uplink(made_up: Analysis) -> None:
    """Each scheme has its selected point's bytes and score, and its own latency at each uplink, rates upwards."""
    numbers, points = made_up.numbers, made_up.points
    assert list(dict.fromkeys(numbers["pipeline"])) == list(made_up.manifest.points)
    times = latency.summarise(made_up.record.requests, made_up.record.stages)
    for pipeline, rows in numbers[numbers["reaches"]].groupby("pipeline"):
        chosen = points[(points["pipeline"] == pipeline) & points["selected"]].iloc[0]
        assert (rows["point"] == chosen["point"]).all()
        assert (rows["payload_bytes"] == chosen["payload_bytes"]).all()
        assert rows["channel"].tolist() == ["25 KB/s", "50 KB/s", "100 KB/s"]
        own = times[(times["pipeline"] == pipeline) & (times["point"] == chosen["point"])]
        for part in latency.PARTS:
            expected = own[own["part"] == part].set_index("channel")["mean_s"]
            assert rows.set_index("channel")[f"{part}_mean_s"].to_dict() == pytest.approx(expected.to_dict())
    silent = numbers[~numbers["reaches"]]
    assert silent["pipeline"].tolist() == ["device_only"]
    assert silent["total_mean_s"].isna().all()


def test_fits_a_terminal(shown: str) -> None:
    """Nothing is cut off at 80 columns."""
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown


def test_says_what_must_be_known(made_up: Analysis, shown: str) -> None:
    """Title, stand-ins, verdict, unmet target, estimated times, sources: each is in the table."""
    words = " ".join(shown.split())
    for fact in (
        "RealWorldQA at low uplink rates", "stand-ins: StreetsQA for RealWorldQA", "INVALID: throttled: GPU at 95 C",
        "does not reach", "some are estimated", "240 questions in 60 independent groups", "36 requests",
        "a processor, 2 cores", made_up.manifest.scenario_hash, "not below 0.92 of server_only's",
    ):  # fmt: skip
        assert fact in words


def test_written_tables_hold_the_same_numbers(made_up: Analysis, tmp_path: Path) -> None:
    """The CSV holds every number as it is; the Markdown has a line for each scheme and uplink."""
    numbers = made_up.numbers
    table.write(made_up, tmp_path / "table.csv")
    table.write(made_up, tmp_path / "table.md")
    back = pd.read_csv(tmp_path / "table.csv")
    for column in ("payload_bytes", "score", "total_mean_s", "total_mean_low_s"):
        assert back[column].tolist() == pytest.approx(numbers[column].tolist(), nan_ok=True)
    text = (tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(numbers)
    assert len({line.count("|") for line in lines}) == 1
    assert "stand-ins: StreetsQA for RealWorldQA" in text
    with pytest.raises(ResultsError, match=r"ends in \.csv or \.md"):
        table.write(made_up, tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0834, "0.083"), (1.2345, "1.234"), (35.416, "35.42"), (123.4, "123"), (float("nan"), "-")],
)
def test_times_keep_their_width(seconds: float, text: str) -> None:
    """A time is written with the digits that matter, in a width that does not jump."""
    assert table._seconds(seconds) == text


def test_a_run_is_written_as_two_tables(made_up: Analysis, tmp_path: Path) -> None:
    """Every scheme that reaches is in the first, every scheme in the second, below the run's label."""
    table.write_comparison(made_up, tmp_path / "comparison.md")
    text = (tmp_path / "comparison.md").read_text()
    points = made_up.points
    reached = list(points.loc[points["selected"] & (points["payload_bytes"] > 0), "pipeline"])
    first, second = (part for part in text.split("\n\n") if part.startswith("|"))
    assert [line.split(" | ")[0].strip("| ") for line in first.splitlines()[2:]] == reached
    assert len(second.splitlines()) == 2 + points["pipeline"].nunique()
    assert made_up.manifest.label in text
    assert "INVALID: throttled" in text
