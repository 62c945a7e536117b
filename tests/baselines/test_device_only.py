"""device_only: the smaller model answers on the device, and a run says so in bytes, stages and latency."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from baselines import device_only
from baselines.device_only import DeviceOnly, DeviceOnlyPoint
from harness import catalog
from harness.analysis import Analysis
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError, ScenarioError, UnavailableError
from harness.models.contract import Models, Request, Untimed
from harness.models.llava import LlavaVision
from harness.models.llava15 import load as load_llava15
from harness.models.onevision import load
from harness.profiling.clock import StageClock
from harness.scenario.load import load as load_scenario
from harness.schemes.contract import Answer, Payload
from harness.schemes.envelope import pack, receive, send
from harness.study import run
from tests.silent import Silent

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"


@pytest.fixture(scope="module")
def sample():
    """A question of the test split."""
    return samples(book("test", 0)[:1], paired=False)[0]


@pytest.fixture(scope="module")
def server_model():
    """The model that the server would run."""
    return load("mini-onevision")


def half_of(models: Models, **point: Any) -> device_only._Device:
    """The device half at a point."""
    half = DeviceOnly.device_half(models, DeviceOnlyPoint(**point))
    assert isinstance(half, device_only._Device)
    return half


@pytest.mark.slow
def test_the_smaller_model_answers(server_model, sample) -> None:
    """The answer is mini-nano's, from all of its tokens; every stage is the device's."""
    half = half_of(server_model)
    assert (half.vision.name, half.language.name) == ("mini-nano", "mini-nano")
    clock = StageClock()
    answer = send(half, sample, clock)
    nano = load("mini-nano").backbone()
    tiles = nano.preprocess(sample.image())
    tokens_TH = nano.project_all(nano.encode(tiles), tiles.layout)
    (wanted,) = nano.answer([Request([tokens_TH], sample.question)], [Untimed()])
    assert answer == wanted
    assert isinstance(answer, Answer)
    assert answer.visual_tokens == len(tokens_TH)
    assert tuple(clock.seconds) == ("preprocess", "vision_encode", "project", "prefill", "generate")


@pytest.mark.slow
def test_it_may_merge_what_it_reads(server_model, sample) -> None:
    """With merge_to the device's own model has fewer tokens to read."""
    half = half_of(server_model, merge_to=0.044)
    clock = StageClock()
    answer = half(sample, clock)
    assert isinstance(half.vision, LlavaVision)
    n_h, n_w = half.vision.preprocess(sample.image()).layout.grid
    assert answer.visual_tokens == 6 * (n_h * n_w + 1)
    assert tuple(clock.seconds) == ("preprocess", "vision_encode", "merge", "project", "prefill", "generate")


def test_the_model_on_the_device_may_be_named(server_model) -> None:
    """A point's backbone overrides the catalog's; an unknown one is refused with the list of known ones."""
    half = half_of(server_model, backbone="mini-onevision")
    assert half.language.name == "mini-onevision"
    with pytest.raises(ScenarioError, match=r"unknown backbone 'pico'; known: .*mini-nano"):
        DeviceOnly.device_half(server_model, DeviceOnlyPoint(backbone="pico"))


def test_a_backbone_without_a_smaller_one_says_so() -> None:
    """LLaVA-1.5 has none, so that a scenario has to name one."""
    assert set(catalog.ON_DEVICE) | set(catalog.ON_DEVICE.values()) <= set(catalog.BACKBONES)
    llava15 = load_llava15("mini-llava15")
    with pytest.raises(
        UnavailableError, match=r"no smaller model than mini-llava15 .* name one as the point's backbone"
    ):
        DeviceOnly.device_half(llava15, DeviceOnlyPoint())
    half = half_of(llava15, backbone="mini-nano")
    assert half.language.name == "mini-nano"


def test_nothing_reaches_the_server(server_model, sample) -> None:
    """Its server half refuses every payload."""
    server = DeviceOnly.server_half(server_model, DeviceOnlyPoint())
    data = pack(Payload(DeviceOnly.kind, (b"abc",)))
    with pytest.raises(BitstreamError, match="device_only sends nothing, and a payload arrived"):
        receive(server, data, [sample.question], Untimed(), kind=DeviceOnly.kind)


@pytest.mark.slow
def test_a_run_of_it_has_no_bytes_no_link_and_no_server(tmp_path: Path) -> None:
    """From the scenario to the table: 0 bytes per answer, only device stages, and a latency that no uplink changes."""
    given = yaml.safe_load(SMOKE.read_text())
    given["pipelines"] = [{"scheme": "server_only"}, {"scheme": "device_only"}]
    given["samples"], given["measure"]["timed_samples"] = 16, 1
    given["selection"] |= {"target": 0.1, "margin": 0.05}
    (tmp_path / "device_only.yaml").write_text(yaml.safe_dump(given))
    scenario = load_scenario(tmp_path / "device_only.yaml")
    run(scenario, tmp_path / "run", reporter=Silent())
    analysis = Analysis.read(tmp_path / "run")
    record = analysis.record
    outcomes, stages, requests = (t.to_pandas() for t in (record.outcomes, record.stages, record.requests))
    ours = outcomes[outcomes["pipeline"] == "device_only"]
    assert len(ours) == scenario.samples
    assert (ours["payload_bytes"] == 0).all()
    assert (ours["visual_tokens"] > 0).all()
    assert set(stages.loc[stages["pipeline"] == "device_only", "side"]) == {"device"}
    replayed = requests[requests["pipeline"] == "device_only"]
    for instant in ("sent_s", "delivered_s", "answered_s"):
        np.testing.assert_array_equal(replayed[instant], replayed["device_done_s"])
    numbers = analysis.numbers
    row = numbers[numbers["pipeline"] == "device_only"]
    assert row["reaches"].all()
    assert row["total_mean_s"].nunique() == 1
    assert (row[["link_mean_s", "server_mean_s"]] == 0).all().all()
    assert (row["device_mean_s"] == row["total_mean_s"]).all()
    assert not any("no server stage decoded" in reason for reason in record.manifest.reasons)
