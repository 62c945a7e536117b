"""Whether all texts of a figure are readable: on the page, large enough, and without overlap."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text


def texts(figure: Figure) -> list[Text]:
    """Every text that is visible in a figure, ticks and legends included."""
    figure.draw_without_rendering()
    inside = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _beyond(axis)}
    off = {id(text) for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)
           for text in axis.findobj(Text)}  # fmt: skip
    return [text for text in inside if id(text) not in hidden | off]


def _beyond(axis: Axis) -> list[Text]:
    """The labels of ticks beyond an axis's limits, which matplotlib has and does not draw."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [label for t in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)]


def xy_of(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    """The x and the y of a line's points."""
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def bars_of(axes: Axes) -> list[Rectangle]:
    """The bars of a panel, which has no other patches."""
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == len(axes.patches)
    return bars


def assert_readable(figure: Figure) -> None:
    """All texts are on the page, at least 6 points large, and do not overlap."""
    shown = texts(figure)
    boxes = np.array([text.get_window_extent().extents for text in shown])
    words = [text.get_text() for text in shown]
    assert min(float(text.get_fontsize()) for text in shown) >= 6
    # A hundredth of an inch is less than the space within a letter's box.
    slack = figure.dpi / 100
    outside = (boxes[:, :2] < -slack).any(axis=1) | (boxes[:, 2:] > np.array(figure.bbox.size) + slack).any(axis=1)
    assert not outside.any(), [words[n] for n in np.flatnonzero(outside)]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    meet = np.triu((high - low > slack).all(axis=2), 1)
    assert not meet.any(), [(words[a], words[b]) for a, b in np.argwhere(meet)]
