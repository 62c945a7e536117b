"""The ledger of claims for a terminal, and as Markdown."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from harness.analysis import Analysis
from harness.claims.ledger import Entry, Tested, claimed, number, subject, summary
from harness.claims.model import Claims
from harness.claims.verdict import Verdict
from harness.report.fitting import Fitting
from harness.report.table import markdown_table

_STYLE = {
    Verdict.REPRODUCED: "bold green",
    Verdict.NOT_REPRODUCED: "bold red",
    Verdict.HOLDS: "green",
    Verdict.FAILS: "red",
    Verdict.NOT_TESTABLE: "dim",
}


def ledger(claims: Claims, found: Sequence[Entry], runs: Sequence[Analysis]) -> Group:
    """The claims one below the other with numbers, verdict and what is missing."""
    drawn = Fitting(leading=1)
    drawn.add_column("", no_wrap=True)
    drawn.add_column("claim, number and interval", overflow="fold", ratio=3)
    drawn.add_column("verdict", overflow="fold", ratio=2)
    for entry in found:
        text = Text(f"{entry.claim.says} ({entry.claim.where})")
        for one in entry.tested:
            text.append(f"\n{subject(one.test)}", style="dim")
            text.append(f"\n  claimed {claimed(one.test)}; found {number(one)}{_aside(one)}")
        verdict = Text(str(entry.verdict), style=_STYLE[entry.verdict])
        if entry.why:
            verdict.append(f"\n{entry.why}", style="dim")
        drawn.add_row(entry.claim.id, text, verdict)
    return Group(Text(claims.title, style="bold"), Text(), drawn, Text(), *(Text(note) for note in notes(found, runs)))


def notes(found: Sequence[Entry], runs: Sequence[Analysis]) -> list[str]:
    """The summary line, and where the numbers come from."""
    given = (
        f"{run.manifest.name} ({run.validity}, scenario {run.manifest.scenario_hash}, code {run.manifest.commits}, on "
        f"{' and '.join(run.machines) or 'no machine'})"
        for run in runs
    )
    swaps = dict.fromkeys(what for entry in found for one in entry.tested for what in one.stand_ins)
    return [
        summary(found),
        f"runs: {'; '.join(given) or 'none'}",
        *([f"stand-ins: {'; '.join(swaps)}"] if swaps else []),
        "all intervals of a claim hold together at 95 %; docs/metrics.md has the rules for verdicts",
    ]


def markdown(claims: Claims, found: Sequence[Entry], runs: Sequence[Analysis]) -> str:
    """A row a claim; what a test of the claim itself needs is in the last column."""
    header = ["", "where", "claim", "number", "claimed", "found", "verdict", "missing here", "at full size"]
    rows = []
    for entry in found:
        tested = entry.tested
        rows.append(
            [
                entry.claim.id,
                entry.claim.where,
                entry.claim.says + (f" (note: {entry.claim.note})" if entry.claim.note else ""),
                *("<br>".join(form(one) for one in tested) for form in (_subject, _claimed, _found)),
                str(entry.verdict),
                entry.why,
                entry.at_full_size,
            ]
        )
    table = markdown_table(header, ([_cell(cell) for cell in row] for row in rows))
    below = "\n".join(f"- {_escaped(note)}" for note in notes(found, runs))
    return f"# {_escaped(claims.title)}\n\n{table}\n\n{below}\n"


def _subject(one: Tested) -> str:
    return subject(one.test)


def _claimed(one: Tested) -> str:
    return claimed(one.test)


def _found(one: Tested) -> str:
    return number(one) + _aside(one)


def _aside(one: Tested) -> str:
    """The notes on a number: its source and run, and whether it decides nothing."""
    source = f" ({', '.join(filter(None, (one.source, one.run)))})" if one.source and number(one) != "-" else ""
    return source + ("" if one.test.decides else ", not deciding")


def _cell(text: str) -> str:
    """Text in a cell of Markdown: our line breaks stay, a user's tags are escaped."""
    return "<br>".join(_escaped(line) for line in text.split("<br>"))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
