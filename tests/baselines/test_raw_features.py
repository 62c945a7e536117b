"""Uncompressed features as a payload."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.raw_features import _HEADER, RawFeatures, RawFeaturesPoint, pack, unpack
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError, FeaturesError
from harness.models.contract import Features, Layout, Untimed
from harness.profiling.clock import StageClock
from harness.schemes.fake import FakeModels


def _features(n_h: int, n_w: int, n_features: int, dim: int) -> Features:
    x_PVD = torch.randn(n_h * n_w + 1, n_features, dim, generator=torch.Generator().manual_seed(0))
    return Features(x_PVD, Layout((n_h, n_w), (n_h * 100, n_w * 90)))


@given(
    n_h=st.integers(1, 6),
    n_w=st.integers(1, 6),
    n_features=st.integers(1, 9),
    dim=st.integers(1, 9),
    merged=st.booleans(),
)
def test_features_come_back_in_half_precision(n_h: int, n_w: int, n_features: int, dim: int, merged: bool) -> None:
    """Shape, grid, picture size and flag are exact; values are rounded to float16 and no more."""
    seen = _features(n_h, n_w, n_features, dim)
    body = pack(seen, merged=merged)
    assert len(body) == _HEADER.size + 2 * seen.x_PVD.numel()
    found, was_merged = unpack(body)
    assert torch.equal(found.x_PVD, seen.x_PVD.half().float())
    assert (found.layout, was_merged) == (seen.layout, merged)


def test_values_beyond_half_precision_are_clipped_to_it() -> None:
    """An infinity would lead to a wrong answer; the largest half is nearly right."""
    found, _ = unpack(pack(Features(torch.full((2, 1, 1), 1e9), Layout((1, 1), (9, 9))), merged=False))
    assert torch.equal(found.x_PVD, torch.full((2, 1, 1), 65504.0))


@pytest.mark.parametrize("shape", [(256, 1, 1), (2, 65_536, 1), (2, 1, 65_536)])
def test_more_than_the_header_has_room_for_is_refused(shape: tuple[int, int, int]) -> None:
    """One below is sent."""
    layout = Layout((15, 17), (9, 9))
    with pytest.raises(FeaturesError, match="at most 255, 65535 and 65535 can"):
        pack(Features(torch.zeros(shape), layout), merged=True)
    less = tuple(size - (size > 2) for size in shape)
    assert len(pack(Features(torch.zeros(less), layout), merged=True)) > 0


@given(st.data())
def test_every_truncation_and_extension_is_refused(data: st.DataObject) -> None:
    """The length is known from the header."""
    body = pack(_features(1, 1, 3, 4), merged=False)
    cut = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:cut], body + b"\0"):
        with pytest.raises(BitstreamError, match="bytes"):
            unpack(wrong)


@given(st.binary(max_size=80))
def test_foreign_bytes_are_refused(body: bytes) -> None:
    """Whatever a peer sends, the answer is a BitstreamError."""
    with pytest.raises(BitstreamError):
        unpack(body)


@pytest.mark.parametrize(("place", "value"), [(4, 7), (5, 0), (7, 9)])
def test_an_impossible_header_is_refused(place: int, value: int) -> None:
    """An unknown flag, a grid of no rows, patches that are not the grid and its thumbnail."""
    body = bytearray(pack(_features(1, 2, 2, 2), merged=False))
    body[place] = value
    with pytest.raises(BitstreamError):
        unpack(bytes(body))


def test_undefined_features_are_refused() -> None:
    """NaN would make the answer meaningless."""
    body = bytearray(pack(_features(1, 1, 1, 1), merged=False))
    body[_HEADER.size :] = np.array([np.nan, 1.0], "<f2").tobytes()
    with pytest.raises(BitstreamError, match="infinite or undefined"):
        unpack(bytes(body))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("point", [RawFeaturesPoint(), RawFeaturesPoint(n_c=2, neighbours=1)])
def test_a_tower_without_numbers_is_refused(value: float, point: RawFeaturesPoint) -> None:
    """Clipped, an infinity would be a feature like any other; unmerged ones are looked at where nothing is timed."""

    class Broken(FakeModels):
        def vision(self, adapter: object = None) -> Any:
            return self

        def see(self, image: object, clock: object, *, attended: bool = False) -> Features:
            seen = _features(1, 1, 4, 3)
            seen.x_PVD[1, 2, 0] = value
            return seen

    half = RawFeatures.device_half(Broken(), point)
    (sample, *_) = samples(book("test", 0)[:1], paired=False)
    with pytest.raises(FeaturesError, match="infinite"):
        half(sample, Untimed())
    if point.n_c is None:
        assert half(sample, StageClock())
