"""Where the time of a scenario goes besides timing: imports, loading, answers, memory, replay, table, figures.

    python -m benchmarks.bench_start [SCENARIO] [--against COMMIT] [--rounds 2]

Each round is ``harness run`` and ``harness plot`` in fresh processes, of this checkout and the commit in turns, first
with an empty cache folder (kernels are compiled, the benchmark's stand-in is drawn), then with what that left. Seconds
of the clock, and of the processor with those of the processes that the work is spread over. The goal is 30 s without
timing, on two quiet cores.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

GOAL_S = 30.0
ROOT = Path(__file__).parents[1]

PHASES = ("imports", "loading", "answers", "times", "memory and operations", "replay", "table", "plot")

_RUN = '''
import builtins, importlib, json, os, sys, time
from pathlib import Path
scenario, folder = Path(sys.argv[1]), Path(sys.argv[2])
began = time.clock_gettime(time.CLOCK_BOOTTIME)
with open("/proc/self/stat") as file:
    started = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
def now():
    used = os.times()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started, sum(used[:4])
spent = {}
marks = [("imports", 0.0, 0.0)]
importing = {"depth": 0, "clock": 0.0, "cpu": 0.0}
def counted(load):
    def wrapped(*given, **how):
        importing["depth"] += 1
        before = now() if importing["depth"] == 1 else None
        try:
            return load(*given, **how)
        finally:
            importing["depth"] -= 1
            if before:
                after = now()
                importing["clock"] += after[0] - before[0]
                importing["cpu"] += after[1] - before[1]
    return wrapped
builtins.__import__ = counted(builtins.__import__)
importlib.import_module = counted(importlib.import_module)
def phase(name):
    """Ends a phase: what it took, less what was imported meanwhile, which is counted as imports."""
    (last, clock, cpu), (clock_now, cpu_now) = marks[-1], now()
    taken = spent.setdefault(last, [0.0, 0.0])
    taken[0] += clock_now - clock - importing["clock"]
    taken[1] += cpu_now - cpu - importing["cpu"]
    of_imports = spent.setdefault("imports", [0.0, 0.0])
    of_imports[0] += importing["clock"]
    of_imports[1] += importing["cpu"]
    importing.update(clock=0.0, cpu=0.0)
    marks.append((name, clock_now, cpu_now))
class Reporter:
    def warn(self, text): pass
    def advance(self): pass
    def phase(self, name, total, done):
        phase(name)
phase("loading")
from harness.scenario.load import load
from harness.study import run
run(load(scenario), folder, reporter=Reporter(), command=("bench_start",))
phase("table")
from harness.analysis import Analysis
from harness.report.sections import sections
from rich.console import Console
console = Console(file=open(os.devnull, "w"), width=160)
for section in sections(Analysis.read(folder)):
    console.print(section)
phase("end")
print(json.dumps(spent))
'''

_PLOT = """
import json, os, sys, time
from pathlib import Path
with open("/proc/self/stat") as file:
    started = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
from harness.report.figures.gallery import draw_all
draw_all(Path(sys.argv[1]))
print(json.dumps({"plot": [time.clock_gettime(time.CLOCK_BOOTTIME) - started, sum(os.times()[:4])]}))
"""

Taken = dict[str, list[float]]


def main() -> None:
    """Run, and print a table of each side and cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=Path, nargs="?", default=ROOT / "scenarios" / "realworldqa_lowrate.yaml")
    parser.add_argument("--against", help="a commit that is run in turns with this checkout")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with _sides(given.against) as sides, tempfile.TemporaryDirectory() as folder:
        taken: dict[tuple[str, str], list[Taken]] = {}
        for turn in range(given.rounds):
            for side in list(sides)[:: -1 if turn % 2 else 1]:
                for cache in ("empty", "filled"):
                    found = _taken(sides[side], given.scenario, Path(folder), Path(folder) / f"{side}-{turn}")
                    taken.setdefault((side, cache), []).append(found)
    for (side, cache), rounds in taken.items():
        _show(f"{side}, {cache} cache", rounds)
    if given.against:
        for cache in dict.fromkeys(cache for _, cache in taken):
            now, before = (_least(taken[side, cache]) for side in ("here", given.against))
            for name in ("imports", "answers", "all"):
                ratios = (before[name][i] / now[name][i] for i in range(2))
                print("{} cache, {}: x{:.2f} by the clock, x{:.2f} of the processor".format(cache, name, *ratios))


@contextlib.contextmanager
def _sides(commit: str | None) -> Iterator[dict[str, Path]]:
    """The folders with the code that is run, by what they are called."""
    if commit is None:
        yield {"here": ROOT}
        return
    from harness.paired import checked_out

    with checked_out(commit) as (_, tree):
        yield {"here": ROOT, commit: tree}


def _taken(tree: Path, scenario: Path, folder: Path, cache: Path) -> Taken:
    """Seconds by the clock and of the processor in each phase."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    return {**_told(tree, cache, _RUN, scenario.resolve(), run), **_told(tree, cache, _PLOT, run)}


def _told(tree: Path, cache: Path, code: str, *arguments: object) -> Taken:
    own = {"PYTHONPATH": str(tree), "TOFC_HARNESS_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=tree, env={**os.environ, **own},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    found: Taken = json.loads(done.stdout.splitlines()[-1])
    return found


def _least(rounds: list[Taken]) -> Taken:
    """The least of each phase over rounds, and their sum without timing."""
    found = {name: [min(taken[name][i] for taken in rounds) for i in range(2)] for name in rounds[0]}
    return {**found, "all": [sum(took[i] for name, took in found.items() if name != "times") for i in range(2)]}


def _show(title: str, rounds: list[Taken]) -> None:
    print(f"{title}: the least of {len(rounds)} rounds, s by the clock and of the processor")
    least = _least(rounds)
    for name in (name for name in PHASES if name in least):
        print(f"  {name:<22} {least[name][0]:7.2f} {least[name][1]:7.2f}" + ("  not counted" * (name == "times")))
    met = "met" if least["all"][0] <= GOAL_S else "missed"
    print(f"  {'all':<22} {least['all'][0]:7.2f} {least['all'][1]:7.2f}  goal {GOAL_S:g}: {met}")


if __name__ == "__main__":
    main()
