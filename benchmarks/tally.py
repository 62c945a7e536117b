"""What calibrations count and print: how often a truth was inside, with its Monte Carlo error, and how wide it was."""

import math

from harness.analysis.means import Estimate


class Tally:
    """Hits and widths of one method over the studies of a cell."""

    def __init__(self, *, down_to_nothing: bool = True) -> None:
        self.down_to_nothing = down_to_nothing
        self.n = self.hits = self.refused = 0
        self.width = 0.0
        self.unbounded = 0

    def add(self, found: Estimate, truth: float) -> None:
        """Count one interval; one not promised is counted apart."""
        if math.isnan(found.low):
            self.refused += 1
            return
        self.n += 1
        self.hits += found.low <= truth <= found.high
        if math.isfinite(found.high) and (self.down_to_nothing or found.low > 0):
            self.width += (found.high - found.low) / abs(truth or 1.0)
        else:
            self.unbounded += 1

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


def show(what: str, claim: str, new: object, old: object = "", note: str = "") -> None:
    """Print a line."""
    print(f"{what:<52} {claim:>6} {new!s:<46} {f'before: {old}' if old else '':<36} {note}".rstrip(), flush=True)


def share(hits: int, n: int) -> str:
    """A share in percent with its Monte Carlo error."""
    rate = 100 * hits / n
    return f"{rate:5.1f} ± {math.sqrt(rate * (100 - rate) / n):.1f} %"
