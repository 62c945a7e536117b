"""Hyperprior and ELIC: real pictures through real files, on one thread and on two, whole and damaged."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baselines.networks.network import MULTIPLE_PX, Network
from baselines.networks.pictures import padded
from baselines.neural_codec import Elic, Hyperprior, NeuralCodec, NeuralPoint, bundled
from baselines.neural_container import CodedPicture, pack, unpack
from baselines.pillow_codecs import Jpeg, JpegPoint
from benchmarks.rate_distortion import RateDistortion, bd_rate_percent, mean_rate_distortion, psnr_db
from harness.data import streetsqa
from harness.errors import BitstreamError, DataError

ROOT = Path(__file__).parents[2]
KODAK = sorted((ROOT / ".." / "shared" / "data" / "images" / "kodak").glob("*.png"))
CODECS = (Hyperprior, Elic)


@functools.cache
def codec(kind: type[NeuralCodec], place: int) -> NeuralCodec:
    """A bundled model, from the lowest rate (0) to the highest (-1)."""
    return kind(NeuralPoint(weights=list(bundled(kind.kind))[place]))


def module_of(scheme: NeuralCodec) -> Network:
    """The network that a codec runs."""
    net = scheme.coder.net
    assert isinstance(net, Network)
    return net


@functools.cache
def streets(count: int) -> list[Image.Image]:
    """Pictures of the test split, which no codec was trained on."""
    return [page.scene().image for page in streetsqa.book("test", 0)[:count]]


@functools.cache
def curve(kind: type[NeuralCodec]) -> list[RateDistortion]:
    """The curve of the bundled models on held-out streets."""
    return [mean_rate_distortion(codec(kind, place), streets(5)) for place in range(len(bundled(kind.kind)))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_a_larger_lambda_gives_more_quality_and_more_bytes(kind: type[NeuralCodec]) -> None:
    """At least three lambdas; rate and PSNR rise together on held-out streets."""
    points = curve(kind)
    assert len(points) >= 3
    assert points == sorted(points)
    assert [p.psnr_db for p in points] == sorted(p.psnr_db for p in points)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_it_needs_fewer_bytes_than_jpeg(kind: type[NeuralCodec]) -> None:
    """At least a tenth less at equal PSNR on held-out streets."""
    jpeg = [mean_rate_distortion(Jpeg(JpegPoint(quality=q)), streets(5)) for q in (5, 10, 20, 30, 50, 70)]
    difference = bd_rate_percent(curve(kind), jpeg)
    assert difference is not None
    assert difference < -10


@pytest.mark.slow
@settings(max_examples=25)
@given(kind=st.sampled_from(CODECS), height=st.integers(1, 70), width=st.integers(1, 70))
def test_a_picture_of_any_size_comes_back_at_its_own_size(kind: type[NeuralCodec], height: int, width: int) -> None:
    """Cut out of a street, and close to the original."""
    original = streets(1)[0].crop((200, 150, 200 + width, 150 + height))
    decoded = codec(kind, -1).decode(codec(kind, -1).encode(original))
    assert decoded.size == original.size
    assert decoded.mode == "RGB"
    assert psnr_db(original, decoded) > 18


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("size", [(1, 1), (1200, 900)])
def test_the_smallest_and_a_large_picture(kind: type[NeuralCodec], size: tuple[int, int]) -> None:
    """One pixel, which pads to one position of z, and a million."""
    original = streets(1)[0].resize(size)
    assert codec(kind, 0).decode(codec(kind, 0).encode(original)).size == size


@pytest.mark.skipif(len(KODAK) != 24, reason="the 24 Kodak pictures are not beside this checkout")
@pytest.mark.parametrize("kind", CODECS)
def test_photographs_come_back(kind: type[NeuralCodec]) -> None:
    """One Kodak picture of each orientation, at its own size; none of them was trained on."""
    for file in (KODAK[3], KODAK[4]):
        with Image.open(file) as opened:
            original = opened.convert("RGB")
        decoded = codec(kind, -1).decode(codec(kind, -1).encode(original))
        assert decoded.size == original.size
        assert psnr_db(original, decoded) > 22


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_bytes_are_the_strings_and_the_container(kind: type[NeuralCodec]) -> None:
    """The strings of compress(), in order; the rest is twelve bytes and the varints of two sides and every length."""
    scheme, original = codec(kind, 1), streets(1)[0]
    body = scheme.encode(original)
    with torch.inference_mode():
        strings = scheme.coder.net.compress(padded(original))
    picture = unpack(body, scheme.coder.model, scheme.coder.net.n_strings)
    assert list(picture.strings) == strings
    varints = 4 + sum(max(1, -(-len(string).bit_length() // 7)) for string in strings)
    assert len(body) == sum(map(len, strings)) + 12 + varints


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_bytes_are_near_the_entropy_that_the_model_estimates(kind: type[NeuralCodec]) -> None:
    """The integer tables, the coder and the exact convolutions cost less than 4 % and 16 bytes a string together."""
    scheme, original = codec(kind, 2), streets(1)[0]
    with torch.inference_mode():
        likelihoods = module_of(scheme)(padded(original))["likelihoods"]
        ideal_bytes = sum(-float(value.log2().sum()) for value in likelihoods.values()) / 8
    sent_bytes = len(scheme.encode(original))
    assert ideal_bytes * 0.98 < sent_bytes < ideal_bytes * 1.04 + 16 * scheme.coder.net.n_strings


@pytest.mark.parametrize("kind", CODECS)
def test_sides_of_another_kind_are_padded_by_their_edge(kind: type[NeuralCodec]) -> None:
    """What is added is the last row and column, and a multiple of 64 gets nothing."""
    original = streets(1)[0].crop((0, 0, 100, 64))
    x_BCHW = padded(original)
    assert x_BCHW.shape == (1, 3, 64, 128)
    assert torch.equal(x_BCHW[..., 100:], x_BCHW[..., 99:100].expand(-1, -1, -1, 28))
    assert all(side % MULTIPLE_PX == 0 for side in x_BCHW.shape[2:])


@pytest.mark.slow
def test_another_process_decodes_to_the_same_picture(tmp_path: Path) -> None:
    """With two threads where the encoder had one; symbols are the same to the bit, pixels to one level."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = {}
        for kind in CODECS:
            body = codec(kind, -1).encode(streets(1)[0])
            (tmp_path / kind.kind).write_bytes(body)
            expected[kind.kind] = np.asarray(codec(kind, -1).decode(body), dtype=int)
    finally:
        torch.set_num_threads(threads)
    program = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(2)\n"
        "from baselines.neural_codec import Elic, Hyperprior, NeuralPoint, bundled\n"
        "for name, codec in (('hyperprior', Hyperprior), ('elic', Elic)):\n"
        "    scheme = codec(NeuralPoint(weights=list(bundled(name))[-1]))\n"
        "    scheme.decode((Path(sys.argv[1]) / name).read_bytes()).save(Path(sys.argv[1]) / f'{name}.png')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT, env=environment)
    for name, pixels in expected.items():
        with Image.open(tmp_path / f"{name}.png") as opened:
            assert np.abs(np.asarray(opened, dtype=int) - pixels).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_scales_do_not_depend_on_how_they_are_computed(kind: type[NeuralCodec]) -> None:
    """Two pictures at once find the scales of each alone, to the bit: no symbol meets another table."""
    scheme = codec(kind, -1)
    h_s = module_of(scheme).get_submodule("h_s" if kind is Hyperprior else "latent_codec.hyper.h_s")
    n, *_ = module_of(scheme).sizes(module_of(scheme).state_dict())
    z_BCHW = torch.randint(-9, 10, (2, n, 4, 5)).float()
    with torch.inference_mode():
        together = h_s(z_BCHW)
        apart = torch.cat([h_s(z_BCHW[:1]), h_s(z_BCHW[1:])])
    assert torch.equal(together, apart)


@pytest.mark.slow
@settings(max_examples=40)
@given(kind=st.sampled_from(CODECS), data=st.data())
def test_a_damaged_payload_is_a_bitstream_error(kind: type[NeuralCodec], data: st.DataObject) -> None:
    """Cut or overwritten anywhere, nothing of it reaches the entropy decoder."""
    whole = codec(kind, 0).encode(streets(1)[0].crop((0, 0, 60, 60)))
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    if cut == whole:
        return
    with pytest.raises(BitstreamError):
        codec(kind, 0).decode(cut)


@pytest.mark.slow
@settings(max_examples=60)
@given(kind=st.sampled_from(CODECS), data=st.data())
def test_forged_strings_under_a_true_checksum_are_refused_or_read(kind: type[NeuralCodec], data: st.DataObject) -> None:
    """Changed, cut, extended and made up, at any claimed size: a sentence, or a picture of that size."""
    scheme = codec(kind, 0)
    coder = scheme.coder
    picture = unpack(scheme.encode(streets(1)[0].crop((0, 0, 60, 60))), coder.model, coder.net.n_strings)
    strings = list(picture.strings)
    for place in data.draw(st.lists(st.integers(0, len(strings) - 1), min_size=1, max_size=3)):
        start, end = data.draw(st.binary(max_size=12)), data.draw(st.integers(0, 12))
        strings[place] = start + strings[place][len(start) : len(strings[place]) - end]
    width, height = data.draw(st.one_of(st.just((60, 60)), st.tuples(st.integers(1, 200), st.integers(1, 200))))
    body = pack(coder.model, CodedPicture(width, height, tuple(strings)))
    try:
        decoded = scheme.decode(body)
    except BitstreamError as error:
        assert "an entropy coder's string" in str(error)  # noqa: PT017 - a picture is right as well
        return
    assert decoded.size == (width, height)


@pytest.mark.slow
def test_a_payload_of_another_model_is_refused() -> None:
    """Another lambda, and another codec."""
    body = codec(Hyperprior, 0).encode(streets(1)[0].crop((0, 0, 64, 64)))
    for other in (codec(Hyperprior, 1), codec(Elic, 0)):
        with pytest.raises(BitstreamError, match="was made with the model"):
            other.decode(body)


@pytest.mark.parametrize("size", [(70_000, 1), (4001, 4000)])
def test_a_picture_beyond_the_limits_is_refused(size: tuple[int, int]) -> None:
    """Sides of 16 bits and 16 megapixels, before anything is computed."""
    with pytest.raises(DataError, match=f"a picture of {size[0]} x {size[1]} px .* at most 16000000 px"):
        codec(Hyperprior, 0).encode(Image.new("RGB", size))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_a_payload_beyond_the_servers_limit_is_refused(kind: type[NeuralCodec]) -> None:
    """A server may lower its limit: larger pictures are refused, those within it are decoded."""
    scheme = kind(NeuralPoint(weights=next(iter(bundled(kind.kind)))))
    body = scheme.encode(streets(1)[0].crop((0, 0, 100, 80)))
    scheme.max_pixels = 7999
    with pytest.raises(BitstreamError, match=r"100 x 80 px, which is 8000 px.* at most 7999 px"):
        scheme.decode(body)
    with pytest.raises(DataError, match="at most 7999 px"):
        scheme.encode(streets(1)[0].crop((0, 0, 100, 80)))
    scheme.max_pixels = 8000
    assert scheme.decode(body).size == (100, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODECS)
def test_strings_that_do_not_fit_the_claim_are_refused_before_computing(
    kind: type[NeuralCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long for 64 x 64 px, or, where z takes bits, too short for 4000 x 4000: no network runs."""
    scheme = codec(kind, 0)
    picture = unpack(scheme.encode(streets(1)[0].crop((0, 0, 64, 64))), scheme.coder.model, scheme.coder.net.n_strings)
    monkeypatch.setattr(type(scheme.coder.net), "decode_y", None)
    forged = [
        CodedPicture(64, 64, (*picture.strings[:place], bytes(20_000), *picture.strings[place + 1 :]))
        for place in range(len(picture.strings))
    ]
    if kind is Hyperprior:
        forged += [CodedPicture(4000, 4000, picture.strings), CodedPicture(4000, 1, picture.strings)]
    for claim in forged:
        with pytest.raises(BitstreamError, match=r"an entropy coder's string has \d+ bytes; \d+ symbols take"):
            scheme.decode(pack(scheme.coder.model, claim))
