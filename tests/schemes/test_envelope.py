"""The envelope: payloads of all schemes are unpacked unchanged; damaged, truncated or foreign ones are refused."""

import functools
import struct
import zlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import catalog
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError
from harness.models.contract import Untimed
from harness.models.onevision import load
from harness.schemes.contract import Payload
from harness.schemes.envelope import is_one, opened, pack, receive, send, tag, unpack
from harness.schemes.fake import Fake, FakeModels, FakePoint
from tests.one_request import sent_bytes

POINTS: dict[str, dict[str, Any]] = {
    "tofc": {"codec": "lambda-0.1", "merge_to": 0.02},
    "jpeg": {"quality": 30, "merge_to": 0.02},
    "webp": {"quality": 30, "merge_to": 0.02},
    "avif": {"quality": 30, "merge_to": 0.02},
    "jxl": {"quality": 30, "merge_to": 0.02},
    "hyperprior": {"weights": 0.006, "merge_to": 0.02},
    "elic": {"weights": 0.006, "merge_to": 0.02},
    "compressai": {"model": "bmshj2018-hyperprior", "quality": 1, "merge_to": 0.02},
    "server_only": {},
    "raw_features": {"merge_to": 0.02},
    "tofc_selective": {"codec": "lambda-0.2", "merge_to": 0.02},
    "tofc_single": {"codec": "lambda-0.2", "merge_to": 0.02},
    "tofc_heuristic": {"codec": "bits-4", "merge_to": 0.02},
    "tofc_factorized": {"codec": "lambda-0.2", "merge_to": 0.02},
    "tofc_unmerged": {"codec": "distortion", "merge_to": 0.028},
    "visionzip": {"codec": "distortion", "merge_to": 0.028},
    "visionzip_merging": {"codec": "distortion", "merge_to": 0.028},
    "qformer": {"codec": "distortion", "merge_to": 0.028},
}
EXTRAS = {"compressai": "compressai", "jxl": "pillow_jxl"}
TRIED = [
    pytest.param(
        name,
        marks=[pytest.mark.skipif(find_spec(EXTRAS[name]) is None, reason=f"the extra [{name}] is not installed")]
        if name in EXTRAS
        else [],
    )
    for name in POINTS
]
FLIPS = 60

bodies_of_payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=6).map(tuple)


@functools.cache
def models():
    """The zoo's model."""
    return load("mini-onevision")


@functools.cache
def sent(name):
    """A scheme, its server half, a question, and what its device half sends of a street."""
    scheme = catalog.load("scheme", name, catalog.SCHEMES)
    point = scheme.Point(**POINTS[name])
    sample = samples(book("test", 0)[:1], paired=False)[0]
    data = send(scheme.device_half(models(), point), sample, Untimed())
    return scheme, scheme.server_half(models(), point), sample.question, data


def test_every_scheme_that_sends_is_tested() -> None:
    """Every scheme of the catalog is tested here but the one that sends nothing."""
    assert set(POINTS) == set(catalog.SCHEMES) - {"device_only"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_every_flipped_bit_is_refused(name: str) -> None:
    """Sixty payloads with one bit flipped, anywhere and in each part of the envelope: none is answered from."""
    scheme, server, question, data = sent(name)
    assert receive(server, data, [question], Untimed(), kind=scheme.kind)
    rng = np.random.default_rng(25)
    n_bits, in_head = 8 * len(data), 8 * 8
    places = [*rng.choice(in_head, 15, replace=False), *(n_bits - 1 - rng.choice(32, 5, replace=False))]
    places += [*rng.choice(n_bits, FLIPS - len(places), replace=False)]
    assert len(places) == FLIPS
    taken = []
    for place in map(int, places):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        try:
            receive(server, bytes(damaged), [question], Untimed(), kind=scheme.kind)
        except BitstreamError:
            continue
        taken.append(place)
    assert taken == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_truncations_and_extensions_are_refused(name: str) -> None:
    """Truncated at any tested place, or with bytes after it, a payload is refused."""
    scheme, server, question, data = sent(name)
    cuts = {0, 1, 3, 4, 7, 8, len(data) // 2, len(data) - 4, len(data) - 1}
    for damaged in (*(data[:cut] for cut in cuts), data + b"\0", data + data):
        with pytest.raises(BitstreamError):
            receive(server, damaged, [question], Untimed(), kind=scheme.kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_a_payload_of_another_kind_is_refused(name: str) -> None:
    """The envelope names the scheme of a payload, and that is checked."""
    scheme, server, question, data = sent(name)
    _, bodies, checked = opened(data)
    others = [catalog.load("scheme", other, catalog.SCHEMES).kind for other in POINTS if other != name]
    for kind in others:
        foreign = pack(Payload(kind, bodies, checked))
        with pytest.raises(BitstreamError, match=f"{scheme.kind} has {tag(scheme.kind):#06x}"):
            receive(server, foreign, [question], Untimed(), kind=scheme.kind)


def test_no_two_schemes_share_a_kind() -> None:
    """Neither the name nor its number in the envelope."""
    kinds = [catalog.load("scheme", name, catalog.SCHEMES).kind for name in catalog.SCHEMES]
    assert len({tag(kind) for kind in [*kinds, Fake.kind]}) == len(kinds) + 1


@pytest.mark.slow
@given(bodies_of_payloads, st.sampled_from(["tofc", "jpeg", "fake"]), st.booleans())
def test_what_is_packed_is_unpacked(bodies: tuple[bytes, ...], kind: str, checked: bool) -> None:
    """Packing is undone by unpacking; the envelope is 8 bytes, 12 with its checksum, and 4 for each further picture."""
    payload = Payload(kind, bodies, checked)
    data = pack(payload)
    assert unpack(data, kind) == payload
    assert len(data) == sum(map(len, bodies)) + (8 if checked else 12) + 4 * (len(bodies) - 1)
    assert is_one(data)


@pytest.mark.slow
@given(bodies_of_payloads, st.data())
def test_any_damage_to_a_checked_envelope_is_found(bodies: tuple[bytes, ...], data: st.DataObject) -> None:
    """One to 32 consecutive bits changed anywhere, which a CRC-32 always finds; truncations; bytes after it."""
    packed = pack(Payload("jpeg", bodies))
    first = data.draw(st.integers(0, 8 * len(packed) - 32))
    pattern = data.draw(st.integers(1, 2**32 - 1))
    number = int.from_bytes(packed, "little") ^ (pattern << first)
    cut = data.draw(st.integers(0, len(packed) - 1))
    more = data.draw(st.binary(min_size=1, max_size=9))
    for damaged in (number.to_bytes(len(packed), "little"), packed[:cut], packed + more):
        with pytest.raises(BitstreamError):
            unpack(damaged, "jpeg")


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Whatever a peer sends, the answer is a BitstreamError."""
    with pytest.raises(BitstreamError):
        unpack(b"\x81" + data, "jpeg")


def test_lengths_beyond_the_payload_reserve_nothing() -> None:
    """255 pictures of 4 GiB each, announced in a kilobyte under a checksum that fits."""
    data = struct.pack("<BHB", 0x81, tag("jpeg"), 255) + b"\xff" * (4 * 255)
    with pytest.raises(BitstreamError, match="announces 255 pictures"):
        unpack(data + struct.pack("<I", zlib.crc32(data)), "jpeg")


def test_damage_to_the_fake_schemes_payload_is_found() -> None:
    """It has no checksum of its own: its envelope has one."""
    sample = samples(book("test", 0)[:1], paired=False)[0]
    data = sent_bytes(Fake.device_half(FakeModels(), FakePoint()), sample)
    assert len(data) == 64 + 12
    server = Fake.server_half(FakeModels(), FakePoint())
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(BitstreamError):
            receive(server, bytes(damaged), [sample.question], Untimed(), kind=Fake.kind)
