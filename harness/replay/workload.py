"""The requests of one cell, their users and times, decided before anything is replayed.

Everything random comes from here, so that every simulator replays the same requests. N requests, user after user; the
requests ``first[u]`` to ``first[u + 1]`` are user u's, in the order in which they are made.
"""

import dataclasses
import enum

import numpy as np

from harness.replay.profile import Floats, Ints, Profile
from harness.scenario.arrivals import instants
from harness.scenario.replay import ClosedLoop, Periodic, Poisson, RecordedArrivals, Replay


class RandomStream(enum.IntEnum):
    """The independent random streams of a seed; each has a substream per user."""

    ARRIVALS = 0
    DRAWS = 1
    CHANNEL = 2


def stream(seed: int, kind: RandomStream, user: int) -> np.random.SeedSequence:
    """The seed of one user's random stream.

    It depends on nothing else. Schemes, rates and points that are compared have the same arrivals and the same
    questions, and a cell's numbers do not depend on which others are replayed, in which order, or where.
    """
    return np.random.SeedSequence(entropy=seed, spawn_key=(int(kind), user))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workload:
    """The requests of one cell; ``submitted_s`` is None in a closed loop, whose instants the replay decides."""

    first: Ints
    """(users + 1,)"""
    row: Ints
    """(N,), the profile's row that each request replays"""
    submitted_s: Floats | None
    """(N,)"""

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.first) - 1

    @property
    def user(self) -> Ints:
        """(N,), who makes each request."""
        return np.repeat(np.arange(self.users), np.diff(self.first))


def workload(profile: Profile, spec: Replay, users: int, seed: int) -> Workload:
    """The requests of ``users`` users; raises ScenarioError for recorded arrivals that cannot be read."""
    if isinstance(spec.arrivals, RecordedArrivals):
        times_s = instants(spec.arrivals, users)
    else:
        n = spec.requests or len(profile.samples)
        times_s = [_instants(spec, n, seed, user) for user in range(users)]
    rows = [_rows(profile, spec, len(times), users, seed, user) for user, times in enumerate(times_s)]
    return Workload(
        first=np.cumsum([0, *(len(times) for times in times_s)]),
        row=np.concatenate(rows),
        submitted_s=None if isinstance(spec.arrivals, ClosedLoop) else np.concatenate(times_s),
    )


def arrivals_of(spec: Replay, n: int, seed: int) -> Floats:
    """(n,) or as many as are recorded: when the first of the study's users who asks does; zeros in a closed loop."""
    if isinstance(spec.arrivals, RecordedArrivals):
        return np.asarray(next(at_s for at_s in instants(spec.arrivals, spec.users[0]) if len(at_s)))
    return _instants(spec, n, seed, 0)


def _rows(profile: Profile, spec: Replay, n: int, users: int, seed: int, user: int) -> Ints:
    rng = np.random.default_rng(stream(seed, RandomStream.DRAWS, user))
    if spec.requests is None and not isinstance(spec.arrivals, RecordedArrivals):
        every_row_once = np.arange(n)
        # Where requests may wait for each other, the repeats of a slow picture must not come one after the other.
        alone = users == 1 and isinstance(spec.arrivals, ClosedLoop)
        return every_row_once if alone else rng.permutation(every_row_once)
    return profile.draw(n, rng)


def _instants(spec: Replay, n: int, seed: int, user: int) -> Floats:
    rng = np.random.default_rng(stream(seed, RandomStream.ARRIVALS, user))
    match spec.arrivals:
        case Poisson(rate_hz=rate_hz):
            return np.cumsum(rng.exponential(1 / rate_hz, n))
        case Periodic(every_s=every_s, phase=phase):
            return every_s * (np.arange(n) + (rng.random() if phase == "random" else 0.0))
        case _:
            return np.zeros(n)
