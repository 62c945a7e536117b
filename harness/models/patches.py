"""How many patches a picture is cut into, and how many features of how many dimensions each has.

Known from the picture's size and the model's config.json; nothing here imports torch. An image is enlarged to a grid of
n_h x n_w patches, beside which a thumbnail goes; a model without grids cuts none. What pixels become is
:mod:`harness.models.tiling`'s.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import catalog
from harness.errors import CheckpointError, SchemeError, UnavailableError, shown, unknown_name
from harness.models import files
from harness.models.contract import Backbone

Grids = tuple[tuple[int, int], ...]


def grids_up_to(max_grid: int) -> Grids:
    """All grids of 1 to ``max_grid`` rows and columns; LLaVA-OneVision has those up to 6."""
    sides = range(1, max_grid + 1)
    return tuple((n_h, n_w) for n_h in sides for n_w in sides)


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


@functools.lru_cache(maxsize=4096)
def closest_grid(height: int, width: int, patch: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """The (n_h, n_w) of ``min_tiles`` to ``max_tiles`` patches whose aspect ratio is closest to an image's.

    Of several that are as close it is the largest with less than twice the image's pixels, or else the smallest, as
    transformers' processor for InternVL chooses.
    """
    sides = range(1, max_tiles + 1)
    grids = [(n_h, n_w) for n_w in sides for n_h in sides if min_tiles <= n_h * n_w <= max_tiles]
    best, best_difference = (1, 1), math.inf
    for n_h, n_w in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - n_w / n_h)
        is_filled = width * height > 0.5 * patch**2 * n_h * n_w
        if difference < best_difference or (difference == best_difference and is_filled):
            best, best_difference = (n_h, n_w), difference
    return best


def grids_of(pinpoints: Any, patch: int) -> Grids:
    """The grids that a config's ``image_grid_pinpoints`` (height, width in px) describe.

    Raises CheckpointError for anything but a list of pairs of whole patches of ``patch`` px.
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Sight:
    """What a config.json says of a vision side: V, D, and P of a (width, height)."""

    n_features: int
    feature_dim: int
    patches: Callable[[int, int], int]


def patches_of(width_px: int, height_px: int, backbone: str, weights: str | None = None) -> int:
    """P, the patches that a model's vision side makes of a picture; thumbnail included, 1 where it does not tile.

    ``weights`` is as of :class:`harness.models.loading.LlavaModels`. Raises UnavailableError where the model's
    config.json is not on this machine (with random weights the published sizes are taken), CheckpointError where it
    is damaged or of another model.
    """
    if (own := _own(backbone)) is not None:
        return _counted(backbone, "patches_of", own.patches_of(width_px, height_px, weights))
    return _sight(backbone, None if weights is None else str(weights)).patches(width_px, height_px)


def patches_of_all(sizes_px: Iterable[tuple[int, int]], backbone: str, weights: str | None = None) -> int:
    """The patches of all of a question's pictures, whose (width, height) are given."""
    return sum(patches_of(width_px, height_px, backbone, weights) for width_px, height_px in sizes_px)


def features_of(backbone: str, weights: str | None = None) -> int:
    """V, the features that a model's vision side makes of a patch; ``weights`` and errors as of :func:`patches_of`."""
    if (own := _own(backbone)) is not None:
        return _counted(backbone, "features_of", own.features_of(weights))
    return _sight(backbone, weights).n_features


def feature_dim_of(backbone: str, weights: str | None = None) -> int:
    """D of one of the harness's own models; ``weights`` and errors as of :func:`patches_of`."""
    return _sight(backbone, weights).feature_dim


@functools.lru_cache(maxsize=64)
def _sight(backbone: str, weights: str | None) -> _Sight:
    path, config = _config(backbone, weights)
    return _KINDS[config["model_type"]](path, config)


def _llava(path: Path, config: Mapping[str, Any]) -> _Sight:
    side = _size(path, config, "image_size") // _size(path, config, "patch_size")
    return _Sight(side**2, _size(path, config, "hidden_size"), _one_patch)


def _llava_onevision(path: Path, config: Mapping[str, Any]) -> _Sight:
    side_px = _size(path, config, "image_size")
    side = side_px // _size(path, config, "patch_size")
    try:
        grids = grids_of(config.get("image_grid_pinpoints", [[h * 384, w * 384] for h, w in grids_up_to(6)]), side_px)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

    def patches(width_px: int, height_px: int) -> int:
        n_h, n_w = best_grid(height_px, width_px, side_px, grids)
        return n_h * n_w + 1

    return _Sight(side**2, _size(path, config, "hidden_size"), patches)


def _internvl(path: Path, config: Mapping[str, Any]) -> _Sight:
    side_px = _size(path, config, "image_size")
    side = side_px // _size(path, config, "patch_size")
    try:
        square = shuffled(side, config.get("downsample_ratio", 0.5))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

    def patches(width_px: int, height_px: int) -> int:
        n_h, n_w = closest_grid(height_px, width_px, side_px, *INTERNVL_TILES)
        return n_h * n_w + (n_h * n_w > 1)

    return _Sight((side // square) ** 2, square**2 * _size(path, config, "hidden_size"), patches)


def _gemma3(path: Path, config: Mapping[str, Any]) -> _Sight:
    side = _size(path, config, "image_size") // _size(path, config, "patch_size")
    try:
        square = pooled(side, config.get("mm_tokens_per_image", 256))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return _Sight((side // square) ** 2, _size(path, config, "hidden_size"), _one_patch)


def _one_patch(width_px: int, height_px: int) -> int:  # noqa: ARG001
    return 1


INTERNVL_TILES = (1, 12)
"""The fewest and the most tiles of a picture, as in the preprocessor_config.json of the published models."""

_KINDS: Mapping[str, Callable[[Path, Mapping[str, Any]], _Sight]] = {
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "gemma3": _gemma3,
}
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "clip_vision_model": {"image_size": 224, "patch_size": 32, "hidden_size": 768},
    "siglip_vision_model": {"image_size": 224, "patch_size": 16, "hidden_size": 768},
    "internvl_vision": {"image_size": 448, "patch_size": 14, "hidden_size": 1024},
}
"""What transformers takes for a size that a vision_config of this type does not give."""
_TOWERS: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "llava": ("clip_vision_model", {"image_size": 336, "patch_size": 14, "hidden_size": 1024}),
    "llava_onevision": ("siglip_vision_model", {"image_size": 384, "patch_size": 14, "hidden_size": 1152}),
    "internvl": ("internvl_vision", _DEFAULTS["internvl_vision"]),
    "gemma3": ("siglip_vision_model", _DEFAULTS["siglip_vision_model"]),
}
"""The type of each kind's tower, and the sizes that transformers takes where a config has no vision_config."""
_PUBLISHED = {"llava-onevision": "llava_onevision", "llava-1.5": "llava", "internvl3": "internvl", "gemma-3": "gemma3"}
"""The kind of a published model by the prefix of its name; those of a kind have the same vision side."""
_GEMMA3 = {"image_size": 896, "patch_size": 14, "hidden_size": 1152}
"""The sizes of Gemma 3's published towers; those of the other kinds are transformers' defaults."""


def shuffled(side: int, ratio: Any) -> int:
    """How many positions a side InternVL puts into a feature: 1 / ``downsample_ratio``.

    Raises CheckpointError where that is no whole number, or the ``side`` positions of a patch no multiple of it.
    """
    square = round(1 / ratio) if isinstance(ratio, (int, float)) and 0 < ratio <= 1 else 0
    if not square or square * ratio != 1 or side % square:
        raise CheckpointError(
            f"downsample_ratio is {shown(ratio)}; 0.5 or another 1 / n is expected, n a divisor of the {side} "
            "positions on a tile's side"
        )
    return square


def pooled(side: int, tokens: Any) -> int:
    """How many positions a side Gemma 3 averages for a feature, of ``side`` on a picture's side.

    Raises CheckpointError where ``tokens``, V, is no square of whole squares.
    """
    root = math.isqrt(tokens) if type(tokens) is int and tokens > 0 else 0
    if not root or root**2 != tokens or side % root:
        raise CheckpointError(
            f"mm_tokens_per_image is {shown(tokens)}; a square number is expected whose root divides the {side} "
            "positions on a picture's side"
        )
    return side // root


def _own(backbone: str) -> Backbone | None:
    """A backbone that is not part of the harness."""
    if backbone in catalog.BACKBONES:
        return None
    found: Backbone = catalog.load("backbone", backbone, catalog.BACKBONES)
    return found


def _counted(backbone: str, method: str, made: object) -> int:
    """The number that a user's own backbone gives; raises SchemeError where it is no whole number from 1 on."""
    if not isinstance(made, numbers.Integral) or int(made) < 1:
        raise SchemeError(f"{backbone}: {method} returned {shown(made)}; a whole number from 1 on is expected")
    return int(made)


def _config(backbone: str, weights: str | None) -> tuple[Path, Mapping[str, Any]]:
    """A model's config.json, which is of a known kind; for random weights of a model that is not here, its kind."""
    if backbone not in files.SOURCES:
        raise CheckpointError(unknown_name("model", backbone, files.SOURCES))
    try:
        source = files.SOURCES[backbone] if weights in (None, "random") else weights
        path = files.locate(backbone, source) / "config.json"
    except UnavailableError:
        kind = next((kind for beginning, kind in _PUBLISHED.items() if backbone.startswith(beginning)), None)
        if weights != "random" or kind is None:
            raise
        return Path("config.json"), {"model_type": kind, "vision_config": _GEMMA3 if kind == "gemma3" else None}
    config: Mapping[str, Any] = files.read_json(path)
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise CheckpointError(f"{path}: model_type is {shown(kind)}; one of these is expected: {', '.join(_KINDS)}")
    return path, config


def _size(path: Path, config: Mapping[str, Any], name: str) -> int:
    """A size of a config's vision_config, or transformers' default for it; a list of two equal ones is one."""
    vision = config.get("vision_config")
    tower, whole = _TOWERS[config["model_type"]]
    if isinstance(vision, Mapping):
        defaults = _DEFAULTS.get(str(vision.get("model_type", tower)), {})
        size = one_of_two(vision.get(name, defaults.get(name)))
    else:
        size = whole[name]
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{path}: vision_config.{name} is {shown(size)}; a whole number from 1 on is expected")
    return size


def one_of_two(size: Any) -> Any:
    """A side of a square given as its height and width, which InternVL's configs do; anything else as it is."""
    is_square = isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]
    return size[0] if is_square else size


def _is_pinpoint(pair: Any, patch: int) -> bool:
    return (
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(side, int) and side >= patch and side % patch == 0 for side in pair)
    )
