"""The neural codecs' file: a packed picture is unpacked exactly, and everything else is refused."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.neural_container import MAGIC, MAX_PIXELS, CodedPicture, _varint, fits, pack, unpack
from harness.errors import BitstreamError

MODEL = b"\x01\x02\x03\x04"
pictures = st.builds(
    CodedPicture,
    width_px=st.integers(1, 4000),
    height_px=st.integers(1, 4000),
    strings=st.lists(st.binary(max_size=300), min_size=1, max_size=12).map(tuple),
)


def _sealed(*numbers: int, strings: bytes = b"") -> bytes:
    """A file with a checksum that holds, whatever it claims."""
    body = MAGIC + MODEL + b"".join(map(_varint, numbers)) + strings
    return body + zlib.crc32(body).to_bytes(4, "little")


@given(pictures)
def test_a_picture_comes_back(picture: CodedPicture) -> None:
    """Size and strings, empty ones included."""
    assert unpack(pack(MODEL, picture), MODEL, len(picture.strings)) == picture


@given(pictures)
def test_the_container_costs_its_header_and_no_more(picture: CodedPicture) -> None:
    """Twelve bytes, and one for every seven bits of a number."""
    numbers = (picture.width_px, picture.height_px, *map(len, picture.strings))
    varints = sum(max(1, -(-number.bit_length() // 7)) for number in numbers)
    assert len(pack(MODEL, picture)) == 12 + varints + sum(map(len, picture.strings))


@pytest.mark.slow
@given(picture=pictures, data=st.data())
def test_damage_is_a_bitstream_error(picture: CodedPicture, data: st.DataObject) -> None:
    """Any changed byte, and any truncation."""
    body = bytearray(pack(MODEL, picture))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BitstreamError):
        unpack(bytes(body), MODEL, len(picture.strings))
    whole = pack(MODEL, picture)
    with pytest.raises(BitstreamError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))], MODEL, len(picture.strings))


@given(st.binary(max_size=200))
def test_noise_is_a_bitstream_error(noise: bytes) -> None:
    """With and without a true start and checksum."""
    body = MAGIC + MODEL + noise
    for payload in (noise, body + zlib.crc32(body).to_bytes(4, "little")):
        try:
            picture = unpack(payload, MODEL, 2)
        except BitstreamError:
            continue
        assert fits(picture.width_px, picture.height_px)
        assert sum(map(len, picture.strings)) < len(payload)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "too short"),
        (b"RIFF" + bytes(20), "starts with 52494646"),
        (_sealed(65535, 65535, 0, 0), "claims a picture of 65535 x 65535"),
        (_sealed(0, 5, 0, 0), "claims a picture of 0 x 5"),
        (_sealed(5, 5, 3, 9, strings=b"abc"), "claims strings of 12 bytes and has 3"),
        (_sealed(5, 5, 1), "ends within its header"),
        (_sealed(strings=b"\xff" * 9), "more than 5 bytes"),
    ],
)
def test_an_impossible_claim_is_refused(body: bytes, sentence: str) -> None:
    """No memory is allocated for it."""
    with pytest.raises(BitstreamError, match=sentence):
        unpack(body, MODEL, 2)


def test_the_other_models_payload_is_refused() -> None:
    """Both models are named."""
    with pytest.raises(BitstreamError, match="model 01020304, and this side has 05060708"):
        unpack(pack(MODEL, CodedPicture(3, 3, (b"a", b"b"))), b"\x05\x06\x07\x08", 2)


def test_the_limits() -> None:
    """Sides below 65536, and 16 megapixels unless another limit is named."""
    assert MAX_PIXELS == 16_000_000
    assert fits(1, 1)
    assert fits(4000, 4000)
    assert not fits(4001, 4000)
    assert fits(4001, 4000, max_pixels=4001 * 4000)
    assert not fits(65536, 1)
    assert not fits(65536, 1, max_pixels=2**40)


def test_a_limit_is_held_and_named() -> None:
    """The same file is within one limit and beyond another."""
    body = _sealed(100, 80, 0, 0)
    assert unpack(body, MODEL, 2, max_pixels=8000).width_px == 100
    with pytest.raises(BitstreamError, match=r"100 x 80 px, which is 8000 px.*at most 7999 px"):
        unpack(body, MODEL, 2, max_pixels=7999)
