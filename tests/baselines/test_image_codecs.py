"""JPEG and WebP: real files, published curves, and foreign payloads."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from baselines.pillow_codecs import Avif, AvifPoint, Jpeg, JpegPoint, JpegXL, JpegXLPoint, WebP, WebPPoint, jxl_size
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError, DataError, UnavailableError
from harness.models.contract import Untimed
from harness.profiling.clock import StageClock
from harness.schemes.image_codec import ImageCodec, PictureDevice, picture

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
KODAK = sorted((SHARED / "images" / "kodak").glob("*.png"))
needs_kodak = pytest.mark.skipif(len(KODAK) != 24, reason="the 24 Kodak pictures are not beside this checkout")


ALL = (Jpeg, WebP, Avif, JpegXL)


def _made(codec: type[ImageCodec], **point: object) -> ImageCodec:
    """A codec at a point; the test is skipped where this Pillow does not have it."""
    try:
        return codec(codec.Point.model_validate(point))
    except UnavailableError as error:
        pytest.skip(str(error))


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


@pytest.mark.slow
@pytest.mark.parametrize("codec", ALL)
@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 9))
def test_a_picture_of_any_size_comes_back_at_its_own_size(
    codec: type[ImageCodec], height: int, width: int, seed: int
) -> None:
    """One pixel and odd sides included."""
    original = _picture(height, width, seed)
    made = _made(codec, quality=50)
    decoded = made.decode(made.encode(original))
    assert decoded.size == original.size
    assert decoded.mode == "RGB"


@pytest.mark.parametrize("codec", ALL)
def test_more_quality_is_more_bytes_and_less_error(codec: type[ImageCodec]) -> None:
    """Of a picture with smooth and rough parts, at three qualities."""
    original = _picture(24, 24, 0).resize((96, 96), Image.Resampling.BICUBIC)
    sizes, errors = [], []
    for quality in (5, 50, 90):
        made = _made(codec, quality=quality)
        body = made.encode(original)
        sizes.append(len(body))
        errors.append(np.square(np.asarray(original, float) - np.asarray(made.decode(body), float)).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.slow
def test_more_time_finds_fewer_bytes() -> None:
    """JPEG's optimised tables and scans, AVIF's slow search: each gives a smaller file than the point without."""
    original = _picture(64, 64, 0).resize((256, 256))
    plain = len(_made(Jpeg, quality=30).encode(original))
    assert len(_made(Jpeg, quality=30, optimize=True).encode(original)) < plain
    assert len(_made(Jpeg, quality=30, progressive=True).encode(original)) < plain
    fast, slow = (len(_made(Avif, quality=50, speed=speed).encode(original)) for speed in (10, 4))
    assert slow < fast


_SIDE_BITS = (9, 13, 18, 30)
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@pytest.mark.slow
@given(st.integers(1, 2**18), st.integers(1, 2**18), st.sampled_from([None, *_RATIOS]), st.booleans())
def test_the_size_of_a_jpeg_xl_codestream_is_in_its_first_bits(
    height: int, width: int, ratio: int | None, eighths: bool
) -> None:
    """Both ways to write a side, and all ratios, written here bit for bit from the standard."""
    if eighths:
        height, width = (8 * (1 + side % 32) for side in (height, width))

    def side(n: int) -> str:
        if eighths:
            return _bits(n // 8 - 1, 5)
        selector = next(s for s, n_bits in enumerate(_SIDE_BITS) if n - 1 < 1 << n_bits)
        return _bits(selector, 2) + _bits(n - 1, _SIDE_BITS[selector])

    bits = _bits(eighths, 1) + side(height) + _bits(ratio or 0, 3) + (side(width) if ratio is None else "")
    body = b"\xff\x0a" + int(bits[::-1], 2).to_bytes(12, "little")
    of_width, of_height = _RATIOS.get(ratio or 0, (0, 1))
    assert jxl_size(body) == (width if ratio is None else height * of_width // of_height, height)


def _bits(value: int, n: int) -> str:
    """The n lowest bits, the lowest first."""
    return format(value, f"0{n}b")[::-1]


@pytest.mark.parametrize("size", [(8, 8), (256, 64), (257, 64), (640, 480), (1, 700), (9000, 2)])
def test_the_size_read_is_the_one_that_the_encoder_wrote(size: tuple[int, int]) -> None:
    """And a server whose limit is a pixel less decodes nothing."""
    body = _made(JpegXL, quality=10, effort=1).encode(Image.new("RGB", size))
    assert jxl_size(body) == size
    server = JpegXL(JpegXLPoint(quality=10), max_pixels=size[0] * size[1] - 1)
    with pytest.raises(BitstreamError, match=f"claims a picture of {size[0]} x {size[1]} px"):
        server.decode(body)


@pytest.mark.parametrize(("size", "sent"), [((400, 300), (100, 75)), ((3, 900), (1, 100)), ((100, 40), (100, 40))])
def test_a_larger_picture_is_made_smaller_before_it_is_encoded(size: tuple[int, int], sent: tuple[int, int]) -> None:
    """Its longer side is then max_side; this is a stage of its own, and a picture that fits is unchanged."""
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    clock = StageClock()
    codec = Jpeg(JpegPoint(quality=50, max_side=100))
    (body,) = PictureDevice(codec)(_sample(file.getvalue()), clock).bodies
    assert codec.decode(body).size == sent
    assert set(clock.seconds) == ({"encode"} if size == sent else {"resize", "encode"})


def test_full_chroma_costs_bytes() -> None:
    """The subsampling that a point declares reaches the encoder."""
    original = _picture(64, 64, 0)
    sizes = [len(Jpeg(JpegPoint(quality=50, subsampling=s)).encode(original)) for s in ("4:2:0", "4:2:2", "4:4:4")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


METADATA: dict[str | tuple[int, int], Any] = {
    "comment": b"a comment of the original file" * 99,
    "exif": b"Exif\0\0II*\0" + bytes(3000),
    "icc_profile": bytes(3000),
    "xmp": bytes(3000),
    "XML:com.adobe.xmp": "x" * 3000,
    "photoshop": {1: bytes(3000)},
    "dpi": (300, 300),
    "jfif_density": (300, 300),
    "jfif_unit": 1,
    "adobe": 100,
    "adobe_transform": 1,
    "progressive": 1,
    "quality": 1,
    "gamma": 0.5,
    "transparency": (1, 2, 3),
    "background": (1, 2, 3, 4),
    "loop": 7,
    "duration": 7,
    "mp": {1: 2},
    "mpoffset": 9,
}


@pytest.mark.parametrize(
    "codec",
    [
        Jpeg(JpegPoint(quality=50)),
        Jpeg(JpegPoint(quality=90, subsampling="4:4:4")),
        WebP(WebPPoint(quality=50)),
        WebP(WebPPoint(quality=50, method=0)),
        *([Avif(AvifPoint(quality=50))] if features.check("avif") else []),
    ],
)
def test_only_pixels_are_sent(codec: ImageCodec) -> None:
    """Whatever Pillow knows of the original file, the payload is that of its pixels alone, byte for byte."""
    plain, dressed = _picture(40, 30, 3), _picture(40, 30, 3)
    dressed.info = dict(METADATA)
    assert codec.encode(dressed) == codec.encode(plain)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_payload_of_a_file_is_that_of_its_pixels(kind: str) -> None:
    """A comment, a profile and a resolution in the file do not add a byte to what a device sends."""
    dressed, plain = io.BytesIO(), io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    more = {"comment": METADATA["comment"]} if kind == "JPEG" else {}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _picture(40, 30, 3).save(dressed, kind, icc_profile=profile, dpi=(300, 300), **options, **more)
    _picture(40, 30, 3).save(plain, kind, **options)
    assert len(dressed.getvalue()) > len(plain.getvalue()) + 400
    for codec in (Jpeg(JpegPoint(quality=50)), WebP(WebPPoint(quality=50))):
        bodies = [PictureDevice(codec)(_sample(file.getvalue()), Untimed()) for file in (dressed, plain)]
        assert bodies[0] == bodies[1]


def _sample(file: bytes) -> Sample:
    question = Question(text="?", kind="yes_no")
    return Sample(id="17", image_bytes=file, question=question, truth="Yes", category="", group="17")


@pytest.mark.parametrize(
    ("codec", "side"),
    [(Jpeg(JpegPoint(quality=5)), 65_500), (WebP(WebPPoint(quality=5, method=0)), 16_383)],
)
def test_a_picture_beyond_the_encoder_names_the_sample(codec: ImageCodec, side: int) -> None:
    """The largest side that a format has is sent; one pixel more is one sentence with sample, size and limit."""
    for size, fits in (((side, 1), True), ((1, side), True), ((side + 1, 1), False)):
        file = io.BytesIO()
        Image.new("RGB", size).save(file, "PNG")
        if fits:
            assert PictureDevice(codec)(_sample(file.getvalue()), Untimed()).bodies[0]
            continue
        sentence = (
            f"sample 17: its picture of {side + 1} x 1 px cannot be sent as .*, whose sides have at most {side} px"
        )
        with pytest.raises(DataError, match=sentence):
            PictureDevice(codec)(_sample(file.getvalue()), Untimed())


def test_a_payload_that_claims_a_large_picture_is_not_decoded() -> None:
    """A few hundred bytes that would become hundreds of megabytes; the limit is the server's, or 16 megapixels."""
    body = bytearray(Jpeg(JpegPoint(quality=50)).encode(Image.new("RGB", (16, 16))))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = (4001).to_bytes(2, "big") * 2
    with pytest.raises(BitstreamError, match="it has 4001 x 4001 px, more than the 16000000 px"):
        picture(bytes(body), ("JPEG",))
    with pytest.raises(BitstreamError, match="it has 16 x 16 px, more than the 255 px"):
        picture(Jpeg(JpegPoint(quality=50)).encode(Image.new("RGB", (16, 16))), ("JPEG",), max_pixels=255)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
@given(data=st.data())
def test_a_damaged_payload_is_a_bitstream_error_or_a_picture(kind: type[ImageCodec], data: st.DataObject) -> None:
    """Cut or overwritten anywhere, a payload never raises anything else."""
    codec = _made(kind, quality=30)
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
    with pytest.raises(BitstreamError, match="are not a WEBP picture"):
        picture(file.getvalue(), ("WEBP",))
