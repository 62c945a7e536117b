"""Training the small codecs: the linear start is a codec at once, training improves it, and seeds decide everything."""

import functools
import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.networks.elic import Elic2022Official
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.weights import load, read
from baselines.neural_codec import Hyperprior, NeuralPoint
from benchmarks.rate_distortion import psnr_db
from harness.data.drawing.seeded_random import SeededRandom
from harness.errors import DataError
from recipes import image_codecs
from recipes import pictures as recipe
from recipes.linear_start import rescale, start, steps_per_unit
from recipes.pictures import BATCH, PATCH_PX, Picture, batch, collage, pictures

NETWORKS = {
    "hyperprior": lambda: ScaleHyperprior(16, 24),
    "elic": lambda: Elic2022Official(16, 24, (4, 4, 16), [(12, 8)] * 2),
}


@functools.cache
def collages() -> list[Picture]:
    """A few training pictures."""
    return [collage(SeededRandom("test", number)) for number in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_linear_start_beats_random_weights(make: Callable[[], torch.nn.Module]) -> None:
    """A transform coder of 24 components: above 18 dB at once, at a tenth of the loss or less."""
    torch.manual_seed(0)
    net, x_B3PP = make(), batch(collages(), 0, 0)
    with torch.no_grad():
        random_loss, _ = image_codecs.rate_distortion(net, x_B3PP, 0.02)
        start(net, x_B3PP, 0.02)
        loss, psnr = image_codecs.rate_distortion(net, x_B3PP, 0.02)
    assert psnr > 18
    assert loss < random_loss / 10


@pytest.mark.parametrize("lambda_", [0.001, 0.02])
def test_the_step_is_where_bytes_and_error_trade_evenly(lambda_: float) -> None:
    """A little more or less than the step costs more of 3 log2(1 / s) + lambda 255^2 s^2 / 12."""
    step = 1 / steps_per_unit(lambda_)

    def cost(s: float) -> float:
        return -3 * math.log2(s) + lambda_ * 255**2 * s**2 / 12

    assert cost(step) < min(cost(1.01 * step), cost(0.99 * step))


@pytest.mark.slow
def test_a_rescaled_codec_is_the_same_transform() -> None:
    """Without quantisation the picture is the same, and y and its scales are scaled by the factor."""
    torch.manual_seed(0)
    net: Any = NETWORKS["hyperprior"]()
    x_B3PP = batch(collages(), 0, 0)
    start(net, x_B3PP, 0.02)
    with torch.no_grad():
        y, x_hat = net.g_a(x_B3PP), net.g_s(net.g_a(x_B3PP))
        scales = net.h_s(net.h_a(y.abs()))
        rescale(net, 0.5)
        torch.testing.assert_close(net.g_a(x_B3PP), y / 2)
        torch.testing.assert_close(net.g_s(y / 2), x_hat)
        torch.testing.assert_close(net.h_s(net.h_a(y.abs() / 2)), scales / 2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _train(monkeypatch: pytest.MonkeyPatch, codec: str, work: Path, folder: Path, steps: int) -> None:
    monkeypatch.setattr(image_codecs, "NETWORKS", NETWORKS)
    monkeypatch.setattr(image_codecs, "ROUNDS", {codec: ((0.02, 2, steps), (0.005, 2, 2))})
    monkeypatch.setattr(image_codecs, "_POOL_BATCHES", 4)
    monkeypatch.setattr(image_codecs, "_RATE", 1e-3)
    monkeypatch.setattr(image_codecs, "pictures", lambda *_: collages())
    image_codecs.make(codec, work, folder, work)


@pytest.mark.slow
def test_training_reduces_the_loss_and_seeds_decide_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None
) -> None:
    """From the start to a working codec, and once more to the same bytes; the loss on patches that it saw falls."""
    for name in ("one", "two"):
        _train(monkeypatch, "hyperprior", tmp_path / name / "work", tmp_path / name, 30)
    for lambda_ in (0.02, 0.005):
        one, two = (tmp_path / name / f"hyperprior-{lambda_}.safetensors" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    codec = Hyperprior(NeuralPoint(weights=str(one)))
    original = Image.fromarray(collages()[0])
    assert psnr_db(original, codec.decode(codec.encode(original))) > 15

    _train(monkeypatch, "hyperprior", tmp_path / "none" / "work", tmp_path / "none", 0)
    x_B3PP = torch.cat([batch(collages(), 1_000_020, step) for step in range(8)])
    losses = []
    for name in ("none", "one"):
        path = tmp_path / name / "hyperprior-0.02.safetensors"
        state = read(path)
        net = ScaleHyperprior(16, 24)
        load(path, net, state)
        with torch.no_grad():
            losses.append(float(image_codecs.rate_distortion(net, x_B3PP, 0.02)[0]))
    assert losses[1] < 0.97 * losses[0]


@pytest.mark.slow
def test_stopped_training_is_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None) -> None:
    """Finished rounds are read back: without any step, the same weights are written again."""
    _train(monkeypatch, "elic", tmp_path / "work", tmp_path / "one", 2)
    monkeypatch.setattr(image_codecs, "rate_distortion", None)
    monkeypatch.setattr(image_codecs, "rate", None)
    _train(monkeypatch, "elic", tmp_path / "work", tmp_path / "two", 2)
    for lambda_ in (0.02, 0.005):
        one, two = (tmp_path / name / f"elic-{lambda_}.safetensors" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
@given(step=st.integers(0, 50))
def test_patches_depend_on_the_seed_and_the_step_alone(step: int) -> None:
    """Resumed training gets the patches that uninterrupted training would."""
    x_B3PP = batch(collages(), 7, step)
    assert torch.equal(x_B3PP, batch(collages(), 7, step))
    assert x_B3PP.shape == (BATCH, 3, PATCH_PX, PATCH_PX)
    assert 0 <= float(x_B3PP.min()) <= float(x_B3PP.max()) <= 1
    assert not torch.equal(x_B3PP, batch(collages(), 8, step))
    assert not torch.equal(x_B3PP, batch(collages(), 7, step + 1))


def _wheel(path: Path, content: dict[str, Image.Image]) -> dict[str, str]:
    """Write a wheel with pictures in it, and return the beginnings of their SHA-256."""
    digests = {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in content.items():
            body = io.BytesIO()
            image.save(body, "PNG")
            archive.writestr(name, body.getvalue())
            digests[name] = hashlib.sha256(body.getvalue()).hexdigest()[:16]
    return digests


@pytest.mark.slow
def test_half_of_the_training_pictures_are_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They come from wheels, grey ones too, and from 512 px on at half their size as well."""
    photographs = {
        "a/large.png": Image.new("RGB", (600, 512), (9, 99, 199)),
        "b/grey.png": Image.new("L", (300, 256), 7),
    }
    monkeypatch.setattr(recipe, "PHOTOGRAPHS", _wheel(tmp_path / "one.whl", photographs))
    monkeypatch.setattr(recipe, "_drawn", lambda books: collages()[: 6 * books])
    made = pictures(1, tmp_path)
    assert made[:6] == collages()
    assert [picture.shape[:2] for picture in made[6:]] == [
        (512, 600),
        (384, 450),
        (256, 300),
        (256, 300),
        (512, 600),
        (384, 450),
    ]
    assert made[9].tolist() == np.full((256, 300, 3), 7).tolist()


def test_photographs_that_are_missing_or_others_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wheel without it, one of another release, and one whose download was cut off."""
    digests = _wheel(tmp_path / "one.whl", {"a/one.png": Image.new("RGB", (256, 256))})
    monkeypatch.setattr(recipe, "PHOTOGRAPHS", {**digests, "a/two.png": "0" * 16})
    with pytest.raises(DataError, match=r"no wheel in it has a/two\.png"):
        pictures(1, tmp_path)
    monkeypatch.setattr(recipe, "PHOTOGRAPHS", {"a/one.png": "0" * 16})
    with pytest.raises(DataError, match=r"one\.whl: a/one\.png is another picture"):
        pictures(1, tmp_path)
    (tmp_path / "one.whl").write_bytes((tmp_path / "one.whl").read_bytes()[:40])
    with pytest.raises(DataError, match=r"one\.whl: is not a complete wheel"):
        pictures(1, tmp_path)
