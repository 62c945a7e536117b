"""Profiles: rows that are drawn were measured together."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.errors import ResultsError
from harness.records import OutcomeRow, SampleRow, StageRow, to_table
from harness.replay import Profile
from harness.replay.profile import sent_bytes


def _stage(sample: str, repeat: int, side: str, stage: str, seconds: float, pipeline: str = "a") -> StageRow:
    return StageRow(
        run="r",
        unit="u",
        pipeline=pipeline,
        point="-",
        sample=sample,
        repeat=repeat,
        round=repeat,
        start=0,
        side=side,
        stage=stage,
        seconds=seconds,
        cpu_s=None,
        machine="m",
        source="measured",
    )


def _outcome(sample: str, payload_bytes: int, pipeline: str = "a") -> OutcomeRow:
    return OutcomeRow(
        run="r",
        unit="u",
        pipeline=pipeline,
        point="-",
        sample=sample,
        payload_bytes=payload_bytes,
        visual_tokens=1,
        prompt_tokens=1,
        answer_tokens=1,
        answer="A",
        truth="A",
        correct=True,
    )


STAGES = to_table(
    StageRow,
    [
        _stage("y", 0, "server", "decode", 4.0),
        _stage("y", 0, "device", "upscale", 0.125),
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
    OutcomeRow, [_outcome("x", 10), _outcome("y", 20), _outcome("untimed", 9999), _outcome("x", 0, "b")]
)


def test_stages_are_summed_by_side_for_each_repeat() -> None:
    """A row is one sample and repeat: its bytes, its device's sum, and each of its server stages."""
    profile = Profile.from_tables(STAGES, OUTCOMES, "a", "-")
    assert profile.samples == ("x", "x", "y")
    assert profile.payload_bytes.tolist() == [10, 10, 20]
    assert profile.device_s.tolist() == [1.25, 2.0, 0.125]
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


def _without(side: str, sample: str, repeat: int, stages: pa.Table = STAGES) -> pa.Table:
    theirs = zip(*(stages[name].to_pylist() for name in ("side", "sample", "repeat")), strict=True)
    return stages.filter(pa.array([row != (side, sample, repeat) for row in theirs]))


@pytest.mark.parametrize("sample", ["x", "y"])
@pytest.mark.parametrize("side", ["device", "server"])
def test_a_request_timed_on_one_side_only_is_refused(side: str, sample: str) -> None:
    """The side that is missing is named, with the request, and it is not replayed as 0 s."""
    with pytest.raises(ResultsError, match=f"sample '{sample}', repeat 0, has no {side} stage.*the {side} side"):
        Profile.from_tables(_without(side, sample, 0), OUTCOMES, "a", "-")


def test_a_scheme_that_sends_and_is_never_served_is_refused() -> None:
    """A run of the device half alone, with payloads, is no run of a scheme that the device answers."""
    stages = STAGES.filter(pc.equal(STAGES["side"], "device"))
    with pytest.raises(ResultsError, match="it sent 10 bytes: the server side of that request is missing"):
        Profile.from_tables(stages, OUTCOMES, "a", "-")


def test_a_side_that_a_scheme_does_not_have_is_not_missing() -> None:
    """A scheme may have no device stage at all, and may answer some of its requests on the device."""
    served = STAGES.filter(pc.equal(STAGES["side"], "server"))
    assert Profile.from_tables(served, OUTCOMES, "a", "-").device_s.tolist() == [0.0, 0.0, 0.0]
    silent = to_table(OutcomeRow, [_outcome("x", 10), _outcome("y", 0)])
    some = Profile.from_tables(_without("server", "y", 0), silent, "a", "-")
    assert some.stays.tolist() == [False, False, True]


def test_a_repeat_without_the_side_that_others_have_is_refused() -> None:
    """Even if nothing was sent: all repeats of a question are answered on the same side."""
    stages = to_table(
        StageRow,
        [
            _stage("x", r, side, "prefill", 1.0)
            for r in range(2)
            for side in ("device", "server")
            if r or side != "server"
        ],
    )
    with pytest.raises(ResultsError, match="repeat 0, has no server stage, though its other repeats have some"):
        Profile.from_tables(stages, to_table(OutcomeRow, [_outcome("x", 0)]), "a", "-")


def test_samples_are_drawn_evenly_whatever_their_repeats() -> None:
    """A sample that was timed twice as often is not drawn more often; its repeats share its draws."""
    profile = Profile.from_tables(STAGES, OUTCOMES, "a", "-")
    share = np.bincount(profile.draw(40_000, np.random.default_rng(0))) / 40_000
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.01)


def test_the_questions_text_is_sent_with_any_payload() -> None:
    """Its bytes are added to each request's payload; a device that answers alone sends nothing, whatever was asked."""
    rows = [
        SampleRow(
            sample=sample, benchmark="b", id=sample, picture=sample, pictures=1, category="", group=sample, width_px=8,
            height_px=8, patches=1, file_bytes=9, text_bytes=text_bytes,
        )
        for sample, text_bytes in (("x", 100), ("y", 3000), ("z", 7), ("never asked", 1))
    ]  # fmt: skip
    texts = to_table(SampleRow, rows)
    plain = Profile.from_tables(STAGES, OUTCOMES, "a", "-")
    counted = Profile.from_tables(STAGES, OUTCOMES, "a", "-", samples=texts)
    added = {row.sample: row.text_bytes for row in rows}
    wanted = [n + added[sample] if n else 0 for sample, n in zip(plain.samples, plain.payload_bytes, strict=True)]
    assert counted.payload_bytes.tolist() == wanted
    assert counted.stays.tolist() == plain.stays.tolist()
    assert sent_bytes(["x", "y"], np.array([0, 5]), texts).tolist() == [0, 3005]
    with pytest.raises(ResultsError, match="sample 'w' was asked and is not among the samples"):
        sent_bytes(["w"], np.array([5]), texts)
