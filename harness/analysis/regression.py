"""Whether a run computes what an earlier run of its scenario did: payload sizes, answers, scores, selection, replay.

All this is the same to the bit wherever the processor, the packages and the weights are: then every difference is
shown, with the first question that differs, and fails by default. Elsewhere floating-point sums differ slightly, which
sometimes changes a bit of a payload or a word of an answer. There, differences are counted: the bytes of a point may
move by a tolerance, right answers are lost and won (McNemar's exact test that more are lost, Holm over the points), and
the rest is not comparable. Rows hold no digest of a payload, so only its size is compared. Times are not compared here:
:mod:`harness.analysis.slowdown` compares those, of two commits on one machine.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.special

from harness.analysis.analysis import Analysis
from harness.analysis.slowdown import holm
from harness.errors import ResultsError, unknown_name
from harness.runs import replayed
from harness.runs.digests import changed
from harness.runs.provenance import Manifest, Session
from harness.runs.store import Record

Quantity = Literal["bytes", "tokens", "answers", "scores", "selection", "replay"]
Status = Literal["same", "counted", "differs", "not comparable"]

QUANTITIES: tuple[Quantity, ...] = ("bytes", "tokens", "answers", "scores", "selection", "replay")
TIMED = ("device", "server", "total", "time")
"""What ``--fail-if`` may name of the timed tier, besides stages; ``time`` is every stage."""

BYTES_TOLERANCE = 0.01
ALPHA = 0.05
_MOST_SHOWN = 5
_MACHINE = ("architecture", "processor", "accelerators", "torch_threads")
"""The properties of a machine that decide how a sum is rounded."""
_TERM = re.compile(r"\s*([a-z_]+)\s*>\s*([0-9.]+(?:e-?[0-9]+)?)\s*(%?)\s*")


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """How much may differ before it fails: more than ``most`` rows or points, or by a share."""

    most: float
    share: bool


Limits = Mapping[str, Limit]
DEFAULT: Limits = {name: Limit(0, share=False) for name in QUANTITIES}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What became of one quantity.

    ``compared`` and ``differing`` count rows (of ``scores`` points, of ``selection`` schemes); ``change`` is the
    largest relative change of a point's mean bytes or score, elsewhere the share that differs. ``details`` has a
    sentence for each point that differs, with the first question. ``fails`` is the verdict.
    """

    quantity: Quantity
    status: Status
    compared: int = 0
    differing: int = 0
    change: float = 0.0
    fails: bool = False
    details: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run beside its reference; ``basis`` says why not all is compared to the bit, and is empty where it is."""

    name: str
    reference: str
    candidate: str
    label: str
    basis: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether anything fails."""
        return any(check.fails for check in self.checks)


def limits(text: str) -> tuple[dict[str, Limit], dict[str, float]]:
    """The limits that ``--fail-if`` gives, such as ``bytes>1%`` or ``device>10%``: of rows, and minimum effects.

    Raises ResultsError for any other text, and for a limit on a time that is not a share.
    """
    found: dict[str, Limit] = {}
    effects: dict[str, float] = {}
    for term in text.split(","):
        if (parsed := _TERM.fullmatch(term)) is None:
            raise ResultsError(
                f"--fail-if: {term.strip()!r} is not a limit; write it as in bytes>1%,answers>0 or device>10%"
            )
        name, number, percent = parsed[1], _number(parsed[2]), parsed[3] == "%"
        if name in QUANTITIES:
            found[name] = Limit(number / 100 if percent else number, share=percent)
        elif not percent or number == 0:
            known = "" if name in TIMED else f"; {unknown_name('quantity', name, (*QUANTITIES, *TIMED))}"
            raise ResultsError(
                f"--fail-if: {term.strip()!r} limits a time, and needs a share above 0, as in 10%{known}"
            )
        else:
            effects[name] = number / 100
    return found, effects


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ResultsError(f"--fail-if: {text!r} is not a number") from None


def compare(
    reference: Record,
    candidate: Record,
    *,
    here: Mapping[str, Any],
    packages: Mapping[str, str],
    links: Path,
    wanted: Limits = DEFAULT,
    tolerance: float = BYTES_TOLERANCE,
) -> Comparison:
    """Compares two runs; the reference's requests are replayed by this harness, on the machine ``here``.

    ``links`` is where the files of recorded links are looked for, unless the reference has them in its folder. Raises
    ResultsError, which says why, for runs that have nothing to compare: of other questions, judged otherwise, or
    without an operating point in common.
    """
    old, new = reference.manifest, candidate.manifest
    _refuse_foreign(old, new, _questions(reference, candidate))
    basis = _basis(old, new)
    pairs, notes = _common(old, new)
    rows = _rows(reference, candidate, pairs)
    exact = not basis
    checks = [
        _bytes(rows, exact, wanted, tolerance),
        _tokens(rows, exact, wanted),
        _answers(rows, exact, wanted),
        *_scores(reference, candidate, pairs, exact, wanted),
        _replay(reference, here, packages, links, wanted),
    ]
    return Comparison(
        name=new.name,
        reference=old.commits,
        candidate=new.commits,
        label=new.label,
        basis=tuple(basis),
        checks=tuple(checks),
        notes=tuple(notes),
    )


def _questions(reference: Record, candidate: Record) -> str:
    """How many questions each of two runs asks, and how many have the same name in both."""
    was, now = (set(record.samples["sample"].to_pylist()) for record in (reference, candidate))
    return f"it asks {len(now)} questions and its reference {len(was)}; {len(now & was)} have the same name in both"


def _refuse_foreign(old: Manifest, new: Manifest, questions: str) -> None:
    for what, was, now in (
        ("their scenarios are", old.scenario.get("name"), new.scenario.get("name")),
        ("their benchmarks are", ", ".join(old.benchmarks), ", ".join(new.benchmarks)),
        ("their backbones are", old.backbone, new.backbone),
        ("their seeds are", old.seed, new.seed),
        ("answers are scored by", old.scenario.get("scoring"), new.scenario.get("scoring")),
        ("digests of their questions are", old.digests.get("questions"), new.digests.get("questions")),
    ):
        if was != now:
            more = f"; {questions}" if "questions" in what else ""
            raise ResultsError(f"run {new.name} cannot be compared with its reference: {what} {now} and {was}{more}")


def _basis(old: Manifest, new: Manifest) -> list[str]:
    """Why two runs need not be equal to the bit; nothing where they must."""
    # A run may have been completed on another machine than it was begun on.
    found = list(
        dict.fromkeys(
            sentence
            for before in old.sessions
            for session in new.sessions
            for sentence in _elsewhere(before, session.machine, session.packages)
        )
    )
    was, now = old.sessions[-1].server, new.sessions[-1].server
    if was is not None or now is not None:
        machines = [side.machine["name"] if side else "none" for side in (now, was)]
        found += [f"server {machines[0]}, reference's {machines[1]}"] if machines[0] != machines[1] else []
    both = old.digests.keys() & new.digests.keys()
    weights = [name for name in changed(old.digests, new.digests) if name in both and not name.startswith("link ")]
    return [*found, *(f"{name} has changed" for name in weights)]


def _elsewhere(before: Session, machine: Mapping[str, Any], packages: Mapping[str, str]) -> list[str]:
    """What of the machine and the packages is not that of a session of the reference."""
    found = [
        f"{name.replace('_', ' ')} {machine.get(name)}, reference's {before.machine.get(name)}"
        for name in _MACHINE
        if (name != "torch_threads" or name in machine)
        and _plain(machine.get(name)) != _plain(before.machine.get(name))
    ]
    return found + [
        f"{name} {packages.get(name, 'absent')}, reference's {before.packages.get(name, 'absent')}"
        for name in changed(before.packages, packages)
    ]


def _plain(value: Any) -> Any:
    """A property of a machine without what does not affect sums: of accelerators their names."""
    return [one.get("name") for one in value] if isinstance(value, list) and value else value or None


def _common(old: Manifest, new: Manifest) -> tuple[pd.DataFrame, list[str]]:
    """The points with equal parameters in both, in the candidate's order, and notes on what is in only one."""
    keys = [(p, label) for p, labels in new.points.items() for label in labels]
    shared = [(p, label) for p, label in keys if old.points.get(p, {}).get(label) == new.points[p][label]]
    gone = [(p, label) for p, labels in old.points.items() for label in labels if (p, label) not in shared]
    if not shared:
        raise ResultsError(f"run {new.name} cannot be compared with its reference: no operating point is in both")
    notes = [f"{p} at {label}: not in the reference" for p, label in keys if (p, label) not in shared]
    notes += [f"{p} at {label}: only in the reference" for p, label in gone]
    return pd.DataFrame(shared, columns=["pipeline", "point"]), notes


def _rows(reference: Record, candidate: Record, pairs: pd.DataFrame) -> pd.DataFrame:
    """Outcome rows of the points in both, side by side, point after point."""
    columns = ["payload_bytes", "visual_tokens", "prompt_tokens", "answer_tokens", "answer", "correct"]
    keys = ["pipeline", "point", "sample"]
    old, new = (record.outcomes.select([*keys, *columns]).to_pandas() for record in (reference, candidate))
    rows = pairs.merge(old, on=["pipeline", "point"]).merge(new, on=keys, how="left", suffixes=("_was", "_now"))
    if rows["answer_now"].isna().any():
        lost = rows[rows["answer_now"].isna()].iloc[0]
        raise ResultsError(
            f"run {candidate.manifest.name} has no answer of {lost['pipeline']} at {lost['point']} to question "
            f"{lost['sample']}, which its reference has"
        )
    return rows


def _judged(
    quantity: Quantity, wanted: Limits, compared: int, differing: int, change: float, details: Sequence[str]
) -> Check:
    """A check to the bit."""
    limit = wanted.get(quantity)
    fails = limit is not None and (change if limit.share else differing) > limit.most
    status: Status = "differs" if differing else "same"
    return Check(
        quantity=quantity,
        status=status,
        compared=compared,
        differing=differing,
        change=change,
        fails=fails,
        details=tuple(details),
    )


def _first(rows: pd.DataFrame, column: str) -> list[str]:
    """A sentence for each point with a difference in ``column``: how many, and the first question."""
    unequal = rows[rows[f"{column}_was"] != rows[f"{column}_now"]]
    said = [
        f"{pipeline} at {point}: {len(of_point)} differ, first in question {of_point['sample'].iloc[0]}: {column} was "
        f"{of_point[f'{column}_was'].iloc[0]!s}, is {of_point[f'{column}_now'].iloc[0]!s}"
        for (pipeline, point), of_point in unequal.groupby(["pipeline", "point"], sort=False)
    ]
    more = len(said) - _MOST_SHOWN
    return said if more <= 0 else [*said[:_MOST_SHOWN], f"and {more} points more"]


def _bytes(rows: pd.DataFrame, exact: bool, wanted: Limits, tolerance: float) -> Check:
    means = rows.groupby(["pipeline", "point"], sort=False)[["payload_bytes_was", "payload_bytes_now"]].mean()
    was, now = means["payload_bytes_was"], means["payload_bytes_now"]
    change = ((now - was) / was.where(was > 0)).where(was != now, 0.0).fillna(np.inf)
    differing = int((rows["payload_bytes_was"] != rows["payload_bytes_now"]).sum())
    details = _first(rows, "payload_bytes")
    found = _judged("bytes", wanted, len(rows), differing, float(change.abs().max()), details)
    if exact:
        return found
    limit = wanted.get("bytes")
    # A share that was asked for is the limit everywhere; what rounding may move is tolerated where none was.
    most = limit.most if limit is not None and limit.share else tolerance
    beyond = change[change.abs() > most]
    said = [
        f"{pipeline} at {point}: mean bytes moved by {by:+.2%}, more than {most:.2%}"
        for (pipeline, point), by in zip(beyond.index.tolist(), beyond, strict=True)
    ]
    return dataclasses.replace(
        found, status="counted", fails=limit is not None and bool(said), details=(*said, *details)
    )


def _tokens(rows: pd.DataFrame, exact: bool, wanted: Limits) -> Check:
    names = ("visual_tokens", "prompt_tokens", "answer_tokens")
    unequal = np.any([rows[f"{name}_was"] != rows[f"{name}_now"] for name in names], axis=0)
    details = [sentence for name in names for sentence in _first(rows, name)]
    n = int(unequal.sum())
    found = _judged("tokens", wanted, len(rows), n, n / len(rows), details)
    return found if exact else dataclasses.replace(found, status="counted", fails=_beyond_share(found, wanted))


def _beyond_share(found: Check, wanted: Limits) -> bool:
    """Whether more rows differ than the share that was asked for, which is a limit everywhere."""
    limit = wanted.get(found.quantity)
    return found.fails and limit is not None and limit.share


def _answers(rows: pd.DataFrame, exact: bool, wanted: Limits) -> Check:
    # Equal answers that are judged otherwise leave a score as it was where as many are lost as won.
    n = int(((rows["answer_was"] != rows["answer_now"]) | (rows["correct_was"] != rows["correct_now"])).sum())
    details = [*_first(rows, "answer"), *_first(rows[rows["answer_was"] == rows["answer_now"]], "correct")]
    found = _judged("answers", wanted, len(rows), n, n / len(rows), details)
    if exact:
        return found
    # McNemar: of the questions judged otherwise as many are lost as won, if nothing but rounding has changed.
    lost, won, p = {}, {}, {}
    for key, of_point in rows.groupby(["pipeline", "point"], sort=False):
        was, now = of_point["correct_was"].to_numpy(bool), of_point["correct_now"].to_numpy(bool)
        lost[key], won[key] = int((was & ~now).sum()), int((~was & now).sum())
        p[key] = float(scipy.special.bdtrc(lost[key] - 1, lost[key] + won[key], 0.5)) if lost[key] else 1.0
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    worse = [key for key in adjusted if adjusted[key] <= ALPHA]
    said = [
        f"{pipeline} at {point}: {lost[pipeline, point]} right answers lost and {won[pipeline, point]} won "
        f"(McNemar, p = {adjusted[pipeline, point]:.2g} of all points)"
        for pipeline, point in worse
    ]
    fails = (bool(worse) and "answers" in wanted) or _beyond_share(found, wanted)
    return dataclasses.replace(found, status="counted", fails=fails, details=(*said, *details))


def _scores(
    reference: Record, candidate: Record, pairs: pd.DataFrame, exact: bool, wanted: Limits
) -> tuple[Check, Check]:
    if not exact:
        counted = ("scores are those of the answers counted above",)
        return Check(quantity="scores", status="not comparable", details=counted), Check(
            quantity="selection", status="not comparable"
        )
    old, new = Analysis(reference), Analysis(candidate)
    columns = ["pipeline", "point", "score", "selected"]
    both = pairs.merge(old.points[columns], on=["pipeline", "point"])
    both = both.merge(new.points[columns], on=["pipeline", "point"], suffixes=("_was", "_now"))
    both = both[both[["score_was", "score_now"]].notna().any(axis=1)]
    unequal = both[both["score_was"] != both["score_now"]]
    # A score that one of the two runs does not have has changed beyond any share.
    change = ((unequal["score_now"] - unequal["score_was"]) / unequal["score_was"]).abs().fillna(np.inf).max()
    said = [
        f"{row['pipeline']} at {row['point']}: score was {row['score_was']:.6g}, is {row['score_now']:.6g}"
        for row in unequal.to_dict("records")
    ]
    scores = _judged("scores", wanted, len(both), len(unequal), float(change) if len(unequal) else 0.0, said)
    if both.empty:
        none = ("no score is claimed in either run: the reference scheme scores 0 on a benchmark",)
        scores = Check(quantity="scores", status="not comparable", details=none)
    same_choice = (
        reference.manifest.scenario.get("selection") == candidate.manifest.scenario.get("selection")
        and reference.manifest.points == candidate.manifest.points
    )
    if not same_choice:
        why = ("the selections differ in their rules or points: the scenario was edited",)
        return scores, Check(quantity="selection", status="not comparable", details=why)
    chosen = [frame[frame["selected"]].set_index("pipeline")["point"] for frame in (old.points, new.points)]
    names = list(candidate.manifest.points)
    moved = [name for name in names if chosen[0].get(name) != chosen[1].get(name)]
    said = [f"{name}: the selected point was {chosen[0].get(name)}, is {chosen[1].get(name)}" for name in moved]
    share = len(moved) / len(names)
    return scores, _judged("selection", wanted, len(names), len(moved), share, said)


def _replay(
    reference: Record, here: Mapping[str, Any], packages: Mapping[str, str], links: Path, wanted: Limits
) -> Check:
    """The reference's requests, replayed by this harness from its rows, beside those that it was written with."""
    manifest = reference.manifest
    if elsewhere := _elsewhere(manifest.sessions[-1], here, packages):
        return Check(quantity="replay", status="not comparable", details=(f"replayed here: {'; '.join(elsewhere)}",))
    digests = replayed.recorded(reference.folder, manifest)
    if digests is not None:
        # A record without a table of requests was read with those that this harness makes.
        n, differing, first = replayed.first_difference(digests, replayed.digests(reference.requests))
    elif not reference.requests.num_rows:
        return Check(quantity="replay", status="not comparable", details=("the reference has no requests",))
    else:
        own = reference.folder if (reference.folder / "links").is_dir() else links
        now = replayed.requests(manifest, own, reference.stages, reference.outcomes, reference.samples)
        n, differing, first = replayed.differing_rows(reference.requests, now)
    return _judged("replay", wanted, n, differing, differing / max(n, 1), [first] if first else [])
