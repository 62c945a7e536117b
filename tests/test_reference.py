"""The program computes what it computed before its halves were separated, under a written mapping.

``reference/smoke.json`` was made by commit 590d1f5 from ``scenarios/smoke.yaml``: every scheme's payload, answers and
visual tokens on 16 questions, and for three schemes the stage times and the replayed instants. The mapping: a label
leaves out parameters at their defaults (``was`` is the earlier one); a payload is its body and an envelope, of 8 bytes
where the body has a checksum and 12 elsewhere; T_link has grown by the envelope alone. tofc's payloads and answers are
those of the codec that is bundled now; its replays keep the earlier codec's bytes, ``replayed_bytes``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.records import OutcomeRow, StageRow, to_table
from harness.replay import Profile, sweep
from harness.runs.store import Record
from harness.scenario.load import load

ROOT = Path(__file__).parents[1]
REFERENCE = json.loads((Path(__file__).parent / "reference" / "smoke.json").read_text(encoding="utf-8"))
ENVELOPE = {"tofc": 8}
OTHER_ENVELOPE = 12


@pytest.mark.slow
@pytest.mark.parametrize("of_point", REFERENCE["answers"], ids=lambda p: f"{p['pipeline']} {p['point']}")
def test_payloads_and_answers_are_those_of_the_reference(smoke: Record, of_point: dict[str, Any]) -> None:
    """Body for body, word for word."""
    rows = smoke.outcomes.to_pandas()
    rows = rows[(rows["pipeline"] == of_point["pipeline"]) & (rows["point"] == of_point["point"])]
    rows = rows.set_index("sample").loc[of_point["samples"]]
    envelope = ENVELOPE.get(of_point["pipeline"], OTHER_ENVELOPE)
    assert (rows["payload_bytes"] - envelope).tolist() == of_point["body_bytes"]
    assert rows["answer"].tolist() == of_point["answers"]
    assert rows["visual_tokens"].tolist() == of_point["visual_tokens"]
    assert rows["correct"].tolist() == of_point["correct"]


@pytest.mark.parametrize("replayed", REFERENCE["replayed"], ids=lambda r: f"{r['pipeline']} {r['channel']}")
def test_the_same_times_replay_to_the_same_instants(replayed: dict[str, Any]) -> None:
    """From the reference's stage times and bodies come the reference's instants, to a nanosecond."""
    pipeline, point = replayed["pipeline"], replayed["point"]
    stages = to_table(
        StageRow,
        [
            StageRow(
                run="r", unit="u", pipeline=p, point=at, sample=sample, repeat=repeat, round=repeat, start=0,
                side=side, stage=stage, seconds=seconds, cpu_s=None, machine="m", source="recorded",
            )
            for p, at, sample, repeat, side, stage, seconds in REFERENCE["timed"]
        ],
    )  # fmt: skip
    (answers,) = (a for a in REFERENCE["answers"] if (a["pipeline"], a["point"]) == (pipeline, point))
    replayed_bytes = answers.get("replayed_bytes", answers["body_bytes"])
    outcomes = to_table(
        OutcomeRow,
        [
            OutcomeRow(
                run="r", unit="u", pipeline=pipeline, point=point, sample=sample, payload_bytes=n_bytes,
                visual_tokens=1, prompt_tokens=1, answer_tokens=1, answer="", truth="", correct=True,
            )
            for sample, n_bytes in zip(answers["samples"], replayed_bytes, strict=True)
        ],
    )  # fmt: skip
    profile = Profile.from_tables(stages, outcomes, pipeline, point)
    requests = sweep([profile], load(ROOT / "scenarios" / "smoke.yaml").replay).to_pandas()
    found = requests[requests["channel"] == replayed["channel"]]
    assert found["sample"].tolist() == replayed["sample"]
    for instant in ("submitted_s", "device_done_s", "sent_s", "delivered_s", "answered_s"):
        np.testing.assert_allclose(found[instant], replayed[instant], rtol=0, atol=1e-9, err_msg=instant)
    assert (found["device_begun_s"] == found["submitted_s"]).all()
    assert (found["server_done_s"] == found["answered_s"]).all()
