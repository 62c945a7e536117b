"""What each half of each point needs besides time, as a table: its weights, its peak of memory, its operations."""

import math

from rich.console import Group
from rich.text import Text

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.report.fitting import Fitting

_COLUMNS = {
    "weights_bytes": ("weights,\nMB", 1e6),
    "peak_memory_bytes": ("peak,\nMB", 1e6),
    "operations": ("GFLOP", 1e9),
}


def resources_table(run: Analysis) -> Group:
    """A row a point, both halves side by side; raises ResultsError for a run that measured none of it."""
    found = run.resources
    if found.empty:
        raise ResultsError(f"{run.record.folder}: nothing was measured of memory and operations")
    drawn = Fitting()
    drawn.add_column("scheme, point", overflow="fold")
    for side in ("device", "server"):
        for head, _ in _COLUMNS.values():
            drawn.add_column(f"{side}\n{head}", justify="right", no_wrap=True)
    for _, row in found.iterrows():
        cells = [
            _cell(row[f"{side}/{name}"] / unit) for side in ("device", "server") for name, (_, unit) in _COLUMNS.items()
        ]
        drawn.add_row(f"{row['pipeline']}\n{row['point']}", *cells)
    notes = (
        "weights: all tensors and arrays that a half holds; peak: with what it takes beyond them for one request",
        "GFLOP: floating-point operations of one request in torch, a multiplication and an addition being two; what "
        "torch does not compute (entropy coding, clustering on a CPU, picture codecs) is not counted",
        f"measured on {'; '.join(sorted(set(run.record.resources['machine'].to_pylist())))}, on sample "
        f"{run.record.resources['sample'][0].as_py()}",
    )
    title = f"{run.manifest.scenario_value('title')}: memory and operations"
    return Group(Text(title, style="bold"), Text(), drawn, Text(), *(Text(note, style="dim") for note in notes))


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
