"""The steps that every server half has: an image or its features in, tokens, an answer.

P patches (the thumbnail first), V features a patch, C merged features a patch, D feature dimension, T visual tokens,
H width of the language model
"""

from collections.abc import Sequence

import torch
from PIL.Image import Image

from harness.backbones.contract import Backbone, Tiles
from harness.data.sample import Question
from harness.pipelines.contract import Answer, Clock
from harness.tofc.merging import merge


def n_clusters(backbone: Backbone, merge_to: float) -> int:
    """n_c for a share of the backbone's V features a patch: round(share * V), at least 1."""
    return max(1, round(merge_to * backbone.n_features))


def tokens_of_image(backbone: Backbone, image: Image, merge_to: float | None, clock: Clock) -> torch.Tensor:
    """The visual tokens (T, H) of an image that has arrived as pixels."""
    with clock.stage("preprocess"):
        tiles = backbone.preprocess(image)
    with clock.stage("vision_encode"):
        x_PVD = backbone.encode_image(tiles)
    return tokens_of_features(backbone, x_PVD, tiles, merge_to, clock)


def tokens_of_features(
    backbone: Backbone, x_PVD: torch.Tensor, tiles: Tiles, merge_to: float | None, clock: Clock
) -> torch.Tensor:
    """The visual tokens (T, H) of a picture's features.

    They are merged to the share ``merge_to``, or, where that is None, all kept as the backbone arranges them.
    """
    if merge_to is None:
        with clock.stage("project"):
            return backbone.project_all(x_PVD, tiles)
    with clock.stage("merge"):
        y_PCD = merge(x_PVD, n_clusters(backbone, merge_to)).y_PCD
    with clock.stage("project"):
        return backbone.project(y_PCD)


def answers(backbone: Backbone, tokens_TH: torch.Tensor, questions: Sequence[Question], clock: Clock) -> list[Answer]:
    """What the backbone answers to each question, from the same visual tokens."""
    found = []
    for question in questions:
        with clock.stage("prefill"):
            prefilled = backbone.prefill(tokens_TH, question)
        with clock.stage("generate"):
            text = backbone.generate(prefilled)
        found.append(Answer(text, tokens_TH.shape[0]))
    return found
