"""Terminal output holds at 60 and 80 columns: nothing is cut, and no number is broken."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.progress import Progress

from harness.analysis import Analysis
from harness.cli.display import Display, terminal
from harness.report import table
from harness.report.fitting import Fitting
from tests.made_up_run import make

WORDS = st.text("abcxyz.-", min_size=1, max_size=14)
LONG_WORDS = st.text("abcxyz.-", min_size=1, max_size=40)


def shown(what: RenderableType, width: int) -> list[str]:
    """The lines on a terminal of that many columns."""
    console = Console(width=width, color_system=None, markup=False)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.slow
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=4), st.integers(40, 90))
def test_every_cell_is_shown_whole_at_any_width(rows: list[tuple[str, str, str, str]], width: int) -> None:
    """A table or its blocks: no word is broken, and no line is longer than the terminal."""
    drawn = Fitting(names=1)
    drawn.add_column("scheme")
    for head in ("one", "another", "third"):
        drawn.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    lines = shown(drawn, width)
    assert max(map(len, lines)) <= width
    assert {word for row in rows for word in row} <= {word for line in lines for word in line.replace(",", " ").split()}


@pytest.mark.slow
@given(
    st.lists(st.tuples(LONG_WORDS, st.lists(LONG_WORDS, max_size=9), LONG_WORDS), min_size=1, max_size=3),
    st.sampled_from([60, 80]),
)
def test_cells_that_wrap_break_no_word(rows: list[tuple[str, list[str], str]], width: int) -> None:
    """Not even in columns that may fold, or if one column is far longer than the others."""
    drawn = Fitting(names=1)
    drawn.add_column("scheme", overflow="fold")
    drawn.add_column("claim, number and interval", overflow="fold")
    drawn.add_column("verdict")
    for name, words, last in rows:
        drawn.add_row(name, " ".join(words), last)
    lines = shown(drawn, width)
    assert max(map(len, lines)) <= width
    found = {word for line in lines for part in (line, line.replace(",", " ")) for word in part.split()}
    assert {word for name, several, last in rows for word in (name, *several, last)} <= found


def test_a_table_that_has_room_is_a_table() -> None:
    """Its rows are lines, under one head."""
    drawn = Fitting("name", "n")
    drawn.add_row("a", "1")
    drawn.add_row("b", "2")
    assert [line.split() for line in shown(drawn, 60)][2:] == [["a", "1"], ["b", "2"]]


def test_cells_of_as_many_lines_stay_a_table_below_their_name() -> None:
    """Like the uplinks of a scheme, a line each."""
    drawn = Fitting("scheme", "uplink", "total")
    for column in drawn.columns:
        column.no_wrap = True
    drawn.add_row("a scheme of a long name", "25 KB/s\n1 MB/s", "0.381\n0.122")
    lines = [line.split() for line in shown(drawn, 30) if line]
    assert lines[0] == ["a", "scheme", "of", "a", "long", "name"]
    assert lines[-2:] == [["25", "KB/s", "0.381"], ["1", "MB/s", "0.122"]]


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80])
def test_the_closing_table_fits(made_up: Analysis, width: int) -> None:
    """Each scheme's name, bytes and mean latencies are printed unbroken."""
    lines = shown(table.table(made_up), width)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    assert "…" not in text
    words = set(text.replace(",", " ").split())
    for row in made_up.numbers[made_up.numbers["reaches"]].to_dict("records"):
        assert {str(row["pipeline"]), table._seconds(row["total_mean_s"])} <= words


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80])
def test_every_table_of_a_run_fits(made_up: Analysis, width: int) -> None:
    """Memory and operations, and all that ``show`` prints below the closing table."""
    from harness.report.sections import resources_table, sections

    reference = Analysis.read_all([Path(__file__).parents[2] / "results" / "reference" / "smoke"])[0]
    for what in (resources_table(reference), *sections(made_up)):
        lines = shown(what, width)
        assert max(map(len, lines)) <= width
        assert "…" not in "\n".join(lines)


@pytest.mark.slow
def test_more_columns_than_60_have_blocks(tmp_path: Path) -> None:
    """With waiting and a deadline, too, no number is broken."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05, replay={"deadline_s": 0.2}))
    lines = shown(table.table(run), 60)
    assert max(map(len, lines)) <= 60
    assert table._seconds(run.numbers.iloc[0]["wait_mean_s"]) in " ".join(lines).split()


@pytest.mark.parametrize("width", [60, 80])
def test_progress_fits(width: int) -> None:
    """The phase, the number of steps and the time left are shown, beside a bar that fills the remaining width."""
    console = terminal(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    display = Display(console)
    display.phase("answers", total=12345, done=1234)
    progress: Progress = display._progress
    lines = shown(progress.get_renderable(), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert "1234/12345" in lines[0]
