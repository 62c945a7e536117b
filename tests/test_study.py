"""The whole flow on the smoke scenario: real models, real bytes, real files."""

import io
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.analysis import Analysis
from harness.data.sample import Question, Sample
from harness.data.tsv_writer import write_tsv
from harness.errors import ResultsError
from harness.illustrate import illustrate
from harness.runs.provenance import MANIFEST, read
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.scenario.model import Scenario, Wanted
from harness.study import run
from tests.forked import forked
from tests.silent import Silent

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def _apart_from_times(record: Record) -> dict[str, pd.DataFrame]:
    """A run's rows without measured times and memory, and without the folder's name."""
    # The start of the process that timed a request differs after a kill.
    stages = record.stages.to_pandas().drop(columns=["seconds", "cpu_s", "waited_s", "load", "start", "run"])
    requests, resources = record.requests.to_pandas(), record.resources.to_pandas().drop(columns="run")
    resources.loc[resources["quantity"] == "peak_memory_bytes", "value"] = 0.0
    return {
        "stages": stages,
        "outcomes": record.outcomes.to_pandas().drop(columns="run"),
        "resources": resources,
        "requests": requests[[c for c in requests.columns if not c.endswith("_s")]],
    }


def test_every_scheme_answers_every_question_at_every_point(smoke: Record, smoke_scenario: Scenario) -> None:
    """As many outcome rows as points times questions, each with its payload's bytes."""
    scenario = smoke_scenario
    points = sum(1 for spec in scenario.pipelines for _ in spec.operating_points())
    outcomes = smoke.outcomes.to_pandas()
    assert scenario.samples is not None
    assert len(outcomes) == points * scenario.samples
    assert (outcomes["payload_bytes"] > 0).all()
    assert outcomes.groupby(["pipeline", "point"])["sample"].nunique().eq(scenario.samples).all()


def test_every_stage_of_every_timed_request_is_there(smoke: Record, smoke_scenario: Scenario) -> None:
    """Rounds times timed samples for each stage that a scheme has, all measured, on one machine."""
    plan = smoke_scenario.measure
    stages = smoke.stages.to_pandas()
    per_stage = stages.groupby(["pipeline", "point", "side", "stage"]).size()
    assert (per_stage == plan.repeats * plan.timed_samples).all()
    assert set(stages["source"]) == {"measured"}
    assert stages["machine"].nunique() == 1
    assert {"decode", "vision_encode", "merge", "prefill", "generate"} <= set(
        stages.loc[stages["pipeline"] == "jpeg", "stage"]
    )


def test_latency_is_device_plus_bits_over_rate_plus_server_exactly(smoke: Record) -> None:
    """The paper's setting: T = T_device + 8 bytes / rate + T_server, on every replayed request."""
    key = ["pipeline", "point", "sample"]
    stages, requests = smoke.stages.to_pandas(), smoke.requests.to_pandas()
    payload = smoke.outcomes.to_pandas().set_index(key)["payload_bytes"]
    requests = requests[requests["channel"] == "25 KB/s"].reset_index(drop=True)
    link_s = requests["delivered_s"] - requests["device_done_s"]
    wanted_s = payload.loc[pd.MultiIndex.from_frame(requests[key])].to_numpy() * 8 / 200e3
    assert (link_s - wanted_s).abs().max() < 1e-9
    total_s = (requests["answered_s"] - requests["submitted_s"] - link_s).groupby([requests[k] for k in key]).sum()
    assert (total_s - stages.groupby(key)["seconds"].sum()).abs().max() < 1e-9


def test_fewer_bytes_at_lower_quality_and_fewer_tokens_when_merged(smoke: Record) -> None:
    """The parameters of the schemes have their effect."""
    outcomes = smoke.outcomes.to_pandas().groupby(["pipeline", "point"])[["payload_bytes", "visual_tokens"]].mean()
    jpeg = outcomes.loc["jpeg"].sort_index()
    assert jpeg.loc[jpeg.index.str.startswith("quality=5,"), "payload_bytes"].item() < jpeg["payload_bytes"].max()
    assert jpeg["visual_tokens"].max() < 0.06 * outcomes.loc["server_only", "visual_tokens"].item()


def test_a_complete_run_is_not_changed(smoke: Record, smoke_scenario: Scenario) -> None:
    """Repeating the command computes nothing."""
    again = Silent()
    run(smoke_scenario, smoke.folder, reporter=again)
    assert again.phases == []


def test_a_stand_in_is_announced_once_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was wanted, why it is absent, and what runs instead: once at the start, and in the manifest."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    wanted = _only("server_only", "webp").model_copy(
        update={
            "benchmark": "RealWorldQA",
            "backbone": "llava-onevision-7b",
            "stand_in": load(ROOT / "scenarios" / "realworldqa_lowrate.yaml").stand_in,
            "samples": 4,
        }
    )
    reporter = Silent()
    run(wanted, tmp_path / "run", reporter=reporter)
    (warning,) = [text for text in reporter.warnings if "runs instead" in text]
    assert "StreetsQA runs instead of RealWorldQA" in warning
    assert "mini-onevision runs instead of llava-onevision-7b" in warning
    manifest = Run.read(tmp_path / "run").manifest
    assert manifest.stand_ins == {"RealWorldQA": "StreetsQA", "llava-onevision-7b": "mini-onevision"}


@pytest.fixture(scope="module")
def short() -> Scenario:
    """A reference, WebP and TOFC on two pictures: two dozen units, each of a fraction of a second."""
    scenario = _only("server_only", "tofc", "webp")
    little = scenario.measure.model_copy(update={"timed_samples": 2, "repeats": 2, "warmup": 0})
    return scenario.model_copy(update={"samples": 8, "measure": little})


@pytest.fixture(scope="module")
def whole(short: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """An uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    run(short, folder, reporter=Silent())
    return Run.read(folder)


def test_a_run_killed_at_any_moment_resumes_and_ends_with_the_same_rows(
    short: Scenario, whole: Record, tmp_path: Path
) -> None:
    """SIGKILL loses at most the current unit; apart from times the rows are those of an uninterrupted run."""
    moment, folder = random.Random(0), tmp_path / "short"
    kills, committed = 0, -1
    while True:
        process = forked(_run, short, folder)
        target = committed + moment.randint(1, 4)
        while process.is_alive() and _parts(folder) < target:
            time.sleep(0.005)
        process.join(moment.random() * 0.1)
        process.kill()
        process.join()
        if process.exitcode is not None and process.exitcode >= 0:
            break
        kills += 1
        if (folder / MANIFEST).exists() and read(folder / MANIFEST).status == "running":
            assert _parts(folder) >= committed
            committed = _parts(folder)
    assert process.exitcode == 0
    assert kills >= 3
    found, wanted = _apart_from_times(Run.read(folder)), _apart_from_times(whole)
    for kind, frame in wanted.items():
        pd.testing.assert_frame_equal(found[kind], frame, obj=kind)


def _run(scenario: Scenario, folder: Path) -> None:
    run(scenario, folder, reporter=Silent())


def _write_mmmu(folder: Path) -> None:
    """Four questions in MMMU's place: a choice and an open one about two pictures, and two about one."""
    red, blue = (Image.new("RGB", size, colour) for size, colour in (((500, 300), "red"), ((90, 200), "blue")))
    files = []
    for picture in (red, blue):
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(file.getvalue())
    options = {"A": "red", "B": "blue"}
    asked = [
        (files, Question(text="What colour is <image 2>?", kind="choice", options=options, marked=True), "B"),
        (files, Question(text="Name the colour of <image 1>.", kind="open", marked=True), "red"),
        (files[:1], Question(text="What colour is <image 1>?", kind="choice", options=options, marked=True), "A"),
        (files[1:], Question(text="What colour is it?", kind="choice", options=options, marked=True), "B"),
    ]
    samples = [
        Sample(
            id=f"val_{number}",
            image_bytes=shown[0],
            more_images=tuple(shown[1:]),
            question=question,
            truth=truth,
            category="Art",
            group=f"val_{number}",
        )
        for number, (shown, question, truth) in enumerate(asked)
    ]
    write_tsv(folder / "MMMU_DEV_VAL.tsv", samples)


def test_several_benchmarks_in_one_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed benchmark and a stand-in for two others, run once: every row names its benchmark; one score."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    _write_mmmu(tmp_path)
    smoke = _only("server_only", "webp")
    wanted = [("MMMU_DEV_VAL", None), ("RealWorldQA", "StreetsQA"), ("MMStar", "StreetsQA")]
    study = smoke.model_copy(
        update={
            "benchmark": None,
            "benchmarks": tuple(Wanted(name=name, stand_in=stand_in) for name, stand_in in wanted),
            "samples": 8,
            "measure": smoke.measure.model_copy(update={"timed_samples": 4, "repeats": 1}),
        }
    )
    run(study, tmp_path / "run", reporter=Silent())
    record = Run.read(tmp_path / "run")
    assert record.manifest.benchmarks == ("MMMU_DEV_VAL", "StreetsQA")
    assert record.manifest.stand_ins == {"RealWorldQA": "StreetsQA", "MMStar": "StreetsQA"}
    outcomes = record.outcomes.to_pandas()
    samples = record.samples.to_pandas().set_index("sample")
    benchmark_of = samples["benchmark"]
    assert outcomes["sample"].map(benchmark_of).value_counts().to_dict() == {
        "StreetsQA": 2 * 8,
        "MMMU_DEV_VAL": 2 * 4,
    }
    assert samples["id"].is_unique
    assert samples.loc[samples["benchmark"] == "MMMU_DEV_VAL", "id"].tolist() == [
        f"val_{number}" for number in range(4)
    ]
    timed = record.stages.to_pandas()["sample"].unique()
    assert sorted(benchmark_of[sample] for sample in timed) == ["MMMU_DEV_VAL"] * 2 + ["StreetsQA"] * 2

    of_mmmu = outcomes[outcomes["sample"].str.startswith("MMMU") & (outcomes["pipeline"] == "server_only")]
    payload = of_mmmu.set_index("sample")["payload_bytes"]
    alone = payload["MMMU_DEV_VAL/val_2"] + payload["MMMU_DEV_VAL/val_3"]
    assert payload["MMMU_DEV_VAL/val_0"] == payload["MMMU_DEV_VAL/val_1"] == alone - 12 + 4, "one envelope, not two"


def _only(*pipelines: str) -> Scenario:
    """The smoke scenario with some of its pipelines."""
    smoke = load(ROOT / "scenarios" / "smoke.yaml")
    return smoke.model_copy(update={"pipelines": tuple(spec for spec in smoke.pipelines if spec.name in pipelines)})


def _parts(folder: Path) -> int:
    return len(list((folder / "parts").glob("*"))) if (folder / "parts").exists() else 0


def test_a_run_is_illustrated(smoke: Record, smoke_scenario: Scenario, tmp_path: Path) -> None:
    """Densities integrate to one, bits are the payloads' own, cases are right by the rows, and no row changes."""
    folder = tmp_path / "smoke"
    shutil.copytree(smoke.folder, folder)
    reporter = Silent()
    illustrate(smoke_scenario, folder, pictures=2, reporter=reporter)
    found = Analysis.read(folder).illustrations
    assert found is not None
    assert reporter.steps == reporter.phases[0][1]
    assert found.density is not None
    for histogram in (found.density.unmerged, found.density.merged):
        inside = np.sum(np.array(histogram.density) * np.diff(histogram.edges))
        assert inside == pytest.approx(0.999, abs=0.002)
    assert found.density.unmerged.elements > 20 * found.density.merged.elements
    outcomes = smoke.outcomes.to_pandas()
    bits = pd.DataFrame([row.model_dump() for row in found.bits])
    assert set(bits["pipeline"]) == set(outcomes["pipeline"])
    for (pipeline, point), parts in bits.groupby(["pipeline", "point"]):
        sizes = outcomes[(outcomes["pipeline"] == pipeline) & (outcomes["point"] == point)]["payload_bytes"]
        assert 8 * sizes.min() <= parts["bits"].sum() <= 8 * sizes.max()
    assert {"z", "y", "experts"} <= set(bits[bits["pipeline"] == "tofc"]["part"])
    if found.cases is not None:
        for case in found.cases.cases:
            row = outcomes[(outcomes["pipeline"] == "tofc") & (outcomes["sample"] == case.sample)].iloc[0]
            assert (row["correct"], row["answer"], row["payload_bytes"]) == (True, case.answer, case.payload_bytes)
            assert (folder / "illustrations" / case.left).exists()
    other = smoke_scenario.model_copy(update={"seed": 1})
    with pytest.raises(ResultsError, match="another scenario"):
        illustrate(other, folder, reporter=Silent())
