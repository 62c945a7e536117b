"""Schemes against each other: who answers first, bytes and latency at equal score, scores at equal tokens."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness.analysis import Analysis, comparison
from harness.analysis.setting import Population, system_of
from tests.made_up_run import RATES_BPS, REPLAY, make

UPLINK = REPLAY["uplinks"][0]


@pytest.fixture
def points() -> pd.DataFrame:
    """A reference that sends a file, TOFC and two ablations, one of which does not reach the target."""
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


def test_scores_are_the_best_at_as_many_tokens(points: pd.DataFrame) -> None:
    """Whatever the payload; a pipeline without such a point has none."""
    scores = comparison.scores_at_tokens(points)
    assert list(scores.columns) == [700.0, 36.0, 18.0]
    assert list(scores.index) == ["server_only", "tofc", "single", "qformer"]
    assert scores[18.0]["tofc"] == 0.95
    assert scores[36.0]["single"] == 0.93
    assert scores.T["qformer"].isna().tolist() == [True, True, False]


@pytest.mark.slow
def test_the_first_to_answer_is_named_with_its_interval(made_up: Analysis) -> None:
    """At each uplink the smallest mean leads; every other scheme has a ratio of means, inside its interval."""
    first = made_up.first
    assert first["channel"].drop_duplicates().tolist() == list(RATES_BPS)
    for _, rows in first.groupby("channel"):
        assert rows["total_mean_s"].is_monotonic_increasing
        assert rows["ratio"].iloc[0] == 1
        plain = rows["total_mean_s"] / rows["total_mean_s"].iloc[0]
        np.testing.assert_allclose(rows["ratio"], plain, rtol=0.02)
        assert (rows["ratio_low"] <= rows["ratio"]).all()
        assert (rows["ratio"] <= rows["ratio_high"]).all()
    sentences = comparison.first_sentences(first)
    assert sentences[0].startswith(f"25 KB/s: {first['pipeline'].iloc[0]} answers first, ")
    assert len(sentences) == 3


def _over(run: Analysis, propagation_s: dict[float, float]) -> Analysis:
    """The run over uplinks of these rates, in bit/s, and propagation."""
    uplinks = [
        {"kind": "constant", "rate_bps": rate_bps, "name": f"{rate_bps:g}", "wire": {"propagation_s": seconds}}
        for rate_bps, seconds in propagation_s.items()
    ]
    scenario = {**run.manifest.scenario, "replay": {**REPLAY, "uplinks": uplinks}}
    manifest = run.manifest.model_copy(update={"scenario": scenario})
    return Analysis(dataclasses.replace(run.record, manifest=manifest))


@pytest.mark.slow
def test_crossings_are_looked_for_on_links_that_differ_in_their_rate_alone(made_up: Analysis) -> None:
    """A fast link that is far away tells nothing of where two schemes change places on near ones."""
    near = _over(made_up, {8e3: 0.0, 8e7: 0.0}).crossovers
    assert len(near)
    pd.testing.assert_frame_equal(_over(made_up, {8e3: 0.0, 8e7: 0.0, 8e9: 60.0}).crossovers, near)


@pytest.mark.slow
def test_a_crossing_leads_where_no_other_scheme_is_faster(made_up: Analysis) -> None:
    """By the closed form of a link with propagation, T = stages + p + 8 bytes / rate, at each crossing."""
    run = _over(made_up, dict.fromkeys((8e3, 8e5, 8e7), 0.3))
    found = run.crossovers
    assert set(found["leads"]) == {False, True}
    for row in found.to_dict("records"):
        totals_s = {
            key[0]: run.timed_mean(*key).value
            + (0.3 + 8 * np.mean(np.asarray(run.population.payload_bytes[key], float)) / row["rate_bps"])
            for key in run.selected_keys
        }
        both = [totals_s.pop(row[name]) for name in ("below", "above")]
        assert both == pytest.approx([row["mean_s"]] * 2, rel=1e-3)
        assert row["leads"] == (min(totals_s.values()) >= min(both))


@pytest.mark.slow
def test_a_scheme_that_sends_nothing_is_compared(tmp_path: Path) -> None:
    """If device_only reaches the target, the sentence includes it, whichever scheme sends the fewest bytes."""
    selection = {"reference": "server_only", "target": 0.6, "margin": 0.2, "confidence": 0.95, "resamples": 200}
    run = Analysis(make(tmp_path / "run", selection=selection))
    sentence = comparison.first_sentences(run.first)[0]
    assert sentence.startswith("25 KB/s: tofc answers first")
    assert ", device_only 1." in sentence or "long: device_only 1." in sentence


def test_an_open_lead_is_not_claimed() -> None:
    """A scheme whose ratio's interval contains 1 is named beside the leader."""
    rows = [
        ("r", "w", 1.0, "a", "-", 0.10, "a", 1.0, 1.0, 1.0, ""),
        ("r", "w", 1.0, "b", "-", 0.11, "a", 1.1, 0.9, 1.3, ""),
    ]
    columns = ["replay", "channel", "users", "pipeline", "point", "total_mean_s", "first"]
    first = pd.DataFrame(rows, columns=[*columns, "ratio", "ratio_low", "ratio_high", "reason"])
    (sentence,) = comparison.first_sentences(first)
    assert sentence.startswith("w: a or b answers first, the interval leaves open which")


@pytest.mark.slow
def test_each_two_ladders_are_compared_at_equal_score(made_up: Analysis) -> None:
    """A pair for every two ladders of different schemes; ratios and their range agree with the curves' bytes."""
    found = made_up.equal_scores
    assert list(made_up.ladders) == [("tofc", "n_c=4.0"), ("jpeg", ""), ("webp", "")]
    assert list(zip(found["test"], found["anchor"], strict=True)) == [
        ("tofc (n_c=4.0)", "jpeg"), ("tofc (n_c=4.0)", "webp"), ("jpeg", "webp")
    ]  # fmt: skip
    pair = found.iloc[2]
    assert pair["reason"] == ""
    assert pair["ratio"] == pytest.approx(pair["test_bytes"] / pair["anchor_bytes"])
    assert pair["ratio_low"] < pair["ratio"] < pair["ratio_high"]
    assert pair["least"] <= pair["most"]
    assert found.iloc[0]["reason"].startswith("tofc (n_c=4.0): its points score")
    latencies = made_up.latencies_at_equal_score
    assert len(latencies) == 3 * len(found)
    at = latencies[(latencies["test"] == "jpeg") & (latencies["channel"] == "25 KB/s")].iloc[0]
    link_s = 8 * pair["test_bytes"] / RATES_BPS["25 KB/s"]
    assert at["test_s"] == pytest.approx(link_s + 0.043, rel=0.1)
    assert at["ratio"] == pytest.approx(at["test_s"] / at["anchor_s"])


def test_ladders_of_an_equal_score_are_compared_in_bytes() -> None:
    """The sentence has the first scheme's bytes and its share of each other's, and names what was refused."""
    ends = {
        f"{n}{e}": v for n, v in (("test_bytes", 900.0), ("anchor_bytes", 3000.0), ("ratio", 0.3)) for e in ("", "_low")
    }
    row = {**ends, "test_bytes_high": float("inf"), "ratio_high": 0.5, "anchor_bytes_high": 4e3, "reason": ""}
    pairs = pd.DataFrame([
        {"test": "tofc", "anchor": "jpeg", "test_pipeline": "tofc", "anchor_pipeline": "jpeg", **row},
        {"test": "tofc", "anchor": "elic", "test_pipeline": "tofc", "anchor_pipeline": "elic", **row, "reason": "flat"},
    ])  # fmt: skip
    assert comparison.bytes_sentence(pairs, 0.92, "server_only") == (
        "bytes at 92% of server_only's score, by curves: tofc sends 900 B [900 B, unbounded], 0.30 [0.30, 0.50] of "
        "jpeg's; none for elic (see comparison.md)"
    )
    assert comparison.bytes_sentence(pairs, 0.925, "server_only").startswith("bytes at 92.5% of server_only's")
    assert comparison.bytes_sentence(pairs.iloc[:0], 0.92, "server_only") == ""


@pytest.mark.slow
def test_questions_on_one_picture_compare_no_bytes(made_up: Analysis) -> None:
    """Every pair at equal score is refused for its one cluster, BD-score has no interval, the classic values remain."""
    samples = made_up.record.samples
    on_one = samples.set_column(samples.column_names.index("picture"), "picture", pa.repeat("street", len(samples)))
    run = Analysis(dataclasses.replace(made_up.record, samples=on_one))
    found = run.equal_scores
    assert found["reason"].str.startswith("1 picture gives no interval").all()
    assert found[["ratio", "bd_rate", "bd_score_low", "least", "most"]].isna().all(axis=None)
    assert found["bd_score"].notna().tolist() == made_up.equal_scores["bd_score"].notna().tolist()
    same = [name for name in found.columns if str(name).endswith(("_pchip", "_akima"))]
    pd.testing.assert_frame_equal(found[same], made_up.equal_scores[same])
    assert "refused; 1 picture" in comparison.bytes_sentence(found, 0.92, "server_only")


def test_sentences_name_schemes_without_a_time_in_the_order_of_the_uplinks(made_up: Analysis) -> None:
    """In the order of the users: a lead without an interval is by the means only, and unstable schemes are named.

    So are those that left requests unanswered.
    """
    named = ["replay", "channel", "users", "pipeline", "point", "total_mean_s", "total_reason"]
    columns = [*named, "requests", "total_done", "total_source"]
    times = {"a": (0.2, 0.3, None, None), "b": (0.4, 0.5, 0.6, None), "c": (0.3, 0.9, None, None)}
    why = "unstable: utilisation 2 of the servers"
    rows = [
        (
            "r",
            "25 KB/s",
            float(users),
            pipeline,
            "-",
            mean_s,
            "" if mean_s else why,
            10.0,
            9.0 if (pipeline, users) == ("a", 4) else 10.0,
            "measured" if mean_s else None,
        )
        for pipeline, means_s in times.items()
        for users, mean_s in zip((1, 4, 16, 64), means_s, strict=True)
    ]
    numbers = pd.DataFrame([*rows, ("r", None, None, "d", "-", *[None] * 5)], columns=columns)
    spec = made_up.setting.system.model_copy(update={"timeout_s": 60.0})
    first = comparison.first_answers(numbers, dataclasses.replace(made_up.setting, system=spec))
    assert comparison.first_sentences(first, numbers) == [
        "25 KB/s, 1 user: a answers first by the means only, 200 ms; "
        "times as long: c 1.50 (no interval), b 2.00 (no interval)",
        "25 KB/s, 4 users: a answers first by the means only, 300 ms; "
        "times as long: b 1.67 (no interval), c 3.00 (no interval); means of the answered requests only: a 90 %",
        "25 KB/s, 16 users: only b has a time there, 600 ms; without a time: a, c (unstable)",
        "25 KB/s, 64 users: no scheme has a time: a, b, c (unstable)",
    ]


@pytest.mark.slow
def test_latency_at_equal_score_has_all_that_a_link_takes(made_up: Analysis) -> None:
    """An answer's way back adds itself, headers their share of the bits, the question's text its own bits."""

    def at(**more: Any) -> pd.DataFrame:
        texts = made_up.record.samples if more.get("question_text") else None
        setting = dataclasses.replace(
            made_up.setting,
            system=system_of({**REPLAY, "uplinks": [UPLINK], **more}),
            population=Population.of(made_up.record.outcomes, made_up.record.samples, texts),
        )
        target = np.full(500, 70.0)
        found = comparison.latencies_at_equal_score(made_up.ladders, made_up.points, setting, 70.0, target)
        assert len(found) == 3
        return found[found["reason"] == ""]

    bare, ends = at(), ["test_s", "anchor_s"]
    assert len(bare)
    back = at(answer={"size_bytes": 0, "rate_bps": None, "propagation_s": 0.03})
    np.testing.assert_allclose(back[ends], bare[ends] + 0.03)
    rate_bps, text_bytes = RATES_BPS["25 KB/s"], made_up.record.samples["text_bytes"].to_numpy().mean()
    np.testing.assert_allclose(at(question_text=True)[ends], bare[ends] + 8 * text_bytes / rate_bps)
    headed = at(uplinks=[{**UPLINK, "wire": {"header_bytes": 100, "segment_bytes": 1, "propagation_s": 0.02}}])
    of_bits = bare["test_s"] - at(uplinks=[{**UPLINK, "rate_bps": 1e12}])["test_s"]
    np.testing.assert_allclose(headed["test_s"], bare["test_s"] + 100 * of_bits + 0.02, rtol=1e-6)
