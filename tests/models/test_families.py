"""Every family of models with the schemes: features cross the link, and the answers are the same."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.raw_features import RawFeatures, RawFeaturesPoint
from harness import catalog, illustrate
from harness.data.sample import Question, Sample
from harness.models import checkpoint, files, gemma3, internvl, llava15, onevision
from harness.models.contract import Request, Untimed
from harness.schemes.contract import Payload
from harness.schemes.features import FeatureDevice, FeatureServer, limits_of
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.merging import Merging
from tests.small_models import make_backbone, make_backbone15, make_gemma3, make_internvl, save

FAMILIES = {
    "onevision": (make_backbone, onevision.load, "llava-onevision-7b"),
    "llava15": (make_backbone15, llava15.load, "llava-1.5-7b"),
    "internvl": (make_internvl, internvl.load, "internvl3-8b"),
    "gemma3": (make_gemma3, gemma3.load, "gemma-3-4b"),
}
QUESTION = Question(text="Which colour?", kind="choice", options={"A": "red", "B": "green"})


def shown(width: int, height: int) -> Sample:
    """A question about one picture, of noise."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Sample(id="q", image_bytes=file.getvalue(), question=QUESTION, truth="A", category="", group="q")


@pytest.fixture(scope="module", params=FAMILIES)
def models(request, tmp_path_factory):
    """The parts of a small model of each family, from its checkpoint."""
    build, load, name = FAMILIES[request.param]
    return load(name, weights=save(build(), tmp_path_factory.mktemp(request.param)), max_pixels=1 << 16)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(32, 32), (90, 40)])
def test_all_features_cross_and_give_the_same_answer(models, width, height):
    """Sent whole in half precision, features keep their places and give the answer of those that were not sent."""
    point = RawFeaturesPoint()
    device, server = RawFeatures.device_half(models, point), RawFeatures.server_half(models, point)
    sample = shown(width, height)
    payload = device(sample, Untimed())
    assert isinstance(payload, Payload)
    (answer,) = server(payload, [QUESTION], Untimed())
    vision, language = models.vision(), models.language()
    seen = vision.see(sample.images()[0], Untimed())
    tokens_TH = language.project_all(seen.x_PVD.half().float(), seen.layout)
    (wanted,) = language.answer([Request([tokens_TH], QUESTION)], [Untimed()])
    assert answer == wanted
    assert answer.visual_tokens == len(tokens_TH)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(32, 32), (90, 40)])
def test_tofc_answers_from_a_stream(models, width, height):
    """Merged features of every patch, coded at the family's D, within the limits of its largest picture."""
    vision, language = models.vision(), models.language()
    torch.manual_seed(0)
    dim, n_c = vision.feature_dim, 3
    codec = TofcCodec(CodecConfig(dim=dim, n_experts=2, hidden=(16,))).eval()
    noise_PCD = torch.randn(2, 32, dim)
    codec.fit_scale(noise_PCD)
    codec.freeze(noise_PCD)
    point = TofcPoint(codec="untrained", n_c=n_c)
    device = FeatureDevice(Tofc.kind, vision, Merging(), codec, point)
    limits = limits_of(models, language, point)
    payload = device(shown(width, height), Untimed())
    assert isinstance(payload, Payload)
    (answer,) = FeatureServer(language, codec, limits)(payload, [QUESTION], Untimed())
    n_patches = len(vision.preprocess(shown(width, height).images()[0]).pixels_PCHW)
    assert answer.visual_tokens == n_patches * n_c
    assert n_patches <= limits.max_patches


@pytest.mark.slow
def test_areas_are_drawn_where_the_patch_is_the_padded_picture(models):
    """Merged areas are shown over the picture padded to a square, or not at all."""
    vision = models.vision()
    codec = TofcCodec(CodecConfig(dim=vision.feature_dim, n_experts=1, hidden=(16,)))
    point = TofcPoint(codec="untrained", n_c=3, neighbours=4)
    device = FeatureDevice(Tofc.kind, vision, Merging(point.neighbours), codec, point)
    labels = illustrate._labels(device, shown(90, 40).images()[0])
    assert {len(labels), *map(len, labels)} == (
        {0} if models.vision().preprocess(shown(90, 40).images()[0]).layout.stretched else {4}
    )


@pytest.mark.slow
def test_a_device_half_reads_the_tower_alone(models, monkeypatch):
    """A device that runs TOFC's vision side needs no other tensor; the next picture needs none at all."""
    fresh = type(models)(models.family, models.name, weights=models.folder)
    read: list[str] = []
    fill = checkpoint.fill

    def noted(folder, part, *rest):
        read.append(part)
        return fill(folder, part, *rest)

    monkeypatch.setattr(checkpoint, "fill", noted)
    for width in (32, 90):
        assert fresh.vision().see(shown(width, 40).images()[0], Untimed()).x_PVD.shape[2] == fresh.vision().feature_dim
    assert read == ["tower"]


def test_every_name_has_a_source_and_a_loader():
    """The catalog, the sources of weights and the smaller models name the same models."""
    assert set(catalog.BACKBONES) == set(files.SOURCES)
    assert set(catalog.ON_DEVICE.values()) <= set(catalog.BACKBONES)
