"""Replays profiled requests through links and servers."""

from harness.replay.cell import Cell, replay
from harness.replay.profile import Profile
from harness.replay.sweep import sweep

__all__ = ["Cell", "Profile", "replay", "sweep"]
