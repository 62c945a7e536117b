"""A run in memory of any number of schemes and uplinks, with all that figures show: for testing what fits on a page."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from harness.analysis import Analysis
from harness.records import OutcomeRow, ResourceRow, SampleRow, StageRow, schema
from harness.replay import sweep
from harness.replay.profile import Profile
from harness.runs.provenance import begin
from harness.runs.store import Record
from harness.scenario.load import hash_of
from harness.scenario.replay import Replay
from tests.made_up_run import MACHINE, REPLAY

KNOWN = (
    "tofc", "jpeg", "webp", "hyperprior", "elic", "raw_features", "device_only", "compressai", "tofc_single",
    "tofc_heuristic", "visionzip",
)  # fmt: skip
STRANGE = (
    "a-scheme-of-ones-own-with-a-name-as-long-as-a-name-may-be", "plan $5_$ a month", "mine[0.5]", "fine", "coarse",
    "\\frac{1}{2}^",
)  # fmt: skip
N_SAMPLES, N_TIMED, N_ROUNDS = 24, 8, 3


def rates(n: int) -> list[float]:
    """The rates of a number of uplinks, from 10 KB/s to at most 100 MB/s, in bit/s."""
    return [float(rate) for rate in np.geomspace(8e4, 8e8, 12)[:n]]


LONG = {
    "one byte a second, over a relay of which only the address is known": 8.0,
    "LTE": 8e4,
    "measured in a train between two cities at night, with the antenna on the roof of the last carriage": 2e5,
    "5G": 8e6,
    "a_name_without_any_spaces_at_all_of_a_recorded_link/2026-11-27T13:59:49.parquet": 8e8,
}
"""The rates of uplinks, in bit/s, by names most of which are long."""


def make(
    folder: object,
    n_schemes: int,
    n_uplinks: int,
    *,
    users: tuple[int, ...] = (1,),
    named: Mapping[str, float] | None = None,
    **replay: object,
) -> Analysis:
    """The analysis of such a run, of ``server_only`` and others; every scheme has two points that differ in rate.

    ``named`` are uplinks in place of ``n_uplinks``.
    """
    rate_of = named or {f"uplink {place} of {n_uplinks}": rate for place, rate in enumerate(rates(n_uplinks), 1)}
    names = ["server_only", *STRANGE[: max(0, n_schemes - 1 - len(KNOWN))], *KNOWN][:n_schemes]
    points: dict[str, dict[str, Any]] = {
        name: {"-": {}} if name in ("server_only", "device_only") else {f"quality={q}": {"quality": q} for q in (5, 50)}
        for name in names
    }
    uplinks = [{"kind": "constant", "rate_bps": rate, "name": name} for name, rate in rate_of.items()]
    section = {**REPLAY, "uplinks": uplinks, "users": list(users), **replay}
    scenario = {
        "title": "Very many schemes",
        "pipelines": [{"scheme": name} for name in names],
        "measure": {"warmup": 1, "repeats": N_ROUNDS, "precision": None},
        "selection": {
            "reference": "server_only", "target": 0.9, "margin": 0.3, "confidence": 0.8, "resamples": 60,
        },
        "replay": section,
    }  # fmt: skip
    manifest = begin(
        name="many",
        scenario=scenario,
        scenario_hash=hash_of(scenario),
        benchmarks=["StreetsQA"],
        backbone="mini-onevision",
        points=points,
        digests={},
        stand_ins={"RealWorldQA": "StreetsQA"},
        seed=0,
        command=["harness", "run", "scenarios/many.yaml"],
        machine={"id": "01234567", "name": MACHINE},
    )
    rng = np.random.default_rng(0)
    samples = [f"q{i:02}" for i in range(N_SAMPLES)]
    tables: dict[str, list[Any]] = {kind: [] for kind in ("outcomes", "stages", "resources")}
    ease = rng.random(N_SAMPLES)
    for place, name in enumerate(names):
        for level, point in enumerate(points[name]):
            common = {"run": "r", "unit": f"{name} {point}", "pipeline": name, "point": point}
            mean_bytes = {"server_only": 120e3, "device_only": 0.0}.get(name, 900 * 1.6**place * (1 + level))
            n_bytes = (mean_bytes * rng.lognormal(0, 0.1, N_SAMPLES)).astype(int)
            tables["outcomes"].append(_table(
                OutcomeRow, N_SAMPLES, **common, sample=samples, payload_bytes=n_bytes.tolist(), visual_tokens=32,
                prompt_tokens=60, answer_tokens=2, answer="A", truth="A", correct=(ease < 0.75 + 0.1 * level).tolist(),
            ))  # fmt: skip
            sides = ("device",) if name == "device_only" else ("device", "server")
            for side in sides:
                for stage in ("encode", "vision_encode") if side == "device" else ("decode", "prefill", "generate"):
                    n = N_TIMED * N_ROUNDS
                    source = ("measured", "recorded", "estimated", "reported")[place % 4]
                    tables["stages"].append(_table(
                        StageRow, n, **common, sample=[s for s in samples[:N_TIMED] for _ in range(N_ROUNDS)],
                        repeat=list(range(N_ROUNDS)) * N_TIMED, round=list(range(N_ROUNDS)) * N_TIMED, start=0,
                        side=side, stage=stage, seconds=(0.01 * (1 + place % 5) * rng.lognormal(0, 0.1, n)).tolist(),
                        cpu_s=0.01, waited_s=0.0, load=0.0, machine=MACHINE, source=source,
                    ))  # fmt: skip
                for quantity, value in (("weights_bytes", 4e6), ("peak_memory_bytes", 9e6), ("operations", 2e9)):
                    tables["resources"].append(_table(
                        ResourceRow, 1, **common, sample="q00", side=side, stage="", quantity=quantity,
                        value=value * (1 + place), machine=MACHINE, source="measured",
                    ))  # fmt: skip
    joined = {kind: pa.concat_tables(parts) for kind, parts in tables.items()}
    spec = Replay.model_validate({
        "uplinks": [{"kind": "constant", "rate": f"{u['rate_bps']} bit/s", "name": u["name"]} for u in uplinks],
        "users": list(users),
        **({"arrivals": {"kind": "poisson", "rate": "1 /s"}, "requests": 20} if len(users) > 1 else {}),
    })  # fmt: skip
    keys = [(name, point) for name in names for point in points[name]]
    profiles = [Profile.from_tables(joined["stages"], joined["outcomes"], *key) for key in keys]
    shown = _table(
        SampleRow, N_SAMPLES, sample=samples, benchmark="StreetsQA", id=samples, picture=samples, pictures=1,
        category="street", group=samples, width_px=640, height_px=480, patches=5, file_bytes=120_000, text_bytes=60,
    )  # fmt: skip
    given = {**joined, "folder": folder, "manifest": manifest, "samples": shown, "requests": sweep(profiles, spec)}
    absent = {field.name: pa.table({}) for field in dataclasses.fields(Record) if field.name not in given}
    return Analysis(Record(**given, **absent))


def _table(row: type, n: int, **columns: object) -> pa.Table:
    """A table of ``n`` rows, of lists and of constants."""
    lists = {name: column if isinstance(column, list) else [column] * n for name, column in columns.items()}
    return pa.table({name: lists[name] for name in schema(row).names}, schema=schema(row))
