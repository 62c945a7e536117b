"""The real link: it is removed afterwards, and one that cannot be made is reported."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UnavailableError
from harness.replay import testbed, validation
from harness.replay.profile import Floats
from harness.replay.validation import LINK_MEDIAN, LINK_P99, Host, Validation, validate
from harness.scenario.replay import Wire
from tests.replay.systems import profile_of

US = 1e-6
linked = pytest.mark.skipif(testbed.why_not() is not None, reason=f"no real link: {testbed.why_not()}")


def found_with(
    off_s: Floats, scatter_s: tuple[float, float] | None, *, link_s: Floats | float = 5e-3, device_off_s: float = 0.0
) -> Validation:
    """Requests whose replayed T_link, 5 ms by default, has these errors; scatter None is the default's."""
    replayed_s = np.full(len(off_s), 0.05)
    link_s = np.zeros(len(off_s)) + link_s
    host = Host(up_s=50 * US, back_s=20 * US)
    if scatter_s is not None:
        host = Host(up_s=50 * US, back_s=20 * US, scatter_s=scatter_s)
    return Validation(
        rate_bps=8e5,
        host=host,
        real_s={"device": replayed_s - device_off_s, "link": link_s - off_s, "server": replayed_s},
        replayed_s={"device": replayed_s, "link": link_s, "server": replayed_s},
    )


def to_both_sides(n: int, size_s: float, far: int = 0, far_s: float = 0.0) -> Floats:
    """Errors of ``n`` requests that average out: ``size_s`` each, but ``far_s`` for ``far`` of them."""
    sizes_s = np.where(np.arange(n) < far, far_s, size_s)
    return sizes_s * np.where(np.arange(n) % 2 == 0, 1, -1)


def test_an_error_within_the_hosts_own_scatter_is_reported_and_does_not_fail() -> None:
    """Both percentiles are excused by themselves: 80 us in the median of 5 ms, and 300 us in the tail."""
    found = found_with(to_both_sides(30, 80 * US, far=2, far_s=300 * US), (90 * US, 310 * US))
    assert found.shortfalls() == []
    median, tail = found.excused()
    assert median == (
        "the median error of T_link is 1.63% (limit 1%): 30 of 30 requests are off by more, 2 of these by more than "
        "the host's own median of 90 us"
    )
    assert "the p99 error of T_link" in tail
    assert "2 of 30 requests are off by more, 0 of these by more than the host's own p99 of 310 us" in tail


def test_an_error_beyond_the_hosts_own_scatter_fails() -> None:
    """The same errors, on a host that scatters less; each percentile is compared with its own scatter."""
    off_s = to_both_sides(30, 80 * US, far=2, far_s=300 * US)
    found = found_with(off_s, (70 * US, 310 * US))
    assert ["median" in sentence for sentence in found.shortfalls()] == [True]
    assert ["p99" in sentence for sentence in found.excused()] == [True]
    found = found_with(off_s, (90 * US, 290 * US))
    assert ["p99" in sentence for sentence in found.shortfalls()] == [True]
    assert ["median" in sentence for sentence in found.excused()] == [True]


def test_one_request_beyond_the_scatter_is_enough_for_the_tail() -> None:
    """Of thirty, the 99th percentile lies between the two largest errors; one does not excuse the other."""
    off_s = to_both_sides(30, 10 * US)
    off_s[:2] = 195 * US, -150 * US
    assert len(found_with(off_s, (20 * US, 200 * US)).excused()) == 1
    assert len(found_with(off_s, (20 * US, 180 * US)).shortfalls()) == 1


def test_without_scatter_nothing_is_excused() -> None:
    """A host whose scatter was not measured excuses nothing, even an error a nanosecond over the limit."""
    for off_s in (to_both_sides(30, LINK_MEDIAN * 5e-3 + 1e-9), to_both_sides(30, 0.0, far=2, far_s=LINK_P99 * 5.2e-3)):
        for scatter_s in (None, (0.0, 0.0)):
            found = found_with(off_s, scatter_s)
            assert found.excused() == []
            assert len(found.shortfalls()) == 1


def test_the_mean_of_a_stage_is_never_excused() -> None:
    """Neither of a stage without the host's latencies, nor of T_link."""
    vast = (1.0, 1.0)
    device = found_with(np.zeros(30), vast, device_off_s=2e-3)
    assert device.shortfalls() == ["the mean of device is off by +4.2% (limit 2%)"]
    assert device.excused() == []
    link = found_with(np.full(30, 150 * US), vast)
    assert [sentence.split(" is ")[0] for sentence in link.shortfalls()] == [
        "the mean of link",
        "the median error of T_link",
        "the p99 error of T_link",
    ]
    assert link.excused() == []


def test_a_wrong_header_model_is_not_scatter() -> None:
    """Headers forgotten at 100 KB/s, on payloads of 500 B to 50 kB, by a host that scatters for milliseconds."""
    n_bytes = np.random.default_rng(0).integers(500, 50_000, 30)
    real_s = 8 * (n_bytes + 66 * -(-n_bytes // 1448)) / 8e5
    replayed_s = 8 * n_bytes / 8e5
    found = found_with(replayed_s - real_s, (1e-3, 20e-3), link_s=replayed_s)
    assert found.excused() == []
    assert len(found.shortfalls()) == 3


def test_a_large_payloads_microseconds_do_not_spoil_a_small_ones_excuse() -> None:
    """Half of the requests take a second, off by a thousandth; the others 5 ms, within the host's scatter."""
    large = np.arange(30) % 4 < 2
    off_s = np.where(large, 1e-3, 160 * US) * np.where(np.arange(30) % 2 == 0, 1, -1)
    found = found_with(off_s, (200 * US, 200 * US), link_s=np.where(large, 1.0, 5e-3))
    assert found.shortfalls() == []
    assert ["p99" in sentence for sentence in found.excused()] == [True]


@pytest.mark.slow
@given(
    off_s=st.lists(st.floats(-1e-3, 1e-3), min_size=2, max_size=40).map(np.array),
    scatter_s=st.tuples(st.floats(0, 1e-3), st.floats(0, 1e-3)),
)
def test_an_error_beyond_the_limit_either_fails_or_is_excused(off_s: Floats, scatter_s: tuple[float, float]) -> None:
    """Exactly one of the two; a smaller scatter excuses no more; and without scatter all of them fail."""
    found, strict = found_with(off_s, scatter_s), found_with(off_s, None)
    half = found_with(off_s, (scatter_s[0] / 2, scatter_s[1] / 2))

    def missed(sentences: list[str]) -> list[str]:
        return [sentence.split(" (")[0] for sentence in sentences]

    assert sorted(missed(found.shortfalls() + found.excused())) == sorted(missed(strict.shortfalls()))
    assert strict.excused() == []
    assert set(missed(half.excused())) <= set(missed(found.excused()))


def _ends_of(parent: int) -> dict[Path, str]:
    """The network namespaces of a process's children, by the child's folder in /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found[folder] = str((folder / "ns" / "net").readlink())
    return found


def _users_of(namespaces: set[str]) -> list[Path]:
    """Every process that lives in one of the namespaces."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((folder / "ns" / "net").readlink()) in namespaces:
                found.append(folder)
    return found


@pytest.mark.slow
@linked
def test_replay_agrees_with_a_real_link() -> None:
    """Requests of 50 kB at 5 Mbit/s, stage by stage: the medians of both sides agree within 2 %."""
    rng = np.random.default_rng(0)
    profile = profile_of(rng.integers(40_000, 60_000, 8), rng.uniform(0.01, 0.02, 8), rng.uniform(0.01, 0.02, 8))
    found = validate(profile, rate_bps=5e6, requests=10)
    for stage, row in found.by_stage().items():
        assert row["replayed_p50_s"] == pytest.approx(row["real_p50_s"], rel=0.02), stage
    assert all("%" in sentence for sentence in found.shortfalls())


@pytest.mark.slow
@linked
def test_the_host_is_calibrated_and_a_wrong_link_fails_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the link's set-up to the verdict: repeats scatter; that does not excuse a model without headers."""
    profile = profile_of([500, 20_000], [5e-3, 5e-3], [5e-3, 5e-3])
    wire_of = validation.wire_of

    def headless(*arguments: Any) -> Wire:
        return wire_of(*arguments).model_copy(update={"header_bytes": 0})

    monkeypatch.setattr(validation, "wire_of", headless)
    found = validate(profile, rate_bps=8e5, requests=6)
    median_s, far_s = found.host.scatter_s
    assert 0 < median_s <= far_s
    assert any("mean of link" in sentence for sentence in found.shortfalls())
    assert found.excused() == []


@pytest.mark.slow
@linked
def test_the_link_has_the_rate_that_was_set() -> None:
    """The same payload takes four times as long at a quarter of the rate, so that a wrong model can be found."""
    with testbed.Testbed.open(8e6, 1600) as bed:
        fast = [bed.request(0, 50_000, 0) for _ in range(3)]
        bed.shape(2e6, 1600)
        slow = [bed.request(0, 50_000, 0) for _ in range(3)]
    fast_s, slow_s = (min(s["delivered_s"] - s["device_done_s"] for s in seen) for seen in (fast, slow))
    assert slow_s / fast_s == pytest.approx(4.0, rel=0.1)


@pytest.mark.slow
@linked
def test_nothing_is_left_when_the_harness_is_killed() -> None:
    """Killed while it runs, without a chance to clean up, it leaves neither processes nor namespaces."""
    code = """
from harness.replay.testbed import Testbed
with Testbed.open(1e6, 1600) as bed:
    print("up", flush=True)
    bed.request(60.0, 100, 0)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        ends = set(_ends_of(process.pid).values()) - {str(Path("/proc/self/ns/net").readlink())}
        assert len(ends) == 2
        process.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not _users_of(ends):
            break
        time.sleep(0.05)
    assert not _users_of(ends)
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "tofc" not in named


@linked
def test_nothing_is_left_after_an_error() -> None:
    """An exception in the middle ends both ends of the link."""
    ends: set[str] = set()

    def fail() -> None:
        with testbed.Testbed.open(1e6, 1600):
            ends.update(set(_ends_of(os.getpid()).values()) - {str(Path("/proc/self/ns/net").readlink())})
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert len(ends) == 2
    assert not _users_of(ends)


def test_without_root_or_tools_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names root, the command or the system, and nothing is started."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="it takes root"), testbed.Testbed.open(1e6, 1600):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnavailableError, match="'ip' is not installed"), testbed.Testbed.open(1e6, 1600):
        pass
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnavailableError, match="Linux"), testbed.Testbed.open(1e6, 1600):
        pass
