"""All that is printed of a run: its closing table, and a section for each thing more that it measured."""

from collections.abc import Iterator

from rich.console import RenderableType

from harness.analysis import Analysis
from harness.report.energy import energy_table
from harness.report.links import links_table
from harness.report.pacing import pacing_table
from harness.report.table import table


def sections(run: Analysis) -> Iterator[RenderableType]:
    """The tables of a run, one after the other."""
    yield table(run)
    if run.record.links.num_rows:
        yield links_table(run.record.links)
    if (pacing := pacing_table(run)) is not None:
        yield pacing
    if (energy := energy_table(run)) is not None:
        yield energy
