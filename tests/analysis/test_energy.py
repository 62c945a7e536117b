"""Joules per answer: closed forms, and intervals that cover in simulated studies whose truth is known."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.energy import COLUMNS, mean_of_blocks, per_answer
from harness.records import EnergyRow, to_table

ROW = EnergyRow(
    run="r", unit="u", pipeline="tofc", point="-", sample=None, block=0, requests=10, side="device", rail="VDD_GPU",
    sensor="INA3221", seconds=30.0, energy_j=600.0, idle_s=30.0, idle_j=300.0, machine="m",
    source="measured",
)  # fmt: skip


def frame(*rows: EnergyRow, **calibration: float):
    """The summary of rows; ``calibration`` is of the device's rails."""
    by_rail = {f"device/{rail}": factor for rail, factor in calibration.items()}
    return per_answer(to_table(EnergyRow, rows), calibration=by_rail)


@pytest.mark.slow
@given(
    answer_j=st.floats(0.01, 1e3), idle_w=st.floats(0, 100), seconds=st.floats(1, 100), idle_s=st.floats(1, 100),
    requests=st.integers(1, 1000), factor=st.none() | st.floats(0.5, 2),
)  # fmt: skip
def test_constant_power_is_found_exactly(answer_j, idle_w, seconds, idle_s, requests, factor) -> None:
    """Blocks with a constant power above idle have that as net energy, whatever the idle block's length."""
    block = dataclasses.replace(
        ROW, seconds=seconds, energy_j=idle_w * seconds + answer_j * requests, idle_s=idle_s, idle_j=idle_w * idle_s,
        requests=requests,
    )  # fmt: skip
    given_factors = {} if factor is None else {"VDD_GPU": factor}
    (found,) = frame(*(dataclasses.replace(block, block=b) for b in range(3)), **given_factors).to_dict("records")
    k = factor or 1.0
    assert found["net_j"] == pytest.approx(k * answer_j, rel=1e-6, abs=1e-9 * idle_w * seconds)
    assert found["gross_j"] == pytest.approx(k * (answer_j + idle_w * seconds / requests))
    assert found["calibrated"] is (factor is not None)
    assert found["blocks"] == 3
    assert found["gross_low_j"] == pytest.approx(found["gross_high_j"])


def test_rails_and_sides_are_rows_of_their_own() -> None:
    """Nothing is added up; a calibration is one rail's on one side; without an idle block there is no net."""
    found = frame(
        ROW,
        dataclasses.replace(ROW, block=1, source="recorded"),
        dataclasses.replace(ROW, rail="VDD_CPU", idle_j=None, idle_s=None),
        dataclasses.replace(ROW, side="server", rail="VDD_CPU", machine="n", seconds=2.0),
        VDD_CPU=1.1,
    )
    assert list(found.columns) == list(COLUMNS)
    assert found[["side", "rail", "blocks"]].to_numpy().tolist() == [
        ["device", "VDD_GPU", 2], ["device", "VDD_CPU", 1], ["server", "VDD_CPU", 1],
    ]  # fmt: skip
    assert found["calibrated"].tolist() == [False, True, False]
    assert found["source"].tolist() == ["recorded", "measured", "measured"]
    assert np.isnan(found["net_j"]).tolist() == [False, True, False]
    assert found[["gross_low_j", "net_low_j"]].isna().all(axis=None)
    assert frame().empty


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 4, 8])
@pytest.mark.parametrize("noise", ["normal", "skewed", "idle drifts"])
def test_intervals_of_net_joules_cover_as_they_say(blocks: int, noise: str) -> None:
    """In 2,000 studies of known truth 95 % intervals cover in 95 %, within three standard errors and a point."""
    rng = np.random.default_rng([2026, blocks, len(noise)])
    n, shape = 2000, (2000, blocks)
    idle_w = 10 * (1 + 0.02 * rng.normal(size=shape))
    if noise == "idle drifts":
        idle_w = idle_w + np.cumsum(0.1 * rng.normal(size=shape), axis=1)
    per_block = rng.lognormal(-0.02, 0.2, shape) if noise == "skewed" else 1 + 0.05 * rng.normal(size=shape)
    requests = rng.integers(20, 30, shape)
    energy_j = 30 * idle_w + 4.0 * per_block * requests
    idle_j = 30 * (idle_w + 0.1 * rng.normal(size=shape))
    net = (energy_j - idle_j) / requests
    truth = 4.0 * (np.exp(0.0) if noise == "skewed" else 1.0)
    covered = sum(e.low <= truth <= e.high for e in map(mean_of_blocks, net.tolist())) / n
    assert abs(covered - 0.95) < 3 * np.sqrt(0.95 * 0.05 / n) + 0.01
