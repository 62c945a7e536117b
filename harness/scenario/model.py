"""A scenario: everything that a study is, before it is run.

Frozen and strict: a model that exists is one that can be run as written. Names and operating points are checked against
the catalog, so that a mistake is found before the first second of computing.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness import catalog
from harness.errors import unknown_name
from harness.scenario.estimate import Estimate
from harness.scenario.explain import NestedError, SeveralNestedError
from harness.scenario.fields import BackboneName, BenchmarkName, Frozen, Line, SchemeName, Share, Slug, repeated
from harness.scenario.replay import Replay

_MOST_POINTS = 1000
"""Of a pipeline; each is measured on every sample."""


class StandIn(Frozen):
    """What runs where the wanted benchmark or backbone is not installed."""

    benchmark: BenchmarkName | None = None
    backbone: BackboneName | None = None


class Wanted(Frozen):
    """One of several benchmarks, and what runs in its place where it is not installed."""

    name: BenchmarkName
    stand_in: BenchmarkName | None = None


class PipelineSpec(Frozen):
    """A scheme and the operating points at which it is run.

    In ``points`` a list stands for each of its values, and several lists for all their combinations:
    ``{quality: [20, 60], merge_to: 0.044}`` is two points.
    """

    scheme: SchemeName
    name: Slug = ""
    points: tuple[dict[str, Any], ...] = Field(default=({},), min_length=1, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_scheme(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("scheme"), str):
            return {**data, "name": data["scheme"]}
        return data

    @model_validator(mode="after")
    def _points_are_the_schemes(self) -> Self:
        count = sum(math.prod(len(v) if isinstance(v, list) else 1 for v in grid.values()) for grid in self.points)
        if count > _MOST_POINTS:
            raise ValueError(f"points: stand for {count} operating points; {_MOST_POINTS} are the most")
        wrong, labels = [], []
        for index in range(len(self.points)):
            try:
                labels += [point.label for point in self._at(index)]
            except NestedError as error:
                wrong.append(error)
        if wrong:
            raise SeveralNestedError(wrong)
        if (twice := repeated(labels)) is not None:
            raise ValueError(f"the operating point {twice} is given twice")
        return self

    def operating_points(self) -> Iterator[Any]:
        """Every operating point as the scheme's own Point, in the order written; raises NestedError for a wrong one."""
        for index in range(len(self.points)):
            yield from self._at(index)

    def _at(self, index: int) -> Iterator[Any]:
        """The operating points of one item of ``points``."""
        point_type = catalog.load("scheme", self.scheme, catalog.SCHEMES).Point
        grid = self.points[index]
        axes = [value if isinstance(value, list) else [value] for value in grid.values()]
        for values in itertools.product(*axes):
            try:
                yield point_type.model_validate(dict(zip(grid, values, strict=True)))
            except ValidationError as error:
                raise NestedError(("points", index), error) from None


class Measure(Frozen):
    """How stages are timed: ``repeats`` rounds over ``timed_samples`` samples in which every scheme takes its turn.

    ``warmup`` requests a scheme and operating point are run before, and dropped. ``threads`` is the number of processor
    threads that the networks may use; without it, all. With a ``precision`` (``5 %``) pictures are timed until the mean
    time of every point is known to within that, or ``at_most`` pictures are timed; ``timed_samples`` is then not given.
    """

    timed_samples: int = Field(default=16, ge=1, le=1_000_000)
    warmup: int = Field(default=2, ge=0, le=10_000)
    repeats: int = Field(default=3, ge=1, le=10_000)
    threads: int | None = Field(default=None, ge=1, le=4096)
    precision: Annotated[Share, Field(gt=0, lt=1)] | None = None
    at_most: int = Field(default=200, ge=12, le=1_000_000)

    @model_validator(mode="after")
    def _one_way_to_end(self) -> Self:
        if self.precision is None and "at_most" in self.model_fields_set:
            raise ValueError("at_most goes with a precision, such as precision: 5 %")
        if self.precision is not None and "timed_samples" in self.model_fields_set:
            raise ValueError("timed_samples goes without a precision, which times as many as it takes; give at_most")
        return self


class Selection(Frozen):
    """What equal score means: non-inferior to ``target`` times the reference's score, within ``margin``.

    ``margin`` is in units of the reference's own score (0.03: three per cent of it).
    """

    reference: Slug = "server_only"
    target: float = Field(default=1.0, gt=0, le=1.5)
    margin: float = Field(default=0.05, ge=0, lt=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, le=1_000_000)

    @model_validator(mode="after")
    def _something_is_certified(self) -> Self:
        if self.margin >= self.target:
            raise ValueError(f"margin: {self.margin:g} leaves nothing of the target {self.target:g} to certify")
        return self


class Scenario(Frozen):
    """One study: benchmarks, a backbone, the schemes compared, how they are timed, and the links of the replay.

    It has one ``benchmark`` (its stand-in is in ``stand_in``) or several ``benchmarks``, each with its own; the score
    is then their normalised average (``docs/metrics.md``). ``samples`` are at most taken of each benchmark.
    ``scoring`` is the state of VLMEvalKit that answers are judged by; ``max_pixels`` the largest picture that a server
    takes from a payload. With an ``estimate`` section nothing is measured.
    """

    name: Slug
    title: Line = Field(min_length=1, max_length=120)
    benchmark: BenchmarkName | None = None
    benchmarks: tuple[Wanted, ...] = Field(default=(), strict=False)
    backbone: BackboneName
    weights: Line | None = None
    stand_in: StandIn = StandIn()
    samples: int | None = Field(default=None, ge=1, le=100_000_000)
    scoring: Literal["vlmevalkit-2025-08", "vlmevalkit-2024"] = "vlmevalkit-2025-08"
    max_pixels: int = Field(default=16_000_000, ge=1, le=2**30)
    seed: int = Field(default=0, ge=0, lt=2**32)
    pipelines: tuple[PipelineSpec, ...] = Field(min_length=1, strict=False)
    measure: Measure = Measure()
    selection: Selection = Selection()
    replay: Replay
    estimate: Estimate | None = None

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The benchmarks, however they were given."""
        if self.benchmark is None:
            return self.benchmarks
        return (Wanted(name=self.benchmark, stand_in=self.stand_in.benchmark),)

    @model_validator(mode="after")
    def _benchmarks_are_given_once(self) -> Self:
        names = [wanted.name for wanted in self.benchmarks]
        if (self.benchmark is None) == (not names):
            raise ValueError("benchmark: is given beside 'benchmarks'" if names else "benchmark: is missing")
        if names and self.stand_in.benchmark is not None:
            raise ValueError("stand_in.benchmark: each of several benchmarks has a 'stand_in:' of its own")
        if (twice := repeated(names)) is not None:
            raise ValueError(f"benchmarks: {twice} is given twice")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [pipeline.name for pipeline in self.pipelines]
        if (twice := repeated(names)) is not None:
            raise ValueError(f"two pipelines are named {twice!r}; give one of them a 'name:' of its own")
        if self.selection.reference not in names:
            raise ValueError(f"selection.reference: {unknown_name('pipeline', self.selection.reference, names)}")
        reference = next(p for p in self.pipelines if p.name == self.selection.reference)
        if len(list(reference.operating_points())) != 1:
            raise ValueError(f"selection.reference: {reference.name!r} has several points; a reference has one")
        if self.estimate is not None:
            try:
                self.estimate.check(dict.fromkeys(names))
            except ValueError as error:
                raise ValueError(f"estimate.{error}") from None
        return self
