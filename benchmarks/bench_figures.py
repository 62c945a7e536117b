"""How long figures take, and how much memory: of a run of a million replayed requests.

Four schemes, 20 users, two uplinks: what is drawn if no figure is named, the tables, and each figure by itself. The run
is made first, by replaying made-up timings, and is not counted. Seconds of the processor with those of the clock beside
them, in a process that does nothing else; memory is that process's largest, with its libraries.

    python -m benchmarks.bench_figures
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.records import OutcomeRow, SampleRow, StageRow, schema
from harness.replay import sweep
from harness.replay.profile import Profile
from harness.runs.provenance import begin
from harness.runs.store import Run, Unit
from harness.scenario.load import hash_of
from harness.scenario.replay import Replay

REQUESTS, USERS, UPLINKS = 1_000_000, 20, ("100 KB/s", "1 MB/s")
SCHEMES = {"server_only": 120_000, "tofc": 2_000, "jpeg": 9_000, "webp": 7_000}
GOAL_S, GOAL_BYTES = 30, 2_000_000_000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "million"
        rows = _make(run)
        print(f"{rows:,} request rows (goal: {GOAL_S} s and {GOAL_BYTES / 1e9:g} GB)")
        for what in ("usual", "ecdf", "timeline", "timings", "table1"):
            code = f"from benchmarks.bench_figures import draw; draw({str(run)!r}, {what!r})"
            subprocess.run([sys.executable, "-c", code], check=True)


def draw(folder: str, what: str) -> None:
    """Draw a figure, or the usual ones with the tables, and print time and memory."""
    begun = time.perf_counter()
    from harness.report.figures.gallery import draw_all

    list(draw_all(Path(folder), Path(folder) / what, None if what == "usual" else [what]))
    clock_s, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"{what:<10} {cpu_s:6.1f} s of the processor, {clock_s:6.1f} s by the clock, {used.ru_maxrss / 1e6:5.2f} GB")


def _make(folder: Path) -> int:
    """Writes the run; returns how many request rows it has."""
    a_user = REQUESTS // (len(SCHEMES) * len(UPLINKS) * USERS)
    replay = {
        "uplinks": [{"kind": "constant", "rate": rate} for rate in UPLINKS],
        "users": [USERS],
        "servers": 4,
        "arrivals": {"kind": "poisson", "rate": "0.05 /s"},
        "requests": a_user,
    }
    spec = Replay.model_validate(replay)
    scenario = {
        "title": "A million requests",
        "pipelines": [{"scheme": name} for name in SCHEMES],
        "measure": {"warmup": 1, "repeats": 3, "precision": None},
        "selection": {"reference": "server_only", "target": 0.9, "margin": 0.1, "confidence": 0.95, "resamples": 1000},
        "replay": spec.model_dump(mode="json"),
    }
    manifest = begin(
        name=folder.name,
        scenario=scenario,
        scenario_hash=hash_of(scenario),
        benchmarks=["StreetsQA"],
        backbone="mini-onevision",
        points={name: {"-": {}} for name in SCHEMES},
        digests={},
        stand_ins={},
        seed=0,
        command=["benchmark"],
        machine={"id": "0", "name": "made up"},
    )
    rng = np.random.default_rng(0)
    samples = [f"q{n:03}" for n in range(120)]
    timed = [(sample, repeat) for sample in samples[:12] for repeat in range(3)]
    with Run.open_or_create(folder, manifest) as run:
        run.record_samples(_table(
            SampleRow, len(samples), sample=samples, benchmark="StreetsQA", id=samples, picture=samples, pictures=1,
            category="street", group=samples, width_px=640, height_px=480, patches=5, file_bytes=120_000, text_bytes=60,
        ))  # fmt: skip
        profiles = []
        for name, mean_bytes in SCHEMES.items():
            unit = Unit(name)
            common = {"run": "r", "unit": unit.key, "pipeline": name, "point": "-"}
            outcomes = _table(
                OutcomeRow, len(samples), **common, sample=samples, visual_tokens=32, prompt_tokens=60, answer_tokens=2,
                payload_bytes=(mean_bytes * rng.lognormal(0, 0.1, len(samples))).astype(int).tolist(), answer="A",
                truth="A", correct=(rng.random(len(samples)) < 0.85).tolist(),
            )  # fmt: skip
            stages = pa.concat_tables([
                _table(
                    StageRow, len(timed), **common, sample=[sample for sample, _ in timed],
                    repeat=[repeat for _, repeat in timed], round=[repeat for _, repeat in timed], start=0, side=side,
                    stage=stage, seconds=(0.02 * rng.lognormal(0, 0.1, len(timed))).tolist(), cpu_s=0.02, waited_s=0.0,
                    load=0.0, machine="made up", source="measured",
                )
                for side, stage in (("device", "encode"), ("server", "prefill"))
            ])  # fmt: skip
            profiles.append(Profile.from_tables(stages, outcomes, name, "-"))
            run.add(unit, outcomes=outcomes, stages=stages, requests=sweep([profiles[-1]], spec))
        run.finish(())
    return len(SCHEMES) * len(UPLINKS) * USERS * a_user


def _table(row: type, n: int, **columns: object) -> pa.Table:
    lists = {name: column if isinstance(column, list) else [column] * n for name, column in columns.items()}
    return pa.table({name: lists[name] for name in schema(row).names}, schema=schema(row))


if __name__ == "__main__":
    main()
