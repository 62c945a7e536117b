"""Samples of one or several benchmarks, all of them or some, each read from its file on demand."""

import dataclasses
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
    """At most ``wanted`` samples of each benchmark, whole images and whole groups only, drawn at random; all for None.

    They stay in the file's order. A prefix of a file would be biased: benchmarks are sorted by category. Half of a
    group would be scored as if it were the whole. Raises ScenarioError where every image of a benchmark has more
    questions than are wanted.
    """
    places = {name: _some(_names(samples, name), wanted, seed) for name, samples in benchmarks.items()}
    for name, samples in benchmarks.items():
        if samples and not places[name]:
            fewest = min(map(len, _together(_names(samples, name))))
            raise ScenarioError(
                f"samples: {wanted} is too few for {name}, where each picture has {fewest} or more questions; give at "
                f"least {fewest}, as --limit {fewest}"
            )
    return Gathered(benchmarks, places)


def _some(names: Sequence[Name], wanted: int | None, seed: int) -> Sequence[int]:
    if wanted is None or wanted >= len(names):
        return range(len(names))
    parts = _together(names)
    chosen: list[int] = []
    for part in np.random.default_rng(seed).permutation(len(parts)):
        if len(chosen) + len(parts[part]) <= wanted:
            chosen += parts[part]
    return sorted(chosen)


def _together(names: Sequence[Name]) -> list[list[int]]:
    """The places of samples that share an image or a group, also by way of others, in the order of their first."""
    leads = list(range(len(names)))

    def lead(place: int) -> int:
        while leads[place] != place:
            leads[place] = leads[leads[place]]
            place = leads[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, name in enumerate(names):
        for shared in (("image", name.image_id), ("group", name.group)):
            earlier, later = sorted((lead(first.setdefault(shared, place)), lead(place)))
            leads[later] = earlier
    parts: dict[int, list[int]] = {}
    for place in range(len(names)):
        parts.setdefault(lead(place), []).append(place)
    return list(parts.values())


def _names(samples: Sequence[Sample], benchmark: str) -> Sequence[Name]:
    """The name of every sample; a file's index has them, so that no row is read again for them."""
    return samples.names if isinstance(samples, TsvSamples) else [Name.of(sample, benchmark) for sample in samples]
