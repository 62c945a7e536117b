"""JPEG and WebP: real files, published curves, and payloads that are not theirs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.jpeg import Jpeg, JpegPoint
from baselines.webp import WebP, WebPPoint
from harness.errors import BitstreamError
from harness.schemes.image_codec import ImageCodec, picture

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
KODAK = sorted((SHARED / "images" / "kodak").glob("*.png"))
needs_kodak = pytest.mark.skipif(len(KODAK) != 24, reason="the 24 Kodak pictures are not beside this checkout")


def _published(file: str, quality: int) -> tuple[float, float]:
    """Bits per pixel and PSNR at a quality, of the curve published for the Kodak pictures (qualities 5, 10, .. 95)."""
    results = json.loads((SHARED / "reference" / "compressai_kodak" / file).read_text())["results"]
    index = quality // 5 - 1
    return results["bpp"][index], results["psnr-rgb"][index]


def _measured(codec: ImageCodec) -> tuple[float, float]:
    """Mean bits per pixel and PSNR of a codec over the Kodak pictures."""
    bits, psnrs = [], []
    for file in KODAK:
        with Image.open(file) as opened:
            original = opened.convert("RGB")
        body = codec.encode(original)
        decoded = codec.decode(body)
        assert decoded.size == original.size
        error = np.asarray(original, float) - np.asarray(decoded, float)
        bits.append(8 * len(body) / (original.width * original.height))
        psnrs.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(bits)), float(np.mean(psnrs))


@needs_kodak
@pytest.mark.parametrize("quality", [5, 50, 95])
def test_webp_reproduces_the_published_curve_to_three_digits(quality: int) -> None:
    """Method 4 is the setting of the published curve."""
    bpp, psnr = _measured(WebP(WebPPoint(quality=quality, method=4)))
    published_bpp, published_psnr = _published("webp.json", quality)
    assert bpp == pytest.approx(published_bpp, rel=5e-4)
    assert psnr == pytest.approx(published_psnr, abs=5e-3)


@needs_kodak
@pytest.mark.parametrize("quality", [5, 50, 95])
def test_jpeg_reproduces_the_published_curve_within_a_percent(quality: int) -> None:
    """Bits per pixel within 1 %; the decoders' rounding differs by up to 0.13 dB."""
    bpp, psnr = _measured(Jpeg(JpegPoint(quality=quality, subsampling="4:2:0")))
    published_bpp, published_psnr = _published("jpeg.json", quality)
    assert bpp == pytest.approx(published_bpp, rel=0.01)
    assert psnr == pytest.approx(published_psnr, abs=0.15)


def _picture(height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 9))
def test_a_picture_of_any_size_comes_back_at_its_own_size(height: int, width: int, seed: int) -> None:
    """One pixel and odd sides included."""
    original = _picture(height, width, seed)
    for codec in (Jpeg(JpegPoint(quality=50)), WebP(WebPPoint(quality=50))):
        decoded = codec.decode(codec.encode(original))
        assert decoded.size == original.size
        assert decoded.mode == "RGB"


def test_full_chroma_costs_bytes() -> None:
    """The subsampling that a point declares reaches the encoder."""
    original = _picture(64, 64, 0)
    sizes = [len(Jpeg(JpegPoint(quality=50, subsampling=s)).encode(original)) for s in ("4:2:0", "4:2:2", "4:4:4")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@given(st.data())
def test_a_damaged_payload_is_a_bitstream_error_or_a_picture(data: st.DataObject) -> None:
    """Cut or overwritten anywhere, a payload never raises anything else."""
    codec = data.draw(st.sampled_from([Jpeg(JpegPoint(quality=30)), WebP(WebPPoint(quality=30))]))
    body = bytearray(codec.encode(_picture(24, 24, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        mode = codec.decode(cut).mode
    except BitstreamError:
        return
    assert mode == "RGB"


def test_a_picture_of_another_format_is_refused() -> None:
    """A WebP decoder does not quietly read PNG."""
    file = io.BytesIO()
    _picture(8, 8, 0).save(file, "PNG")
    with pytest.raises(BitstreamError, match="is not a WEBP picture"):
        picture(file.getvalue(), ("WEBP",))
