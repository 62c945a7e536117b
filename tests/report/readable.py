"""Whether all words of a figure can be read: none is off the page, too small, or over another."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[Text]:
    """Every text that is visible in a figure, ticks and legends included."""
    figure.draw_without_rendering()
    inside = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _beyond(axis)}
    off = {id(text) for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)
           for text in axis.findobj(Text)}  # fmt: skip
    return [text for text in inside if id(text) not in hidden | off]


def _beyond(axis: object) -> list[Text]:
    """The labels of ticks beyond an axis's limits, which matplotlib keeps and does not draw."""
    low, high = sorted(axis.get_view_interval())
    drawn = {id(t) for t in axis._update_ticks() if low <= t.get_loc() <= high}
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [label for tick in ticks if id(tick) not in drawn for label in (tick.label1, tick.label2)]


def assert_readable(figure: Figure) -> None:
    """No text leaves the page, none is smaller than 6 points, and no two overlap."""
    shown = texts(figure)
    renderer = figure.canvas.get_renderer()
    boxes = np.array([text.get_window_extent(renderer).extents for text in shown])
    words = [text.get_text() for text in shown]
    assert min(text.get_fontsize() for text in shown) >= 6
    # A hundredth of an inch is less than the space within a letter's box.
    slack = figure.dpi / 100
    outside = (boxes[:, :2] < -slack).any(axis=1) | (boxes[:, 2:] > np.array(figure.bbox.size) + slack).any(axis=1)
    assert not outside.any(), [words[n] for n in np.flatnonzero(outside)]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    meet = np.triu((high - low > slack).all(axis=2), 1)
    assert not meet.any(), [(words[a], words[b]) for a, b in np.argwhere(meet)]
