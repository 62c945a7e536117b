"""Disturbance on a shared machine: waiting for a processor, being stopped, other processes' load."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.profiling import heartbeat
from harness.profiling.clock import StageClock
from harness.profiling.disturbance import Watch
from harness.runs.provenance import UNAVAILABLE

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has procfs")

STOPPED = """
import sys, time
from harness.profiling.clock import StageClock
from harness.profiling.disturbance import Watch

with Watch() as watch:
    watch.begin()
    clock = StageClock(delays=watch)
    with clock.stage("before"):
        time.sleep(0.02)
    with clock.stage("stopped"):
        print("here", flush=True)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
    print(clock.seconds["before"], clock.waited_s()["before"])
    print(clock.seconds["stopped"], clock.waited_s()["stopped"])
"""


@pytest.mark.slow
@linux
def test_a_stopped_process_is_recorded_as_stopped_for_that_long() -> None:
    """SIGSTOP in the middle of a stage is seen in that stage, within two beats, and in no other."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGCONT)
    (_, _), (seconds, waited_s) = (map(float, line.split()) for line in process.stdout)
    assert process.wait() == 0
    process.stdout.close()
    assert 0.4 < waited_s <= seconds
    assert seconds > 0.5


@pytest.mark.slow
@linux
def test_waiting_for_a_processor_is_counted() -> None:
    """A process that shares one processor with two busy ones waits for most of its time, and the clock says so."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    own, processor = os.sched_getaffinity(0), min(os.sched_getaffinity(0))
    try:
        for process in busy:
            os.sched_setaffinity(process.pid, {processor})
        with Watch() as watch:
            os.sched_setaffinity(0, {processor})
            watch.begin()
            clock = StageClock(delays=watch)
            with clock.stage("spin"):
                end = time.process_time() + 0.2
                while time.process_time() < end:
                    pass
            os.sched_setaffinity(0, own)
    finally:
        os.sched_setaffinity(0, own)
        for process in busy:
            process.kill()
            process.wait()
    waited_s, seconds = clock.waited_s()["spin"], clock.seconds["spin"]
    assert 0.3 * seconds < waited_s <= seconds
    # Time neither computing nor waiting is close to zero: a spinning process never sleeps.
    assert abs(seconds - waited_s - clock.cpu_s["spin"]) < 0.2 * seconds


def _machine(folder: Path, busy_s: float, idle_s: float) -> None:
    fields = [busy_s, 0, 0, idle_s, 0, 0, 0, 0, 0, 0]
    line = " ".join(str(round(100 * seconds)) for seconds in fields)
    (folder / "stat").write_text(f"cpu  {line}\ncpu0 {line}\ncpu1 {line}\nctxt 1\n")


@pytest.fixture
def instants(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The clocks that a watch reads, to be set."""
    now = {"wall": 100.0, "own": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["own"])
    return now


def test_load_is_other_processes_busy_time(
    tmp_path: Path, instants: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy time of all processors less one's own, over the processors' time; two ticks are spared."""
    _machine(tmp_path, 50.0, 0.0)
    watch = Watch(tmp_path)
    watch.begin()
    instants.update(wall=102.0, own=1.5)
    _machine(tmp_path, 52.0, 2.0)
    assert watch.load() == pytest.approx((2.0 - 1.5 - 0.02) / (2.0 * 2))
    instants.update(wall=102.1, own=1.6)
    _machine(tmp_path, 52.1, 2.1)
    watch.begin()
    assert watch.load() == pytest.approx((2.1 - 1.6 - 0.02) / (2.1 * 2)), "over less than a second there is no value"
    watch.begin(anew=True)
    instants.update(wall=102.2)
    assert watch.load() is None
    monkeypatch.setattr(time, "sleep", lambda seconds: instants.update(wall=instants["wall"] + seconds))
    watch.begin(anew=True)
    assert watch.load() == 0.0, "the waited time is long enough"


def test_what_a_system_does_not_report_is_unavailable(tmp_path: Path) -> None:
    """Without procfs nothing is known or claimed, and each source says so."""
    watch = Watch(tmp_path)
    watch.begin()
    assert watch.load() is None
    assert watch.pressure() is None
    assert watch.delays_ns() == {}
    assert watch.stood_still_ns(0, 10**18) == 0
    assert not watch.tells
    assert all(told.startswith(UNAVAILABLE) for told in watch.sources.values())


@pytest.mark.parametrize(("counts", "told"), [("0 0 0\n", False), ("", False), ("5000 0 1\n", True)])
def test_a_kernel_that_does_not_count_the_run_delay_reports_zeros(tmp_path: Path, counts: str, told: bool) -> None:
    """Without schedstats, and delay accounting off, each count is 0: nothing is known of waiting."""
    (tmp_path / "self" / "task" / "1").mkdir(parents=True)
    for folder in (tmp_path / "self", tmp_path / "self" / "task" / "1"):
        (folder / "schedstat").write_text(counts)
    watch = Watch(tmp_path)
    assert watch.tells == told
    assert watch.sources["run delay"].startswith(UNAVAILABLE) != told


def test_pressure_is_the_share_of_time_in_which_some_task_waited(tmp_path: Path, instants: dict[str, float]) -> None:
    """From the kernel's total, over at least four seconds."""
    (tmp_path / "pressure").mkdir()
    told = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    (tmp_path / "pressure" / "cpu").write_text(told.format(1_000_000))
    with Watch(tmp_path) as watch:
        instants["wall"] += 3
        assert watch.pressure() is None
        instants["wall"] += 5
        (tmp_path / "pressure" / "cpu").write_text(told.format(5_000_000))
        assert watch.pressure() == pytest.approx(0.5)


@linux
def test_a_dead_heartbeat_is_reported(tmp_path: Path) -> None:
    """A heartbeat that ended observes nothing, and leaves no process."""
    with Watch() as watch:
        assert watch.sources["heartbeat"] == "a heartbeat"
        process = watch._heartbeat
        assert process is not None
        process.kill()
        process.wait()
        assert watch.sources["heartbeat"] == f"{UNAVAILABLE}its process ended with status -9"
        assert watch.stood_still_ns(0, 10**18) == 0
    with Watch() as watch:
        process = watch._heartbeat
        assert process is not None
    assert process.poll() is not None


def test_the_ring_holds_the_latest_stretches() -> None:
    """The oldest entries are dropped first, and the order is that of time."""
    import mmap

    shared = mmap.mmap(-1, heartbeat.SIZE)
    for number in range(100):
        at = heartbeat._HEAD.size + number % heartbeat.RING * heartbeat._STRETCH.size
        heartbeat._STRETCH.pack_into(shared, at, number, number + 1, 1)
        heartbeat._HEAD.pack_into(shared, 0, number, number + 1)
    assert [begin for begin, _, _ in heartbeat.stretches(shared)] == list(range(100 - heartbeat.RING, 100))
