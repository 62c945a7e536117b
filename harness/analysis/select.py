"""Operating points at equal score: for each scheme the point with the fewest bytes that is not inferior to the target.

A point p is *admissible* when a paired bootstrap leaves little doubt that it scores what is wanted of it,

    d_p = (score_p - target * score_ref) / score_ref,        lower bound of d_p >= -margin,

the lower bound being the (1 - confidence) quantile of d_p over the resamples. Both scores are taken on the same
questions and over the same resamples; the denominator is the reference's score on all questions, so that d_p and the
margin are in units of the reference's own score. Questions that share a picture or a metric's group are not
independent: they are resampled together. The confidence is that of one point's bound, not of all points' at once.

Several benchmarks are joined by their normalised average, in percent of the reference,

    score_p = 100 * mean over benchmarks b of score_p,b / score_ref,b,

each resampled by itself; a scheme's bytes and tokens are then the mean of its means over each of them.

    N questions   G groups of the metric   K clusters, drawn whole   B resamples
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from harness.data.scoring import Metric, metric
from harness.errors import ResultsError
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


def select(outcomes: pa.Table, samples: pa.Table, equality: Equality, benchmarks: Sequence[str]) -> pd.DataFrame:
    """Every point with its bytes and score, whether it is admissible, and each pipeline's selected one.

    ``outcomes`` are the outcome rows (:class:`harness.records.OutcomeRow`) of one run, ``samples`` the sample rows of
    all their questions; ``benchmarks`` names the benchmarks that these are of. A row each, by pipeline and bytes:

    - ``pipeline``, ``point``, ``metric``, ``questions`` (N), ``clusters`` (K), and the means of ``payload_bytes`` and
      ``visual_tokens``
    - ``score``, ``score_low`` and ``score_high`` (a two-sided percentile interval), ``score_max``, in the metric's unit
    - ``relative_score`` and ``difference_low``, the lower bound of d_p, in units of the reference's score; null where
      there are fewer than two clusters
    - ``reference``, ``admissible``, ``selected``: a pipeline with no selected point does not reach the target

    Raises ResultsError where points were not asked the same questions, or the reference is not one point, or scores 0,
    or where a question has no sample row or is of another benchmark; DataError for a benchmark without a metric.
    """
    rows = with_samples(outcomes, samples)
    points = {
        (str(pipeline), str(point)): p.sort_values("sample")
        for (pipeline, point), p in rows.groupby(["pipeline", "point"], sort=True)
    }
    reference_key = _reference(list(points), equality.reference)
    asked = points[reference_key]
    for key, answers in points.items():
        _refuse_other_questions(key, answers, reference_key, asked)

    parts = _parts(asked, benchmarks, equality)
    correct = {key: answers["correct"].to_numpy(dtype=np.bool_) for key, answers in points.items()}
    units = [part.score(correct[reference_key]) for part in parts]
    for part, unit in zip(parts, units, strict=True):
        if not unit > 0:
            where = f" in {part.name}" if len(parts) > 1 else ""
            raise ResultsError(
                f"the reference {equality.reference} scores {unit:g}{where}; nothing can be measured in units of that"
            )
    alone = len(parts) == 1
    scale = [1.0] if alone else [100 / (len(parts) * unit) for unit in units]
    score = {key: _sum(scale, [part.score(right) for part in parts]) for key, right in correct.items()}
    score_B = {key: _sum(scale, [part.resampled(right) for part in parts]) for key, right in correct.items()}
    unit = score[reference_key]
    n_clusters = sum(part.n_clusters for part in parts)
    spread = all(part.n_clusters > 1 for part in parts)
    tail = (1 - equality.confidence) / 2
    found = []
    for key, answers in points.items():
        difference_B = (score_B[key] - equality.target * score_B[reference_key]) / unit
        low, high = np.nanquantile(score_B[key], [tail, 1 - tail]) if spread else (np.nan, np.nan)
        found.append(
            {
                "pipeline": key[0],
                "point": key[1],
                "metric": parts[0].metric.name if alone else NORMALISED,
                "questions": len(answers),
                "clusters": n_clusters,
                **{name: _mean_of_means(parts, answers[name]) for name in ("payload_bytes", "visual_tokens")},
                "score": score[key],
                "score_low": low,
                "score_high": high,
                "score_max": _sum(scale, [part.metric.max(part.category) for part in parts]),
                "relative_score": score[key] / unit,
                "difference_low": np.nanquantile(difference_B, 1 - equality.confidence) if spread else np.nan,
                "reference": key == reference_key,
            }
        )
    table = pd.DataFrame(found)
    table["admissible"] = table["difference_low"] >= -equality.margin
    table = table.sort_values(
        ["pipeline", "payload_bytes", "score", "point"], ascending=[True, True, False, True], ignore_index=True
    )
    table["selected"] = False
    table.loc[table[table["admissible"]].drop_duplicates("pipeline").index, "selected"] = True
    return table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The questions of one benchmark among all (``mine``, a mask), and how their score is resampled."""

    name: str
    metric: Metric
    mine: NDArray[np.bool_]
    category: Words
    group: Words
    weights_BG: Floats
    n_clusters: int

    def score(self, correct: NDArray[np.bool_]) -> float:
        """The benchmark's own score of verdicts on all questions."""
        return self.metric.score(self.category, self.group, correct[self.mine])

    def resampled(self, correct: NDArray[np.bool_]) -> Floats:
        """The same under each resample, (B,)."""
        return self.metric.resampled(self.category, self.group, correct[self.mine], self.weights_BG)


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
        questions = asked[mine]
        group = _words(questions["group"])
        seed = equality.seed if len(benchmarks) == 1 else [equality.seed, index]
        weights_BG, n_clusters = _resampled_weights(group, _words(questions["picture"]), equality.resamples, seed)
        parts.append(
            _Part(
                name=name,
                metric=metric(name),
                mine=mine,
                category=_words(questions["category"]),
                group=group,
                weights_BG=weights_BG,
                n_clusters=n_clusters,
            )
        )
    return parts


def _sum(scale: Sequence[float], of_parts: Sequence[Any]) -> Any:
    """The scores of the parts, each times its scale, added up."""
    return sum(factor * value for factor, value in zip(scale, of_parts, strict=True))


def _mean_of_means(parts: Sequence[_Part], values: "pd.Series[float]") -> float:
    return float(np.mean([values.to_numpy()[part.mine].mean() for part in parts]))


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


def _resampled_weights(group: Words, picture: Words, n_B: int, seed: int | Sequence[int]) -> tuple[Floats, int]:
    """How often each group counts in each resample, (B, G) in the order of ``numpy.unique(group)``; and K.

    The clusters are the connected components of questions that share a group or a picture. Each resample draws K of
    them with replacement.
    """
    groups, group_N = np.unique(group, return_inverse=True)
    pictures, picture_N = np.unique(picture, return_inverse=True)
    n_groups, n_nodes = groups.size, groups.size + pictures.size
    shares = coo_array((np.ones(group_N.size), (group_N, n_groups + picture_N)), shape=(n_nodes, n_nodes))
    n_clusters, component = connected_components(shares, directed=False)
    cluster_G = component[:n_groups]
    rng = np.random.default_rng(seed)
    drawn_BK = rng.integers(n_clusters, size=(n_B, n_clusters)) + n_clusters * np.arange(n_B)[:, None]
    weights_BK = np.bincount(drawn_BK.ravel(), minlength=n_B * n_clusters).reshape(n_B, n_clusters)
    return weights_BK[:, cluster_G].astype(np.float64), int(n_clusters)
