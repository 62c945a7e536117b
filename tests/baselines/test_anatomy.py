"""``harness inspect`` on what every scheme sends: the parts add up to the payload, and other bytes are refused."""

import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.neural_codec import Elic, Hyperprior, NeuralPoint, bundled
from baselines.neural_container import MAGIC, MODEL_BYTES, CodedPicture, pack
from baselines.raw_features import _HEADER
from harness import catalog
from harness.data.pictures import FORMATS
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.errors import BitstreamError
from harness.models.contract import Untimed
from harness.models.loading import LlavaModels
from harness.schemes import image_codec
from harness.schemes.anatomy import of_body
from harness.schemes.contract import Payload
from harness.schemes.envelope import pack as enveloped

TOFC = {"header", "experts", "z", "y"}
JPEG = {"headers", "quantisation", "Huffman tables", "coefficients"}
POINTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "tofc": ({"codec": "lambda-0.1", "merge_to": 0.02}, TOFC),
    "jpeg": ({"quality": 30}, JPEG),
    "webp": ({"quality": 30}, {"container", "frame header", "modes", "coefficients"}),
    "avif": ({"quality": 30}, {"all"}),
    "jxl": ({"quality": 30}, {"all"}),
    "hyperprior": ({"weights": 0.006}, {"header", "z", "y"}),
    "elic": ({"weights": 0.006}, {"header", "z", "y"}),
    "compressai": ({"model": "bmshj2018-hyperprior", "quality": 1}, {"header", "z", "y"}),
    "server_only": ({}, JPEG),
    "raw_features": ({"merge_to": 0.02}, {"header", "features"}),
    "tofc_selective": ({"codec": "lambda-0.2", "merge_to": 0.02}, TOFC),
    "tofc_single": ({"codec": "lambda-0.2", "merge_to": 0.02}, TOFC),
    "tofc_heuristic": ({"codec": "bits-4", "merge_to": 0.02}, TOFC),
    "tofc_factorized": ({"codec": "lambda-0.2", "merge_to": 0.02}, TOFC),
    "tofc_unmerged": ({"codec": "distortion", "merge_to": 0.028}, {"header", "features"}),
    "visionzip": ({"codec": "distortion", "merge_to": 0.028}, {"header", "features"}),
    "visionzip_merging": ({"codec": "distortion", "merge_to": 0.028}, {"header", "features"}),
    "qformer": ({"codec": "distortion", "merge_to": 0.028}, {"header", "features"}),
}
EXTRAS = {"compressai": "compressai", "jxl": "pillow_jxl"}


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A question about a street."""
    return samples(book("test", 0)[:1], paired=False)[0]


def picture(width_px: int = 100, height_px: int = 60) -> Image.Image:
    """Something that compresses."""
    rows, columns = np.mgrid[:height_px, :width_px]
    return Image.fromarray(np.stack([rows * 3, columns * 2, rows + columns], -1).astype(np.uint8))


def test_every_scheme_that_sends_is_inspected() -> None:
    """Every scheme of the catalog is tested here but the one that sends nothing."""
    assert set(POINTS) == set(catalog.SCHEMES) - {"device_only"}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", POINTS)
def test_the_parts_of_every_scheme_sum_to_its_payload(scheme: str, models: LlavaModels, sample: Sample) -> None:
    """The bundled checkpoint is found, the parts are the scheme's, and not a bit is lost or counted twice."""
    if find_spec(EXTRAS.get(scheme, "pytest")) is None:
        pytest.skip(f"the extra [{scheme}] is not installed")
    point, parts = POINTS[scheme]
    kind = catalog.load("scheme", scheme, catalog.SCHEMES)
    sent = kind.device_half(models, kind.Point(**point))(sample, Untimed())
    assert isinstance(sent, Payload)
    (body,) = sent.bodies
    found = of_body(body)
    assert set(found.bits) == parts
    assert min(found.bits.values()) >= 0
    assert sum(found.bits.values()) == 8 * len(body)


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "n_y"), [(Hyperprior, 1), (Elic, 10)])
def test_a_neural_file_is_read_string_by_string(codec: type[Hyperprior | Elic], n_y: int) -> None:
    """The last string is z, the others are y; a bundled model is named by its lambda."""
    (rate_weight, *_) = bundled(codec.kind)
    made = codec(NeuralPoint(weights=rate_weight))
    body = made.encode(picture())
    strings = made.coder.net.compress(torch.zeros(1, 3, 64, 128))
    assert len(strings) == n_y + 1
    found = of_body(body)
    assert f"bundled weights {rate_weight:g}" in found.what
    assert "100 x 60 px" in found.what
    assert found.what.startswith("a file of hyperprior" if n_y == 1 else "a file of ELIC")


@pytest.mark.slow
@pytest.mark.parametrize("n_strings", [1, 2, 3, 5, 7, 11, 33])
def test_any_number_of_strings_in_a_neural_file_is_separated(n_strings: int) -> None:
    """Strings of any length, empty ones too: no smaller count of strings fits a file of more."""
    rng = np.random.default_rng(n_strings)
    for _ in range(50):
        strings = tuple(rng.bytes(int(n)) for n in rng.integers(0, 300, n_strings))
        found = of_body(pack(b"none", CodedPicture(9, 7, strings)))
        z = strings[-1] if n_strings > 1 else b""
        assert found.bits["z"] == 8 * len(z)
        assert found.bits["y"] == 8 * (sum(map(len, strings)) - len(z))
        assert "model 6e6f6e65" in found.what
        if n_strings > 3:
            groups = [len(first) + len(second) for first, second in zip(strings[:-1:2], strings[1::2], strict=True)]
            assert found.notes[0].endswith(": " + ", ".join(map(str, groups)))


def test_a_damaged_neural_file_is_refused() -> None:
    """Its checksum does not hold, whatever the count of its strings."""
    body = pack(b"none", CodedPicture(9, 7, (b"abc", b"de")))
    assert body[: len(MAGIC) + MODEL_BYTES].endswith(b"none")
    with pytest.raises(BitstreamError, match="its checksum does not match"):
        of_body(body[:-1] + bytes([body[-1] ^ 1]))


@pytest.mark.slow
def test_raw_features_are_a_header_and_half_precision(models: LlavaModels, sample: Sample) -> None:
    """Sixteen bits a number, and what the header says of the picture."""
    kind = catalog.load("scheme", "raw_features", catalog.SCHEMES)
    (body,) = kind.device_half(models, kind.Point(merge_to=0.02))(sample, Untimed()).bodies
    found = of_body(body)
    assert found.bits["header"] == 8 * _HEADER.size
    assert f"merged features in {models.vision().feature_dim} dimensions" in found.what
    width, height = sample.image().size
    assert f"{width} x {height} px" in found.what


def jpeg(**options: object) -> bytes:
    """A JPEG file."""
    file = io.BytesIO()
    picture().save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("quality", [1, 30, 75, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_jpeg_shows_its_quality_and_its_chroma(quality: int, subsampling: str) -> None:
    """Two tables of 64 bytes, four Huffman tables of the standard, and the rest is the picture."""
    found = of_body(jpeg(quality=quality, subsampling=subsampling))
    assert found.what == f"a JPEG file, 100 x 60 px, chroma {subsampling}"
    assert found.notes == [f"its quantisation tables are libjpeg's at quality {quality}"]
    assert found.bits["quantisation"] == 8 * 2 * (4 + 1 + 64)
    assert found.bits["Huffman tables"] == 8 * (2 * (4 + 17 + 12) + 2 * (4 + 17 + 162))


def test_an_unusual_jpeg_is_read_to_its_end() -> None:
    """Progressive scans, restarts among the data, tables of another encoder, and bytes after the picture."""
    assert sum(of_body(body := jpeg(progressive=True)).bits.values()) == 8 * len(body)
    assert sum(of_body(body := jpeg(restart_marker_rows=1)).bits.values()) == 8 * len(body)
    assert of_body(jpeg(qtables=[[7] * 64, [9] * 64])).notes == [
        "its quantisation tables are not libjpeg's at any quality"
    ]
    assert of_body(jpeg() + b"more").bits["after the picture"] == 32


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_with_fill_bytes_is_read_exactly(options: dict[str, object]) -> None:
    """0xFF before any marker is shown separately, and every other part is unchanged."""
    body = jpeg(**options)
    whole = of_body(body).bits
    filled, at = b"", 0
    for marker in (b"\xff\xdb", b"\xff\xc4", b"\xff\xda", b"\xff\xd1", b"\xff\xd9"):
        if (found := body.find(marker, max(at, 2))) >= 0:
            filled, at = filled + body[at:found] + b"\xff" * 7, found
    filled += body[at:]
    fill = len(filled) - len(body)
    inside = 7 if b"\xff\xd1" in body else 0  # Before a restart they are among the coded data.
    bits = dict(of_body(filled).bits)
    assert sum(bits.values()) == 8 * len(filled)
    assert bits.pop("fill") == 8 * (fill - inside)
    assert bits == {**whole, "coefficients": whole["coefficients"] + 8 * inside}


def test_bytes_between_the_segments_of_a_jpeg_are_shown_as_fill() -> None:
    """Decoders skip them; a segment's parts are unchanged."""
    body = jpeg()
    at = body.index(b"\xff\xdb")
    bits = dict(of_body(body[:at] + b"junk" + body[at:]).bits)
    assert bits.pop("fill") == 32
    assert bits == of_body(body).bits


@pytest.mark.slow
@given(st.data())
def test_no_damaged_picture_file_has_parts_that_do_not_sum(data: st.DataObject) -> None:
    """Whatever bytes are overwritten or inserted: no negative part, and the parts add up to the file, or an error."""
    body = bytearray(jpeg(progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"\xff", b"\xff\xff", b"\0", b"\xff\x01"])
        )
    try:
        found = of_body(bytes(body))
    except BitstreamError:
        return
    assert min(found.bits.values()) >= 0
    assert sum(found.bits.values()) == 8 * len(body)


def test_webp_without_loss_has_no_modes() -> None:
    """Its chunk is shown as a whole, without a quality."""
    file = io.BytesIO()
    picture().save(file, "WEBP", lossless=True)
    found = of_body(file.getvalue())
    assert set(found.bits) == {"container", "VP8L"}
    assert found.notes == []
    assert sum(found.bits.values()) == 8 * len(file.getvalue())


def test_a_picture_of_another_format_is_shown_as_a_whole() -> None:
    """A benchmark's own PNG is its size; what is no picture is refused by the scheme that sends such files."""
    file = io.BytesIO()
    picture().save(file, "PNG")
    found = of_body(file.getvalue())
    assert (found.what, found.bits) == ("a PNG file, 100 x 60 px", {"all": 8 * len(file.getvalue())})
    with pytest.raises(BitstreamError, match="are not a JPEG, PNG, "):
        image_codec.picture(b"no picture", FORMATS)


def test_several_pictures_are_shown_one_by_one(tmp_path: Path, harness: Callable[..., tuple[int, str, str]]) -> None:
    """Each has its own parts, and the bytes of the envelope are shown."""
    bodies = [jpeg(quality=30), jpeg(quality=60)]
    (tmp_path / "two").write_bytes(enveloped(Payload("jpeg", tuple(bodies))))
    status, out, err = harness("inspect", tmp_path / "two")
    assert (status, err) == (0, "")
    assert "2 pictures in an envelope of 16 bytes" in out
    for number, (body, quality) in enumerate(zip(bodies, (30, 60), strict=True), 1):
        assert f"picture {number}: {len(body)} bytes, a JPEG file" in out
        assert f"at quality {quality}" in out


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "0 bytes are no payload of this harness"),
        (b"%PDF-1.7", "8 bytes that begin with 25 50 44 46 are no payload of this harness; known: TOFC streams, "),
        (jpeg()[:-200], "cannot be read"),
        (b"RAWF\x00", "shorter than"),
    ],
)
def test_what_no_scheme_writes_is_one_sentence(
    body: bytes, sentence: str, tmp_path: Path, harness: Callable[..., tuple[int, str, str]]
) -> None:
    """Status 2, and the sentence begins with the file's name."""
    (tmp_path / "file").write_bytes(body)
    status, out, err = harness("inspect", tmp_path / "file")
    assert (status, out) == (2, "")
    assert err.startswith(f"harness: {tmp_path / 'file'}: ")
    assert sentence in err
    assert len(err.splitlines()) == 1
