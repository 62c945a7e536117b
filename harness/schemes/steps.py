"""The steps that halves share: a picture or its features in, visual tokens, answers.

P patches (the thumbnail first)   V features a patch   C features a patch that are kept   D feature dimension
T visual tokens   H width of the language model
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL.Image import Image

from harness.data.sample import Question
from harness.models.contract import Answer, Clock, Features, LanguageSide, Request, VisionSide
from harness.schemes.contract import NEIGHBOURS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.tofc.reducer import Reducer


def n_clusters(n_features: int, merge_to: float) -> int:
    """n_c for a share of the V features of a patch: round(share * V), at least 1."""
    return max(1, round(merge_to * n_features))


def reduced(vision: VisionSide, image: Image, reducer: "Reducer", merge_to: float, clock: Clock) -> Features:
    """The features of a picture, reduced to the share ``merge_to`` of a patch's."""
    seen = vision.see(image, clock, attended=reducer.attended)
    with clock.stage("merge"):
        y_PCD = reducer(seen.x_PVD, n_clusters(seen.x_PVD.shape[1], merge_to), seen.attention)
    return Features(y_PCD, seen.layout)


def tokens_of_image(
    vision: VisionSide,
    language: LanguageSide,
    image: Image,
    merge_to: float | None,
    clock: Clock,
    neighbours: int = NEIGHBOURS,
) -> "Tensor":
    """The visual tokens (T, H) of a picture.

    Its features are merged to the share ``merge_to``, by density over ``neighbours``, or, where that is None, all kept
    as the model arranges them.
    """
    if merge_to is None:
        seen = vision.see(image, clock)
        with clock.stage("project"):
            return language.project_all(seen.x_PVD, seen.layout)
    from harness.tofc.reducer import Merging

    merged = reduced(vision, image, Merging(neighbours), merge_to, clock)
    with clock.stage("project"):
        return language.project(merged.x_PVD)


def answers(
    language: LanguageSide, pictures: "Sequence[Tensor]", questions: Sequence[Question], clock: Clock
) -> list[Answer]:
    """What the model answers to each question about the same pictures, given the visual tokens (T, H) of each."""
    return language.answer([Request(pictures, question) for question in questions], [clock] * len(questions))
