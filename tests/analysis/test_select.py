"""Selection at equal score: what is accepted, what is refused, and how often by mistake."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from harness.analysis.select import Equality, Scores, ladders_of, select
from harness.data.scoring import Metric, metric
from harness.errors import ResultsError
from harness.records import OutcomeRow, SampleRow, schema

STREETS = ["StreetsQA"]
EQUALITY = Equality(reference="all", target=1.0, margin=0.05, resamples=400)


def outcomes(correct: dict[tuple[str, str], np.ndarray], n_bytes: dict[tuple[str, str], int] | None = None) -> pa.Table:
    """Outcome rows of points that answered questions 0, 1, .. right or wrong."""
    tables = []
    for index, ((pipeline, point), right) in enumerate(correct.items()):
        samples = [f"q{i:05}" for i in range(len(right))]
        columns = {
            "run": "r", "unit": "u", "pipeline": pipeline, "point": point, "sample": samples,
            "payload_bytes": (n_bytes or {}).get((pipeline, point), 1000 * (index + 1)), "visual_tokens": 32,
            "prompt_tokens": 60, "answer_tokens": 1, "answer": "A", "truth": "B", "correct": right,
        }  # fmt: skip
        tables.append(pa.Table.from_pandas(pd.DataFrame(columns), schema=schema(OutcomeRow), preserve_index=False))
    return pa.concat_tables(tables)


def questions(table: pa.Table, **columns: list[str]) -> pa.Table:
    """A sample row for each question of outcome rows: of StreetsQA, alone in its group and in its picture."""
    samples = pc.unique(table["sample"]).to_pylist()
    facts = {
        "sample": samples, "benchmark": "StreetsQA", "id": samples, "picture": samples, "pictures": 1,
        "category": "all", "group": samples, "width_px": 64, "height_px": 48, "patches": 2, "file_bytes": 900,
        "text_bytes": 20,
    }  # fmt: skip
    return pa.Table.from_pandas(pd.DataFrame({**facts, **columns}), schema=schema(SampleRow), preserve_index=False)


def picked(table: pa.Table, equality: Equality | None = None, **columns: list[str]) -> pd.DataFrame:
    """The selection among outcome rows of StreetsQA's."""
    return select(Scores(table, questions(table, **columns), equality or EQUALITY, STREETS))


def row(table: pd.DataFrame, pipeline: str, point: str = "-") -> "pd.Series[float]":
    """The one row of a point."""
    return table[(table["pipeline"] == pipeline) & (table["point"] == point)].iloc[0]


def paired(n: int, p_reference: float, flips: dict[str, tuple[float, float]], rng: np.random.Generator) -> pa.Table:
    """A reference, and pipelines that lose and win the given shares of all questions against it."""
    reference = rng.random(n) < p_reference
    answers = {("all", "-"): reference}
    for pipeline, (p_lost, p_won) in flips.items():
        u = rng.random(n)
        answers[pipeline, "-"] = np.where(reference, u >= p_lost / p_reference, u < p_won / (1 - p_reference))
    return outcomes(answers)


@pytest.mark.slow
@given(right=st.lists(st.booleans(), min_size=2, max_size=60).filter(any), margin=st.floats(0.05, 0.5))
@settings(max_examples=15, deadline=None)
def test_identical_answers_qualify_together(right: list[bool], margin: float) -> None:
    """A scheme with the reference's answers qualifies at any number of bytes or at none; the fewest are selected."""
    same = np.array(right)
    table = outcomes({("all", "-"): same, ("x", "big"): same, ("x", "small"): same}, {("x", "small"): 10})
    found = picked(table, Equality(reference="all", target=1.0, margin=margin, resamples=100))
    assert row(found, "all")["admissible"], "the reference is at its own score"
    assert row(found, "x", "small")["admissible"] == row(found, "x", "big")["admissible"]
    assert row(found, "x", "small")["selected"] == row(found, "x", "small")["admissible"]
    assert not row(found, "x", "big")["selected"]
    assert found["reference"].tolist() == (found["pipeline"] == "all").tolist()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), a=st.floats(0, 0.3), b=st.floats(0, 0.3))
@settings(max_examples=25, deadline=None)
def test_a_wider_margin_accepts_more(seed: int, a: float, b: float) -> None:
    """A point admissible within a margin is admissible within a wider one, at no more bytes."""
    rng = np.random.default_rng(seed)
    shares = {("all", "-"): 0.8, **{("x", str(tenths)): tenths / 10 for tenths in range(5, 10)}}
    table = outcomes({key: rng.random(80) < share for key, share in shares.items()})
    narrow, wide = (
        picked(table, Equality(reference="all", target=0.95, margin=margin, resamples=200)) for margin in sorted((a, b))
    )
    assert (wide["admissible"] | ~narrow["admissible"]).all()
    if narrow[narrow["pipeline"] == "x"]["selected"].any():
        chosen = [t[(t["pipeline"] == "x") & t["selected"]]["payload_bytes"].item() for t in (narrow, wide)]
        assert chosen[1] <= chosen[0]


@pytest.mark.slow
def test_a_planted_deficit_is_refused() -> None:
    """A scheme ten points below its reference is not selected; its row stays, with its bound."""
    refused = 0
    for seed in range(60):
        found = picked(paired(400, 0.8, {"x": (0.12, 0.02)}, np.random.default_rng(seed)))
        refused += not found[found["pipeline"] == "x"]["selected"].any()
        assert row(found, "x")["p_value"] > 0.05
    assert refused == 60


@pytest.mark.slow
def test_it_errs_as_often_as_stated() -> None:
    """At the margin a point is admitted in 1 - confidence of all studies; at equality as often as theory says."""
    n, studies, p = 300, 200, 0.8
    # 0.04 lost of 0.8 is the margin of 0.05.
    flips = {"at margin": (0.06, 0.02), "equal": (0.03, 0.03)}
    admitted = dict.fromkeys(flips, 0)
    for seed in range(studies):
        found = picked(paired(n, p, flips, np.random.default_rng(seed)))
        for pipeline in flips:
            admitted[pipeline] += bool(row(found, pipeline)["admissible"])
    # Three standard errors of a binomial share of 200 about 0.05 end at 0.096.
    assert 0.01 <= admitted["at margin"] / studies <= 0.096
    standard_error = np.sqrt(0.06 / n) / p
    power = norm.cdf(EQUALITY.margin / standard_error - norm.ppf(EQUALITY.confidence))
    assert admitted["equal"] / studies == pytest.approx(power, abs=0.1)


def test_interval_is_the_binomial_one() -> None:
    """On independent questions the percentile interval is the normal one, p +- 1.96 sqrt(p (1 - p) / n)."""
    right = np.arange(1000) % 10 < 7
    found = row(picked(outcomes({("all", "-"): right})), "all")
    half = 100 * 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert found["score"] == pytest.approx(70)
    assert found["score_high"] - found["score_low"] == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("n", [6, 7, 12, 40])
def test_interval_of_few_questions_is_clopper_and_pearsons(n: int) -> None:
    """One question a picture, three of four of them right: to the rounding of the pictures' parts of the score."""
    right = np.arange(n) % 4 > 0
    found = row(picked(outcomes({("all", "-"): right})), "all")
    exact = binomtest(int(right.sum()), n).proportion_ci(0.95, method="exact")
    assert (found["score_low"], found["score_high"]) == pytest.approx((100 * exact.low, 100 * exact.high), rel=1e-6)


def test_interval_of_a_sum_over_subtasks_follows_their_sizes() -> None:
    """Of a sum of a subtask of 10 pictures and one of 190, half of the pairs right in each: its variance is both's."""
    names = [f"{'few' if i < 20 else 'many'}/{i // 2:03}" for i in range(400)]
    table = outcomes({("all", "-"): np.arange(400) // 2 % 2 == 0})
    samples = questions(
        table, benchmark=["GlimpseQA"] * 400, category=[name.partition("/")[0] for name in names], group=names,
        picture=names,
    )  # fmt: skip
    found = row(select(Scores(table, samples, EQUALITY, ["GlimpseQA"])), "all")
    assert (found["score"], found["score_max"]) == (200, 400)
    deviation = 200 * np.sqrt(0.25 / 10 + 0.25 / 190)
    assert found["score_high"] - found["score_low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_questions_about_one_picture_are_one_observation() -> None:
    """Four copies of each question in one picture leave the interval unchanged; counted as new ones they halve it."""
    rng = np.random.default_rng(1)
    right = rng.random(150) < 0.7
    once = row(picked(outcomes({("all", "-"): right})), "all")
    table = outcomes({("all", "-"): np.repeat(right, 4)})
    together = row(picked(table, picture=[f"picture {i // 4}" for i in range(600)]), "all")
    apart = row(picked(table), "all")
    width = {name: r["score_high"] - r["score_low"] for name, r in (("1", once), ("4", together), ("x", apart))}
    assert (together["questions"], together["clusters"]) == (600, 150)
    assert width["4"] == pytest.approx(width["1"], rel=0.15)
    assert width["x"] == pytest.approx(width["1"] / 2, rel=0.15)


def test_a_group_across_pictures_joins_them() -> None:
    """Questions that share a group are resampled together even when their pictures differ."""
    table = outcomes({("all", "-"): np.ones(6, bool)})
    found = picked(table, group=["a", "a", "b", "c", "c", "d"], picture=["p", "q", "q", "r", "r", "s"])
    assert row(found, "all")["clusters"] == 3


def test_reproducible_from_its_seed() -> None:
    """The same rows and seed give the same numbers, in whatever order the rows come; another seed does not."""
    table = paired(100, 0.8, {"x": (0.05, 0.05)}, np.random.default_rng(3))
    shuffled = table.take(np.random.default_rng(4).permutation(table.num_rows))
    pd.testing.assert_frame_equal(picked(table), picked(shuffled))
    one, other = (
        Scores(table, questions(table), dataclasses.replace(EQUALITY, seed=seed), STREETS).resampled(("x", "-"))
        for seed in (0, 1)
    )
    assert (one != other).any()


@pytest.mark.parametrize("benchmark", ["GlimpseQA", "MMBench_DEV_EN"])
def test_scores_are_the_benchmarks(benchmark: str) -> None:
    """A metric over groups is scored by its own rule, whole and resampled, in its own unit."""
    scoring: Metric = metric(benchmark)
    rng = np.random.default_rng(2)
    right = rng.random(200) < 0.8
    table = outcomes({("all", "-"): right, ("x", "-"): right})
    pairs = [f"g{i // 2:03}" for i in range(200)]
    asked = questions(table, benchmark=[benchmark] * 200, group=pairs)
    found = select(Scores(table, asked, EQUALITY, [benchmark]))
    expected = scoring.score(np.full(200, "all"), np.array(pairs), right)
    assert found["score"].tolist() == [expected, expected]
    assert (found["score_low"] < expected).all()
    assert (expected < found["score_high"]).all()
    assert found["clusters"].tolist() == [100, 100]
    assert (found["score_max"] >= found["score"]).all()


@pytest.mark.slow
def test_a_target_below_one_allows_a_lower_score() -> None:
    """A scheme at 0.92 of its reference reaches a target of 0.9 and not one of 1."""
    reference = np.arange(2000) % 10 < 8
    point = reference & (np.arange(2000) % 100 >= 8)
    table = outcomes({("all", "-"): reference, ("x", "-"): point})
    for target, reaches in ((0.9, True), (1.0, False)):
        found = picked(table, Equality(reference="all", target=target, margin=0.02, resamples=200))
        assert row(found, "x")["selected"] == reaches


def test_one_picture_certifies_nothing() -> None:
    """With a single cluster there is no interval, and nothing but the reference itself is admissible."""
    right = np.ones(4, bool)
    found = picked(outcomes({("all", "-"): right, ("x", "-"): right}), picture=["p"] * 4)
    assert found["score_low"].isna().all()
    assert found["admissible"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("target", "margin", "needed"), [(1.0, 0.05, 59), (1.0, 0.03, 99), (0.92, 0.04, 24), (0.1, 0.1, 1), (1.2, 0.05, 1)]
)
def test_questions_needed(target: float, margin: float, needed: int) -> None:
    """The rule of three: n with 0.95^n <= 0.05 is 59; what the target gives away counts with the margin."""
    equality = Equality(reference="all", target=target, margin=margin, resamples=100)
    assert equality.questions_needed() == needed
    if target - margin < 1 and needed > 1:
        same = np.ones(needed, bool)
        assert row(picked(outcomes({("all", "-"): same, ("x", "-"): same}), equality), "x")["admissible"]


def test_a_ladder_ends_where_a_point_is_not_certified() -> None:
    """A point below one that failed is not tested, however well it scores; each ladder has its part of the level."""
    reference = np.ones(300, bool)
    bad, good = np.arange(300) % 10 < 7, reference
    answers = {("all", "-"): reference, ("x", "big"): bad, ("x", "small"): good}
    sizes = {("x", "big"): 2000, ("x", "small"): 10}
    table = outcomes(answers, sizes)
    together = picked(table)
    assert np.isnan(row(together, "x", "small")["p_value"])
    assert not together[together["pipeline"] == "x"]["admissible"].any()
    apart = select(Scores(table, questions(table), EQUALITY, STREETS), {("x", "big"): 16, ("x", "small"): 32})
    assert row(apart, "x", "small")["selected"]


def test_ladders_differ_in_what_is_not_the_rate() -> None:
    """Points that differ only in quality, codec, weights or lambda are one ladder; what all share names no ladder."""
    points: dict[str, dict[str, dict[str, object]]] = {
        "tofc": {"a": {"codec": "x", "merge_to": 0.02}, "b": {"codec": "y", "merge_to": 0.02},
                 "c": {"codec": "x", "merge_to": 0.04}},
        "jpeg": {"q": {"quality": 5, "merge_to": 0.04}, "r": {"quality": 9, "merge_to": 0.04}},
        "all": {"-": {}},
    }  # fmt: skip
    assert ladders_of(points) == {
        ("tofc", "a"): "merge_to=0.02", ("tofc", "b"): "merge_to=0.02", ("tofc", "c"): "merge_to=0.04",
        ("jpeg", "q"): "", ("jpeg", "r"): "", ("all", "-"): "",
    }  # fmt: skip


def test_refuses_what_cannot_be_compared() -> None:
    """Other questions, no reference or several: each is reported in one sentence."""
    right = np.ones(10, bool)
    with pytest.raises(ResultsError, match=r"x at - and the reference all at - were not asked the same .*q00009"):
        picked(outcomes({("all", "-"): right, ("x", "-"): right[:9]}))
    with pytest.raises(ResultsError, match=r"'all' has 0 operating points .* of: x"):
        picked(outcomes({("x", "-"): right}))
    with pytest.raises(ResultsError, match="'all' has 2 operating points"):
        picked(outcomes({("all", "a"): right, ("all", "b"): right}))
    assert not picked(outcomes({("all", "-"): ~right, ("x", "-"): right}))["admissible"].any(), "no score is claimed"
    with pytest.raises(ResultsError, match="answered sample q00000 twice"):
        picked(pa.concat_tables([outcomes({("all", "-"): right})] * 2))
    table = outcomes({("all", "-"): right})
    with pytest.raises(ResultsError, match="sample q00004 was answered and is not among the 4 of the samples table"):
        Scores(table, questions(table).slice(0, 4), EQUALITY, STREETS)


TWO = ["StreetsQA", "GlimpseQA"]


def two(answers: dict[str, tuple[np.ndarray, np.ndarray]], bytes_of: dict[str, tuple[int, int]] | None = None) -> tuple:
    """Outcomes of pipelines in StreetsQA and, in pairs, in GlimpseQA, and all that a selection among them takes."""
    tables = []
    for pipeline, of_benchmark in answers.items():
        for letter, right, n_bytes in zip(
            "XY", of_benchmark, (bytes_of or {}).get(pipeline, (1000, 1000)), strict=True
        ):
            samples = [f"{letter}/{i:04}" for i in range(len(right))]
            columns = {
                "run": "r", "unit": "u", "pipeline": pipeline, "point": "-", "sample": samples,
                "payload_bytes": n_bytes, "visual_tokens": 32, "prompt_tokens": 60, "answer_tokens": 1, "answer": "A",
                "truth": "B", "correct": right,
            }  # fmt: skip
            tables.append(pa.Table.from_pandas(pd.DataFrame(columns), schema=schema(OutcomeRow), preserve_index=False))
    table = pa.concat_tables(tables)
    names = pc.unique(table["sample"]).to_pylist()
    # Groups belong to a benchmark: two benchmarks may use the same names.
    group = [f"g{int(name[2:]) // 2 if name[0] == 'Y' else int(name[2:])}" for name in names]
    asked = questions(table, benchmark=[TWO["XY".index(name[0])] for name in names], group=group)
    return table, asked, EQUALITY, TWO


def test_several_benchmarks_are_averaged_each_over_the_reference() -> None:
    """The score is 100 times the mean of the benchmarks' own ratios, whatever their sizes and units."""
    reference = (np.arange(100) < 80, np.arange(40) < 36)
    scheme = (np.arange(100) < 60, np.arange(40) < 36)
    found = select(Scores(*two({"all": reference, "x": scheme}, {"all": (9000, 1000), "x": (300, 100)})))
    assert set(found["metric"]) == {"normalised score (%)"}
    assert row(found, "all")["score"] == pytest.approx(100)
    assert row(found, "x")["score"] == pytest.approx(100 * (60 / 80 + 1) / 2)
    assert row(found, "x")["relative_score"] == pytest.approx(0.875)
    assert row(found, "x")["score_max"] == pytest.approx(100 * (100 / 80 + 200 / 180) / 2)
    assert row(found, "x")["payload_bytes"] == 200
    assert row(found, "all")["payload_bytes"] == 5000
    assert (row(found, "x")["questions"], row(found, "x")["clusters"]) == (140, 120)
    assert np.isnan(row(found, "all")["p_value"]), "the reference is at its own score without a test"
    assert row(found, "all")["selected"]
    assert not row(found, "x")["selected"]


def test_a_normalised_score_is_a_ratio() -> None:
    """The reference's own is exactly 100; the others' interval contains what the score test does not reject."""
    rng = np.random.default_rng(5)
    reference = (rng.random(300) < 0.7, rng.random(200) < 0.9)
    first, second = (np.where(rng.random(right.size) < 0.03, ~right, right) for right in reference)
    other = (rng.random(300) < 0.68, rng.random(200) < 0.88)
    found = select(Scores(*two({"all": reference, "x": (first, second), "y": other})))
    whole = row(found, "all")
    assert (whole["score_low"], whole["score_high"]) == (100, 100)
    for name in "xy":
        assert row(found, name)["score_low"] < row(found, name)["score"] < row(found, name)["score_high"]
    width = {name: row(found, name)["score_high"] - row(found, name)["score_low"] for name in "xy"}
    assert width["x"] < width["y"] / 2, "what the same pictures share is known more precisely"


def test_several_benchmarks_that_cannot_be_averaged() -> None:
    """A benchmark in which the reference scores nothing, or nothing was asked, or a sample of no benchmark."""
    table, asked, equality, names = two({"all": (np.ones(10, bool), np.zeros(4, bool))})
    nothing = Scores(table, asked, equality, names)
    assert not nothing.scored
    assert not select(nothing)[["admissible", "selected"]].any(axis=None)
    with pytest.raises(ResultsError, match="sample Y/0000 is of the benchmark 'GlimpseQA'; this run is of StreetsQA"):
        Scores(table, asked, equality, STREETS)
    with pytest.raises(ResultsError, match="no question of MMStar was answered"):
        Scores(table, asked, equality, [*names, "MMStar"])


def pairs(benchmark: str, sizes: dict[str, int], **right: np.ndarray) -> Scores:
    """Scores of points, the first of which is the reference, on two questions about each picture of some subtasks."""
    category = np.repeat(list(sizes), 2 * np.array(list(sizes.values()))).tolist()
    names = [f"{name}/{i // 2:03}" for i, name in enumerate(category)]
    table = outcomes({(name, "-"): answers for name, answers in right.items()})
    asked = questions(table, benchmark=[benchmark] * len(names), category=category, group=names, picture=names)
    return Scores(table, asked, EQUALITY, [benchmark])


def test_a_subtask_whose_few_pictures_agree_is_not_known_for_certain() -> None:
    """Half of the score rests on one picture, or on two that are right: the interval is as wide as of few pictures.

    Where all are right it ends at 0.025^(1 / n), 1 / n = (1 / n_1 + 1 / n_2) / 4.
    """
    for few in (1, 2):
        right = np.repeat(np.arange(few + 40) % 2 == 0, 2)
        right[: 2 * few] = True
        found = row(select(pairs("GlimpseQA", {"few": few, "many": 40}, all=right)), "all")
        assert (found["score"], found["score_max"]) == (300, 400)
        assert found["score_high"] - found["score_low"] > 0.4 * found["score_max"]
        every = row(select(pairs("GlimpseQA", {"few": few, "many": 40}, all=np.ones_like(right))), "all")
        assert every["score_low"] == pytest.approx(400 * 0.025 ** ((1 / few + 1 / 40) / 4), rel=1e-6)


def test_subtasks_that_do_not_count_certify_nothing() -> None:
    """Of MME only perception counts: pictures of cognition, right or wrong, change neither interval nor test."""
    perception = np.repeat([True] * 9 + [False], 2)
    found = []
    for cognition in (np.zeros(0, bool), np.ones(60, bool), np.zeros(60, bool)):
        right = np.concatenate([cognition, perception])
        sizes = {**({"code_reasoning": 30} if cognition.size else {}), "OCR": 10}
        found.append(select(pairs("MME", sizes, all=right, x=right)))
    columns = ["questions", "clusters", "score", "score_low", "score_high", "score_max", "p_value", "admissible"]
    for table in found[1:]:
        pd.testing.assert_frame_equal(table[columns], found[0][columns])
    assert found[0]["clusters"].tolist() == [10, 10]
