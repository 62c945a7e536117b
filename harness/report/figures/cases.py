"""Example questions (the paper's Fig. 9): the picture, where merged features lie, the decoded JPEG, both answers."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.report.figures import style
from harness.report.figures.density import missing_part
from harness.report.figures.sheet import NARROW_IN, Chart, Sheet, of
from harness.runs.illustrations import FOLDER, Case
from harness.units import format_bytes

_GAP_IN, _WORDS_PT = 0.1, 6.5
_LINE_IN = 1.3 * _WORDS_PT / 72


def draw(run: Analysis, width_in: float) -> tuple[Figure, pd.DataFrame]:
    """The figure, and its data: a row a case."""
    assert run.illustrations is not None
    found = run.illustrations.cases
    assert found is not None
    narrow = width_in < NARROW_IN
    side_in = (width_in - 0.2 - 2 * _GAP_IN) / 3
    folder = run.record.folder / FOLDER
    blocks = []
    for case in found.cases:
        shown, left = (_picture(folder / name) for name in (case.shown, case.left))
        high_in = min(side_in, side_in * shown.height / shown.width)
        words = [
            (line, colour, weight)
            for text, colour, weight in _words(case, found.pipeline)
            for line in style.wrapped(text, width_in - 0.25, _WORDS_PT, bold=weight == "bold")
        ]
        blocks.append((case, shown, left, high_in, words))
    captions = [["picture"], ["merged features", f"({found.pipeline})"], ["JPEG"]]
    if not narrow:
        captions = [["the picture"], [f"where the merged features of {found.pipeline} lie"], ["the decoded JPEG"]]
    head_in = 0.14 * max(map(len, captions)) + 0.04
    body_in = sum(head_in + high_in + 0.06 + _LINE_IN * len(words) + 0.14 for *_, high_in, words in blocks)
    notes = [
        found.rule,
        f"each shade is one merged feature of the picture's first patch, by {found.pipeline} at {found.point}",
    ]
    sheet = Sheet(width_in, body_in, of(run, "example questions", notes))
    top_in = 0.0
    for case, shown, left, high_in, words in blocks:
        for place, (picture, caption) in enumerate(zip((shown, shown, left), captions, strict=True)):
            x_in = 0.1 + place * (side_in + _GAP_IN)
            for number, line in enumerate(caption):
                sheet.text(x_in + side_in / 2, top_in + 0.02 + 0.14 * number, line, 7.0, ha="center")
            axes = sheet.axes(x_in, top_in + head_in, side_in, high_in)
            axes.imshow(np.asarray(picture), aspect="auto", interpolation="nearest" if place == 2 else "antialiased")
            axes.set_axis_off()
            if place == 1:
                _regions(axes, case, picture.size)
        top_in += head_in + high_in + 0.06
        for line, colour, weight in words:
            sheet.text(0.1, top_in, line, _WORDS_PT, color=colour, fontweight=weight)
            top_in += _LINE_IN
        top_in += 0.14
    return sheet.figure, pd.DataFrame([case.model_dump(exclude={"labels"}) for case in found.cases])


def _words(case: Case, pipeline: str) -> list[tuple[str, str, str]]:
    options = " ".join(f"{letter}. {text}" for letter, text in case.options.items())
    verdict = f"{'also right' if case.jpeg_right else 'wrong'}; the truth is {case.truth}"
    return [
        (f"Question {case.sample}: {case.question} {options}".strip(), style.INK, "bold"),
        (f"{pipeline}, {format_bytes(case.payload_bytes)}: {case.answer} (right)", "#1B7837", "normal"),
        (
            f"JPEG, {format_bytes(case.jpeg_bytes)} ({case.jpeg}): {case.jpeg_answer} ({verdict})",
            "#1B7837" if case.jpeg_right else "#B00020",
            "normal",
        ),
    ]


def _regions(axes: Axes, case: Case, size: tuple[int, int]) -> None:
    """The areas of the merged features over the picture, which was padded to a square before it was cut."""
    if not case.labels:
        axes.text(0.5, 0.5, "not a padded square", transform=axes.transAxes, ha="center", va="center", fontsize=6.5)
        return
    labels = np.array(case.labels)
    width, height = size
    side = max(size)
    left, top = (side - width) / 2, (side - height) / 2
    # The square's corners in the picture's own pixels.
    extent = (-left - 0.5, side - left - 0.5, side - top - 0.5, -top - 0.5)
    n = int(labels.max()) + 1
    shades = np.random.default_rng(0).permutation(n) / max(n - 1, 1)
    axes.imshow(shades[labels], cmap="viridis", alpha=0.45, extent=extent, interpolation="nearest", aspect="auto")
    cell = side / labels.shape[0]
    for axis, steps in ((0, np.argwhere(labels[1:] != labels[:-1])), (1, np.argwhere(labels[:, 1:] != labels[:, :-1]))):
        for row, column in steps.tolist():
            x, y = column * cell - left - 0.5, row * cell - top - 0.5
            if axis == 0:
                axes.plot([x, x + cell], [y + cell, y + cell], "-", color="white", linewidth=0.6)
            else:
                axes.plot([x + cell, x + cell], [y, y + cell], "-", color="white", linewidth=0.6)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:
        raise ResultsError(f"{path}: is not a readable picture; make it again with 'harness illustrate'") from None


def _missing(run: Analysis) -> str:
    return missing_part(run, "cases", "example questions")


FIG9 = Chart(what="example questions: the picture, merged features, the decoded JPEG", missing=_missing, draw=draw)
