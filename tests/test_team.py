"""Who answers a study: the same rows from any number of workers, whichever of them dies."""

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from harness import loaded, measure, study
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import PeerError, UnavailableError
from harness.records import PointKey
from harness.runs.provenance import read
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.scenario.model import Scenario
from harness.stock import take_stock
from harness.team import Team, refuse_memory
from tests.edge import fake_harness
from tests.silent import Silent

forks = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")


@pytest.fixture
def eight_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scenario]:
    """The fake scheme at four points, asked about eight pictures."""
    fake_harness.patch()
    monkeypatch.setattr(fake_harness, "three_pages", lambda *_, **__: samples(book("test", 0)[:8], paired=False))
    path = tmp_path / "fake.yaml"
    path.write_text(fake_harness.SCENARIO.format(samples=100, timed=1, repeats=1))
    yield load(path)
    fake_harness.restore()


def _outcomes(record: Record) -> pd.DataFrame:
    return record.outcomes.to_pandas().drop(columns="run")


def _needs(record: Record) -> pd.DataFrame:
    """What halves need, except the system's figures of memory, which vary."""
    table = record.resources.to_pandas().drop(columns="run")
    return table.assign(value=table["value"].mask(table["quantity"] == "peak_memory_bytes"))


@pytest.mark.slow
@forks
def test_rows_do_not_depend_on_the_workers_nor_on_their_deaths(
    eight_pages: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker, four, and four of which two are killed with units in hand; the manifest says how many there were."""
    study.run(eight_pages, tmp_path / "one", reporter=Silent(), team=Team(workers=1))
    wanted, needs = _outcomes(Run.read(tmp_path / "one")), _needs(Run.read(tmp_path / "one"))
    assert len(needs)
    assert bool(needs["value"].notna().any())
    study.run(eight_pages, tmp_path / "four", reporter=Silent(), team=Team(workers=4))
    pd.testing.assert_frame_equal(_outcomes(Run.read(tmp_path / "four")), wanted)
    pd.testing.assert_frame_equal(_needs(Run.read(tmp_path / "four")), needs)

    honest = measure._outcomes
    last = [places[0] for places in loaded.planned(take_stock(eight_pages)).pictures][-2:]

    def dying(plan: measure.Plan, units: Mapping[str, tuple[PointKey, Sequence[int]]], **how: str) -> Iterator[object]:
        for row in honest(plan, units, **how):
            place = next(iter(units.values()))[1][0]
            mark = tmp_path / f"died at {place}"
            # In the middle of a picture: its first points are answered and lost.
            if place in last and row.pipeline == "alone" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield row

    monkeypatch.setattr(measure, "_outcomes", dying)
    reporter = Silent()
    study.run(eight_pages, tmp_path / "killed", reporter=reporter, team=Team(workers=4))
    pd.testing.assert_frame_equal(_outcomes(Run.read(tmp_path / "killed")), wanted)
    assert sum("killed by SIGKILL" in warning for warning in reporter.warnings) == 2
    manifests = [read(tmp_path / run / "manifest.json") for run in ("one", "four", "killed")]
    told = [manifest.sessions[-1].conditions.get("answers") for manifest in manifests]
    assert told == [None, {"workers": 4, "engine": "processes"}, {"workers": 4, "engine": "processes", "died": 2}]


@pytest.mark.slow
@forks
def test_what_was_answered_before_all_workers_died_is_stored_and_resumed(
    eight_pages: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that kills every worker ends the command in a sentence; the command repeated answers the rest."""
    honest = measure._outcomes
    deadly = loaded.planned(take_stock(eight_pages)).pictures[-1][0]

    def dying(plan: measure.Plan, units: Mapping[str, tuple[PointKey, Sequence[int]]], **how: str) -> Iterator[object]:
        if next(iter(units.values()))[1][0] == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(plan, units, **how)

    monkeypatch.setattr(measure, "_outcomes", dying)
    with pytest.raises(UnavailableError, match="3 worker processes ended at answers reference -, "):
        study.run(eight_pages, tmp_path / "run", reporter=Silent(), team=Team(workers=2))
    monkeypatch.setattr(measure, "_outcomes", honest)
    reporter = Silent()
    study.run(eight_pages, tmp_path / "run", reporter=reporter, team=Team(workers=2))
    name, total, done = reporter.phases[0]
    assert (name, total) == ("answers", 8 * 4)
    assert done >= 6 * 4, "the task of the other worker may be lost"


@pytest.mark.slow
def test_a_worker_that_could_give_other_rows_refuses(eight_pages: Scenario, tmp_path: Path) -> None:
    """Other packages, other weights, another processor: each is named; an equal worker answers exactly its units."""
    stock = take_stock(eight_pages)
    info = loaded.describe(stock)
    here = loaded.computes_on("cpu")
    own = loaded.Order(scenario=eight_pages, run="run", folder=Path.cwd(), asked_by=info, computes=here, threads=1)
    packages = {**info.packages, "numpy": "1.0"}
    other = dataclasses.replace(own, asked_by=info.model_copy(update={"packages": packages, "backbone": "llava"}))
    with pytest.raises(PeerError, match=r"backbone is llava here and fake there; numpy is 1\.0 here and \d"):
        loaded.answers_for(other)
    with pytest.raises(PeerError, match=r"abacus computes here and .* there; give all workers the same"):
        loaded.answers_for(dataclasses.replace(own, computes="abacus"))
    answers = loaded.answers_for(own)
    unit = next(iter(loaded.planned(stock).to_answer))
    assert {row.unit for row in answers([unit])} == {unit.key}
    with pytest.raises(PeerError, match="depends on other things"):
        answers([dataclasses.replace(unit, depends={**unit.depends, "scoring": "another"})])


def test_more_workers_than_memory_are_refused_and_a_tight_fit_is_warned_of() -> None:
    """By the weights alone, which are counted from the checkpoint; the sentence says how many fit, if any does."""
    memory, told = psutil.virtual_memory(), list[str]()
    with pytest.raises(UnavailableError, match=r"4 workers on this machine take at least .* give --workers 1 or fewer"):
        refuse_memory(4, memory.total // 2, None, told.append)
    with pytest.raises(UnavailableError, match=r"a larger one or a smaller model is needed"):
        refuse_memory(2, 2 * memory.total, None, told.append)
    refuse_memory(1, 0, None, told.append)
    assert told == []
    refuse_memory(1, memory.total - 700_000_000, None, told.append)
    assert "are free now" in told[0]


def test_workers_and_a_server_exclude_each_other(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A connection belongs to one process: refused before any request to the server."""
    path = tmp_path / "fake.yaml"
    path.write_text((Path(__file__).parents[1] / "scenarios" / "smoke.yaml").read_text())
    for options in (("--workers", 2), ("--engine", "ray")):
        status, _, errors = harness("run", path, "--server", "http://127.0.0.1:1", *options)
        assert status == 2
        assert "--server" in errors


@pytest.mark.slow
def test_workers_that_load_the_model_themselves_give_the_same_rows(
    smoke: Record, smoke_scenario: Scenario, tmp_path: Path
) -> None:
    """One that is killed and the one that replaces it: real models, spawned as for GPUs."""
    jpeg = tuple(spec for spec in smoke_scenario.pipelines if spec.name == "jpeg")
    stock = take_stock(smoke_scenario.model_copy(update={"pipelines": jpeg}))
    plan = loaded.planned(stock)
    ended: list[Any] = []

    class Ending(Silent):
        """Kills the worker when the first picture is answered."""

        def advance(self) -> None:
            super().advance()
            if not ended:
                ended.extend(multiprocessing.active_children())
                ended[0].kill()

    reporter = Ending()
    manifest = stock.manifest("run", {"id": "", "name": ""}, ())
    with Run.open_or_create(tmp_path / "run", manifest) as ongoing:
        answering = loaded.answering(stock, Team(workers=1), "cpu", 1, ongoing, reporter)
        # On one thread of a processor workers would be forked.
        measure.answer(plan, ongoing, reporter, spread=lambda _, parts: answering._over_processes(parts))
        found = ongoing.table("outcomes").to_pandas().drop(columns="run")
    wanted = _outcomes(smoke)
    wanted = wanted[wanted["pipeline"] == "jpeg"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted)
