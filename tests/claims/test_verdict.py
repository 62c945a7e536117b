"""A verdict follows from a claim's numbers and their joint intervals, and from nothing else."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.means import Estimate
from harness.claims.model import Criterion, direction
from harness.claims.verdict import Item, judge

A_NUMBER = st.floats(0.05, 5)


def _item(low: float, high: float, value: float | None = None, **how: float) -> Item:
    return Item(label="a", estimate=Estimate((low + high) / 2 if value is None else value, low, high), **how)


def _test(metric: str = "bytes_ratio", **what: object) -> Criterion:
    return Criterion.model_validate({"metric": metric, "of": "tofc", "over": ["elic"], **what})


@given(A_NUMBER, A_NUMBER, A_NUMBER)
def test_a_limit_is_met_missed_or_open(x: float, a: float, b: float) -> None:
    """*yes* and *no* are given only where the whole interval is on one side."""
    low, high = sorted((a, b))
    below, _ = judge(_test(below=x), [_item(low, high)])
    above, _ = judge(_test(above=x), [_item(low, high)])
    assert (below == "yes") == (high < x)
    assert (below == "no") == (low >= x)
    assert {"yes": "no", "no": "yes"}.get(below, "open") == above or x in (low, high)


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (0.60, 0.70, "yes"), (0.645, 0.70, "yes"), (0.66, 0.70, "no"), (0.50, 0.60, "no"),
        (0.40, 0.99, "open"), (0.0, math.inf, "open"),
    ],
)  # fmt: skip
def test_a_value_is_shown_by_an_interval_that_holds_it_and_is_narrower_than_the_effect(
    low: float, high: float, answer: str
) -> None:
    """36 % less, to the per cent: an interval off the rounded value is *no*, one that is too wide is open."""
    ratio = judge(_test(value=0.64, give=0.005), [_item(low, high)])
    change = judge(_test("bytes_change", value=-0.36, give=0.005), [_item(low - 1, high - 1)])
    assert ratio[0] == change[0] == answer
    assert ("too wide" in ratio[1]) == (answer == "open")


def test_a_range_needs_all_and_fails_by_one() -> None:
    """A number that is certainly beyond one end refutes a range, however many lie within."""
    test = _test(between=[0.48, 0.70])
    within = [_item(0.5, 0.6), _item(0.65, 0.72)]
    assert judge(test, within)[0] == "yes"
    assert judge(test, [*within, _item(0.71, 0.8)])[0] == "no"
    assert judge(test, [*within, _item(0.3, 0.47)])[0] == "no"
    assert judge(test, [*within, _item(0.4, 0.9)])[0] == "open"


def test_equality_is_shown_by_an_interval_within_and_not_by_a_wide_one() -> None:
    """No difference found is no equality shown."""
    test = _test("score_share", inside=[0.98, 1.02])
    assert judge(test, [_item(0.99, 1.01)])[0] == "yes"
    assert judge(test, [_item(0.90, 1.10)])[0] == "open"
    assert judge(test, [_item(1.03, 1.10)])[0] == "no"


def test_a_number_that_could_not_be_had_leaves_a_test_open_unless_another_refutes_it() -> None:
    """Its reason is the test's."""
    lost = Item(label="jpeg", estimate=Estimate(math.nan, math.nan, math.nan, "too few pictures"))
    assert judge(_test(below=1), [_item(0.5, 0.6), lost]) == ("open", "too few pictures")
    assert judge(_test(below=1), [_item(1.5, 1.6), lost])[0] == "no"
    assert judge(_test(below=1, where="least"), [lost]) == ("open", "too few pictures")
    assert judge(_test(below=1), [])[0] == "open"


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ({"where": "most", "below": 1}, "open"), ({"where": "most", "above": 0.4}, "yes"),
        ({"where": "most", "above": 0.9}, "open"), ({"where": "least", "below": 1}, "yes"),
        ({"where": "least", "above": 0.4}, "open"), ({"where": "least", "above": 0.9}, "no"),
        ({"where": "least", "value": 0.2}, "open"), ({"where": "least", "value": 0.8}, "no"),
    ],
)  # fmt: skip
def test_a_number_that_could_not_be_had_may_be_the_least_or_the_largest(what: dict[str, Any], answer: str) -> None:
    """Only what the missing number cannot change is stated: for one between 0.5 and 0.6, and a missing one."""
    lost = Item(label="jpeg", estimate=Estimate(math.nan, math.nan, math.nan, "too few pictures"))
    found, why = judge(_test(**what), [_item(0.5, 0.6), lost])
    assert (found, why) == (answer, "too few pictures" if answer == "open" else "")


def test_the_least_the_largest_and_those_of_a_rate() -> None:
    """*Up to* is of the largest, a low rate's number of that rate alone."""
    items = [_item(0.5, 0.6, rate_bps=100.0), _item(2.0, 2.4, rate_bps=200.0)]
    for where, x in (("least", 0.55), ("lowest_rate", 0.55), ("most", 2.2), ("highest_rate", 2.2)):
        assert judge(_test(where=where, value=x, give=0.1), items)[0] == "yes"
        assert judge(_test(where=where, value=1.2, give=0.1), items)[0] == "no"


def test_a_value_among_several_is_refuted_beyond_all_of_them() -> None:
    """One number for all rates: between the least and the largest it is refuted by none."""
    items = [_item(0.40, 0.44), _item(0.60, 0.64)]
    for value, answer in ((0.42, "yes"), (0.52, "yes"), (0.30, "no"), (0.80, "no")):
        assert judge(_test(where="some", value=value, give=0.005), items)[0] == answer
    assert judge(_test(where="some", value=0.9, give=0.005), [_item(0.5, 0.95)])[0] == "open"


@pytest.mark.parametrize(
    ("metric", "what", "side"),
    [
        ("bytes_change", {"value": -0.36}, ("below", 0.0)), ("bytes_ratio", {"value": 2.89}, ("above", 1.0)),
        ("bytes_change", {"between": [-0.52, -0.3]}, ("below", 0.0)), ("latency_ratio", {"below": 0.5}, ("below", 1.0)),
        ("bytes_ratio", {"below": 1}, None), ("score_share", {"value": 0.9}, None),
    ],
)  # fmt: skip
def test_a_claim_of_one_scheme_against_another_has_a_direction(
    metric: str, what: dict[str, object], side: tuple[str, float] | None
) -> None:
    """The side of no effect that it is on; one that claims no more has none, nor one of a score."""
    found = direction(_test(metric, where="each", **what))
    assert (None if found is None else (found.relation, getattr(found, found.relation))) == side


@pytest.mark.slow
def test_a_true_claim_is_refuted_once_in_twenty_at_most() -> None:
    """Seeded: of nine ratios with intervals at 1 - 0.05 / 9 none lies off the truth in 95 of 100 studies, at least.

    A value, a limit at the truth, a range that ends at it, and the largest, which is picked by what was found.
    """
    rng, n, studies = np.random.default_rng(0), 9, 2000
    z = 2.7729  # Of a normal, two-sided, at 0.05 / 9.
    truth = np.linspace(0.5, 0.7, n)
    refuted = {"between": 0, "most": 0, "below": 0}
    for _ in range(studies):
        found = truth * np.exp(rng.normal(0, 0.03, n))
        items = [_item(v * math.exp(-z * 0.03), v * math.exp(z * 0.03), v) for v in found]
        refuted["between"] += judge(_test(between=[0.5, 0.7]), items)[0] == "no"
        refuted["most"] += judge(_test(where="most", value=0.7), items)[0] == "no"
        refuted["below"] += judge(_test(below=0.7000001), items)[0] == "no"
    assert all(count <= 0.05 * studies + 2 * math.sqrt(0.05 * studies) for count in refuted.values()), refuted
