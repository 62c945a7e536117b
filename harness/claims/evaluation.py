"""A test applied to a run: the pipelines, points and uplinks that it is about."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from harness.analysis import Analysis
from harness.analysis.means import Estimate
from harness.claims.model import Criterion, Parameter
from harness.records import PointKey
from harness.scenario.replay import ConstantUplink
from harness.units import format_percent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A test, the run that it is applied to, and the joint level of its intervals."""

    run: Analysis
    test: Criterion
    alpha: float

    def confidence(self, n: int) -> float:
        """The confidence at which each of n intervals is computed."""
        confidence = 1 - self.alpha / max(n, 1)
        return self.run.confidence_of_times(confidence) if self.test.about.timed else confidence

    @property
    def pipelines(self) -> dict[str, str]:
        """The run's pipeline of each scheme: of several, the one with the scheme's name, or the first."""
        return pipelines_of(self.run)


def pipelines_of(run: Analysis) -> dict[str, str]:
    """The pipeline of each scheme of a run."""
    found: dict[str, str] = {}
    for spec in run.manifest.scenario.get("pipelines", ()):
        if spec["scheme"] not in found or spec["name"] == spec["scheme"]:
            found[spec["scheme"]] = spec["name"]
    return found or {name: name for name in run.manifest.points}


def both_points(evaluation: Evaluation, other: str) -> tuple[PointKey, PointKey] | str:
    """The points of the scheme and of another that are to be compared, or a phrase that says why there are none."""
    mine = point_of(evaluation, str(evaluation.test.of), evaluation.test.at)
    theirs = point_of(evaluation, other, evaluation.test.over_at)
    if isinstance(mine, str):
        return mine
    return theirs if isinstance(theirs, str) else (mine, theirs)


def point_of(
    evaluation: Evaluation, scheme: str, at: Mapping[str, Parameter], *, timed: bool = True, first: bool = False
) -> PointKey | str:
    """The point of a scheme with parameters ``at``, that of most bytes among several; else the selected one.

    If there is none, a phrase that says why. ``first`` takes the first point where none is selected.
    """
    run, pipeline = evaluation.run, evaluation.pipelines[scheme]
    points = run.points[run.points["pipeline"] == pipeline]
    parameters = run.manifest.points[pipeline]
    if at:
        mine = points[[has(parameters.get(label, {}), at) for label in points["point"]]]
        mine = mine.nlargest(1, "payload_bytes")
        wanted = ", ".join(f"{name}={value}" for name, value in at.items())
        why = f"{pipeline} has no point with {wanted}"
    else:
        mine = points[points["selected"]]
        certified = format_percent(run.equality.certified)
        why = f"{pipeline} has no point that is certified to reach {certified} of the reference"
        if mine.empty and first:
            mine = points[points["point"] == next(iter(parameters))]
    if mine.empty:
        return why
    key = (pipeline, str(mine["point"].iloc[0]))
    return key if not timed or key in run.timed_points else f"{pipeline} at {key[1]} was not timed"


def has(own: Mapping[str, Any], wanted: Mapping[str, Parameter]) -> bool:
    """Whether a point's parameters are the wanted ones, numbers to 2 %."""
    return all(
        own.get(name) is None
        if value is None
        else math.isclose(float(own[name]), float(value), rel_tol=0.02)
        if isinstance(value, float | int) and isinstance(own.get(name), float | int)
        else str(own.get(name)) == str(value)
        for name, value in wanted.items()
    )


def uplinks_of(run: Analysis) -> list[ConstantUplink]:
    """The uplinks of one rate at which the requests of one user do not meet, rates upwards."""
    alone = [
        uplink
        for uplink in run.setting.system.uplinks
        if isinstance(uplink, ConstantUplink) and run.setting.alone({"channel": uplink.label, "users": 1})
    ]
    return sorted(alone, key=lambda uplink: uplink.rate_bps) if 1 in run.setting.system.users else []


def scaled(estimate: Estimate, by: float) -> Estimate:
    """An estimate in another unit."""
    return dataclasses.replace(estimate, value=estimate.value * by, low=estimate.low * by, high=estimate.high * by)


def exact(value: float) -> Estimate:
    """A number that was counted."""
    return Estimate(value, value, value)


def refused(reason: str) -> Estimate:
    """A number that is not available."""
    return Estimate(math.nan, math.nan, math.nan, reason)
