"""The contract between a scheme and the harness.

A scheme is two halves that share nothing but bytes: the device half turns a sample's image into a payload, the server
half turns the payload and a question into an answer. Each half times its own stages with the clock that it is handed.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from harness.data.sample import Question, Sample
from harness.models.contract import Backbone
from harness.records import Side
from harness.scenario.fields import Frozen

MergeTo = Annotated[float, Field(gt=0, le=1)]
"""The share of a patch's visual features that merging keeps: n_c = round(share * V). The paper uses 0.011 to 0.044."""


class OperatingPoint(Frozen):
    """An operating point: the parameters with which a scheme trades bytes for quality.

    A scheme subclasses this with its own fields and ranges.
    """

    @property
    def label(self) -> str:
        """The point's name in rows and figures: its parameters, those without a default first; ``-`` if it has none."""
        fields = sorted(type(self).model_fields.items(), key=lambda item: not item[1].is_required())
        given = {name: getattr(self, name) for name, _ in fields}
        return ",".join(f"{name}={value}" for name, value in given.items() if value is not None) or "-"


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """What crosses the link for one image: ``kind`` says who can read it, ``body`` is every byte that is sent."""

    kind: str
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The text that the model generated, and the number of visual tokens that its prompt held."""

    text: str
    visual_tokens: int


class Clock(Protocol):
    """Times the stages of one half; synchronises the accelerator on both edges of a stage."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Times what its body does."""
        ...


class Pipeline(Protocol):
    """One scheme at one operating point; made of a backbone and a :class:`OperatingPoint`."""

    Point: ClassVar[type[OperatingPoint]]
    device_stages: ClassVar[tuple[str, ...]]
    server_stages: ClassVar[tuple[str, ...]]

    @property
    def backbone(self) -> Backbone:
        """The model that answers."""
        ...

    def on_device(self, sample: Sample, clock: Clock) -> Payload | Answer:
        """The device half: all that happens before the first byte is sent.

        A scheme that sends nothing returns the answer itself, to this sample's question; its payload is 0 bytes long.
        """
        ...

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """The server half, for one or several questions about the same image.

        A timed request asks one question; when only the answers are wanted, all the questions about an image share one
        payload. Raises BitstreamError for a payload that the device half did not make.
        """
        ...


def stage_sides(pipeline: type[Pipeline]) -> dict[str, Side]:
    """The stages of a scheme in the order in which they happen, each with its side."""
    return {**dict.fromkeys(pipeline.device_stages, "device"), **dict.fromkeys(pipeline.server_stages, "server")}
