"""The real link: what is made vanishes, and what cannot be made is said."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from replay_systems import profile_of

from harness.errors import UnavailableError
from harness.replay import testbed
from harness.replay.validation import validate

linked = pytest.mark.skipif(testbed.why_not() is not None, reason=f"no real link: {testbed.why_not()}")


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


@linked
def test_replay_agrees_with_a_real_link() -> None:
    """Requests of 50 kB at 5 Mbit/s, stage by stage: the medians of both sides agree within 2 %."""
    rng = np.random.default_rng(0)
    profile = profile_of(rng.integers(40_000, 60_000, 8), rng.uniform(0.01, 0.02, 8), rng.uniform(0.01, 0.02, 8))
    found = validate(profile, rate_bps=5e6, requests=10)
    for stage, row in found.by_stage().items():
        assert row["replayed_p50_s"] == pytest.approx(row["real_p50_s"], rel=0.02), stage
    assert all("%" in sentence for sentence in found.shortfalls())


@linked
def test_the_link_is_as_fast_as_it_was_told_to_be() -> None:
    """The same payload takes four times as long at a quarter of the rate; a wrong model could not be told otherwise."""
    with testbed.Testbed.open(8e6, 1600) as bed:
        fast = [bed.request(0, 50_000, 0) for _ in range(3)]
        bed.shape(2e6, 1600)
        slow = [bed.request(0, 50_000, 0) for _ in range(3)]
    fast_s, slow_s = (min(s["delivered_s"] - s["device_done_s"] for s in seen) for seen in (fast, slow))
    assert slow_s / fast_s == pytest.approx(4.0, rel=0.1)


@linked
def test_nothing_is_left_when_the_harness_is_killed() -> None:
    """Killed in the middle, without a chance to clean up, it leaves neither processes nor namespaces."""
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
