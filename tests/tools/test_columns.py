"""The page on every table's columns agrees with the rows."""

from tools import columns


def test_the_page_is_that_of_the_rows() -> None:
    """``python -m tools.columns`` reproduces the committed page, also after a change of a row."""
    assert columns.README.read_text(encoding="utf-8") == columns.text()


def test_every_duration_size_and_rate_has_a_unit() -> None:
    """Every column whose name ends in a unit has it."""
    rows = [line.split("|") for line in columns.text().splitlines() if line.startswith("| `")]
    units = {name.strip(" `"): unit.strip() for _, name, _, unit, _ in rows}
    assert units["answered_s"] == units["seconds"] == "s"
    assert (units["payload_bytes"], units["rate_bps"], units["width_px"], units["energy_j"]) == (
        "bytes",
        "bit/s",
        "px",
        "J",
    )
    assert units["sample"] == ""
