"""Crossings, deadlines, users and advice against closed forms."""

import dataclasses

import numpy as np
import pytest
from replay_systems import profile_of, spec_of

from harness.analysis.whatif import advise, crossover, max_users, over_seeds
from harness.scenario.replay import ConstantUplink

LIGHT = profile_of([2000] * 8, np.linspace(0.4, 0.6, 8), [0.1] * 8, pipeline="light")
HEAVY = profile_of(np.linspace(9000, 11_000, 8), [0.1] * 8, [0.1] * 8, pipeline="heavy")


def test_crossover_is_where_the_papers_sums_are_equal() -> None:
    """8 (B_heavy - B_light) / (D_light - D_heavy) = 160 kbit/s, inside the interval; below it the light one wins."""
    found = crossover(LIGHT, HEAVY, spec_of(), low_bps=1e4, high_bps=1e7, seeds=30)
    assert found.rate_bps is not None
    assert found.rate_bps.low < 160e3 < found.rate_bps.high
    assert found.rate_bps.value == pytest.approx(160e3, rel=0.1)
    assert (found.faster_below, found.seeds_without) == ("light", 0)
    other_way = crossover(HEAVY, LIGHT, spec_of(), low_bps=1e4, high_bps=1e7, seeds=30)
    assert other_way == found


def test_one_sample_has_a_crossing_without_doubt() -> None:
    """Where nothing varies the interval is the closed form itself."""
    light, heavy = (profile_of([n], [d], [0.1], pipeline=p) for n, d, p in ((2000, 0.5, "l"), (10_000, 0.1, "h")))
    found = crossover(light, heavy, spec_of(), low_bps=1e4, high_bps=1e7, seeds=3)
    assert found.rate_bps is not None
    for rate_bps in dataclasses.astuple(found.rate_bps):
        assert rate_bps == pytest.approx(160e3, rel=1e-3)


def test_no_crossing_in_the_range_is_said() -> None:
    """Where one scheme is faster throughout there is no rate to give."""
    found = crossover(LIGHT, HEAVY, spec_of(), low_bps=1e3, high_bps=1e4, seeds=3)
    assert (found.rate_bps, found.faster_throughout, found.seeds_without) == (None, "light", 3)


def test_most_users_of_a_server_without_randomness() -> None:
    """Users who ask at the same instants wait for those before them: with 0.1 s each, five stay within 0.5 s."""
    profile = profile_of([0], [0.0], [0.1])
    spec = spec_of(arrivals={"kind": "periodic", "every": "10 s", "phase": "aligned"}, requests=20)
    users, seen = max_users(profile, spec, spec.uplinks[0], limit_s=0.5 + 1e-9)
    assert users == 5
    assert seen[5].value == pytest.approx(0.5)
    assert seen[6].value == pytest.approx(0.6)


def test_a_limit_that_one_user_misses_carries_none() -> None:
    """The answer is nought, not one."""
    spec = spec_of(requests=5)
    assert max_users(profile_of([0], [0.0], [1.0]), spec, spec.uplinks[0], limit_s=0.5)[0] == 0


def test_advice_puts_the_fastest_that_will_do_first() -> None:
    """A scheme that is fast but scores too little, and one that is late, are named with the reason."""
    fast, late = (profile_of([n] * 4, [0.1] * 4, [0.1] * 4, pipeline=p) for n, p in ((100, "fast"), (90_000, "late")))
    good, better = (
        profile_of([n] * 4, [0.1] * 4, [0.1] * 4, pipeline=p) for n, p in ((8000, "good"), (4000, "better"))
    )
    scores = {("fast", "-"): 0.2, ("late", "-"): 0.9, ("good", "-"): 0.9, ("better", "-"): 0.8}
    spec = spec_of(uplink={"kind": "constant", "rate": "25 KB/s"})
    found = advise([fast, late, good, better], scores, spec, spec.uplinks[0], deadline_s=1.0, min_score=0.7)
    assert [(a.pipeline, bool(a.rejected)) for a in found] == [
        ("better", False),
        ("good", False),
        ("fast", True),
        ("late", True),
    ]
    assert "scores 20.0%, below 70%" in found[2].rejected
    assert "0.0% in time" in found[3].rejected
    assert found[0].mean_s.value == pytest.approx(0.36)


def test_intervals_over_seeds_are_students() -> None:
    """1, 2, 3: mean 2, half-width 4.303 / sqrt(3); one seed says nothing about its own scatter."""
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found.value, found.high - found.value) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert over_seeds([1.0]).high == np.inf


def test_coverage_of_the_interval_over_seeds() -> None:
    """Of 400 intervals at 95 % about 380 hold the truth."""
    rng = np.random.default_rng(0)
    intervals = [over_seeds(rng.normal(size=8).tolist()) for _ in range(400)]
    assert 365 <= sum(i.low <= 0 <= i.high for i in intervals) <= 393


def test_crossover_takes_the_wire_into_account() -> None:
    """Headers that double the bytes double the crossing."""
    uplink = spec_of(uplink={"kind": "constant", "rate": "1 KB/s", "wire": {"header": "100 B", "segment": "100 B"}})
    assert isinstance(uplink.uplinks[0], ConstantUplink)
    light, heavy = (profile_of([n], [d], [0.1], pipeline=p) for n, d, p in ((2000, 0.5, "l"), (10_000, 0.1, "h")))
    found = crossover(light, heavy, uplink, low_bps=1e4, high_bps=1e7, seeds=2, wire=uplink.uplinks[0].wire)
    assert found.rate_bps is not None
    assert found.rate_bps.value == pytest.approx(320e3, rel=1e-3)
