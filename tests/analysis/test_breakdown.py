"""A score by benchmark and by category, and their average."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from harness.analysis import Analysis
from harness.analysis.breakdown import by_benchmark
from harness.analysis.select import ladders_of
from harness.analysis.validity import reasons
from harness.records import SampleRow, schema
from harness.report import table


@pytest.fixture(scope="module")
def two(made_up: Analysis) -> Analysis:
    """The made-up run with its first sixty questions assigned to another benchmark."""
    samples = made_up.record.samples.to_pandas().sort_values("sample")
    samples["benchmark"] = ["MMStar" if i < 60 else "StreetsQA" for i in range(len(samples))]
    manifest = made_up.manifest.model_copy(update={"benchmarks": ("MMStar", "StreetsQA")})
    rows = pa.Table.from_pandas(samples, schema=schema(SampleRow), preserve_index=False)
    return Analysis(dataclasses.replace(made_up.record, manifest=manifest, samples=rows))


@pytest.mark.slow
def test_one_benchmark_is_the_whole(made_up: Analysis) -> None:
    """A run of one benchmark has one part, which is its selection, computed apart or not."""
    apart, record = made_up.benchmarks, made_up.record
    ladders = ladders_of(made_up.manifest.points)
    again = by_benchmark(record.outcomes, record.samples, made_up.equality, ["StreetsQA"], ladders)
    assert sorted(again.columns) == sorted(apart.columns)
    keys = ["pipeline", "point"]
    assert again.sort_values(keys, ignore_index=True).equals(apart.sort_values(keys, ignore_index=True))
    assert set(apart["benchmark"]) == {"StreetsQA"}
    pd.testing.assert_frame_equal(apart.drop(columns="benchmark"), made_up.points)


@pytest.mark.slow
def test_the_average_is_the_mean_of_its_parts(two: Analysis) -> None:
    """Score and bytes of every point are the means of those in each benchmark by itself."""
    whole = two.points.set_index(["pipeline", "point"])
    apart = two.benchmarks
    assert apart.groupby("benchmark")["questions"].unique().map(list).to_dict() == {"MMStar": [60], "StreetsQA": [180]}
    means = apart.groupby(["pipeline", "point"])[["relative_score", "payload_bytes"]].mean().loc[whole.index]
    np.testing.assert_allclose(whole["score"], 100 * means["relative_score"])
    np.testing.assert_allclose(whole["payload_bytes"], means["payload_bytes"])
    assert (whole["metric"] == "normalised score (%)").all()
    assert whole["selected"].sum() >= 2


@pytest.mark.slow
def test_categories_are_scored_by_themselves(two: Analysis) -> None:
    """A category's score is that of its questions; here each benchmark has one, so it is the benchmark's."""
    categories = two.categories
    key = ["benchmark", "pipeline", "point"]
    assert set(categories["category"]) == {"street"}
    scores = two.benchmarks.set_index(key)["score"]
    np.testing.assert_allclose(categories.set_index(key)["score"].loc[scores.index], scores)


@pytest.mark.slow
def test_the_closing_table_says_what_was_averaged(two: Analysis) -> None:
    """It names the benchmarks, and what each score is relative to."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table.table(two))
    words = " ".join(capture.get().split())
    assert "normalised score (%) on 240 questions" in words
    assert "the mean of MMStar and StreetsQA, each over server_only's own score there" in words


@pytest.mark.slow
def test_each_benchmark_needs_its_questions(two: Analysis) -> None:
    """Too few pictures in one of several benchmarks make a run INVALID, and it is named."""
    (reason,) = reasons(two)
    assert "60 questions of MMStar on 15 pictures cannot certify a score of 0.92" in reason
