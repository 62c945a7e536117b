"""Advice, crossings and users over recorded links, round trips and queues, against closed forms."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis import Analysis
from harness.analysis.crossings import crossover, crossover_of_links
from harness.analysis.loads import instability
from harness.analysis.whatif import advise, max_users
from harness.channel import recording
from harness.channel.channel import mean_bps
from harness.errors import ResultsError
from harness.replay import Cell
from harness.scenario.replay import Replay
from tests.replay.systems import Range, profile_of

LIGHT = profile_of([2000] * 8, np.linspace(0.4, 0.6, 8), [0.1] * 8, pipeline="light")
HEAVY = profile_of(np.linspace(9000, 11_000, 8), [0.1] * 8, [0.1] * 8, pipeline="heavy")
RANGE: Range = {"low_bps": 1e4, "high_bps": 1e7}


def trace(folder: Path, rates_bps: list[float], each_s: float = 1.0, name: str = "link") -> Path:
    """A recording of spans of equal length."""
    path = folder / f"{name}.parquet"
    at_s = np.arange(len(rates_bps) + 1) * each_s
    recording.save(recording.RateRecording(at_s, np.array(rates_bps, float), "made up"), path)
    return path


def system(uplink: dict[str, Any], **parts: Any) -> Replay:
    """A replay section with one uplink."""
    return Replay.model_validate({"uplinks": [uplink], **parts})


def over(path: Path, **parts: Any) -> Replay:
    """A replay section over a recording."""
    return system({"kind": "trace", "path": str(path), **parts.pop("uplink", {})}, **parts)


@pytest.mark.slow
def test_a_recording_of_one_rate_is_that_rate(tmp_path: Path) -> None:
    """Advice over it has the mean of the constant link, and a crossing on it is that of the closed form, 160 kbit/s."""
    spec = over(trace(tmp_path, [200e3] * 4))
    assert mean_bps(spec.uplinks[0]) == pytest.approx(200e3)
    constant = system({"kind": "constant", "rate": "200 kbit/s"})
    scores = {("light", "-"): 1.0}
    of_link, of_rate = (
        advise([LIGHT], scores, s, s.uplinks[0], deadline_s=2.0, min_score=0.5, resamples=4)[0]
        for s in (spec, constant)
    )
    assert of_link.mean_s.value == pytest.approx(of_rate.mean_s.value)
    found = crossover_of_links(LIGHT, HEAVY, spec, spec.uplinks[0], resamples=3, **RANGE)
    assert found.rate_bps is not None
    assert found.rate_bps.value == pytest.approx(160e3, rel=0.01)
    assert found.faster_below == "light"


@pytest.mark.slow
def test_a_crossings_interval_by_resampling_is_about_fiellers() -> None:
    """Where both exist, on a constant link without queues, the two agree to within a half and contain the truth."""
    spec = system({"kind": "constant", "rate": "1 MB/s"})
    exact = crossover(LIGHT, HEAVY, spec, **RANGE).rate_bps
    found = crossover_of_links(LIGHT, HEAVY, spec, spec.uplinks[0], resamples=24, **RANGE).rate_bps
    assert exact is not None
    assert found is not None
    assert found.low < 160e3 < found.high
    widths = [math.log(estimate.high / estimate.low) for estimate in (exact, found)]
    assert 0.5 < widths[1] / widths[0] < 1.5


@pytest.mark.slow
def test_a_scaled_recording_crosses_at_the_same_mean_rate(tmp_path: Path) -> None:
    """Only the recording's shape matters: one of thrice the rates gives the same answer."""
    shape = [50e3, 400e3, 100e3, 250e3]
    one, thrice = (
        over(trace(tmp_path, [k * rate for rate in shape], name=f"times-{k}"), uplink={"start": "beginning"})
        for k in (1, 3)
    )
    found = [
        crossover_of_links(LIGHT, HEAVY, spec, spec.uplinks[0], resamples=3, **RANGE).rate_bps for spec in (one, thrice)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].value == pytest.approx(found[1].value, rel=0.011)


def test_a_recording_that_stops_has_no_mean_rate(tmp_path: Path) -> None:
    """One sentence says so."""
    spec = over(trace(tmp_path, [1e5]), uplink={"at_end": "stop", "start": "beginning"})
    with pytest.raises(ResultsError, match="stops, and has no mean rate"):
        crossover_of_links(LIGHT, HEAVY, spec, spec.uplinks[0], **RANGE)


def test_a_round_trip_is_added_once(tmp_path: Path) -> None:
    """Over a link with 30 ms each way T is 60 ms longer, and a device that answers alone does not wait for it."""
    wire, answer = {"wire": {"propagation": "30 ms"}}, {"propagation": "30 ms"}
    sends, stays = profile_of([1000] * 8, [0.2] * 8, [0.1] * 8), profile_of([0] * 8, [0.2] * 8, [0.0] * 8)
    for uplink in ({"kind": "constant", "rate": "10 KB/s"}, {"kind": "trace", "path": str(trace(tmp_path, [80e3]))}):
        plain, late = system(uplink), system({**uplink, **wire}, answer=answer)
        for profile, expected_s in ((sends, 0.06), (stays, 0.0)):
            means = [
                advise([profile], {("scheme", "-"): 1.0}, s, s.uplinks[0], deadline_s=1, min_score=0.5, resamples=2)[0]
                for s in (plain, late)
            ]
            assert means[1].mean_s.value - means[0].mean_s.value == pytest.approx(expected_s, abs=1e-9)


@pytest.mark.slow
def test_several_users_wait_as_in_an_m_d_1_queue() -> None:
    """Eight users' requests at one server, rho = 0.6: W = rho D / (2 (1 - rho)), Pollaczek and Khinchine."""
    service_s, rho = 0.1, 0.6
    profile = profile_of([0] * 8, [0.0] * 8, [service_s] * 8)
    each_hz = rho / service_s / 8
    spec = system(
        {"kind": "constant", "rate": "1 MB/s"},
        users=[8],
        requests=1000,
        arrivals={"kind": "poisson", "rate": f"{each_hz} /s"},
    )
    found = advise([profile], {("scheme", "-"): 1.0}, spec, spec.uplinks[0], deadline_s=1, min_score=0.5)[0]
    truth = service_s + rho * service_s / (2 * (1 - rho))
    assert found.mean_s.value == pytest.approx(truth, rel=0.04)
    assert found.mean_s.low < truth < found.mean_s.high


def test_a_link_too_slow_for_all_is_called_unstable(tmp_path: Path) -> None:
    """A recording is judged by its mean: 20 kB/s asked of 12.5 kB/s is a utilisation of 1.6, alone or shared."""
    path = trace(tmp_path, [0, 200e3])
    profile = profile_of([20_000] * 8, [0.0] * 8, [0.01] * 8)
    asked = {"arrivals": {"kind": "poisson", "rate": "1 /s"}, "requests": 20}
    for parts, users in (({}, 1), ({"sharing": "fifo", "servers": 2}, 2)):
        spec = over(path, users=[users], **asked, **parts)
        why = instability(profile, Cell(spec=spec, uplink=spec.uplinks[0], users=users, seed=0))
        assert why == f"unstable: utilisation {1.6 * users:.3g} of the uplink"
    spec = over(path, **asked)
    assert max_users(profile, spec, spec.uplinks[0], limit_s=60, q=50)[0] == 0


@pytest.mark.slow
def test_where_neither_keeps_up_there_is_no_crossing() -> None:
    """Overloaded servers leave nothing to compare; a slow link only below its own rate."""
    one, other = (profile_of([100] * 8, [0.0] * 8, [0.65] * 8, pipeline=name) for name in ("a", "b"))
    spec = system({"kind": "constant", "rate": "1 MB/s"}, arrivals={"kind": "poisson", "rate": "2 /s"}, requests=20)
    found = crossover_of_links(one, other, spec, spec.uplinks[0], **RANGE)
    assert (found.rate_bps, found.unstable_below_bps) == (None, math.inf)
    slow = system({"kind": "constant", "rate": "1 MB/s"}, arrivals={"kind": "poisson", "rate": "1 /s"}, requests=50)
    found = crossover_of_links(LIGHT, HEAVY, slow, slow.uplinks[0], resamples=3, **RANGE)
    assert found.unstable_below_bps == pytest.approx(16e3, rel=0.4)
    assert found.faster_below == "light"
    assert found.rate_bps is not None
    # Above the rate at which the heavy one just keeps up, its queue has yet to shrink.
    assert found.rate_bps.value > 80e3


@pytest.mark.slow
def test_the_commands_take_links_round_trips_and_users(
    made_up: Analysis, harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Each names the system that it replayed; a rate and a link together are refused in one sentence."""
    link, folder = trace(tmp_path, [400e3, 900e3]), made_up.record.folder
    queue = ["--link", link, "--rtt", "40ms", "--users", 2, "--per-user", "0.05 /s", "--requests", 20]
    status, out, err = harness("advise", folder, *queue, "--deadline", "5s", "--min-score", "0.5")
    assert status in (0, 1), err
    said = "the link link, a round trip of 40 ms, 2 users asking 0.05 times a second each, 1 server"
    assert said in " ".join(out.split())
    names = [name for name, rows in made_up.points.groupby("pipeline", sort=False) if rows["selected"].any()]
    status, out, err = harness("crossover", folder, *names[:2], *queue)
    assert status == 0, err
    assert "the link link, scaled" in out
    status, out, err = harness("max-users", folder, names[0], "--link", link, "--limit", "1ms", "--requests", 20)
    assert status == 0, err
    assert "0 users within 1 ms" in out
    for command in (["advise", folder, "--deadline", "1s"], ["max-users", folder, names[0], "--limit", "1s"]):
        status, _, err = harness(*command, "--link", link, "--rate", "1 MB/s")
        assert status == 2
        assert "either the uplink's" in err
    status, _, err = harness("advise", folder, "--deadline", "1s", "--link", tmp_path / "absent.parquet")
    assert status == 2
    assert "absent.parquet" in err
