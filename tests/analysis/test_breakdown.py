"""A score taken apart by benchmark and by category, and put together again."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from harness.analysis.breakdown import by_benchmark, by_category
from harness.analysis.select import select_run
from harness.analysis.validity import reasons
from harness.report import summary
from harness.runs.store import Record


@pytest.fixture(scope="module")
def two(made_up: Record) -> Record:
    """The made-up run with its first sixty questions on record as those of another benchmark."""
    samples = sorted(made_up.images)
    benchmarks = {sample: "MMStar" if i < 60 else "StreetsQA" for i, sample in enumerate(samples)}
    manifest = made_up.manifest.model_copy(
        update={"resolved": {**made_up.manifest.resolved, "benchmark": "MMStar, StreetsQA"}}
    )
    return dataclasses.replace(made_up, manifest=manifest, benchmarks=benchmarks)


def test_one_benchmark_is_the_whole(made_up: Record) -> None:
    """A run of one benchmark has one part, which is its selection."""
    apart = by_benchmark(made_up)
    assert set(apart.pop("benchmark")) == {"StreetsQA"}
    assert apart.equals(select_run(made_up))


def test_the_average_is_the_mean_of_its_parts(two: Record) -> None:
    """Score and bytes of every point are the means of those in each benchmark by itself."""
    whole = select_run(two).set_index(["pipeline", "point"])
    apart = by_benchmark(two)
    assert apart.groupby("benchmark")["questions"].unique().map(list).to_dict() == {"MMStar": [60], "StreetsQA": [180]}
    means = apart.groupby(["pipeline", "point"])[["relative_score", "payload_bytes"]].mean().loc[whole.index]
    np.testing.assert_allclose(whole["score"], 100 * means["relative_score"])
    np.testing.assert_allclose(whole["payload_bytes"], means["payload_bytes"])
    assert (whole["metric"] == "normalised score (%)").all()
    assert whole["selected"].sum() >= 2


def test_categories_are_scored_by_themselves(two: Record) -> None:
    """A category's score is that of its questions; here each benchmark has one, so it is the benchmark's."""
    categories = by_category(two)
    key = ["benchmark", "pipeline", "point"]
    assert set(categories["category"]) == {"street"}
    scores = by_benchmark(two).set_index(key)["score"]
    np.testing.assert_allclose(categories.set_index(key)["score"].loc[scores.index], scores)


def test_the_closing_table_says_what_was_averaged(two: Record) -> None:
    """A reader is told which benchmarks, and over what."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(summary.table(two))
    words = " ".join(capture.get().split())
    assert "normalised score (%) on 240 questions" in words
    assert "the mean of MMStar and StreetsQA, each over server_only's own score there" in words


def test_each_benchmark_needs_its_questions(two: Record) -> None:
    """Too few pictures in one of several benchmarks make a run INVALID, and it is named."""
    (reason,) = reasons(two)
    assert "60 questions of MMStar on 15 pictures cannot certify a score of 0.92" in reason
