"""Whether one commit is slower than another: a test of paired times with few false alarms.

A *pair* times both commits, each in a process that was started for it, in turns: in a turn both answer the same
requests, one right after the other. Of a scheme's stage a pair gives one number,

    d = median over the pair's turns of log(seconds of the candidate / seconds of the reference),

the seconds being those of all the scheme's points together, less those in which others kept the process from running. A
stage is *suspect* where the signed-rank test of a first set of pairs rejects

    H0: the centre of d <= log(1 + m),     m the *minimum effect* (10 %), not zero,

at 10 %, and *slower* where that of a second set rejects it too, by Holm's method over the suspects. The second set is
independent of what made them suspects, so the chance that any stage of the whole family fails that is no more than m
slower is at most 5 %. Unchanged code is a whole minimum effect away from that limit, and fails far more rarely. The
estimate is that of Hodges and Lehmann, the median of the means of every two pairs, with the interval that belongs to
the test.

Stages that take less than a *floor* are timed too coarsely for that; a scheme's on one side are tested together.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harness.errors import ResultsError, unknown_name

Floats = NDArray[np.float64]
Part = tuple[str, str]
"""A scheme and what is timed of it, such as ``("tofc", "device/merge")``."""

POOLED = "other stages"
FEWEST_PAIRS = 10
_SHORTEST_S = 1e-6
"""The least that is left of a stage for which others had the processor all the time."""
TIMED_COLUMNS = ("pair", "turn", "side_of", "pipeline", "point", "side", "stage", "seconds", "waited_s")
"""What the rows of timed pairs hold; ``side_of`` is ``reference`` or ``candidate``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What counts as slower: ``minimum_effect`` of each stage, and the levels of the tests.

    ``effects`` has minimum effects by what they are of: ``device``, ``server`` and ``total``, or a stage's name. Where
    there are any, nothing else is tested. ``screen`` is the level of each test of the first set, ``alpha`` that of the
    family of the second's. ``floor_s`` is the mean time of a request's stage, or of a side's short stages together,
    below which nothing is claimed.
    """

    minimum_effect: float = 0.10
    effects: Mapping[str, float] = dataclasses.field(default_factory=dict)
    screen: float = 0.10
    alpha: float = 0.05
    floor_s: float = 0.005

    def effect_of(self, part: Part) -> float | None:
        """The minimum effect of a part, or None where it is not tested."""
        if not self.effects:
            return self.minimum_effect if "/" in part[1] else None
        return self.effects.get(part[1], self.effects.get(part[1].partition("/")[2]))


Verdict = Literal["slower", "not slower", "faster", "not confirmed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimedPart:
    """One part of one scheme in both commits: ratios are candidate over reference.

    ``p`` is of the first set's test that it is no more than ``minimum_effect`` slower; ``confirmed_p`` that of the
    second set, adjusted for all suspects, None where it was none. Interval and ratio are of the first set,
    ``confirmed_ratio`` of the second, the only one without a bias from having been selected.
    """

    pipeline: str
    part: str
    pairs: int
    reference_s: float
    candidate_s: float
    ratio: float
    low: float
    high: float
    minimum_effect: float
    p: float
    verdict: Verdict
    confirmed_p: float | None = None
    confirmed_ratio: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedComparison:
    """Two commits timed on one scenario; ``design`` says how many pairs, turns and pictures, and the seed."""

    scenario: str
    reference: str
    candidate: str
    machine: str
    gate: Gate
    design: Mapping[str, int]
    parts: tuple[TimedPart, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether anything is slower."""
        return any(part.verdict == "slower" for part in self.parts)


def pairs_needed(family: int, alpha: float) -> int:
    """The fewest pairs of which the most extreme is significant in a family of so many, with two to spare."""
    return max(FEWEST_PAIRS, math.ceil(math.log2(max(family, 1) / alpha)) + 2)


def parts_of(rows: pd.DataFrame, floor_s: float) -> tuple[pd.DataFrame, list[str]]:
    """Seconds of every part, a row each by ``pair``, ``turn``, ``pipeline`` and ``part``; and notes on what is not.

    ``rows`` have :data:`TIMED_COLUMNS`. Columns ``reference`` and ``candidate`` are the mean seconds of a request over
    the scheme's points that both have. Parts are each stage (``device/merge``); a side's other stages together, which
    are the short ones and those that only one commit has; and the sides themselves and both. Which stages are short is
    decided by the larger of the two commits' mean times over all rows. Raises ResultsError for no point in common.
    """
    sides = rows.groupby(["pipeline", "point"])["side_of"].nunique()
    shared, alone = sides[sides == 2].index, sides[sides < 2].index
    if shared.empty:
        raise ResultsError("the two commits have no operating point in common, so nothing can be compared")
    notes = [f"{pipeline} at {point}: only one of the two commits has it" for pipeline, point in alone]
    own = rows[pd.MultiIndex.from_frame(rows[["pipeline", "point"]]).isin(shared)]
    own = own.assign(seconds=(own["seconds"] - own["waited_s"]).clip(lower=_SHORTEST_S))
    stage = ["pipeline", "side", "stage"]
    wide = own.pivot_table(index=["pair", "turn", *stage], columns="side_of", values="seconds", aggfunc="sum")
    wide = wide.div(own.groupby("pipeline")["point"].nunique(), axis=0, level="pipeline").reset_index()
    of_stage = wide.groupby(stage)[["reference", "candidate"]].mean()
    in_one = of_stage.isna().any(axis=1)
    notes += [
        f"{p}, {side}/{name}: only one of the two commits has this stage" for p, side, name in in_one[in_one].index
    ]
    other = (of_stage.max(axis=1) < floor_s) | in_one
    pooled = other.reindex(pd.MultiIndex.from_frame(wide[stage])).to_numpy()
    stages = wide.assign(part=wide["side"] + "/" + wide["stage"].mask(pooled, POOLED))
    tables = [stages, wide.assign(part=wide["side"]), wide.assign(part="total")]
    found = pd.concat(tables).groupby(["pair", "turn", "pipeline", "part"])[["reference", "candidate"]].sum()
    tiny = found.groupby(["pipeline", "part"]).mean().max(axis=1) < floor_s
    notes += [f"{p}, {part}: less than {1e3 * floor_s:g} ms, left out" for p, part in tiny[tiny].index if "/" in part]
    found = found.reset_index()
    left = ~tiny.reindex(pd.MultiIndex.from_frame(found[["pipeline", "part"]])).to_numpy()
    return found[left], notes


def log_ratios(parts: pd.DataFrame) -> dict[Part, Floats]:
    """Each pair's d, by part: of :func:`parts_of`'s rows."""
    with np.errstate(divide="ignore"):  # A stage that only one commit has is infinitely slower, or faster.
        of_turn = parts.assign(d=np.log(parts["candidate"]) - np.log(parts["reference"]))
    of_pair = of_turn.groupby(["pipeline", "part", "pair"], sort=False)["d"].median()
    return {
        (str(pipeline), str(part)): of_part.to_numpy(float)
        for (pipeline, part), of_part in of_pair.groupby(["pipeline", "part"], sort=False)
    }


def refuse_unknown(parts: Set[str], gate: Gate) -> None:
    """Raises ResultsError for a limit on what none of the parts is."""
    known = parts | {part.partition("/")[2] for part in parts if "/" in part}
    for name in gate.effects:
        if name not in known:
            raise ResultsError(
                f"--fail-if: {unknown_name('stage', name, sorted(known))}; stages below {1e3 * gate.floor_s:g} ms are "
                "tested together"
            )


def judge(
    first: Mapping[Part, ArrayLike], gate: Gate, second: Mapping[Part, ArrayLike] | None = None
) -> list[TimedPart]:
    """The verdict on every part that the gate tests, from its log ratios, by part.

    Without a ``second`` set suspects are ``not confirmed``. Seconds are not known here and are nan. Raises ResultsError
    for fewer pairs than the family needs (:func:`pairs_needed`), for a limit on what none of the parts is, and where
    there is nothing to test.
    """
    refuse_unknown({part for _, part in first}, gate)
    effects = {part: effect for part in first if (effect := gate.effect_of(part)) is not None}
    tested = {part: np.asarray(first[part], float) for part in effects}
    if not tested:
        raise ResultsError(
            f"no stage takes as long as {1e3 * gate.floor_s:g} ms, so none was tested; --floor sets a shorter time"
        )
    fewest = min(len(d) for d in tested.values())
    if fewest < (needed := pairs_needed(len(tested), gate.alpha)):
        raise ResultsError(f"{fewest} pairs cannot tell {len(tested)} stages from noise; give {needed} or more")
    p = {part: at_most(d, math.log1p(effects[part])) for part, d in tested.items()}
    suspects = [part for part in p if p[part] <= gate.screen]
    again: dict[Part, float] = {}
    if second is not None and suspects:
        once_more = [at_most(np.asarray(second[part], float), math.log1p(effects[part])) for part in suspects]
        again = dict(zip(suspects, holm(once_more), strict=True))
    verdicts = []
    for part, d in tested.items():
        centre, low, high = hodges_lehmann(d)
        if part in suspects:
            verdict: Verdict = "slower" if again.get(part, 1.0) <= gate.alpha else "not confirmed"
        else:
            verdict = "faster" if high < -math.log1p(effects[part]) else "not slower"
        verdicts.append(
            TimedPart(
                pipeline=part[0],
                part=part[1],
                pairs=len(d),
                reference_s=math.nan,
                candidate_s=math.nan,
                ratio=math.exp(centre),
                low=math.exp(low),
                high=math.exp(high),
                minimum_effect=effects[part],
                p=p[part],
                verdict=verdict,
                confirmed_p=again.get(part),
                confirmed_ratio=math.exp(hodges_lehmann(second[part])[0]) if second and part in again else None,
            )
        )
    return verdicts


def suspects(judged: Iterable[TimedPart]) -> list[Part]:
    """The parts that a second set of pairs is to confirm."""
    return [(one.pipeline, one.part) for one in judged if one.verdict == "not confirmed"]


def at_most(d: ArrayLike, bound: float) -> float:
    """The exact p of the signed-rank test that the centre of d is at most ``bound``; ties count against rejecting."""
    walsh = _walsh(d)
    ranks = _rank_sums(len(np.asarray(d)))
    return float(ranks[int(np.sum(walsh > bound)) :].sum())


def hodges_lehmann(d: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """The median of the means of every two values, and the signed-rank interval of so much confidence or more.

    Its ends are infinite where there are too few values for the confidence.
    """
    walsh = np.sort(_walsh(d))
    tail = np.cumsum(_rank_sums(len(np.asarray(d))))
    cut = int(np.searchsorted(tail, (1 - confidence) / 2, side="right"))
    ends = (walsh[cut - 1], walsh[-cut]) if cut else (-math.inf, math.inf)
    return float(np.median(walsh)), float(ends[0]), float(ends[1])


def holm(p: Sequence[float]) -> list[float]:
    """Values of p adjusted by Holm's step-down method."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def _walsh(d: ArrayLike) -> Floats:
    """The means of every two values, each with itself too."""
    values = np.asarray(d, float)
    first, second = np.triu_indices(len(values))
    return np.asarray((values[first] + values[second]) / 2)


@functools.cache
def _rank_sums(n: int) -> Floats:
    """The chance of every sum of the ranks 1 to n, each taken or not as a coin falls."""
    chances = np.ones(1)
    for rank in range(1, n + 1):
        taken = np.zeros(len(chances) + rank)
        taken[: len(chances)] += chances / 2
        taken[rank:] += chances / 2
        chances = taken
    return chances
