"""Algorithm 1's loop on features with structure: the loss falls, no expert collapses, a hard step is defined."""

import itertools
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.models.contract import Layout, Tiles
from harness.tofc.bitstream import LIMITS
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.training import result
from harness.training.codec import Recipe, feature_distortion, parameter_groups, train
from harness.training.contract import Example
from harness.training.fit import Group


def shuffled(y_MCD: Tensor, patches: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of ``patches`` patches with themselves as context, reshuffled every epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.split(torch.randperm(len(y_MCD), generator=generator), patches):
            yield y_MCD[chosen], y_MCD[chosen]


class Streams(NamedTuple):
    """Means over images: bytes and distortion; the features of each expert."""

    bytes_per_image: float
    distortion: float
    expert_use: tuple[int, ...]


def measure(codec: TofcCodec, images: Iterable[Tensor]) -> Streams:
    """Compress and decompress every image's merged features (P, C, D)."""
    sent, sizes, decoded = [], [], []
    for y_PCD in images:
        stream = codec.compress(y_PCD)
        sent.append(y_PCD)
        sizes.append(len(stream))
        decoded.append(codec.decompress(stream, limits=None))
    experts = torch.cat([one.expert_PC.flatten() for one in decoded])
    used = experts.bincount(minlength=codec.config.n_experts)
    loss = feature_distortion(torch.cat([one.y_PCD for one in decoded]), torch.cat(sent)).item()
    return Streams(sum(sizes) / len(sizes), loss, tuple(used.tolist()))


def make_features(n_patches: int) -> Tensor:
    """Features of four kinds, each with a mean and a subspace of its own."""
    generator = torch.Generator().manual_seed(0)
    mean_KD = torch.randn(4, 32, generator=generator)
    basis_KRD = torch.randn(4, 3, 32, generator=generator)
    kind_PC = torch.randint(0, 4, (n_patches, 2), generator=generator)
    inside_PCR = torch.randn(n_patches, 2, 3, generator=generator)
    noise_PCD = torch.randn(n_patches, 2, 32, generator=generator)
    return mean_KD[kind_PC] + torch.einsum("pcr,pcrd->pcd", inside_PCR, basis_KRD[kind_PC]) + 0.1 * noise_PCD


@pytest.fixture
def codec() -> TofcCodec:
    """A codec of three small models."""
    torch.manual_seed(0)
    return TofcCodec(CodecConfig(dim=32, n_experts=3, hidden=(32,)))


@pytest.mark.slow
def test_training_lowers_rate_and_distortion_of_real_streams(codec: TofcCodec) -> None:
    """After 60 steps the loss of what is really sent is well below the untrained codec's, on features not seen."""
    y_MCD = make_features(200)
    seen, unseen = y_MCD[:160], y_MCD[160:].split(5)
    codec.fit_scale(seen)
    codec.freeze(seen)
    before = measure(codec, unseen)
    recipe = Recipe(rate_weight=0.05, steps=60, learning_rate=5e-3, hard_share=0.5)
    progress = list(train(codec, shuffled(seen, 40, seed=1), feature_distortion, recipe))
    codec.freeze(seen)
    after = measure(codec, unseen)
    bits = 8 / (5 * 2 * 32)
    assert after.bytes_per_image < 0.9 * before.bytes_per_image
    assert (
        after.distortion + 0.05 * bits * after.bytes_per_image
        < before.distortion + 0.05 * bits * before.bytes_per_image
    )
    assert len(progress) == 60
    assert progress[0].temperature == pytest.approx(10)
    assert progress[29].temperature == pytest.approx(0.1)
    assert {step.temperature for step in progress[30:]} == {0.0}
    assert sum(after.expert_use) == 40 * 2
    assert min(after.expert_use) > 0


def test_a_hard_pass_is_the_mixture_at_temperature_zero(codec: TofcCodec) -> None:
    """Each feature under its own model alone gives the values and the rate of a very cold mixture."""
    y_PCD = make_features(30)
    codec.fit_scale(y_PCD)
    hard, cold = codec(y_PCD, 0.0), codec(y_PCD, 1e-7)
    assert torch.allclose(hard.y_PCD, cold.y_PCD, atol=1e-5)
    assert hard.rate.item() == pytest.approx(cold.rate.item(), rel=1e-5)
    assert hard.imbalance.item() == pytest.approx(cold.imbalance.item(), rel=1e-5)


def test_parameters_outside_the_codec_are_trained_with_it(codec: TofcCodec) -> None:
    """A group of other parameters, here a gain before the codec, moves with the same optimiser."""
    gain = torch.nn.Parameter(torch.ones(()))
    y_PCD = make_features(20)
    codec.fit_scale(y_PCD)
    batches = ((gain * y_PCD, y_PCD) for _ in itertools.count())
    recipe = Recipe(rate_weight=1.0, steps=3)
    other = Group(name="gain", parameters={"gain": gain}, rate=1e-2)
    list(train(codec, batches, feature_distortion, recipe, [other]))
    assert gain.item() != 1.0


def test_the_loop_ends_with_the_batches(codec: TofcCodec) -> None:
    """Fewer batches than steps end the training without an error."""
    y_PCD = make_features(4)
    codec.fit_scale(y_PCD)
    recipe = Recipe(rate_weight=0.1, steps=10)
    assert len(list(train(codec, [(y_PCD, y_PCD)] * 2, feature_distortion, recipe))) == 2


def test_every_parameter_of_the_codec_is_in_one_group(codec: TofcCodec) -> None:
    """The optimiser's groups share no parameter and miss none."""
    groups = parameter_groups(codec, Recipe(rate_weight=1, steps=1))
    grouped = [p for group in groups for p in group.parameters.values()]
    assert {id(p) for p in grouped} == {id(p) for p in codec.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})


def test_feature_distortion_of_the_mean_is_one() -> None:
    """A codec that returns each channel's mean has distortion 1; a perfect one has 0."""
    y_PCD = torch.randn(500, 4, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9) + 5
    mean_PCD = y_PCD.flatten(0, 1).mean(0).expand_as(y_PCD)
    assert feature_distortion(mean_PCD, y_PCD).item() == pytest.approx(1, rel=1e-2)
    assert feature_distortion(y_PCD, y_PCD).item() == 0


@pytest.mark.slow
def test_a_held_out_picture_may_have_more_patches_than_a_server_takes() -> None:
    """A training ends by measuring its codec, whatever the pictures; nothing of a stream's own is refused."""
    codec = TofcCodec(CodecConfig(dim=16, n_experts=2, hidden=(8,)))
    seen_1ND = torch.randn(1, 64, 16)
    codec.fit_scale(seen_1ND)
    codec.eval().freeze(seen_1ND)
    x_PVD = torch.randn(LIMITS.max_patches + 3, 8, 16)
    layout = Layout((1, len(x_PVD) - 1), (9, 9))

    class Read:
        data = SimpleNamespace(example=lambda *_: Example("far", (), lambda: Image.new("RGB", (9, 9))))

        def __getitem__(self, key: object) -> tuple[None, list[object]]:
            return None, []

    backbone: Any = SimpleNamespace(preprocess=lambda _: Tiles(x_PVD, layout), encode=lambda tiles: tiles.pixels_PCHW)
    module: Any = SimpleNamespace(codec=codec)
    reader: Any = Read()
    (row,) = result.measure(module, backbone, reader, [0], [2], lambda: None)
    assert sum(row.expert_use) == 2 * len(x_PVD)
    assert row.feature_distortion < 0.2
