"""What is computed from a run's rows: each quantity in one place, and all of a run's in one :class:`Analysis`."""

from harness.analysis.analysis import Analysis

__all__ = ["Analysis"]
