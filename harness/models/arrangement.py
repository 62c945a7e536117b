"""How LLaVA-OneVision lays out all of an image's visual tokens for its language model.

    P patches (the thumbnail first)   V tokens a patch, a square of S x S   H width of the language model   T tokens in
    all

The thumbnail's tokens come first; then the tiles' tokens as one picture, row by row, without the rows or columns that
lie in the padding, shrunk where there are too many, each row ended by a learned newline token.
"""

import math

import torch


def arrange(
    tokens_PVH: torch.Tensor,
    newline_H: torch.Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    max_tiles: int,
) -> torch.Tensor:
    """Projected tokens as (T, H), equal to what transformers' ``pack_image_features`` makes of them; differentiable.

    ``grid`` is (n_h, n_w), ``image_size`` the original (height, width), ``max_tiles`` the N of ``anyres_max_N``: more
    than 1.1 * sqrt(N * V) tokens a side on average are interpolated down to N * V.
    """
    _, v, width = tokens_PVH.shape
    side = math.isqrt(v)
    n_h, n_w = grid
    tiles_HWH = tokens_PVH[1:].view(n_h, n_w, side, side, width).permute(0, 2, 1, 3, 4)
    picture_HWH = unpadded(tiles_HWH.reshape(n_h * side, n_w * side, width), image_size)
    rows, columns = picture_HWH.shape[:2]
    ratio = math.sqrt(rows * columns / (max_tiles * v))
    if ratio > 1.1:
        size = [int(rows // ratio), int(columns // ratio)]
        shrunk_1HHW = torch.nn.functional.interpolate(picture_HWH.permute(2, 0, 1)[None], size, mode="bilinear")
        picture_HWH = shrunk_1HHW[0].permute(1, 2, 0)
    newlines_H1H = newline_H.to(picture_HWH).expand(picture_HWH.shape[0], 1, width)
    return torch.cat((tokens_PVH[0], torch.cat((picture_HWH, newlines_H1H), dim=1).flatten(0, 1)))


def unpadded(picture_HWH: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """The part of a canvas (rows, columns, H) that an image of this (height, width) covers, centred, its ratio kept."""
    rows, columns = picture_HWH.shape[:2]
    height, width = image_size
    if width / height > columns / rows:
        covered = int(round(height * (columns / width), 7))
        margin = (rows - covered) // 2
        return picture_HWH[margin : rows - margin]
    covered = int(round(width * (rows / height), 7))
    margin = (columns - covered) // 2
    return picture_HWH[:, margin : columns - margin]
