"""What the latencies of a run rest on: the timed requests, the whole benchmark, and the system that is replayed.

S timed pictures   R rounds   N questions of the benchmark
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from harness.analysis import means
from harness.analysis.means import Estimate
from harness.errors import ResultsError
from harness.records import PointKey
from harness.replay.cell import Cell
from harness.replay.profile import Profile, sent_bytes
from harness.scenario.replay import (
    AnswerLink,
    Batching,
    ClosedLoop,
    ConstantUplink,
    GilbertElliottUplink,
    Periodic,
    Poisson,
    Replay,
    Uplink,
    Wire,
)

_MOST = 10_000
"""About as many strata as each of several benchmarks gets where their sizes have no smaller common multiple."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """What is known of all questions of a benchmark, of which a few pictures were timed.

    ``stratum_of`` maps the timed samples to their strata (counts of tiles) and ``stratum_N`` (N,) holds those of all;
    ``payload_bytes`` maps (pipeline, point) to the payloads of all questions, from which link times are taken, and
    ``weight_N`` says how much each question counts where they do not count alike.
    """

    stratum_of: Mapping[str, float]
    stratum_N: ArrayLike
    payload_bytes: Mapping[tuple[str, str], ArrayLike]
    weight_N: ArrayLike | None = None

    @classmethod
    def of(cls, outcomes: pa.Table, samples: pa.Table, texts: pa.Table | None = None) -> "Population":
        """All questions of a run: its outcome and sample rows; ``texts`` are sample rows whose questions are sent too.

        Of several benchmarks each counts alike, whatever its size.
        """
        known = samples.select(["sample", "benchmark", "patches"]).to_pandas().set_index("sample")
        asked = known.loc[sorted(set(pc.unique(outcomes["sample"]).to_pylist()) & set(known.index))]
        sizes = asked.groupby("benchmark").size()
        weight = 1 / (len(sizes) * asked["benchmark"].map(sizes).to_numpy(float))
        sent = outcomes.select(["pipeline", "point", "sample", "payload_bytes"]).to_pandas()
        payloads = {
            (str(pipeline), str(point)): rows.set_index("sample")["payload_bytes"].reindex(asked.index, fill_value=0)
            for (pipeline, point), rows in sent.groupby(["pipeline", "point"], sort=False)
        }
        return cls(
            stratum_of={str(name): float(n) for name, n in known["patches"].items()},
            stratum_N=strata_of_all(asked),
            payload_bytes={
                key: sent_bytes(asked.index, n_bytes.to_numpy(np.int64), texts) for key, n_bytes in payloads.items()
            },
            weight_N=weight if len(sizes) > 1 else None,
        )

    def n_bytes(self, profile: Profile) -> Ints:
        """The payloads of all questions at a profile's point, (N,)."""
        return np.asarray(self.payload_bytes[profile.pipeline, profile.point], dtype=np.int64)


def strata_of_all(asked: pd.DataFrame) -> Floats:
    """The strata of all questions, (N,), from their ``benchmark`` and ``patches``; each benchmark has as many of them.

    Each question's is repeated equally often within its benchmark, or where that would be more than :data:`_MOST` of
    them, those of the smaller benchmarks nearly so: a benchmark's mean is then off by at most the range of its strata,
    divided by :data:`_MOST`.
    """
    of_each = [np.sort(of_one.to_numpy(float)) for _, of_one in asked.groupby("benchmark", sort=False)["patches"]]
    sizes = [of_one.size for of_one in of_each]
    n = min(math.lcm(*sizes), max(sizes) * max(1, _MOST // max(sizes)))
    # The middle of each of n equal parts: at their beginnings, what is left over would favour the lowest strata.
    return np.concatenate([of_one[(2 * np.arange(n) + 1) * of_one.size // (2 * n)] for of_one in of_each])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A point's timed requests by picture and round: what it did on each side, and in which start of the process.

    ``samples`` (S,) are the pictures' samples; times are in seconds, (S, R), and starts are counted, (S, R).
    """

    samples: Sequence[str]
    device_SR: Floats
    server_SR: Floats
    start_SR: Ints

    @classmethod
    def of(cls, profile: Profile) -> "Timed":
        """The timed requests of a profile; raises ResultsError where pictures were not timed equally often."""
        start = np.zeros(len(profile.samples), np.int64) if profile.start is None else profile.start
        return cls(
            samples=tuple(dict.fromkeys(profile.samples)),
            device_SR=matrix(profile, profile.device_s),
            server_SR=matrix(profile, profile.server_s),
            start_SR=matrix(profile, start).astype(np.int64),
        )

    @property
    def start_R(self) -> Ints:  # noqa: N802
        """(R,), the start of the process in which each round began."""
        return np.asarray(self.start_SR.min(axis=0))

    @property
    def total_SR(self) -> Floats:  # noqa: N802
        """Device and server together, above 0 as a clock without resolution would not have it."""
        return np.maximum(self.device_SR + self.server_SR, 1e-12)


def system_of(replay_section: Mapping[str, Any]) -> Replay:
    """A manifest's replay section as the model that it came from; what is in a file, links and arrivals, is not opened.

    Links of a file are left out: a manifest names the file as its scenario did, and it may hold another link by now.
    """
    section = {name: value for name, value in replay_section.items() if name in Replay.model_fields}
    uplinks: list[Uplink] = []
    for uplink in section.get("uplinks", ()):
        wire = Wire.model_construct(**uplink.get("wire", {}))
        if uplink["kind"] == "constant":
            uplinks.append(ConstantUplink.model_construct(**{**uplink, "wire": wire}))
        elif uplink["kind"] == "gilbert_elliott":
            uplinks.append(GilbertElliottUplink.model_construct(**{**uplink, "wire": wire}))
    arrivals = section.get("arrivals") or {"kind": "closed_loop"}
    kinds: Mapping[str, Any] = {"closed_loop": ClosedLoop, "poisson": Poisson, "periodic": Periodic}
    of_kind = kinds.get(arrivals["kind"])
    batching = section.get("batching")
    return Replay.model_construct(
        **{
            **section,
            "uplinks": tuple(uplinks),
            "arrivals": of_kind.model_construct(**arrivals) if of_kind else None,
            "batching": None if batching is None else Batching.model_construct(**batching),
            "answer": AnswerLink.model_construct(**(section.get("answer") or {})),
        }
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the latencies of a run rest on besides its request rows.

    ``sources`` is :func:`harness.analysis.latency.sources` of the stage rows.
    """

    system: Replay
    population: Population
    profiles: Mapping[PointKey, Profile]
    sources: Mapping[tuple[str, str, str], str]
    confidence: float = 0.95

    def uplink(self, label: str) -> ConstantUplink | None:
        """The constant uplink of a label; None for a link of another kind."""
        found = self.link(label)
        return found if isinstance(found, ConstantUplink) else None

    def link(self, label: str) -> Uplink | None:
        """The uplink of a label; None for one that is in a file."""
        return next((uplink for uplink in self.system.uplinks if uplink.label == label), None)

    def judged(self, cell: Mapping[str, Any]) -> Cell:
        """The cell as :mod:`harness.analysis.loads` judges it; a link in a file, which it leaves out, is None."""
        link: Any = self.link(str(cell["channel"]))
        return Cell(spec=self.system, uplink=link, users=int(cell["users"]), seed=0)

    def unjudged(self, labels: Iterable[str]) -> str:
        """Which of these uplinks are not known to keep up with users who ask at given times; else empty."""
        if not isinstance(self.system.arrivals, Poisson | Periodic) or self.system.timeout_s is not None:
            return ""
        links = ", ".join(label for label in labels if self.link(label) is None)
        if not links:
            return ""
        return f"not judged: whether the schemes keep up over the uplink {links}, whose rate is in a file"

    def met(self, cell: Mapping[str, Any]) -> str:
        """Why the times of a cell are not the timed stages, a link time and a batch's window; empty where they are.

        They are where one user asks again when answered, over a constant link: a batch then never fills.
        """
        uplink = self.uplink(str(cell["channel"]))
        if uplink is None:
            return "the link's rate varies"
        if self.system.timeout_s is not None:
            return "a request may be given up"
        if int(cell["users"]) > 1 or not isinstance(self.system.arrivals, ClosedLoop):
            return "requests may meet"
        if requests_meet(Cell(spec=self.system, uplink=uplink, users=1, seed=0)):
            return "a burst that one request uses is not available to the next"
        return ""

    def alone(self, cell: Mapping[str, Any]) -> bool:
        """Whether the requests of a cell do not meet: :meth:`met` is empty."""
        return not self.met(cell)

    def timed(self, key: PointKey) -> Timed:
        """The timed requests of a point."""
        return Timed.of(self.profiles[key])


def timed_apart(a: Timed, b: Timed) -> bool:
    """Whether two schemes were timed in different starts of the process, so that they have no round in common.

    A stopped run is resumed at the sample where it was, whose two requests may be of different starts: one sample for
    each start beyond the first.
    """
    if a.start_SR.shape != b.start_SR.shape:
        return True
    starts = np.unique(np.stack([a.start_SR, b.start_SR])).size
    return int((a.start_SR != b.start_SR).sum()) >= starts


def ratio_of(
    a: Timed,
    b: Timed,
    stratum_S: ArrayLike | None,
    stratum_N: ArrayLike | None,
    *,
    side: Literal["device", "server", "total"] = "total",
    a_known: float = 0.0,
    b_known: float = 0.0,
    confidence: float,
) -> Estimate:
    """The ratio of two schemes' mean times: :func:`harness.analysis.means.ratio_within_rounds`, or of two apart."""
    return means.ratio_within_rounds(
        getattr(a, f"{side}_SR"),
        getattr(b, f"{side}_SR"),
        stratum_S,
        stratum_N,
        a_known=a_known,
        b_known=b_known,
        start_R=a.start_R,
        b_start_R=b.start_R if timed_apart(a, b) else None,
        confidence=confidence,
    )


def requests_meet(cell: Cell) -> bool:
    """Whether a request may wait for another, or meet a link of another rate: then replays differ from each other."""
    alone = cell.users == 1 and isinstance(cell.spec.arrivals, ClosedLoop)
    return not (alone and isinstance(cell.uplink, ConstantUplink) and not cell.uplink.wire.burst_bytes)


def level_of(profile: Profile, population: Population | None = None) -> means.Level:
    """What rounds and starts leave unknown of a point's times: :func:`harness.analysis.means.level_of`."""
    timed = Timed.of(profile)
    return means.level_of(timed.total_SR, *strata(profile, population), start_R=timed.start_R)


def levels(timed: Timed) -> Floats:
    """A point's mean device and server time in each round, over that in all rounds, (R,)."""
    return np.asarray(timed.total_SR.mean(axis=0) / timed.total_SR.mean())


def strata(profile: Profile, population: Population | None) -> tuple[Floats | None, ArrayLike | None]:
    """The strata of a profile's pictures (S,) and of all questions (N,); None for both without a population."""
    if population is None:
        return None, None
    names = dict.fromkeys(profile.samples)
    return np.array([population.stratum_of[name] for name in names], dtype=np.float64), population.stratum_N


def matrix(profile: Profile, values: Floats | Ints) -> Floats:
    """Values of timed requests as pictures by rounds (S, R); raises ResultsError for unequal repeats."""
    n_pictures = len(set(profile.samples))
    if len(values) % n_pictures or len(set(collections.Counter(profile.samples).values())) > 1:
        raise ResultsError(f"{profile.pipeline} at {profile.point}: its pictures were not timed equally often")
    return np.asarray(values, dtype=np.float64).reshape(n_pictures, -1)
