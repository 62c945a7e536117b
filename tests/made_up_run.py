"""A made-up run with the numbers of a real one: payloads, shares of right answers and times of its schemes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.records import OutcomeRow, RequestRow, SampleRow, StageRow, schema
from harness.runs import replayed
from harness.runs.provenance import begin
from harness.runs.store import Record, Run, Unit
from harness.scenario.load import hash_of

MACHINE = "a processor, 2 cores"
RATES_BPS = {"25 KB/s": 200e3, "50 KB/s": 400e3, "100 KB/s": 800e3}

POINTS = {
    "server_only": {"-": (88_000, 0.86)},
    "raw_features": {"merge_to=0.044": (36_900, 0.835)},
    "jpeg": {
        f"quality={q},merge_to=0.044": numbers
        for q, numbers in {
            2: (1_900, 0.41), 5: (2_900, 0.55), 10: (4_300, 0.68), 20: (6_800, 0.77), 35: (9_700, 0.815),
            55: (13_400, 0.83), 75: (20_100, 0.836), 90: (38_000, 0.838),
        }.items()
    },
    "webp": {
        f"quality={q},method=4,merge_to=0.044": numbers
        for q, numbers in {
            0: (1_500, 0.47), 5: (2_100, 0.56), 15: (3_200, 0.67), 30: (4_700, 0.765), 50: (6_500, 0.806),
            70: (9_200, 0.829), 85: (17_600, 0.835), 95: (34_800, 0.837),
        }.items()
    },
    "tofc": {
        f"n_c={n_c},lambda={lmbda}": numbers
        for (n_c, lmbda), numbers in {
            (2, 0.01): (380, 0.62), (4, 0.01): (760, 0.72), (4, 0.003): (1_300, 0.775), (8, 0.003): (2_300, 0.852),
            (16, 0.001): (4_100, 0.856),
        }.items()
    },
    "device_only": {"-": (0, 0.58)},
}  # fmt: skip
"""For each pipeline its points, with their mean payload bytes and share of right answers."""

_UNDERSTAND_S = {"server/vision_encode": 0.021, "server/prefill": 0.009, "server/generate": 0.006}
STAGES_S = {
    "server_only": {**_UNDERSTAND_S, "server/prefill": 0.052},
    "raw_features": {"device/vision_encode": 0.034, "server/prefill": 0.009, "server/generate": 0.006},
    "jpeg": {"device/encode": 0.004, "server/decode": 0.003, **_UNDERSTAND_S},
    "webp": {"device/encode": 0.021, "server/decode": 0.004, **_UNDERSTAND_S},
    "tofc": {"device/vision_encode": 0.034, "device/merge": 0.003, "server/decode": 0.003, "server/prefill": 0.015},
    "device_only": {"device/vision_encode": 0.034, "device/prefill": 0.071, "device/generate": 0.011},
}
"""For each pipeline the mean seconds of its stages, side before stage."""


REPLAY: dict[str, Any] = {
    "uplinks": [{"kind": "constant", "rate_bps": rate_bps, "name": name} for name, rate_bps in RATES_BPS.items()],
    "users": [1],
    "sharing": "own",
    "servers": 1,
    "batching": None,
    "arrivals": {"kind": "closed_loop", "think_s": 0.0},
    "requests": None,
    "question_text": False,
    "seeds": 1,
    "deadline_s": None,
    "timeout_s": None,
    "answer": {"size_bytes": 0, "rate_bps": None, "propagation_s": 0.0},
}
"""The replay section as a manifest holds it."""


def scenario(**changes: Any) -> dict[str, object]:
    """The scenario of the made-up run as its manifest holds it."""
    return {
        "title": "RealWorldQA at low uplink rates",
        "measure": {"warmup": 2, "repeats": 3, "precision": None},
        "selection": {
            "reference": "server_only",
            "target": 0.92,
            "margin": 0.04,
            "confidence": 0.95,
            "resamples": 500,
        },
        **changes,
        "replay": {**REPLAY, **changes.get("replay", {})},
    }


_TIMED = ("sample", "repeat", "side", "seconds")

ORDER = ("tofc", "jpeg", "webp", "raw_features", "server_only", "device_only")
"""The pipelines as the scenario has them."""


def make(
    folder: Path,
    *,
    reasons: tuple[str, ...] = (),
    sources: dict[str, str] | None = None,
    wait_s: float = 0.0,
    back_s: float = 0.0,
    load: float = 0.01,
    **changes: Any,
) -> Record:
    """Writes the run to ``folder`` and reads it back; ``sources`` gives pipelines whose stages were not measured.

    Every request waits ``wait_s`` for its server, if it has one, and its answer takes ``back_s`` to return; the system
    is then one in which requests may be given up. Others keep a share ``load`` of the processors busy all the time.
    """
    if wait_s or back_s:
        changes["replay"] = {"timeout_s": 60.0, **changes.get("replay", {})}
    manifest = begin(
        name=folder.name,
        scenario=scenario(**changes),
        scenario_hash=hash_of(scenario(**changes)),
        benchmarks=["StreetsQA"],
        backbone="mini-onevision",
        points={name: {point: _parameters(point) for point in POINTS[name]} for name in ORDER},
        digests={"benchmark StreetsQA": "0123456789abcdef"},
        stand_ins={"RealWorldQA": "StreetsQA", "llava-onevision-7b": "mini-onevision"},
        seed=0,
        command=["harness", "run"],
        machine={"id": "01234567", "name": MACHINE},
    )
    # Whatever the state of the checkout that makes it.
    (session,) = manifest.sessions
    session = session.model_copy(update={"commit": "0123456789abcdef" * 2 + "01234567", "dirty": False})
    manifest = manifest.model_copy(update={"sessions": (session,)})
    rng = np.random.default_rng(0)
    samples = [f"q{i:03}" for i in range(240)]
    scale_N = np.repeat(rng.lognormal(-0.05, 0.3, 60), 4)
    ease_N = rng.random(240)
    with Run.open_or_create(folder, manifest) as run:
        run.record_samples(
            _table(
                SampleRow, sample=samples, benchmark="StreetsQA", id=samples, category="street", group=samples,
                picture=[f"street {i // 4}" for i in range(240)], pictures=1, width_px=640, height_px=480,
                patches=13, file_bytes=88_000, text_bytes=60,
            )
        )  # fmt: skip
        for pipeline, points in POINTS.items():
            for point, (mean_bytes, p_right) in points.items():
                n_bytes = (mean_bytes * scale_N).astype(int)
                right = ease_N + rng.normal(0, 0.05, 240) < p_right
                visual_tokens = 32 if "merge" in point or pipeline == "tofc" else 720
                unit = Unit(f"{pipeline} {point}")
                outcomes = _table(
                    OutcomeRow, run="r", unit=unit.key, pipeline=pipeline, point=point, sample=samples,
                    payload_bytes=n_bytes, visual_tokens=visual_tokens, prompt_tokens=visual_tokens + 40,
                    answer_tokens=2, answer="A", truth="A", correct=right,
                )  # fmt: skip
                source = (sources or {}).get(pipeline, "measured")
                stages = _stages(unit, pipeline, point, samples, source, rng, load)
                requests = _requests(pipeline, point, samples, n_bytes, stages, wait_s, back_s)
                run.add(unit, outcomes=outcomes, stages=stages, requests=requests)
        run.finish(reasons)
    return Run.read(folder)


def small(folder: Path) -> Record:
    """Two schemes of :func:`make`'s run at one uplink, named ``tonight``, with the requests that its replay makes."""
    selection = {"reference": "server_only", "target": 0.92, "margin": 0.04, "confidence": 0.95, "resamples": 100}
    replay = {"uplinks": REPLAY["uplinks"][:1]}
    record = make(folder, name="tonight", selection=selection, replay=replay)
    kept = pa.array(["server_only", "tofc"])
    points = {name: of for name, of in record.manifest.points.items() if name in kept.to_pylist()}
    tables = {kind: getattr(record, kind) for kind in ("stages", "outcomes")}
    tables = {kind: table.filter(pc.is_in(table["pipeline"], kept)) for kind, table in tables.items()}
    manifest = record.manifest.model_copy(update={"points": points})
    requests = replayed.requests(manifest, folder, tables["stages"], tables["outcomes"], record.samples)
    return dataclasses.replace(record, manifest=manifest, requests=requests, **tables)


def _parameters(label: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (part.partition("=") for part in label.split(",")) if value}


def _stages(
    unit: Unit, pipeline: str, point: str, samples: list[str], source: str, rng: np.random.Generator, load: float
) -> pa.Table:
    timed = [
        (samples[index * 20], repeat, *stage.split("/"), seconds * rng.lognormal(0, 0.1))
        for index in range(12)
        for repeat in range(3)
        for stage, seconds in STAGES_S[pipeline].items()
    ]
    columns = dict(zip(("sample", "repeat", "side", "stage", "seconds"), zip(*timed, strict=True), strict=True))
    constants = {"run": "r", "unit": unit.key, "pipeline": pipeline, "point": point, "start": 0, "machine": MACHINE}
    cpu_s = [0.9 * seconds for seconds in columns["seconds"]]
    quiet = {"waited_s": [0.0 * seconds for seconds in cpu_s], "load": load}
    return _table(StageRow, **columns, **constants, round=columns["repeat"], cpu_s=cpu_s, **quiet, source=source)


def _requests(
    pipeline: str,
    point: str,
    samples: list[str],
    n_bytes: np.ndarray,
    stages: pa.Table,
    wait_s: float,
    back_s: float,
) -> pa.Table:
    sums: dict[tuple[str, int], dict[str, float]] = {}
    for sample, repeat, side, seconds in zip(*(stages[name].to_pylist() for name in _TIMED), strict=True):
        sums.setdefault((sample, repeat), {"device": 0.0, "server": 0.0})[side] += seconds
    names = [sample for sample, _ in sums]
    device_s, server_s = (np.array([of[side] for of in sums.values()]) for side in ("device", "server"))
    bytes_R = n_bytes[[samples.index(name) for name in names]]
    tables = []
    for channel, rate_bps in RATES_BPS.items():
        delivered = device_s + 8 * bytes_R / rate_bps
        served = server_s > 0
        begun = delivered + wait_s * served
        done = begun + server_s
        tables.append(
            _table(
                RequestRow, replay="closed_loop, own, 1 server", pipeline=pipeline, point=point, sample=names,
                channel=channel, rate_bps=rate_bps, users=1, seed=0, user=0, submitted_s=0.0, device_begun_s=0.0,
                device_done_s=device_s, sent_s=delivered, delivered_s=delivered, server_begun_s=begun,
                server_done_s=done, answered_s=done + back_s * served,
            )
        )  # fmt: skip
    return pa.concat_tables(tables)


def _table(row: type, **columns: Any) -> pa.Table:
    """A table of lists and of constants, which are as long as the lists."""
    n = max(len(column) for column in columns.values() if not isinstance(column, str) and hasattr(column, "__len__"))
    lists = {
        name: list(column) if not isinstance(column, str) and hasattr(column, "__len__") else [column] * n
        for name, column in columns.items()
    }
    return pa.table({name: lists[name] for name in schema(row).names}, schema=schema(row))
