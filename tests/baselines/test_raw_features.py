"""Uncompressed features as a payload."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.raw_features import _HEADER, pack, unpack
from harness.errors import BitstreamError
from harness.models.contract import Tiles


def _tiles(n_h: int, n_w: int) -> Tiles:
    return Tiles(pixels_PCHW=torch.empty(0), grid=(n_h, n_w), image_size=(n_h * 100, n_w * 90))


def _features(n_patches: int, n_features: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_patches, n_features, dim, generator=torch.Generator().manual_seed(seed))


@given(
    n_h=st.integers(1, 6),
    n_w=st.integers(1, 6),
    n_features=st.integers(1, 9),
    dim=st.integers(1, 9),
    merged=st.booleans(),
)
def test_features_come_back_in_half_precision(n_h: int, n_w: int, n_features: int, dim: int, merged: bool) -> None:
    """Shape, grid, picture size and flag are exact; values are rounded to float16 and no more."""
    x_PVD = _features(n_h * n_w + 1, n_features, dim)
    body = pack(x_PVD, _tiles(n_h, n_w), merged=merged)
    assert len(body) == _HEADER.size + 2 * x_PVD.numel()
    found_PVD, tiles, was_merged = unpack(body)
    assert torch.equal(found_PVD, x_PVD.half().float())
    assert (tiles.grid, tiles.image_size, was_merged) == ((n_h, n_w), (n_h * 100, n_w * 90), merged)


def test_values_beyond_half_precision_are_clipped_to_it() -> None:
    """An infinity would be a wrong answer further on; the largest half is nearly right."""
    found_PVD, _, _ = unpack(pack(torch.full((2, 1, 1), 1e9), _tiles(1, 1), merged=False))
    assert torch.equal(found_PVD, torch.full((2, 1, 1), 65504.0))


@given(st.data())
def test_every_truncation_and_extension_is_refused(data: st.DataObject) -> None:
    """The length is known from the header."""
    body = pack(_features(2, 3, 4), _tiles(1, 1), merged=False)
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
    body = bytearray(pack(_features(3, 2, 2), _tiles(1, 2), merged=False))
    body[place] = value
    with pytest.raises(BitstreamError):
        unpack(bytes(body))


def test_undefined_features_are_refused() -> None:
    """NaN would make an answer of nothing."""
    body = bytearray(pack(_features(2, 1, 1), _tiles(1, 1), merged=False))
    body[_HEADER.size :] = np.array([np.nan, 1.0], "<f2").tobytes()
    with pytest.raises(BitstreamError, match="infinite or undefined"):
        unpack(bytes(body))
