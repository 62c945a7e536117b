"""A link whose rate is a continuous-time Markov chain: K states, held for exponential times.

Gilbert-Elliott is the chain of two states. A chain fitted to recordings keeps their distribution of rates, how long the
link stays at each, and where it goes next; it forgets everything older than that.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse.csgraph
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import files
from harness.channel.capacity import Floats, Ints
from harness.channel.recording import RateRecording
from harness.channel.varying import Pieces
from harness.errors import TraceError, printable

_MOST_BYTES = 1 << 24
_MOST_STEPS = 10_000_000

_HORIZON_S = 1e9
"""A transfer that takes more than 30 years counts as never finished."""


class Chain(BaseModel):
    """The parameters: rates, mean holding times, and the probabilities of each state's successors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    source: str = ""
    rate_bps: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=2, max_length=256)
    hold_s: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    jump: tuple[tuple[Annotated[float, Field(ge=0, le=1)], ...], ...]

    @model_validator(mode="after")
    def _is_a_chain(self) -> Self:
        k = len(self.rate_bps)
        if len(self.hold_s) != k or len(self.jump) != k or any(len(row) != k for row in self.jump):
            raise ValueError(f"{k} rates need {k} holding times and {k} x {k} chances")
        if any(abs(math.fsum(row) - 1) > 1e-6 for row in self.jump):
            raise ValueError("the chances in each row of 'jump' must sum to 1")
        if not max(self.rate_bps) > 0:
            raise ValueError("at least one rate must be above 0")
        if not _reaches_all(np.array(self.jump) > 0):
            raise ValueError("every state must be reachable from every other")
        return self

    @classmethod
    def gilbert_elliott(cls, good_bps: float, bad_bps: float, good_for_s: float, bad_for_s: float) -> Self:
        """The chain of a good and a bad state."""
        return cls(rate_bps=(good_bps, bad_bps), hold_s=(good_for_s, bad_for_s), jump=((0, 1), (1, 0)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The chain in a JSON file; raises TraceError, naming the file, for anything else."""
        try:
            return cls.model_validate_json(files.read(path, _MOST_BYTES))
        except OSError as error:
            raise TraceError(
                f"{path}: cannot be read: {files.why(error)}; 'harness trace fit' writes such a file"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise TraceError(
                f"{path}: {where + ': ' if where else ''}{first['msg']}; it should be a fitted chain"
            ) from None

    def save(self, path: Path) -> None:
        """Write the chain as JSON, atomically; TraceError if it cannot be written."""
        # A file's name need not be text; what is stored of it is.
        text = json.dumps({**self.model_dump(), "source": printable(self.source)}, indent=1) + "\n"
        try:
            files.write_whole(path, lambda file: file.write(text.encode()))
        except OSError as error:
            raise TraceError(f"{path}: cannot be written: {files.why(error)}") from None

    def share_of_time(self) -> Floats:
        """(K,), how much of the time each state takes: pi_i hold_i, normalised, with pi = pi jump."""
        jump = np.array(self.jump)
        k = len(jump)
        equations = np.vstack([jump.T - np.eye(k), np.ones(k)])
        visits = np.linalg.lstsq(equations, np.append(np.zeros(k), 1.0), rcond=None)[0]
        share = np.clip(visits, 0, None) * np.array(self.hold_s)
        return np.asarray(share / share.sum())

    def mean_bps(self) -> float:
        """The rate over a long time."""
        return float(self.share_of_time() @ np.array(self.rate_bps))


class Markov:
    """One seeded realisation of a chain, in its stationary regime from 0 s on; it is extended on demand."""

    def __init__(self, chain: Chain, seed: np.random.SeedSequence) -> None:
        self.chain = chain
        self._rng = np.random.default_rng(seed)
        self._next = np.cumsum(chain.jump, axis=1)
        self._state = int(self._rng.choice(len(chain.rate_bps), p=chain.share_of_time()))
        self._edges: list[Floats] = [np.zeros(1)]
        self._rates: list[Floats] = []
        self._jumps = 512
        self.pieces = self._grown()

    def finish(self, start_s: float, n_bytes: float) -> float:
        """When the last of ``n_bytes`` leaves."""
        finish_s = self.pieces.finish(start_s, n_bytes)
        while math.isinf(finish_s) and self.pieces.at_s[-1] < _HORIZON_S:
            self.pieces = self._grown()
            finish_s = self.pieces.finish(start_s, n_bytes)
        return finish_s

    def bits(self, start_s: float, end_s: float) -> float:
        """The capacity between two instants."""
        return self.covering(end_s).bits(start_s, end_s)

    def covering(self, end_s: float, n_bytes: float = 0) -> Pieces:
        """The realisation, at least until ``n_bytes`` more can have been carried after ``end_s``."""
        while self.pieces.at_s[-1] < _HORIZON_S and (
            self.pieces.at_s[-1] <= end_s or self.pieces.bits(end_s, self.pieces.at_s[-1]) < 8 * n_bytes
        ):
            self.pieces = self._grown()
        return self.pieces

    def _grown(self) -> Pieces:
        """Doubles the number of jumps, to at least 1024: the realisation does not depend on the calls."""
        states = np.empty(self._jumps, dtype=np.int64)
        for i, u in enumerate(self._rng.random(self._jumps).tolist()):
            states[i] = self._state
            self._state = min(int(np.searchsorted(self._next[self._state], u, side="right")), len(self._next) - 1)
        hold_s = self._rng.exponential(np.array(self.chain.hold_s)[states])
        # A time of exactly 0 would make two edges one.
        hold_s = np.maximum(hold_s, 1e-9)
        self._edges.append(self._edges[-1][-1] + np.cumsum(hold_s))
        self._rates.append(np.array(self.chain.rate_bps)[states])
        self._jumps = sum(map(len, self._rates))
        return Pieces(np.concatenate(self._edges), np.concatenate(self._rates), loop=False)


def fit(recordings: Sequence[RateRecording], *, n_states: int = 8, step_s: float = 0.5, source: str = "") -> Chain:
    """The chain of ``n_states`` states that moves as the recordings do, sampled every ``step_s``.

    Rates are averaged over each step; steps that touch a gap are left out, and nothing is counted across them. An
    outage is a state of its own; the others are clusters of the rates' logarithms (a slow link matters to a latency
    more than a fast one), each at its mean rate. Holding times and jumps are the maximum-likelihood ones of a chain
    that is observed once a step. Each run's end leads to its own beginning, as if looped: so every state is left as
    often as it is entered, and the chain's shares of time and mean rate are the recordings'. Raises TraceError where
    the recordings are too short or do not vary.
    """
    if not step_s > 0 or max(recording.duration_s for recording in recordings) / step_s > _MOST_STEPS:
        raise TraceError(
            f"{source}: cannot be sampled every {step_s:g} s; {_MOST_STEPS} steps a recording are the most"
        )
    series = [run for recording in recordings for run in _steps(recording, step_s)]
    rates = np.concatenate(series) if series else np.empty(0)
    if len(rates) < 10 * n_states:
        raise TraceError(f"{source}: {len(rates)} steps of {step_s:g} s are too few to fit {n_states} states")
    if not rates.any():
        raise TraceError(f"{source}: carries nothing; there is no chain to fit")
    edges = _class_edges(rates[rates > 0], n_states - 1 if (rates == 0).any() else n_states)
    labels = [np.where(run > 0, 1 + np.searchsorted(edges, run, side="right"), 0) for run in series]
    counts = np.zeros((len(edges) + 2, len(edges) + 2))
    for run in labels:
        np.add.at(counts, (run, np.roll(run, -1)), 1)
    states = _most_visited(counts)
    counts = counts[np.ix_(states, states)]
    if len(states) < 2:
        raise TraceError(f"{source}: the rate hardly varies; a constant uplink describes it")
    everywhere = np.concatenate(labels)
    stay = np.diag(counts) / counts.sum(axis=1)
    leaving = counts * (1 - np.eye(len(states)))
    jump = leaving / leaving.sum(axis=1, keepdims=True)
    return Chain(
        source=source,
        rate_bps=tuple(round(float(rates[everywhere == state].mean()), 1) for state in states),
        hold_s=tuple(round(float(step_s / (1 - p)), 6) for p in stay),
        jump=tuple(tuple((row / row.sum()).round(9).tolist()) for row in jump),
    )


def _class_edges(rate_bps: Floats, classes: int) -> Floats:
    """Where k-means divides the rates' logarithms; it starts at their quantiles, then adds the worst-fitted value."""
    logs = np.sort(np.log(rate_bps))
    centres = np.unique(np.quantile(logs, (np.arange(classes) + 0.5) / classes))
    while len(centres) < classes:
        distance = np.abs(logs[:, None] - centres).min(axis=1)
        if distance.max() < 1e-6:
            break
        centres = np.sort(np.append(centres, logs[distance.argmax()]))
    for _ in range(100):
        midpoints = (centres[1:] + centres[:-1]) / 2
        members = np.searchsorted(midpoints, logs)
        counts = np.bincount(members, minlength=len(centres))
        moved = np.bincount(members, logs, len(centres))[counts > 0] / counts[counts > 0]
        if len(moved) == len(centres) and np.allclose(moved, centres, rtol=0, atol=1e-9):
            break
        centres = moved
    return np.asarray(np.exp((centres[1:] + centres[:-1]) / 2))


def _steps(recording: RateRecording, step_s: float) -> list[Floats]:
    """The mean rates of whole steps, in runs that no gap interrupts."""
    edges_s = np.arange(0.0, recording.duration_s + 1e-9, step_s)
    missing = np.isnan(recording.rate_bps)
    widths = np.diff(recording.at_s)
    bits = np.concatenate([[0.0], np.cumsum(np.where(missing, 0.0, recording.rate_bps) * widths)])
    gap_s = np.concatenate([[0.0], np.cumsum(missing * widths)])
    mean_bps = np.diff(np.interp(edges_s, recording.at_s, bits)) / step_s
    whole = np.diff(np.interp(edges_s, recording.at_s, gap_s)) < 1e-9 * step_s
    breaks = np.flatnonzero(np.diff(whole.astype(int))) + 1
    return [
        np.maximum(run, 0.0)
        for run, good in zip(np.split(mean_bps, breaks), np.split(whole, breaks), strict=True)
        if len(run) and good[0]
    ]


def _most_visited(counts: Floats) -> Ints:
    """The states that lead to each other; where recordings share no rates there are several such classes."""
    _, component = scipy.sparse.csgraph.connected_components(counts, connection="strong")
    return np.flatnonzero(component == np.bincount(component, counts.sum(axis=1)).argmax())


def _reaches_all(leads_to: npt.NDArray[np.bool_]) -> bool:
    return bool(scipy.sparse.csgraph.connected_components(leads_to, connection="strong")[0] == 1)
