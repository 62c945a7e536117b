"""compressai's zoo as baselines: its strings and pictures behind our coder, whole, forged, and without the extra."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from baselines import neural_codec
from baselines.compressai_zoo import MODELS, CompressAI, ZooPoint
from baselines.networks import zoo
from baselines.networks.pictures import padded
from baselines.networks.weights import make_ready
from baselines.neural_codec import bundled
from baselines.neural_container import CodedPicture, pack, unpack
from harness import catalog
from harness.errors import BitstreamError, CheckpointError, UnavailableError
from harness.schemes.anatomy import of_body

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8))


def codec(model: str, weights: str = "random") -> CompressAI:
    """A model at its lowest quality."""
    quality = MODELS[model]
    return CompressAI(ZooPoint(model=model, quality=quality and 1, weights=weights))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_picture_comes_back_and_forgeries_do_not(compressai: ModuleType, model: str) -> None:
    """Each model, made twice from its seed: one encodes, the other decodes, and refuses what the first did not make."""
    body = codec(model).encode(NOISE)
    neural_codec._coder.cache_clear()
    other = codec(model)
    assert other.decode(body).size == NOISE.size
    assert other.encode(NOISE) == body
    net, coder = other.coder.net, other.coder
    assert of_body(body).what.endswith("100 x 50 px")
    picture = unpack(body, coder.model, net.n_strings)
    noise = np.random.default_rng(1)
    for place, string in enumerate(picture.strings):
        for forged in (b"", string[:-4], string + bytes(4), bytes(50_000 * 4), noise.bytes(len(string))):
            strings = (*picture.strings[:place], forged, *picture.strings[place + 1 :])
            with pytest.raises(BitstreamError, match="an entropy coder's string"):
                coder.decode(pack(coder.model, CodedPicture(100, 50, strings)), 10_000)
    with pytest.raises(BitstreamError, match="at most 4999 px"):
        coder.decode(body, 4999)


def _small(name: str) -> Any:
    from compressai import models

    match name:
        case "factorized":
            return models.FactorizedPrior(8, 12)
        case "mean":
            return models.MeanScaleHyperprior(8, 12)
        case "autoregressive":
            return models.JointAutoregressiveHierarchicalPriors(12, 12)
        case "anchor":
            return models.Cheng2020Anchor(12)
        case "checkerboard":
            return models.Cheng2020AnchorCheckerboard(12)
        case _:
            return models.Elic2022Official(12, 16, groups=[4, 4, 8])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["factorized", "mean", "autoregressive", "anchor", "checkerboard", "elic"])
def test_strings_and_pictures_are_compressais(compressai: ModuleType, name: str) -> None:
    """Before the scales are made exact: ours writes what compressai writes, and decodes to the same pictures."""
    torch.manual_seed(1)
    peer, net = _small(name), _small(name)
    with torch.no_grad():
        for parameter in [*peer.g_a.parameters()][-2:]:
            parameter.mul_(100)
    net.load_state_dict(peer.state_dict())
    for one in (peer, net):
        make_ready(name, one)
    ours = zoo.coded(net, name)
    x_13HW = padded(NOISE)
    with torch.inference_mode():
        out = peer.compress(x_13HW)
        strings = ours.compress(x_13HW)
        assert [[string] for string in strings] == out["strings"]
        decoded = peer.decompress([[string] for string in strings], out["shape"])["x_hat"]
        assert torch.equal(ours.decompress(strings, *x_13HW.shape[2:]), decoded)


@pytest.mark.slow
def test_a_checkpoint_of_the_model_is_read_and_another_is_not(compressai: ModuleType, tmp_path: Path) -> None:
    """In today's layout and an older one; a size of another quality, and the bundled hyperprior, are refused."""
    from compressai.zoo.image import bmshj2018_factorized

    torch.manual_seed(2)
    net = bmshj2018_factorized(1)
    states = {"new": net.state_dict(), "old": {}}
    for name, tensor in net.state_dict().items():
        old = name.replace("matrices.", "_matrix").replace("biases.", "_bias").replace("factors.", "_factor")
        states["old"][f"module.{old}"] = tensor
    bodies = set()
    for layout, state in states.items():
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / f"{layout}.safetensors")
        bodies.add(codec("bmshj2018-factorized", str(tmp_path / f"{layout}.safetensors")).encode(NOISE))
    assert len(bodies) == 1
    assert codec("bmshj2018-factorized").encode(NOISE) not in bodies
    weights = str(tmp_path / "new.safetensors")
    with pytest.raises(CheckpointError, match=r"new\.safetensors: is not a FactorizedPrior: size mismatch"):
        CompressAI(ZooPoint(model="bmshj2018-factorized", quality=8, weights=weights))
    with pytest.raises(CheckpointError, match=r"hyperprior-.*: is not a FactorizedPrior"):
        codec("bmshj2018-factorized", str(next(iter(bundled("hyperprior").values()))))


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The point is still checked; hyperprior and ELIC do not need the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match=r"pip install 'tofc-harness\[compressai\]' \(its wheels are for x86-64"):
        CompressAI.network(ZooPoint(model="mbt2018-mean", quality=1))


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        (
            {"model": "mbt2017", "quality": 1},
            r"unknown model of compressai 'mbt2017'; did you mean 'mbt2018'\? known: bmshj2018-factorized, ",
        ),
        ({"model": "mbt2018"}, "mbt2018 has the qualities 1 to 8, and this point gives it None"),
        (
            {"model": "cheng2020-attn", "quality": 7},
            "cheng2020-attn has the qualities 1 to 6, and this point gives it 7",
        ),
        ({"model": "mbt2018", "quality": 0}, "greater than or equal to 1"),
        ({"model": "elic2022-official", "quality": 3}, "has one size and no quality, and this point gives it 3"),
    ],
)
def test_a_point_that_is_no_model_is_refused(point: dict[str, Any], sentence: str) -> None:
    """Before anything is imported."""
    with pytest.raises(ValidationError, match=sentence):
        ZooPoint(**point)


def test_the_catalog_has_it_and_the_label_says_that_weights_are_random() -> None:
    """Rows and figures show that bytes are an untrained network's."""
    assert catalog.load("scheme", "compressai", catalog.SCHEMES) is CompressAI
    assert ZooPoint(model="mbt2018-mean", quality=3).label == "model=mbt2018-mean,quality=3,weights=random"
    assert ZooPoint(model="mbt2018-mean", quality=3, weights="m.safetensors").label.endswith("weights=m.safetensors")


@pytest.mark.slow
def test_qualities_are_compressais(compressai: ModuleType) -> None:
    """The table of qualities is that of the zoo, and models without one exist in the package."""
    from compressai.registry import MODELS as KINDS
    from compressai.zoo.image import cfgs

    for model, most in MODELS.items():
        assert most == (max(cfgs[model]) if model in cfgs else None)
        assert model in KINDS
