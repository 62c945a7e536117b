"""What a scenario names, as far as it is here, with the digests of what its rows depend on.

Nothing is loaded and torch is not imported: checking a scenario, or recognising a complete run, takes a second.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness import catalog, dependencies
from harness.cache import cache_folder
from harness.channel.channel import unreadable_files
from harness.data import benchmarks, own
from harness.data.gathered import Gathered, gather
from harness.data.sample import Sample
from harness.data.scoring import metric
from harness.errors import DataError, HarnessError, ScenarioError, UnavailableError
from harness.models.patches import features_of, patches_of_all
from harness.records import PointKey, SampleRow, Side
from harness.runs import digests, labels, provenance, recorded
from harness.runs.recorded import RecordedTimes
from harness.scenario.load import as_given, scenario_hash
from harness.scenario.model import PipelineSpec, Scenario
from harness.schemes.contract import MergingPoint, OperatingPoint, ReducedPoint, Scheme

Thing = TypeVar("Thing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stock:
    """What a scenario names, as far as it is here.

    ``benchmarks`` are those that run: a stand-in for several that are wanted runs once. ``stand_ins`` maps what was
    wanted to what runs instead; ``absent`` has the sentence on each thing that is not here. ``points`` are the schemes
    with their operating points, ``depends`` the digests of what the rows of each depend on besides the samples, and
    ``links`` those of recorded links and arrivals. ``untrained`` has the points whose weights were trained for other
    n_c, as a manifest has them. ``recorded`` are the stage times that a profile has for a side.
    """

    scenario: Scenario
    benchmarks: Mapping[str, Sequence[Sample]]
    backbone: str
    stand_ins: Mapping[str, str]
    absent: Sequence[str]
    points: Mapping[PointKey, tuple[type[Scheme], OperatingPoint]]
    depends: Mapping[PointKey, Mapping[str, str]]
    links: Mapping[str, str]
    untrained: Mapping[str, Mapping[str, Sequence[int] | None]] = dataclasses.field(default_factory=dict)
    recorded: Mapping[tuple[str, str, Side], RecordedTimes] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def samples(self) -> Gathered:
        """The questions that are asked, in all benchmarks; raises DataError where those of one have no score."""
        found = gather(self.benchmarks, self.scenario.samples, self.scenario.seed)
        for benchmark in self.benchmarks:
            category = np.array([name.category for name in found.names if name.benchmark == benchmark])
            try:
                metric(benchmark).max(category)
            except DataError as error:
                raise DataError(f"samples: {len(category)} of {benchmark} are asked, and {error}") from None
        return found

    @functools.cached_property
    def sample_digests(self) -> Sequence[str]:
        """A digest of each question: its pictures, its words, its truth."""
        return [dependencies.of_sample(sample) for sample in self.samples]

    @property
    def parameters(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The parameters of every operating point, by pipeline and label."""
        return _parameters(self.points)

    @property
    def untuned(self) -> list[str]:
        """What is said of points that run otherwise than their weights were trained."""
        return labels.untuned(self.parameters, self.untrained)

    def refuse_pictures(self) -> None:
        """Raises DataError for a picture that cannot be decoded, or is larger than the scenario's server accepts."""
        most, seen = self.scenario.max_pixels, set()
        for place, name in enumerate(self.samples.names):
            if name.image_id in seen:
                continue
            seen.add(name.image_id)
            for width_px, height_px in name.sizes_px:
                if width_px * height_px > most:
                    raise DataError(
                        f"sample {name.id}: its picture has {width_px} x {height_px} px, and the server accepts {most} "
                        "from a payload; give the scenario a larger max_pixels"
                    )
            self.samples[place].images()

    def manifest(
        self,
        name: str,
        machine: Mapping[str, Any],
        command: Sequence[str],
        server: provenance.Server | None = None,
        shape: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> provenance.Manifest:
        """The manifest of a run of all this that begins now, with further ``facts`` of :func:`provenance.begin`.

        ``shape`` is what shapes the sending to a server.
        """
        of_points = {name: digest for depends in self.depends.values() for name, digest in depends.items()}
        return provenance.begin(
            name=name,
            scenario=as_given(self.scenario),
            scenario_hash=scenario_hash(self.scenario),
            benchmarks=tuple(self.benchmarks),
            backbone=self.backbone,
            stand_ins=self.stand_ins,
            points=self.parameters,
            digests={
                **of_points,
                **self.links,
                **profile_digests(self.recorded),
                **(shape or {}),
                "questions": digests.of_data(self.sample_digests),
            },
            seed=self.scenario.seed,
            command=command,
            machine=machine,
            server=server,
            untrained=self.untrained,
            **facts,
        )


def take_stock(scenario: Scenario, *, allow_stand_ins: bool = True, serving: bool = False) -> Stock:
    """Finds what a scenario names, or its stand-ins, with the digests of what its rows depend on. Imports no torch.

    A server (``serving``) gets its questions from the device and replays nothing: it needs neither benchmarks nor
    links.

    Raises UnavailableError with a sentence for each thing that is absent and has no stand-in, ScenarioError for
    recorded links and arrivals that cannot be replayed, and what reading a file that a point names raises.
    """
    if scenario.estimate is not None:
        raise ScenarioError(
            f"{scenario.name} has an 'estimate:' section: its stages are estimated, and nothing of it is measured or "
            "served; 'harness run' makes its run"
        )
    profiles, wrong = ({}, []) if serving else profiles_of(scenario)
    if not serving and (wrong := [*unreadable_files(scenario.replay), *wrong]):
        raise ScenarioError("\n".join(wrong))
    stand_in = scenario.stand_in if allow_stand_ins else type(scenario.stand_in)()
    absent: list[str] = []
    load_benchmark = functools.cache(functools.partial(_load_benchmark, folder=scenario.folder))
    ran: dict[str, str] = {}
    samples: dict[str, Sequence[Sample] | None] = {}
    file_of: dict[str, str] = {}
    for wanted in () if serving else scenario.wanted:
        instead = wanted.stand_in if allow_stand_ins else None
        name, found = _first_at_hand(wanted.name, instead, load_benchmark, absent)
        # A user's own benchmark has another name than its path.
        called, samples_of_it = (name, None) if found is None else found
        if file_of.setdefault(called, name) != name:
            raise ScenarioError(f"benchmarks: {file_of[called]} and {name} would both be {called} in rows; rename one")
        ran[wanted.name] = name if name == wanted.name else called
        samples[called] = samples_of_it
    backbone, model = _first_at_hand(
        scenario.backbone, stand_in.backbone, lambda name: dependencies.of_model(name, scenario.weights), absent
    )
    at_hand = {name: found for name, found in samples.items() if found is not None}
    if len(at_hand) < len(samples) or model is None:
        raise UnavailableError("\n".join(absent))
    points, depends = _points_at_hand(scenario, backbone, model)
    for (name, _), (scheme, point) in points.items():
        if (published := _stands_in_for(scheme, point)) is not None:
            ran[published] = f"small {published}"
            absent += [] if allow_stand_ins else [_no_stand_in(name, point)]
        if _is_codec_only(scheme, backbone, point):
            ran[scheme.kind] = "codec only (backbone not tuned)"
            absent += [] if allow_stand_ins else [_not_tuned(name, point)]
    if absent and not allow_stand_ins:
        raise UnavailableError("\n".join(absent))
    swaps = {**ran, scenario.backbone: backbone}
    smaller = catalog.ON_DEVICE.get(backbone)
    if backbone != scenario.backbone and any(f"tower of {smaller}" in of_point for of_point in depends.values()):
        swaps[catalog.ON_DEVICE.get(scenario.backbone, scenario.backbone)] = str(smaller)
    return Stock(
        scenario=scenario,
        benchmarks=at_hand,
        backbone=backbone,
        stand_ins={name: instead for name, instead in swaps.items() if name != instead},
        absent=absent,
        points=points,
        depends=depends,
        links={} if serving else digests.of_links(scenario.replay.files),
        untrained=_untrained(points, backbone, scenario.weights),
        recorded={key: of_side for key, of_side in profiles.items() if key[:2] in points},
    )


def _points_at_hand(
    scenario: Scenario, backbone: str, model: Mapping[str, str]
) -> tuple[dict[PointKey, tuple[type[Scheme], OperatingPoint]], dict[PointKey, Mapping[str, str]]]:
    """Every operating point that runs, and the digests of what its rows depend on.

    Raises the error of the first point that cannot run, with the sentences of all.
    """
    points: dict[PointKey, tuple[type[Scheme], OperatingPoint]] = {}
    depends: dict[PointKey, Mapping[str, str]] = {}
    refused: dict[str, HarnessError] = {}
    for spec in scenario.pipelines:
        scheme = catalog.load("scheme", spec.scheme, catalog.SCHEMES)
        for point in points_of(spec, scheme, backbone, standing_in=backbone != scenario.backbone):
            key = spec.name, point.label
            points[key] = scheme, point
            try:
                _refuse_size(backbone, scenario.weights, point)
                depends[key] = {**model, **dependencies.of_scheme(spec.scheme, scheme, backbone, point)}
            except HarnessError as error:
                refused.setdefault(str(error), error)
    if refused:
        raise type(next(iter(refused.values())))("\n".join(refused))
    return points, depends


def missing(scenario: Scenario, *, allow_stand_ins: bool = True) -> list[str]:
    """The sentences on what a scenario names and its run would not find.

    For benchmarks and backbone it checks what would run: the wanted one or its stand-in; benchmarks are not opened.
    Imports no torch, loads nothing.
    """
    found = [*unreadable_files(scenario.replay), *profiles_of(scenario)[1]]
    if scenario.estimate is not None:
        return found  # It is estimated from counted work: neither weights nor codecs are opened.
    found += _absent_benchmarks(scenario, allow_stand_ins=allow_stand_ins)
    absent: list[str] = []
    stand_in = scenario.stand_in.backbone if allow_stand_ins else None
    backbone, model = _first_at_hand(
        scenario.backbone, stand_in, lambda name: dependencies.of_model(name, scenario.weights), absent
    )
    found += absent if model is None else []
    wrong: dict[str, str] = {}
    for spec in scenario.pipelines:
        scheme = catalog.load("scheme", spec.scheme, catalog.SCHEMES)
        for point in points_of(spec, scheme, backbone, standing_in=backbone != scenario.backbone):
            try:
                if model is not None:
                    _refuse_size(backbone, scenario.weights, point)
                dependencies.of_scheme(spec.scheme, scheme, backbone, point)
                if not allow_stand_ins and _is_codec_only(scheme, backbone, point):
                    found.append(_not_tuned(spec.name, point))
            except HarnessError as error:
                # What several points name is reported once.
                wrong.setdefault(str(error), f"{spec.name} at {point.label}: {error}")
            if not allow_stand_ins and _stands_in_for(scheme, point) is not None:
                found.append(_no_stand_in(spec.name, point))
    return [*found, *wrong.values()]


def running_points(scenario: Scenario, *, allow_stand_ins: bool = True) -> tuple[int, list[str]]:
    """How many operating points run here, a stand-in's where one runs, and what tables say of how they were trained.

    Of a scenario of which nothing is :func:`missing`. Imports no torch, loads nothing.
    """
    backbone = scenario.backbone
    if scenario.estimate is None:
        stand_in = scenario.stand_in.backbone if allow_stand_ins else None
        backbone, _ = _first_at_hand(backbone, stand_in, lambda name: dependencies.of_model(name, scenario.weights), [])
    points: dict[PointKey, tuple[type[Scheme], OperatingPoint]] = {}
    for spec in scenario.pipelines:
        scheme = catalog.load("scheme", spec.scheme, catalog.SCHEMES)
        for point in points_of(spec, scheme, backbone, standing_in=backbone != scenario.backbone):
            points[spec.name, point.label] = scheme, point
    if scenario.estimate is not None:
        return len(points), []
    return len(points), labels.untuned(_parameters(points), _untrained(points, backbone, scenario.weights))


def _parameters(
    points: Mapping[PointKey, tuple[type[Scheme], OperatingPoint]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """The parameters of every operating point, by pipeline and label."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (pipeline, label), (_, point) in points.items():
        found.setdefault(pipeline, {})[label] = point.model_dump(mode="json")
    return found


def _untrained(
    points: Mapping[PointKey, tuple[type[Scheme], OperatingPoint]], backbone: str, weights: str | None
) -> dict[str, dict[str, tuple[int, ...] | None]]:
    """The points at an n_c that their weights were not trained for, with the n_c that they were trained for."""
    found: dict[str, dict[str, tuple[int, ...] | None]] = {}
    for (pipeline, label), (scheme, point) in points.items():
        asked = getattr(scheme, "trained_n_c", None)
        if asked is None or not isinstance(point, ReducedPoint):
            continue
        trained = asked(backbone, point)
        if trained is None or (trained and point.kept_of(features_of(backbone, weights)) not in trained):
            found.setdefault(pipeline, {})[label] = trained
    return found


def points_of(
    spec: PipelineSpec, scheme: type[Scheme], backbone: str, *, standing_in: bool
) -> Sequence[OperatingPoint]:
    """The points of a pipeline that run; ``standing_in`` says whether the backbone is a stand-in.

    Its ``stand_in`` points are small networks in place of published ones, or codecs of the backbone's stand-in. The
    former are needed only if the published networks are not installed, because these do not depend on the backbone.
    """
    wanted = list(spec.operating_points())
    if not standing_in or not spec.stand_in:
        return wanted
    instead = list(spec.operating_points(stand_in=True))
    if any(_stands_in_for(scheme, point) is not None for point in instead):
        with contextlib.suppress(HarnessError):
            for point in wanted:
                dependencies.of_scheme(spec.scheme, scheme, backbone, point)
            return wanted
    return instead


def _stands_in_for(scheme: type[Scheme], point: OperatingPoint) -> str | None:
    """What a point's networks are a stand-in for, if they are one."""
    asked = getattr(scheme, "stands_in_for", None)
    return None if asked is None else asked(point)


def _is_codec_only(scheme: type[Scheme], backbone: str, point: OperatingPoint) -> bool:
    """Whether a point's codec stands in for one that was trained together with the backbone."""
    asked = getattr(scheme, "is_codec_only", None)
    return asked is not None and bool(asked(backbone, point))


def _not_tuned(pipeline: str, point: OperatingPoint) -> str:
    return (
        f"{pipeline} at {point.label}: the codec was fitted alone, to features of a backbone that was not tuned; name "
        "one that 'harness train' trained without --stage codec"
    )


def _no_stand_in(pipeline: str, point: OperatingPoint) -> str:
    return (
        f"{pipeline} at {point.label}: the bundled networks are small and trained on few pictures; name a "
        "published checkpoint as weights, which 'harness weights convert' makes"
    )


def profile_digests(profiles: Mapping[tuple[str, str, Side], RecordedTimes]) -> dict[str, str]:
    """The digests of the files that profiles come from, by names for people."""
    return digests.by_name("profile", ((of_side.where, of_side.digest) for of_side in profiles.values()))


def profiles_of(scenario: Scenario) -> tuple[dict[tuple[str, str, Side], RecordedTimes], list[str]]:
    """What a scenario's profiles hold, and the sentences on those that cannot be used."""
    labels = {spec.name: spec.labels for spec in scenario.pipelines}
    found: dict[tuple[str, str, Side], RecordedTimes] = {}
    wrong = []
    for recording in scenario.profile:
        try:
            found |= recorded.read(recording, labels[recording.pipeline])
        except ScenarioError as error:
            wrong.append(str(error))
    if not wrong and not scenario.has_own_code:
        on_server = [times.stage_names for (_, _, side), times in found.items() if side == "server"]
        unknown = scenario.unknown_stages(itertools.chain.from_iterable(on_server))
        wrong += [f"replay.batching.together: {sentence}" for _, _, sentence in unknown]
    return found, wrong


def sample_rows(stock: Stock) -> Iterator[SampleRow]:
    """What each question shows and asks, and the number of its patches with the backbone that runs."""
    for name in stock.samples.names:
        yield SampleRow(
            sample=name.id,
            benchmark=name.benchmark,
            id=name.own_id,
            picture=name.image_id,
            pictures=len(name.sizes_px),
            category=name.category,
            group=name.group,
            width_px=name.width_px,
            height_px=name.height_px,
            patches=patches_of_all(name.sizes_px, stock.backbone, stock.scenario.weights),
            file_bytes=name.original_bytes,
            text_bytes=name.text_bytes,
        )


def _refuse_size(backbone: str, weights: str | None, point: OperatingPoint) -> None:
    """Raises ScenarioError for a point that asks for more features or neighbours than the backbone's patches have."""
    if isinstance(point, ReducedPoint) and (point.merge_to is not None or point.n_c is not None):
        point.kept_of(n_features := features_of(backbone, weights))
        if isinstance(point, MergingPoint) and point.neighbours >= n_features:
            raise ScenarioError(f"neighbours is {point.neighbours}; a feature has {n_features - 1} others in its patch")


def _first_at_hand(
    wanted: str, stand_in: str | None, load: Callable[[str], Thing], absent: list[str]
) -> tuple[str, Thing | None]:
    """The wanted one, or else its stand-in; the sentences on what is absent are added to ``absent``."""
    for name in (wanted, stand_in):
        if name is not None:
            try:
                return name, load(name)
            except UnavailableError as error:
                absent.append(str(error))
    return wanted, None


def _absent_benchmarks(scenario: Scenario, *, allow_stand_ins: bool) -> Iterator[str]:
    """The sentences on each benchmark that is not installed, nor its stand-in."""
    for wanted in scenario.wanted:
        sentences = []
        for name in (wanted.name, wanted.stand_in if allow_stand_ins else None):
            try:
                if name is not None:
                    _refuse_absent(name, scenario.folder)
                    break
            except UnavailableError as error:
                sentences.append(str(error))
        else:
            yield from sentences


def _refuse_absent(name: str, folder: Path) -> None:
    """Raises UnavailableError for a benchmark that is not installed; a user's own is a path relative to ``folder``."""
    if name in benchmarks.BENCHMARKS:
        benchmarks.refuse_absent(name)
    elif name not in catalog.BENCHMARKS:
        own.refuse_absent(folder / name)


def _load_benchmark(name: str, folder: Path) -> tuple[str, Sequence[Sample]]:
    """A benchmark's name in rows, and its samples; a user's own is a path relative to ``folder``."""
    cache = cache_folder()
    if name not in catalog.BENCHMARKS:
        return own.load(folder / name, cache=cache)
    if cache is None:
        raise UnavailableError(f"{name}: no cache folder can be written; name one in TOFC_HARNESS_CACHE")
    return name, catalog.load("benchmark", name, catalog.BENCHMARKS)(name, cache=cache)
