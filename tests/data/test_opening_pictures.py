"""One opener: what each kind of file decodes to, its header, its limits, and what is refused."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from harness.data import pictures
from harness.errors import DataError

RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
"""Sixteen-bit grey, from black to white; its eight-bit values are 0 to 255."""


def saved(image, kind, **options):
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(file, **options):
    """The decoded picture of a file."""
    image = pictures.decode(file, **options)
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def chunk(name, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(values, colour_type, *more):
    """A 16-bit PNG, written here because Pillow writes none in colour; ``more`` stands before the pixels."""
    rows = values.astype(">u2").reshape(values.shape[0], -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    )


def tiff(values, bits, *, sample_format=1, photometric=1, order="<"):
    """An uncompressed grey TIFF of any depth, written here because Pillow writes few of them."""
    data = values.tobytes()
    tags = [(256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, values.shape[0]), (279, len(data)), (339, sample_format)]
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data)) + data
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return start + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


DEEP = {
    "PNG, grey": lambda: png16(RAMP, 0),
    "PNG, colour": lambda: png16(np.stack([RAMP] * 3, -1), 2),
    "PNG, grey and alpha": lambda: png16(np.stack([RAMP, np.full_like(RAMP, 65535)], -1), 4),
    "PNG, colour and alpha": lambda: png16(np.stack([*[RAMP] * 3, np.full_like(RAMP, 65535)], -1), 6),
    "TIFF": lambda: tiff(RAMP.astype("<u2"), 16),
    "TIFF, the high byte first": lambda: tiff(RAMP.astype(">u2"), 16, order=">"),
    "TIFF, white is zero": lambda: tiff((65535 - RAMP).astype("<u2"), 16, photometric=0),
    "TIFF, by Pillow": lambda: saved(Image.fromarray(RAMP), "TIFF"),
    "TIFF, compressed": lambda: saved(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
    "floats": lambda: saved(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    "floats, white is zero": lambda: tiff((1 - RAMP / 65535).astype("<f4"), 32, sample_format=3, photometric=0),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pictures_are_scaled(kind: str) -> None:
    """A ramp from black to white in more than 8 bits is the same ramp in 8, grey or colour, whoever wrote it."""
    assert (pixels(DEEP[kind]()) == (RAMP >> 8)[..., None]).all()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (tiff(RAMP.astype("<u4"), 32), "32-bit integers; save it with 8 or 16"),
        (tiff(RAMP.astype("<i2"), 16, sample_format=2), "signed or 16-bit integers; save it with 8 or 16"),
        (tiff(RAMP.astype("<f4"), 32, sample_format=3), "floats from 0 to 65535; 0 to 1 are read"),
        (tiff(np.full((2, 2), np.nan, "<f4"), 32, sample_format=3), "floats from nan to nan"),
        (png16(np.stack([RAMP] * 3, -1), 2, chunk(b"tRNS", bytes(6))), "one 16-bit colour as transparent"),
    ],
)
def test_values_without_a_known_white_are_refused(file, sentence: str) -> None:
    """If the value of white is not known, it is not guessed."""
    with pytest.raises(DataError, match=sentence):
        pictures.decode(file)


RED_HALF = Image.new("RGBA", (4, 3), (255, 0, 0, 128))
PINK = (255, 127, 127)


def on_white(file, colour=(255, 255, 255)):
    """Whether a file is one colour all over."""
    return (pixels(file) == colour).all()


def test_transparency_is_composited_on_white() -> None:
    """Alpha, a transparent grey, colour or palette entry, in any mode; opaque pixels are unchanged."""
    for kind in ("PNG", "WEBP", "TIFF"):
        assert on_white(saved(RED_HALF, kind, **({"lossless": True} if kind == "WEBP" else {})), PINK)
    for mode in ("RGBA", "LA"):
        assert on_white(saved(Image.new(mode, (4, 3)), "PNG"))
    assert on_white(saved(Image.new("L", (4, 3), 7), "PNG", transparency=7))
    assert on_white(saved(Image.new("1", (4, 3), 0), "PNG", transparency=0))
    assert on_white(saved(Image.new("RGB", (4, 3), (1, 2, 3)), "PNG", transparency=(1, 2, 3)))
    palette = Image.new("RGB", (4, 3), "navy").quantize(2)
    for kind in ("PNG", "GIF"):
        assert on_white(saved(palette, kind, transparency=palette.getpixel((0, 0))))
    assert on_white(png16(RAMP * 0 + 300, 0, chunk(b"tRNS", struct.pack(">H", 300))))
    assert on_white(png16(RAMP * 0 + 301, 0, chunk(b"tRNS", struct.pack(">H", 300))), (1, 1, 1))
    opaque = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    alpha = opaque.copy()
    alpha.putalpha(255)
    assert (pixels(saved(alpha, "PNG")) == np.asarray(opaque)).all()


def test_plain_pictures_are_pillows_own() -> None:
    """8-bit RGB and grey, palettes, bits, CMYK: what Pillow's conversion gives, to the value."""
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    grey = rgb.convert("L")
    for image, kinds in (
        (rgb, ("PNG", "JPEG", "WEBP", "BMP", "TIFF")),
        (grey, ("PNG", "JPEG", "BMP", "GIF", "TIFF")),
        (rgb.quantize(9), ("PNG", "GIF", "BMP")),
        (grey.convert("1"), ("PNG", "BMP", "TIFF")),
        (rgb.convert("CMYK"), ("JPEG", "TIFF")),
    ):
        for kind in kinds:
            file = saved(image, kind)
            with Image.open(io.BytesIO(file)) as opened:
                assert (pixels(file) == np.asarray(opened.convert("RGB"))).all()


FRAMES = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("MPO", {})]
)
def test_of_several_pictures_the_first_counts(kind: str, options) -> None:
    """An animation, a file of pages, a stereo pair."""
    file = saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)
    assert np.abs(pixels(file).astype(int) - (255, 0, 0)).max() <= 1


CORNERS = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
"""Three by two pixels, all different: all its orientations differ."""
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize(("kind", "number"), list(itertools.product(("PNG", "TIFF", "WEBP", "late PNG"), UPRIGHT)))
def test_orientation_is_applied(kind: str, number: int) -> None:
    """Each of EXIF's eight, and the header's size is that of the picture as shown."""
    exif = Image.Exif()
    exif[0x0112] = number
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    if kind == "late PNG":
        file = saved(CORNERS, "PNG")[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IEND", b"")
    else:
        file = saved(CORNERS.convert("RGB") if kind == "WEBP" else CORNERS, kind, exif=exif.tobytes(), **options)
    expected = UPRIGHT[number](np.asarray(CORNERS))
    assert (pixels(file) == expected[..., None]).all()
    found = pictures.header(file)
    assert (found.height_px, found.width_px) == expected.shape


def test_a_photograph_is_turned_and_damaged_exif_is_not() -> None:
    """A JPEG's orientation counts; an EXIF block that cannot be read is ignored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pictures.decode(saved(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (20, 30)
    for broken in (b"Exif\0\0XX*\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"):
        assert pictures.decode(saved(Image.new("RGB", (30, 20)), "JPEG", exif=broken)).size == (30, 20)


def test_a_header_is_read_without_decoding() -> None:
    """Format and size are known from the beginning of a file without its pixels; a PNG's checksums are verified."""
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    cut = saved(noise, "PNG")
    for damaged in (cut[:2000], cut[:9000] + b"?" + cut[9001:]):
        with pytest.raises(DataError, match="are not a whole picture"):
            pictures.header(damaged)
    for kind in ("JPEG", "BMP"):
        file = saved(noise, kind)[:2000]
        assert pictures.header(file) == pictures.PictureHeader(kind, 300, 200)
        with pytest.raises(DataError, match="are not a whole picture"):
            pictures.decode(file)


def test_the_limit_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel more than the limit is refused from the header alone, by both readers, and the limit itself is read."""
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        file = saved(Image.new("RGB", (50, 20)), kind)
        assert pictures.decode(file, max_pixels=1000).size == (50, 20)
        with monkeypatch.context() as patched:
            patched.setattr(Image.Image, "load", lambda _: pytest.fail("pixels were decoded"))
            for read in (pictures.header, pictures.decode):
                with pytest.raises(DataError, match="it has 50 x 20 px, more than the 999 px"):
                    read(file, max_pixels=999)


def test_a_small_file_of_a_huge_picture_is_refused() -> None:
    """A header may claim 65,500 x 65,500; the limits stated are the defaults."""
    file = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG"))
    at = file.index(b"\xff\xc0") + 5
    for side, sentence in ((13_000, "13000 x 13000 px"), (65_500, "more than the 67108864 px")):
        file[at : at + 4] = struct.pack(">HH", side, side)
        with pytest.raises(DataError, match=sentence):
            pictures.decode(bytes(file))
    assert pictures.MAX_PIXELS == 8192 * 8192
    assert pictures.PAYLOAD_MAX_PIXELS == 16_000_000


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan goes over the whole picture again, and costs a few bytes."""
    file = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    assert pictures.decode(file[:-2] + last * 80 + b"\xff\xd9").size == (64, 64)
    with pytest.raises(DataError, match="has 210 scans; a JPEG file of more than 100 is not decoded"):
        pictures.decode(file[:-2] + last * 200 + b"\xff\xd9")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


OTHERS = [EPS, b"", b"no picture"]
OTHERS += [saved(Image.new("RGB", (8, 8)), kind) for kind in ("PPM", "ICO", *["AVIF"] * bool(features.check("avif")))]


@pytest.mark.parametrize("file", OTHERS)
def test_other_formats_are_not_read(file, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript above all: no program is started, and the formats that are read are named."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    for read in (pictures.header, pictures.decode):
        with pytest.raises(pictures.NotAPictureError, match="are not a JPEG, PNG, WEBP, BMP, GIF or TIFF picture"):
            read(file)


def test_a_text_that_unpacks_to_more_than_pillow_takes_is_one_sentence() -> None:
    """Pillow's ValueError of a compressed text; its SyntaxError of a broken chunk."""
    file = saved(Image.new("RGB", (8, 8)), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20)))
    for damaged in (file[:33] + text + file[33:], file[:33] + b"\0\0\0\4a\x96\xaa\xaa" + file[33:]):
        with pytest.raises(DataError, match=r"are not a whole picture: |or its header is damaged") as refusal:
            pictures.decode(damaged)
        assert "\n" not in str(refusal.value)


FILES = [
    *(saved(RED_HALF.resize((31, 24)), kind) for kind in ("PNG", "WEBP", "TIFF", "GIF")),
    saved(Image.effect_noise((31, 24), 60), "JPEG"),
    saved(
        Image.effect_noise((31, 24), 60), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0"
    ),
    saved(Image.effect_noise((31, 24), 60), "BMP"),
    saved(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
    png16(RAMP, 0),
]


@pytest.mark.slow
@given(st.sampled_from(FILES), st.data())
def test_a_damaged_file_is_a_picture_or_one_sentence(file, data) -> None:
    """Bytes overwritten, cut or inserted anywhere: no other exception, whatever Pillow raises."""
    body = bytearray(file)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(body) - 1, 400)) | st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    for read in (pictures.header, pictures.decode):
        said = ""
        try:
            read(bytes(body), max_pixels=10**6)
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 300


def test_identity_is_the_bytes() -> None:
    """Equal files share a digest; a byte, the order, and where one file ends make another."""
    one, two = b"one", b"two"
    assert pictures.digest([one]) == pictures.digest([bytes(one)])
    names = [pictures.digest(files) for files in ([one], [two], [one, two], [two, one], [one + two], [b"onet", b"wo"])]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {20}
