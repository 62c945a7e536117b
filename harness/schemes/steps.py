"""The steps that halves share: a picture or its features in, visual tokens, answers.

P patches   V features a patch   C features a patch that are kept   D feature dimension
T visual tokens   H width of the language model
"""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from harness.data.sample import Question
from harness.errors import SchemeError, shown
from harness.models.contract import Answer, Clock, Features, LanguageSide, Request, Untimed, VisionSide
from harness.schemes.contract import MergingPoint, Payload, ReducedPoint
from harness.schemes.envelope import refuse_answer

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
    """The model's answer to each question about the same pictures, from the visual tokens (T, H) of each.

    Raises SchemeError for other tokens.
    """
    if questions:
        refuse_tokens(pictures, questions[0].pictures, language, clock)
    return asked(language, [Request(pictures, question) for question in questions], clock)


def asked(language: LanguageSide, requests: Sequence[Request], clock: Clock) -> list[Answer]:
    """What a language side answers to each request; raises SchemeError for anything but an answer to each."""
    # A language side may enter the stages of all requests at once, and one clock's do not overlap.
    clocks = [type(clock)() if place and isinstance(clock, Untimed) else clock for place in range(len(requests))]
    found = language.answer(requests, clocks)
    of = f"the language side ({type(language).__name__} of {getattr(language, 'name', 'a model without a name')})"
    if not isinstance(found, list | tuple):
        raise SchemeError(f"{of} returned {shown(found)}; a list with one answer for each request is expected")
    if len(found) != len(requests):
        raise SchemeError(f"{of} returned {len(found)} answers; one for each request is expected, here {len(requests)}")
    for one in found:
        refuse_answer(one)
    return list(found)


def refuse_tokens(pictures: object, n_pictures: int, language: LanguageSide, clock: Clock) -> None:
    """Raises SchemeError for what is not the visual tokens (T, H) of each picture, as a language side takes them.

    The values are looked at only where nothing is timed: an accelerator would have to finish what comes before.
    """
    if not isinstance(pictures, list | tuple):
        raise SchemeError(
            f"the visual tokens are of type {type(pictures).__name__}; a list is expected, with a tensor (T, H) for "
            "each picture"
        )
    if len(pictures) != n_pictures:
        raise SchemeError(
            f"there are visual tokens of {len(pictures)} pictures, and the payload's number is {n_pictures}"
        )
    torch, width = sys.modules.get("torch"), getattr(language, "token_dim", None)
    is_on_torch = torch is not None and isinstance(getattr(language, "device", None), torch.device)
    for number, tokens in enumerate(pictures, 1):
        of = "the visual tokens" if n_pictures == 1 else f"the visual tokens of picture {number}"
        shape = getattr(tokens, "shape", None)
        if shape is None or (is_on_torch and not isinstance(tokens, torch.Tensor)):  # type: ignore[union-attr]
            raise SchemeError(f"{of} are of type {type(tokens).__name__}; a tensor (T, H) is expected")
        if len(shape) != 2 or 0 in shape or (width is not None and shape[1] != width):
            wanted = "" if width is None else f" and H = {width}"
            raise SchemeError(f"{of} have shape {tuple(shape)}; (T, H) with T from 1 on{wanted} is expected")
        if is_on_torch and not tokens.is_floating_point():
            raise SchemeError(f"{of} are {tokens.dtype}; floating-point numbers are expected")
        # NaN is its array's least and greatest value.
        if isinstance(clock, Untimed) and not all(math.isfinite(end) for end in (tokens.min(), tokens.max())):
            raise SchemeError(f"{of} hold values that are infinite or no numbers (NaN)")


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
        """What the language side is asked; raises as :meth:`tokens`, and SchemeError for what are no tokens."""
        if not hasattr(language := getattr(self, "language", None), "answer"):
            raise SchemeError(
                f"the attribute 'language' of {type(self).__name__} is {shown(language)}; the language side is "
                "expected, as models.language() returns it"
            )
        pictures = self.tokens(payload, clock)
        refuse_tokens(pictures, len(payload.bodies), self.language, clock)
        return [Request(pictures, question) for question in questions]

    def __call__(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """The answers to questions about the same pictures; raises as :meth:`tokens`."""
        requests = self.requests(payload, questions, clock)
        return asked(self.language, requests, clock)
