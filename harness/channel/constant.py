"""A link of one rate: the paper's setting."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A link that carries ``rate_bps`` bit/s at all times."""

    rate_bps: float

    def __post_init__(self) -> None:
        if not (self.rate_bps > 0 and math.isfinite(self.rate_bps)):
            raise ValueError(f"a constant link needs a finite rate above 0 bit/s, not {self.rate_bps}")

    def finish(self, start_s: float, n_bytes: float) -> float:
        """Start + 8 n / rate."""
        return start_s + 8 * n_bytes / self.rate_bps

    def bits(self, start_s: float, end_s: float) -> float:
        """Rate x (end - start)."""
        return self.rate_bps * (end_s - start_s)
