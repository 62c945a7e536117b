"""Samples of one or several benchmarks, all of them or some, each read from its file when it is asked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from harness.data.sample import Sample
from harness.data.tsv import TsvSamples


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """What is known of a sample without reading it: its id, what it shows, and which benchmark it is of."""

    id: str
    image_id: str
    benchmark: str


class Gathered(Sequence[Sample]):
    """A study's samples, benchmark after benchmark; ``names`` has one entry each, in the same order.

    Where there are several benchmarks, an id, an image_id and a group begin with the benchmark's name and a slash, so
    that each stays one of its own.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[Sample]], places: Mapping[str, Sequence[int]]) -> None:
        self._benchmarks = benchmarks
        self._places = [(benchmark, place) for benchmark in benchmarks for place in places[benchmark]]
        known = {benchmark: _ids(samples) for benchmark, samples in benchmarks.items()}
        self.names = [
            Name(prefix + known[benchmark][place][0], prefix + known[benchmark][place][1], benchmark)
            for benchmark, place in self._places
            for prefix in (self._prefix(benchmark),)
        ]

    def _prefix(self, benchmark: str) -> str:
        return f"{benchmark}/" if len(self._benchmarks) > 1 else ""

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        benchmark, place = self._places[index]
        sample = self._benchmarks[benchmark][place]
        if not (prefix := self._prefix(benchmark)):
            return sample
        ids = {name: prefix + getattr(sample, name) for name in ("id", "image_id", "group")}
        return dataclasses.replace(sample, **ids)


def gather(benchmarks: Mapping[str, Sequence[Sample]], wanted: int | None = None, seed: int = 0) -> Gathered:
    """At most ``wanted`` samples of each benchmark, whole images only, drawn at random; all for None.

    They are kept in the file's order. A prefix of a file would not do: benchmarks are sorted by category.
    """
    places = {
        name: _some([image_id for _, image_id in _ids(samples)], wanted, seed) for name, samples in benchmarks.items()
    }
    return Gathered(benchmarks, places)


def _some(image_ids: Sequence[str], wanted: int | None, seed: int) -> Sequence[int]:
    if wanted is None or wanted >= len(image_ids):
        return range(len(image_ids))
    images: dict[str, list[int]] = {}
    for place, image_id in enumerate(image_ids):
        images.setdefault(image_id, []).append(place)
    of_image = list(images.values())
    chosen: list[int] = []
    for image in np.random.default_rng(seed).permutation(len(of_image)):
        if len(chosen) + len(of_image[image]) <= wanted:
            chosen += of_image[image]
    return sorted(chosen)


def _ids(samples: Sequence[Sample]) -> Sequence[tuple[str, str]]:
    """Id and image_id of every sample; a file's index has them, so that no picture is decoded for them."""
    return samples.ids if isinstance(samples, TsvSamples) else [(sample.id, sample.image_id) for sample in samples]
