"""How many patches a picture is cut into, from its size and a model's config.json. Nothing here imports torch.

An image is enlarged to the smallest grid of n_h x n_w patches that holds it, and a thumbnail goes in front; a model
without grids cuts none. What pixels become is :mod:`harness.models.tiling`'s.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import catalog
from harness.errors import CheckpointError, UnavailableError, shown, unknown_name
from harness.models import files
from harness.models.contract import Backbone

Grids = tuple[tuple[int, int], ...]


def grids_up_to(max_grid: int) -> Grids:
    """All grids of 1 to ``max_grid`` rows and columns; LLaVA-OneVision has those up to 6."""
    sides = range(1, max_grid + 1)
    return tuple((n_h, n_w) for n_h in sides for n_w in sides)


_SIDE_PX, _GRIDS = 384, grids_up_to(6)
"""LLaVA-OneVision's side of a patch and its grids, where a config.json does not say otherwise."""

_ONE_TILE = ("llava-1.5-7b", "mini-llava15")


@functools.lru_cache(maxsize=4096)
def best_grid(height: int, width: int, patch: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (n_h, n_w) that keeps most of an image's pixels and, among those, has the smallest canvas.

    Where some grid holds the image this is ceil(height / p) x ceil(width / p); an image larger than every grid is
    shrunk to the one that keeps most of it, as transformers' processor does.
    """

    def kept_and_spared(grid: tuple[int, int]) -> tuple[int, int]:
        canvas_h, canvas_w = grid[0] * patch, grid[1] * patch
        scale = min(canvas_w / width, canvas_h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas_h * canvas_w

    return max(grids, key=kept_and_spared)


def grids_of(pinpoints: Any, patch: int) -> Grids:
    """The grids that a config's ``image_grid_pinpoints`` (height, width in px) describe.

    Raises CheckpointError for what is no list of pairs of whole patches of ``patch`` px.
    """
    if (
        not isinstance(pinpoints, (list, tuple))
        or not pinpoints
        or not all(_is_pinpoint(pair, patch) for pair in pinpoints)
    ):
        raise CheckpointError(
            f"image_grid_pinpoints are {str(pinpoints)[:80]}; pairs of a height and a width of whole tiles of {patch} "
            "px are expected"
        )
    return tuple((height // patch, width // patch) for height, width in pinpoints)


def patches_of(width_px: int, height_px: int, backbone: str, weights: str | None = None) -> int:
    """P, the patches that a model's vision side makes of a picture; thumbnail included, 1 where it does not tile.

    ``weights`` is as of :class:`harness.models.llava.LlavaModels`. Raises UnavailableError where the model's
    config.json is not on this machine (with random weights the published sizes are taken), CheckpointError where it
    is damaged or of another model.
    """
    if (own := _own(backbone)) is not None:
        return own.patches_of(width_px, height_px, weights)
    found = _tiling(backbone, None if weights is None else str(weights))
    if found is None:
        return 1
    n_h, n_w = best_grid(height_px, width_px, *found)
    return n_h * n_w + 1


def patches_of_all(sizes_px: Iterable[tuple[int, int]], backbone: str, weights: str | None = None) -> int:
    """The patches of all of a question's pictures, whose (width, height) are given."""
    return sum(patches_of(width_px, height_px, backbone, weights) for width_px, height_px in sizes_px)


@functools.lru_cache(maxsize=64)
def features_of(backbone: str, weights: str | None = None) -> int:
    """V, the features that a model's vision side makes of a patch; ``weights`` and errors as of :func:`patches_of`."""
    if (own := _own(backbone)) is not None:
        return own.features_of(weights)
    found = _config(backbone, weights)
    if found is None:
        return 576 if backbone in _ONE_TILE else 729
    path, config = found
    side_px, patch_px = (336, 14) if config["model_type"] == "llava" else (_SIDE_PX, 14)
    side = _size(path, config, "image_size", side_px) // _size(path, config, "patch_size", patch_px)
    return side**2


@functools.lru_cache(maxsize=64)
def _tiling(backbone: str, weights: str | None) -> tuple[int, Grids] | None:
    """The side of a patch and the grids; None where every picture is one patch."""
    found = _config(backbone, weights)
    if found is None:
        return None if backbone in _ONE_TILE else (_SIDE_PX, _GRIDS)
    path, config = found
    if config["model_type"] == "llava":
        return None
    side = _size(path, config, "image_size", _SIDE_PX)
    try:
        return side, grids_of(config.get("image_grid_pinpoints", [[h * 384, w * 384] for h, w in _GRIDS]), side)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _own(backbone: str) -> Backbone | None:
    """A backbone that is none of the harness's own."""
    if backbone in catalog.BACKBONES:
        return None
    found: Backbone = catalog.load("backbone", backbone, catalog.BACKBONES)
    return found


def _config(backbone: str, weights: str | None) -> tuple[Path, Mapping[str, Any]] | None:
    """A model's config.json, which is of a known kind; None for random weights where the model is not here."""
    if backbone not in files.SOURCES:
        raise CheckpointError(unknown_name("model", backbone, files.SOURCES))
    try:
        source = files.SOURCES[backbone] if weights in (None, "random") else weights
        path = files.locate(backbone, source) / "config.json"
    except UnavailableError:
        if weights != "random":
            raise
        return None
    config: Mapping[str, Any] = files.read_json(path)
    kind = config.get("model_type")
    if kind not in ("llava", "llava_onevision"):
        raise CheckpointError(f"{path}: model_type is {shown(kind)}; 'llava' or 'llava_onevision' is expected")
    return path, config


def _size(path: Path, config: Mapping[str, Any], name: str, default: int) -> int:
    """A size in pixels of a config's vision_config."""
    vision = config.get("vision_config")
    size = vision.get(name, default) if isinstance(vision, Mapping) else default
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{path}: vision_config.{name} is {shown(size)}; a whole number from 1 on is expected")
    return size


def _is_pinpoint(pair: Any, patch: int) -> bool:
    return (
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(side, int) and side >= patch and side % patch == 0 for side in pair)
    )
