"""What ``harness compare`` found, for a terminal, as Markdown and as JSON: the same tables in all three."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from harness.analysis.regression import Check, Comparison
from harness.analysis.slowdown import TimedComparison
from harness.errors import ExitCode
from harness.report.fitting import Fitting
from harness.report.table import markdown_table
from harness.units import format_percent

Format = Literal["terminal", "markdown", "json"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """All that a command compared: runs, what could not be compared and why, and commits timed.

    ``others`` holds other regressions: a sentence by name.
    """

    runs: Sequence[Comparison] = ()
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refused: Sequence[str] = ()
    timed: Sequence[TimedComparison] = ()
    notes: Sequence[str] = ()

    @property
    def code(self) -> ExitCode:
        """1 where anything regressed, else 2 where anything could not be compared, else 0."""
        if self.others or any(run.regressed for run in self.runs) or any(one.regressed for one in self.timed):
            return ExitCode.NEGATIVE
        return ExitCode.BAD_INPUT if self.refused else ExitCode.FINE

    @property
    def sentence(self) -> str:
        """The verdict."""
        failing = [
            f"{run.name} ({', '.join(c.quantity for c in run.checks if c.fails)})" for run in self.runs if run.regressed
        ]
        failing += [
            f"{one.scenario} ({', '.join(f'{p.pipeline} {p.part}' for p in one.parts if p.verdict == 'slower')})"
            for one in self.timed
            if one.regressed
        ]
        failing += self.others
        if failing:
            return f"REGRESSION: {'; '.join(failing)}"
        if self.refused:
            of = len(self.refused) + len(self.runs) + len(self.timed)
            return f"NOT COMPARABLE: {len(self.refused)} of {of} comparison{'s' * (of > 1)}"
        return f"no regression in {' and '.join(self._what())}"

    def _what(self) -> Iterator[str]:
        if self.runs:
            yield f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}"
        if self.timed:
            tests = sum(len(one.parts) for one in self.timed)
            yield f"{tests} timed stages"


_CHECKS = ("run", "quantity", "compared", "differ", "verdict")
_TIMES = ("scheme", "stage", "reference", "candidate", "ratio", "95 %", "p", "second set", "verdict")


def _checks(runs: Sequence[Comparison]) -> list[tuple[str, ...]]:
    return [
        (run.name, check.quantity, f"{check.compared:,}" if check.compared else "", _differ(check), _verdict(check))
        for run in runs
        for check in run.checks
    ]


def _differ(check: Check) -> str:
    return "" if check.status == "not comparable" else f"{check.differing:,}"


def _verdict(check: Check) -> str:
    return f"{check.status}: FAILS" if check.fails else str(check.status)


def _times(one: TimedComparison) -> list[tuple[str, ...]]:
    return [
        (
            part.pipeline,
            part.part,
            f"{1e3 * part.reference_s:.1f} ms",
            f"{1e3 * part.candidate_s:.1f} ms",
            f"{part.ratio:.3f}",
            f"{part.low:.3f} to {part.high:.3f}",
            f"{part.p:.2g}",
            "" if part.confirmed_ratio is None else f"{part.confirmed_ratio:.3f} (p {part.confirmed_p:.2g})",
            part.verdict,
        )
        for part in one.parts
    ]


def _prose(run: Comparison) -> Iterator[str]:
    """What a run's table does not hold: on what basis it was compared, and each difference."""
    label = f"; {run.label}" if run.label else ""
    yield f"{run.name}: {run.candidate} against {run.reference}{label}"
    if run.basis:
        yield f"{run.name}: not compared to the bit, but counted: {'; '.join(run.basis)}"
    for note in run.notes:
        yield f"{run.name}: {note}"
    for check in run.checks:
        for detail in check.details:
            yield f"{run.name}, {check.quantity}: {detail}"


def _about(one: TimedComparison) -> str:
    design = one.design
    effects = ", ".join(f"{name} {format_percent(of)}" for name, of in one.gate.effects.items())
    effect = effects or format_percent(one.gate.minimum_effect)
    return (
        f"{one.scenario}: {one.candidate[:12]} against {one.reference[:12]} on {one.machine}; measured in "
        f"{design['pairs']} restarted pairs of {design['turns']} turns; ratios are candidate over reference, and fail "
        f"where two sets of pairs show them more than {effect} above 1"
    )


def terminal(found: Found) -> RenderableType:
    """Tables and sentences for a terminal."""
    shown: list[RenderableType] = []
    if found.runs:
        shown += [_table(_CHECKS, _checks(found.runs)), *(Text(line) for run in found.runs for line in _prose(run))]
    for one in found.timed:
        shown += [_table(_TIMES, _times(one)), Text(_about(one)), *(Text(note) for note in one.notes)]
    return Group(
        *shown,
        *(Text(line) for line in (*found.others.values(), *found.refused, *found.notes)),
        Text(found.sentence, style="bold"),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Fitting:
    table = Fitting(names=2)
    for name in head:
        table.add_column(
            name, justify="right" if name in ("compared", "differ", "reference", "candidate", "ratio") else "left"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown(found: Found) -> str:
    """The same as Markdown, under a heading that says the verdict."""
    lines = [f"## {found.sentence}", ""]
    if found.runs:
        lines += [
            markdown_table(_CHECKS, _checks(found.runs)),
            "",
            *(f"- {line}" for run in found.runs for line in _prose(run)),
            "",
        ]
    for one in found.timed:
        lines += [markdown_table(_TIMES, _times(one)), "", _about(one), "", *(f"- {note}" for note in one.notes), ""]
    lines += [f"- {line}" for line in (*found.others.values(), *found.refused, *found.notes)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(found: Found) -> dict[str, Any]:
    """The same as plain data: every field of every check and test; what is infinite or unknown is null."""
    return {
        "verdict": found.sentence,
        "exit_code": int(found.code),
        "runs": [_plain(dataclasses.asdict(run)) for run in found.runs],
        "timed": [_plain(dataclasses.asdict(one)) for one in found.timed],
        "others": dict(found.others),
        "refused": list(found.refused),
        "notes": list(found.notes),
    }


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def text(found: Found, form: Format) -> str:
    """Markdown or JSON, as it is written to a file."""
    return markdown(found) if form == "markdown" else json.dumps(as_json(found), indent=1, allow_nan=False) + "\n"
