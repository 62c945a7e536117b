"""How figures look: a colour and a marker for each scheme, one size of type, files that do not change from run to run.

The colours are Okabe and Ito's, told apart with any common colour vision; markers differ too, for print in grey.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness import files
from harness.errors import ResultsError

_LOOKS: Mapping[str, tuple[str, str]] = {
    "tofc": ("#D55E00", "o"),
    "tofc_selective": ("#D55E00", "o"),
    "fmm": ("#D55E00", "o"),
    "jpeg": ("#0072B2", "s"),
    "webp": ("#56B4E9", "D"),
    "hyperprior": ("#009E73", "^"),
    "elic": ("#CC79A7", "v"),
    "raw_features": ("#E69F00", "P"),
    "server_only": ("#000000", "*"),
    "device_only": ("#7F7F7F", "X"),
}
_OTHER_COLOURS = ("#882255", "#117733", "#332288", "#AA4499", "#999933", "#661100", "#44AA99")
_OTHER_MARKERS = ("p", "h", "<", ">", "d", "8")

PARTS: Mapping[str, str] = {"device": "#1B4965", "link": "#B9C4CC", "wait": "#9A6FB0", "server": "#E3A008"}
"""The colours of a latency's parts, in the order in which they are stacked."""

FORMATS = ("png", "svg", "pdf")

WIDTHS_IN: Mapping[str, float] = {"page": 7.16, "column": 3.5}
"""The widths of a page and of a column of a journal of two columns."""

SCORE = "#9B2226"
NOT_MEASURED_HATCH = "/////"

_FAMILIES = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAexGothic", "IPAGothic", "Droid Sans Fallback", "Unifont",
)  # fmt: skip
"""Those after the first, where they are installed, draw what it cannot: a name in Chinese or Japanese."""

_RC = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    # Titles and names are the user's: a dollar in one is a dollar, not mathematics.
    "text.parse_math": False,
    "svg.hashsalt": "tofc-harness",
    # Letters stay letters in a PDF: a journal's checks refuse type 3 fonts.
    "pdf.fonttype": 42,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A scheme's colour and marker, the same in every figure."""

    colour: str
    marker: str


def look(pipeline: str) -> Look:
    """The look of a pipeline; one without a look of its own has one that follows from its name."""
    if pipeline in _LOOKS:
        return Look(*_LOOKS[pipeline])
    place = zlib.crc32(pipeline.encode())
    return Look(_OTHER_COLOURS[place % len(_OTHER_COLOURS)], _OTHER_MARKERS[place % len(_OTHER_MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """The style, for the time of drawing and saving; what the user has set elsewhere is left alone."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        installed = font_manager.fontManager.get_font_names()
        mpl.rcParams["font.family"] = [family for family in _FAMILIES if family in installed]
        yield


def page(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to no window."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, stem: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes ``stem`` in each of the formats (PNG at 300 dots an inch); the same figure gives the same bytes.

    All are there whole or not at all. Raises ResultsError when the disk refuses.
    """
    written = {folder / f"{stem}.{kind}": _writer(figure, kind) for kind in formats}
    try:
        files.write_all_whole(written)
    except OSError as error:
        raise ResultsError(f"{folder}: the figure {stem} cannot be written: {files.why(error)}") from None
    return list(written)


def _writer(figure: Figure, kind: str) -> files.Write:
    """What writes a figure; without the dates and versions that matplotlib adds."""
    metadata = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    return lambda file: figure.savefig(file, format=kind, dpi=300, metadata=metadata[kind])
