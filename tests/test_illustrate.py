"""What is taken of a run's features, payloads and answers for a figure."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.ablations.schemes import PROJECTOR, WEIGHTS, Single
from baselines.pillow_codecs import Jpeg, JpegPoint, WebP, WebPPoint
from harness import illustrate
from harness.data.sample import Question, Sample
from harness.models.onevision import load
from harness.schemes.tofc import FeaturePoint, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.merging import Merging


@pytest.mark.slow
@pytest.mark.parametrize("channel", [0, 7])
def test_a_histogram_of_many_elements_has_every_channel_in_it(channel: int) -> None:
    """One channel of 1152 that is large counts as much as it is, whichever it is."""
    dim, n_features = 1152, 7_000
    values = np.random.default_rng(1).normal(size=(n_features, dim))
    values[:, channel] += 50.0
    found = illustrate.histogram(values.ravel())
    assert found.elements <= 2_000_000
    assert found.fits["Gaussian"].location == pytest.approx(50.0 / dim, abs=0.01)
    assert found.fits["Gaussian"].scale == pytest.approx(values.std(), rel=0.02)


def test_the_jpeg_beside_a_case_is_merged_as_the_features_and_answered_as_in_the_run() -> None:
    """By the adapter of the run's JPEG, if it has one; other codecs' do not matter."""
    half: Any = SimpleNamespace(point=TofcPoint(codec="any", n_c=3, neighbours=4), reducer=Merging(4))

    def beside(*points: JpegPoint) -> Any:
        stock: Any = SimpleNamespace(
            points={
                ("webp", "-"): (WebP, WebPPoint(quality=5, n_c=6, adapter="another")),
                **{("jpeg", str(number)): (Jpeg, point) for number, point in enumerate(points)},
            }
        )
        return illustrate._as_tofc(Jpeg, half, stock)

    plain = JpegPoint(quality=5)
    tuned = JpegPoint(quality=5, n_c=6, adapter="merging")
    assert beside(plain) == beside() == JpegPoint(quality=50, n_c=3, neighbours=4)
    assert beside(plain, tuned) == JpegPoint(quality=50, n_c=3, neighbours=4, adapter="merging")


@pytest.mark.slow
def test_the_bits_of_an_ablation_of_your_own_are_divided(tmp_path: Path) -> None:
    """Its codec is among no bundled ones: it is read from the point's folder."""
    models = load("mini-onevision")
    codec = TofcCodec(CodecConfig(dim=160, n_experts=1, hidden=(16,))).eval()
    y_PCD = 0.03 * torch.randn(2, 32, 160, generator=torch.Generator().manual_seed(0))
    codec.fit_scale(y_PCD)
    codec.freeze(y_PCD)
    codec.save(tmp_path / "codec.safetensors")
    projector = WEIGHTS / "mini-onevision" / "tofc_single" / "lambda-0.2" / PROJECTOR
    (tmp_path / PROJECTOR).write_bytes(projector.read_bytes())
    key = ("single", "mine")
    point = FeaturePoint(codec=str(tmp_path), n_c=3)
    stock: Any = SimpleNamespace(points={key: (Single, point)}, backbone="mini-onevision")
    file = io.BytesIO()
    Image.new("RGB", (90, 60), "red").save(file, "PNG")
    question = Question(text="Is it red?", kind="yes_no")
    sample = Sample(id="0", image_bytes=file.getvalue(), question=question, truth="Yes", category="", group="0")
    found = {bits.part: bits.bits for bits in illustrate._bits(key, stock, models, [sample])}
    assert set(found) == {"envelope", "header", "experts", "z", "y"}
    assert found["envelope"] == 64
