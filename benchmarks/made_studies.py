"""Made-up studies whose truth is known, as the rows that a run leaves: what calibrations of the whole path read.

A :class:`World` is a benchmark of N questions with their tile counts, payloads and right answers, and for each scheme
and point what a request takes. A study is what a run would see of it: all outcomes, and the times of a few pictures in
a few rounds, as the tables of :mod:`harness.records`, replayed as ``harness run`` replays them. What is drawn anew with
every study are the benchmark's pictures, so that its truths are those of its own N questions, and the timed ones.

    N questions   S timed pictures   R rounds   P points
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from harness.analysis import Analysis
from harness.analysis.means import draw_by_strata
from harness.analysis.select import Equality, Scores
from harness.records import OutcomeRow, PointKey, SampleRow, StageRow, schema
from harness.replay import sweep
from harness.replay.cell import Simulator
from harness.runs.provenance import Manifest, begin
from harness.runs.store import Record
from harness.runs.tables import ROWS
from harness.scenario.load import hash_of
from harness.scenario.replay import Replay

Floats = NDArray[np.float64]

RATE_BPS = 400e3
DEADLINE_S = 0.5
TEXT_BYTES = 60
WIRED: Mapping[str, Any] = {
    "uplinks": [
        {"kind": "constant", "rate": f"{RATE_BPS} bit/s",
         "wire": {"header": "40 B", "segment": "1448 B", "propagation": "20 ms", "handshake": True, "slow_start": True}}
    ],
    "answer": {"size": "200 B", "rate": "1 MB/s", "propagation": "20 ms"},
    "question_text": True,
}  # fmt: skip
"""A system whose link times are more than the payload's bits over the rate."""


def wired_s(n_bytes_N: Floats) -> Floats:
    """What a request of so many bytes takes over :data:`WIRED`, by hand, from its ready payload to the answer.

    A handshake there and back, the bytes and their headers, the payload's way and the answer's. Slow start never waits:
    ten segments take longer to send than a round trip.
    """
    assert 8 * 10 * 1448 / RATE_BPS > 2 * 0.02
    headers_N: Floats = 40 * np.ceil(n_bytes_N / 1448)
    return 2 * 0.02 + 8 * (n_bytes_N + headers_N) / RATE_BPS + 0.02 + 200 / 1e6 + 0.02


SHARES = (0.25, 0.5, 1.0, 2.0)
"""What the points of a ladder send, over the third's bytes."""

TIMES = 1.8
"""How many times as much one ladder sends as the other, at equal score."""

BYTES = {"tofc": 3500.0, "jpeg": 3500.0 * TIMES}
"""Mean payloads of a ladder's third point."""

STAGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "server_only": {"server/preprocess": (0.004, 0.001), "server/vision_encode": (0.0, 0.02),
                    "server/prefill": (0.03, 0.02)},
    "device_only": {"device/vision_encode": (0.0, 0.05), "device/prefill": (0.05, 0.03),
                    "device/generate": (0.04, 0.0)},
    "tofc": {"device/vision_encode": (0.0, 0.03), "device/merge": (0.002, 0.001), "server/decode": (0.002, 0.001),
             "server/prefill": (0.04, 0.0)},
    "jpeg": {"device/encode": (0.003, 0.0005), "server/decode": (0.002, 0.0005), "server/vision_encode": (0.0, 0.02),
             "server/prefill": (0.04, 0.0)},
}  # fmt: skip
"""Seconds of each stage: a constant, and what a tile adds."""

_RATE = {"tofc": "lambda", "jpeg": "quality"}
"""What a scheme's points differ in, of those that have several."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What studies are drawn from: how times scatter, and how the score grows with the bytes.

    ``spread`` is the sigma of a picture's own factor of its times (log-normal, mean 1), ``by_tiles`` whether times
    follow tiles; ``request`` the sigma of a single request, ``drift`` the standard deviation of a round's factor, and
    ``restart`` that of a process start's. The rounds come from ``starts`` of the process; schemes that were timed
    ``apart`` have rounds and starts of their own.
    ``pictures`` have ``questions`` each; ``alike`` is how far what decides an answer is shared by the points.
    ``schemes`` are those of :data:`STAGES` that take part, the first the reference; ``shares`` those of the points of a
    ladder. ``wired`` has a link that takes more than the payload's bits: :data:`WIRED`.
    """

    pictures: int = 400
    questions: int = 1
    timed: int = 12
    rounds: int = 3
    spread: float = 0.1
    by_tiles: bool = True
    request: float = 0.1
    drift: float = 0.0
    starts: int = 1
    restart: float = 0.0
    apart: tuple[str, ...] = ()
    alike: float = 0.85
    schemes: tuple[str, ...] = ("server_only", "device_only", "tofc", "jpeg")
    shares: tuple[float, ...] = SHARES
    resamples: int = 500
    precision: float | None = None
    wired: bool = False

    def points(self, scheme: str) -> dict[str, float]:
        """The points of a scheme, and what each sends over the third of a ladder."""
        return {f"{_RATE[scheme]}={share:g}": share for share in self.shares} if scheme in _RATE else {"-": 1.0}

    @property
    def keys(self) -> list[PointKey]:
        """The points of all schemes."""
        return [(scheme, point) for scheme in self.schemes for point in self.points(scheme)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study as a run sees it, and what is true of it.

    ``seconds`` (N,) and ``sent`` (N,) are of each point: what a request about each question takes on both sides on
    average, and its payload; ``chance`` is what each point scores in the long run.
    """

    run: Analysis
    world: World
    seconds: Mapping[PointKey, Floats]
    sent: Mapping[PointKey, Floats]
    chance: Mapping[PointKey, float]
    device_s: Mapping[str, Floats]
    """The device's part of each scheme's ``seconds``, (N,)."""
    timed: Sequence[str]
    """The samples that were timed, in the order in which they were drawn."""

    def mean_s(self, key: PointKey, rate_bps: float = RATE_BPS) -> float:
        """The true mean latency over the benchmark."""
        return float(self.seconds[key].mean() + 8 * self.sent[key].mean() / rate_bps)

    def in_time(self, key: PointKey, deadline_s: float = DEADLINE_S, rate_bps: float = RATE_BPS) -> float:
        """The true share of requests answered within a deadline, over the benchmark's questions."""
        left = np.maximum(deadline_s - 8 * self.sent[key] / rate_bps, 1e-12)
        sigma = self.world.request
        return float(scipy.special.ndtr((np.log(left / self.seconds[key]) + sigma**2 / 2) / sigma).mean())

    def crossover_bps(self, a: PointKey, b: PointKey) -> float:
        """The rate at which two points answer alike; negative where there is none."""
        more = 8 * float(self.sent[a].mean() - self.sent[b].mean())
        return more / float(self.seconds[b].mean() - self.seconds[a].mean())


def score_of(share: float) -> float:
    """What a ladder's point scores that sends ``share`` of its third's bytes; the reference scores 0.78."""
    return 0.78 - 0.08 * math.exp(-0.9 * math.log(share))


def target_share(target: float) -> float:
    """The inverse: how much of its third's bytes a ladder needs for a score."""
    return math.exp(-math.log((0.78 - target) / 0.08) / 0.9)


def study(
    world: World, seed: Sequence[int], *, population: Sequence[int] | None = None, simulator: Simulator = "auto"
) -> Study:
    """One study of a world; with ``population`` of the pictures that this seed draws, the same in every study.

    ``simulator`` is what replays it: the compiled one is the faster from some tens of studies on.
    """
    rng = np.random.default_rng([*(population or seed), 1])
    n = world.pictures
    tiles_N = rng.choice([3.0, 4.0, 5.0, 7.0, 10.0], n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    common_N = rng.normal(size=n)
    seconds, sent, chance = {}, {}, {}
    fixed: dict[str, Floats] = {}
    for scheme in world.schemes:
        own_N = math.sqrt(0.7) * common_N + math.sqrt(0.3) * rng.normal(size=n)
        factor_N = np.exp(world.spread * own_N - world.spread**2 / 2)
        counted_N = tiles_N if world.by_tiles else np.full(n, tiles_N.mean())
        fixed[scheme] = np.stack([(a + b * counted_N) * factor_N for a, b in STAGES[scheme].values()])
        size_N = tiles_N / tiles_N.mean() * np.exp(0.3 * rng.normal(size=n) - 0.045)
        for point, share in world.points(scheme).items():
            key = (scheme, point)
            seconds[key] = fixed[scheme].sum(axis=0)
            match scheme:
                case "server_only":
                    sent[key], chance[key] = np.floor(88_000 * size_N), 0.78
                case "device_only":
                    sent[key], chance[key] = np.zeros(n), 0.6
                case _:
                    sent[key] = np.floor(BYTES[scheme] * share * size_N)
                    chance[key] = score_of(share)
    shown = np.repeat(np.arange(n), world.questions)
    right = _right(rng, world, chance)
    rng = np.random.default_rng(seed)
    timed = draw_by_strata(tiles_N, world.timed, int(rng.integers(2**62)))
    names = _names(n * world.questions)
    samples = _table(
        SampleRow, sample=names, id=names, group=names, picture=_names(n).take(pa.array(shown)),
        patches=tiles_N[shown].astype(np.int64), benchmark="StreetsQA", pictures=1, category="street", width_px=640,
        height_px=480, file_bytes=88_000, text_bytes=TEXT_BYTES,
    )  # fmt: skip
    outcomes, stages = [], []
    own_R = {scheme: _levels(rng, world) for scheme in ("", *world.apart)}
    places = timed * world.questions
    for key in world.keys:
        start_R, level_R = own_R[key[0] if key[0] in world.apart else ""]
        start_R = start_R + world.starts * (1 + world.apart.index(key[0]) if key[0] in world.apart else 0)
        common = {"run": "made up", "unit": "-", "pipeline": key[0], "point": key[1]}
        outcomes.append(
            _table(
                OutcomeRow, **common, sample=names, payload_bytes=sent[key][shown].astype(np.int64),
                correct=right[key], visual_tokens=32, prompt_tokens=72, answer_tokens=2, answer="A", truth="A",
            )
        )  # fmt: skip
        noise_SR = np.exp(world.request * rng.normal(size=(world.timed, world.rounds)) - world.request**2 / 2)
        took_GSR = fixed[key[0]][:, timed, None] * noise_SR * level_R
        n_stages = took_GSR.shape[0]
        stage_G, place_S, round_R = np.meshgrid(
            np.arange(n_stages), places, np.arange(world.rounds), indexing="ij"
        )  # fmt: skip
        sides, called = zip(*(name.split("/") for name in STAGES[key[0]]), strict=True)
        which = pa.array(stage_G.ravel())
        stages.append(
            _table(
                StageRow, **common, sample=names.take(pa.array(place_S.ravel())), repeat=round_R.ravel(),
                round=round_R.ravel(), start=start_R[round_R.ravel()],
                side=pa.array(sides).take(which), stage=pa.array(called).take(which),
                seconds=took_GSR.ravel(), cpu_s=None, waited_s=None, load=None, machine="a processor",
                source="measured",
            )
        )  # fmt: skip
    tables = {"samples": samples, "outcomes": pa.concat_tables(outcomes), "stages": pa.concat_tables(stages)}
    return Study(
        run=analysis_of(world, tables, simulator), world=world, seconds=seconds, sent=sent, chance=chance,
        device_s={
            scheme: fixed[scheme][[name.startswith("device") for name in STAGES[scheme]]].sum(axis=0)
            for scheme in world.schemes
        },
        timed=names.take(pa.array(places)).to_pylist(),
    )  # fmt: skip


def _levels(rng: np.random.Generator, world: World) -> tuple[NDArray[np.int64], Floats]:
    """In which start each round was timed, (R,), and by what factor all its times are longer, (R,)."""
    start_R = np.arange(world.rounds) * world.starts // world.rounds
    level_R = 1 + world.drift * rng.normal(size=world.rounds).clip(-4, 4)
    if world.restart:
        level_R = level_R * (1 + world.restart * rng.normal(size=world.starts).clip(-4, 4))[start_R]
    return start_R, level_R


def _right(
    rng: np.random.Generator, world: World, chance: Mapping[PointKey, float]
) -> dict[PointKey, NDArray[np.bool_]]:
    """Which questions each point answers rightly: questions about a picture are alike, and so are points."""
    shape = (world.pictures, world.questions)
    hard = math.sqrt(0.3) * rng.normal(size=(world.pictures, 1)) + math.sqrt(0.7) * rng.normal(size=shape)
    rest = math.sqrt(1 - world.alike**2)
    return {
        key: (world.alike * hard + rest * rng.normal(size=shape) < scipy.special.ndtri(p)).ravel()
        for key, p in chance.items()
    }


def analysis_of(world: World, tables: Mapping[str, pa.Table], simulator: Simulator = "auto") -> Analysis:
    """The analysis of a run of such rows, with the requests that ``harness run`` would replay."""
    empty: dict[str, Any] = {kind: schema(row).empty_table() for kind, row in ROWS.items()}
    record = Record(folder=Path("made-up"), manifest=_manifest(world), **{**empty, **tables})
    run = Analysis(record)
    requests = sweep(run.profiles(), run.setting.system, simulator=simulator)
    found = Analysis(dataclasses.replace(record, requests=requests))
    found._profiles = run._profiles
    return found


@functools.lru_cache(maxsize=8)
def _manifest(world: World) -> Manifest:
    bare = {"uplinks": [{"kind": "constant", "rate": f"{RATE_BPS} bit/s"}]}
    spec = Replay.model_validate(WIRED if world.wired else bare)
    scenario: dict[str, Any] = {
        "title": "A made-up study",
        "measure": {"warmup": 1, "repeats": world.rounds, "precision": world.precision, "at_most": 200},
        "selection": {
            "reference": world.schemes[0], "target": 0.92, "margin": 0.05, "confidence": 0.95,
            "resamples": world.resamples,
        },
        "replay": {**spec.model_dump(mode="json"), "deadline_s": DEADLINE_S},
    }  # fmt: skip
    points = {
        scheme: {
            point: {_RATE[scheme]: share} if scheme in _RATE else {} for point, share in world.points(scheme).items()
        }
        for scheme in world.schemes
    }
    return begin(
        name="made-up", scenario=scenario, scenario_hash=hash_of(scenario), benchmarks=["StreetsQA"], backbone="none",
        points=points, digests={}, stand_ins={}, seed=0, command=[], machine={"id": "0", "name": "a processor"},
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _names(n: int) -> pa.Array:
    return pa.array([f"q{place:05}" for place in range(n)])


def _table(row: type, **columns: Any) -> pa.Table:
    """A table of arrays and of constants, which are as long as the arrays."""
    n = max(len(column) for column in columns.values() if isinstance(column, (np.ndarray, pa.Array)))
    wanted = schema(row)
    arrays = []
    for field in wanted:
        column = columns[field.name]
        if isinstance(column, (np.ndarray, pa.Array)):
            arrays.append(pa.array(column, field.type) if isinstance(column, np.ndarray) else column)
        else:
            arrays.append(pa.nulls(n, field.type) if column is None else pa.repeat(pa.scalar(column, field.type), n))
    return pa.Table.from_arrays(arrays, schema=wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """How often a scheme is right about a question, and how far what decides it is shared with the other schemes."""

    chance: float
    alike: float = 0.9


_SHARED = 0.3
"""The correlation of what makes questions about one picture hard."""


MME_PICTURES = {
    "existence": 30, "count": 30, "position": 30, "color": 30, "posters": 147, "celebrity": 170, "scene": 200,
    "landmark": 200, "artwork": 200, "OCR": 20,
}  # fmt: skip
"""The pictures of each subtask of MME's perception, with two questions each (Fu et al., arXiv:2306.13394)."""
_IN_PAIRS = ("GlimpseQA", "MME")


def true_score(benchmark: str, scheme: Scheme) -> float:
    """What a scheme scores in the long run: the accuracy, or of pairs that and their share, in percent.

    MME's is the sum over its subtasks, which are equally hard here.
    """
    if benchmark not in _IN_PAIRS:
        return 100 * scheme.chance
    at, correlation = float(scipy.special.ndtri(scheme.chance)), scheme.alike**2 * _SHARED
    both = scipy.stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([at, at])
    return 100 * (scheme.chance + float(both)) * (len(MME_PICTURES) if benchmark == "MME" else 1)


def _subtasks(n: int) -> NDArray[np.str_]:
    """The subtasks of so many of MME's pictures, in its proportions."""
    ends = np.cumsum(list(MME_PICTURES.values()))
    names_N: NDArray[np.str_] = np.array(list(MME_PICTURES))[np.searchsorted(ends, (np.arange(n) + 0.5) * ends[-1] / n)]
    return names_N


def answered(rng: np.random.Generator, asked: Mapping[str, tuple[int, int]], schemes: Mapping[str, Scheme]) -> Scores:
    """The answers of schemes, the first the reference, to benchmarks of so many pictures and questions about each."""
    tables: list[pa.Table] = []
    samples: list[pa.Table] = []
    for benchmark, shape in asked.items():
        hard = math.sqrt(_SHARED) * rng.normal(size=(shape[0], 1)) + math.sqrt(1 - _SHARED) * rng.normal(size=shape)
        n = shape[0] * shape[1]
        category = np.repeat(_subtasks(shape[0]), shape[1]) if benchmark == "MME" else np.full(n, "all")
        names = pa.array([f"{benchmark} {place:05}" for place in range(n)])
        picture = pa.array([f"{benchmark} p{place:05}" for place in range(shape[0])]).take(
            pa.array(np.repeat(np.arange(shape[0]), shape[1]))
        )
        samples.append(
            _table(
                SampleRow, sample=names, id=names, group=picture if benchmark in _IN_PAIRS else names,
                picture=picture, patches=2, benchmark=benchmark, pictures=1, category=pa.array(category), width_px=640,
                height_px=480, file_bytes=88_000, text_bytes=TEXT_BYTES,
            )
        )  # fmt: skip
        for name, scheme in schemes.items():
            mixed = scheme.alike * hard + math.sqrt(1 - scheme.alike**2) * rng.normal(size=shape)
            tables.append(
                _table(
                    OutcomeRow, run="made up", unit="-", pipeline=name, point="-", sample=names, payload_bytes=1000,
                    correct=(mixed < scipy.special.ndtri(scheme.chance)).ravel(), visual_tokens=32, prompt_tokens=72,
                    answer_tokens=2, answer="A", truth="A",
                )
            )  # fmt: skip
    equality = Equality(reference=next(iter(schemes)), target=0.92, margin=0.05)
    return Scores(pa.concat_tables(tables), pa.concat_tables(samples), equality, list(asked))
