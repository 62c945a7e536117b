"""A file of claims: what is claimed, where, and which number of which run tests it.

Frozen and strict, as a scenario is: a file with a mistake is refused before anything is computed.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from harness.errors import unknown_name
from harness.scenario.explain import mistakes, sentences
from harness.scenario.fields import BackboneName, BenchmarkName, Frozen, Line, SchemeName, Slug, repeated
from harness.scenario.source import CLAIMS, read

PAPER = Path(__file__).with_name("paper.yaml")
"""The claims of the paper."""

Kind = Literal["x", "%", "s", "nats", "count"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClaimMetric:
    """A metric: its unit and its value when there is no effect.

    ``over`` says whether it compares a scheme with another (``must``, ``may``) or not (``no``). Only one of single
    ``points`` takes ``at`` and ``over_at``. A ``timed`` one rests on times; an ``absolute`` one means nothing on a
    stand-in; a ``counted`` one needs no run, only the published architecture.
    """

    what: str
    unit: Kind = "x"
    neutral: float = 1.0
    over: Literal["must", "may", "no"] = "must"
    points: bool = False
    timed: bool = False
    absolute: bool = False
    counted: bool = False


METRICS: Mapping[str, ClaimMetric] = {
    "bytes_ratio": ClaimMetric(what="bytes over the other's at equal score, at scores that both reach"),
    "bytes_change": ClaimMetric(what="bytes_ratio less 1", unit="%", neutral=0.0),
    "mean_bytes_ratio": ClaimMetric(
        what="bytes over the other's at equal score, averaged over scores (BD-rate plus 1)"
    ),
    "mean_bytes_change": ClaimMetric(what="mean_bytes_ratio less 1: BD-rate", unit="%", neutral=0.0),
    "latency_ratio": ClaimMetric(what="T over the other's at equal score, at each uplink", timed=True, points=True),
    "latency_change": ClaimMetric(what="latency_ratio less 1", unit="%", neutral=0.0, timed=True, points=True),
    "rate_gain": ClaimMetric(
        what="the ratio of device and server times over the ratio of bytes: below 1 where a higher rate lowers the "
        "ratio of the two latencies",
        timed=True,
        points=True,
    ),
    "server_time_ratio": ClaimMetric(what="T_server over the other's", timed=True, points=True),
    "latency_s": ClaimMetric(
        what="T at each uplink", unit="s", neutral=0.0, over="no", timed=True, absolute=True, points=True
    ),
    "link_share": ClaimMetric(
        what="T_link over T at each uplink", unit="%", neutral=0.0, over="no", timed=True, absolute=True, points=True
    ),
    "score_share": ClaimMetric(
        what="score over the other's, or over the reference's", unit="%", over="may", points=True
    ),
    "neighbours_share": ClaimMetric(
        what="score over that with K = 5 neighbours, for each other K", unit="%", over="no"
    ),
    "operations_ratio": ClaimMetric(
        what="floating-point operations of a side or of some of its stages, over the other's", points=True
    ),
    "memory_ratio": ClaimMetric(what="peak memory of a side less its weights, over the other's", points=True),
    "visual_share": ClaimMetric(
        what="visual tokens among those of the prompt", unit="%", neutral=0.0, over="no", points=True
    ),
    "likelihood_lead": ClaimMetric(
        what="mean log-likelihood of a Laplacian less the best of Gaussian and Cauchy",
        unit="nats",
        neutral=0.0,
        over="no",
    ),
    "z_share": ClaimMetric(
        what="z's share of the stream, of illustrated pictures or the codec's held-out ones",
        unit="%",
        neutral=0.0,
        over="no",
    ),
    "experts_share": ClaimMetric(
        what="the share of the entropy models' indices in the stream, on the same", unit="%", neutral=0.0, over="no"
    ),
    "experts_used": ClaimMetric(
        what="the share of the entropy models that code at least one feature, on the same",
        unit="%",
        neutral=0.0,
        over="no",
    ),
    "features_share": ClaimMetric(
        what="n_c over V of the architecture", unit="%", neutral=0.0, over="no", counted=True, points=True
    ),
    "trainable_parameters": ClaimMetric(
        what="LoRA, projector and codec of the architecture", unit="count", neutral=0.0, over="no", counted=True
    ),
}
"""The numbers that a claim can be tested by."""


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(unknown_name("metric", name, METRICS))
    return name


def _listed(value: Any) -> Any:
    """A single name is read as a list of one."""
    return [value] if isinstance(value, str) else value


Number = Annotated[float, Field(allow_inf_nan=False)]
Parameter = Number | str | None
MetricName = Annotated[str, AfterValidator(_known_metric)]
Schemes = Annotated[tuple[SchemeName, ...], BeforeValidator(_listed), Field(strict=False)]
Benchmarks = Annotated[tuple[BenchmarkName, ...], BeforeValidator(_listed), Field(strict=False)]
Ends = Annotated[tuple[Number, Number], Field(strict=False)]
Where = Literal["each", "some", "least", "most", "lowest_rate", "highest_rate"]


class Criterion(Frozen):
    """One number, and what is claimed of it: exactly one of ``value``, ``between``, ``inside``, ``below``, ``above``.

    ``of`` and ``over`` are schemes. ``at`` and ``over_at`` pick operating points by their parameters; without them it
    is the point that is selected at equal score. ``score_share`` takes ``at`` for both where there is no ``over_at``.
    ``value`` may be off by ``give``, as far as the claim is rounded. ``between`` is a range that a number has over
    scores or rates; ``inside`` claims that a number is within a range. ``where`` says which of several numbers is
    meant: ``some``, that the value lies among them. Shares and changes are fractions: -0.36 is 36 % less. ``study`` is
    another than the claim's, ``versus`` one by whose number this one is divided. A test that does not ``decide`` is
    only shown.
    """

    metric: MetricName
    of: SchemeName | None = None
    over: Schemes = ()
    at: dict[str, Parameter] = Field(default_factory=dict)
    over_at: dict[str, Parameter] = Field(default_factory=dict)
    side: Literal["device", "server"] | None = None
    stages: tuple[Line, ...] = Field(default=(), strict=False)
    study: Slug | None = None
    versus: Slug | None = None
    where: Where = "each"
    value: Number | None = None
    give: Annotated[Number, Field(ge=0)] = 0.0
    between: Ends | None = None
    inside: Ends | None = None
    below: Number | None = None
    above: Number | None = None
    decides: bool = True

    @property
    def about(self) -> ClaimMetric:
        """The metric."""
        return METRICS[self.metric]

    @property
    def relation(self) -> str:
        """Which of the five is given."""
        return next(name for name in _RELATIONS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_relation(self) -> Self:
        given = [name for name in _RELATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"gives {' and '.join(given) or 'nothing'}; one of {', '.join(_RELATIONS)} is expected")
        for name in ("between", "inside"):
            if (ends := getattr(self, name)) is not None and not ends[0] < ends[1]:
                raise ValueError(f"{name}: {list(ends)} is not a range; its first number must be below its second")
        if self.where == "some" and self.value is None:
            raise ValueError("where: 'some' needs a 'value', which one of several numbers must have")
        if "give" in self.model_fields_set and self.value is None:
            raise ValueError("give: can be used only with a value")
        return self

    @model_validator(mode="after")
    def _schemes_are_the_metrics(self) -> Self:
        about = self.about
        if self.of is None and not about.counted:
            raise ValueError(f"of: is missing; {self.metric} needs a scheme")
        if about.over == "must" and not self.over:
            raise ValueError(f"over: is missing; {self.metric} compares a scheme with another one")
        if about.over == "no" and self.over:
            raise ValueError(f"over: leave {', '.join(self.over)} out; {self.metric} is of only one scheme")
        if (self.metric in ("operations_ratio", "memory_ratio")) != (self.side is not None):
            raise ValueError(f"side: only operations_ratio and memory_ratio take it, and need it; not {self.metric}")
        for name in ("at", "over_at"):
            if getattr(self, name) and not about.points:
                raise ValueError(f"{name}: leave it out; {self.metric} is not of a single point")
        if self.over_at and not self.over:
            raise ValueError("over_at: leave it out; there is no 'over:' whose point it would pick")
        if self.stages and self.side is None:
            raise ValueError(f"stages: leave them out; {self.metric} is not of single stages")
        if self.metric == "features_share" and not isinstance(self.at.get("n_c"), float | int):
            raise ValueError("at: features_share needs a number of features, such as at: {n_c: 16}")
        if self.versus is not None and about.neutral == 0 and self.metric != "visual_share":
            raise ValueError(f"versus: makes a quotient of ratios; {self.metric} is not a ratio")
        return self


_RELATIONS = ("value", "between", "inside", "below", "above")


class ClaimStudy(Frozen):
    """What was run: all of these benchmarks together, on a backbone; the bundled ``scenario`` repeats it."""

    benchmarks: Benchmarks = Field(min_length=1)
    backbone: BackboneName
    scenario: Slug | None = None

    def __str__(self) -> str:
        return f"{', '.join(self.benchmarks)} with {self.backbone}"


class Claim(Frozen):
    """One sentence: ``where`` it stands, what it ``says`` in other words, and how it is tested.

    A claim that no row can show has no tests, and ``missing`` says what would test it. ``note`` is shown beside.
    """

    id: Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)]
    where: Line
    says: Line
    study: Slug | None = None
    tests: tuple[Criterion, ...] = Field(default=(), strict=False)
    missing: Line = ""
    note: Line = ""

    @model_validator(mode="after")
    def _tested_or_not(self) -> Self:
        if bool(self.missing) == bool(self.tests):
            raise ValueError(
                "either 'tests:' or 'missing:' is expected: how it is tested, or what is missing to test it"
            )
        if self.tests and not any(test.decides for test in self.tests):
            raise ValueError("tests: none has 'decides: true'; at least one must decide the claim")
        if (
            place := next((i for i, test in enumerate(self.tests) if not test.study and not self.study), None)
        ) is not None:
            raise ValueError(f"tests.{place}.study: is missing, here and in the claim")
        return self


class Machines(Frozen):
    """Substrings of the names of the machines of claimed times; times of any other machine are a stand-in's."""

    device: Line = ""
    server: Line = ""


class Claims(Frozen):
    """A file of claims."""

    title: Line
    machines: Machines = Machines()
    studies: dict[Slug, ClaimStudy] = Field(min_length=1)
    claims: tuple[Claim, ...] = Field(min_length=1, max_length=1000, strict=False)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if (twice := repeated(claim.id for claim in self.claims)) is not None:
            raise ValueError(f"claims: two have the id {twice!r}; an id names one claim")
        for claim in self.claims:
            named = [claim.study, *(name for test in claim.tests for name in (test.study, test.versus))]
            if unknown := next((name for name in named if name is not None and name not in self.studies), None):
                raise ValueError(f"claims: claim {claim.id}: {unknown_name('study', unknown, self.studies)}")
        return self

    def study_of(self, claim: Claim, test: Criterion) -> ClaimStudy:
        """What the run of a test ran."""
        return self.studies[str(test.study or claim.study)]


def load(path: Path = PAPER) -> Claims:
    """The claims in a YAML file.

    Raises ScenarioError with a sentence for every mistake: the file, the line, the claim's id, the key and the value.
    """
    document = read(path, CLAIMS)
    listed = document.mapping.get("claims")

    def said(key_path: tuple[Any, ...], sentence: str) -> tuple[tuple[Any, ...], str]:
        match key_path:
            case ("claims", int(place), *_) if isinstance(listed, list) and place < len(listed):
                claim = listed[place]
                name = claim.get("id") if isinstance(claim, dict) else None
                return key_path, sentence if name is None else f"{sentence} (claim {name})"
        return key_path, sentence

    try:
        found = Claims.model_validate(document.mapping)
    except ValidationError as error:
        raise mistakes(path, document, (said(*one) for one in sentences(error))) from None
    if document.mistakes:
        raise mistakes(path, document, iter(()))
    return found


def distance_from_no_effect(test: Criterion) -> float:
    """The smallest distance of the claim from no effect: a wider interval shows nothing."""
    ends = (test.value,) if test.value is not None else test.between or ()
    return min((abs(end - test.about.neutral) for end in ends if end is not None), default=math.inf)


def direction(test: Criterion) -> Criterion | None:
    """The side of no effect that a claim of a scheme against another is on, as far as a stand-in can show it.

    None for a claim that is only a direction, and for one of another kind. Of bytes it is at single scores, not on
    average: a direction can be shown there by one side of an interval.
    """
    neutral = test.about.neutral
    claimed = test.between or [end for end in (test.value, test.below, test.above) if end is not None]
    if test.about.over != "must" or not claimed or test.inside or any(end == neutral for end in claimed):
        return None
    side = "below" if max(claimed) < neutral else "above" if min(claimed) > neutral else None
    if side is None:
        return None
    plain = dict.fromkeys(("value", "between", "below", "above"))
    where = test.where if test.where.endswith("rate") else "each"
    metric = {"mean_bytes_change": "bytes_change", "mean_bytes_ratio": "bytes_ratio"}.get(test.metric, test.metric)
    return test.model_copy(update={**plain, "metric": metric, "give": 0.0, "where": where, side: neutral})
