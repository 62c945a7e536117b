"""Profiles: what is drawn was measured together."""

import numpy as np
import pytest

from harness.errors import ResultsError
from harness.records import OutcomeRow, StageRow, to_table
from harness.replay import Profile


def _stage(sample: str, repeat: int, side: str, stage: str, seconds: float, pipeline: str = "a") -> StageRow:
    return StageRow(
        run="r",
        pipeline=pipeline,
        point="-",
        sample=sample,
        repeat=repeat,
        side=side,
        stage=stage,
        seconds=seconds,
        energy_j=None,
        machine="m",
        source="measured",
    )


def _outcome(sample: str, payload_bytes: int, pipeline: str = "a") -> OutcomeRow:
    return OutcomeRow(
        run="r",
        pipeline=pipeline,
        point="-",
        sample=sample,
        category="",
        group=sample,
        payload_bytes=payload_bytes,
        visual_tokens=1,
        answer="A",
        truth="A",
        correct=True,
    )


STAGES = to_table(
    StageRow,
    [
        _stage("y", 0, "server", "decode", 4.0),
        _stage("y", 0, "server", "prefill", 0.5),
        _stage("x", 1, "device", "encode", 2.0),
        _stage("x", 0, "device", "encode", 1.0),
        _stage("x", 0, "device", "merge", 0.25),
        _stage("x", 0, "server", "prefill", 3.0),
        _stage("x", 1, "server", "prefill", 3.5),
        _stage("x", 0, "device", "encode", 9.0, pipeline="b"),
    ],
)
OUTCOMES = to_table(
    OutcomeRow, [_outcome("x", 10), _outcome("y", 20), _outcome("untimed", 9999), _outcome("x", 7, "b")]
)


def test_stages_are_summed_by_side_for_each_repeat() -> None:
    """A row is one sample and repeat: its bytes, its device's sum, and each of its server stages."""
    profile = Profile.from_tables(STAGES, OUTCOMES, "a", "-")
    assert profile.samples == ("x", "x", "y")
    assert profile.payload_bytes.tolist() == [10, 10, 20]
    assert profile.device_s.tolist() == [1.25, 2.0, 0.0]
    assert profile.server_stages == ("decode", "prefill")
    assert profile.server_stage_s.tolist() == [[0, 3.0], [0, 3.5], [4.0, 0.5]]
    assert profile.server_s.tolist() == [3.0, 3.5, 4.5]


def test_a_scheme_without_a_side_has_zeros_there() -> None:
    """Server stages may be absent, as in device-only inference."""
    profile = Profile.from_tables(STAGES, OUTCOMES, "b", "-")
    assert profile.server_stage_s.shape == (1, 0)
    assert profile.server_s.tolist() == [0.0]


def test_what_was_not_measured_is_refused() -> None:
    """An unknown point, and a timed sample without an outcome, are errors and not zeros."""
    with pytest.raises(ResultsError, match="no stage rows"):
        Profile.from_tables(STAGES, OUTCOMES, "c", "-")
    with pytest.raises(ResultsError, match="'x' was timed but has no outcome"):
        Profile.from_tables(STAGES, OUTCOMES.slice(1, 2), "a", "-")


def test_samples_are_drawn_evenly_whatever_their_repeats() -> None:
    """A sample that was timed twice as often is not drawn more often; its repeats share its draws."""
    profile = Profile.from_tables(STAGES, OUTCOMES, "a", "-")
    share = np.bincount(profile.draw(40_000, np.random.default_rng(0))) / 40_000
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.01)
