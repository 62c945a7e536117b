"""Schemes against each other: ratios of bytes at equal score, and scores at equal tokens."""

import pandas as pd
import pytest

from harness.analysis import comparison


@pytest.fixture
def points() -> pd.DataFrame:
    """A reference that sends a file, TOFC and two ablations; one of these reaches nothing."""
    columns = ["pipeline", "visual_tokens", "payload_bytes", "relative_score", "selected", "reference"]
    rows = [
        ("server_only", 700.0, 50_000.0, 1.0, True, True),
        ("tofc", 18.0, 300.0, 0.8, False, False),
        ("tofc", 18.0, 500.0, 0.95, True, False),
        ("tofc", 36.0, 900.0, 0.97, False, False),
        ("single", 18.0, 600.0, 0.94, True, False),
        ("single", 36.0, 1000.0, 0.93, False, False),
        ("qformer", 18.0, 400.0, 0.5, False, False),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_ratios_are_of_selected_points(points: pd.DataFrame) -> None:
    """One on the diagonal, inverse across it; what does not reach the target is not there."""
    ratios = comparison.byte_ratios(points)
    assert list(ratios.index) == list(ratios.columns) == ["server_only", "tofc", "single"]
    assert ratios.loc["single", "tofc"] == pytest.approx(1.2)
    assert ratios.loc["server_only", "single"] == pytest.approx(50_000 / 600)
    assert ((ratios * ratios.T - 1).abs() < 1e-12).all(axis=None)


def test_scores_are_the_best_at_as_many_tokens(points: pd.DataFrame) -> None:
    """Whatever the payload; a pipeline without such a point has none."""
    scores = comparison.scores_at_tokens(points)
    assert list(scores.columns) == [700.0, 36.0, 18.0]
    assert list(scores.index) == ["server_only", "tofc", "single", "qformer"]
    assert scores.loc["tofc", 18.0] == 0.95
    assert scores.loc["single", 36.0] == 0.93
    assert scores.loc["qformer"].isna().tolist() == [True, True, False]


def test_the_sentence_names_the_leanest_first(points: pd.DataFrame) -> None:
    """And says nothing where there is nothing to compare."""
    assert comparison.leanest(comparison.byte_ratios(points)) == (
        "bytes at equal score: tofc has the fewest; single 1.20 times as many, server_only 100.00 times as many"
    )
    assert comparison.leanest(comparison.byte_ratios(points[points["pipeline"] == "tofc"])) == ""
    assert comparison.leanest(comparison.byte_ratios(points.assign(selected=False))) == ""
