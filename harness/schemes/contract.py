"""The contract between a scheme and the harness.

A scheme makes two halves that share nothing but bytes. The device half turns a sample's pictures into a payload, the
server half turns the payload and questions into answers. Each half is made separately, from the parts of the model that
it needs: a vision side, a language side, a smaller model, or nothing. Each times its stages on its own clock. Nothing
here imports torch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Protocol, Self

from pydantic import Field, model_validator

from harness.data.sample import Question, Sample
from harness.errors import ScenarioError
from harness.models.contract import Answer, Clock, Models
from harness.scenario.fields import Frozen

__all__ = [
    "NEIGHBOURS", "Answer", "Clock", "DeviceHalf", "MergeTo", "MergingPoint", "Models", "Neighbours", "OperatingPoint",
    "Payload", "ReducedPoint", "Scheme", "ServerHalf",
]  # fmt: skip

MergeTo = Annotated[float, Field(gt=0, le=1)]
"""The share of a patch's visual features that merging keeps: n_c = round(share * V). The paper uses 0.011 to 0.044."""

NEIGHBOURS = 5
Neighbours = Annotated[int, Field(ge=1, le=64)]
"""K of Eq. 2: the nearest neighbours over which a feature's density is taken. The paper's is 5 (V-A1)."""


class OperatingPoint(Frozen):
    """An operating point: the parameters with which a scheme trades bytes for quality.

    A scheme subclasses this with its own fields and ranges.
    """

    @property
    def label(self) -> str:
        """The point's name in rows and figures: its parameters, required ones first; ``-`` if it has none.

        A parameter at its default is left out, so that a scheme can gain a parameter with a default and every earlier
        point keeps its name.
        """
        fields = sorted(type(self).model_fields.items(), key=lambda item: not item[1].is_required())
        given = {
            name: getattr(self, name)
            for name, field in fields
            if field.is_required() or getattr(self, name) != field.default
        }
        return ",".join(f"{name}={value}" for name, value in given.items()) or "-"


class ReducedPoint(OperatingPoint):
    """A point at which a few features of each patch are kept: the share ``merge_to`` of them, or the number ``n_c``.

    With neither, all are kept, unless a scheme always reduces.
    """

    merge_to: MergeTo | None = None
    n_c: Annotated[int, Field(ge=1, le=2**16)] | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.merge_to is not None and self.n_c is not None:
            raise ValueError(f"merge_to {self.merge_to:g} and n_c {self.n_c} both say how many features are kept")
        return self

    def kept_of(self, n_features: int) -> int | None:
        """n_c for a patch of V features: as it is given, or round(merge_to * V) and at least 1; None for all of them.

        Raises ScenarioError for more features than a patch has.
        """
        if self.merge_to is not None:
            return max(1, round(self.merge_to * n_features))
        if self.n_c is not None and self.n_c > n_features:
            raise ScenarioError(f"n_c is {self.n_c}, and a patch of this backbone has {n_features} features")
        return self.n_c


class MergingPoint(ReducedPoint):
    """A point whose features are merged by density: ``neighbours`` is K of Eq. 2."""

    neighbours: Neighbours = NEIGHBOURS

    @model_validator(mode="after")
    def _neighbours_of_something(self) -> Self:
        if self.merge_to is None and self.n_c is None and self.neighbours != NEIGHBOURS:
            raise ValueError("neighbours needs a merge_to or an n_c: it is a parameter of merging")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """What crosses the link: the body of each picture, in order, and the ``kind`` that says who can read them.

    ``checked`` says that every body carries a checksum of its own; see :mod:`harness.schemes.envelope`.
    """

    kind: str
    bodies: tuple[bytes, ...]
    checked: bool = False


class DeviceHalf(Protocol):
    """All that happens before the first byte is sent."""

    def __call__(self, sample: Sample, clock: Clock) -> Payload | Answer:
        """The payload of a sample's pictures.

        A scheme that sends nothing returns the answer itself, to this sample's question; its payload is 0 bytes long.
        """
        ...


class ServerHalf(Protocol):
    """All that happens after the last byte has arrived."""

    def __call__(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """The answers to one or several questions about the same pictures.

        A timed request asks one question; if only the answers are needed, all the questions about a picture share one
        payload. Raises BitstreamError for a payload that the device half did not make.
        """
        ...


class Scheme(Protocol):
    """A way to split inference; the catalog names the class itself, and its methods are class methods.

    Its module imports no torch: a scenario is checked, and a finished run replayed, where there is none. ``kind`` names
    its payloads. A scheme whose points name files besides the model has a class method ``files(backbone, point)`` that
    gives their paths, by names for people; one that needs further models has ``other_models(backbone, point)``, which
    gives their weights by name. ``stands_in_for(point)`` names what a point's weights are a small stand-in for, or is
    None; ``is_codec_only(backbone, point)`` says whether the codec was trained without the backbone;
    ``trained_n_c(backbone, point)`` gives the n_c that its weights were trained for: none where they depend on no n_c,
    None where these are not known. A run labels its numbers with each of the three. All five are called before
    anything is computed.
    """

    kind: ClassVar[str]
    Point: ClassVar[type[OperatingPoint]]

    @classmethod
    def device_half(cls, models: Models, point: OperatingPoint) -> DeviceHalf:
        """The device half at an operating point; raises CheckpointError or UnavailableError where it cannot be made."""
        ...

    @classmethod
    def server_half(cls, models: Models, point: OperatingPoint) -> ServerHalf:
        """The server half at an operating point; raises as :meth:`device_half`."""
        ...
