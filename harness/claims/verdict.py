"""The rule by which a measured number and its interval speak for a claim, against it, or not at all.

All intervals of a claim hold at once at 95 %: where it has n numbers, each has its own at 1 - 0.05 / n (Bonferroni). So
the largest of them lies between the largest lower and the largest upper end, and the least likewise.

- ``below`` x, ``above`` x: *yes* where the whole interval is, *no* where none of it is; else open.
- ``value`` v, rounded to within g: *no* where the interval is off [v - g, v + g] altogether. Else *yes*, if the
  interval is no wider than v is away from no effect (a ratio of 1, a change of 0): one that is shows nothing, and is
  open.
- ``between`` a and b, for a range over scores or rates: *no* where the least is certainly below a, or the largest
  certainly above b. Else *yes*, if no interval is wider than the nearer end is away from no effect; else open.
- ``value`` v of ``some``: *no* where v is certainly below the least or above the largest; else as above, of the
  nearest.
- ``inside`` a to b, for what is claimed to be alike: *yes* where the whole interval is, *no* where it is outside; else
  open.

On a stand-in a comparison of two schemes can show only the direction: a value, a range or a limit is judged by the side
of no effect that it is on, at every score or rate, and whether the number is met as well is reported.

A number that is not available leaves its test open, unless the others decide it whatever that number is.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.means import Estimate
from harness.claims.model import Criterion, distance_from_no_effect

ALPHA = 0.05

Decided = Literal["yes", "no", "open"]


class Verdict(enum.StrEnum):
    """The verdict on a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    HOLDS = "holds on the stand-in"
    FAILS = "does not hold on the stand-in"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One number of a test, of what it is, and at which rate if it is of one.

    An estimate without an interval has a reason.
    """

    label: str
    estimate: Estimate
    rate_bps: float | None = None


def judge(
    test: Criterion, items: Sequence[Item], shown: Callable[[float], str] = "{:.3g}".format
) -> tuple[Decided, str]:
    """The answer of a test's numbers, and why it is left open; ``shown`` writes a number in a reason."""
    if not items:
        return "open", "there is no such number"
    if test.where == "some":
        return _some(test, items, shown)
    chosen = picked(test, items)
    joint = test.where in ("least", "most")
    missing = [item for item in (items if joint else chosen) if math.isnan(item.estimate.low)]
    answers = [_one(test, item.estimate, shown) for item in chosen if not math.isnan(item.estimate.low)]
    if any(answer == "no" for answer, _ in answers):
        return "no", ""
    # One of several may show the least or the largest by itself: "up to" a limit holds for each that is below it.
    shown_by_one = joint and bool(answers) and all(answer == "yes" for answer, _ in answers)
    if missing and not shown_by_one:
        return "open", missing[0].estimate.reason or f"no interval of {missing[0].label}"
    return "open" if (why := next((why for answer, why in answers if answer == "open"), "")) else "yes", why


def picked(test: Criterion, items: Sequence[Item]) -> Sequence[Item]:
    """The items that a test is about: of the least and the largest, the joint bounds.

    A number that is not available may lie anywhere: it leaves the least without a lower end, the largest without an
    upper one.
    """
    if test.where in ("lowest_rate", "highest_rate"):
        of_rate = [item.rate_bps for item in items if item.rate_bps is not None]
        wanted = (min if test.where == "lowest_rate" else max)(of_rate, default=None)
        return [item for item in items if item.rate_bps == wanted]
    if test.where in ("each", "some"):
        return items
    least = test.where == "least"
    known = [item for item in items if not math.isnan(item.estimate.low)]
    if not known:
        return items[:1]
    pick = min if least else max
    value, low, high = (pick(getattr(item.estimate, end) for item in known) for end in ("value", "low", "high"))
    if len(known) < len(items):
        low, high = (-math.inf, high) if least else (low, math.inf)
    return [Item(label="the least" if least else "the largest", estimate=Estimate(value, low, high))]


def _some(test: Criterion, items: Sequence[Item], shown: Callable[[float], str]) -> tuple[Decided, str]:
    """Whether a value lies among several numbers: the nearest of them has to be known precisely enough."""
    known = [item.estimate for item in items if not math.isnan(item.estimate.low)]
    value = float(test.value or 0)
    if len(known) < len(items):
        return "open", next(item.estimate.reason for item in items if math.isnan(item.estimate.low))
    low, high = min(one.low for one in known), max(one.high for one in known)
    if high < value - test.give or low > value + test.give:
        return "no", ""
    nearest = min(known, key=lambda one: abs(one.value - value))
    if nearest.high - nearest.low > distance_from_no_effect(test):
        return "open", f"the interval {shown(nearest.low)} to {shown(nearest.high)} is too wide to decide the claim"
    return "yes", ""


def _one(test: Criterion, found: Estimate, shown: Callable[[float], str]) -> tuple[Decided, str]:
    low, high = found.low, found.high
    between = f"the interval {shown(low)} to {shown(high)}"
    if test.below is not None:
        answer: Decided = "yes" if high < test.below else "no" if low >= test.below else "open"
        return answer, f"{between} holds {shown(test.below)}"
    if test.above is not None:
        answer = "yes" if low > test.above else "no" if high <= test.above else "open"
        return answer, f"{between} holds {shown(test.above)}"
    if test.inside is not None:
        if low >= test.inside[0] and high <= test.inside[1]:
            return "yes", ""
        if high < test.inside[0] or low > test.inside[1]:
            return "no", ""
        return "open", f"{between} is not all within {shown(test.inside[0])} to {shown(test.inside[1])}"
    claimed = test.between or (float(test.value or 0) - test.give, float(test.value or 0) + test.give)
    # A number that is counted has no width, and is written with as many digits as a claim has.
    slack = 1e-9 * max(map(abs, claimed))
    if high < claimed[0] - slack or low > claimed[1] + slack:
        return "no", ""
    if high - low > distance_from_no_effect(test):
        return "open", f"{between} is too wide to tell the claim from no effect; more questions or timed pictures"
    return "yes", ""
