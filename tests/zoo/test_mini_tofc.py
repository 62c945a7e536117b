"""The codecs of mini-onevision: a tiny one, trained from nothing, as a scheme of the harness."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.backbones.onevision import OneVision, load
from harness.data.streetsqa import book
from harness.errors import BitstreamError, UnavailableError
from harness.pipelines.contract import Payload
from harness.pipelines.tofc import Tofc, TofcPoint
from harness.profile.clock import StageClock, Untimed
from harness.tofc.training import measure
from harness.training import result
from harness.zoo.mini_tofc import CLUSTERS, card, lessons, train_codec


@pytest.fixture(scope="module")
def backbone() -> Iterator[OneVision]:
    """The zoo's backbone on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("mini-onevision")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def codecs(backbone: OneVision, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the zoo's, with one hardly trained codec."""
    kept = lessons(backbone, book("train", 900_000)[:8])
    folder = tmp_path_factory.mktemp("tofc")
    (folder / backbone.name).mkdir()
    codec = train_codec(backbone, kept, 0.3, steps=3)
    codec.save(folder / backbone.name / "tiny.safetensors")
    found = measure(codec, [y_PCD for _, y_PCD in kept if y_PCD.shape[1] == CLUSTERS[0]])
    assert found.bytes_per_image > 0
    assert "| 0.3 |" in card([(0.3, found)], 60.0)
    return folder


def test_the_scheme_answers_from_the_stream_alone(
    backbone: OneVision, codecs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every declared stage is timed, the payload is the stream, and damage to it is a BitstreamError."""
    from harness.data.asking import samples

    monkeypatch.setattr(result, "CODECS", codecs)
    scheme = Tofc(backbone, TofcPoint(codec="tiny", merge_to=0.044))
    sample = samples(book("test", 0)[:1], paired=False)[0]
    clock = StageClock()
    payload = scheme.on_device(sample, clock)
    (answer,) = scheme.on_server(payload, [sample.question], clock)
    assert tuple(clock.seconds) == (*Tofc.device_stages, *Tofc.server_stages)
    n_h, n_w = backbone.preprocess(sample.image()).grid
    assert answer.visual_tokens == 6 * (n_h * n_w + 1)
    damaged = bytearray(payload.body)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BitstreamError):
        scheme.on_server(Payload(payload.kind, bytes(damaged)), [sample.question], Untimed())


def test_an_unknown_codec_lists_the_known_ones(
    backbone: OneVision, codecs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scenario that names a codec nobody trained is told which there are."""
    monkeypatch.setattr(result, "CODECS", codecs)
    with pytest.raises(UnavailableError, match="unknown codec 'huge'; known: tiny"):
        Tofc(backbone, TofcPoint(codec="huge", merge_to=0.044))
