"""Operating points at equal score: for each scheme the point with the fewest bytes that is certified to be good enough.

A point p is *admissible* when the score test of :mod:`harness.analysis.selection` certifies

    score_p >= (target - margin) * score_ref

on the same questions. A scheme's points form ladders, one for all parameters that are not its rate's
(:data:`RATES`): each is tested from the most bytes down until a point is not certified, at (1 - confidence) over the
number of ladders, so that a scheme gains nothing by having many points. The reference is at its own score without a
test. Questions that share a picture or a metric's group are not independent: they count as one cluster.

Several benchmarks are joined by their normalised average, in percent of the reference,

    score_p = 100 * mean over benchmarks b of score_p,b / score_ref,b,

a scheme's bytes and tokens are then the mean of its means over each of them. Where the reference scores 0 (random
weights) nothing can be said in units of its score: no point is admissible, and each scheme's first one stands for it.

    N questions   G groups of the metric   C clusters   B resamples
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from harness.analysis import percentiles, selection
from harness.analysis.means import too_few
from harness.data.scoring import Metric, metric
from harness.errors import ResultsError
from harness.records import PointKey
from harness.runs.provenance import Manifest

Floats = NDArray[np.float64]
Words = NDArray[np.str_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Equality:
    """What equal score means: a reference pipeline of one point; ``target`` and ``margin`` in units of its score."""

    reference: str
    target: float
    margin: float
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What a run's scenario declares; raises ResultsError where its manifest holds no such declaration."""
        declared = {key: manifest.scenario_value("selection", key) for key in (*_FLOATS, "reference", "resamples")}
        if wrong := [key for key in _FLOATS if type(declared[key]) not in (int, float)]:
            found = declared[wrong[0]]
            raise ResultsError(f"run {manifest.name}: scenario.selection.{wrong[0]} is {found!r}; it must be a number")
        return cls(**declared, seed=manifest.seed)

    @property
    def certified(self) -> float:
        """The share t - m of the reference's score that a selected point is certified to have at least."""
        return self.target - self.margin

    def questions_needed(self) -> int:
        """How many independent questions a point that answers all as the reference does needs to be certified by.

        Where none of n differs, up to 1 - (1 - confidence)^(1/n) of all questions may (the rule of three); a resample
        cannot show it. With fewer than this number that share is more than what target and margin leave.
        A target so high that it leaves nothing asks for one.
        """
        slack = 1 - self.target + self.margin
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - slack)) if 0 < slack < 1 else 1


_FLOATS = ("target", "margin", "confidence")


NORMALISED = "normalised score (%)"
"""What the score of several benchmarks is called."""


RATES = ("quality", "codec", "weights", "lambda", "lmbda")
"""The parameters by which a scheme trades score for bytes; any other that differs begins another ladder."""


def ladders_of(points: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[PointKey, Hashable]:
    """The ladder of every point, from a manifest's parameters of each: those that are not :data:`RATES`.

    Parameters that all points of a scheme share do not tell its ladders apart and are left out.
    """
    found: dict[PointKey, Hashable] = {}
    for pipeline, labels in points.items():
        values: dict[str, set[str]] = {}
        for own in labels.values():
            for name in {name for others in labels.values() for name in others}:
                values.setdefault(name, set()).add(repr(own.get(name)))
        telling = [name for name, seen in values.items() if name not in RATES and len(seen) > 1]
        for label, own in labels.items():
            found[pipeline, label] = ", ".join(
                f"no {name}" if own.get(name) is None else f"{name}={own[name]}" for name in sorted(telling)
            )
    return found


class Scores:
    """The scores of every point on the same questions, and what they are made of.

    ``outcomes`` are the outcome rows (:class:`harness.records.OutcomeRow`) of one run, ``samples`` the sample rows of
    all their questions; ``benchmarks`` names the benchmarks that these are of. Raises ResultsError where points were
    not asked the same questions, or the reference is not one point, or a question has no sample row or is of another
    benchmark; DataError for a benchmark without a metric.
    """

    def __init__(self, outcomes: pa.Table, samples: pa.Table, equality: Equality, benchmarks: Sequence[str]) -> None:
        rows = with_samples(outcomes, samples)
        self.equality = equality
        self.points: dict[PointKey, pd.DataFrame] = {
            (str(pipeline), str(point)): p.sort_values("sample")
            for (pipeline, point), p in rows.groupby(["pipeline", "point"], sort=True)
        }
        self.reference = _reference(list(self.points), equality.reference)
        asked = self.points[self.reference]
        for key, answers in self.points.items():
            _refuse_other_questions(key, answers, self.reference, asked)
        self.parts = _parts(asked, benchmarks, equality)
        self._correct = {key: answers["correct"].to_numpy(dtype=np.bool_) for key, answers in self.points.items()}
        self.units = [part.score(self._correct[self.reference]) for part in self.parts]
        self._contributions: dict[PointKey, Floats] = {}
        self._resampled: dict[PointKey, Floats] = {}

    @property
    def scored(self) -> bool:
        """Whether anything can be said in units of the reference's score: it is above 0 in every benchmark."""
        return all(unit > 0 for unit in self.units)

    @property
    def normalised(self) -> bool:
        """Whether a score is the average of several benchmarks in percent of the reference; of one it has its unit."""
        return len(self.parts) > 1

    @property
    def metric_name(self) -> str:
        """What the score is called, with its unit."""
        return NORMALISED if self.normalised else self.parts[0].metric.name

    @property
    def score_max(self) -> float:
        """The highest score that there can be."""
        return float(_sum(self._scale, [part.metric.max(part.category) for part in self.parts]))

    @property
    def n_questions(self) -> int:
        """N, of which the score is: MME's questions of cognition are asked, and are no part of it."""
        return sum(int(part.scored.sum()) for part in self.parts)

    @property
    def n_clusters(self) -> int:
        """C."""
        return sum(part.n_clusters for part in self.parts)

    def score(self, key: PointKey) -> float:
        """A point's score on all questions."""
        return float(_sum(self._scale, [part.score(self._correct[key]) for part in self.parts]))

    def resampled(self, key: PointKey) -> Floats:
        """Its score in every resample, (B,); the same resamples for every point, each benchmark separately."""
        if key not in self._resampled:
            drawn = [part.resampled(self._correct[key]) for part in self.parts]
            self._resampled[key] = np.asarray(_sum(self._scale, drawn))
        return self._resampled[key]

    def contributions(self, key: PointKey) -> Floats:
        """The clusters' parts of its score, (C,): :func:`harness.analysis.selection.contributions`."""
        if key not in self._contributions:
            found = [part.contributions(self._correct[key]) for part in self.parts]
            self._contributions[key] = selection.joined(found, self._scale)
        return self._contributions[key]

    @cached_property
    def makeup(self) -> selection.Makeup | None:
        """How the clusters make up the score; None where all of them count alike."""
        subtasks = [part.subtasks for part in self.parts]
        if not self.normalised and len(set(subtasks[0])) == 1:
            return None
        most = [scale * part.most for scale, part in zip(self._scale, self.parts, strict=True)]
        return selection.Makeup(subtasks=subtasks, most=self.n_clusters * max(most))

    def mean_of_means(self, key: PointKey, column: str) -> float:
        """A column's mean over each benchmark's questions, averaged over the benchmarks."""
        values = self.points[key][column].to_numpy()
        return float(np.mean([values[part.mine].mean() for part in self.parts]))

    @cached_property
    def _scale(self) -> Sequence[float]:
        """What each benchmark's score is multiplied by before they are added up."""
        if not self.normalised:
            return [1.0]
        return [100 / (len(self.parts) * unit) if unit > 0 else np.nan for unit in self.units]


def select(scores: Scores, ladders: Mapping[PointKey, Hashable] | None = None) -> pd.DataFrame:
    """Every point with its bytes and score, whether it is admissible, and each pipeline's selected one.

    ``ladders`` names the ladder of each point (:func:`ladders_of`); without it a pipeline's points are one. A row each,
    by pipeline and bytes:

    - ``pipeline``, ``point``, ``ladder``, ``metric``, ``questions`` (N), ``clusters`` (C), and the means of
      ``payload_bytes`` and ``visual_tokens``
    - ``score``, ``score_low`` and ``score_high`` (Clopper and Pearson's interval for the clusters' effective number; of
      a normalised average the ratios that the score test does not reject; null below six clusters), ``score_max``, in
      the metric's unit
    - ``relative_score``, over the reference's, null where that is 0; ``p_value`` of the test, null where the ladder
      ended above the point
    - ``reference``, ``admissible``, ``selected``: a pipeline with no selected point does not reach the target
    """
    equality, scored = scores.equality, scores.scored
    theta, unit = equality.certified, scores.score(scores.reference)
    found = []
    for key in scores.points:
        score, low, high = scores.score(key), np.nan, np.nan
        if scored:
            low, high = _interval(scores, key)
        found.append(
            {
                "pipeline": key[0],
                "point": key[1],
                "ladder": str((ladders or {}).get(key, "")),
                "metric": scores.metric_name,
                "questions": scores.n_questions,
                "clusters": scores.n_clusters,
                **{name: scores.mean_of_means(key, name) for name in ("payload_bytes", "visual_tokens")},
                "score": score,
                "score_low": low,
                "score_high": high,
                "score_max": scores.score_max,
                "relative_score": score / unit if scored else np.nan,
                "reference": key == scores.reference,
            }
        )
    table = pd.DataFrame(found)
    table = table.sort_values(
        ["pipeline", "payload_bytes", "score", "point"], ascending=[True, True, False, True], ignore_index=True
    )
    decided = _decided(scores, table, theta) if scored else {}
    keys = list(zip(table["pipeline"], table["point"], strict=True))
    table["p_value"] = [decided[key][0] if key in decided else np.nan for key in keys]
    table["admissible"] = [key in decided and decided[key][1] for key in keys]
    table["selected"] = False
    if scored:
        table.loc[table[table["admissible"]].drop_duplicates("pipeline").index, "selected"] = True
    return table


def _decided(scores: Scores, table: pd.DataFrame, theta: float) -> dict[PointKey, tuple[float, bool]]:
    """The p-value of every point and whether it is admitted; the reference is, wherever theta is at most 1."""
    reference_C = scores.contributions(scores.reference)
    decided: dict[PointKey, tuple[float, bool]] = {scores.reference: (np.nan, theta <= 1)}
    for pipeline, points in table.groupby("pipeline", sort=False):
        if pipeline == scores.reference[0]:
            continue
        ladders: dict[Hashable, list[tuple[Hashable, Any]]] = {}
        for ladder, rungs in points.groupby("ladder", sort=False):
            order = selection.descending(rungs["point"].tolist(), rungs["payload_bytes"].tolist())
            ladders[ladder] = [(point, scores.contributions((str(pipeline), str(point)))) for point in order]
        alpha = 1 - scores.equality.confidence
        for decision in selection.admit(ladders, reference_C, theta=theta, alpha=alpha, makeup=scores.makeup):
            decided[str(pipeline), str(decision.point)] = decision.p_value, decision.admitted
    return decided


def _interval(scores: Scores, key: PointKey) -> tuple[float, float]:
    """The interval of a score: that of a share of the highest score, or of several benchmarks that of a ratio.

    A normalised average is a ratio to the reference on the same pictures. Its interval holds the ratios that the score
    test of :mod:`harness.analysis.selection` rejects neither from below nor, with the two changed over, from above; the
    reference's own is 100 by definition.
    """
    own_C, confidence = scores.contributions(key), scores.equality.confidence
    if not scores.normalised:
        top, most = scores.score_max, scores.n_questions
        subtask_C = scores.parts[0].subtasks
        share = percentiles.share(own_C[:, None] / top, at_most=most, subtask_S=subtask_C, confidence=confidence)
        found = share.estimate
        return top * found.low, top * found.high
    if key == scores.reference:
        return 100.0, 100.0
    if too_few(scores.n_clusters):
        return np.nan, np.nan
    reference_C, tail = scores.contributions(scores.reference), (1 - confidence) / 2
    over, under = (
        selection.certified_share(own_C, reference_C, tail, scores.makeup),
        selection.certified_share(reference_C, own_C, tail, scores.makeup),
    )
    return 100 * over, min(100 / under if under > 0 else np.inf, scores.score_max)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The questions of one benchmark among all, and how their score is resampled.

    Two masks: ``mine`` of all of its questions, ``scored`` of those that its metric counts, which alone are in
    ``category``, ``group`` and the clusters.
    """

    name: str
    metric: Metric
    mine: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    category: Words
    group: Words
    cluster_G: NDArray[np.int64]
    n_resamples: int
    seed: tuple[int, int]

    @property
    def n_clusters(self) -> int:
        """Clusters of questions that share a picture or a group."""
        return int(self.cluster_G.max()) + 1

    def score(self, correct: NDArray[np.bool_]) -> float:
        """The benchmark's own score of verdicts on all questions."""
        return self.metric.score(self.category, self.group, correct[self.scored])

    def resampled(self, correct: NDArray[np.bool_]) -> Floats:
        """The same under each resample, (B,)."""
        weights_BG = _resampled_weights(self.cluster_G, self.n_resamples, self.seed)
        return self.metric.resampled(self.category, self.group, correct[self.scored], weights_BG)

    @property
    def subtasks(self) -> Words:
        """The subtask of each cluster, (C,), of several the first; all are one where the score is no sum over such."""
        if not self.metric.groups_within_category:
            return np.full(self.n_clusters, "")
        _, first_C = np.unique(self.cluster_G, return_index=True)
        _, place_G = np.unique(self.group, return_index=True)
        return self.category[place_G][first_C]

    @property
    def most(self) -> float:
        """What the score can lose with the cluster that counts most: a subtask's highest score over its clusters."""
        _, n_H = np.unique(self.subtasks, return_counts=True)
        return self.metric.max(self.category) / (n_H.size * int(n_H.min()))

    def contributions(self, correct: NDArray[np.bool_]) -> Floats:
        """Each cluster's part of the score."""
        right = correct[self.scored]
        return selection.contributions(
            lambda weights_BG: self.metric.resampled(self.category, self.group, right, weights_BG), self.cluster_G
        )


def with_samples(outcomes: pa.Table, samples: pa.Table) -> pd.DataFrame:
    """Outcome rows, each with the columns of its sample row; ResultsError where one has none."""
    rows: pd.DataFrame = outcomes.to_pandas().merge(samples.to_pandas(), on="sample", how="left")
    if (unknown := rows["benchmark"].isna()).any():
        raise ResultsError(
            f"sample {rows['sample'][unknown].iloc[0]} was answered and is not among the {samples.num_rows} of the "
            "samples table"
        )
    return rows


def _parts(asked: pd.DataFrame, benchmarks: Sequence[str], equality: Equality) -> list[_Part]:
    """The benchmarks of all questions, in the order given; each draws from a random stream of its own."""
    if (strange := ~asked["benchmark"].isin(benchmarks)).any():
        first = asked[strange].iloc[0]
        raise ResultsError(
            f"sample {first['sample']} is of the benchmark {first['benchmark']!r}; this run is of "
            f"{', '.join(benchmarks)}"
        )
    parts = []
    for index, name in enumerate(benchmarks):
        mine = asked["benchmark"].to_numpy() == name
        if not mine.any():
            raise ResultsError(f"no question of {name} was answered; the score needs each of: {', '.join(benchmarks)}")
        own, category = metric(name), _words(asked["category"])
        scored = mine & own.counts(category)
        if not scored.any():
            scored = mine  # The metric refuses them by name.
        questions = asked[scored]
        group = _words(questions["group"])
        parts.append(
            _Part(
                name=name,
                metric=own,
                mine=mine,
                scored=scored,
                category=category[scored],
                group=group,
                cluster_G=_clusters(group, _words(questions["picture"])),
                n_resamples=equality.resamples,
                seed=(equality.seed, index),
            )
        )
    return parts


def _sum(scale: Sequence[float], of_parts: Sequence[Any]) -> Any:
    """The scores of the parts, each times its scale, added up."""
    return sum(factor * value for factor, value in zip(scale, of_parts, strict=True))


def _reference(points: list[tuple[str, str]], reference: str) -> tuple[str, str]:
    keys = [key for key in points if key[0] == reference]
    if len(keys) != 1:
        pipelines = ", ".join(sorted({pipeline for pipeline, _ in points})) or "none"
        raise ResultsError(
            f"the reference {reference!r} has {len(keys)} operating points in the outcomes and must have one; "
            f"the outcomes are of: {pipelines}"
        )
    return keys[0]


def _refuse_other_questions(
    key: tuple[str, str], answers: pd.DataFrame, reference_key: tuple[str, str], asked: pd.DataFrame
) -> None:
    """Raises ResultsError unless both answered the same samples, once each; both are sorted by sample."""
    columns = ["sample", "truth"]
    if len(answers) == len(asked) and (answers[columns].to_numpy() == asked[columns].to_numpy()).all():
        if (repeated := answers["sample"].duplicated()).any():
            raise ResultsError(f"{_name(key)} answered sample {answers['sample'][repeated].iloc[0]} twice")
        return
    other = sorted(set(answers["sample"]) ^ set(asked["sample"]))
    example = f"sample {other[0]} is in one of them only" if other else "the truth of a sample differs"
    raise ResultsError(
        f"{_name(key)} and the reference {_name(reference_key)} were not asked the same questions "
        f"({len(answers)} and {len(asked)}; {example}); scores are compared on the same ones"
    )


def _name(key: tuple[str, str]) -> str:
    return f"{key[0]} at {key[1]}"


def _words(column: "pd.Series[str]") -> Words:
    return column.to_numpy().astype(np.str_)


def _clusters(group: Words, picture: Words) -> NDArray[np.int64]:
    """The cluster of each group, (G,) in the order of ``numpy.unique(group)``, from 0 on.

    The clusters are the connected components of questions that share a group or a picture.
    """
    groups, group_N = np.unique(group, return_inverse=True)
    pictures, picture_N = np.unique(picture, return_inverse=True)
    n_groups, n_nodes = groups.size, groups.size + pictures.size
    shares = coo_array((np.ones(group_N.size), (group_N, n_groups + picture_N)), shape=(n_nodes, n_nodes))
    _, component = connected_components(shares, directed=False)
    return np.asarray(component[:n_groups], dtype=np.int64)


@functools.lru_cache(maxsize=8)
def _drawn(n_clusters: int, n_B: int, seed: tuple[int, int]) -> Floats:
    """How often each of C clusters is drawn in each resample, (B, C): C times with replacement."""
    rng = np.random.default_rng(seed)
    drawn_BC = rng.integers(n_clusters, size=(n_B, n_clusters)) + n_clusters * np.arange(n_B)[:, None]
    return np.bincount(drawn_BC.ravel(), minlength=n_B * n_clusters).reshape(n_B, n_clusters).astype(np.float64)


def _resampled_weights(cluster_G: NDArray[np.int64], n_B: int, seed: tuple[int, int]) -> Floats:
    """How often each group counts in each resample, (B, G)."""
    return _drawn(int(cluster_G.max()) + 1, n_B, seed)[:, cluster_G]
