"""Uncompressed features as a payload."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.raw_features import _HEADER, pack, unpack
from harness.errors import BitstreamError
from harness.models.contract import Features, Layout


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
