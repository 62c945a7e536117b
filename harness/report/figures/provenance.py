"""What every figure says about itself: its title and labels above, where its numbers come from below."""

import dataclasses
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from harness.analysis import Analysis

_TITLE_IN, _LINE_IN, _FOOT_IN, _EDGE_IN = 0.24, 0.19, 0.135, 0.08
_TITLE_CHARS_AN_INCH, _LABEL_CHARS_AN_INCH, _FOOT_CHARS_AN_INCH = 9.5, 13, 19


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The title, what a reader must know before the first number, and the sources, as texts."""

    title: str
    stand_ins: str
    warnings: Sequence[str]
    sources: str

    def head_in(self, width_in: float) -> float:
        """The height that the texts above a figure of this width take, in inches."""
        titles, labels = self._titles(width_in), self._labels(width_in)
        return _EDGE_IN + _TITLE_IN * len(titles) + _LINE_IN * len(labels) + _EDGE_IN

    def foot_in(self, width_in: float) -> float:
        """The height that the texts below take, in inches."""
        return _EDGE_IN + _FOOT_IN * len(self._foot(width_in)) + _EDGE_IN

    def write(self, figure: Figure) -> None:
        """Puts the texts on the figure's upper and lower edge."""
        width_in, height_in = figure.get_size_inches()
        left, y_in = 0.12 / width_in, height_in - _EDGE_IN
        for line in self._titles(width_in):
            figure.text(left, y_in / height_in, line, fontsize=11, fontweight="bold", va="top")
            y_in -= _TITLE_IN
        for text, colour in self._labels(width_in):
            figure.text(left, y_in / height_in, text, fontsize=8.5, color=colour, va="top")
            y_in -= _LINE_IN
        y_in = self.foot_in(width_in) - _EDGE_IN
        for line in self._foot(width_in):
            figure.text(left, y_in / height_in, line, fontsize=6.5, color="#555555", va="top")
            y_in -= _FOOT_IN

    def _titles(self, width_in: float) -> list[str]:
        return _wrapped(self.title, width_in * _TITLE_CHARS_AN_INCH)

    def _labels(self, width_in: float) -> list[tuple[str, str]]:
        texts = [(self.stand_ins, "#8A5A00"), *((warning, "#B00020") for warning in self.warnings)]
        return [(line, colour) for text, colour in texts for line in _wrapped(text, width_in * _LABEL_CHARS_AN_INCH)]

    def _foot(self, width_in: float) -> list[str]:
        return _wrapped(self.sources, width_in * _FOOT_CHARS_AN_INCH)


def _wrapped(text: str, chars: float) -> list[str]:
    return textwrap.wrap(text, int(chars), break_on_hyphens=False)


def of(run: Analysis, subtitle: str, notes: Sequence[str]) -> Provenance:
    """What a run's manifest, the machines that it was timed on, and a figure's own title and notes say."""
    manifest = run.manifest
    which = f"Run {manifest.name}, {run.validity if manifest.validity else 'unfinished'}"
    what = f"scenario {manifest.scenario_hash}, code {manifest.commits}"
    timed = f"Timed on {' and '.join(run.machines)}" if run.machines else "Not timed"
    return Provenance(
        title=f"{manifest.scenario_value('title')}: {subtitle}",
        stand_ins=manifest.label,
        warnings=[f"INVALID: {reason}" for reason in run.reasons],
        sources=". ".join([*notes, timed, f"{which}, {what}", f"Finished {manifest.finished_utc or 'not yet'}"]) + ".",
    )
