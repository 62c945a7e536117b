"""Latencies of a run: means of the whole benchmark, the coverage of their intervals, and when none is given."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness.analysis import Analysis, cells, comparison, crossings, latency, whatif
from harness.analysis.setting import Population, system_of
from harness.errors import ResultsError
from harness.records import OutcomeRow, SampleRow, StageRow, schema
from harness.replay import sweep
from tests.made_up_run import MACHINE, RATES_BPS, REPLAY, make

ROUNDS = 4


def rows(row: type, **columns: Any) -> pa.Table:
    """A table of a class of rows from columns and constants."""
    return pa.Table.from_pandas(pd.DataFrame(columns), schema=schema(row), preserve_index=False)


def studied(
    made_up: Analysis, rng: np.random.Generator, timed: int, *, slope_s: float = 0.02, points: Any = None
) -> tuple[Analysis, float]:
    """The made-up run timed again, at some points or all, on pictures whose time follows their patches; and its true
    mean.

    Patches are 5 or 13, and the pictures with 13 send twice the bytes; a round drifts by 5 %.
    """
    samples = made_up.record.samples.to_pandas().sort_values("sample", ignore_index=True)
    patches = np.where(rng.random(60) < 0.3, 13, 5)[np.arange(240) // 4]
    samples["patches"] = patches
    outcomes = made_up.record.outcomes.to_pandas()
    of_sample = dict(zip(samples["sample"], patches, strict=True))
    outcomes["payload_bytes"] = np.where(outcomes["sample"].map(of_sample) == 13, 20_000, 10_000)
    of_picture = np.repeat(rng.lognormal(-0.02, 0.2, 60), 4)
    mean_s = slope_s * patches * of_picture
    places = 4 * rng.choice(60, timed, replace=False)
    drift_R = np.exp(rng.normal(0, 0.05, ROUNDS))
    tables = []
    for pipeline, point in points or made_up.timed_points:
        for side, share in (("device", 0.3), ("server", 0.7)):
            noise = rng.lognormal(0, 0.05, (timed, ROUNDS))
            seconds = share * mean_s[places][:, None] * drift_R * noise
            tables.append(
                pd.DataFrame({
                    "run": "r", "unit": f"{pipeline} {point}", "pipeline": pipeline, "point": point,
                    "sample": np.repeat(samples["sample"].to_numpy()[places], ROUNDS),
                    "repeat": np.tile(np.arange(ROUNDS), timed), "round": np.tile(np.arange(ROUNDS), timed),
                    "start": 0, "side": side, "stage": side, "seconds": seconds.ravel(), "cpu_s": np.nan,
                    "waited_s": np.nan, "load": np.nan, "machine": MACHINE, "source": "measured",
                })
            )  # fmt: skip
    record = dataclasses.replace(
        made_up.record,
        samples=rows(SampleRow, **samples),
        outcomes=rows(OutcomeRow, **outcomes),
        stages=rows(StageRow, **pd.concat(tables)),
    )
    # Over the pictures that could have been drawn: those of the benchmark are one draw of these.
    truth = slope_s * float(patches.mean()) * np.exp(0.05**2 / 2) * np.exp(0.05**2 / 2)
    return Analysis(record), truth


def total(run: Analysis, pipeline: str = "jpeg", channel: str = "25 KB/s") -> "pd.Series[Any]":
    """The numbers of a scheme's selected point at an uplink."""
    numbers = run.numbers
    return numbers[(numbers["pipeline"] == pipeline) & (numbers["channel"] == channel)].iloc[0]


@pytest.mark.slow
def test_the_link_is_that_of_all_questions(made_up: Analysis) -> None:
    """Whatever was timed, link time is 8 bytes / rate over the payloads of every question, exactly."""
    run, _ = studied(made_up, np.random.default_rng(0), 6)
    outcomes = run.record.outcomes.to_pandas()
    for pipeline in ("jpeg", "webp"):
        for channel, rate_bps in RATES_BPS.items():
            row = total(run, pipeline, channel)
            own = outcomes[(outcomes["pipeline"] == pipeline) & (outcomes["point"] == row["point"])]
            assert row["link_mean_s"] == pytest.approx(8 * own["payload_bytes"].mean() / rate_bps)
            assert row["link_mean_low_s"] == row["link_mean_s"] == row["link_mean_high_s"]
            parts = row[["device_mean_s", "link_mean_s", "wait_mean_s", "server_mean_s"]].sum()
            assert row["total_mean_s"] == pytest.approx(parts)


@pytest.mark.slow
def test_intervals_of_the_means_cover(made_up: Analysis) -> None:
    """From rows to the table's numbers, 95 % intervals of eight pictures cover the benchmark's mean as they claim."""
    key = "jpeg", total(made_up)["point"]
    requests, covered, n = made_up.record.requests, 0, 40
    own = requests.filter(pc.and_(pc.equal(requests["pipeline"], key[0]), pc.equal(requests["point"], key[1])))
    own = own.filter(pc.equal(own["channel"], "25 KB/s"))
    for seed in range(n):
        run, truth = studied(made_up, np.random.default_rng(seed), 8, points=[key])
        found = cells.latencies(own, run.setting).set_index("part")
        known = found["mean_s"]["link"]
        low, high = (found[end]["total"] - known for end in ("mean_low_s", "mean_high_s"))
        covered += low <= truth <= high
    # Of 40 studies at 95 %, fewer than 33 are a chance of 1 in 300.
    assert covered >= 33


@pytest.mark.slow
def test_means_are_post_stratified(made_up: Analysis) -> None:
    """Timed on large pictures mostly, the mean is that of the benchmark's own mix and not of the timed pictures."""
    run, _ = studied(made_up, np.random.default_rng(1), 12, slope_s=0.05)
    stratum_of, timed = run.population.stratum_of, run.setting.timed(("jpeg", total(run)["point"]))
    plain = timed.total_SR.mean()
    own = np.array([stratum_of[name] for name in timed.samples])
    benchmark = np.asarray(run.population.stratum_N).mean()
    moved = total(run)["total_mean_s"] - total(run)["link_mean_s"] - plain
    assert abs(own.mean() - benchmark) > 0.2
    assert np.sign(moved) == np.sign(benchmark - own.mean())


@pytest.mark.slow
def test_too_few_pictures_have_no_interval(made_up: Analysis) -> None:
    """Five timed pictures give a mean without an interval, and say why."""
    run, _ = studied(made_up, np.random.default_rng(2), 5)
    row = total(run)
    assert np.isnan(row["total_mean_low_s"])
    assert row["total_reason"] == "5 pictures give no interval: 6 are needed"
    assert "5 pictures give no interval: 6 are needed" in run.timing_warnings
    assert run.first["ratio_low"].dropna().tolist() == [1.0, 1.0, 1.0], "that of the first over itself"


@pytest.mark.slow
def test_percentiles_are_claimed_by_pictures(made_up: Analysis) -> None:
    """Twelve pictures in three rounds certify a median but no 90th percentile."""
    row = total(made_up)
    assert row["total_p50_low_s"] <= row["total_p50_s"] <= row["total_p50_high_s"]
    assert np.isnan(row["total_p90_s"])
    assert np.isnan(row["total_p99_s"])


def started(made_up: Analysis, start: Any) -> Analysis:
    """The made-up run, whose stage rows come from these starts of the process."""
    stages = made_up.record.stages.to_pandas().assign(start=np.asarray(start, dtype=np.int64))
    return Analysis(dataclasses.replace(made_up.record, stages=rows(StageRow, **stages)))


def apart_warnings(run: Analysis) -> list[str]:
    """The warnings that name schemes timed in other starts of the process."""
    return [text for text in run.timing_warnings if "another start of the process" in text]


@pytest.mark.slow
def test_schemes_timed_apart_have_no_interval_between_them(made_up: Analysis) -> None:
    """A scheme that was timed in another start of the process is named, and no ratio with it has an interval."""
    stages = made_up.record.stages.to_pandas()
    run = started(made_up, stages["pipeline"] == "jpeg")
    (sentence,) = apart_warnings(run)
    assert sentence == "jpeg: timed in another start of the process than tofc; ratios of the two have no interval"
    others = run.first[run.first["pipeline"] != run.first["first"]]
    refused = (others["pipeline"] == "jpeg") | (others["first"] == "jpeg")
    assert others["ratio_low"].isna().tolist() == refused.tolist()
    assert others.loc[refused, "reason"].str.startswith("not comparable: timed in different starts").all()
    said = comparison.first_sentences(run.first)
    assert all("jpeg" in sentence.split(" answers first")[0] for sentence in said), "the interval leaves open which"
    crossed = crossings.crossover(
        run.selected_profile("jpeg"), run.selected_profile("tofc"), run.setting.system, low_bps=1e4, high_bps=1e9,
        population=run.population, confidence=run.latency_confidence,
    ).rate_bps  # fmt: skip
    assert crossed is not None
    assert np.isnan(crossed.low)
    assert crossed.reason.startswith("not comparable: ")
    at = run.latencies_at_equal_score
    of_jpeg = at["test"].str.startswith("jpeg") | at["anchor"].str.startswith("jpeg")
    assert at.loc[of_jpeg, "ratio_low"].isna().all()


@pytest.mark.slow
def test_a_run_that_was_resumed_compares_its_schemes(made_up: Analysis) -> None:
    """If all schemes share the rounds none is named, though a start ended between two schemes' turns on a sample."""
    stages = made_up.record.stages.to_pandas()
    samples = sorted(stages["sample"].unique())
    place = stages["sample"].map({sample: place for place, sample in enumerate(samples)})
    later = (stages["round"] > 1) | ((stages["round"] == 1) & (place > 4))
    split = later | ((stages["round"] == 1) & (place == 4) & (stages["pipeline"] != "jpeg"))
    for start in (np.zeros(len(stages)), stages["round"] > 0, split):
        run = started(made_up, start)
        assert apart_warnings(run) == []
        assert run.first["ratio_low"].notna().all()


@pytest.mark.slow
def test_starts_that_scatter_are_in_every_interval_of_times(made_up: Analysis) -> None:
    """If three starts differ by a tenth, every interval of a mean time includes that, wherever it is printed."""
    stages = made_up.record.stages.to_pandas()
    stages["seconds"] *= np.array([0.9, 1.0, 1.12])[stages["round"]]
    scattered = Analysis(dataclasses.replace(made_up.record, stages=rows(StageRow, **stages)))
    run = started(scattered, stages["round"])
    spec = run.setting.system
    told = whatif.advise(
        [run.selected_profile("jpeg")], {("jpeg", total(run)["point"]): 1.0}, spec, spec.uplinks[0], deadline_s=1.0,
        min_score=0.5, population=run.population, confidence=run.latency_confidence,
    )[0].mean_s  # fmt: skip
    row, link_s = total(run), total(run)["link_mean_s"]
    assert told.high == pytest.approx(row["total_mean_high_s"])
    of_stages = run.stage_times[run.stage_times["mean_low_s"].notna()]
    spread = [
        (row["total_mean_high_s"] - link_s) / (row["total_mean_s"] - link_s),
        run.timed_mean("jpeg", row["point"]).high / run.timed_mean("jpeg", row["point"]).value,
        (of_stages["mean_high_s"] / of_stages["mean_s"]).median(),
    ]
    # Most of Student's quantile of two degrees times 11 % over the root of three: requests scatter too.
    assert min(spread) > np.exp(0.75 * 4.30 * 0.11 / np.sqrt(3))


@pytest.mark.slow
def test_drift_is_warned_of(made_up: Analysis) -> None:
    """Rounds that get slower by a fifth are reported for every scheme, and cancel in the ratios of two."""
    stages = made_up.record.stages.to_pandas()
    stages["seconds"] *= 1 + 0.2 * stages["round"]
    run = Analysis(dataclasses.replace(made_up.record, stages=rows(StageRow, **stages)))
    assert sum("the rounds drifted: +" in sentence for sentence in run.timing_warnings) == len(run.first) / 3
    assert run.session == "this session only"
    # A factor that all schemes of a round share leaves their ratios unchanged.
    fixed = made_up.first.set_index(["channel", "pipeline"])
    moved = run.first.set_index(["channel", "pipeline"])
    for channel in RATES_BPS:
        np.testing.assert_allclose(moved["ratio"][channel], fixed["ratio"][channel], rtol=0.25)


@pytest.mark.slow
def test_several_benchmarks_count_alike(made_up: Analysis) -> None:
    """Link times are the mean of the benchmarks' means, as payload bytes are."""
    samples = made_up.record.samples.to_pandas().sort_values("sample", ignore_index=True)
    samples["benchmark"] = ["MMStar" if i < 60 else "StreetsQA" for i in range(len(samples))]
    manifest = made_up.manifest.model_copy(update={"benchmarks": ("MMStar", "StreetsQA")})
    run = Analysis(dataclasses.replace(made_up.record, manifest=manifest, samples=rows(SampleRow, **samples)))
    row = run.numbers[run.numbers["pipeline"] == "server_only"].iloc[0]
    assert row["link_mean_s"] == pytest.approx(8 * row["payload_bytes"] / RATES_BPS[row["channel"]])
    assert len(np.asarray(run.population.stratum_N)) == 360


@pytest.mark.slow
def test_waiting_takes_the_replays_rows(tmp_path: Any) -> None:
    """If requests may time out, the means are of the rows, parts add up, and ratios have no interval."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05))
    row = total(run)
    requests = run.record.requests.to_pandas()
    own = requests[(requests["pipeline"] == "jpeg") & (requests["point"] == row["point"])]
    own = own[own["channel"] == "25 KB/s"]
    assert row["total_mean_s"] == pytest.approx((own["answered_s"] - own["submitted_s"]).mean())
    assert row["total_mean_low_s"] < row["total_mean_s"] < row["total_mean_high_s"]
    assert run.first["ratio_low"].notna().sum() == 3
    assert set(run.first["reason"]) == {"", "a request may be given up"}
    assert run.met == "all"


@pytest.mark.slow
def test_an_unstable_system_has_no_mean(tmp_path: Any) -> None:
    """More requests arrive than the servers can answer: the reason replaces the mean, and no share is in time."""
    crowded = {"arrivals": {"kind": "poisson", "rate_hz": 100.0}, "users": [1], "deadline_s": 0.2}
    run = Analysis(make(tmp_path / "run", replay=crowded))
    row = total(run)
    assert np.isnan(row["total_mean_s"])
    assert row["total_reason"].startswith("unstable: utilisation ")
    assert row[["in_time", "in_time_low", "in_time_high", "total_p50_s"]].isna().all()


@pytest.mark.slow
def test_requests_without_stages_are_refused(made_up: Analysis) -> None:
    """Requests of a point that was never timed have no source."""
    stages = made_up.record.stages.to_pandas()
    left = rows(StageRow, **stages[stages["pipeline"] != "jpeg"])
    run = Analysis(dataclasses.replace(made_up.record, stages=left))
    with pytest.raises(ResultsError, match=r"jpeg at .* has requests but no stage rows"):
        run.times  # noqa: B018


@pytest.mark.slow
def test_no_requests_no_rows(made_up: Analysis) -> None:
    """An empty replay has the columns that any other has."""
    run = Analysis(dataclasses.replace(made_up.record, requests=made_up.record.requests.slice(0, 0)))
    assert run.times.empty
    assert list(run.times.columns) == list(made_up.times.columns)


@pytest.mark.slow
def test_every_interval_is_at_the_scenarios_confidence(made_up: Analysis) -> None:
    """At 80 % every finite interval is shorter than at 95 %, in each table of the analysis."""

    def at(confidence: float) -> Analysis:
        scenario = dict(made_up.manifest.scenario)
        scenario["selection"] = {**scenario["selection"], "confidence": confidence}
        manifest = made_up.manifest.model_copy(update={"scenario": scenario})
        return Analysis(dataclasses.replace(made_up.record, manifest=manifest))

    low, high = at(0.8), at(0.95)
    # Each of the same points: what is selected may differ.
    tables = {
        "times": lambda run: run.stage_times.set_index(["pipeline", "point", "side", "stage"]),
        "scores": lambda run: run.points.set_index(["pipeline", "point"]),
        "bytes": lambda run: run.equal_scores.set_index(["test", "anchor"]),
        "latencies": lambda run: run.latencies_at_equal_score.set_index(["channel", "test", "anchor"]),
        "numbers": lambda run: run.numbers.set_index(["channel", "pipeline", "point"]),
        "crossovers": lambda run: run.crossovers.set_index(["below", "above"]),
    }
    for name, table_of in tables.items():
        narrow, wide = table_of(low), table_of(high)
        both = narrow.index.intersection(wide.index)
        ends = [column for column in narrow.columns if "_low" in column and column.replace("_low", "_high") in narrow]
        assert ends, name
        for column in ends:
            widths = [
                (table.loc[both, column.replace("_low", "_high")] - table.loc[both, column]).to_numpy(float)
                for table in (narrow, wide)
            ]
            known = np.isfinite(widths[0]) & np.isfinite(widths[1]) & (widths[1] > 0)
            assert (widths[0] <= widths[1])[known].all(), (name, column)
            assert not known.any() or (widths[0] < widths[1])[known].any(), (name, column)


@pytest.mark.slow
def test_a_finished_runs_links_are_judged_by_their_mean_or_reported_as_unknown(made_up: Analysis) -> None:
    """A chain of two rates is in the manifest and is judged; a link in a file is reported as not judged."""
    chain = {"kind": "gilbert_elliott", "good_bps": 400e3, "bad_bps": 0.0, "good_for_s": 1.0, "bad_for_s": 1.0}
    file = {"kind": "trace", "path": "link.parquet", "at_end": "loop", "gaps": "outage", "start": None}
    uplinks = [{**chain, "name": "25 KB/s"}, {**file, "name": "50 KB/s"}, {**file, "name": "100 KB/s"}]
    warned = "not judged: whether the schemes keep up over the uplink 100 KB/s, 50 KB/s, whose rate is in a file"
    for rate_hz, unstable in ((0.01, False), (3.0, True)):
        replay = {**made_up.manifest.scenario_value("replay"), "uplinks": uplinks}
        replay["arrivals"] = {"kind": "poisson", "rate_hz": rate_hz}
        manifest = made_up.manifest.model_copy(update={"scenario": {**made_up.manifest.scenario, "replay": replay}})
        run = Analysis(dataclasses.replace(made_up.record, manifest=manifest))
        row = total(run, "server_only")
        assert str(row["total_reason"]).startswith("unstable: utilisation ") == unstable
        assert np.isnan(row["total_mean_s"]) == unstable
        assert np.isfinite(total(run, "server_only", "50 KB/s")["total_mean_s"])
        assert run.timing_warnings[-1] == warned
    assert not any("not judged" in text for text in made_up.timing_warnings)


@pytest.mark.slow
def test_a_session_is_that_of_the_side_with_the_fewest_starts(made_up: Analysis) -> None:
    """Nine rounds over three starts are more than a session unless a shown point, or a side of it, has one start."""
    stages = made_up.record.stages.to_pandas()
    again = [stages.assign(repeat=3 * n + stages["repeat"], round=3 * n + stages["round"], start=n) for n in range(3)]
    stages = pd.concat(again, ignore_index=True)
    shown = total(made_up)["point"]
    of_jpeg = (stages["pipeline"] == "jpeg") & (stages["point"] == shown)
    hidden = (stages["pipeline"] == "jpeg") & (stages["point"] != shown)
    cases = (
        (stages["side"] == "none", ""),
        (hidden, ""),
        (of_jpeg, "yes"),
        (of_jpeg & (stages["side"] == "server"), "yes"),
    )
    for late, session in cases:
        timed = rows(StageRow, **stages.assign(start=stages["start"].mask(late, 3)))
        run = Analysis(dataclasses.replace(made_up.record, stages=timed))
        assert run.session == (session and "this session only")


@pytest.mark.slow
def test_means_are_of_the_benchmark_only_where_requests_do_not_queue(made_up: Analysis) -> None:
    """Requests of one user in a closed loop never queue, those of four do; a run of both labels both."""
    requests = made_up.record.requests
    four = requests.set_column(requests.column_names.index("users"), "users", pa.repeat(4, len(requests)).cast("int64"))
    both = pa.concat_tables([requests, four.cast(requests.schema)])
    found = [Analysis(dataclasses.replace(made_up.record, requests=table)).met for table in (requests, four, both)]
    assert found == ["none", "all", "some"]


@pytest.mark.slow
def test_why_requests_are_not_alone_is_told_truly(made_up: Analysis) -> None:
    """Each thing that keeps a cell's times from being stages and a link time is named; a batch's window is none."""
    constant, wire = REPLAY["uplinks"][0], {"burst_bytes": 3000}
    chain = {"kind": "gilbert_elliott", "good_bps": 4e5, "bad_bps": 0.0, "good_for_s": 1.0, "bad_for_s": 1.0}
    for changed, users, why in (
        ({}, 1, ""),
        ({"batching": {"max_batch": 4, "window_s": 0.1, "marginal": 0.5, "together": []}}, 1, ""),
        ({"servers": 2}, 2, "requests may meet"),
        ({"arrivals": {"kind": "poisson", "rate_hz": 1.0}}, 1, "requests may meet"),
        ({"arrivals": {"kind": "recorded", "path": "at.csv"}}, 1, "requests may meet"),
        ({"timeout_s": 9.0}, 1, "a request may be given up"),
        ({"uplinks": [{**constant, "wire": wire}]}, 1, "a burst that one request uses is not available to the next"),
        ({"uplinks": [{**chain, "name": "25 KB/s"}]}, 1, "the link's rate varies"),
        ({"uplinks": []}, 1, "the link's rate varies"),
    ):
        setting = dataclasses.replace(made_up.setting, system=system_of({**REPLAY, **changed}))
        cell = {"channel": "25 KB/s", "users": users}
        assert (setting.met(cell), setting.alone(cell)) == (why, not why)


@pytest.mark.slow
def test_a_batchs_window_moves_the_times_of_one_user_and_widens_nothing(made_up: Analysis) -> None:
    """Means, their ends and percentiles are those without it, plus the window; the replay's own rows agree."""
    batching = {"max_batch": 4, "window_s": 0.1, "marginal": 0.5, "together": ["prefill"]}
    section = {**REPLAY, "batching": batching}
    changed = made_up.manifest.model_copy(update={"scenario": {**made_up.manifest.scenario, "replay": section}})
    run = Analysis(dataclasses.replace(made_up.record, manifest=changed))
    assert run.met == "none"
    assert set(run.parts) == {"device", "link", "wait", "server", "total"}
    windows_s = np.where(run.numbers["pipeline"] == "device_only", 0.0, 0.1)
    for part, moved_s in (("wait", windows_s), ("total", windows_s), ("link", 0.0), ("server", 0.0)):
        for column in (f"{part}_mean_s", f"{part}_mean_low_s", f"{part}_mean_high_s", f"{part}_p50_s"):
            np.testing.assert_allclose(run.numbers[column], made_up.numbers[column] + moved_s, atol=1e-12)
    parts_s = run.numbers[[f"{part}_mean_s" for part in ("device", "link", "wait", "server")]].sum(axis=1, skipna=False)
    np.testing.assert_allclose(parts_s, run.numbers["total_mean_s"])
    assert set(run.first["reason"]) == {""}
    assert run.first["ratio_low"].notna().all()
    assert run.crossovers["rate_low_bps"].notna().all()
    equal = run.latencies_at_equal_score, made_up.latencies_at_equal_score
    assert len(equal[0]) == len(equal[1]) > 0
    told = equal[1]["ratio"].notna()
    assert (equal[0]["ratio"].notna() == told).all()
    assert (equal[0].loc[told, "test_s"] > equal[1].loc[told, "test_s"] + 0.09).all()
    # What the system makes of each timed request, one after the other.
    spec = run.setting.system.model_copy(update={"uplinks": run.setting.system.uplinks[:1]})
    setting = dataclasses.replace(run.setting, population=of_timed(run))
    for pipeline, point, window_s in (("jpeg", total(run)["point"], 0.1), ("device_only", "-", 0.0)):
        table = sweep([run.profile(pipeline, point)], spec)
        deadline_s = float(np.quantile(latency.part_s(table, "total"), 0.7))
        ours = cells.latencies(table, setting, deadline_s).set_index("part")
        for part in ("wait", "link", "server", "total"):
            spent_s = latency.part_s(table, part)
            assert ours.loc[part, "mean_s"] == pytest.approx(spent_s.mean())
            assert ours.loc[part, "p50_s"] == pytest.approx(latency.percentile(spent_s, 0.5))
        assert ours.loc["wait", "mean_s"] == window_s
        assert ours.loc["total", "share"] == pytest.approx((spent_s <= deadline_s).mean())


def of_timed(run: Analysis) -> Population:
    """The timed questions as if they were the whole benchmark."""
    timed = run.record.stages["sample"].unique()
    outcomes = run.record.outcomes.filter(pc.is_in(run.record.outcomes["sample"], timed))
    return Population.of(outcomes, run.record.samples)


@pytest.mark.slow
def test_a_lone_request_waits_for_a_batch_to_fill(made_up: Analysis) -> None:
    """The replay adds the whole window to its stages and its link."""
    for more, waits in (({}, False), ({"window_s": 0.1}, True), ({"window_s": 0.1, "max_batch": 1}, False)):
        batching = {"max_batch": 4, "window_s": 0.0, "marginal": 0.5, "together": ["prefill"], **more}
        setting = dataclasses.replace(made_up.setting, system=system_of({**REPLAY, "batching": batching}))
        uplink, population = setting.uplink("25 KB/s"), made_up.setting.population
        assert uplink is not None
        for profile in setting.profiles.values():
            wait_s = 0.1 if waits and profile.pipeline != "device_only" else 0.0
            n_bytes = np.asarray(population.payload_bytes[profile.pipeline, profile.point], dtype=np.int64)
            bits_s = 8 * n_bytes.mean() / uplink.rate_bps
            assert cells.mean_link_s(profile, setting.system, uplink, population) == pytest.approx(bits_s + wait_s)
