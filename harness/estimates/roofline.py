"""From work to time: a roofline with one efficiency for each machine and kind of stage, and its error.

    t = max(operations / peak, bytes / bandwidth) / e

e is the geometric mean of roof / published over the published times of the same machine and kind. Where there are none,
it is borrowed: that of a like kind on the same machine, else of the same kind on other machines, else of a like kind on
other machines. An estimate is never tested against a time that its efficiency comes from:

- A published time is predicted only from the other rows of its machine and kind, or if it is the only one, by the rule
  that borrows. The logarithm of published / predicted is its residual.
- The interval of a time by an efficiency from n >= 3 rows of its own is exp(+- t s sqrt(1 + 1/n)) around it, where s is
  the standard deviation of the n logarithms and t Student's quantile at n - 1: the prediction interval of one more.
- A rule that borrows is tested wherever a machine and kind that have rows of their own could have been served by it, as
  if they had none; with r its root mean square residual there, over g such groups, the interval is exp(+- t_g r), and
  never narrower than that of the group that lends. Accelerators and processors are tested separately. With fewer than
  three own rows, the error is that of having none.

If neither is possible, no error is stated, and the estimate says so.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import scipy.special

from harness.estimates.sheets import Machine, Published, Sheets

CONFIDENCE = 0.95
_ENOUGH = 3
"""Rows from which a scatter of their own is taken: Student's quantile of two would be 12.7."""

Group = tuple[str, str]
"""A machine, by the name whose efficiencies it has, and a kind of stage."""


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """Floating-point operations and bytes read and written."""

    operations: float = 0.0
    n_bytes: float = 0.0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.operations + other.operations, self.n_bytes + other.n_bytes)

    def __mul__(self, times: float) -> "Count":
        return Count(self.operations * times, self.n_bytes * times)


@dataclasses.dataclass(frozen=True, slots=True)
class Efficiency:
    """``value`` of the roof; ``factor`` is by how much a time may be off either way, NaN where it is unknown.

    ``used`` are the names of the published times behind it, ``how`` says how it was derived.
    """

    value: float
    factor: float
    used: tuple[str, ...]
    how: str


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """A published time beside its prediction from the others; NaN where there is none."""

    row: Published
    predicted_s: float
    used: tuple[str, ...]
    how: str

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted_s / self.row.seconds


class Roofline:
    """Efficiencies from published times; ``roof_s`` gives the seconds of each row at full efficiency."""

    def __init__(self, sheets: Sheets, roof_s: Mapping[str, float]) -> None:
        self.sheets = sheets
        self._roof_s = roof_s
        self._groups: dict[Group, list[Published]] = {}
        for row in sheets.rows:
            self._groups.setdefault((self._family(row.machine), row.kind), []).append(row)

    def efficiency(self, machine: str, kind: str) -> Efficiency | None:
        """That of a kind of stage on a machine; None where no published time leads to one."""
        group = self._family(machine), kind
        if own := self._groups.get(group):
            return Efficiency(self._mean(own), self._factor(own, group), _names(own), "its own")
        return self._borrowed(group)

    def tests(self) -> list[Test]:
        """Every published time, predicted from others."""
        found = []
        for group, rows in self._groups.items():
            for row in rows:
                others = [other for other in rows if other is not row]
                if others:
                    value, used, how = self._mean(others), _names(others), "its own, this one left out"
                elif (lent := self._lent(group)) is not None:
                    value, used, how = self._mean(lent[1]), _names(lent[1]), lent[0]
                else:
                    value, used, how = math.nan, (), "nothing else is published"
                found.append(Test(row, self._roof_s[row.name] / value, used, how))
        return found

    def _family(self, machine: str) -> str:
        return self.sheets.machine(machine).same_efficiency_as or machine

    def _log(self, row: Published) -> float:
        return math.log(self._roof_s[row.name] / row.seconds)

    def _mean(self, rows: Sequence[Published]) -> float:
        return math.exp(float(np.mean([self._log(row) for row in rows])))

    def _factor(self, rows: Sequence[Published], group: Group) -> float:
        if len(rows) >= _ENOUGH:
            return prediction_factor([self._log(row) for row in rows])
        borrowed = self._borrowed(group)
        return math.nan if borrowed is None else borrowed.factor

    def _borrowed(self, group: Group) -> Efficiency | None:
        if (lent := self._lent(group)) is None:
            return None
        how, rows = lent
        factor = self._borrowing_factor(how, group)
        if len(rows) >= _ENOUGH:
            # The group that lends has an error of its own; NaN, where the rule cannot be tested, stays.
            factor = factor if math.isnan(factor) else max(factor, prediction_factor([self._log(row) for row in rows]))
        return Efficiency(self._mean(rows), factor, _names(rows), how)

    def _lent(self, group: Group) -> tuple[str, list[Published]] | None:
        """The rule that serves a group without rows of its own, and the rows that it takes."""
        for how, rule in _RULES.items():
            if rows := [row for other in rule(self, group) for row in self._groups[other]]:
                return how, rows
        return None

    def _borrowing_factor(self, how: str, served: Group) -> float:
        """How far a rule is off where it can be tested: groups that have rows, served as if they had none."""
        squares = []
        for group, own in self._groups.items():
            if self._on_cpu(group) != self._on_cpu(served):
                continue
            if rows := [row for other in _RULES[how](self, group) for row in self._groups[other]]:
                squares.append((math.log(self._mean(rows)) - np.array([self._log(row) for row in own])) ** 2)
        if not squares:
            return math.nan
        rms = math.sqrt(float(np.mean([of_group.mean() for of_group in squares])))
        return math.exp(float(scipy.special.stdtrit(len(squares), (1 + CONFIDENCE) / 2)) * rms)

    def _on_cpu(self, group: Group) -> bool:
        return self.sheets.kinds[group[1]].processor == "cpu"

    def like_here(self, group: Group) -> Iterator[Group]:
        """Groups of like kinds on the same machine."""
        machine, kind = group
        yield from (other for other in self._groups if other[0] == machine and self._alike(other[1], kind))

    def same_elsewhere(self, group: Group) -> Iterator[Group]:
        """The kind on other machines."""
        machine, kind = group
        yield from (other for other in self._groups if other[0] != machine and other[1] == kind)

    def like_elsewhere(self, group: Group) -> Iterator[Group]:
        """Like kinds on other machines."""
        machine, kind = group
        yield from (other for other in self._groups if other[0] != machine and self._alike(other[1], kind))

    def _alike(self, one: str, other: str) -> bool:
        kinds = self.sheets.kinds
        return one != other and (kinds[one].like or one) == (kinds[other].like or other)


_RULES: Mapping[str, Callable[[Roofline, Group], Iterator[Group]]] = {
    "a like kind on this machine": Roofline.like_here,
    "this kind on other machines": Roofline.same_elsewhere,
    "a like kind on other machines": Roofline.like_elsewhere,
}


def prediction_factor(logs: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Exp of the half-width of Student's prediction interval for one more of n >= 2 normal logarithms."""
    n = len(logs)
    quantile = float(scipy.special.stdtrit(n - 1, (1 + confidence) / 2))
    return math.exp(quantile * float(np.std(logs, ddof=1)) * math.sqrt(1 + 1 / n))


def _names(rows: Sequence[Published]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)


def roof(machine: Machine, data: Sheets, kind: str, count: Count) -> tuple[float, str]:
    """The seconds of work at full efficiency, and what bounds it: ``operations`` or ``bytes``."""
    by_operations = count.operations / machine.peak(data.kinds[kind].processor)
    by_bytes = count.n_bytes / machine.bandwidth
    return max(by_operations, by_bytes), "operations" if by_operations >= by_bytes else "bytes"
