"""``harness advise`` on a made-up run: what a terminal of 80 columns shows."""

from collections.abc import Callable

import pytest

from harness.analysis import Analysis


@pytest.mark.slow
def test_at_80_columns_every_name_keeps_its_line_and_no_word_is_lost(
    made_up: Analysis, monkeypatch: pytest.MonkeyPatch, harness: Callable[..., tuple[int, str, str]]
) -> None:
    """Schemes and parameters are whole, verdicts wrap between words, and the choice is the table's first row."""
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["--rate", "50 KB/s", "--deadline", "0.2s", "--min-score", "0.9"]
    status, out, _ = harness("advise", made_up.record.folder, *asked)
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.split()[0] for line in lines if line.strip() and not line.startswith(" ")]
    names = set(made_up.record.outcomes["pipeline"].to_pylist())
    parameters = {part for point in set(made_up.record.outcomes["point"].to_pylist()) for part in point.split(",")}
    assert names | parameters <= set(starts)
    said = lines.index(next(line for line in lines if line.startswith("over ")))
    head, _, *rows, choice = [line for line in lines[said + 1 :] if not line.startswith("none: ")]
    column = head.index("verdict")
    verdicts = {word.strip(",") for row in rows for word in row[column:].split()}
    words = {word for word in verdicts if not word.endswith("%")}
    assert words == {"meets", "both", "scores", "below", "and", "answers", "in", "time"}
    first = next(line for line in lines if "meets both" in line).split()[0]
    assert choice.startswith(f"Use {first} at ")
