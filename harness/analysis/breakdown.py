"""Scores in detail: in each of a run's benchmarks, and in each category of a benchmark."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis.select import Equality, Scores, select, with_samples
from harness.data.scoring import metric
from harness.records import PointKey

_CATEGORY_COLUMNS = ("benchmark", "pipeline", "point", "category", "questions", "score")


def by_benchmark(
    outcomes: pa.Table,
    samples: pa.Table,
    equality: Equality,
    benchmarks: Sequence[str],
    ladders: Mapping[PointKey, Hashable] | None = None,
) -> pd.DataFrame:
    """:func:`harness.analysis.select.select` in each benchmark separately, with a column ``benchmark`` before all."""
    tables = [
        select(scores_in(outcomes, samples, equality, name), ladders).assign(benchmark=name) for name in benchmarks
    ]
    found = pd.concat(tables, ignore_index=True)
    return found[["benchmark", *found.columns.drop("benchmark")]]


def scores_in(outcomes: pa.Table, samples: pa.Table, equality: Equality, benchmark: str) -> Scores:
    """The verdicts of every point in one benchmark."""
    mine = samples.filter(pc.equal(samples["benchmark"], benchmark))
    answered = outcomes.filter(pc.is_in(outcomes["sample"], mine["sample"].combine_chunks()))
    return Scores(answered, mine, equality, [benchmark])


def by_category(outcomes: pa.Table, samples: pa.Table, benchmarks: Sequence[str]) -> pd.DataFrame:
    """The score of every point in each category of each benchmark, and in what the benchmark adds up of them.

    A row each with ``benchmark``, ``pipeline``, ``point``, ``category``, ``questions`` and ``score``, in the metric's
    unit; MME's perception and cognition are such rows too.
    """
    rows = with_samples(outcomes, samples)
    found = []
    for name in benchmarks:
        for (pipeline, point), answers in rows[rows["benchmark"] == name].groupby(["pipeline", "point"], sort=False):
            category = answers["category"].to_numpy().astype(np.str_)
            group = answers["group"].to_numpy().astype(np.str_)
            scores = metric(name).by_category(category, group, answers["correct"].to_numpy(dtype=np.bool_))
            for its_name, (questions, score) in scores.items():
                row = (name, pipeline, point, its_name, questions, score)
                found.append(dict(zip(_CATEGORY_COLUMNS, row, strict=True)))
    return pd.DataFrame(found, columns=list(_CATEGORY_COLUMNS))
