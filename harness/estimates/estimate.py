"""Estimated times: the work of stages under the rooflines of a device and a server, each with its error beside it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence

from harness import catalog
from harness.errors import ScenarioError
from harness.estimates.roofline import Count, Roofline, roof
from harness.estimates.sheets import Published, Sheets, sheets
from harness.records import Side


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """A part of a stage, of one kind; a stage that has several takes the sum of their times."""

    side: Side
    stage: str
    kind: str
    count: Count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """One stage: its estimated time and the ends of its interval, NaN where no error can be stated.

    ``bound`` is what limits it, ``how`` where its efficiency comes from; of a stage of several kinds, of all of them.
    """

    side: Side
    stage: str
    operations: float
    n_bytes: float
    seconds: float
    low_s: float
    high_s: float
    bound: str
    how: str


class Estimator:
    """Estimates for a device and a server with data sheets; raises ScenarioError for machines without."""

    def __init__(self, device: str, server: str) -> None:
        self.sheets = sheets()
        self.machines = {"device": device, "server": server}
        for name in self.machines.values():
            self.sheets.machine(name)
        self.roofline = roofline()

    def stages(self, works: Iterable[Work]) -> list[Estimated]:
        """The stages of some work in their order, each side's and stage's parts together."""
        of_stage: dict[tuple[Side, str], list[Work]] = {}
        for work in works:
            of_stage.setdefault((work.side, work.stage), []).append(work)
        return [self._stage(side, stage, parts) for (side, stage), parts in of_stage.items()]

    def _stage(self, side: Side, stage: str, parts: Sequence[Work]) -> Estimated:
        seconds = low_s = high_s = 0.0
        bounds, hows = [], []
        for part in parts:
            found = self.roofline.efficiency(self.machines[side], part.kind)
            if found is None:
                raise ScenarioError(
                    f"{part.kind} on {self.machines[side]}: no published time leads to an efficiency of this kind"
                )
            at_roof_s, bound = roof(self.sheets.machine(self.machines[side]), self.sheets, part.kind, part.count)
            middle_s = at_roof_s / found.value
            seconds += middle_s
            low_s += middle_s / found.factor
            high_s += middle_s * found.factor
            bounds.append(bound)
            hows.append(found.how)
        total = sum((part.count for part in parts), Count())
        return Estimated(
            side=side,
            stage=stage,
            operations=total.operations,
            n_bytes=total.n_bytes,
            seconds=seconds,
            low_s=low_s,
            high_s=high_s,
            bound=", ".join(dict.fromkeys(bounds)),
            how=", ".join(dict.fromkeys(hows)),
        )


def total(stages: Iterable[Estimated], link_s: float = 0.0) -> tuple[float, float, float, bool]:
    """The sum of stages and a link time with its ends, errors taken as fully correlated; and whether all have one.

    A stage without a stated error adds its middle to both ends.
    """
    seconds = low_s = high_s = link_s
    complete = True
    for stage in stages:
        known = math.isfinite(stage.low_s)
        complete &= known
        seconds += stage.seconds
        low_s += stage.low_s if known else stage.seconds
        high_s += stage.high_s if known else stage.seconds
    return seconds, low_s, high_s, complete


@functools.cache
def roofline() -> Roofline:
    """The efficiencies of the package's own data; counts the published models again."""
    data = sheets()
    roofs = {row.name: roof(data.machine(row.machine), data, row.kind, work_of_row(row, data))[0] for row in data.rows}
    return Roofline(data, roofs)


def work_of_row(row: Published, data: Sheets) -> Count:
    """The work of a published time."""
    if row.elements:
        return Count(row.elements)
    # Counting imports torch; names are checked before, without it.
    if row.codec:
        width, _, height = row.size.partition("x")
        of_codec: Callable[..., tuple[Count, Count]] = catalog.target(catalog.CODEC_WORK)
        encode, decode = of_codec(row.codec, int(width), int(height), row.channels)
        return encode if row.side == "device" else decode
    from harness.estimates import backbone

    return backbone.published_model(data.models[row.model], row.tokens, kind=row.kind, weight_bits=row.weight_bits)
