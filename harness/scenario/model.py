"""A scenario: the complete description of a study.

Frozen and strict: a model that exists is one that can be run as written. Names and operating points are checked against
the catalog, so that a mistake is found before the first second of computing.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from harness import catalog
from harness.errors import unknown_name
from harness.records import Side
from harness.scenario.estimate import EstimateSection
from harness.scenario.explain import NestedError, SeveralNestedError
from harness.scenario.fields import BackboneName, BenchmarkName, Frozen, Line, SchemeName, Share, Slug, repeated
from harness.scenario.replay import SERVER_STAGES, FromFile, Replay, SomeS
from harness.scenario.source import KeyPath

_MOST_POINTS = 1000
"""The most operating points of a pipeline; each is measured on every sample."""


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
    ``{quality: [20, 60], merge_to: 0.044}`` is two points. If the backbone's stand-in runs, the points of ``stand_in``
    are used instead, because the stand-in has codecs of its own.
    """

    scheme: SchemeName
    name: Slug = ""
    points: tuple[dict[str, Any], ...] = Field(default=({},), min_length=1, strict=False)
    stand_in: tuple[dict[str, Any], ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_scheme(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("scheme"), str):
            # For a user's own, module:Class, the class.
            name = data["scheme"].rpartition(":")[2]
            return {**data, "name": name.lower() if name != data["scheme"] else name}
        return data

    @model_validator(mode="after")
    def _points_are_the_schemes(self) -> Self:
        wrong = []
        for key in ("points", "stand_in"):
            grids: tuple[dict[str, Any], ...] = getattr(self, key)
            count = sum(math.prod(len(v) if isinstance(v, list) else 1 for v in grid.values()) for grid in grids)
            if count > _MOST_POINTS:
                raise ValueError(f"{key}: stand for {count} operating points; {_MOST_POINTS} are the most")
            labels = []
            for index in range(len(grids)):
                try:
                    labels += [point.label for point in self._at(key, index)]
                except NestedError as error:
                    wrong.append(error)
            if (twice := repeated(labels)) is not None and not wrong:
                raise ValueError(f"the operating point {twice} is given twice")
        if wrong:
            raise SeveralNestedError(wrong)
        return self

    def operating_points(self, *, stand_in: bool = False) -> Iterator[Any]:
        """Every operating point as the scheme's own Point, in the order written; raises NestedError for a wrong one.

        ``stand_in`` asks for those with the backbone's stand-in.
        """
        key = "stand_in" if stand_in and self.stand_in else "points"
        for index in range(len(getattr(self, key))):
            yield from self._at(key, index)

    @property
    def labels(self) -> list[str]:
        """The labels of all points, those with the backbone's stand-in among them."""
        points = itertools.chain(self.operating_points(), self.operating_points(stand_in=True))
        return list(dict.fromkeys(point.label for point in points))

    def _at(self, key: str, index: int) -> Iterator[Any]:
        """The operating points of one item of ``points`` or ``stand_in``."""
        point_type = catalog.load("scheme", self.scheme, catalog.SCHEMES).Point
        grid = getattr(self, key)[index]
        axes = [value if isinstance(value, list) else [value] for value in grid.values()]
        for values in itertools.product(*axes):
            try:
                yield point_type.model_validate(dict(zip(grid, values, strict=True)))
            except ValidationError as error:
                raise NestedError((key, index), error) from None


class Energy(Frozen):
    """How energy is measured: ``blocks`` blocks of a scheme's half, each followed by an idle block of equal length.

    In a block the half runs whole passes over the timed samples until ``block`` is over. The counters of GPUs and
    boards are updated a few times a second, and readings are averages: blocks of less than 30 s give a warning.
    ``points`` are those that are selected at equal score, or all. ``calibration`` has, for rails that were compared
    with an external meter, the meter's reading over the sensor's, such as ``device/VDD_IN: 1.03``; other rails are
    called uncalibrated.
    """

    block_s: SomeS = Field(default=30.0, alias="block")
    blocks: int = Field(default=4, ge=2, le=1000)
    points: Literal["selected", "all"] = "selected"
    calibration: dict[
        Annotated[Line, Field(pattern=r"^(device|server)/.+$", max_length=200)], Annotated[float, Field(gt=0, le=10)]
    ] = Field(default_factory=dict)


class Recording(FromFile):
    """Stage times that were recorded elsewhere and replace those of a pipeline on one ``side``.

    ``path`` is a run's folder, a file of :func:`harness.record`, or a CSV with the columns ``stage`` and ``seconds``,
    and ``sample``, ``repeat``, ``point`` where they are known. Without ``point`` the times are used for every point.
    ``machine`` names where they were timed; the rows of a run and of ``harness.record`` state it themselves. With
    ``samples: any`` the requests are used for any samples, in turn, as those of a CSV without samples are.
    """

    pipeline: Slug
    side: Side
    point: Line | None = None
    machine: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    samples: Literal["named", "any"] = "named"


class Measure(Frozen):
    """How stages are timed: ``repeats`` rounds over ``timed_samples`` samples in which every scheme takes its turn.

    ``warmup`` requests of each scheme and operating point are run first and dropped. ``threads`` is the number of
    processor threads that the networks may use; without it, all. With a ``precision`` (``5 %``) pictures are timed
    until the mean time of every point is known to within that, or ``at_most`` pictures are timed; ``timed_samples``
    cannot be set then.

    ``pacing`` is how requests follow each other: ``back_to_back``, or at the study's ``arrivals`` with idle time in
    between (:class:`harness.profiling.pacing.Pacing`), because the clocks of an idle processor fall. ``both`` times
    requests in both ways in each round, replays the former and reports the difference. With ``energy`` the joules of an
    answer are measured.
    """

    timed_samples: int = Field(default=16, ge=1, le=1_000_000)
    warmup: int = Field(default=2, ge=0, le=10_000)
    repeats: int = Field(default=3, ge=1, le=10_000)
    threads: int | None = Field(default=None, ge=1, le=4096)
    precision: Annotated[Share, Field(gt=0, lt=1)] | None = None
    at_most: int = Field(default=200, ge=12, le=1_000_000)
    pacing: Literal["back_to_back", "arrivals", "both"] = "back_to_back"
    energy: Energy | None = None

    @model_validator(mode="after")
    def _one_way_to_end(self) -> Self:
        if self.precision is None and "at_most" in self.model_fields_set:
            raise ValueError("at_most needs a precision, such as precision: 5 %")
        if self.precision is not None and "timed_samples" in self.model_fields_set:
            raise ValueError(
                "timed_samples cannot be combined with a precision, which times as many as needed; give at_most"
            )
        return self


class Selection(Frozen):
    """The definition of equal score: non-inferior to ``target`` times the reference's score, within ``margin``.

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
    is then their normalised average (``docs/metrics.md``). At most ``samples`` are taken from each benchmark.
    ``scoring`` is the state of VLMEvalKit by which answers are judged; ``max_pixels`` is the size of the largest
    picture that a server accepts in a payload. ``profile`` names stage times that were recorded elsewhere. With an
    ``estimate`` section nothing is measured.
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
    profile: tuple[Recording, ...] = Field(default=(), strict=False)
    estimate: EstimateSection | None = None

    _folder: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any) -> None:
        """Keep the scenario's folder separate from the paths as written: only these enter the scenario's hash."""
        self._folder = Path((context or {}).get("folder", "."))

    @property
    def folder(self) -> Path:
        """The folder that relative paths of benchmarks count from."""
        return self._folder

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
            raise ValueError("benchmark: cannot be combined with 'benchmarks'" if names else "benchmark: is missing")
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
        if any(len(list(reference.operating_points(stand_in=at_hand))) != 1 for at_hand in (False, True)):
            raise ValueError(f"selection.reference: {reference.name!r} has several points; a reference has one")
        if self.estimate is not None:
            try:
                self.estimate.check(dict.fromkeys(names))
            except ValueError as error:
                raise ValueError(f"estimate.{error}") from None
        return self

    @property
    def has_own_code(self) -> bool:
        """Whether a scheme or a model is not the harness's own, and may time stages that only its rows name."""
        models = {self.backbone, self.stand_in.backbone or self.backbone}
        own_scheme = any(spec.scheme not in catalog.SCHEMES for spec in self.pipelines)
        return own_scheme or not models <= set(catalog.BACKBONES)

    def unknown_stages(self, timed: Iterable[str]) -> Iterator[tuple[int, str, str]]:
        """The place, the name and the sentence of each server stage of the batches that there is not.

        ``timed`` are those that there are besides the harness's own: in a profile, or in the rows of a run.
        """
        known = [*SERVER_STAGES, *timed]
        for place, name in enumerate(self.replay.batching.together if self.replay.batching else ()):
            if name not in known:
                yield place, name, unknown_name("server stage", name, dict.fromkeys(known))

    @model_validator(mode="after")
    def _batched_stages_exist(self, info: ValidationInfo) -> Self:
        timed = (info.context or {}).get("stages")
        if any(recording.side == "server" for recording in self.profile) or (timed is None and self.has_own_code):
            return self  # A profile's file is opened later; the user's own code names its stages when it runs.
        under = ("replay", "batching", "together")
        if wrong := [_nested(under, *mistake) for mistake in self.unknown_stages(timed or ())]:
            raise SeveralNestedError(wrong)
        return self

    @model_validator(mode="after")
    def _profiles_fit(self) -> Self:
        points = {pipeline.name: pipeline.labels for pipeline in self.pipelines}
        taken: list[str] = []
        wrong: list[NestedError] = []
        for place, recording in enumerate(self.profile):
            labels = points.get(recording.pipeline)
            if labels is None:
                known = unknown_name("pipeline", recording.pipeline, points)
                wrong.append(_nested(("profile", place), "pipeline", recording.pipeline, known))
            elif recording.point is not None and recording.point not in labels:
                known = unknown_name("point", recording.point, labels)
                wrong.append(_nested(("profile", place), "point", recording.point, known))
            else:
                of_points = labels if recording.point is None else [recording.point]
                taken += [f"the {recording.side} side of {recording.pipeline} at {label}" for label in of_points]
                if (twice := repeated(taken)) is not None:
                    taken = list(dict.fromkeys(taken))
                    again = f"{twice} is recorded twice; give each of the two a point, or leave one out"
                    wrong.append(_nested(("profile", place), "pipeline", recording.pipeline, again))
        if wrong:
            raise SeveralNestedError(wrong)
        return self


def _nested(under: KeyPath, key: str | int, value: str, sentence: str) -> NestedError:
    """A mistake in a part's key that only the whole scenario reveals."""
    kind = PydanticCustomError("value_error", "{sentence}", {"sentence": sentence})
    return NestedError(
        under, ValidationError.from_exception_data("scenario", [{"type": kind, "loc": (key,), "input": value}])
    )
