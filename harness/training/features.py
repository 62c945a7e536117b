"""Merged features of training pictures, encoded once by the frozen tower and cached: what the pre-fit is trained on.

P patches   C clusters   D dimension
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.files import make_folder
from harness.models import files
from harness.models.llava import LlavaVision
from harness.tofc.merging import merge
from harness.training.contract import TrainingData
from harness.training.model import Batch
from harness.training.reading import Reader, Share, keys_of_step

_PICTURES_A_FILE = 16

Cached = Mapping[int, Mapping[int, Tensor]]
"""By example and n_c, the features (P, C, D) in float32, on the CPU."""


def merged_features(
    backbone: LlavaVision,
    reader: Reader,
    indices: Sequence[int],
    clusters: Sequence[int],
    cache: Path | None,
    on_picture: Callable[[], None],
) -> Cached:
    """Encode and merge the pictures of these examples to every n_c, or read them from ``cache`` if they are there.

    They are cached a few pictures at a time, so that little is lost when it is stopped.
    """

    def made(few: Sequence[int]) -> dict[str, Tensor]:
        found = {}
        for index in few:
            read = reader.data.example(index, 0).image
            assert read is not None
            x_PVD = backbone.encode(backbone.preprocess(read()))
            for n_clusters in clusters:
                found[f"{index}/{n_clusters}"] = merge(x_PVD.float(), n_clusters).y_PCD.cpu().clone()
            on_picture()
        return found

    of_tower = _of_tower(backbone) if cache else ""
    found: dict[str, Tensor] = {}
    for first in range(0, len(indices), _PICTURES_A_FILE):
        few = indices[first : first + _PICTURES_A_FILE]
        path = cache and cache / f"{_name(of_tower, reader.data, few, clusters)}.safetensors"
        found |= read_or_made(path, functools.partial(made, few))
    return _grouped(found)


def read_or_made(path: Path | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a file; if there is none, or a damaged one, they are computed and written atomically."""
    if path and path.exists():
        try:
            return load_file(path)
        except (OSError, SafetensorError):
            path.unlink()
    found = make()
    if path:
        make_folder(path.parent)
        with files.written(path) as unfinished:
            save_file(found, unfinished)
    return found


def _grouped(found: Mapping[str, Tensor]) -> Cached:
    """In the order of examples and n_c, whatever a file's: what is summed over them must not depend on the cache."""
    grouped: dict[int, dict[int, Tensor]] = {}
    for index, n_clusters in sorted((int(index), int(n_c)) for index, n_c in (name.split("/") for name in found)):
        grouped.setdefault(index, {})[n_clusters] = found[f"{index}/{n_clusters}"]
    return grouped


def _name(of_tower: str, data: TrainingData, few: Sequence[int], clusters: Sequence[int]) -> str:
    """A digest of all that the features of a few pictures follow from: the tower, the pictures, the n_c."""
    pictures = [(index, data.content(index)) for index in few]
    return hashlib.sha256(json.dumps([of_tower, pictures, sorted(clusters)]).encode()).hexdigest()[:24]


def _of_tower(backbone: LlavaVision) -> str:
    """A digest of how a vision side makes features of pixels: its sizes, tiling, cut and weights."""
    sizes = backbone.config.vision_config.to_dict()
    total = hashlib.sha256(repr((sorted(sizes.items(), key=str), backbone.tiling, backbone.cut)).encode())
    for name, parameter in sorted(backbone.vision_tower.named_parameters()):
        total.update(f"{name} {parameter.dtype} {tuple(parameter.shape)};".encode())
        total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def batches(
    cached: Cached, reader: Reader, *, seed: int, batch: int, share: Share, first: int, n_clusters: Callable[[int], int]
) -> Iterator[Batch]:
    """Endless batches of one process from its own cached features, starting with step ``first``."""
    pool = sorted(cached)
    step = first
    while True:
        keys = keys_of_step(pool, seed, batch // share.processes, step)
        yield Batch([cached[key.example][n_clusters(step)] for key in keys], [reader[key][1] for key in keys])
        step += 1


def flattened(cached: Cached) -> Tensor:
    """All cached features as one patch (1, N, D)."""
    return torch.cat([y_PCD.flatten(0, 1) for of_picture in cached.values() for y_PCD in of_picture.values()])[None]
