"""How figures look: a colour and a marker for each scheme, sizes of type, files that do not change from run to run.

The schemes' colours are Okabe and Ito's and Tol's, distinguishable with any common colour vision. In grey the marker
distinguishes them: no two schemes of a run share one.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness import files
from harness.errors import ResultsError, unknown_name
from harness.runs.provenance import Manifest

Marker = Any
"""One of matplotlib's markers: a letter, or a star's or polygon's corners, kind and angle."""

_TOFC, _UNMERGED = ("#D55E00", "o"), ("#117733", ">")

_LOOKS: Mapping[str, tuple[str, Marker]] = {
    "tofc": _TOFC,
    "tofc_selective": _TOFC,
    "fmm": _TOFC,
    "jpeg": ("#0072B2", "s"),
    "webp": ("#56B4E9", "D"),
    "hyperprior": ("#009E73", "^"),
    "elic": ("#CC79A7", "v"),
    "raw_features": ("#E69F00", "P"),
    "server_only": ("#000000", "*"),
    "device_only": ("#7F7F7F", "X"),
    "compressai": ("#44AA99", (3, 1, 0)),
    "tofc_single": ("#882255", "p"),
    "tofc_heuristic": ("#999933", (6, 1, 0)),
    "tofc_factorized": ("#332288", "<"),
    "tofc_unmerged": _UNMERGED,
    "centres": _UNMERGED,
    "visionzip": ("#AA4499", "d"),
    "visionzip_merging": ("#661100", (3, 1, 180)),
    "qformer": ("#997700", (4, 1, 0)),
}

_SPARE_COLOURS = ("#1B7837", "#762A83", "#B35806", "#2166AC", "#8C510A", "#01665E", "#C51B7D", "#4D4D4D")
_SPARE_MARKERS: Sequence[Marker] = (
    (4, 1, 45), (8, 1, 0), (5, 1, 180), "h", (12, 1, 0), (3, 1, 90), (3, 1, 270), "H", (10, 1, 0), "8", (5, 0, 180),
    (6, 1, 30), (16, 1, 0), (7, 0, 0), (4, 0, 20), (9, 0, 0),
)  # fmt: skip

PARTS: Mapping[str, str] = {"device": "#1B4965", "link": "#CFD8DC", "wait": "#9A6FB0", "server": "#E3A008"}
"""The colours of a latency's parts, in the order in which they are stacked; in grey each is lighter or darker."""

HATCHES: Mapping[str, str | None] = {"measured": None, "recorded": "....", "estimated": "/////", "reported": "xxxx"}
"""The hatch of a number's source."""

SCORE = "#9B2226"
INK, GREY, PALE = "#222222", "#666666", "#E4E4E4"

FORMATS = ("png", "svg", "pdf")
DPI = 300

WIDTHS_IN: Mapping[str, float] = {"page": 7.16, "column": 3.5}
"""The widths of a page and of a column of a journal of two columns."""

_FAMILIES = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAexGothic", "IPAGothic", "Droid Sans Fallback", "Unifont",
)  # fmt: skip
"""Those after the first, where they are installed, draw what it cannot: a name in Chinese or Japanese."""

_RC = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.0,
    "lines.linewidth": 1.3,
    # Titles and names are the user's: a dollar in one is a dollar, not mathematics.
    "text.parse_math": False,
    # Minus signs of logarithmic axes, which would be set as mathematics.
    "axes.unicode_minus": True,
    "svg.hashsalt": "tofc-harness",
    # Letters stay letters in a PDF: a journal's checks refuse type 3 fonts.
    "pdf.fonttype": 42,
}


@dataclasses.dataclass(frozen=True, slots=True)
class SchemeLook:
    """A scheme's colour and marker, the same in every figure of a run."""

    colour: str
    marker: Marker


def looks(manifest: Manifest) -> dict[str, SchemeLook]:
    """The look of each of a run's pipelines, no two alike.

    A pipeline has the look of its own name, or else of its scheme's, if no earlier one has it; any other has the next
    look that is free, in the scenario's order.
    """
    schemes = {
        str(pipeline.get("name") or pipeline.get("scheme")): str(pipeline.get("scheme"))
        for pipeline in manifest.scenario.get("pipelines", ())
        if isinstance(pipeline, Mapping)
    }
    return looks_of({name: schemes.get(name, name) for name in manifest.points})


def looks_of(schemes: Mapping[str, str]) -> dict[str, SchemeLook]:
    """The look of each pipeline, from the scheme that it is of."""
    found: dict[str, SchemeLook] = {}
    # A pipeline with a name of the table has its look, whatever comes before.
    for known in (lambda name: name, lambda name: schemes[name]):
        for name in schemes:
            look = _LOOKS.get(known(name))
            if name not in found and look is not None and SchemeLook(*look) not in found.values():
                found[name] = SchemeLook(*look)
    spare = 0
    for name in schemes:
        if name not in found:
            found[name] = _spare(spare)
            spare += 1
    return {name: found[name] for name in schemes}


def _spare(place: int) -> SchemeLook:
    around = place // len(_SPARE_MARKERS)
    colour = _SPARE_COLOURS[(place + around) % len(_SPARE_COLOURS)]
    return SchemeLook(colour, _SPARE_MARKERS[place % len(_SPARE_MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """The style, for the time of drawing and saving; settings made elsewhere are not changed."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        installed = font_manager.fontManager.get_font_names()
        mpl.rcParams["font.family"] = [family for family in _FAMILIES if family in installed]
        yield


def page(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to no window."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """How wide a line of text is, in inches, as it is drawn; to be called inside :func:`styled`."""
    return _width_of(text, size, bold, tuple(mpl.rcParams["font.family"]))


@functools.lru_cache(maxsize=20_000)
def _width_of(text: str, size: float, bold: bool, families: tuple[str, ...]) -> float:
    font = font_manager.FontProperties(family=list(families), size=size, weight="bold" if bold else "normal")
    width, _, _ = _renderer().get_text_width_height_descent(text, font, ismath=False)
    return float(width) / DPI


@functools.cache
def _renderer() -> Any:
    return FigureCanvasAgg(Figure(figsize=(1, 1), dpi=DPI)).get_renderer()  # type: ignore[no-untyped-call]


def wrapped(text: str, width_in: float, size: float, *, bold: bool = False) -> list[str]:
    """The lines of a text that is as wide as this, broken between words; a word that is wider is broken too."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined, size, bold=bold) <= width_in:
            lines[-1] = joined
            continue
        lines.append(word)
        while width_of(lines[-1], size, bold=bold) > width_in and len(lines[-1]) > 1:
            fits = next(
                n
                for n in range(len(lines[-1]) - 1, 0, -1)
                if n == 1 or width_of(lines[-1][:n], size, bold=bold) <= width_in
            )
            # A name is broken after a sign between its words where there is one.
            sign = max(lines[-1].rfind(mark, 0, fits) for mark in "_-/,=")
            fits = sign + 1 if sign >= fits // 2 else fits
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def shortened(text: str, width_in: float, size: float) -> str:
    """A text that is wider than this as several lines."""
    return "\n".join(wrapped(text, width_in, size))


def save(figure: Figure, folder: Path, stem: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes ``stem`` in each of the formats (PNG at :data:`DPI` dots an inch); the same figure gives the same bytes.

    All are written, or none. Raises ResultsError for a format that is none of :data:`FORMATS`, and when the disk
    refuses.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise ResultsError(unknown_name("format of figures", kind, FORMATS))
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
    return lambda file: figure.savefig(file, format=kind, dpi=DPI, metadata=metadata[kind])
