"""The cost of a study, before it starts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from harness import cost, loaded, study
from harness.cost import Rate
from harness.profiling.machine import machine_name
from harness.runs import tables
from harness.runs.store import Unit
from harness.scenario.load import load
from harness.stock import Stock, take_stock
from harness.units import format_duration
from tests.edge import fake_harness
from tests.silent import Silent


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """The fake scheme at four points, asked twelve questions about three pictures, two of which are timed twice."""
    fake_harness.patch()
    path = tmp_path / "fake.yaml"
    path.write_text(fake_harness.SCENARIO.format(samples=12, timed=2, repeats=2))
    yield take_stock(load(path))
    fake_harness.restore()


def test_a_rate_is_the_mean_of_requests_by_what_they_are_for() -> None:
    """Encoding on the device is shared; answering is per question; all else is once per picture and point."""
    rows = [
        ("jpeg", "q", "a", 0, "device", "encode", 1.0),
        ("jpeg", "q", "a", 0, "server", "vision_encode", 10.0),
        ("jpeg", "q", "a", 0, "server", "generate", 100.0),
        ("jpeg", "q", "b", 0, "device", "encode", 3.0),
        ("jpeg", "q", "b", 0, "server", "vision_encode", 30.0),
        ("jpeg", "q", "b", 0, "server", "generate", 300.0),
        ("tofc", "p", "a", 0, "device", "preprocess", 1.0),
        ("tofc", "p", "a", 0, "device", "vision_encode", 2.0),
        ("tofc", "p", "a", 0, "device", "merge", 4.0),
        ("tofc", "p", "a", 0, "server", "prefill", 8.0),
    ]
    frame = pd.DataFrame(rows, columns=["pipeline", "point", "sample", "repeat", "side", "stage", "seconds"])
    keys = {("jpeg", "q"), ("tofc", "p")}
    assert cost._rates(frame, keys) == {("jpeg", "q"): Rate(0, 22, 200), ("tofc", "p"): Rate(3, 4, 8)}


def test_half_a_request_gives_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point of which one half was another machine's, or a profile's, has no rate; one measured here has."""
    here = machine_name()
    rows = [
        ("tofc", "device", here, "measured"),
        ("tofc", "server", "another", "measured"),
        ("jpeg", "device", here, "measured"),
        ("jpeg", "server", here, "recorded"),
        ("alone", "device", here, "measured"),
    ]
    frame = pd.DataFrame(rows, columns=["pipeline", "side", "machine", "source"]).assign(point="p")
    monkeypatch.setattr(tables, "read", lambda *_: pa.Table.from_pandas(frame))
    (tmp_path / "stages.parquet").touch()
    assert cost._stages(tmp_path)["pipeline"].tolist() == ["alone"]


@pytest.mark.slow
def test_a_cost_is_the_sum_over_the_remaining_work(
    stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture is seen once for all points, and each question answered at each point; times are whole requests."""
    plan = loaded.planned(stock)
    monkeypatch.setattr(cost, "rates_of", lambda *_: (dict.fromkeys(plan.halves, Rate(1000.0, 10.0, 1.0)), "recorded"))
    whole = cost.cost_of(stock, plan, tmp_path / "run")
    assert (whole.points, whole.pictures, whole.questions, whole.units) == (4, 3, 12, 12)
    assert whole.answers_s == 3 * 1000 + 12 * 10 + 4 * 12
    assert whole.requests == 4 * 2 * 2
    assert whole.timing_s == (16 + 4) * 1011  # One request of each point warms up.
    left = cost.cost_of(stock, plan, tmp_path / "run", missing=lambda units: list(units)[:5])
    assert left.units == 5
    assert left.answers_s == 2 * 1000 + 5 * 10 + sum(len(of) for _, of in list(plan.to_answer.values())[:5])
    assert left.disk_bytes < whole.disk_bytes


@pytest.mark.slow
def test_seconds_are_recorded_ones_where_there_are_some_and_unknown_elsewhere(stock: Stock, tmp_path: Path) -> None:
    """A run with the same points beside it tells them; without one there is no number."""
    plan = loaded.planned(stock)
    told: list[str] = []
    study.run(stock.scenario, tmp_path / "first", reporter=Silent(), tell=told.append)
    assert "12 units, 4 points x 3 pictures with 12 questions; times: 16 requests (the time is not known" in told[0]
    again = list(cost.lines(stock, plan, tmp_path / "second", workers=2))
    assert "by 2 workers" in again[0]
    assert "(recorded: timed requests of first)" in again[0]
    (answers_s, timing_s) = (found := cost.cost_of(stock, plan, tmp_path / "second")).answers_s, found.timing_s
    assert answers_s is not None
    assert timing_s is not None
    assert 0 < answers_s < 60
    assert 0 < timing_s < 60
    told.clear()
    study.run(stock.scenario, tmp_path / "first", reporter=Silent(), tell=told.append)
    assert told == []


@pytest.mark.slow
def test_finished_and_unknown_work_is_reported(stock: Stock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported are: no answers or times left, how many workers compute at once, and a server's share as unknown."""
    plan = loaded.planned(stock)
    monkeypatch.setattr(cost, "rates_of", lambda *_: (dict.fromkeys(plan.halves, Rate(1.0, 1.0, 1.0)), "recorded"))

    def line(only: str = "", **how: Any) -> str:
        def missing(units: Iterable[Unit]) -> list[Unit]:
            return [unit for unit in units if unit.name.startswith(only)]

        return next(cost.lines(stock, plan, tmp_path, missing=missing, **how))

    assert line("times").startswith("answers: none left; times: 16 requests, about ")
    assert line("answers").endswith("; times: none left (recorded)")
    assert " by 3 workers, 2 at once; " in line(workers=3, at_once=2)
    assert " by 2 workers; " in line(workers=2, at_once=2)
    remote = line(remote=True)
    assert "about" not in remote
    assert remote.endswith("16 requests (the time is not known: it depends on the server and the link)")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3599, "1 h"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    """Rounded to the smaller one."""
    assert format_duration(seconds) == text
