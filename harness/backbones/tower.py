"""Vision towers of transformers, run as far as their features are wanted.

    P patches   C colour channels   V features a patch   D dimension

SigLIP and CLIP, of transformers before 5.17 and after.
"""

from typing import Any

import torch


def features(tower: Any, pixels_PCHW: torch.Tensor, layer: int, *, drop_cls: bool = False) -> torch.Tensor:
    """The features x (P, V, D) of one layer, without the class token where ``drop_cls``; differentiable.

    They are transformers' ``hidden_states[layer]``, which is taken before any layer norm at the tower's end. Layers
    behind the one wanted are not run, and no other layer's states are kept.
    """
    body = getattr(tower, "vision_model", tower)
    layers = body.encoder.layers
    hidden_PVD: torch.Tensor = body.embeddings(pixels_PCHW.to(next(body.embeddings.parameters()).dtype))
    if hasattr(body, "pre_layrnorm"):
        hidden_PVD = body.pre_layrnorm(hidden_PVD)
    for block in layers[: layer if layer >= 0 else len(layers) + 1 + layer]:
        out = block(hidden_PVD, attention_mask=None)
        hidden_PVD = out[0] if isinstance(out, tuple) else out
    return hidden_PVD[:, 1:] if drop_cls else hidden_PVD
