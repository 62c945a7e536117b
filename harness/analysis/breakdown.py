"""A score taken apart: each of a run's benchmarks by itself, and each category of a benchmark."""

import numpy as np
import pandas as pd
import pyarrow as pa

from harness.analysis.select import Equality, in_order, select
from harness.data.scoring import metric
from harness.runs.store import Record

_CATEGORY_COLUMNS = ("benchmark", "pipeline", "point", "category", "questions", "score")


def by_benchmark(run: Record) -> pd.DataFrame:
    """:func:`harness.analysis.select.select` in each of a run's benchmarks, with a column ``benchmark`` before all."""
    tables = []
    for name in run.manifest.benchmarks:
        points = select(_of(run, name), metric(name), Equality.of(run.manifest), run.images)
        tables.append(in_order(run, points).assign(benchmark=name))
    found = pd.concat(tables, ignore_index=True)
    return found[["benchmark", *found.columns.drop("benchmark")]]


def by_category(run: Record) -> pd.DataFrame:
    """The score of every point in each category of each benchmark, and in what the benchmark adds up of them.

    A row each with ``benchmark``, ``pipeline``, ``point``, ``category``, ``questions`` and ``score``, in the metric's
    unit; MME's perception and cognition are such rows too.
    """
    rows = []
    for name in run.manifest.benchmarks:
        for (pipeline, point), answers in _of(run, name).to_pandas().groupby(["pipeline", "point"], sort=False):
            category = answers["category"].to_numpy().astype(np.str_)
            group = answers["group"].to_numpy().astype(np.str_)
            scores = metric(name).by_category(category, group, answers["correct"].to_numpy(dtype=np.bool_))
            for its_name, (questions, score) in scores.items():
                row = (name, pipeline, point, its_name, questions, score)
                rows.append(dict(zip(_CATEGORY_COLUMNS, row, strict=True)))
    return in_order(run, pd.DataFrame(rows))


def _of(run: Record, benchmark: str) -> pa.Table:
    """The outcomes of one benchmark; a run that did not record them has one."""
    own = [run.benchmarks.get(sample, benchmark) == benchmark for sample in run.outcomes["sample"].to_pylist()]
    return run.outcomes.filter(pa.array(own, pa.bool_()))
