"""The steps that halves share: a picture or its features in, visual tokens, answers.

P patches   V features a patch   C features a patch that are kept   D feature dimension
T visual tokens   H width of the language model
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from harness.data.sample import Question
from harness.models.contract import Answer, Clock, Features, LanguageSide, Request, VisionSide
from harness.schemes.contract import MergingPoint, Payload, ReducedPoint

if TYPE_CHECKING:
    from torch import Tensor

    from harness.tofc.merging import Reducer


def reduced(vision: VisionSide, image: Image, reducer: "Reducer", point: ReducedPoint, clock: Clock) -> Features:
    """The features of a picture, reduced to those that the point keeps of each patch."""
    seen = vision.see(image, clock, attended=reducer.attended)
    n_features = seen.x_PVD.shape[1]
    with clock.stage("merge"):
        y_PCD = reducer(seen.x_PVD, point.kept_of(n_features) or n_features, seen.attention)
    return Features(y_PCD, seen.layout)


def merged(vision: VisionSide, image: Image, point: MergingPoint, clock: Clock) -> tuple[Features, bool]:
    """The features of a picture, merged by density where the point asks for that, and whether they are."""
    if point.merge_to is None and point.n_c is None:
        return vision.see(image, clock), False
    from harness.tofc.merging import Merging

    return reduced(vision, image, Merging(point.neighbours), point, clock), True


def tokens_of_image(
    vision: VisionSide, language: LanguageSide, image: Image, point: MergingPoint, clock: Clock
) -> "Tensor":
    """The visual tokens (T, H) of a picture, merged as the point asks, or all as the model arranges them."""
    features, is_merged = merged(vision, image, point, clock)
    with clock.stage("project"):
        if is_merged:
            return language.project(features.x_PVD)
        return language.project_all(features.x_PVD, features.layout)


def answers(
    language: LanguageSide, pictures: "Sequence[Tensor]", questions: Sequence[Question], clock: Clock
) -> list[Answer]:
    """The model's answer to each question about the same pictures, from the visual tokens (T, H) of each."""
    return language.answer([Request(pictures, question) for question in questions], [clock] * len(questions))


class TokenServer(ABC):
    """A server half that makes visual tokens of a payload, and has its language side answer: it does no more.

    If only answers are needed, the harness has all points with one language side answered together. So a subclass
    cannot replace how they are asked for: it raises TypeError, because what is timed would not be what is scored.
    """

    language: LanguageSide

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("requests", "__call__"):
            if getattr(cls, name) is not getattr(TokenServer, name):
                raise TypeError(f"{cls.__name__} replaces {name} of a TokenServer; derive from ServerHalf instead")

    @abstractmethod
    def tokens(self, payload: Payload, clock: Clock) -> "list[Tensor]":
        """The visual tokens (T, H) of each picture; raises BitstreamError for a payload of another device half."""

    def requests(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Request]:
        """What the language side is asked; raises as :meth:`tokens`."""
        pictures = self.tokens(payload, clock)
        return [Request(pictures, question) for question in questions]

    def __call__(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """The answers to questions about the same pictures; raises as :meth:`tokens`."""
        return self.language.answer(self.requests(payload, questions, clock), [clock] * len(questions))
