"""The arrangement of all tokens, against transformers' pack_image_features."""

import pytest
import torch

from harness.models.arrangement import arrange

SIZES = [
    (384, 384),
    (100, 90),
    (768, 512),
    (512, 768),
    (720, 1280),
    (1405, 1536),
    (1152, 1152),
    (1153, 1152),
    (2304, 2304),
    (2500, 400),
    (400, 2500),
    (385, 1),
    (1, 385),
    (4000, 3000),
]


@pytest.mark.parametrize("image_size", SIZES)
def test_arrangement_is_transformers_at_full_geometry(real_grid, image_size) -> None:
    """27 x 27 features a tile, any grid, unpadded, interpolated, with newlines: the same tokens in the same order."""
    model = real_grid.model.model
    grid = real_grid.tiling.grid(*image_size)
    generator = torch.Generator().manual_seed(sum(image_size))
    tokens_PVH = torch.randn(grid[0] * grid[1] + 1, 729, 32, generator=generator)
    (wanted_TH,), _ = model.pack_image_features(
        [tokens_PVH], torch.tensor([image_size]), model.image_newline, "anyres_max_9"
    )
    found_TH = arrange(tokens_PVH, model.image_newline, grid, image_size, 9)
    torch.testing.assert_close(found_TH, wanted_TH, atol=1e-6, rtol=0)


def test_every_token_is_there_where_nothing_is_cut() -> None:
    """A full grid under the limit: the thumbnail's tokens, then picture rows closed by newlines."""
    tokens_PVH = torch.arange(7 * 4.0).view(7, 4, 1)
    newline_H = torch.tensor([-1.0])
    found = arrange(tokens_PVH, newline_H, (2, 3), (20, 30), 9).flatten().tolist()
    # Tiles of 2 x 2 tokens: 4 5 / 6 7, then 8 9 / 10 11, and so on.
    assert found[:4] == [0, 1, 2, 3]
    assert found[4:] == [
        *[4, 5, 8, 9, 12, 13, -1],
        *[6, 7, 10, 11, 14, 15, -1],
        *[16, 17, 20, 21, 24, 25, -1],
        *[18, 19, 22, 23, 26, 27, -1],
    ]


def test_gradients_pass_through() -> None:
    """Training can go through the arrangement, also where it interpolates."""
    tokens_PVH = torch.randn(37, 16, 4, requires_grad=True)
    newline_H = torch.zeros(4, requires_grad=True)
    arrange(tokens_PVH, newline_H, (6, 6), (600, 600), 9).sum().backward()
    assert tokens_PVH.grad is not None
    assert newline_H.grad is not None
    assert (tokens_PVH.grad.abs() > 0).all()
    assert (newline_H.grad > 0).all()
