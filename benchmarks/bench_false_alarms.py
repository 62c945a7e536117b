"""How often the timed tier of ``harness compare`` raises a false alarm, and how often it finds a slowdown.

    PYTHONPATH=. python -m benchmarks.bench_false_alarms [--nights 1000]

A night is a comparison of a commit with itself: a set of pairs, and a second one where the first rejects something. An
alarm is a night in which any stage fails. Nights are drawn from the pairs of ``data/restarted_pairs.parquet`` (real
pairs of processes of one commit, each started for its pair, beside other work on the machine), and simulated beyond
what was seen there:

- ``heavy tails``: a pair's log ratio has Student's t of 2 degrees of freedom, of scale 0.04;
- ``drift``: the two sides drift apart and back over a night, by up to 8 %, in all stages;
- ``starts``: each process is by itself 0.82 to 1.19 times as fast, in all its stages;
- ``all``: the three together.

Then 15 % is added to one stage of at least 20 ms, each in turn, and the nights that find it are counted. And in a
reference run one payload is made one byte longer, each time of another question.

The goals: an alarm in at most one night of a hundred, 95 of 100 planted slowdowns found, each changed size found, and
data of 40 restarted runs or more. The status is 1 where one is missed. ``--collect FOLDER --store PAIRS`` times pairs
of this checkout with a copy of itself, and makes them the data; repeat the command to resume.
"""

import argparse
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.stats

from harness.analysis import regression, slowdown
from harness.analysis.slowdown import Floats, Gate, Part
from harness.paired import Design, Series
from harness.profiling.machine import this_machine
from harness.runs.provenance import package_versions
from harness.runs.store import Run

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data" / "restarted_pairs.parquet"
SCENARIO = ROOT / "scenarios" / "smoke.yaml"
REFERENCE = ROOT / "results" / "reference" / "smoke"

PLANTED, AT_LEAST_S = 0.15, 0.020
MOST_ALARMS, FEWEST_CAUGHT = 0.01, 0.95
FEWEST_RECORDED = 20
N_PARTS = 25
Sets = Mapping[Part, Floats]
Draw = Callable[[np.random.Generator, int], Sets]
"""Draws the log ratios of a number of pairs."""


def real(table: pd.DataFrame) -> Draw:
    """Draws whole pairs: the stages of one are not independent."""
    ratios = slowdown.log_ratios(table)
    length = min(map(len, ratios.values()))

    def draw(rng: np.random.Generator, pairs: int) -> Sets:
        chosen = rng.integers(length, size=pairs)
        return {part: d[chosen] for part, d in ratios.items()}

    return draw


def simulated(*, tails: bool = False, drift: bool = False, starts: bool = False) -> Draw:
    """Draws pairs of a commit with itself, noisier than any observed."""
    parts = [("scheme", f"device/stage {number}") for number in range(N_PARTS)]

    def draw(rng: np.random.Generator, pairs: int) -> Sets:
        d_PK = rng.normal(0, 0.02, (pairs, N_PARTS))
        if tails:
            d_PK += 0.04 * rng.standard_t(2, (pairs, N_PARTS))
        if drift:
            d_PK += 0.08 * np.sin(rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, pairs))[:, None]
        if starts:
            d_PK += np.diff(np.log(rng.uniform(0.82, 1.19, (pairs, 2))), axis=1)
        return dict(zip(parts, d_PK.T, strict=True))

    return draw


def night(draw: Draw, rng: np.random.Generator, pairs: int, planted: Part | None = None) -> list[Part]:
    """The parts that fail in a night, with 15 % added to ``planted``."""

    def one() -> Sets:
        found = dict(draw(rng, pairs))
        if planted is not None:
            found[planted] = found[planted] + np.log1p(PLANTED)
        return found

    first = one()
    judged = slowdown.judge(first, Gate())
    if slowdown.suspects(judged):
        judged = slowdown.judge(first, Gate(), one())
    return [(part.pipeline, part.part) for part in judged if part.verdict == "slower"]


def false_alarms(draw: Draw, nights: int, pairs: int, seed: int) -> int:
    """In how many nights anything fails."""
    return sum(bool(night(draw, np.random.default_rng([seed, number]), pairs)) for number in range(nights))


def detections(draw: Draw, part: Part, nights: int, pairs: int, seed: int) -> int:
    """In how many nights a planted slowdown fails."""
    return sum(part in night(draw, np.random.default_rng([seed, number]), pairs, part) for number in range(nights))


def changed_sizes(nights: int) -> tuple[int, int]:
    """The number of payloads of a reference run that are made one byte longer, and how many of them fail."""
    reference = Run.read(REFERENCE)
    here = {"here": {**this_machine(), **reference.manifest.sessions[-1].machine}, "packages": package_versions()}
    caught, rng = 0, np.random.default_rng(0)
    column = reference.outcomes.schema.get_field_index("payload_bytes")
    for row in rng.permutation(reference.outcomes.num_rows)[:nights]:
        one = pa.array(np.eye(1, reference.outcomes.num_rows, row, dtype=np.int64)[0])
        moved = pc.add(reference.outcomes["payload_bytes"], one)
        outcomes = reference.outcomes.set_column(column, reference.outcomes.schema.field(column), moved)
        candidate = dataclasses.replace(reference, outcomes=outcomes)
        found = regression.compare(reference, candidate, links=ROOT / "scenarios", **here)  # type: ignore[arg-type]
        caught += any(check.fails for check in found.checks if check.quantity == "bytes")
    return min(nights, reference.outcomes.num_rows), caught


class _Told:
    """Reports the progress of collecting."""

    def warn(self, text: str) -> None:
        print(text)

    def phase(self, name: str, total: int, done: int) -> None:
        print(f"{name}: {total}, {done} done earlier", flush=True)

    def advance(self) -> None:
        print(".", end="", flush=True)


def collect(folder: Path, pairs: int) -> pd.DataFrame:
    """The parts of pairs of this checkout with a copy of itself; finished pairs are in ``folder``."""
    with tempfile.TemporaryDirectory(prefix="harness-twin-") as temporary:
        twin = Path(temporary) / "twin"
        for name in ("harness", "baselines"):
            shutil.copytree(ROOT / name, twin / name)
        series = Series(SCENARIO, {"reference": twin, "candidate": ROOT}, folder, Design(pairs=pairs))
        rows = series.timed("first", _Told())
    parts, notes = slowdown.parts_of(rows, Gate().floor_s)
    print(*notes, sep="\n")
    return parts


def store(parts: pd.DataFrame) -> None:
    """Writes the data: seconds as they were measured, in single precision."""
    DATA.parent.mkdir(exist_ok=True)
    small = parts.astype({"pair": "int16", "turn": "int16", "reference": "float32", "candidate": "float32"})
    machine = {b"machine": str(this_machine()["name"]).encode()}
    table = pa.Table.from_pandas(small, preserve_index=False).replace_schema_metadata(machine)
    pq.write_table(table, DATA, compression="zstd", compression_level=19)


def _goals(nights: int, pairs: int) -> Iterator[bool]:
    table = pq.read_table(DATA)
    parts, machine = table.to_pandas(), (table.schema.metadata or {}).get(b"machine", b"?").decode()
    ratios = {part: d for part, d in slowdown.log_ratios(parts).items() if Gate().effect_of(part) is not None}
    spread = {part: float(np.std(d)) for part, d in ratios.items()}
    widest = max(spread, key=lambda part: spread[part])
    n_pairs = parts["pair"].nunique()
    print(f"{n_pairs} restarted pairs of one commit, recorded on {machine}: {len(ratios)} stages tested")
    print(f"a pair's log ratio: standard deviation {np.median(list(spread.values())):.3f} (median of stages), at most")
    print(f"{spread[widest]:.3f} ({' '.join(widest)}); pairs in a set: {pairs}\n")
    if n_pairs < FEWEST_RECORDED:
        print(f"fewer than {FEWEST_RECORDED} pairs, {2 * FEWEST_RECORDED} restarted runs: --collect makes more\n")
    yield n_pairs >= FEWEST_RECORDED
    draws = {
        "real pairs, resampled": real(parts),
        "simulated: heavy tails": simulated(tails=True),
        "simulated: drift": simulated(drift=True),
        "simulated: starts": simulated(starts=True),
        "simulated: all": simulated(tails=True, drift=True, starts=True),
    }
    print("a commit with itself            nights  alarms  95 % upper bound")
    for name, draw in draws.items():
        alarms = false_alarms(draw, nights, pairs, seed=1)
        bound = scipy.stats.beta.ppf(0.95, alarms + 1, nights - alarms)
        print(f"{name:<30} {nights:>7} {alarms:>7} {bound:>12.2%}", flush=True)
        yield alarms <= MOST_ALARMS * nights
    print(f"\n{PLANTED:.0%} planted in a stage of 20 ms or more    mean     nights  caught")
    seconds = parts.groupby(["pipeline", "part"])["reference"].mean()
    planted = max(1, nights // 10)
    for number, part in enumerate(part for part in ratios if seconds[part] >= AT_LEAST_S):
        caught = detections(draws["real pairs, resampled"], part, planted, pairs, seed=2 + number)
        print(f"{' '.join(part):<38} {1e3 * seconds[part]:>6.1f} ms {planted:>8} {caught:>7}", flush=True)
        yield caught >= FEWEST_CAUGHT * planted
    made, caught = changed_sizes(planted)
    print(f"\nsize of one payload changed by one byte: {made} times, found {caught} times")
    yield made == caught


def main() -> int:
    """Counts, or collects."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nights", type=int, default=200, help="nights of each kind; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=Design().pairs, help="pairs in a set; default: %(default)s")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="time pairs into this folder instead")
    parser.add_argument("--store", type=int, metavar="PAIRS", help="the number of pairs; with --collect")
    asked = parser.parse_args()
    if asked.collect is not None:
        store(collect(asked.collect, asked.store or 40))
        return 0
    met = list(_goals(asked.nights, asked.pairs))
    print(f"{sum(met)} of {len(met)} goals met")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
