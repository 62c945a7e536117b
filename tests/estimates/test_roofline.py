"""Efficiencies and their errors: no number is fitted on itself, and the intervals cover as stated."""

import math
from typing import Any

import numpy as np
import pytest

from harness.errors import ScenarioError
from harness.estimates.estimate import Estimated, Estimator, total
from harness.estimates.roofline import Count, Roofline, prediction_factor, roof
from harness.estimates.sheets import Sheets, named, sheets

_MACHINE = {
    "about": "a machine", "tensor_ops": 1e12, "fp32_ops": 1e11, "bandwidth": 1e11, "cpu_hz": 1e9, "source": "s",
    "firmness": "made up",
}  # fmt: skip


def data(times_ms: dict[tuple[str, str], list[float]]) -> Sheets:
    """Machines a, b and c, a power mode of a, and published times of kinds that are alike in pairs."""
    rows = [
        {"name": f"{machine} {kind} {place}", "machine": machine, "kind": kind, "elements": 1, "ms": ms, "source": "s"}
        for (machine, kind), times in times_ms.items()
        for place, ms in enumerate(times)
    ]
    kinds = {
        "prefill": {"processor": "tensor", "about": ""},
        "vision": {"processor": "tensor", "like": "prefill", "about": ""},
        "other": {"processor": "cpu", "about": ""},
    }
    machines = dict.fromkeys("abc", _MACHINE) | {"a-slow": {**_MACHINE, "same_efficiency_as": "a"}}
    source = {"s": {"title": "a source", "address": ""}}
    parts = {"machines": machines, "kinds": kinds, "sources": source, "rows": rows, "left_out": [], "models": {}}
    return Sheets.model_validate(parts)


def roofline(times_ms: dict[tuple[str, str], list[float]]) -> Roofline:
    """A roof of 1 ms for every time."""
    found = data(times_ms)
    return Roofline(found, {row.name: 1e-3 for row in found.rows})


def test_an_efficiency_is_the_geometric_mean_of_its_own_times() -> None:
    """2 and 8 ms where the roof is 1 ms: a quarter; a power mode has the machine's."""
    found = roofline({("a", "prefill"): [2, 8]})
    for machine in ("a", "a-slow"):
        had = found.efficiency(machine, "prefill")
        assert had is not None
        assert had.value == pytest.approx(0.25)
        assert had.how == "its own"


def test_no_time_is_predicted_from_itself() -> None:
    """If a published time is changed, its own prediction stays, and all others' change."""
    times = {("a", "prefill"): [2.0, 3, 4], ("a", "vision"): [5.0], ("b", "prefill"): [6.0, 7]}
    before = {test.row.name: test for test in roofline(times).tests()}
    for (machine, kind), values in times.items():
        for place in range(len(values)):
            name = f"{machine} {kind} {place}"
            changed = {key: list(given) for key, given in times.items()}
            changed[machine, kind][place] *= 10
            after = {test.row.name: test for test in roofline(changed).tests()}
            assert after[name].predicted_s == pytest.approx(before[name].predicted_s)
            assert name not in before[name].used
            for other in before[name].used:
                assert name in before[other].used or before[other].how != before[name].how
                if name in before[other].used:
                    assert after[other].predicted_s != pytest.approx(before[other].predicted_s)


def test_what_is_not_published_is_borrowed_from_the_nearest() -> None:
    """A similar kind on the machine, then the kind elsewhere, then a similar kind elsewhere, then nothing."""
    found = roofline({("a", "prefill"): [2.0, 2.0], ("b", "vision"): [4.0, 4.0]})
    lent = [found.efficiency(machine, kind) for machine, kind in (("a", "vision"), ("c", "vision"), ("c", "prefill"))]
    assert [had and (had.value, had.how) for had in lent] == [
        (pytest.approx(0.5), "a like kind on this machine"),
        (pytest.approx(0.25), "this kind on other machines"),
        (pytest.approx(0.5), "this kind on other machines"),
    ]
    assert found.efficiency("a", "other") is None


def test_an_error_is_stated_only_where_borrowing_can_be_tested() -> None:
    """With one group alone nothing tests a rule; with the kind on two machines each tests the other."""
    alone = roofline({("a", "prefill"): [2.0, 2.0]}).efficiency("b", "prefill")
    assert alone is not None
    assert math.isnan(alone.factor)
    both = roofline({("a", "prefill"): [2.0, 2.0], ("b", "prefill"): [4.0, 4.0]}).efficiency("c", "prefill")
    assert both is not None
    # Each is off by a factor of 2; Student's quantile at 2 is 4.303.
    assert both.factor == pytest.approx(2**4.3027, rel=1e-3)


def test_two_times_have_the_error_of_none() -> None:
    """The scatter of two is not used: the factor is that of borrowing; three have their own."""
    times: dict[tuple[str, str], list[float]] = {("a", "prefill"): [2.0, 2.0], ("b", "prefill"): [4.0, 4.0]}
    two, three = (
        roofline({**times, ("c", "prefill"): own}).efficiency("c", "prefill") for own in ([3.0, 3.3], [3.0, 3.0, 3.0])
    )
    assert two is not None
    assert three is not None
    assert two.factor > 2
    assert three.factor == pytest.approx(1)
    # Nor is it narrower than that of a borrowed efficiency.
    scattered = roofline({("a", "prefill"): [1, 4, 16], ("c", "prefill"): [4, 4]}).efficiency("c", "prefill")
    assert scattered is not None
    assert scattered.factor == pytest.approx(prediction_factor([math.log(t) for t in (1, 4, 16)]))


def test_the_interval_of_one_more_time_covers_as_often_as_stated() -> None:
    """Log-normal times: 95 % of further ones lie within the factor, from three to eight published."""
    rng = np.random.default_rng(0)
    for n in (3, 4, 8):
        logs = rng.normal(-0.7, 0.3, (2000, n + 1))
        inside = [abs(x[-1] - x[:-1].mean()) <= math.log(prediction_factor(x[:-1])) for x in logs]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_a_roof_is_the_slower_of_operations_and_bytes() -> None:
    """1e9 operations take 1 ms of tensor units, 1e9 bytes 10 ms of memory."""
    found = data({})
    assert roof(found.machine("a"), found, "prefill", Count(1e9, 1e7)) == (pytest.approx(1e-3), "operations")
    assert roof(found.machine("a"), found, "prefill", Count(1e9, 1e9)) == (pytest.approx(1e-2), "bytes")


def test_a_total_without_some_stages_error_says_so() -> None:
    """The stage adds its middle to both ends, and the total is not complete."""
    parts: Any = {"side": "device", "operations": 1.0, "n_bytes": 1.0, "bound": "bytes", "how": "its own"}
    sure = Estimated(stage="prefill", seconds=2.0, low_s=1.0, high_s=4.0, **parts)
    unsure = Estimated(stage="encode", seconds=3.0, low_s=math.nan, high_s=math.nan, **parts)
    assert total([sure, unsure], 1.0) == (6.0, 5.0, 8.0, False)
    assert total([sure]) == (2.0, 1.0, 4.0, True)


def test_the_package_names_only_what_it_defines_and_says_where_it_is_from() -> None:
    """Every sheet has a source with an address, every row one with a title; an unknown machine is one sentence."""
    found = sheets()
    assert all(found.sources[machine.source].address.startswith("https://") for machine in found.machines.values())
    assert all(found.sources[row.source].title for row in found.rows)
    with pytest.raises(ScenarioError, match="machine with a data sheet"):
        Estimator("agx-orin", "rtx-5090")


@pytest.mark.parametrize(
    ("product", "machine"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Quadro RTX 8000", "rtx-8000"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "agx-orin"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", None),
        ("", None),
    ],
)
def test_a_sheet_is_of_the_product_that_it_names(product: str, machine: str | None) -> None:
    """GPUs whose name begins alike have other clocks, memory or limits."""
    assert named(product) == machine
    assert machine is None or machine in sheets().machines
