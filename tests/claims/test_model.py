"""A file of claims: the paper's is complete, and a mistake in your own is one sentence before anything is computed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.claims import model
from harness.errors import ScenarioError

Run = Callable[..., tuple[int, str, str]]

MINE = """title: Ours
studies:
  street: { benchmarks: RealWorldQA, backbone: llava-onevision-7b }
claims:
  - id: 1
    where: Table 2
    says: fewer bytes than WebP
    study: street
    tests: [{ metric: bytes_ratio, of: tofc, over: webp, below: 1 }]
"""


def test_the_papers_claims_are_all_there() -> None:
    """54, by number; a contradiction is two claims; a range is a range; bundled scenarios are named as they are."""
    claims = model.load()
    by_id = {claim.id: claim for claim in claims.claims}
    assert list(by_id) == [str(number) for number in range(1, 55)]
    assert [by_id[name].tests[0].value for name in ("2", "3")] == [-0.63, -0.61]
    assert by_id["28"].tests[0].between == (-0.63, -0.43)
    scenarios = Path(__file__).parents[2] / "scenarios"
    for study in claims.studies.values():
        assert study.scenario is None or (scenarios / f"{study.scenario}.yaml").is_file()
    assert {test.metric for claim in claims.claims for test in claim.tests} == set(model.METRICS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("below: 1", "bellow: 1", ("claims.0.tests.0.bellow", "unknown key", "did you mean 'below'", "(claim 1)")),
        ("bytes_ratio", "byte_ratio", ("unknown metric 'byte_ratio'", "did you mean 'bytes_ratio'", "(claim 1)")),
        ("over: webp", "over: webpp", ("unknown scheme 'webpp'", "did you mean 'webp'", "(claim 1)")),
        ("below: 1", "below: 1, above: 2", ("gives below and above", "one of value, between", "(claim 1)")),
        ("below: 1", "between: [2, 1]", ("[2.0, 1.0] is not a range", "(claim 1)")),
        ("below: 1", "below: '1'", ("claims.0.tests.0.below", "'1' is not right", "valid number", "(claim 1)")),
        ("below: 1", "below: .nan", ("claims.0.tests.0.below", "finite", "(claim 1)")),
        (", over: webp", "", ("over: is missing", "(claim 1)")),
        ("metric: bytes_ratio", "metric: latency_s", ("of only one scheme", "(claim 1)")),
        ("below: 1", "below: 1, at: { n_c: 8 }", ("at: leave it out", "bytes_ratio is not of a single", "(claim 1)")),
        ("below: 1", "below: 1, over_at: { quality: 5 }", ("over_at: leave it out", "bytes_ratio", "(claim 1)")),
        ("bytes_ratio, of: tofc, over: webp", "latency_s, of: tofc, over_at: { quality: 5 }", ("no 'over:'",)),
        ("bytes_ratio", "latency_ratio, stages: [prefill]", ("stages: leave them out; latency_ratio", "(claim 1)")),
        ("study: street", "study: stret", ("claim 1", "unknown study 'stret'", "did you mean 'street'")),
        ("below: 1", "below: 1, give: 2", ("give: can be used only with a value", "(claim 1)")),
        ("RealWorldQA", "RealWorld", ("studies.street.benchmarks", "unknown benchmark")),
        ("    tests:", "    missing: a run\n    tests:", ("either 'tests:' or 'missing:'", "(claim 1)")),
    ],
)
def test_a_mistake_is_named_with_its_line_its_claim_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    """File, line, claim, key and value; the file as it was is read."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    assert model.load(path).claims[0].tests[0].below == 1
    path.write_text(MINE.replace(old, new, 1))
    with pytest.raises(ScenarioError) as caught:
        model.load(path)
    assert str(caught.value).startswith(f"{path}:")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_id_names_one_claim(tmp_path: Path) -> None:
    """Two claims with one id are refused."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE + MINE.split("claims:\n")[1])
    with pytest.raises(ScenarioError, match="two have the id '1'"):
        model.load(path)


def test_a_wrong_file_is_found_before_a_run_is_read(harness: Run, tmp_path: Path) -> None:
    """Status 2 and one sentence about the claims, though the run does not exist either."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE.replace("below: 1", "below: one"))
    status, out, err = harness("claims", tmp_path / "absent", "--claims", path)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert f"{path}:9:" in err
    status, _, err = harness("claims", tmp_path / "absent")
    assert status == 2
    assert str(tmp_path / "absent") in err
