"""The codecs of Fig. 12 beside TOFC's: real streams, lossless, as long as their entropy, and safe against damage."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baselines.ablations.factorized import FactorizedCodec, FactorizedConfig
from baselines.ablations.heuristic import HeuristicCodec, HeuristicConfig
from harness.errors import BitstreamError, CheckpointError
from harness.tofc import laplacian
from harness.tofc.feature_codec import FeatureCodec
from harness.training.codec import Recipe, feature_distortion, parameter_groups, train

DIM = 24


def make_features(n_patches: int = 30, n_clusters: int = 4, seed: int = 0) -> Tensor:
    """Laplacian features, its channels of different means and spreads."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand((n_patches, n_clusters, DIM), generator=generator) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    scale = torch.Generator().manual_seed(99)
    return laplace * (0.2 + torch.rand(DIM, generator=scale)) + 0.5 * torch.randn(DIM, generator=scale)


def heuristic(bits: int = 4) -> HeuristicCodec:
    """Frozen; there is nothing to train."""
    codec = HeuristicCodec(HeuristicConfig(dim=DIM, bits=bits))
    codec.freeze(make_features())
    return codec.eval()


def factorized(steps: int = 0) -> FactorizedCodec:
    """Fitted to the features' scale, trained for some steps, frozen."""
    torch.manual_seed(0)
    codec = FactorizedCodec(FactorizedConfig(dim=DIM))
    y_PCD = make_features()
    codec.fit_scale(y_PCD)
    recipe = Recipe(rate_weight=0.05, steps=max(1, steps), learning_rate=1e-2)
    if steps:
        list(train(codec, [(y_PCD, y_PCD)] * steps, feature_distortion, recipe))
    codec.freeze(y_PCD)
    return codec.eval()


BOTH = pytest.mark.parametrize("make", [heuristic, factorized])
Make = Callable[[], FeatureCodec]


@pytest.fixture(scope="module")
def trained() -> FactorizedCodec:
    """A factorized codec fitted to its features' densities."""
    return factorized(steps=100)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("n_patches", "n_clusters", "grid"), [(1, 1, None), (5, 4, (2, 2)), (60, 3, None)])
def test_what_is_decoded_is_what_the_training_pass_computes(
    make: Make, n_patches: int, n_clusters: int, grid: tuple[int, int] | None
) -> None:
    """From one feature to 60 patches; the stream is as long as the pass's rate and the header."""
    codec, y_PCD = make(), make_features(n_patches, n_clusters, seed=1)
    stream = codec.compress(y_PCD, grid)
    decoded = codec.decompress(stream)
    coded = codec(y_PCD, 0.0)
    assert decoded.y_PCD.shape == y_PCD.shape
    assert decoded.grid == (grid or ((1, n_patches - 1) if n_patches > 1 else (0, 0)))
    assert torch.allclose(decoded.y_PCD, coded.y_PCD, atol=1e-3)
    assert decoded.budget.total_bits == 8 * len(stream)
    assert decoded.budget.z_bits == decoded.budget.expert_bits == 0
    assert decoded.budget.y_bits == pytest.approx(coded.rate.item() * y_PCD.numel(), rel=0.01, abs=64)


@pytest.mark.slow
def test_the_heuristic_maps_the_percentile_to_the_largest_integer() -> None:
    """A thousandth of the features, and no more, reaches it or is clipped; the step follows."""
    y_PCD = make_features(200)
    for bits in (3, 6):
        codec = heuristic(bits)
        largest = 2 ** (bits - 1) - 1
        found = codec.statistics(y_PCD)
        edge = found.step * largest
        assert (y_PCD.abs() > edge).float().mean() == pytest.approx(1e-3, abs=1 / y_PCD.numel())
        decoded_PCD = codec.decompress(codec.compress(y_PCD), limits=None).y_PCD
        inside = y_PCD.abs() <= edge
        assert (decoded_PCD - y_PCD)[inside].abs().max() <= 0.5001 * found.step
        assert torch.allclose(decoded_PCD.abs()[~inside], torch.tensor(edge), rtol=1e-6)


def test_the_heuristics_statistics_are_maximum_likelihood() -> None:
    """The median of the integers, and the scale with their mean distance from it, to the nearest level."""
    codec = heuristic(6)
    y_PCD = make_features() + 3
    found = codec.statistics(y_PCD)
    integers = (y_PCD / found.step).round().clamp(-31, 31)
    assert found.median == integers.median() > 0
    b = float((integers - found.median).abs().mean())
    level_b = 2 ** (laplacian.LOG2_B_MIN + found.level / laplacian.LEVELS_PER_OCTAVE)
    assert abs(np.log2(b / level_b)) <= 0.51 / laplacian.LEVELS_PER_OCTAVE


@pytest.mark.slow
def test_the_heuristic_stream_is_as_long_as_its_model_says() -> None:
    """Within half a per cent, and near the integers' own entropy where they are Laplacian."""
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand((100, 6, DIM), generator=generator) - 0.5
    y_PCD = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    codec = heuristic(5)
    found = codec.statistics(y_PCD)
    bits = codec.decompress(codec.compress(y_PCD), limits=None).budget.y_bits
    assert bits == pytest.approx(codec(y_PCD, 0.0).rate.item() * y_PCD.numel(), rel=0.005)
    _, counts = (y_PCD / found.step).round().clamp(-15, 15).unique(return_counts=True)
    share = counts.double() / counts.sum()
    empirical = -(share * share.log2()).sum().item() * y_PCD.numel()
    assert empirical < bits < 1.02 * empirical


@pytest.mark.slow
def test_more_bits_cost_more_and_lose_less() -> None:
    """The heuristic's curve is traversed by its bit length."""
    y_PCD = make_features()
    streams = [heuristic(bits).compress(y_PCD) for bits in (2, 3, 4, 6, 8)]
    losses = [
        feature_distortion(heuristic(bits).decompress(stream).y_PCD, y_PCD).item()
        for bits, stream in zip((2, 3, 4, 6, 8), streams, strict=True)
    ]
    assert sorted(map(len, streams)) == [len(stream) for stream in streams]
    assert sorted(losses, reverse=True) == losses


@pytest.mark.slow
def test_the_factorized_stream_is_within_half_a_per_cent_of_its_entropy(trained: FactorizedCodec) -> None:
    """Integer tables, coder and escapes together, against the learned density's own -log2."""
    y_PCD = make_features(120, 6, seed=5)
    bits = trained.decompress(trained.compress(y_PCD)).budget.y_bits
    assert bits == pytest.approx(trained(y_PCD, 0.0).rate.item() * y_PCD.numel(), rel=0.005)


@pytest.mark.slow
def test_a_trained_factorized_codec_is_shorter(trained: FactorizedCodec) -> None:
    """Training fits the densities: at the features' own scale it saves a tenth of the stream and more."""
    untrained, y_PCD = factorized(), make_features(seed=5)
    bytes_a_feature = [len(codec.compress(y_PCD)) for codec in (untrained, trained)]
    loss = [feature_distortion(codec.decompress(codec.compress(y_PCD)).y_PCD, y_PCD) for codec in (untrained, trained)]
    assert bytes_a_feature[1] < 0.9 * bytes_a_feature[0]
    assert loss[1] < 0.2


@pytest.mark.slow
def test_factorized_features_far_out_escape() -> None:
    """A thousand deviations away they still come back within half a step."""
    codec, y_PCD = factorized(), 1000 * make_features(2)
    steps = (codec.decompress(codec.compress(y_PCD)).y_PCD.double() - y_PCD) / codec.frozen.tensors["frozen.step_D"]
    assert steps.abs().max() <= 0.5 + 1e-2


@pytest.mark.slow
@BOTH
def test_every_flipped_byte_and_every_cut_is_an_error(make: Make) -> None:
    """And so is another model's stream."""
    codec, y_PCD = make(), make_features(2)
    stream = codec.compress(y_PCD)
    for position in range(len(stream)):
        damaged = bytearray(stream)
        damaged[position] ^= 0x41
        with pytest.raises(BitstreamError):
            codec.decompress(bytes(damaged))
        with pytest.raises(BitstreamError):
            codec.decompress(stream[:position])
    with pytest.raises(BitstreamError, match="written by model"):
        heuristic(9).decompress(stream)


@pytest.fixture(scope="module")
def victims() -> list[FeatureCodec]:
    """One codec of each kind."""
    return [heuristic(), factorized()]


@pytest.mark.slow
@given(body=st.binary(max_size=80), which=st.integers(0, 1), n_clusters=st.integers(0, 4), n_h=st.integers(0, 2))
def test_hostile_streams_decode_or_are_refused(
    victims: list[FeatureCodec], body: bytes, which: int, n_clusters: int, n_h: int
) -> None:
    """Any statistics and coder words under a valid header and checksum: finite features, or a BitstreamError."""
    codec = victims[which]
    head = b"TF\x01" + codec.frozen.model + struct.pack("<BBH", n_h, 1, n_clusters) + body
    try:
        decoded = codec.decompress(head + zlib.crc32(head).to_bytes(4, "little"))
    except BitstreamError:
        return
    assert decoded.y_PCD.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "side",
    [(0.0, 0, 5), (-1.0, 0, 5), (float("nan"), 0, 5), (float("inf"), 0, 5), (1e38, 0, 5), (1.0, 8, 5), (1.0, 0, 128)],
)
def test_impossible_statistics_are_refused(side: tuple[float, int, int]) -> None:
    """A step that is invalid, or so large that values are infinite; a median out of range, a scale without a table."""
    codec = heuristic(4)
    stream = codec.compress(make_features(1))
    body = stream[:11] + struct.pack("<fhB", *side) + stream[18:-4]
    with pytest.raises(BitstreamError, match="are not valid"):
        codec.decompress(body + zlib.crc32(body).to_bytes(4, "little"))


@pytest.mark.slow
@BOTH
def test_a_loaded_checkpoint_writes_and_reads_the_same_streams(make: Make, tmp_path: Path) -> None:
    """To the last bit; the other kind's checkpoint is refused."""
    codec, y_PCD = make(), make_features(5)
    codec.save(tmp_path / "codec.safetensors")
    loaded = type(codec).load(tmp_path / "codec.safetensors")
    stream = codec.compress(y_PCD)
    assert loaded.compress(y_PCD) == stream
    assert torch.equal(loaded.decompress(stream).y_PCD, codec.decompress(stream).y_PCD)
    other = FactorizedCodec if make is heuristic else HeuristicCodec
    with pytest.raises(CheckpointError, match="its format is"):
        other.load(tmp_path / "codec.safetensors")


@BOTH
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_undefined_features_are_refused(make: Make, value: float) -> None:
    """They would decode to a meaningless picture."""
    y_PCD = make_features(1)
    y_PCD[0, 0, 0] = value
    with pytest.raises(ValueError, match="infinite or undefined"):
        make().compress(y_PCD)


@pytest.mark.slow
def test_equal_features_are_coded() -> None:
    """All zero or all one: these too have a step, a median and a scale."""
    for value in (0.0, 1.0, -2.5):
        y_PCD = torch.full((3, 2, DIM), value)
        for make in (heuristic, factorized):
            codec = make()
            assert codec.decompress(codec.compress(y_PCD)).y_PCD.isfinite().all()
        assert torch.allclose(heuristic().decompress(heuristic().compress(y_PCD)).y_PCD, y_PCD, rtol=1e-6, atol=1e-12)


def test_every_parameter_of_a_codec_is_trained() -> None:
    """Those of the factorized codec all receive a gradient; the heuristic one has none, and passes it on."""
    codec = factorized().train()
    y_PCD = make_features(4).requires_grad_()
    coded = codec(y_PCD, 1.0)
    (coded.rate + coded.y_PCD.square().mean()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    groups = parameter_groups(codec, Recipe(rate_weight=1, steps=1))
    grouped = [p for group in groups for p in group.parameters.values()]
    assert sorted(map(id, grouped)) == sorted(map(id, codec.parameters()))

    without = heuristic().train()
    assert parameter_groups(without, Recipe(rate_weight=1, steps=1)) == []
    y_PCD = make_features(4).requires_grad_()
    coded = without(y_PCD, 1.0)
    (coded.rate + coded.y_PCD.square().mean()).backward()
    assert y_PCD.grad is not None
    assert y_PCD.grad.isfinite().all()
    assert y_PCD.grad.abs().max() > 0
