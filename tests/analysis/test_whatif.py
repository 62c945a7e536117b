"""Crossings, deadlines, users and advice against closed forms."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from harness.analysis.crossings import crossover, crossover_of_links
from harness.analysis.loads import unstable_cells
from harness.analysis.means import mean_latency
from harness.analysis.replications import mean, replicated
from harness.analysis.setting import Population
from harness.analysis.whatif import advise, cell_summaries, max_users
from harness.errors import ResultsError
from harness.replay import Cell, Profile
from harness.scenario.replay import ConstantUplink
from tests.replay.systems import Range, profile_of, replayed, spec_of

LIGHT = profile_of([2000] * 8, np.linspace(0.4, 0.6, 8), [0.1] * 8, pipeline="light")
HEAVY = profile_of(np.linspace(9000, 11_000, 8), [0.1] * 8, [0.1] * 8, pipeline="heavy")


def test_crossover_is_where_the_papers_sums_are_equal() -> None:
    """8 (B_heavy - B_light) / (D_light - D_heavy) = 160 kbit/s, inside the interval; below it the light one wins."""
    found = crossover(LIGHT, HEAVY, spec_of(), low_bps=1e4, high_bps=1e7)
    assert found.rate_bps is not None
    assert found.rate_bps.low < 160e3 < found.rate_bps.high
    assert found.rate_bps.value == pytest.approx(160e3, rel=1e-4)
    assert found.faster_below == "light"
    other_way = crossover(HEAVY, LIGHT, spec_of(), low_bps=1e4, high_bps=1e7)
    assert other_way == found


def scattered(pipeline: str, seed: int, level: tuple[float, ...]) -> Profile:
    """Eight pictures in as many rounds as there are levels, each in a start of its own."""
    rng = np.random.default_rng(seed)
    repeats = len(level)
    at = np.tile(level, 8)
    device_s = at * np.repeat(rng.uniform(0.4, 0.6, 8) if pipeline == "light" else np.full(8, 0.1), repeats)
    n_bytes = np.repeat(2000 if pipeline == "light" else 10_000, 8 * repeats)
    profile = profile_of(n_bytes, device_s, 0.1 * at, pipeline=pipeline, repeats=repeats)
    return dataclasses.replace(profile, start=np.tile(np.arange(repeats), 8))


@pytest.mark.slow
def test_starts_that_scatter_are_in_a_crossing_and_in_what_queues() -> None:
    """Times of four starts that differ by a tenth widen each interval; of schemes apart there is one from three on."""
    level = (0.9, 1.0, 1.05, 1.15)
    still, moved = (
        [scattered(name, seed, of) for seed, name in enumerate(("light", "heavy"))] for of in ((1.0,) * 4, level)
    )
    rate: Range = {"low_bps": 1e4, "high_bps": 1e7}
    ends = []
    queue = spec_of(arrivals={"kind": "poisson", "rate": "0.5 /s"}, requests=200)
    for one, other in (still, moved):
        crossed = crossover(one, other, spec_of(), **rate).rate_bps
        links = crossover_of_links(one, other, spec_of(), spec_of().uplinks[0], resamples=6, **rate).rate_bps
        waited = replicated(one, Cell(spec=queue, uplink=queue.uplinks[0], users=1, seed=0), mean)
        assert crossed is not None
        assert links is not None
        ends.append([found.high / found.low for found in (crossed, links, waited)])
    assert (np.array(ends[1]) > 1.1 * np.array(ends[0])).all()
    apart = [moved[0], dataclasses.replace(moved[1], start=np.tile(np.arange(4, 8), 8))]
    found = crossover(apart[0], apart[1], spec_of(), **rate).rate_bps
    assert found is not None
    assert found.high / found.low > 1.1 * ends[1][0]
    lone = dataclasses.replace(moved[1], start=np.full(32, 9))
    for found in (
        crossover(moved[0], lone, spec_of(), **rate).rate_bps,
        crossover_of_links(moved[0], lone, spec_of(), spec_of().uplinks[0], resamples=6, **rate).rate_bps,
    ):
        assert found is not None
        assert math.isnan(found.low)
        assert found.reason.startswith("not comparable: timed in different starts")


def test_one_picture_has_a_crossing_and_no_interval() -> None:
    """The rate is the closed form; for one picture there is no interval, and the reason says so."""
    light, heavy = (profile_of([n], [d], [0.1], pipeline=p) for n, d, p in ((2000, 0.5, "l"), (10_000, 0.1, "h")))
    found = crossover(light, heavy, spec_of(), low_bps=1e4, high_bps=1e7)
    assert found.rate_bps is not None
    assert found.rate_bps.value == pytest.approx(160e3, rel=1e-3)
    assert math.isnan(found.rate_bps.low)
    assert found.rate_bps.reason == "1 picture gives no interval: 6 are needed"


def test_a_crossings_interval_is_where_the_difference_may_be_zero() -> None:
    """At its ends Student's interval of the pictures' differences begins and ends at 0."""
    found = crossover(LIGHT, HEAVY, spec_of(), low_bps=1e4, high_bps=1e7)
    assert found.rate_bps is not None
    quantile = scipy.stats.t.ppf(0.975, 7)
    for rate in (found.rate_bps.low, found.rate_bps.high):
        link = 8 * (LIGHT.payload_bytes - HEAVY.payload_bytes) / rate
        gain = LIGHT.device_s - HEAVY.device_s + link
        assert abs(gain.mean()) == pytest.approx(quantile * scipy.stats.sem(gain), rel=1e-2)


def test_repeats_do_not_narrow_a_crossing() -> None:
    """Each picture timed three times alike gives the same interval as once."""
    rng = np.random.default_rng(0)
    n_bytes, device_s = rng.integers(1500, 2500, 8), rng.uniform(0.4, 0.6, 8)
    once, thrice = (
        crossover(
            profile_of(np.repeat(n_bytes, k), np.repeat(device_s, k), [0.1] * 8 * k, pipeline="light", repeats=k),
            profile_of([10_000] * 8 * k, [0.1] * 8 * k, [0.1] * 8 * k, pipeline="heavy", repeats=k),
            spec_of(),
            low_bps=1e4,
            high_bps=1e7,
        )
        for k in (1, 3)
    )
    assert once.rate_bps is not None
    assert thrice.rate_bps is not None
    assert dataclasses.astuple(once.rate_bps)[:3] == pytest.approx(dataclasses.astuple(thrice.rate_bps)[:3], rel=1e-6)


def test_pictures_that_were_not_timed_alike_are_refused() -> None:
    """Two schemes timed on other samples have no paired difference."""
    other = dataclasses.replace(HEAVY, samples=tuple(f"other{i}" for i in range(8)))
    with pytest.raises(ResultsError, match="light and heavy were not timed on the same samples"):
        crossover(LIGHT, other, spec_of(), low_bps=1e4, high_bps=1e7)


def test_no_crossing_in_the_range_is_reported() -> None:
    """Where one scheme is faster throughout there is no rate to give."""
    found = crossover(LIGHT, HEAVY, spec_of(), low_bps=1e3, high_bps=1e4)
    assert (found.rate_bps, found.faster_throughout, found.sure) == (None, "light", True)


@pytest.mark.slow
def test_most_users_of_a_server_without_randomness() -> None:
    """Users whose requests coincide wait for those before them: with 0.1 s each, five stay within 0.5 s."""
    profile = profile_of([0], [0.0], [0.1])
    spec = spec_of(arrivals={"kind": "periodic", "every": "10 s", "phase": "aligned"}, requests=20)
    users, seen = max_users(profile, spec, spec.uplinks[0], limit_s=0.5 + 1e-9)
    assert users == 5
    assert seen[5].value == pytest.approx(0.5)
    assert seen[6].value == pytest.approx(0.6)


def test_a_limit_that_one_user_misses_allows_no_users() -> None:
    """The answer is zero, not one."""
    spec = spec_of(requests=5)
    assert max_users(profile_of([0], [0.0], [1.0]), spec, spec.uplinks[0], limit_s=0.5)[0] == 0


def test_advice_puts_the_fastest_acceptable_scheme_first() -> None:
    """A scheme that is fast but scores too low, and one that is too slow, are named with the reason."""
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


def test_intervals_of_advice_depend_on_pictures() -> None:
    """Its mean's interval is that of the pictures' times, for any number of replications."""
    rng = np.random.default_rng(1)
    profile = profile_of([2000] * 24, rng.uniform(0.2, 0.6, 24), [0.1] * 24, repeats=3)
    spec = spec_of(uplink={"kind": "constant", "rate": "25 KB/s"})
    few, many = (
        advise([profile], {("scheme", "-"): 0.9}, spec, spec.uplinks[0], resamples=b, deadline_s=1.0, min_score=0.7)[0]
        for b in (2, 200)
    )
    expected = mean_latency((profile.device_s + profile.server_s + 0.08).reshape(8, 3))
    assert dataclasses.astuple(few.mean_s)[:3] == pytest.approx(dataclasses.astuple(expected)[:3])
    assert many.mean_s == few.mean_s
    assert few.p95_s.reason.startswith("p95 needs 130 independent requests; these are worth")


def test_link_times_are_those_of_all_questions() -> None:
    """Timed pictures of 2000 bytes in a benchmark of 1000 and 5000: the link's mean is that of 3000."""
    profile = profile_of([2000] * 8, [0.3] * 8, [0.1] * 8)
    names = dict.fromkeys(profile.samples, 3.0)
    whole = Population(
        stratum_of=names, stratum_N=np.full(40, 3.0), payload_bytes={("scheme", "-"): np.repeat([1000, 5000], 20)}
    )
    spec = spec_of(uplink={"kind": "constant", "rate": "10 KB/s"})
    found = advise(
        [profile], {("scheme", "-"): 1.0}, spec, spec.uplinks[0], deadline_s=1.0, min_score=0.5, population=whole
    )
    assert found[0].mean_s.value == pytest.approx(0.4 + 0.3)


def test_a_saturated_system_has_no_mean() -> None:
    """0.65 s of work twice a second for one server is a utilisation of 1.3, and no mean is given."""
    profile = profile_of([100] * 8, [0.0] * 8, [0.65] * 8)
    spec = spec_of(arrivals={"kind": "poisson", "rate": "2 /s"}, requests=50)
    advice = advise([profile], {("scheme", "-"): 1.0}, spec, spec.uplinks[0], deadline_s=9.0, min_score=0.5)[0]
    assert advice.rejected == "unstable: utilisation 1.3 of the servers"
    assert math.isinf(advice.mean_s.value)
    assert max_users(profile, spec, spec.uplinks[0], limit_s=60.0, q=50)[0] == 0


@pytest.mark.slow
def test_more_replications_do_not_narrow_a_queues_interval_to_nothing() -> None:
    """With eight pictures that differ the interval stays as wide as they leave it, and holds the truth."""
    rng = np.random.default_rng(2)
    service_s = 0.1 * np.exp(0.3 * rng.normal(size=8))
    profile = profile_of([0] * 8, [0.0] * 8, service_s)
    spec = spec_of(arrivals={"kind": "poisson", "rate": "5 /s"}, requests=400)
    cell = Cell(spec=spec, uplink=spec.uplinks[0], users=1, seed=0)
    few, many = (replicated(profile, cell, mean, resamples=b) for b in (20, 80))
    assert many.half_width > 0.5 * few.half_width
    truth = 0.1 * math.exp(0.045) + 5 * 0.01 * math.exp(0.18) / (2 * (1 - 0.5 * math.exp(0.045)))
    assert many.low < truth < many.high


def test_a_sweeps_intervals_do_not_shrink_with_its_seeds() -> None:
    """Replaying the same eight pictures forty times instead of four leaves the mean's interval as it is."""
    profile = profile_of([2000] * 8, np.linspace(0.2, 0.9, 8), [0.1] * 8)
    spec = spec_of()
    rows = [pa.concat_tables(replayed(profile, spec, seed=s) for s in range(k)) for k in (4, 40)]
    few, many = (cell_summaries(table, 0.5)[0] for table in rows)
    assert (many.mean_s.low, many.mean_s.high) == pytest.approx((few.mean_s.low, few.mean_s.high))
    assert few.in_time is not None
    assert few.in_time.high - few.in_time.low > 0.5
    assert few.p99_s.reason == "p99 needs 662 independent requests; these are worth 8"


def test_crossover_takes_the_wire_into_account() -> None:
    """Headers that double the bytes double the crossing."""
    uplink = spec_of(uplink={"kind": "constant", "rate": "1 KB/s", "wire": {"header": "100 B", "segment": "100 B"}})
    assert isinstance(uplink.uplinks[0], ConstantUplink)
    light, heavy = (profile_of([n], [d], [0.1], pipeline=p) for n, d, p in ((2000, 0.5, "l"), (10_000, 0.1, "h")))
    found = crossover(light, heavy, uplink, low_bps=1e4, high_bps=1e7, wire=uplink.uplinks[0].wire)
    assert found.rate_bps is not None
    assert found.rate_bps.value == pytest.approx(320e3, rel=1e-3)


def test_an_unstable_cell_of_a_sweep_has_its_reason_and_no_time() -> None:
    """Over 10 KB/s, of a chain of two rates or of one, 20 kB a second have none, and 2 kB a second have their times."""
    slow, fast = profile_of([20_000] * 8, [0.0] * 8, [0.01] * 8), profile_of([2000] * 8, [0.0] * 8, [0.01] * 8)
    links = (
        {"kind": "constant", "rate": "10 KB/s"},
        {"kind": "gilbert_elliott", "good": "20 KB/s", "bad": "0 B/s", "good_for": "100 ms", "bad_for": "100 ms"},
    )
    for link in links:
        spec = spec_of(uplink=link, arrivals={"kind": "poisson", "rate": "1 /s"}, requests=20)
        of_slow, of_fast = (
            cell_summaries(replayed(one, spec), 0.5, unstable=unstable_cells([one], spec))[0] for one in (slow, fast)
        )
        assert of_slow.in_time is not None
        for estimate in (of_slow.mean_s, of_slow.p50_s, of_slow.p99_s, of_slow.in_time):
            assert (math.isnan(estimate.value), estimate.reason) == (True, "unstable: utilisation 2 of the uplink")
        assert of_fast.mean_s.value > 0
        assert of_fast.in_time is not None
        assert of_fast.in_time.value > 0
