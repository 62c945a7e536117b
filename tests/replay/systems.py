"""Profiles and systems for the replay's tests."""

from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from harness.replay import Cell, Profile, replay
from harness.scenario.replay import Replay


class Range(TypedDict):
    """The rates between which a crossover is looked for."""

    low_bps: float
    high_bps: float


def profile_of(
    payload_bytes: Any, device_s: Any, server_s: Any, *, pipeline: str = "scheme", repeats: int = 1
) -> Profile:
    """A profile of the given rows, with one server stage, ``prefill``."""
    n = len(payload_bytes)
    return Profile(
        pipeline=pipeline,
        point="-",
        samples=tuple(f"s{i // repeats:06}" for i in range(n)),
        payload_bytes=np.asarray(payload_bytes, dtype=np.int64),
        device_s=np.asarray(device_s, dtype=float),
        server_stages=("prefill",),
        server_stage_s=np.asarray(server_s, dtype=float)[:, None],
    )


def spec_of(**parts: Any) -> Replay:
    """A replay section; the link is fast enough not to matter unless ``uplink`` says otherwise."""
    uplink = parts.pop("uplink", {"kind": "constant", "rate": "1e9 GB/s"})
    return Replay.model_validate({"uplinks": [uplink], **parts})


def replayed(profile: Profile, spec: Replay, *, seed: int = 0, simulator: Any = "auto") -> pa.Table:
    """The rows of the section's first uplink and number of users."""
    return replay(profile, Cell(spec=spec, uplink=spec.uplinks[0], users=spec.users[0], seed=seed), simulator=simulator)


def drawn_profile(seed: int) -> Profile:
    """A random profile of 24 rows, 8 samples of 3 repeats."""
    rng = np.random.default_rng(seed)
    return profile_of(rng.integers(0, 60_000, 24), rng.exponential(0.05, 24), rng.exponential(0.03, 24), repeats=3)
