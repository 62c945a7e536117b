"""Queues against theory: waits within the simulation's own interval of the closed forms.

A profile's rows are a discrete distribution, so M/G/1 with its own moments is exact. Every interval is at 99.9 % over
fixed seeds, so that a test that passes always passes.
"""

import math

import numpy as np
import pytest

from harness.analysis.percentiles import over_replications
from harness.replay import Profile
from harness.scenario.replay import Replay
from tests.replay.systems import profile_of, replayed, spec_of

RNG = np.random.default_rng(0)
EXPONENTIAL_S = RNG.exponential(1.0, 4000)
EXPONENTIAL_S /= EXPONENTIAL_S.mean()
TWO_MOMENTS_S = np.where(np.arange(4000) % 10 == 0, 5.5, 0.5)


def _within(profile: Profile, spec: Replay, start: str, end: str, work_s: float, expected_s: float) -> None:
    """The mean time between two instants, less the work in it, is the expected wait."""
    waits = []
    for seed in range(12):
        requests = replayed(profile, spec, seed=seed).to_pandas()
        settled = requests.iloc[len(requests) // 20 :]
        waits.append(float((settled[end] - settled[start]).mean()) - work_s)
    found = over_replications(waits, confidence=0.999)
    assert found.low <= expected_s <= found.high, f"{found} against {expected_s}"
    assert (found.high - found.low) / 2 < 0.1 * expected_s + 1e-9, f"{found} is too wide for {expected_s}"


def _server_system(service_s: np.ndarray, rho: float, servers: int = 1, n: int = 60_000) -> tuple[Profile, Replay]:
    profile = profile_of(np.zeros(len(service_s)), np.zeros(len(service_s)), service_s)
    rate = rho * servers / service_s.mean()
    return profile, spec_of(arrivals={"kind": "poisson", "rate": f"{rate} /s"}, requests=n, servers=servers)


@pytest.mark.slow
def test_md1_wait_at_the_uplink() -> None:
    """M/D/1: equal payloads that arrive at random wait rho / (2 mu (1 - rho)) for the link."""
    rho, seconds = 0.7, 0.04
    profile = profile_of([1000], [0.0], [0.0])
    spec = spec_of(
        uplink={"kind": "constant", "rate": "25 KB/s"},
        arrivals={"kind": "poisson", "rate": f"{rho / seconds} /s"},
        requests=60_000,
    )
    _within(profile, spec, "device_done_s", "sent_s", seconds, rho * seconds / (2 * (1 - rho)))


@pytest.mark.slow
def test_md1_wait_at_an_uplink_that_many_users_share() -> None:
    """Twenty users' requests at one first-come-first-served link are one Poisson stream."""
    rho, seconds = 0.6, 0.04
    profile = profile_of([1000], [0.0], [0.0])
    spec = spec_of(
        uplink={"kind": "constant", "rate": "25 KB/s"},
        arrivals={"kind": "poisson", "rate": f"{rho / seconds / 20} /s"},
        users=20,
        sharing="fifo",
        servers=20,
        requests=3000,
    )
    _within(profile, spec, "device_done_s", "sent_s", seconds, rho * seconds / (2 * (1 - rho)))


@pytest.mark.slow
@pytest.mark.parametrize("service_s", [EXPONENTIAL_S, TWO_MOMENTS_S], ids=["exponential", "two values"])
def test_mg1_wait_at_the_server(service_s: np.ndarray) -> None:
    """M/G/1 (Pollaczek-Khinchine): lambda E[S^2] / (2 (1 - rho)); M/M/1 where S is exponential."""
    rho = 0.6
    profile, spec = _server_system(service_s, rho)
    expected_s = rho / service_s.mean() * (service_s**2).mean() / (2 * (1 - rho))
    _within(profile, spec, "delivered_s", "answered_s", float(service_s.mean()), float(expected_s))
    _within(profile, spec, "delivered_s", "server_begun_s", 0.0, float(expected_s))


@pytest.mark.slow
def test_each_timed_repeat_once_waits_as_independent_requests_do() -> None:
    """One user whose requests are the timed ones, each once: slow pictures, and their repeats, do not come together."""
    rho, service_s = 0.4, np.sort(np.tile(TWO_MOMENTS_S, 5))
    profile = profile_of(np.zeros(20_000), np.zeros(20_000), service_s, repeats=5)
    spec = spec_of(arrivals={"kind": "poisson", "rate": f"{rho / service_s.mean()} /s"})
    expected_s = rho / service_s.mean() * (service_s**2).mean() / (2 * (1 - rho))
    _within(profile, spec, "delivered_s", "server_begun_s", 0.0, float(expected_s))
    rows = replayed(profile, spec)
    assert sorted(rows["sample"].to_pylist()) == list(profile.samples)


@pytest.mark.slow
def test_mm1_wait_at_the_device() -> None:
    """M/M/1: a device is a queue too, with mean wait rho / (mu - lambda)."""
    rho = 0.5
    profile = profile_of(np.zeros(4000), EXPONENTIAL_S, np.zeros(4000))
    spec = spec_of(arrivals={"kind": "poisson", "rate": f"{rho} /s"}, requests=60_000)
    second_moment = float((EXPONENTIAL_S**2).mean())
    assert second_moment == pytest.approx(2.0, rel=0.1)
    _within(profile, spec, "submitted_s", "device_done_s", 1.0, rho * second_moment / 2 / (1 - rho))
    _within(profile, spec, "submitted_s", "device_begun_s", 0.0, rho * second_moment / 2 / (1 - rho))


@pytest.mark.slow
@pytest.mark.parametrize("servers", [2, 5])
def test_mmc_wait_at_a_pool_of_servers(servers: int) -> None:
    """M/M/c: Erlang's C over c mu - lambda."""
    rho = 0.8
    service_s = np.random.default_rng(5).exponential(1.0, 30_000)
    profile, spec = _server_system(service_s, rho, servers, n=120_000)
    load = rho * servers
    top = load**servers / math.factorial(servers) / (1 - rho)
    erlang_c = top / (sum(load**k / math.factorial(k) for k in range(servers)) + top)
    mean_s = float(service_s.mean())
    _within(profile, spec, "delivered_s", "answered_s", mean_s, erlang_c * mean_s / (servers * (1 - rho)))


@pytest.mark.slow
@pytest.mark.parametrize("payload", [np.full(10, 1000), np.array([500] * 9 + [5500])], ids=["equal", "two sizes"])
def test_processor_sharing_depends_on_the_mean_alone(payload: np.ndarray) -> None:
    """M/G/1-PS: E[S] / (1 - rho), whatever the distribution of the sizes."""
    rho, seconds = 0.6, 0.04
    assert payload.mean() == 1000
    profile = profile_of(payload, np.zeros(10), np.zeros(10))
    spec = spec_of(
        uplink={"kind": "constant", "rate": "25 KB/s"},
        arrivals={"kind": "poisson", "rate": f"{rho / seconds} /s"},
        sharing="processor",
        servers=1,
        requests=60_000,
    )
    _within(profile, spec, "device_done_s", "sent_s", 0.0, seconds / (1 - rho))


@pytest.mark.slow
@pytest.mark.parametrize(("users", "expected_hz"), [(1, 1 / 1.5), (3, 3 / 1.5), (4, 2.0), (12, 2.0)])
def test_closed_loop_throughput(users: int, expected_hz: float) -> None:
    """N users of think time Z: X = N / (D + Z) until the server, 0.5 s a request, is the bottleneck: X = 1 / 0.5."""
    profile = profile_of([0], [0.25], [0.5])
    spec = spec_of(arrivals={"kind": "closed_loop", "think": "750 ms"}, users=users, requests=200)
    answered_s = np.sort(replayed(profile, spec)["answered_s"].to_numpy())
    middle = answered_s[len(answered_s) // 4 : len(answered_s) // 2]
    assert (len(middle) - 1) / (middle[-1] - middle[0]) == pytest.approx(expected_hz, rel=0.02)


@pytest.mark.slow
def test_littles_law_holds() -> None:
    """The mean number of requests in the system is their rate times their mean stay."""
    profile, spec = _server_system(EXPONENTIAL_S, 0.7, servers=2, n=30_000)
    rows = replayed(profile, spec).to_pandas()
    begun, ended = np.sort(rows["submitted_s"]), np.sort(rows["answered_s"])
    at_s = np.linspace(ended[-1] * 0.1, ended[-1] * 0.9, 20_000)
    present = np.searchsorted(begun, at_s) - np.searchsorted(ended, at_s)
    rate_hz = len(rows) / begun[-1]
    assert present.mean() == pytest.approx(rate_hz * (rows["answered_s"] - rows["submitted_s"]).mean(), rel=0.05)
