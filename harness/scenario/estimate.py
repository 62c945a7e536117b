"""The ``estimate:`` section of a scenario: other hardware, a nominal request, payloads from other sources.

A scenario with it is run without weights, pictures or the hardware: every stage is estimated (``docs/metrics.md``),
every payload is reported or derived, and no score is claimed.
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.errors import unknown_name
from harness.scenario.fields import Frozen, Line, SizeBytes, Slug

SidePx = Annotated[int, Field(ge=1, le=100_000)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class RequestPicture(Frozen):
    """The picture of the request: its sides, and the size of its file."""

    width_px: SidePx = Field(alias="width")
    height_px: SidePx = Field(alias="height")
    file_bytes: SizeBytes = Field(alias="file")


class PayloadFrom(Frozen):
    """What a pipeline sends: a ``size``, or a number of ``times`` the size ``of`` another; ``says`` is the source."""

    size_bytes: SizeBytes | None = Field(default=None, alias="size")
    times: float | None = Field(default=None, gt=0, allow_inf_nan=False, strict=False)
    of: Slug | None = None
    says: Line = Field(min_length=1)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if (self.size_bytes is None) == (self.times is None) or (self.times is None) != (self.of is None):
            raise ValueError("a payload is given as a 'size', or as 'times' a number 'of' another pipeline's")
        return self


class ClaimedTime(Frozen):
    """A published claim: the seconds of a pipeline, or of one ``over`` another's, from ``low`` to ``high``."""

    of: Slug
    over: Slug | None = None
    low: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=False)
    high: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=False)
    says: Line = Field(min_length=1)

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a claim has a 'low', a 'high' or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high: {self.high:g}")
        return self


class EstimateSection(Frozen):
    """Machines by their names in ``harness estimate --machines``, the request, what is sent, what is claimed."""

    device: Line
    server: Line
    picture: RequestPicture
    text_tokens: Tokens
    answer_tokens: Tokens
    payloads: dict[Slug, PayloadFrom] = Field(default_factory=dict)
    claims: tuple[ClaimedTime, ...] = Field(default=(), strict=False)

    def check(self, pipelines: Mapping[str, object]) -> None:
        """Raises ValueError for a name that is not a pipeline's, and for payloads defined by each other."""
        for name, payload in self.payloads.items():
            if name not in pipelines:
                raise ValueError(f"payloads: {unknown_name('pipeline', name, pipelines)}")
            if payload.of is not None and (
                payload.of not in self.payloads or self.payloads[payload.of].size_bytes is None
            ):
                raise ValueError(f"payloads.{name}: 'of: {payload.of}' names no payload with a size of its own")
        for claim in self.claims:
            for claimed in (claim.of, claim.over):
                if claimed is not None and claimed not in pipelines:
                    raise ValueError(f"claims: {unknown_name('pipeline', claimed, pipelines)}")

    def payload_bytes(self, pipeline: str) -> int | None:
        """What a pipeline sends, whole bytes; None where it is not given."""
        if (found := self.payloads.get(pipeline)) is None:
            return None
        if found.size_bytes is not None:
            return found.size_bytes
        assert found.times is not None
        assert found.of is not None
        base = self.payloads[found.of].size_bytes
        assert base is not None
        return round(found.times * base)
