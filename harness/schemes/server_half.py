"""The steps that every server half has: an image or its features in, tokens, an answer.

P patches (the thumbnail first), V features a patch, C merged features a patch, D feature dimension, T visual tokens,
H width of the language model
"""

from collections.abc import Sequence

import torch
from PIL.Image import Image

from harness.data.sample import Question
from harness.errors import BitstreamError
from harness.models.contract import Backbone, Tiles
from harness.schemes.contract import Answer, Clock
from harness.tofc.merging import merge

FROM_PIXELS = ("preprocess", "vision_encode", "merge", "project", "prefill", "generate")
"""The stages of :func:`tokens_of_image` with merging, and of :func:`answers`."""


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


def answers(
    backbone: Backbone, tokens: torch.Tensor | Sequence[torch.Tensor], questions: Sequence[Question], clock: Clock
) -> list[Answer]:
    """What the backbone answers to each question, from the same visual tokens: (T, H) of each picture, or of the only.

    Raises BitstreamError where a question shows a picture that was not sent.
    """
    tokens = [tokens] if isinstance(tokens, torch.Tensor) else tokens
    found = []
    for question in questions:
        named = question.pictures_named()
        if max(named, default=0) > len(tokens):
            raise BitstreamError(f"the question shows picture {max(named)}, and the payload holds {len(tokens)}")
        once = [k for k in range(1, len(tokens) + 1) if k not in named]
        with clock.stage("prefill"):
            prefilled = backbone.prefill(tokens, question)
        with clock.stage("generate"):
            text = backbone.generate(prefilled)
        found.append(Answer(text, sum(tokens[k - 1].shape[0] for k in (*once, *named))))
    return found
