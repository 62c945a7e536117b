"""One analysis of a run: each quantity is computed once, in the place that the documentation names."""

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from harness.analysis import Analysis, analysis, breakdown, cells, comparison, latency
from harness.claims import metrics
from harness.claims.model import METRICS as CLAIMED
from harness.errors import ResultsError
from harness.replay import Profile
from harness.report import table
from harness.report.figures.gallery import draw_all
from tests.made_up_run import ORDER, RATES_BPS, make

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
NONE_REACHES = {"reference": "server_only", "target": 1.3, "margin": 0.0, "confidence": 0.95, "resamples": 100}


@pytest.mark.slow
def test_showing_everything_computes_each_quantity_once(
    made_up: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table, figures, comparison and categories share one selection and one of every other result."""
    calls: dict[str, int] = {}

    def counted(module: object, name: str) -> None:
        made_by = getattr(module, name)

        def counting(*arguments: object, **options: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            return made_by(*arguments, **options)

        monkeypatch.setattr(module, name, counting)

    counted(analysis, "select")
    counted(cells, "latencies")
    counted(breakdown, "by_category")
    for name in ("first_answers", "ladders", "equal_scores", "latencies_at_equal_score"):
        counted(comparison, name)
    counted(comparison, "scores_at_tokens")
    list(draw_all(made_up.record.folder, tmp_path))
    compared = ("first_answers", "ladders", "equal_scores", "latencies_at_equal_score", "scores_at_tokens")
    assert calls == dict.fromkeys(("select", "latencies", "by_category", *compared), 1)
    calls.clear()
    run = Analysis(made_up.record)
    for _ in range(2):
        table.table(run)
        table.write(run, tmp_path / "table.csv")
        run.selected_profile("jpeg")
    assert calls == dict.fromkeys(("select", "latencies", "first_answers", "ladders", "equal_scores"), 1)
    assert run.selected_profile("jpeg") is run.profile("jpeg", run.selected_profile("jpeg").point)


@pytest.mark.slow
def test_numbers_are_points_and_times_joined(made_up: Analysis) -> None:
    """A row for each selected point and uplink, rates upwards; parts add up; the order is the scenario's."""
    numbers = made_up.numbers
    assert tuple(dict.fromkeys(numbers["pipeline"])) == ORDER
    assert numbers.loc[numbers["pipeline"] == "jpeg", "channel"].tolist() == list(RATES_BPS)
    reached = numbers[numbers["reaches"]]
    parts = reached[[f"{part}_mean_s" for part in latency.PARTS if part != "total"]].sum(axis=1)
    assert parts.tolist() == pytest.approx(reached["total_mean_s"].tolist())
    assert made_up.parts == ("device", "link", "server", "total"), "with one user no request waits"
    assert numbers["in_time"].isna().all(), "the scenario has no deadline"
    assert made_up.machines == ("a processor, 2 cores",)


@pytest.mark.slow
def test_a_deadline_and_waiting_are_numbers_of_the_run(tmp_path: Path) -> None:
    """The share within the scenario's deadline is that of the selected points' requests; what waits is shown."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05, back_s=0.025, replay={"deadline_s": 0.2}))
    assert run.parts == tuple(latency.PARTS)
    for row in run.numbers[run.numbers["reaches"]].to_dict("records"):
        assert row["wait_mean_s"] == pytest.approx(0.05)
        of_cell = run.record.requests.filter(
            functools.reduce(
                pc.and_, (pc.equal(run.record.requests[name], row[name]) for name in ("pipeline", "point", "channel"))
            )
        )
        assert row["in_time"] == pytest.approx((of_cell["answered_s"].to_numpy() <= 0.2).mean())
        assert row["in_time_low"] <= row["in_time"] <= row["in_time_high"]
    assert run.numbers["in_time"].nunique() > 2
    wrong = run.manifest.model_copy(update={"scenario": {**run.manifest.scenario, "replay": {"deadline_s": "soon"}}})
    with pytest.raises(
        ResultsError, match=r"scenario\.replay\.deadline_s is 'soon'; it must be a number of seconds above 0"
    ):
        Analysis(dataclasses.replace(run.record, manifest=wrong)).numbers  # noqa: B018


@pytest.mark.slow
def test_no_scheme_reaches(tmp_path: Path) -> None:
    """Each scheme has one row, of its best point, without times; no profile is its selected one."""
    run = Analysis(make(tmp_path / "run", selection=NONE_REACHES))
    numbers = run.numbers
    assert numbers["pipeline"].tolist() == list(ORDER)
    assert not numbers["reaches"].any()
    assert numbers[["requests", "total_mean_s", "link_p50_s", "in_time"]].isna().all(axis=None)
    best = run.points.groupby("pipeline")["score"].max()
    assert numbers.set_index("pipeline")["score"].to_dict() == best.to_dict()
    assert (run.times.empty, run.first.empty) == (True, True)
    with pytest.raises(ResultsError, match="jpeg has no operating point that reaches the target score"):
        run.selected_profile("jpeg")


@pytest.mark.slow
def test_a_selected_point_may_not_have_been_replayed(made_up: Analysis) -> None:
    """Without request rows a scheme keeps its score and has no times; all columns are there."""
    none = made_up.record.requests.slice(0, 0)
    run = Analysis(dataclasses.replace(made_up.record, requests=none))
    assert list(run.numbers.columns) == list(made_up.numbers.columns)
    assert run.numbers["reaches"].sum() == 5
    assert run.numbers["total_mean_s"].isna().all()


@pytest.mark.slow
def test_profiles_are_of_the_requested_pipelines(made_up: Analysis) -> None:
    """All points, or those of some pipelines; an unknown name is refused with the list of known ones."""
    assert len(made_up.profiles()) == len(made_up.points)
    assert {profile.pipeline for profile in made_up.profiles(["jpeg", "tofc"])} == {"jpeg", "tofc"}
    record = made_up.record
    expected = Profile.from_tables(record.stages, record.outcomes, "raw_features", "merge_to=0.044")
    assert made_up.profile("raw_features", "merge_to=0.044").device_s.tolist() == expected.device_s.tolist()
    with pytest.raises(ResultsError, match="unknown pipeline 'png'; known: device_only, jpeg"):
        made_up.profiles(["png"])


@pytest.mark.slow
def test_outcomes_of_a_pipeline_without_parameters_are_refused(made_up: Analysis) -> None:
    """Rows and the manifest's points must name the same pipelines."""
    points = {name: of for name, of in made_up.manifest.points.items() if name != "webp"}
    manifest = made_up.manifest.model_copy(update={"points": points})
    with pytest.raises(ResultsError, match="webp has outcomes, and the manifest's points are of: tofc, jpeg"):
        Analysis(dataclasses.replace(made_up.record, manifest=manifest)).points  # noqa: B018


def test_every_metric_is_computed_where_its_documentation_says() -> None:
    """Each row of a table of metrics in docs/metrics.md ends with the functions that compute it, and they exist."""
    text = METRICS.read_text(encoding="utf-8")
    named = re.findall(r"`((?:harness|baselines)\.[\w.]+):([\w.]+)`", text)
    for module, name in named:
        assert callable(attrgetter(name)(importlib.import_module(module))), f"{module}:{name}"
    tables = re.findall(r"^\|.*\| made by \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert len(tables) == text.count("| made by |") >= 9
    maker = r"`(?:harness|baselines)\.[\w.]+:[\w.]+`"
    for row in "".join(tables).splitlines():
        assert re.fullmatch(rf"\|.*\| {maker}(?:, {maker})* \|", row), row


def test_every_metric_of_a_claim_is_documented_with_its_function() -> None:
    """The table of docs/metrics.md has every name that a claim may use, with the function that computes it."""
    table = METRICS.read_text(encoding="utf-8").partition("| metric | number | made by |\n")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[1:]]
    made = {name: row[-1] for row in rows for name in row[0].strip("| ").split(", ")}
    assert set(made) == set(CLAIMED)
    functions: dict[str, Callable[..., object]] = dict(metrics._FUNCTIONS)
    functions |= dict.fromkeys((name for name in CLAIMED if CLAIMED[name].counted), metrics.of_architecture)
    for name, function in functions.items():
        assert f"`{function.__module__}:{function.__name__}`" in made[name], name
