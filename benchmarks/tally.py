"""What calibrations count and print: how often a truth was inside, with its Monte Carlo error, and how wide it was."""

import collections
import dataclasses
import math
from typing import Any, Self

from harness.analysis.means import Estimate


@dataclasses.dataclass(slots=True)
class Tally:
    """Hits and widths of one method over the studies of a cell; one not promised is counted apart (``refused``)."""

    n: int = 0
    hits: int = 0
    refused: int = 0
    unbounded: int = 0
    width: float = 0.0

    def add(self, found: Estimate, truth: float, *, down_to_nothing: bool = True) -> None:
        """Count one interval; one that ends at 0 is unbounded where that is the least there is."""
        if math.isnan(found.low):
            self.refused += 1
            return
        self.n += 1
        self.hits += bool(found.low <= truth <= found.high)
        if math.isfinite(found.high) and (down_to_nothing or found.low > 0):
            self.width += (found.high - found.low) / abs(truth or 1.0)
        else:
            self.unbounded += 1

    def merge(self, other: "Tally") -> None:
        """Add what was counted of other studies."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def __str__(self) -> str:
        if not self.n:
            return "none promised"
        rate = self.hits / self.n
        error = math.sqrt(rate * (1 - rate) / self.n)
        bounded = self.n - self.unbounded
        width = f"width {self.width / bounded:6.3f}" if bounded else "unbounded   "
        rest = f"  unbounded {self.unbounded / self.n:.0%}" if self.unbounded else ""
        rest += f"  refused {self.refused / (self.n + self.refused):.0%}" if self.refused else ""
        return f"{100 * rate:5.1f} ± {100 * error:.1f} %  {width}{rest}"


class Counts:
    """What the studies of a cell add up to: a tally for each claim, and ``sums`` of other numbers by name."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.sums: collections.defaultdict[str, float] = collections.defaultdict(float)

    def __getitem__(self, claim: str) -> Tally:
        return self.tallies.setdefault(claim, Tally())

    def merge(self, other: "Counts") -> None:
        """Add what was counted of other studies."""
        for claim, tally in other.tallies.items():
            self[claim].merge(tally)
        for name, value in other.sums.items():
            self.sums[name] += value

    def as_data(self) -> dict[str, Any]:
        """Plain data for a file; :meth:`of_data` reads it."""
        return {
            "tallies": {claim: dataclasses.asdict(tally) for claim, tally in self.tallies.items()},
            "sums": {name: float(value) for name, value in self.sums.items()},
        }

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Self:
        """The counts that :meth:`as_data` wrote."""
        found = cls()
        found.tallies = {claim: Tally(**numbers) for claim, numbers in data["tallies"].items()}
        found.sums.update(data["sums"])
        return found


def line(what: str, claim: str, new: object, old: object = "", note: str = "") -> str:
    """A line of the table."""
    return f"{what:<52} {claim:>6} {new!s:<46} {f'before: {old}' if old else '':<36} {note}".rstrip()


def share(hits: float, n: int) -> str:
    """A share in percent with its Monte Carlo error."""
    rate = 100 * hits / n
    return f"{rate:5.1f} ± {math.sqrt(rate * (100 - rate) / n):.1f} %"
