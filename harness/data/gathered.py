"""Samples of one or several benchmarks, all of them or some, each read from its file on demand."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar, overload

import numpy as np

from harness.data.sample import Name, Sample
from harness.data.tsv import TsvSamples
from harness.errors import ScenarioError

Named = TypeVar("Named", Name, Sample)


class Gathered(Sequence[Sample]):
    """A study's samples, benchmark after benchmark; ``names`` has one entry each, in the same order.

    With several benchmarks, an id begins with the benchmark's name and a slash, which keeps ids unique; a name's
    ``own_id`` does not.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[Sample]], places: Mapping[str, Sequence[int]]) -> None:
        self._benchmarks = benchmarks
        self._places = [(benchmark, place) for benchmark in benchmarks for place in places[benchmark]]
        known = {benchmark: _names(samples, benchmark) for benchmark, samples in benchmarks.items()}
        self.names = [self._its_own(known[benchmark][place], benchmark) for benchmark, place in self._places]

    def _its_own(self, thing: Named, benchmark: str) -> Named:
        """A sample or a name, with an id that is unique among benchmarks."""
        if len(self._benchmarks) == 1:
            return thing
        return dataclasses.replace(thing, id=f"{benchmark}/{thing.id}")

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
        return self._its_own(self._benchmarks[benchmark][place], benchmark)


def gather(benchmarks: Mapping[str, Sequence[Sample]], wanted: int | None = None, seed: int = 0) -> Gathered:
    """At most ``wanted`` samples of each benchmark, whole images only, drawn at random; all for None.

    They stay in the file's order. A prefix of a file would be biased: benchmarks are sorted by category. Raises
    ScenarioError where every image of a benchmark has more questions than are wanted.
    """
    places = {
        name: _some([known.image_id for known in _names(samples, name)], wanted, seed)
        for name, samples in benchmarks.items()
    }
    for name, samples in benchmarks.items():
        if samples and not places[name]:
            fewest = min(Counter(known.image_id for known in _names(samples, name)).values())
            raise ScenarioError(
                f"samples: {wanted} is too few for {name}, where each picture has {fewest} or more questions; give at "
                f"least {fewest}, as --limit {fewest}"
            )
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


def _names(samples: Sequence[Sample], benchmark: str) -> Sequence[Name]:
    """The name of every sample; a file's index has them, so that no row is read again for them."""
    return samples.names if isinstance(samples, TsvSamples) else [Name.of(sample, benchmark) for sample in samples]
