"""The codec as a whole: features to bytes and back, the training pass beside it, checkpoints."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.errors import BitstreamError, CheckpointError
from harness.tofc.codec import CodecConfig, TofcCodec


def make_features(n_patches: int = 60, n_clusters: int = 4, seed: int = 0) -> Tensor:
    """Merged features with channels of different means and spreads."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_patches, n_clusters, 64)
    spread_D, mean_D = torch.rand(64, generator=generator) * 3, torch.randn(64, generator=generator)
    return torch.randn(shape, generator=generator) * spread_D + mean_D


def make_codec(n_experts: int = 4, seed: int = 0) -> TofcCodec:
    """A small codec, its step fitted and its tables frozen, untrained."""
    torch.manual_seed(seed)
    codec = TofcCodec(CodecConfig(dim=64, n_experts=n_experts))
    codec.fit_scale(make_features())
    codec.freeze(make_features())
    return codec.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_patches", "n_clusters", "grid"), [(1, 1, None), (1, 4, (0, 0)), (5, 4, (2, 2)), (60, 3, None)]
)
@pytest.mark.parametrize("n_experts", [1, 4])
def test_features_return_within_half_a_step(
    n_patches: int, n_clusters: int, grid: tuple[int, int] | None, n_experts: int
) -> None:
    """From one feature to 60 patches, every element comes back within half a quantiser's step."""
    codec, y_PCD = make_codec(n_experts), make_features(n_patches, n_clusters, seed=1)
    decoded = codec.decompress(codec.compress(y_PCD, grid))
    assert decoded.y_PCD.shape == y_PCD.shape
    assert decoded.grid == (grid or ((1, n_patches - 1) if n_patches > 1 else (0, 0)))
    steps = (decoded.y_PCD - y_PCD) / codec.frozen.step_D
    assert steps.abs().max() <= 0.5 + 1e-4


def test_the_training_pass_agrees_with_the_stream() -> None:
    """At a temperature near zero the mixture is the decoded features, and its rate the stream's length."""
    codec, y_PCD = make_codec(), make_features()
    coded = codec(y_PCD, temperature=1e-6)
    stream = codec.compress(y_PCD)
    decoded = codec.decompress(stream)
    # Weights of 8 bits move a mean by hundredths of a step, and occasionally a symbol of z by one.
    same = (coded.y_PCD - decoded.y_PCD).abs() < 0.1 * codec.frozen.step_D
    assert same.float().mean() > 0.99
    expert_bits = decoded.budget.expert_bits
    assert 8 * len(stream) - expert_bits == pytest.approx(coded.rate.item() * y_PCD.numel(), rel=0.01, abs=160)


def test_features_far_from_everything_seen_are_coded_losslessly() -> None:
    """Features a thousand deviations out escape and still come back within half a step."""
    codec, y_PCD = make_codec(), 1000 * make_features(2)
    decoded = codec.decompress(codec.compress(y_PCD))
    steps = (decoded.y_PCD.double() - y_PCD.double()) / codec.frozen.step_D.double()
    assert steps.abs().max() <= 0.5 + 1e-2


def test_training_reaches_every_parameter() -> None:
    """The gradient of rate, imbalance and distortion is finite and reaches all weights, step and offset included."""
    codec, y_PCD = make_codec().train(), make_features().requires_grad_()
    coded = codec(y_PCD, temperature=1.0)
    (coded.rate + coded.imbalance + (coded.y_PCD - 1).square().mean()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert y_PCD.grad is not None
    assert y_PCD.grad.abs().min() > 0


@pytest.mark.slow
def test_rate_falls_when_it_is_trained() -> None:
    """A few steps on the rate alone, at a fixed step of the quantiser, shorten the real stream."""
    codec, y_PCD = make_codec(), make_features()
    before = len(codec.compress(y_PCD))
    codec.train()
    optimiser = torch.optim.Adam(codec.models.parameters(), lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        codec(y_PCD, temperature=1.0).rate.backward()
        optimiser.step()
    codec.freeze(y_PCD)
    assert len(codec.compress(y_PCD)) < 0.97 * before


def test_a_loaded_checkpoint_writes_and_reads_the_same_streams(tmp_path: Path) -> None:
    """Saving and loading changes no bit of a stream or of what it decodes to."""
    codec, y_PCD = make_codec(), make_features(5)
    codec.save(tmp_path / "codec.safetensors")
    loaded = TofcCodec.load(tmp_path / "codec.safetensors")
    stream = codec.compress(y_PCD)
    assert loaded.compress(y_PCD) == stream
    assert torch.equal(loaded.decompress(stream).y_PCD, codec.decompress(stream).y_PCD)


def test_a_codec_saved_without_its_networks_codes_the_same(tmp_path: Path) -> None:
    """The same streams under the same hash, from a smaller file; it refuses to be trained on."""
    codec, y_PCD = make_codec(), make_features(5)
    whole, lean = tmp_path / "whole.safetensors", tmp_path / "lean.safetensors"
    codec.save(whole)
    codec.save(lean, networks=False)
    assert lean.stat().st_size < 0.7 * whole.stat().st_size
    loaded = TofcCodec.load(lean)
    stream = codec.compress(y_PCD)
    assert loaded.compress(y_PCD) == stream
    assert torch.equal(loaded.decompress(stream).y_PCD, codec.decompress(stream).y_PCD)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").stat().st_size == lean.stat().st_size
    assert TofcCodec.load(tmp_path / "again.safetensors").compress(y_PCD) == stream
    assert TofcCodec.load(whole).train()(y_PCD, temperature=1.0).rate.isfinite()
    with pytest.raises(ValueError, match="saved without the networks"):
        loaded.train()
    with pytest.raises(ValueError, match="saved without the networks"):
        loaded(y_PCD, temperature=0.0)
    with pytest.raises(ValueError, match="saved without the networks"):
        loaded.freeze(y_PCD)


def test_another_models_stream_is_refused() -> None:
    """A stream decodes only under the weights that wrote it."""
    stream = make_codec(seed=0).compress(make_features(1))
    with pytest.raises(BitstreamError, match="written by model"):
        make_codec(seed=1).decompress(stream)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    """An absent, cut, flipped or foreign file is a CheckpointError that names it."""
    path = tmp_path / "codec.safetensors"
    make_codec().save(path)
    whole = path.read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:],
        "header": b"\xff" * 64,
        "empty": b"",
    }.items():
        broken = tmp_path / f"{name}.safetensors"
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            TofcCodec.load(broken)
    with pytest.raises(CheckpointError, match="absent"):
        TofcCodec.load(tmp_path / "absent.safetensors")


def test_unfrozen_codecs_do_not_compress() -> None:
    """Before freeze, and again when training continues, there are no tables to code with."""
    codec = make_codec()
    codec.train()
    with pytest.raises(ValueError, match="freeze"):
        codec.compress(make_features(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "grid", "sentence"),
    [
        (torch.zeros(5, 4, 64), (2, 3), "do not fit a 2 x 3 grid"),
        (torch.zeros(1, 4, 32), None, "in 64 dimensions"),
        (torch.zeros(4, 64), None, "not (P, C, D)"),
        (torch.full((1, 4, 64), torch.nan), None, "undefined"),
        (torch.full((1, 4, 64), 1e30), None, "cannot be coded"),
    ],
)
def test_features_that_cannot_be_coded_are_refused(
    features: Tensor, grid: tuple[int, int] | None, sentence: str
) -> None:
    """A wrong grid or dimension and values that cannot be coded are each named in a sentence."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make_codec().compress(features, grid)
