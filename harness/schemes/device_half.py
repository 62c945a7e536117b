"""The steps of every device half that sends features: a picture in, its features out, fewer or all.

P patches (the thumbnail first), V features a patch, C features a patch that are kept, D feature dimension
"""

import torch
from PIL.Image import Image

from harness.models.contract import Backbone, Tiles
from harness.schemes.contract import Clock
from harness.schemes.server_half import n_clusters
from harness.tofc.reducer import Reducer


def features_of_image(
    backbone: Backbone, image: Image, reducer: Reducer, keep: float | None, clock: Clock
) -> tuple[torch.Tensor, Tiles]:
    """The features (P, C, D) of a picture, reduced to the share ``keep``, or (P, V, D) where that is None."""
    with clock.stage("preprocess"):
        tiles = backbone.preprocess(image)
    with clock.stage("vision_encode"):
        if keep is not None and reducer.attended:
            x_PVD, attention = backbone.encode_attended(tiles)
        else:
            x_PVD, attention = backbone.encode_image(tiles), None
    if keep is None:
        return x_PVD, tiles
    with clock.stage("merge"):
        return reducer(x_PVD, n_clusters(backbone, keep), attention), tiles
