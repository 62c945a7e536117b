"""Requests timed at the study's arrivals: when they begin, and how long the machine idles between the halves."""

import itertools
from pathlib import Path

import pytest

from harness.profiling.pacing import Pacing
from harness.scenario.replay import Replay


class Clock:
    """A clock that only sleeping and declared work move."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept_s.append(seconds)
        self.now_s += seconds


def pacing(clock: Clock, **section: object) -> Pacing:
    """The pacing of a replay section."""
    given = {"uplinks": [{"kind": "constant", "rate": "25 KB/s"}], **section}
    return Pacing(Replay.model_validate(given), 7, now_s=lambda: clock.now_s, sleep=clock.sleep)


def test_periodic_requests_begin_a_period_apart_whatever_they_take() -> None:
    """A request of 0.3 s leaves 0.7 s of a second; one that takes longer than the period is followed at once."""
    clock = Clock()
    of_study = pacing(clock, arrivals={"kind": "periodic", "every": "1 s"})
    begun_s = []
    for work_s in (0.3, 0.3, 2.5, 0.3):
        of_study.wait()
        begun_s.append(clock.now_s)
        clock.now_s += work_s
    assert [later - earlier for earlier, later in itertools.pairwise(begun_s)] == pytest.approx([1, 1, 2.5])


def test_poisson_requests_have_the_rate_of_the_study() -> None:
    """Over 900 requests the mean gap is that of the rate, within four standard errors, and gaps are not periodic."""
    clock = Clock()
    of_study = pacing(clock, arrivals={"kind": "poisson", "rate": "2 /s"})
    for _ in range(900):
        of_study.wait()
    gaps_s = clock.slept_s[1:]
    mean_s = sum(gaps_s) / len(gaps_s)
    assert abs(mean_s - 0.5) < 4 * 0.5 / 30
    assert max(gaps_s) > 4 * mean_s


def test_in_a_closed_loop_the_machine_idles_for_the_thinking_and_the_link() -> None:
    """T_link = 8 bytes / rate over the first uplink, plus what its wire adds; a dead link is not waited for."""
    clock = Clock()
    uplinks = [
        {"kind": "constant", "rate": "25 KB/s", "wire": {"propagation": "20 ms"}},
        {"kind": "constant", "rate": "1 B/s"},
    ]
    of_study = pacing(clock, uplinks=uplinks, arrivals={"kind": "closed_loop", "think": "2 s"})
    of_study.wait()
    of_study.cross(50_000)
    assert clock.slept_s == pytest.approx([2.0, 2.02])
    pacing(clock, uplinks=uplinks[1:]).cross(50_000)
    assert clock.slept_s[-1] == 60.0


def test_recorded_requests_are_those_of_the_first_active_user(tmp_path: Path) -> None:
    """A user without records is skipped; after the last instant the gaps repeat."""
    (tmp_path / "asked.csv").write_text("at_s,user\n1,1\n3,1\n")
    clock = Clock()
    of_study = pacing(clock, users=2, arrivals={"kind": "recorded", "path": str(tmp_path / "asked.csv")})
    for _ in range(4):
        of_study.wait()
    assert clock.slept_s == pytest.approx([0, 2, 1, 2])
