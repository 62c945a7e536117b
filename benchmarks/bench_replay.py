"""The time and memory of the replay: a million requests, and a trace of a day.

20 users ask at random over uplinks whose rate varies, and 4 servers answer. The compiled path and the SimPy system
replay the same requests; SimPy's own rate of bare timeouts is printed beside them, since nothing built on SimPy can be
faster. Times are of one core: seconds of the processor, with those of the clock beside them.

    python benchmarks/bench_replay.py
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import simpy

from harness.channel import recording
from harness.channel.formats import CsvColumns
from harness.channel.importing import import_trace
from harness.channel.recording import RateRecording
from harness.replay import Cell, Profile, replay, vector
from harness.replay.cell import channels
from harness.replay.system import System
from harness.replay.workload import workload
from harness.scenario.replay import Replay

REQUESTS, USERS, SERVERS = 1_000_000, 20, 4
DAY_MS = 86_400_000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        profile, cell = _cell(Path(folder))
        load = workload(profile, cell.spec, USERS, cell.seed)
        wire = cell.uplink.wire
        vector.run(profile, load, cell.spec, wire, channels(cell))
        runs = [_timed(lambda: vector.run(profile, load, cell.spec, wire, channels(cell))) for _ in range(3)]
        _print(f"vectorised, {REQUESTS:,} requests (goal 0.3 s)", min(runs))
        rows = [_timed(lambda: replay(profile, cell, simulator="vector")) for _ in range(3)]
        _print("  the same with drawing requests and making rows", min(rows))
        _print(
            "SimPy, the same requests (goal 40 s)",
            _timed(lambda: System(profile, load, cell.spec, wire, channels(cell)).run()),
        )
        bare = _timed(_bare_timeouts)
        _print(f"SimPy's own limit: {REQUESTS:,} bare timeouts", bare)
        print(f"  {REQUESTS / bare[0] / 1e6:.2f} million timeouts per second")
        for simulator in ("vector", "simpy"):
            print(
                f"memory, {simulator:<8} {_bytes_a_request(Path(folder), simulator):6.0f} bytes per request (goal 300)"
            )
        _day(Path(folder))


def _cell(folder: Path) -> tuple[Profile, Cell]:
    rng = np.random.default_rng(0)
    at_s = np.concatenate([[0.0], np.cumsum(rng.exponential(0.5, 2000))])
    rate_bps = np.where(rng.random(2000) < 0.05, 0.0, rng.exponential(4e6, 2000))
    if not (folder / "link.parquet").exists():
        recording.save(RateRecording(at_s, rate_bps, "drawn"), folder / "link.parquet")
    n = 600
    profile = Profile(
        pipeline="tofc",
        point="n_c=16",
        samples=tuple(f"question-{i // 3:04}" for i in range(n)),
        payload_bytes=rng.integers(5_000, 40_000, n),
        device_s=rng.gamma(20.0, 0.005, n),
        server_stages=("prefill", "generate"),
        server_stage_s=rng.gamma(20.0, 0.001, (n, 2)),
    )
    arrivals = {"kind": "poisson", "rate": "2 /s"}
    uplink = {"kind": "trace", "path": str(folder / "link.parquet")}
    parts = {"uplinks": [uplink], "users": USERS, "servers": SERVERS, "arrivals": arrivals}
    spec = Replay.model_validate({**parts, "requests": REQUESTS // USERS})
    return profile, Cell(spec=spec, uplink=spec.uplinks[0], users=USERS, seed=0)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def _print(what: str, took: tuple[float, float]) -> None:
    print(f"{what:<62} {took[0]:7.2f} s  (clock {took[1]:.2f} s)", flush=True)


def _bare_timeouts() -> None:
    def waits(env: simpy.Environment) -> Generator[simpy.Event, None, None]:
        for _ in range(REQUESTS):
            yield env.timeout(1.0)

    env = simpy.Environment()
    env.process(waits(env))
    env.run()


def _bytes_a_request(folder: Path, simulator: str) -> float:
    """The growth of a fresh process's peak memory over one that replays a hundredth of the requests."""
    peaks = []
    for share in (100, 1):
        command = [sys.executable, __file__, "--peak", str(folder), simulator, str(share)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return (peaks[1] - peaks[0]) / (REQUESTS * 0.99)


def _peak(folder: Path, simulator: str, share: int) -> None:
    profile, cell = _cell(folder)
    spec = cell.spec.model_copy(update={"requests": REQUESTS // USERS // share})
    replay(profile, Cell(spec=spec, uplink=cell.uplink, users=USERS, seed=0), simulator=simulator)  # type: ignore[arg-type]
    # getrusage would report the parent's peak, which a child inherits.
    status = Path("/proc/self/status").read_text()
    print(1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]))


def _day(folder: Path) -> None:
    packets = folder / "day.up"
    at_ms = np.arange(1, DAY_MS + 1)
    with packets.open("wb") as file:
        for block in np.array_split(at_ms, 100):
            file.write(("\n".join(map(str, block.tolist())) + "\n").encode())
    took = _timed(lambda: import_trace(packets, folder / "day.parquet"))
    _print(f"import a day of 1 ms packets ({packets.stat().st_size / 1e6:.0f} MB)", took)
    _print("  open it again", _timed(lambda: recording.load(folder / "day.parquet").channel(loop=True, gaps="hold")))
    packets.unlink()
    rates = folder / "day.csv"
    values = np.random.default_rng(0).integers(0, 20_000, 1000)
    with rates.open("wb") as file:
        file.write(b"time_s,rate_kbps\n")
        for block in np.array_split(at_ms, 100):
            rows = zip(block.tolist(), np.resize(values, len(block)).tolist(), strict=True)
            file.write("".join(f"{t / 1000:.3f},{rate}\n" for t, rate in rows).encode())
    took = _timed(lambda: import_trace(rates, folder / "rates.parquet", layout=CsvColumns(rate="rate_kbps")))
    _print(f"import a day of 1 ms rates ({rates.stat().st_size / 1e6:.0f} MB)", took)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
