"""The closing table: on a terminal, as CSV and as Markdown, it is the same."""

import dataclasses
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console, RenderableType

from harness.analysis import Analysis, latency
from harness.errors import ResultsError
from harness.records import OutcomeRow, ResourceRow, StageRow, schema, to_table
from harness.report import page, table
from harness.report.figures import sheet
from harness.report.pack import numbers_tex
from harness.report.sections import resources_table
from harness.scenario.load import hash_of
from tests.made_up_run import ORDER, make


@pytest.fixture(scope="module")
def shown(made_up: Analysis) -> str:
    """What a terminal of 80 columns shows."""
    return _shown(made_up)


def test_rows_are_selected_points_at_each_uplink(made_up: Analysis) -> None:
    """Each scheme has its selected point's bytes and score, and its own latency at each uplink, rates upwards."""
    numbers, points = made_up.numbers, made_up.points
    assert list(dict.fromkeys(numbers["pipeline"])) == list(made_up.manifest.points)
    times = made_up.times
    for pipeline, rows in numbers[numbers["reaches"]].groupby("pipeline"):
        chosen = points[(points["pipeline"] == pipeline) & points["selected"]].iloc[0]
        assert (rows["point"] == chosen["point"]).all()
        assert (rows["payload_bytes"] == chosen["payload_bytes"]).all()
        assert rows["channel"].tolist() == ["25 KB/s", "50 KB/s", "100 KB/s"]
        own = times[(times["pipeline"] == pipeline) & (times["point"] == chosen["point"])]
        for part in latency.PARTS:
            expected = own[own["part"] == part].set_index("channel")["mean_s"]
            assert rows.set_index("channel")[f"{part}_mean_s"].to_dict() == pytest.approx(expected.to_dict())
    silent = numbers[~numbers["reaches"]]
    assert silent["pipeline"].tolist() == ["device_only"]
    assert silent["total_mean_s"].isna().all()


def test_fits_a_terminal(shown: str) -> None:
    """Nothing is cut off at 80 columns."""
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown


def test_the_table_has_all_labels(made_up: Analysis, shown: str) -> None:
    """Title, stand-ins, verdict, unmet target, estimated times, sources: each is in the table."""
    words = " ".join(shown.split())
    for fact in (
        "RealWorldQA at low uplink rates", "stand-ins: StreetsQA for RealWorldQA", "INVALID: throttled: GPU at 95 C",
        "does not reach", "some are estimated", "240 questions in 60 independent groups", "36 timed requests",
        "this session only", "at least 88 % of server_only's",
        "over the whole benchmark from 36 timed requests, link times from the bytes of all questions",
        "a processor, 2 cores", made_up.manifest.scenario_hash, "answers first",
    ):  # fmt: skip
        assert fact in words


@pytest.mark.slow
def test_a_replays_times_are_all_recorded(made_up: Analysis) -> None:
    """Not some of them: nothing in such a run was measured."""
    stages = made_up.record.stages
    recorded = pa.array(["recorded"] * stages.num_rows, stages.schema.field("source").type)
    stages = stages.set_column(stages.column_names.index("source"), stages.schema.field("source"), recorded)
    words = " ".join(_shown(Analysis(dataclasses.replace(made_up.record, stages=stages))).split())
    assert "; all are recorded" in words


def test_what_was_recorded_elsewhere_is_named_wherever_times_are_shown(made_up: Analysis, tmp_path: Path) -> None:
    """In the table, the comparison, every figure, the page and the macros; also if nothing of the run was measured."""
    stages = made_up.record.stages.to_pandas().assign(source="measured")
    orin = (stages["pipeline"] == "tofc") & (stages["side"] == "device")
    stages.loc[orin, ["machine", "source"]] = ["AGX Orin", "recorded"]
    mixed = Analysis(dataclasses.replace(made_up.record, stages=_stage_table(stages)))
    replayed = Analysis(dataclasses.replace(made_up.record, stages=_stage_table(stages.assign(source="recorded"))))
    others = "recorded: the device stages of device_only, jpeg, raw_features, webp, on a processor, 2 cores"
    tofc = "recorded: the device stages of tofc, on AGX Orin"
    assert mixed.elsewhere == (tofc,)
    assert replayed.elsewhere == (others, tofc)
    for run, source in ((mixed, "timed"), (replayed, "recorded")):
        table.write_comparison(run, tmp_path / "comparison.md")
        comparison = (tmp_path / "comparison.md").read_text()
        assert f"Stages are {source} on a processor, 2 cores and AGX Orin." in comparison
        about = sheet.of(run, "latency").sources
        assert f"{source.capitalize()} on a processor, 2 cores and AGX Orin." in about
        shown = page.render([run], figures=[])
        for phrase in run.elsewhere:
            assert phrase in comparison
            assert phrase[1:] in about
            assert phrase in shown
            assert f"% {phrase}." in numbers_tex(run)
    first = mixed.first.drop_duplicates("pipeline").set_index("pipeline")["total_source"]
    assert (first["tofc"], first["jpeg"]) == ("recorded", "measured")


def test_memory_and_operations_are_labelled(made_up: Analysis) -> None:
    """A run on stand-ins has the same label as over its closing table."""
    counted = ResourceRow(
        run="r", unit="u", pipeline="tofc", point="n_c=8,lambda=0.003", sample="q000", side="device", stage="encode",
        quantity="operations", value=1e9, machine="m", source="measured",
    )  # fmt: skip
    run = Analysis(dataclasses.replace(made_up.record, resources=to_table(ResourceRow, [counted])))
    assert made_up.manifest.label in " ".join(_printed(resources_table(run)).split())


def _stage_table(stages: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(stages, schema=schema(StageRow), preserve_index=False)


def _shown(run: Analysis) -> str:
    return _printed(table.table(run))


def _printed(what: RenderableType) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


@pytest.mark.slow
def test_waiting_and_a_deadline_have_columns_that_fit(tmp_path: Path) -> None:
    """With all possible columns no line is longer than 80 and no name or number is broken."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05, replay={"deadline_s": 0.2}))
    shown = _shown(run)
    assert all(len(line) <= 80 for line in shown.splitlines())
    head = " ".join(shown.split("─")[0].split())
    assert head.endswith("uplink device link wait server total ± 200 ms")
    words = " ".join(shown.split())
    assert "in 200 ms: the share answered by then" in words
    assert "mean seconds of the replayed requests, with their own bytes, from 36 timed requests; " in words
    assert "over the whole benchmark" not in words
    first = next(line for line in shown.splitlines() if line.startswith("tofc "))
    row = run.numbers.iloc[0]
    assert first.split()[-2:] == [f"{100 * row['in_time']:.0f}", "%"]
    assert f"{row['wait_mean_s']:.3f}" in first
    assert {"n_c=8", "lambda=0.003", "server_only", "quality=35"} <= set(shown.split())
    table.write(run, tmp_path / "table.md")
    assert "| wait (s) | server (s) | total (s) | ± | in 200 ms |" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_a_run_in_which_nothing_reaches_is_shown(tmp_path: Path) -> None:
    """The table says so of every scheme, on the terminal, as CSV and as Markdown, and so does the comparison."""
    selection = {"reference": "server_only", "target": 1.3, "margin": 0.0, "confidence": 0.95, "resamples": 100}
    run = Analysis(make(tmp_path / "run", selection=selection))
    shown = _shown(run)
    assert shown.count("does not reach") == 6
    assert "times: none, because no scheme reaches the target" in shown
    table.write(run, tmp_path / "table.csv")
    assert not pd.read_csv(tmp_path / "table.csv")["reaches"].any()
    table.write(run, tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text().count("does not reach") == 6
    table.write_comparison(run, tmp_path / "comparison.md")
    assert "Nothing was timed." in (tmp_path / "comparison.md").read_text()


@pytest.mark.slow
def test_a_scheme_that_was_not_replayed_does_not_fail(made_up: Analysis) -> None:
    """It has its score, and no times."""
    run = Analysis(dataclasses.replace(made_up.record, requests=made_up.record.requests.slice(0, 0)))
    words = " ".join(_shown(run).split())
    assert words.count("not replayed") == 5
    assert "times: none, because nothing was replayed" in words


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.001, "< 1 %"), (0.999, "> 99 %"), (0.306, "31 %"), (float("nan"), "-")],
)
def test_none_and_all_are_printed_only_if_exact(share: float, text: str) -> None:
    """A share is not rounded to a certainty."""
    assert table._share(share) == text


def test_written_tables_hold_the_same_numbers(made_up: Analysis, tmp_path: Path) -> None:
    """The CSV holds every number as it is; the Markdown has a line for each scheme and uplink."""
    numbers = made_up.numbers
    table.write(made_up, tmp_path / "table.csv")
    table.write(made_up, tmp_path / "table.md")
    back = pd.read_csv(tmp_path / "table.csv")
    for column in ("payload_bytes", "score", "total_mean_s", "total_mean_low_s"):
        assert back[column].tolist() == pytest.approx(numbers[column].tolist(), nan_ok=True)
    assert set(back["run"]) == {made_up.manifest.name}
    assert set(back["validity"]) == {made_up.manifest.validity}
    assert set(back["labels"]) == {
        "; ".join(label for label in (made_up.manifest.label, made_up.manifest.untuned) if label)
    }
    text = (tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(numbers)
    assert len({line.count("|") for line in lines}) == 1
    assert "stand-ins: StreetsQA for RealWorldQA" in text
    with pytest.raises(ResultsError, match=r"ends in \.csv or \.md"):
        table.write(made_up, tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0834, "0.083"), (1.2345, "1.234"), (35.416, "35.42"), (123.4, "123"), (float("nan"), "-")],
)
def test_times_keep_their_width(seconds: float, text: str) -> None:
    """A time is written with its significant digits, in a constant width."""
    assert table._seconds(seconds) == text


def test_the_comparison_has_each_part_below_the_runs_label(made_up: Analysis, tmp_path: Path) -> None:
    """The first to answer, pairs at equal score, latency at equal score, and every scheme's score at equal tokens."""
    table.write_comparison(made_up, tmp_path / "comparison.md")
    text = (tmp_path / "comparison.md").read_text()
    first, pairs, latencies, tokens = (part for part in text.split("\n\n") if part.startswith("|"))
    assert len(first.splitlines()) == 2 + len(made_up.first)
    assert len(pairs.splitlines()) == 2 + len(made_up.equal_scores)
    assert len(latencies.splitlines()) == 2 + made_up.latencies_at_equal_score["ratio"].notna().sum()
    assert len(tokens.splitlines()) == 2 + made_up.points["pipeline"].nunique()
    assert made_up.manifest.label in text
    assert "INVALID: throttled" in text


@pytest.mark.slow
def test_with_a_reference_that_scores_nothing_latency_remains(made_up: Analysis, tmp_path: Path) -> None:
    """With random weights each scheme's first point has its times, nothing claims a score, and no curve is drawn."""
    outcomes = made_up.record.outcomes.to_pandas().assign(correct=False)
    rows = pa.Table.from_pandas(outcomes, schema=schema(OutcomeRow), preserve_index=False)
    run = Analysis(dataclasses.replace(made_up.record, outcomes=rows))
    assert not run.scored
    assert run.numbers["total_mean_s"].notna().all()
    assert not run.numbers["reaches"].any()
    words = " ".join(_shown(run).split())
    assert "no score is claimed: server_only scores 0" in words
    assert words.count("no score") == 1 + len(ORDER)
    assert "certified" not in words
    table.write(run, tmp_path / "table.md")
    table.write_comparison(run, tmp_path / "comparison.md")
    assert "Equal score" not in (tmp_path / "comparison.md").read_text()


@pytest.mark.slow
def test_the_verdict_is_judged_again(made_up: Analysis, tmp_path: Path) -> None:
    """A manifest that says VALID of rows that break a rule is not believed: neither above the table nor below it."""
    manifest = made_up.manifest
    measure = {**manifest.scenario_value("measure"), "warmup": 0}
    edited = {**manifest.scenario, "measure": measure}
    changes = {"scenario": edited, "scenario_hash": hash_of(edited), "validity": "VALID", "reasons": ()}
    run = Analysis(dataclasses.replace(made_up.record, manifest=manifest.model_copy(update=changes)))
    table.write(run, tmp_path / "table.md")
    table.write_comparison(run, tmp_path / "comparison.md")
    written = [(tmp_path / f"{name}.md").read_text() for name in ("table", "comparison")]
    texts = [" ".join(_shown(run).split()), *written]
    assert all("INVALID: no warm-up request was dropped before timing" in text for text in texts)
    assert all("tonight, INVALID" in text for text in texts[:2])
