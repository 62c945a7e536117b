"""Stand-ins for what is not installed, and what is reported as missing without them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from baselines.networks.convert import convert
from baselines.neural_codec import bundled
from harness import catalog
from harness.errors import ScenarioError, UnavailableError
from harness.scenario.load import load
from harness.stock import missing, points_of, take_stock
from tests.scenario.studies import GOOD, with_pipeline


def test_the_stand_in_of_a_backbone_has_points_of_its_own(written: Callable[[object], Path]) -> None:
    """They are checked like the others, and the reference has one there too."""
    tofc = {"scheme": "tofc", "points": [{"codec": "big", "n_c": 16}], "stand_in": [{"codec": ["a", "b"], "n_c": 3}]}
    pipeline = load(written(with_pipeline(tofc))).pipelines[1]
    assert [point.codec for point in pipeline.operating_points()] == ["big"]
    assert [point.codec for point in pipeline.operating_points(stand_in=True)] == ["a", "b"]
    with pytest.raises(ScenarioError, match=r"study.yaml:\d+: pipelines.1.stand_in.0.n_c: 0 is not right"):
        load(written(with_pipeline({**tofc, "stand_in": [{"codec": "a", "n_c": 0}]})))


def test_without_stand_ins_everything_that_is_missing_is_named(
    written: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Benchmark and backbone, each codec once, and networks that only stand in for the published ones."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LMUData", str(tmp_path))
    pipelines = [
        {"scheme": "server_only"},
        {
            "scheme": "tofc",
            "points": [{"codec": "big", "n_c": [8, 16]}],
            "stand_in": [{"codec": "lambda-0.1", "n_c": 6}],
        },
        {"scheme": "elic", "points": [{"weights": [0.006, "elic.safetensors"]}], "stand_in": [{"weights": 0.006}]},
    ]
    scenario = load(written({**GOOD, "pipelines": pipelines}))
    assert missing(scenario) == []
    benchmark, backbone, small, codec, network = missing(scenario, allow_stand_ins=False)
    assert "'harness data get RealWorldQA' downloads it" in benchmark
    assert "llava-hf/llava-onevision-qwen2-7b-ov-hf" in backbone
    assert small.startswith("elic at weights=0.006: the bundled networks are small and trained on few pictures")
    assert "unknown codec of llava-onevision-7b 'big'; known: none; train one to codecs/llava-onevision-7b/big" in codec
    assert "elic.safetensors: there is no such file; 'harness weights convert'" in network


def test_an_absent_benchmark_is_reported_before_a_run(
    written: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unless its stand-in runs; of one's own, the path counts from the scenario's folder."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    several = [{"name": "MME"}, {"name": "MMStar", "stand_in": "StreetsQA"}, {"name": "shop.csv"}]
    given = {**GOOD, "benchmarks": several, "stand_in": {"backbone": "mini-onevision"}}
    del given["benchmark"]
    scenario = load(written(given))
    mme, shop = missing(scenario)
    assert "'harness data get MME' downloads it" in mme
    assert shop.startswith(f"{tmp_path / 'shop.csv'}: there is no such benchmark")
    assert len([text for text in missing(scenario, allow_stand_ins=False) if "MMStar" in text]) == 1
    for name in ("MME.tsv", "shop.csv"):
        (tmp_path / name).touch()
    assert missing(scenario) == []


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["hyperprior", "elic"])
def test_published_networks_are_preferred_to_bundled_ones(
    written: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codec: str
) -> None:
    """If all that the points name are installed; otherwise the bundled ones run, labelled."""
    monkeypatch.chdir(tmp_path)
    published = [f"weights/{codec}-{quality}.safetensors" for quality in (1, 2)]
    points = {"points": [{"weights": published, "n_c": 6}], "stand_in": [{"weights": 0.006, "n_c": 6}]}
    scenario = load(written(with_pipeline({"scheme": codec, **points})))
    scheme = catalog.load("scheme", codec, catalog.SCHEMES)

    def runs() -> tuple[list[str], bool]:
        found = points_of(scenario.pipelines[1], scheme, "mini-onevision", standing_in=True)
        assert missing(scenario) == []
        return [point.label for point in found], scheme.stands_in_for(found[0]) == codec

    checkpoint = load_file(bundled(codec)[0.006])
    for path in published:
        assert runs() == (["weights=0.006,n_c=6"], True)
        torch.save({"state_dict": checkpoint}, tmp_path / "published.pth.tar")
        (tmp_path / "weights").mkdir(exist_ok=True)
        convert(tmp_path / "published.pth.tar", Path(path))
    assert runs() == ([f"weights={path},n_c=6" for path in published], False)


@pytest.mark.slow
def test_bundled_networks_are_labelled_as_stand_ins(written: Callable[[object], Path]) -> None:
    """In the manifest, whose label every table and figure has; without stand-ins they are refused."""
    elic = {"scheme": "elic", "points": [{"weights": 0.006}]}
    own = {**with_pipeline(elic), "benchmark": "StreetsQA", "backbone": "mini-onevision", "stand_in": {}}
    scenario = load(written(own))
    assert dict(take_stock(scenario).stand_ins) == {"elic": "small elic"}
    with pytest.raises(UnavailableError, match=r"elic at weights=0\.006: the bundled networks are small"):
        take_stock(scenario, allow_stand_ins=False)
